//! A scanner: opens an association to the box and stores what it has scanned.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Context as _;
use dimse::scu::{Association, Instance as Stored, Proposal, ScuConfig, ScuError};
use dimse::{Answer, Status, VERIFICATION};
use study::{AeTitle, SopClassUid, TransferSyntaxUid};
use tokio::runtime::{Builder, Runtime};

use crate::phantom::Instance;

const IMPLICIT_LITTLE: &str = "1.2.840.10008.1.2";

/// A fake scanner.
#[derive(Debug)]
pub struct Modality {
    address: SocketAddr,
    config: ScuConfig,
    runtime: Runtime,
}

/// What became of a list of instances.
#[derive(Debug)]
pub struct Sending {
    /// The answers to the first instances, in their order.
    pub answers: Vec<Answer>,
    /// What ended the association before all were answered.
    pub broken: Option<ScuError>,
}

impl Sending {
    /// How many instances were acknowledged with success.
    pub fn acknowledged(&self) -> usize {
        self.answers
            .iter()
            .filter(|answer| answer.status.is_success())
            .count()
    }

    /// An error unless every one of `count` instances was acknowledged.
    pub fn complete(self, count: usize) -> anyhow::Result<()> {
        if let Some(error) = self.broken {
            return Err(error).context("the association broke");
        }
        let refused = self
            .answers
            .iter()
            .find(|answer| !answer.status.is_success());
        anyhow::ensure!(refused.is_none(), "an instance was refused: {refused:?}");
        anyhow::ensure!(
            self.answers.len() == count,
            "{} of {count} answered",
            self.answers.len()
        );
        Ok(())
    }
}

impl Modality {
    /// A scanner with the title `CT01` that knows the box as `CHASQUI`.
    pub fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let config = ScuConfig::new(AeTitle::parse("CT01")?, AeTitle::parse("CHASQUI")?);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self {
            address,
            config,
            runtime,
        })
    }

    /// Sends a C-ECHO.
    pub fn echo(&self) -> anyhow::Result<Status> {
        let proposal = Proposal {
            sop_class: SopClassUid::parse(VERIFICATION)?,
            transfer_syntaxes: vec![TransferSyntaxUid::parse(IMPLICIT_LITTLE)?],
        };
        self.runtime.block_on(async {
            let mut association =
                Association::open(self.address, self.config.clone(), &[proposal]).await?;
            let status = association.echo().await?;
            association.release().await?;
            Ok(status)
        })
    }

    /// Stores instances one after the other in one association. A refusal doesn't end it.
    pub fn send(&self, instances: &[Instance]) -> Sending {
        self.send_watched(instances, |_, _| {})
    }

    /// The same; `watch` sees each instance and its answer as it comes.
    pub fn send_watched(
        &self,
        instances: &[Instance],
        mut watch: impl FnMut(&Instance, &Answer),
    ) -> Sending {
        let mut answers = Vec::new();
        let sent = self.runtime.block_on(async {
            let proposals = proposals(instances);
            let mut association =
                Association::open(self.address, self.config.clone(), &proposals).await?;
            for instance in instances {
                let stored = Stored {
                    sop_class: &instance.sop_class,
                    sop: &instance.sop,
                    transfer_syntax: &instance.transfer_syntax,
                    data_set: instance.data_set(),
                };
                let answer = association.store(stored).await?;
                watch(instance, &answer);
                answers.push(answer);
            }
            association.release().await
        });
        Sending {
            answers,
            broken: sent.err(),
        }
    }
}

/// One presentation context for each pair of class and transfer syntax, so that the peer can't
/// choose another syntax than the one the data set is in.
fn proposals(instances: &[Instance]) -> Vec<Proposal> {
    let pairs: BTreeSet<_> = instances
        .iter()
        .map(|i| (i.sop_class.clone(), i.transfer_syntax.clone()))
        .collect();
    let propose = |(sop_class, syntax)| Proposal {
        sop_class,
        transfer_syntaxes: vec![syntax],
    };
    pairs.into_iter().map(propose).collect()
}

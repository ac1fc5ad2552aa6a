//! World: a whole small fleet in one folder, every program a process of its own.
//!
//! In: the binary, a link profile, a consent policy. Out: a provisioned fleet with a hub, a link
//! and an enrolled box that run, and the questions a test asks them.
//! Invariant: the box reaches the hub through the link only; nothing runs when the world is gone.
//! May not: know what the programs keep in their folders; it asks them.

use std::ffi::OsString;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use study::{SopInstanceUid, StudyUid};
use tempfile::TempDir;

use crate::modality::Modality;
use crate::phantom::Instance;
use crate::process::{Finished, Programs, Role, Running};
use crate::relay::{Profile, RelayConfig, RelayProcess};
use crate::wait::until;

/// Encrypts the radiologist's key of a world. A world lasts as long as its test.
const PASSPHRASE: &str = "a passphrase for a test";

/// The site's consent policy (product.md C2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Nothing leaves before a person has recorded consent.
    Ask,
    /// Everything leaves on emergency basis.
    Emergency,
}

/// What a world is built from.
#[derive(Debug, Clone)]
pub struct WorldConfig {
    /// The link between box and hub.
    pub profile: Profile,
    /// Fixes what the link loses.
    pub seed: u64,
    /// The site's policy.
    pub consent: Consent,
    /// Further settings of the box, as in `AGENT__INTAKE__QUIET_PERIOD`.
    pub agent_env: Vec<(String, String)>,
    /// The box's configuration file; none: it has none.
    pub agent_file: Option<String>,
    /// Further settings of the hub.
    pub hub_env: Vec<(String, String)>,
    /// Where the hub is when the caller brings the link itself; none: behind a relay.
    pub hub_at: Option<SocketAddr>,
}

impl WorldConfig {
    /// This link, emergency policy, a quiet period short enough for a test.
    pub fn on(profile: Profile) -> Self {
        let quiet = ("AGENT__INTAKE__QUIET_PERIOD".to_owned(), "1s".to_owned());
        Self {
            profile,
            seed: 1,
            consent: Consent::Emergency,
            agent_env: vec![quiet],
            agent_file: None,
            hub_env: Vec::new(),
            hub_at: None,
        }
    }
}

/// A running fleet of one hub, one link, one box and one radiologist.
#[derive(Debug)]
pub struct World {
    // Processes come first: they end before their folders go.
    agent: Option<Running>,
    hub: Option<Running>,
    relay: RelayProcess,
    programs: Programs,
    config: WorldConfig,
    link: SocketAddr,
    folder: TempDir,
}

impl World {
    /// Provisions, starts hub and relay, enrols the box and starts it.
    pub fn start(programs: Programs, config: WorldConfig) -> anyhow::Result<Self> {
        let mut world = Self::without_unit(programs, config)?;
        let voucher = world.voucher()?;
        world.enrol(&voucher)?.success()?;
        world.start_agent()?;
        Ok(world)
    }

    /// The same without a box: for tests of enrolment.
    pub fn without_unit(programs: Programs, config: WorldConfig) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("chasqui-").tempdir()?;
        let link = config.hub_at.map_or_else(free_udp_port, Ok)?;
        let relay_config = RelayConfig::to(link, config.profile, config.seed);
        let relay_log = folder.path().join("relay.log");
        let relay = RelayProcess::start(&programs, relay_config, &relay_log)?;
        let mut world = Self {
            agent: None,
            hub: None,
            relay,
            programs,
            config,
            link,
            folder,
        };
        world.provision_hub()?;
        world.start_hub()?;
        Ok(world)
    }

    /// A path inside the world's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a voucher for one more box of the site, known to the hub.
    pub fn voucher(&self) -> anyhow::Result<PathBuf> {
        let consent = match self.config.consent {
            Consent::Ask => "ask",
            Consent::Emergency => "emergency",
        };
        let voucher = self.path("voucher");
        let args = words(["unit"], [self.path("fleet")]).chain(words(
            ["--site", "north clinic", "--consent", consent, "-o"],
            [voucher.clone()],
        ));
        self.provision(args)?.success()?;
        self.apply_fleet()?;
        Ok(voucher)
    }

    /// Enrols the box through the relay.
    pub fn enrol(&self, voucher: &Path) -> anyhow::Result<Finished> {
        let hub = self.reach().to_string();
        self.agent_command(
            words(["enrol", "--voucher"], [voucher.to_owned()]).chain(words(["--hub", &hub], [])),
        )
    }

    /// Where the box calls.
    fn reach(&self) -> SocketAddr {
        self.config.hub_at.unwrap_or_else(|| self.relay.address())
    }

    /// Gives the hub the fleet document as provisioning left it.
    pub fn apply_fleet(&self) -> anyhow::Result<()> {
        let document = self.path("fleet").join("fleet.cose");
        self.hub_command(words(["fleet", "apply"], [document]))?
            .success()
            .map(drop)
    }

    /// Starts the hub, on the port that the fleet knows.
    pub fn start_hub(&mut self) -> anyhow::Result<()> {
        let mut command = self.programs.command(Role::Hub);
        command.args(["serve", "--link-port", &self.link.port().to_string()]);
        command
            .args(["--web-port", "0", "--dicom-port", "0", "--data"])
            .arg(self.path("hub"));
        command.envs(self.config.hub_env.iter().cloned());
        self.hub = Some(Running::start(command, Role::Hub, &self.path("hub.log"))?);
        Ok(())
    }

    /// Starts the box; its DICOM port is another each time.
    pub fn start_agent(&mut self) -> anyhow::Result<()> {
        let mut command = self.programs.command(Role::Agent);
        command.args(["serve", "--dicom-port", "0", "--console-port", "0"]);
        command
            .args(["--hub", &self.reach().to_string(), "--data"])
            .arg(self.path("agent"));
        command.envs(self.config.agent_env.iter().cloned());
        if let Some(text) = &self.config.agent_file {
            let file = self.path("agent.toml");
            std::fs::write(&file, text)?;
            command.arg("--config").arg(file);
        }
        self.agent = Some(Running::start(
            command,
            Role::Agent,
            &self.path("agent.log"),
        )?);
        Ok(())
    }

    /// Changes the box's configuration file; it reads that when it starts, or when it is told to.
    pub fn write_agent_file(&mut self, text: &str) -> anyhow::Result<()> {
        self.config.agent_file = Some(text.to_owned());
        Ok(std::fs::write(self.path("agent.toml"), text)?)
    }

    /// The box's process; an error while it doesn't run.
    pub fn agent(&mut self) -> anyhow::Result<&mut Running> {
        self.agent.as_mut().context("the box does not run")
    }

    /// The hub's process; an error while it doesn't run.
    pub fn hub(&mut self) -> anyhow::Result<&mut Running> {
        self.hub.as_mut().context("the hub does not run")
    }

    /// Takes the box's process out, to stop or kill it.
    pub fn take_agent(&mut self) -> anyhow::Result<Running> {
        self.agent.take().context("the box does not run")
    }

    /// Takes the hub's process out, to stop or kill it.
    pub fn take_hub(&mut self) -> anyhow::Result<Running> {
        self.hub.take().context("the hub does not run")
    }

    /// The link.
    pub fn relay(&mut self) -> &mut RelayProcess {
        &mut self.relay
    }

    /// A scanner that is set up for the box as it runs.
    pub fn modality(&mut self) -> anyhow::Result<Modality> {
        Modality::new(self.agent()?.address("dicom")?)
    }

    /// Runs a command of the box on its folder.
    pub fn agent_command(
        &self,
        args: impl IntoIterator<Item = OsString>,
    ) -> anyhow::Result<Finished> {
        self.command(Role::Agent, args, "agent")
    }

    /// Runs a command of the hub on its folder.
    pub fn hub_command(
        &self,
        args: impl IntoIterator<Item = OsString>,
    ) -> anyhow::Result<Finished> {
        self.command(Role::Hub, args, "hub")
    }

    /// Runs a command of the fleet authority.
    pub fn provision(&self, args: impl IntoIterator<Item = OsString>) -> anyhow::Result<Finished> {
        let args: Vec<_> = args.into_iter().collect();
        self.programs.run(Role::Provision, &args)
    }

    /// `status --json` of the box.
    pub fn agent_status(&self) -> anyhow::Result<Value> {
        self.agent_command(words(["status", "--json"], []))?.json()
    }

    /// What the box says of a study; `None` when it doesn't know it.
    pub fn study_at_agent(&self, study: &StudyUid) -> anyhow::Result<Option<Value>> {
        Ok(pick(&self.agent_status()?, study))
    }

    /// What the hub says of a study; `None` when it doesn't know it.
    pub fn study_at_hub(&self, study: &StudyUid) -> anyhow::Result<Option<Value>> {
        let list = self
            .hub_command(words(["study", "list", "--json"], []))?
            .json()?;
        Ok(pick(&list, study))
    }

    /// Waits until the box says this of a study, such as `custody` being `at_hub`.
    pub fn wait_at_agent(
        &self,
        study: &StudyUid,
        word: &str,
        value: &str,
        deadline: Duration,
    ) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        let waited = until(deadline, &format!("{word}={value}"), || {
            last = self.study_at_agent(study).ok()??;
            (last[word] == value).then(|| last.clone())
        });
        waited.with_context(|| format!("the box's last word on the study: {last}"))
    }

    /// One instance as the hub gives it.
    pub fn get_from_hub(&self, sop: &SopInstanceUid) -> anyhow::Result<Instance> {
        self.get(Role::Hub, "hub", sop)
    }

    /// One instance as the box gives it.
    pub fn get_from_agent(&self, sop: &SopInstanceUid) -> anyhow::Result<Instance> {
        self.get(Role::Agent, "agent", sop)
    }

    /// An error unless the hub gives every instance with exactly this data set.
    pub fn hub_has_exactly(&self, instances: &[Instance]) -> anyhow::Result<()> {
        instances
            .iter()
            .try_for_each(|sent| same(sent, &self.get_from_hub(&sent.sop)?))
    }

    /// An error unless the box gives every instance with exactly this data set.
    pub fn agent_has_exactly(&self, instances: &[Instance]) -> anyhow::Result<()> {
        instances
            .iter()
            .try_for_each(|sent| same(sent, &self.get_from_agent(&sent.sop)?))
    }

    /// Files a final report at the hub, signed by the world's radiologist.
    pub fn file_report(&self, study: &StudyUid, impression: &str) -> anyhow::Result<Finished> {
        self.file_report_signed(study, impression, &self.path("radiologist.key"))
    }

    /// Files a final report at the hub, signed with another key.
    pub fn file_report_signed(
        &self,
        study: &StudyUid,
        impression: &str,
        key: &Path,
    ) -> anyhow::Result<Finished> {
        let report = serde_json::json!({
            "status": "final",
            "exam": "CT head without contrast",
            "technique": "axial slices",
            "comparison": "none",
            "findings": "as generated",
            "impression": impression,
            "recommendation": "none",
            "critical": 0,
            "language": "en",
        });
        let from = self.path("report.json");
        std::fs::write(&from, report.to_string())?;
        let args = words(["report", "file", study.as_str(), "--from"], [from])
            .chain(words(["--sign"], [key.to_owned()]))
            .chain(words(["--passphrase-file"], [self.passphrase_file()?]));
        self.hub_command(args)
    }

    /// The file with the passphrase of every radiologist's key of this world.
    pub fn passphrase_file(&self) -> anyhow::Result<PathBuf> {
        let file = self.path("passphrase");
        std::fs::write(&file, PASSPHRASE)?;
        Ok(file)
    }

    fn provision_hub(&self) -> anyhow::Result<()> {
        let (fleet, address) = (self.path("fleet"), self.link.to_string());
        self.provision(words(["init"], [fleet.clone()]))?
            .success()?;
        let hub = words(["hub"], [fleet.clone()]).chain(words(
            ["--name", "hub", "--address", &address, "-o"],
            [self.path("hub")],
        ));
        self.provision(hub)?.success()?;
        let person = [
            "--name",
            "A. Reader",
            "--licence",
            "L-1",
            "--valid-until",
            "2099-12-31",
        ];
        let radiologist = words(["radiologist"], [fleet])
            .chain(words(person, []))
            .chain(words(["--new-key"], [self.path("radiologist.key")]))
            .chain(words(["--passphrase-file"], [self.passphrase_file()?]))
            .chain(words(["-o"], [self.path("radiologist.credential")]));
        self.provision(radiologist)?.success()?;
        self.apply_fleet()
    }

    fn command(
        &self,
        role: Role,
        args: impl IntoIterator<Item = OsString>,
        data: &str,
    ) -> anyhow::Result<Finished> {
        let args: Vec<_> = args
            .into_iter()
            .chain(words(["--data"], [self.path(data)]))
            .collect();
        self.programs.run(role, &args)
    }

    fn get(&self, role: Role, data: &str, sop: &SopInstanceUid) -> anyhow::Result<Instance> {
        let output = self.path("got.dcm");
        // What an earlier call left must not pass for an answer.
        let _ = std::fs::remove_file(&output);
        let args = words(["get", sop.as_str(), "-o"], [output.clone()]);
        self.command(role, args, data)?.success()?;
        Instance::parse(std::fs::read(output)?)
    }
}

/// Words and then paths of a command line.
pub fn words<const W: usize, const P: usize>(
    words: [&str; W],
    paths: [PathBuf; P],
) -> impl Iterator<Item = OsString> + use<W, P> {
    words
        .map(OsString::from)
        .into_iter()
        .chain(paths.map(PathBuf::into_os_string))
}

/// An error unless both are the same instance with the same data set.
pub fn same(sent: &Instance, got: &Instance) -> anyhow::Result<()> {
    anyhow::ensure!(
        sent.sop == got.sop,
        "asked for {}, got {}",
        sent.sop,
        got.sop
    );
    anyhow::ensure!(
        sent.sop_class == got.sop_class,
        "{} changed its class",
        sent.sop
    );
    anyhow::ensure!(
        sent.transfer_syntax == got.transfer_syntax,
        "{} was rewritten",
        sent.sop
    );
    anyhow::ensure!(
        sent.data_set() == got.data_set(),
        "{} has other bytes",
        sent.sop
    );
    Ok(())
}

fn pick(document: &Value, study: &StudyUid) -> Option<Value> {
    let studies = document["studies"].as_array()?;
    studies
        .iter()
        .find(|entry| entry["study_instance_uid"] == study.as_str())
        .cloned()
}

/// A port that was free a moment ago, for a hub that must come back on the same one.
fn free_udp_port() -> anyhow::Result<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}

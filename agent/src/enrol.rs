//! Enrolment: the voucher becomes a grant.
//!
//! In: a voucher file; the hub's reply. Out: the box's papers in `membership`.
//! Invariant: the box's key is made here and never leaves; only the hub that the voucher names is
//! called.
//! May not: decide who may join: the hub does.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use identity::{EnrolReply, NodeId, StorePublicKey, files};
use sync_quic::{HubAddress, LinkProfile, Roads, RoadsConfig};
use thiserror::Error;

use crate::cli::{self, EnrolArgs};
use crate::commands::{self, Failure, say};
use crate::keys::{Keys, VaultState};
use crate::membership::{Membership, MembershipError};
use crate::pin;

/// How long `enrol` waits for the hub before it leaves the rest to `serve`.
const HUB_WAIT: Duration = Duration::from_secs(10);
/// How long the goodbye to the hub may take. It leaves at once; that the hub has heard it shows only
/// after several round trips, and nothing depends on that.
const FAREWELL: Duration = Duration::from_millis(250);
const VOUCHER_BYTES_MAX: u64 = 64 << 10;

/// Says why the voucher was not redeemed.
#[derive(Debug, Error)]
pub(crate) enum RedeemError {
    /// The hub's address does not resolve.
    #[error("the hub's address {0} cannot be resolved")]
    Address(String, #[source] std::io::Error),
    /// The call or the exchange failed.
    #[error(transparent)]
    Exchange(#[from] sync_quic::EnrolError),
    /// The hub said no.
    #[error("the hub refuses to enrol this box: {0}")]
    Refused(String),
    /// The reply cannot be read.
    #[error("the hub's reply cannot be read")]
    Reply(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Our own papers.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

/// `enrol`
pub(crate) fn command(args: &EnrolArgs) -> Result<(), Failure> {
    if args.hub.as_deref().is_some_and(|hub| !cli::is_address(hub)) {
        return Err(Failure::usage("--hub takes HOST:PORT"));
    }
    let voucher =
        files::read(&args.voucher, VOUCHER_BYTES_MAX).context("cannot read the voucher")?;
    files::create_private_directory(&args.data).context("cannot make the box's folder")?;
    let _lock = commands::take_lock(&args.data)
        .context("cannot work in the folder; a box that runs must be stopped to be enrolled")?;
    let membership =
        Membership::open_or_found(&args.data).context("cannot open the box's folder")?;
    let keys = Keys::open_or_found(&args.data, membership.granted_store_key())
        .context("cannot open the box's folder")?;
    membership
        .take_voucher(&voucher)
        .context("cannot take the voucher")?;
    if let Some(file) = &args.pin_file {
        // Before the first patient: what was never on the disk in clear needs no wiping.
        set_first_pin(&keys, file)?;
    }
    if !membership.is_enrolled() && !args.offline {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::internal)?;
        let redeemed = runtime.block_on(async {
            let roads = Roads::bind(&RoadsConfig::default(), &membership.key())
                .context("cannot open a UDP socket")?;
            let store = keys.public_key();
            let attempt = redeem(&membership, &store, &roads, args.hub.as_deref());
            let outcome = tokio::time::timeout(HUB_WAIT, attempt).await;
            farewell(&roads).await;
            match outcome {
                Ok(Err(error @ (RedeemError::Refused(_) | RedeemError::Membership(_)))) => {
                    Err(anyhow::Error::new(error))
                }
                Ok(Err(error)) => {
                    eprintln!("the hub was not reached: {:#}", anyhow::Error::new(error));
                    Ok(())
                }
                Ok(Ok(())) | Err(_) => Ok(()),
            }
        });
        redeemed.context("cannot enrol")?;
    }
    say(if membership.is_enrolled() {
        "enrolled\n"
    } else {
        "request_pending\n"
    })
}

/// Sets the PIN of a new box; one that has this PIN already is fine.
fn set_first_pin(keys: &Keys, file: &Path) -> Result<(), Failure> {
    let pin = pin::read(file)?;
    let set = match keys.state() {
        VaultState::OpenNoPin => keys.set_pin(None, &pin),
        VaultState::Locked | VaultState::Unlocked | VaultState::Zeroised => keys.unlock(&pin),
    };
    Ok(set.context("cannot set the PIN")?)
}

/// Calls the hub that the voucher names and redeems the voucher.
pub(crate) async fn redeem(
    membership: &Membership,
    store: &StorePublicKey,
    roads: &Roads,
    hub: Option<&str>,
) -> Result<(), RedeemError> {
    let promised = membership.hub().ok_or(MembershipError::NoVoucher)?;
    let address = hub.unwrap_or(promised.address.as_str());
    let hub = resolve(address, promised.key).await?;
    let request = membership.enrol_request(store)?;
    let reply = roads.enrol(hub, &LinkProfile::default(), &request).await?;
    match EnrolReply::from_cbor(&reply).map_err(|e| RedeemError::Reply(e.into()))? {
        EnrolReply::Granted(grant) => Ok(membership.take_grant(&grant, store)?),
        EnrolReply::Refused(reason) => Err(RedeemError::Refused(reason)),
    }
}

/// Closes what is open, without waiting long for the hub to hear of it.
pub(crate) async fn farewell(roads: &Roads) {
    if tokio::time::timeout(FAREWELL, roads.close()).await.is_err() {
        tracing::debug!("the hub may not have heard the goodbye");
    }
}

/// Finds the hub with this key at `HOST:PORT`.
pub(crate) async fn resolve(address: &str, key: NodeId) -> Result<HubAddress, RedeemError> {
    let failed = |source| RedeemError::Address(address.to_owned(), source);
    let mut found = tokio::net::lookup_host(address).await.map_err(failed)?;
    let address = found
        .next()
        .ok_or_else(|| failed(std::io::Error::other("the name has no address")))?;
    Ok(HubAddress { address, key })
}

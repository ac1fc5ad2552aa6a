//! Contact: the road to the hub, whenever there is one.
//!
//! In: what goes next, from `outbox`; the hub's key and address, from `membership`. Out: progress,
//! receipts, reports and fleet documents for the rooms that keep them; the state of the link.
//! Invariant: nothing is said to a peer that has not proved the hub's key; calling again never
//! gives up.
//! May not: decide what is sent, or take a byte for safe because it was sent.

mod apart;
mod moves;
mod returns;
mod shelf;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use identity::NodeId;
use journal::{ClockQuality, Head, JournalId};
use study::Digest;
use sync_proto::{ByeCode, Command, Config, Event, RefusalCode, Session};
use sync_quic::{
    Backoff, Control, End, HubAddress, Link, LinkProfile, Local, Roads, RoadsConfig, TlsPorts,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::config::{LinkConfig, ProfileName};
use crate::enrol::{self, RedeemError};
use crate::membership::Membership;
use crate::outbox::Outbox;
use crate::status::LinkStatus;
use crate::vault::{Vault, VaultError};
pub(crate) use apart::note as note_divergence;
pub(crate) use shelf::BoxShelf;

/// The wait before the second call; it doubles from there.
const REDIAL_DELAY_MIN: Duration = Duration::from_millis(500);
/// The wait after a refusal: asking again costs airtime, and it takes a person to change the answer.
const REFUSED_DELAY: Duration = Duration::from_secs(600);
/// How often the view of the link is brought up to date.
const VIEW_INTERVAL: Duration = Duration::from_secs(1);
/// What goes into one data frame: half a second of a 256 kbit/s link, which is how long an urgent
/// study waits for the frame before it.
const DATA_BYTES: u32 = 16 << 10;
/// Commands that the session may be behind.
const COMMANDS_WAITING_MAX: usize = 256;
/// How long what the hub could not take waits before it is offered again.
const PUT_OFF: Duration = Duration::from_secs(60);

/// What keeps in contact with the hub.
pub(crate) struct Contact {
    vault: Vault,
    membership: Arc<Membership>,
    status: Arc<LinkStatus>,
    config: LinkConfig,
    outbox: Outbox,
}

/// How one attempt to be in contact ended.
enum Attempt {
    /// There was a contact; it ended for this reason.
    Ended(End),
    /// There was a contact, and this link is better than the one it had.
    Moved(HubAddress, Link),
    /// There was none, for this reason.
    Failed(String),
    /// The hub does not want this box, for this reason.
    Unwanted(String),
    /// There is nobody to call before a voucher comes.
    NoVoucher,
}

impl Contact {
    pub(crate) fn new(
        vault: Vault,
        membership: Arc<Membership>,
        status: Arc<LinkStatus>,
        config: LinkConfig,
    ) -> Result<Self, VaultError> {
        let outbox = Outbox::new(vault.clone())?;
        Ok(Self {
            vault,
            membership,
            status,
            config,
            outbox,
        })
    }

    /// Calls the hub, again and again, until it is told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let roads = Roads::bind(&roads_config(&self.config), &self.membership.key())?;
        let mut backoff = Backoff::new(REDIAL_DELAY_MIN, self.config.redial_delay_max.duration());
        let mut papers = self.membership.watch();
        let mut moved = None;
        while !stop.is_cancelled() {
            papers.mark_unchanged();
            let wait = match self.attempt(&roads, moved.take(), &stop).await {
                Attempt::Moved(hub, link) => {
                    moved = Some((hub, link));
                    continue;
                }
                Attempt::Ended(End::Refused(reason)) | Attempt::Unwanted(reason) => {
                    tracing::warn!(reason, "the hub refuses this box");
                    self.note_trouble(format!("the hub refuses this box: {reason}"));
                    REFUSED_DELAY
                }
                Attempt::Ended(end) => {
                    tracing::info!(%end, "contact down");
                    self.note_trouble(end.to_string());
                    if !repeats(&end) {
                        backoff.reset();
                    }
                    backoff.wait(clock::count_ms())
                }
                Attempt::Failed(reason) => {
                    tracing::warn!(reason, "no contact");
                    self.note_trouble(reason);
                    backoff.wait(clock::count_ms())
                }
                Attempt::NoVoucher => {
                    self.note_trouble("this box has no voucher yet".to_owned());
                    Duration::MAX
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => break,
                changed = papers.changed() => if changed.is_err() { break },
            }
        }
        enrol::farewell(&roads).await;
        Ok(())
    }

    fn note_trouble(&self, reason: String) {
        self.status.update(|view| {
            view.connected = false;
            view.road = None;
            view.trouble = Some(reason);
        });
    }

    /// One contact over the link that is there, or over one that is made.
    async fn attempt(
        &mut self,
        roads: &Roads,
        moved: Option<(HubAddress, Link)>,
        stop: &CancellationToken,
    ) -> Attempt {
        let called = match moved {
            Some(moved) => Ok(moved),
            None => tokio::select! {
                called = self.call(roads) => match called.transpose() {
                    Some(called) => called,
                    None => return Attempt::NoVoucher,
                },
                () = stop.cancelled() => return Attempt::Failed("stopping".to_owned()),
            },
        };
        match called {
            Ok((hub, link)) => match self.contact(roads, hub, link, stop).await {
                Ok(attempt) => attempt,
                Err(error) => Attempt::Failed(format!("{error:#}")),
            },
            Err(error) => match error.downcast_ref::<RedeemError>() {
                Some(RedeemError::Refused(reason)) => Attempt::Unwanted(reason.clone()),
                Some(_) | None => Attempt::Failed(format!("{error:#}")),
            },
        }
    }

    /// Calls the hub, after redeeming the voucher where that is still to be done; none while there
    /// is no hub to call.
    async fn call(&self, roads: &Roads) -> anyhow::Result<Option<(HubAddress, Link)>> {
        let Some(hub) = self.membership.hub() else {
            return Ok(None);
        };
        let promised = hub.address.as_str();
        let address = self.config.hub.as_deref().unwrap_or(promised);
        if !self.membership.is_enrolled() {
            let store = self.vault.keys().public_key();
            enrol::redeem(&self.membership, &store, roads, Some(address)).await?;
            tracing::info!("enrolled");
        }
        let hub = enrol::resolve(address, hub.key).await?;
        let link = roads.call(hub, &profile(&self.config)).await?;
        Ok(Some((hub, link)))
    }

    /// One contact, from greeting to end.
    async fn contact(
        &mut self,
        roads: &Roads,
        hub: HubAddress,
        link: Link,
        stop: &CancellationToken,
    ) -> anyhow::Result<Attempt> {
        note_up(&link);
        let (events, mut heard) = mpsc::unbounded_channel();
        let shelf = BoxShelf::new(self.vault.clone(), Arc::clone(&self.membership), events);
        let session = Session::new(session_config(&self.vault, &self.membership, link.peer())?);
        let (commands, orders) = mpsc::channel(COMMANDS_WAITING_MAX);
        let mut told = Told::new(&self.vault)?;
        let mut changed = self.vault.watch();
        self.outbox.begin();
        let mut to_tell = VecDeque::from(self.outbox.commands().await?);
        // What waits when the session begins goes with its first flight.
        while let Ok(permit) = commands.try_reserve() {
            let Some(command) = to_tell.pop_front() else {
                break;
            };
            permit.send(command);
        }
        let running = sync_quic::run(link.clone(), session, Arc::new(shelf), orders);
        let profile = profile(&self.config);
        let better = roads.better(&link, hub, &profile);
        let running = moves::until_better(&link, running, better);
        tokio::pin!(running);
        let mut look = tokio::time::interval(VIEW_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_bytes = 0;
        let mut progress = BTreeMap::new();
        let mut put_off_since = Instant::now();
        let mut stopping = false;
        let (ended, next) = loop {
            tokio::select! {
                ended = &mut running => break ended,
                Some(event) = heard.recv() => self.note(event, &mut progress),
                Ok(permit) = commands.reserve(), if !to_tell.is_empty() => {
                    if let Some(command) = to_tell.pop_front() {
                        permit.send(command);
                    }
                }
                Ok(()) = changed.changed() => {
                    to_tell.extend(told.news(&self.vault)?);
                    to_tell.extend(self.outbox.commands().await?);
                }
                _ = look.tick() => {
                    self.look(&link, &mut heard_bytes);
                    self.keep_progress(&mut progress).await?;
                    if put_off_since.elapsed() > PUT_OFF {
                        put_off_since = Instant::now();
                        if self.outbox.take_up() {
                            to_tell.extend(self.outbox.commands().await?);
                        }
                    }
                }
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    let text = "the box is stopping".to_owned();
                    to_tell.push_back(Command::Close { code: ByeCode::Done, text });
                }
            }
        };
        while let Ok(event) = heard.try_recv() {
            self.note(event, &mut progress);
        }
        self.look(&link, &mut heard_bytes);
        self.keep_progress(&mut progress).await?;
        self.outbox.ended(ended.unfinished);
        Ok(match next {
            Some(next) => Attempt::Moved(hub, next),
            None => Attempt::Ended(ended.why),
        })
    }

    fn note(&mut self, event: Event, progress: &mut BTreeMap<Digest, u64>) {
        match event {
            Event::Greeted {
                software,
                fleet_version,
                ..
            } => {
                tracing::info!(software, fleet_version, "the hub has greeted");
            }
            Event::Progress {
                manifest,
                held_bytes,
                ..
            } => {
                progress.insert(manifest, held_bytes);
            }
            Event::Delivered { manifest } => {
                progress.insert(manifest, u64::MAX);
                self.outbox.settled(&manifest);
            }
            Event::TakenBack { manifest } => self.outbox.put_off(&manifest),
            Event::Refused {
                manifest,
                code,
                text,
            } => {
                tracing::warn!(%manifest, ?code, text, "the hub does not take a revision");
                match code {
                    RefusalCode::NoRoom | RefusalCode::Trouble => self.outbox.put_off(&manifest),
                    RefusalCode::NotWanted | RefusalCode::NotSupported => {
                        self.outbox.settled(&manifest);
                    }
                }
            }
            Event::ChunkDamaged { manifest, chunk } => {
                tracing::error!(%manifest, chunk, "the hub found a chunk damaged");
            }
            Event::Diverged {
                journal,
                ours,
                theirs,
                kind,
            } => apart::note(&self.vault, journal, (ours, theirs), kind),
            Event::FleetNotTaken { .. } => {
                tracing::warn!("the hub did not take our fleet document");
            }
            Event::Bye { code, text } => tracing::debug!(?code, text, "the hub says goodbye"),
            Event::Received { .. }
            | Event::ClassChanged { .. }
            | Event::Withdrawn { .. }
            | Event::RecordsHeld { .. }
            | Event::FleetHeld { .. } => {}
        }
    }

    /// Brings the view of the link up to date; the hub counts as heard when something came of it.
    fn look(&self, link: &Link, heard_bytes: &mut u64) {
        let traffic = link.traffic();
        let heard = traffic.bytes_received > *heard_bytes;
        *heard_bytes = traffic.bytes_received;
        self.status.update(|view| {
            view.connected = true;
            view.road = Some(link.road());
            view.trouble = None;
            if heard {
                view.last_contact_ms = Some(clock::wall_ms());
            }
            view.rate_kbits = traffic.rate_kbits;
            view.rtt_ms = traffic.rtt_ms;
            view.bytes_sent = traffic.bytes_sent;
            view.bytes_received = traffic.bytes_received;
        });
    }

    async fn keep_progress(&self, progress: &mut BTreeMap<Digest, u64>) -> Result<(), VaultError> {
        if progress.is_empty() {
            return Ok(());
        }
        let noted = std::mem::take(progress).into_iter().collect();
        match self.vault.note_progress(noted).await {
            // A full box goes on sending; what it does not note the hub says again.
            Err(VaultError::NoRoom(_)) => Ok(()),
            noted => noted,
        }
    }
}

/// What a session with the hub must know from its first moment.
pub(crate) fn session_config(
    vault: &Vault,
    membership: &Membership,
    hub: NodeId,
) -> Result<Config, VaultError> {
    let unit = vault.unit();
    let own = JournalId::own(unit);
    let hubs = JournalId {
        author: hub,
        stream: unit,
    };
    Ok(Config {
        me: unit,
        peer: hub,
        software: concat!("chasqui-agent ", env!("CARGO_PKG_VERSION")).to_owned(),
        wall_ms: clock::wall_ms(),
        clock: ClockQuality::Unknown,
        fleet_version: membership.fleet().map_or(0, |fleet| fleet.version()),
        journals: vec![(own, vault.head(&own)?), (hubs, vault.head(&hubs)?)],
        data_bytes: DATA_BYTES,
    })
}

/// Whether a contact that ended so is likely to end so again: it is not called for at once.
fn repeats(end: &End) -> bool {
    match end {
        // Only another machine with this box's key takes its place: each would wake the other.
        End::Replaced
        | End::Refused(_)
        | End::Blamed(_)
        | End::PeerFault(_)
        | End::Trouble(_)
        | End::PeerTrouble(_) => true,
        End::Done | End::PeerStopped | End::TimedOut | End::Closed | End::Broken(_) => false,
    }
}

/// What the session has been told of our own journal.
struct Told {
    journal: JournalId,
    head: Head,
}

impl Told {
    fn new(vault: &Vault) -> Result<Self, VaultError> {
        let journal = JournalId::own(vault.unit());
        Ok(Self {
            journal,
            head: vault.head(&journal)?,
        })
    }

    /// What there is to tell, if the journal has grown.
    fn news(&mut self, vault: &Vault) -> Result<Option<Command>, VaultError> {
        let head = vault.head(&self.journal)?;
        if head == self.head {
            return Ok(None);
        }
        self.head = head;
        Ok(Some(Command::Records {
            journal: self.journal,
            head,
        }))
    }
}

fn note_up(link: &Link) {
    let (hub, address) = (link.peer().short(), link.remote_address());
    tracing::info!(hub, %address, road = link.road().as_str(), "contact up");
}

fn roads_config(config: &LinkConfig) -> RoadsConfig {
    RoadsConfig {
        local: Local::Any,
        tls_ports: match config.tls_port {
            None => TlsPorts::Usual,
            Some(0) => TlsPorts::Closed,
            Some(port) => TlsPorts::One(port),
        },
        udp_retry: config.udp_retry.duration(),
    }
}

fn profile(config: &LinkConfig) -> LinkProfile {
    let (control, rtt_expected_ms) = match config.profile {
        ProfileName::Satellite => (Control::LossTolerant, 700),
        ProfileName::Terrestrial => (Control::LossTolerant, 100),
        ProfileName::Shared => (Control::Shared, 100),
    };
    LinkProfile {
        control,
        rtt_expected: Duration::from_millis(rtt_expected_ms),
        rate_kbits_max: (config.rate_kbit > 0).then_some(config.rate_kbit),
        ..LinkProfile::default()
    }
}

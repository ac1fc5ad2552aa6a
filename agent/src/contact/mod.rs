//! Contact: the road to the hub, whenever there is one.
//!
//! In: what goes next, from `outbox`; the hub's key and address, from `membership`. Out: progress,
//! receipts, reports and fleet documents for the rooms that keep them; the state of the link. Which
//! uplink is used, and for what, is said by `uplink`.
//! Invariant: nothing is said to a peer that has not proved the hub's key; calling again never
//! gives up.
//! May not: decide what is sent, or take a byte for safe because it was sent.

mod apart;
mod caller;
mod line;
mod returns;
mod shelf;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use identity::NodeId;
use journal::{ClockQuality, Head, JournalId};
use study::Digest;
use sync_proto::{Command, Config, Event, RefusalCode, Session};
use sync_quic::{End, Link};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::config::LinkConfig;
use crate::enrol::RedeemError;
use crate::membership::Membership;
use crate::outbox::Outbox;
use crate::status::LinkStatus;
use crate::uplink::{Ended, LOOK_INTERVAL, Step, Still, Uplinks, Way};
use crate::vault::{Vault, VaultError};
pub(crate) use apart::note as note_divergence;
use caller::{Answered, Caller, Unanswered};
use line::Line;
pub(crate) use shelf::BoxShelf;

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
/// How long a goodbye may take; then the contact is closed without one.
const HANG_UP: Duration = Duration::from_secs(3);
/// How long the end of a handshake may take to be seen, once the hub has acted on it.
const HANDSHAKE_END: Duration = Duration::from_secs(1);

/// What keeps in contact with the hub.
pub(crate) struct Contact {
    vault: Vault,
    membership: Arc<Membership>,
    status: Arc<LinkStatus>,
    uplinks: Uplinks,
    caller: Caller,
    outbox: Outbox,
}

/// How a contact ended.
struct Over {
    why: End,
    /// For its uplink; none: it goes on there, by the other road.
    how: Option<Ended>,
    /// Where it goes on.
    next: Option<Answered>,
}

/// Whom to call next, and when.
enum Next {
    /// To be asked at once.
    Ask,
    /// To be asked after so long, or when something has changed.
    In(Duration),
    /// The hub does not want this box: it takes a person to change that.
    Refused,
}

impl Contact {
    pub(crate) fn new(
        vault: Vault,
        membership: Arc<Membership>,
        status: Arc<LinkStatus>,
        uplinks: Uplinks,
        config: LinkConfig,
    ) -> Result<Self, VaultError> {
        let outbox = Outbox::new(vault.clone())?;
        let caller = Caller::new(&vault, Arc::clone(&membership), config);
        Ok(Self {
            vault,
            membership,
            status,
            uplinks,
            caller,
            outbox,
        })
    }

    /// Calls the hub, again and again, until it is told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut papers = self.membership.watch();
        let mut changed = self.vault.watch();
        let mut ordered = self.uplinks.watch();
        while !stop.is_cancelled() {
            papers.mark_unchanged();
            changed.mark_unchanged();
            ordered.mark_unchanged();
            let (wait, is_refused) = match self.step(&stop).await? {
                Next::Ask => continue,
                Next::In(wait) => (wait, false),
                Next::Refused => (REFUSED_DELAY, true),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => break,
                changed = papers.changed() => if changed.is_err() { break },
                _ = changed.changed(), if !is_refused => {}
                _ = ordered.changed(), if !is_refused => {}
            }
        }
        self.caller.farewell().await;
        Ok(())
    }

    /// One call and what comes of it, or none.
    async fn step(&mut self, stop: &CancellationToken) -> anyhow::Result<Next> {
        if self.membership.hub().is_none() {
            self.note_trouble("this box has no voucher yet".to_owned(), Still::NoVoucher);
            return Ok(Next::In(Duration::MAX));
        }
        let way = match self.uplinks.decide(self.outbox.work()?).await? {
            Step::Call(way) => way,
            Step::Hold(still, wait) => {
                self.status.update(|view| {
                    view.note_down();
                    view.why = Some(still);
                });
                return Ok(Next::In(wait));
            }
            // There is no contact to stay in.
            Step::Stay(_) | Step::Move(..) => return Ok(Next::Ask),
        };
        self.status.update(|view| view.why = Some(Still::Calling));
        let mut calling = self.caller.call(way);
        let mut answered = tokio::select! {
            answered = calling.answer() => match answered {
                Ok(answered) => Some(answered),
                Err(Unanswered { way, why }) => return self.unanswered(&way, why).await,
            },
            () = stop.cancelled() => return Ok(Next::Ask),
        };
        let mut is_up = false;
        while let Some(line) = answered.take() {
            let uplink = line.way.uplink.name.clone();
            if !is_up {
                self.uplinks.up(&uplink);
            }
            match self.contact(&line, stop).await {
                Ok(Over { why, how, next }) => {
                    is_up = how.is_none();
                    if let Some(how) = how {
                        self.uplinks.down(&uplink, how).await?;
                    }
                    if let End::Refused(reason) = &why {
                        return Ok(self.refused(reason));
                    }
                    answered = next;
                }
                Err(error) => {
                    let lost = Ended::Lost { repeats: true };
                    self.uplinks.down(&uplink, lost).await?;
                    return self.unanswered(&line.way, error).await;
                }
            }
        }
        Ok(Next::Ask)
    }

    async fn unanswered(&mut self, way: &Way, error: anyhow::Error) -> anyhow::Result<Next> {
        let uplink = &way.uplink.name;
        self.uplinks.failed(uplink).await?;
        if let Some(RedeemError::Refused(reason)) = error.downcast_ref() {
            return Ok(self.refused(reason));
        }
        let reason = format!("{error:#}");
        tracing::warn!(uplink, reason, "no contact");
        self.note_trouble(reason, Still::NoAnswer { next_call_ms: None });
        Ok(Next::Ask)
    }

    fn refused(&self, reason: &str) -> Next {
        tracing::warn!(reason, "the hub refuses this box");
        let text = format!("the hub refuses this box: {reason}");
        self.note_trouble(text, Still::HubRefuses);
        Next::Refused
    }

    fn note_trouble(&self, reason: String, why: Still) {
        self.status.update(|view| {
            view.note_down();
            view.trouble = Some(reason);
            view.why = Some(why);
        });
    }

    /// One contact, from greeting to end, and where it goes on.
    async fn contact(
        &mut self,
        answered: &Answered,
        stop: &CancellationToken,
    ) -> anyhow::Result<Over> {
        let link = &answered.link;
        note_up(link, &answered.way);
        let (events, mut heard) = mpsc::unbounded_channel();
        let shelf = BoxShelf::new(self.vault.clone(), Arc::clone(&self.membership), events);
        let session = Session::new(session_config(&self.vault, &self.membership, link.peer())?);
        let (commands, orders) = mpsc::channel(COMMANDS_WAITING_MAX);
        let mut told = Told::new(&self.vault)?;
        let mut changed = self.vault.watch();
        let mut ordered = self.uplinks.watch();
        self.outbox.begin();
        let mut line = Line::new(answered, self.outbox.work()?);
        self.choose(&mut line).await?;
        line.to_tell.extend(self.outbox.commands().await?);
        // What waits when the session begins goes with its first flight.
        while let Ok(permit) = commands.try_reserve() {
            let Some(command) = line.to_tell.pop_front() else {
                break;
            };
            permit.send(command);
        }
        let running = sync_quic::run(link.clone(), session, Arc::new(shelf), orders);
        let better = answered.better();
        tokio::pin!(running, better);
        let mut look = tokio::time::interval(VIEW_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut choose = tokio::time::interval(LOOK_INTERVAL);
        choose.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut progress = BTreeMap::new();
        let ended = loop {
            tokio::select! {
                ended = &mut running => break ended,
                Some(event) = heard.recv() => self.note(event, &mut progress),
                Ok(permit) = commands.reserve(), if !line.to_tell.is_empty() => {
                    if let Some(command) = line.to_tell.pop_front() {
                        permit.send(command);
                    }
                }
                Ok(()) = changed.changed() => {
                    line.work = self.outbox.work()?;
                    line.to_tell.extend(told.news(&self.vault)?);
                    line.to_tell.extend(self.outbox.commands().await?);
                }
                _ = choose.tick() => self.choose(&mut line).await?,
                Ok(()) = ordered.changed() => self.choose(&mut line).await?,
                called = line.calling.answer() => self.answered(&mut line, called).await?,
                found = &mut better, if line.may_move() => line.go_on(found),
                _ = look.tick() => self.look_after(&mut line, &mut progress).await?,
                () = stop.cancelled(), if line.closing.is_none() => {
                    line.close("the box is stopping");
                }
            }
        };
        while let Ok(event) = heard.try_recv() {
            self.note(event, &mut progress);
        }
        self.count(&mut line);
        self.look(&mut line);
        self.keep_progress(&mut progress).await?;
        self.outbox.ended(ended.unfinished);
        if ended.why == End::Replaced && line.may_move() {
            self.find_successor(&mut line, better).await?;
        }
        Ok(self.over(line, ended.why))
    }

    /// Another link has taken the place of this one, most likely our own: the hub may be quicker to
    /// leave the one than we are to see the end of a handshake on the other.
    async fn find_successor(
        &self,
        line: &mut Line,
        better: impl Future<Output = Answered>,
    ) -> Result<(), VaultError> {
        let answer = async {
            tokio::select! {
                called = line.calling.answer() => called,
                found = better => Ok(found),
            }
        };
        match tokio::time::timeout(HANDSHAKE_END, answer).await {
            Ok(answer) => self.answered(line, answer).await,
            Err(_) => Ok(()),
        }
    }

    fn over(&self, mut line: Line, why: End) -> Over {
        if matches!(why, End::Refused(_)) {
            // It goes on nowhere.
            line.moved = None;
        }
        let how = line.how(&why);
        if let Some(how @ (Ended::HungUp | Ended::Lost { .. })) = &how {
            tracing::info!(end = %why, uplink = line.uplink, "contact down");
            self.note_end(how, &why);
        }
        Over {
            why,
            how,
            next: line.moved,
        }
    }

    /// What is done once a second in a contact.
    async fn look_after(
        &mut self,
        line: &mut Line,
        progress: &mut BTreeMap<Digest, u64>,
    ) -> Result<(), VaultError> {
        self.look(line);
        self.keep_progress(progress).await?;
        self.uplinks.keep_now_and_then().await?;
        if line.put_off_since.elapsed() > PUT_OFF {
            line.put_off_since = Instant::now();
            if self.outbox.take_up() {
                line.to_tell.extend(self.outbox.commands().await?);
            }
        }
        Ok(())
    }

    fn note_end(&self, how: &Ended, why: &End) {
        self.status.update(|view| {
            view.note_down();
            view.trouble = match how {
                Ended::HungUp => None,
                Ended::Moved | Ended::Lost { .. } => Some(why.to_string()),
            };
        });
    }

    /// Does what the choice of uplinks says.
    async fn choose(&mut self, line: &mut Line) -> Result<(), VaultError> {
        self.count(line);
        if let Some(since) = line.closing {
            if since.elapsed() > HANG_UP {
                line.link.close();
            }
            return Ok(());
        }
        let ceiling = match self.uplinks.decide(line.work).await? {
            Step::Stay(ceiling) => ceiling,
            Step::Move(to, ceiling) => {
                if line.may_move() && !line.calling.is_some() {
                    tracing::info!(uplink = to.uplink.name, "calling over another uplink");
                    line.calling = self.caller.call(to);
                }
                ceiling
            }
            Step::Hold(still, _) => {
                tracing::debug!(?still, "hanging up");
                line.hung_up = true;
                line.close("nothing to say");
                return Ok(());
            }
            Step::Call(_) => return Ok(()),
        };
        if self.outbox.limit(ceiling) {
            line.to_tell.extend(self.outbox.commands().await?);
        }
        Ok(())
    }

    /// A call beside the contact was answered, or not: the contact goes on there, or here.
    async fn answered(
        &self,
        line: &mut Line,
        called: Result<Answered, Unanswered>,
    ) -> Result<(), VaultError> {
        match called {
            Ok(answered) => {
                line.go_on(answered);
                Ok(())
            }
            Err(Unanswered { way, why }) => {
                let (uplink, reason) = (&way.uplink.name, format!("{why:#}"));
                tracing::info!(uplink, reason, "no answer over another uplink");
                self.uplinks.failed(uplink).await
            }
        }
    }

    /// Counts what has crossed since it was last counted.
    fn count(&self, line: &mut Line) {
        let traffic = line.link.traffic();
        let now = caller::meter(&line.link, &traffic);
        let learned = line.link.hint();
        let rate_kbits = learned.map_or(traffic.rate_kbits, |hint| hint.rate_kbits.into());
        let rtt_ms = learned.map_or(traffic.rtt_ms, |hint| millis(hint.rtt));
        self.uplinks.crossed(line.counted, now, rate_kbits, rtt_ms);
        line.counted = now;
    }

    fn note(&mut self, event: Event, progress: &mut BTreeMap<Digest, u64>) {
        match event {
            Event::Greeted {
                software,
                fleet_version,
                wall_ms,
                ..
            } => {
                tracing::info!(software, fleet_version, "the hub has greeted");
                self.uplinks.hub_clock(wall_ms);
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
            Event::TakenBack { manifest } => self.outbox.taken_back(&manifest),
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
    fn look(&self, line: &mut Line) {
        let traffic = line.link.traffic();
        let heard = traffic.bytes_received > line.heard_bytes;
        line.heard_bytes = traffic.bytes_received;
        self.status.update(|view| {
            view.connected = true;
            view.road = Some(line.link.road());
            view.trouble = None;
            view.why = None;
            view.uplink = Some(line.uplink.clone());
            if heard {
                view.last_contact_ms = Some(clock::wall_ms());
            }
            view.rate_kbits = traffic.rate_kbits;
            view.rtt_ms = traffic.rtt_ms;
            view.bytes_sent = traffic.bytes_sent;
            view.bytes_received = traffic.bytes_received;
            view.bytes_lost = traffic.bytes_lost;
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

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
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

fn note_up(link: &Link, way: &Way) {
    let (hub, address) = (link.peer().short(), link.remote_address());
    let (uplink, road) = (&way.uplink.name, link.road().as_str());
    tracing::info!(hub, %address, uplink, road, "contact up");
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

//! One contact: a unit on the line, its session driven to the end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use identity::{NodeId, SupersedeError};
use journal::{ClockQuality, JournalId, Signed, SignedManifest};
use study::Digest;
use sync_proto::{Class, Command, CommandError, Config, Event, RefusalCode, Session};
use sync_quic::{Arrival, Ended, Found, Kept, Link, Piece, Shelf, ShelfError, Taken};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::{Inbox, InboxError, Standing};
use crate::fleet::{Fleet, RoomError};
use crate::ledger;
use crate::outbox::News;
use clock::wall_ms;

/// How often a unit is offered what it still wants back: what it refused, or lost since it was
/// asked what it holds.
const OFFER_AGAIN: Duration = Duration::from_secs(600);
/// Commands that may wait for the session.
const COMMANDS_MAX: usize = 8;

/// Serves a unit until its connection ends.
pub(crate) async fn serve(
    inbox: Arc<Inbox>,
    fleet: Arc<Fleet>,
    link: Link,
) -> Result<Ended, ShelfError> {
    let unit = link.peer();
    let version = || fleet.document().version();
    let mut news = inbox.outbox.open(unit, version).map_err(trouble)?;
    let began = *news.borrow_and_update();
    let mut config = session_config(&inbox, unit, began.fleet_version).map_err(trouble)?;
    // What `tell` goes on from.
    let stream = inbox.ledger.stream(unit);
    for (journal, head) in &mut config.journals {
        if *journal == stream {
            *head = began.head;
        }
    }
    let session = Session::new(config);
    let (commands, taken) = mpsc::channel(COMMANDS_MAX);
    let telling = tokio::spawn(tell(Arc::clone(&inbox), unit, news, began, commands));
    let shelf = Arc::new(HubShelf::new(inbox, fleet, unit));
    let ended = sync_quic::run(link, session, shelf, taken).await;
    telling.abort();
    Ok(ended)
}

/// What a session with a unit must know from its first moment.
pub(crate) fn session_config(
    inbox: &Inbox,
    unit: NodeId,
    fleet_version: u64,
) -> store::rusqlite::Result<Config> {
    let (stream, own) = (inbox.ledger.stream(unit), JournalId::own(unit));
    let head = |journal| inbox.readers.with(|sql| ledger::head(sql, journal));
    Ok(Config {
        me: inbox.ledger.hub(),
        peer: unit,
        software: crate::SOFTWARE.to_owned(),
        wall_ms: wall_ms(),
        clock: ClockQuality::Unknown,
        fleet_version,
        journals: vec![(stream, head(&stream)?), (own, head(&own)?)],
        data_bytes: sync_proto::DATA_BYTES_MAX,
    })
}

/// Hands what is new to the session, and what the unit wants back.
async fn tell(
    inbox: Arc<Inbox>,
    unit: NodeId,
    mut news: watch::Receiver<News>,
    mut told: News,
    commands: mpsc::Sender<Command>,
) {
    let stream = inbox.ledger.stream(unit);
    let mut offer = interval(OFFER_AGAIN);
    offer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut list = Vec::new();
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            // The first tick comes at once.
            _ = offer.tick() => list.extend(inbox.offers_back(unit)),
        }
        let new = *news.borrow_and_update();
        if new.asked != told.asked {
            list.extend(inbox.offers_back(unit));
        }
        if new.head != told.head {
            list.push(Command::Records {
                journal: stream,
                head: new.head,
            });
        }
        if new.fleet_version != told.fleet_version {
            list.push(Command::Fleet {
                version: new.fleet_version,
            });
        }
        told = new;
        for command in list {
            if commands.send(command).await.is_err() {
                return;
            }
        }
    }
}

/// The hub's disk and rooms, as the session of one unit sees them.
pub(crate) struct HubShelf {
    inbox: Arc<Inbox>,
    fleet: Arc<Fleet>,
    unit: NodeId,
    /// The chunk read last: pieces of one chunk are asked for one after the other.
    last: Mutex<Option<(Digest, Arc<[u8]>)>>,
}

impl HubShelf {
    pub(crate) fn new(inbox: Arc<Inbox>, fleet: Arc<Fleet>, unit: NodeId) -> Self {
        Self {
            inbox,
            fleet,
            unit,
            last: Mutex::default(),
        }
    }

    async fn chunk(&self, piece: Piece) -> Result<Arc<[u8]>, ShelfError> {
        let last = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((_, chunk)) = last.filter(|(digest, _)| *digest == piece.digest) {
            return Ok(chunk);
        }
        let (inbox, unit) = (Arc::clone(&self.inbox), self.unit);
        let read = move || inbox.chunk_of(unit, &piece.manifest, piece.chunk);
        let read = tokio::task::spawn_blocking(read).await;
        let chunk: Arc<[u8]> = read
            .expect("reading does not panic")
            .map_err(trouble)?
            .into();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((piece.digest, Arc::clone(&chunk)));
        Ok(chunk)
    }
}

impl Shelf for HubShelf {
    async fn read(&self, piece: Piece) -> Result<Vec<u8>, ShelfError> {
        let chunk = self.chunk(piece).await?;
        let bounds = usize::try_from(piece.offset)
            .ok()
            .zip(usize::try_from(piece.len).ok());
        let bytes = bounds.and_then(|(offset, len)| chunk.get(offset..offset.checked_add(len)?));
        let short = || ShelfError("a chunk is shorter than its manifest".to_owned());
        bytes.map(<[u8]>::to_vec).ok_or_else(short)
    }

    async fn load_records(
        &self,
        journal: JournalId,
        from_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<Vec<u8>>, ShelfError> {
        let theirs = JournalId::own(self.unit);
        if journal != self.inbox.ledger.stream(self.unit) && journal != theirs {
            return Err(ShelfError(
                "that journal does not concern this unit".to_owned(),
            ));
        }
        self.inbox
            .readers
            .with(|sql| ledger::records(sql, &journal, from_seq, bytes_max))
            .map_err(trouble)
    }

    async fn load_fleet(&self) -> Result<(u64, Vec<u8>), ShelfError> {
        let document = self.fleet.document();
        Ok((document.version(), document.signed().to_vec()))
    }

    async fn store_manifest(
        &self,
        manifest: SignedManifest,
        _: Class,
    ) -> Result<Taken, ShelfError> {
        if manifest.signer() != self.unit {
            let text = "the hub takes from a unit what that unit has signed".to_owned();
            return Ok(Taken::Refused(RefusalCode::NotWanted, text));
        }
        match self.inbox.take_manifest(self.unit, manifest).await {
            Ok(Standing::Held(holding)) => Ok(Taken::Held(holding)),
            Ok(Standing::Complete) => Ok(Taken::Complete),
            Ok(Standing::Refused(reason)) => Ok(Taken::Refused(RefusalCode::NotWanted, reason)),
            Err(error) => {
                let (code, text) = no_room(&error).ok_or_else(|| trouble(error))?;
                Ok(Taken::Refused(code, text))
            }
        }
    }

    async fn find_manifest(&self, manifest: Digest, _: Class) -> Result<Found, ShelfError> {
        match self.inbox.find(self.unit, &manifest).map_err(trouble)? {
            None => Ok(Found::Unknown),
            Some((_, Standing::Complete)) => Ok(Found::Complete),
            Some((manifest, Standing::Held(holding))) => {
                Ok(Found::Held(Box::new(manifest), holding))
            }
            Some((_, Standing::Refused(reason))) => {
                Ok(Found::Refused(RefusalCode::NotWanted, reason))
            }
        }
    }

    async fn store_data(&self, arrivals: Vec<Arrival>) -> Result<Vec<Kept>, ShelfError> {
        let count = arrivals.len();
        match self.inbox.take_data(arrivals).await {
            Ok(kept) => Ok(kept),
            Err(error) => {
                let (code, text) = no_room(&error).ok_or_else(|| trouble(error))?;
                Ok(vec![Kept::Refused(code, text); count])
            }
        }
    }

    async fn store_records(
        &self,
        journal: JournalId,
        records: Vec<Signed>,
    ) -> Result<(), ShelfError> {
        if journal != JournalId::own(self.unit) {
            return Err(ShelfError("that journal is not this unit's".to_owned()));
        }
        self.inbox
            .take_records(self.unit, records)
            .await
            .map(drop)
            .map_err(trouble)
    }

    async fn store_fleet(&self, document: Vec<u8>) -> Result<Option<u64>, ShelfError> {
        // A unit may carry a newer document than ours, brought by a stick.
        match self.fleet.apply(&document).await {
            Ok((version, _)) => Ok(Some(version)),
            Err(RoomError::Supersede(SupersedeError::Older { held, .. })) => Ok(Some(held)),
            Err(error) => {
                let error = crate::chain(&error);
                tracing::warn!(node = %self.unit.short(), error, "fleet document of a unit refused");
                Ok(None)
            }
        }
    }

    fn event(&self, event: Event) {
        let node = self.unit.short();
        match event {
            Event::Greeted { software, .. } => tracing::info!(node, software, "unit on the line"),
            Event::Diverged {
                journal,
                ours,
                theirs,
                kind,
            } => {
                let inbox = &self.inbox;
                inbox.note_divergence(self.unit, journal, (ours, theirs), kind);
            }
            Event::Bye { text, .. } => tracing::debug!(node, text, "goodbye"),
            Event::Received { manifest } => {
                tracing::debug!(node, digest = %manifest, "all chunks of a manifest are here");
            }
            Event::Delivered { manifest } => {
                tracing::info!(node, digest = %manifest, "the unit has what it had lost");
            }
            Event::TakenBack { manifest } => {
                tracing::warn!(node, digest = %manifest, "what a unit has lost cannot be read");
            }
            Event::Refused { manifest, text, .. } => {
                tracing::warn!(node, digest = %manifest, text, "a unit does not take back its own");
            }
            Event::ChunkDamaged { manifest, chunk } => {
                tracing::error!(node, digest = %manifest, chunk, "a unit found a chunk damaged");
            }
            Event::RecordsHeld { journal, seq } => {
                if journal == self.inbox.ledger.stream(self.unit) {
                    self.inbox.outbox.note_acknowledged(self.unit, seq);
                }
            }
            Event::Progress { .. }
            | Event::ClassChanged { .. }
            | Event::Withdrawn { .. }
            | Event::FleetHeld { .. } => {}
            Event::FleetNotTaken { version } => {
                tracing::warn!(node, version, "the unit did not take the fleet document");
            }
        }
    }

    fn not_taken(&self, error: CommandError) {
        let node = self.unit.short();
        match error {
            // What it wants back is on its way, or the contact is over.
            CommandError::OfferedAlready | CommandError::Ended => {
                tracing::debug!(node, %error, "a command was not taken");
            }
            CommandError::NotOffered
            | CommandError::TooLong
            | CommandError::NotOurs
            | CommandError::QueueFull
            | CommandError::WrongJournal => {
                tracing::warn!(node, %error, "a command was not taken");
            }
        }
    }
}

/// The refusal for a full disk: the unit keeps what it has and offers it again later.
fn no_room(error: &InboxError) -> Option<(RefusalCode, String)> {
    error.is_full().then(|| {
        tracing::error!("the disk is full; nothing more is taken in");
        (RefusalCode::NoRoom, "the hub's disk is full".to_owned())
    })
}

fn trouble(error: impl std::error::Error) -> ShelfError {
    ShelfError(crate::chain(&error))
}

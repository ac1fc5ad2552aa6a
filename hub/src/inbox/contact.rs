//! One contact: a unit on the line, its session driven to the end.

use std::sync::Arc;

use identity::{NodeId, SupersedeError};
use journal::{ClockQuality, JournalId, Signed, SignedManifest};
use study::{Digest, Priority};
use sync_proto::{Command, CommandError, Config, Event, RefusalCode, Session};
use sync_quic::{Arrival, Ended, Found, Kept, Link, Piece, Shelf, ShelfError, Taken};
use tokio::sync::{mpsc, watch};

use super::{Inbox, InboxError, Standing};
use crate::fleet::{Fleet, RoomError};
use crate::ledger;
use crate::outbox::News;
use clock::wall_ms;

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
    let own = JournalId::own(unit);
    let theirs = inbox
        .readers
        .with(|sql| ledger::head(sql, &own))
        .map_err(trouble)?;
    let stream = inbox.ledger.stream(unit);
    let session = Session::new(Config {
        me: inbox.ledger.hub(),
        peer: unit,
        software: crate::SOFTWARE.to_owned(),
        wall_ms: wall_ms(),
        clock: ClockQuality::Unknown,
        fleet_version: began.fleet_version,
        journals: vec![(stream, began.head), (own, theirs)],
        data_bytes: sync_proto::DATA_BYTES_MAX,
    });
    let (commands, taken) = mpsc::channel(COMMANDS_MAX);
    let telling = tokio::spawn(tell(news, began, stream, commands));
    let shelf = Arc::new(HubShelf { inbox, fleet, unit });
    let ended = sync_quic::run(link, session, shelf, taken).await;
    telling.abort();
    Ok(ended)
}

/// Hands what is new to the session.
async fn tell(
    mut news: watch::Receiver<News>,
    mut told: News,
    stream: JournalId,
    commands: mpsc::Sender<Command>,
) {
    while news.changed().await.is_ok() {
        let new = *news.borrow_and_update();
        let mut list = Vec::new();
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
struct HubShelf {
    inbox: Arc<Inbox>,
    fleet: Arc<Fleet>,
    unit: NodeId,
}

impl Shelf for HubShelf {
    async fn read(&self, _: Piece) -> Result<Vec<u8>, ShelfError> {
        Err(ShelfError("the hub offers no chunks".to_owned()))
    }

    async fn load_records(
        &self,
        journal: JournalId,
        from_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<Vec<u8>>, ShelfError> {
        if journal != self.inbox.ledger.stream(self.unit) {
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
        _: Priority,
    ) -> Result<Taken, ShelfError> {
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

    async fn find_manifest(&self, manifest: Digest, _: Priority) -> Result<Found, ShelfError> {
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
            Event::Diverged { ours, theirs, .. } => {
                tracing::error!(
                    node,
                    ours,
                    theirs,
                    "a journal was set back or its disk cloned"
                );
            }
            Event::Bye { text, .. } => tracing::debug!(node, text, "goodbye"),
            Event::Received { manifest } => {
                tracing::debug!(node, digest = %manifest, "all chunks of a manifest are here");
            }
            Event::Progress { .. }
            | Event::Delivered { .. }
            | Event::TakenBack { .. }
            | Event::Refused { .. }
            | Event::ChunkDamaged { .. }
            | Event::ClassChanged { .. }
            | Event::Withdrawn { .. }
            | Event::RecordsHeld { .. }
            | Event::FleetHeld { .. } => {}
            Event::FleetNotTaken { version } => {
                tracing::warn!(node, version, "the unit did not take the fleet document");
            }
        }
    }

    fn not_taken(&self, error: CommandError) {
        tracing::warn!(node = %self.unit.short(), %error, "a command was not taken");
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

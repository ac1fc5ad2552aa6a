//! The box's disk as a session with the hub sees it.

use std::sync::{Arc, Mutex, PoisonError};

use journal::{JournalId, Signed, SignedManifest};
use study::Digest;
use sync_proto::{Class, CommandError, Event, RefusalCode};
use sync_quic::{Arrival, Found, Kept, Piece, Shelf, ShelfError, Taken};
use tokio::sync::mpsc;

use super::returns::Returns;
use crate::membership::Membership;
use crate::vault::{FetchError, Vault};

/// What a hub hears that sends a box anything but what it has lost of its own.
const NOT_OURS: &str = "this box takes back what is its own, and nothing else";

/// Reads chunks and records from the vault, keeps records and fleet documents that come.
pub(crate) struct BoxShelf {
    vault: Vault,
    membership: Arc<Membership>,
    events: mpsc::UnboundedSender<Event>,
    /// The chunk read last: pieces of one chunk are asked for one after the other.
    last: Mutex<Option<(Digest, Arc<[u8]>)>>,
    /// Chunks that the hub gives back.
    returns: tokio::sync::Mutex<Returns>,
}

impl BoxShelf {
    pub(crate) fn new(
        vault: Vault,
        membership: Arc<Membership>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self {
            vault,
            membership,
            events,
            last: Mutex::default(),
            returns: tokio::sync::Mutex::default(),
        }
    }

    async fn chunk(&self, piece: Piece) -> Result<Arc<[u8]>, ShelfError> {
        let last = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((digest, bytes)) = last.filter(|(digest, _)| *digest == piece.digest) {
            tracing::trace!(%digest, "from memory");
            return Ok(bytes);
        }
        let vault = self.vault.clone();
        let bytes = blocking(move || read_chunk(&vault, piece)).await?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((piece.digest, Arc::clone(&bytes)));
        Ok(bytes)
    }

    /// What is whole of a manifest of our own that the hub gives back, if anything is missing.
    async fn given_back(&self, manifest: Digest) -> Result<Found, ShelfError> {
        let vault = self.vault.clone();
        let found = blocking(move || vault.given_back(&manifest)).await?;
        Ok(match found {
            None => Found::Refused(RefusalCode::NotWanted, NOT_OURS.into()),
            Some((signed, holding)) => {
                let chunks = signed.manifest().chunks().count();
                if holding.whole.iter().count() == chunks {
                    Found::Complete
                } else {
                    Found::Held(Box::new(signed), holding)
                }
            }
        })
    }
}

/// Reads a chunk to be sent; one that is damaged is marked, so that people see it.
fn read_chunk(vault: &Vault, piece: Piece) -> Result<Arc<[u8]>, FetchError> {
    let read = vault.chunk(&piece.manifest, piece.chunk);
    if read.as_ref().is_err_and(FetchError::is_loss)
        && let Err(error) = vault.doubt_chunk(&piece.manifest, piece.chunk)
    {
        let error = &error as &dyn std::error::Error;
        tracing::error!(error, "a damaged chunk cannot be marked");
    }
    read
}

impl Shelf for BoxShelf {
    async fn read(&self, piece: Piece) -> Result<Vec<u8>, ShelfError> {
        let chunk = self.chunk(piece).await.inspect_err(|error| {
            let manifest = piece.manifest;
            tracing::error!(%manifest, chunk = piece.chunk, %error, "cannot read a chunk back");
        })?;
        let bounds = usize::try_from(piece.offset)
            .ok()
            .zip(usize::try_from(piece.len).ok());
        let bytes = bounds.and_then(|(offset, len)| chunk.get(offset..offset.checked_add(len)?));
        let bytes =
            bytes.ok_or_else(|| ShelfError("a chunk is shorter than its manifest".into()))?;
        Ok(bytes.to_vec())
    }

    async fn load_records(
        &self,
        journal: JournalId,
        from_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<Vec<u8>>, ShelfError> {
        let vault = self.vault.clone();
        blocking(move || vault.records(&journal, from_seq, bytes_max)).await
    }

    async fn load_fleet(&self) -> Result<(u64, Vec<u8>), ShelfError> {
        let fleet = self.membership.fleet();
        let fleet = fleet.ok_or_else(|| ShelfError("this box has no fleet document".into()))?;
        Ok((fleet.version(), fleet.signed().to_vec()))
    }

    async fn store_manifest(
        &self,
        manifest: SignedManifest,
        _class: Class,
    ) -> Result<Taken, ShelfError> {
        // Whoever signed it: only what is in our own table of revisions is known by its digest.
        Ok(match self.given_back(manifest.digest()).await? {
            Found::Held(_, holding) => Taken::Held(holding),
            Found::Complete => Taken::Complete,
            Found::Unknown => Taken::Refused(RefusalCode::NotWanted, NOT_OURS.into()),
            Found::Refused(code, text) => Taken::Refused(code, text),
        })
    }

    async fn find_manifest(&self, manifest: Digest, _class: Class) -> Result<Found, ShelfError> {
        self.given_back(manifest).await
    }

    async fn store_data(&self, arrivals: Vec<Arrival>) -> Result<Vec<Kept>, ShelfError> {
        // One call at a time: the disk's orders come one after the other.
        Ok(self.returns.lock().await.take(&self.vault, arrivals).await)
    }

    async fn store_records(
        &self,
        journal: JournalId,
        records: Vec<Signed>,
    ) -> Result<(), ShelfError> {
        let records = records.into_iter().map(|record| record.bytes).collect();
        self.vault
            .accept_records(journal, records)
            .await
            .map(drop)
            .map_err(trouble)
    }

    async fn store_fleet(&self, document: Vec<u8>) -> Result<Option<u64>, ShelfError> {
        let membership = Arc::clone(&self.membership);
        let taken = tokio::task::spawn_blocking(move || membership.take_fleet(&document));
        match taken.await.expect("taking a document does not panic") {
            Ok(()) => Ok(self.membership.fleet().map(|fleet| fleet.version())),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the hub's fleet document is refused");
                Ok(None)
            }
        }
    }

    fn event(&self, event: Event) {
        // Nobody listens any more when the session is ending.
        drop(self.events.send(event));
    }

    fn not_taken(&self, error: CommandError) {
        match error {
            // What was offered has left the session in the meantime.
            CommandError::NotOffered | CommandError::OfferedAlready | CommandError::Ended => {
                tracing::debug!(%error, "the session did not take a command");
            }
            CommandError::TooLong
            | CommandError::NotOurs
            | CommandError::QueueFull
            | CommandError::WrongJournal => {
                tracing::error!(%error, "the session did not take a command");
            }
        }
    }
}

/// Runs a query on a thread that may block.
async fn blocking<T, E>(
    query: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ShelfError>
where
    T: Send + 'static,
    E: std::error::Error + Send + 'static,
{
    let answer = tokio::task::spawn_blocking(query).await;
    answer
        .expect("reading the vault does not panic")
        .map_err(trouble)
}

/// The chain of causes as one text: it goes to our own log, and the session ends.
fn trouble(error: impl std::error::Error) -> ShelfError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    ShelfError(text)
}

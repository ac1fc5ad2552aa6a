//! A shelf in memory, and studies of random bytes to fill it with.
//!
//! In: whatever a session stores; chunks to offer. Out: the same, and every event.
//! Invariant: none beyond a [`Shelf`]'s; nothing survives the process.
//! May not: be used by a program.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use identity::NodeKey;
use journal::{JournalId, Signed, SignedManifest};
use study::{ChunkRef, Digest, Group, GroupForm, Manifest, Priority, StudyRoot, StudyUid};
use sync_proto::{Class, CommandError, Event, Holding, Partial};
use tokio::sync::mpsc;

use crate::shelf::{Arrival, Found, Kept, Piece, Shelf, ShelfError, Taken};

/// A shelf in memory.
#[derive(Debug)]
pub struct MemoryShelf {
    state: Mutex<State>,
    events: mpsc::UnboundedSender<Event>,
    sync_time: Duration,
}

#[derive(Debug, Default)]
struct State {
    chunks: BTreeMap<Digest, Vec<u8>>,
    incoming: BTreeMap<Digest, Incoming>,
    records: BTreeMap<JournalId, Vec<Vec<u8>>>,
    read_bytes: u64,
    stored_bytes: u64,
}

#[derive(Debug)]
struct Incoming {
    manifest: SignedManifest,
    chunks: Vec<Vec<u8>>,
}

impl MemoryShelf {
    /// An empty shelf, whose stores take `sync_time`, and the events that it is told.
    pub fn new(sync_time: Duration) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events, told) = mpsc::unbounded_channel();
        (
            Self {
                state: Mutex::default(),
                events,
                sync_time,
            },
            told,
        )
    }

    /// Makes a signed study of so many chunks of so many bytes and keeps its chunks.
    pub fn study(&self, key: &NodeKey, uid: &str, chunks: u32, chunk_bytes: u32) -> SignedManifest {
        self.study_sealed(key, uid, (chunks, chunk_bytes), None)
    }

    /// The same, with the envelope of a data key that the chunks are said to be sealed with.
    pub fn study_sealed(
        &self,
        key: &NodeKey,
        uid: &str,
        (chunks, chunk_bytes): (u32, u32),
        envelope: Option<Vec<u8>>,
    ) -> SignedManifest {
        let mut state = self.state();
        let chunks: Vec<ChunkRef> = (0..chunks)
            .map(|number| {
                let mut bytes = vec![0; usize::try_from(chunk_bytes).expect("fits")];
                let name = format!("{uid} {number}");
                blake3::Hasher::new()
                    .update(name.as_bytes())
                    .finalize_xof()
                    .fill(&mut bytes);
                let digest = Digest::of(&bytes);
                state.chunks.insert(digest, bytes);
                ChunkRef {
                    digest,
                    bytes: chunk_bytes,
                }
            })
            .collect();
        let bytes = u64::from(chunk_bytes) * chunks.len() as u64;
        SignedManifest::sign(
            key,
            Manifest {
                version: Manifest::VERSION,
                study: StudyUid::parse(uid).expect("a test names studies by UIDs"),
                revision: 1,
                root: StudyRoot::from_digest(Digest::of(uid.as_bytes())),
                instances: 1,
                previous: None,
                closed: true,
                priority: Priority::Routine,
                received_at_ms: 0,
                groups: vec![Group {
                    chunks,
                    instances: 1,
                    bytes_original: bytes,
                    form: GroupForm::Codec,
                }],
                envelope,
            },
        )
    }

    /// Keeps a record of our own, to be sent.
    pub fn keep_record(&self, signed: &Signed) {
        let journal = signed.record.journal();
        self.state()
            .records
            .entry(journal)
            .or_default()
            .push(signed.bytes.clone());
    }

    /// How many records of `journal` are held.
    pub fn records(&self, journal: &JournalId) -> usize {
        self.state().records.get(journal).map_or(0, Vec::len)
    }

    /// Spoils one bit of a chunk.
    pub fn spoil(&self, digest: &Digest) {
        if let Some(byte) = self
            .state()
            .chunks
            .get_mut(digest)
            .and_then(|b| b.first_mut())
        {
            *byte ^= 1;
        }
    }

    /// How many chunk bytes were read to be sent.
    pub fn read_bytes(&self) -> u64 {
        self.state().read_bytes
    }

    /// How many chunk bytes were stored.
    pub fn stored_bytes(&self) -> u64 {
        self.state().stored_bytes
    }

    /// Whether every chunk of a manifest is held and has its digest.
    pub fn is_whole(&self, manifest: &Digest) -> bool {
        self.state().incoming.get(manifest).is_some_and(|incoming| {
            incoming
                .manifest
                .manifest()
                .chunks()
                .zip(&incoming.chunks)
                .all(|(chunk, bytes)| Digest::of(bytes) == chunk.digest)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Incoming {
    fn holding(&self) -> Holding {
        let mut holding = Holding::default();
        let chunks = self.manifest.manifest().chunks().zip(&self.chunks);
        for (number, (chunk, bytes)) in (0..).zip(chunks) {
            match u32::try_from(bytes.len()).expect("a chunk is at most 1 MiB") {
                0 => {}
                upto if upto == chunk.bytes => holding.whole.insert(number),
                upto => holding.partial.push(Partial {
                    chunk: number,
                    upto,
                }),
            }
        }
        holding
    }
}

impl State {
    fn store(&mut self, arrival: Arrival) -> Kept {
        let Some(incoming) = self.incoming.get_mut(&arrival.manifest) else {
            return Kept::Damaged;
        };
        let place = usize::try_from(arrival.chunk)
            .ok()
            .and_then(|n| incoming.chunks.get_mut(n));
        let Some(chunk) = place else {
            return Kept::Damaged;
        };
        chunk.truncate(usize::try_from(arrival.offset).unwrap_or(usize::MAX));
        chunk.extend_from_slice(&arrival.bytes);
        self.stored_bytes += arrival.bytes.len() as u64;
        if arrival.last && Digest::of(chunk) != arrival.digest {
            chunk.clear();
            return Kept::Damaged;
        }
        Kept::Durable
    }
}

impl Shelf for MemoryShelf {
    async fn read(&self, piece: Piece) -> Result<Vec<u8>, ShelfError> {
        let mut state = self.state();
        let from = usize::try_from(piece.offset).unwrap_or(usize::MAX);
        let upto = from.saturating_add(usize::try_from(piece.len).unwrap_or(usize::MAX));
        let bytes = state
            .chunks
            .get(&piece.digest)
            .and_then(|chunk| chunk.get(from..upto));
        let bytes = bytes
            .map(<[u8]>::to_vec)
            .ok_or_else(|| ShelfError("no such chunk".into()))?;
        state.read_bytes += bytes.len() as u64;
        Ok(bytes)
    }

    async fn load_records(
        &self,
        journal: JournalId,
        from_seq: u64,
        bytes_max: usize,
    ) -> Result<Vec<Vec<u8>>, ShelfError> {
        let skip = usize::try_from(from_seq.saturating_sub(1)).unwrap_or(usize::MAX);
        let mut room = bytes_max;
        let state = self.state();
        let records = state.records.get(&journal).into_iter().flatten().skip(skip);
        let fits = |record: &&Vec<u8>| {
            let fits = record.len() <= room || room == bytes_max;
            room = room.saturating_sub(record.len());
            fits
        };
        Ok(records.take_while(fits).cloned().collect())
    }

    async fn load_fleet(&self) -> Result<(u64, Vec<u8>), ShelfError> {
        Err(ShelfError("this shelf has no fleet document".into()))
    }

    async fn store_manifest(
        &self,
        manifest: SignedManifest,
        _: Class,
    ) -> Result<Taken, ShelfError> {
        tokio::time::sleep(self.sync_time).await;
        let mut state = self.state();
        let chunks = vec![Vec::new(); manifest.manifest().chunks().count()];
        let digest = manifest.digest();
        let incoming = state
            .incoming
            .entry(digest)
            .or_insert(Incoming { manifest, chunks });
        Ok(Taken::Held(incoming.holding()))
    }

    async fn find_manifest(&self, manifest: Digest, _: Class) -> Result<Found, ShelfError> {
        Ok(match self.state().incoming.get(&manifest) {
            Some(held) => Found::Held(Box::new(held.manifest.clone()), held.holding()),
            None => Found::Unknown,
        })
    }

    async fn store_data(&self, arrivals: Vec<Arrival>) -> Result<Vec<Kept>, ShelfError> {
        tokio::time::sleep(self.sync_time).await;
        let mut state = self.state();
        Ok(arrivals
            .into_iter()
            .map(|arrival| state.store(arrival))
            .collect())
    }

    async fn store_records(
        &self,
        journal: JournalId,
        records: Vec<Signed>,
    ) -> Result<(), ShelfError> {
        tokio::time::sleep(self.sync_time).await;
        let bytes = records.into_iter().map(|signed| signed.bytes);
        self.state()
            .records
            .entry(journal)
            .or_default()
            .extend(bytes);
        Ok(())
    }

    async fn store_fleet(&self, _: Vec<u8>) -> Result<Option<u64>, ShelfError> {
        Ok(None)
    }

    fn event(&self, event: Event) {
        // Fails only when the test has stopped listening.
        let _ = self.events.send(event);
    }

    fn not_taken(&self, error: CommandError) {
        tracing::warn!(%error, "command not taken");
    }
}

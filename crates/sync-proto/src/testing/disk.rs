//! A node's disk as a model: what is on it is durable; writes on their way to it can be lost.

use std::collections::{BTreeMap, BTreeSet};

use journal::{Head, JournalId, Signed, SignedManifest};
use study::{ChunkRef, Digest};

use crate::frame::Partial;
use crate::io::{Holding, Loaded, Stored};
use crate::runs::Runs;

/// A read or write that the edge was ordered to do.
#[derive(Debug, Clone)]
pub(super) enum Job {
    Manifest {
        item: u32,
        manifest: SignedManifest,
    },
    Find {
        item: u32,
        manifest: Digest,
    },
    Data(DataJob),
    Records {
        journal: JournalId,
        records: Vec<Signed>,
    },
    Fleet {
        version: u64,
        document: Vec<u8>,
    },
    LoadRecords {
        journal: JournalId,
        from_seq: u64,
        bytes_max: usize,
    },
    LoadFleet,
}

/// Bytes of a chunk to be stored.
#[derive(Debug, Clone)]
pub(super) struct DataJob {
    pub(super) item: u32,
    pub(super) manifest: Digest,
    pub(super) chunk: u32,
    pub(super) digest: Digest,
    pub(super) offset: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) last: bool,
}

/// What the disk answers to a job.
#[derive(Debug)]
pub(super) enum Answer {
    Stored(Stored),
    Loaded(Loaded),
}

/// Everything that survives a power cut.
#[derive(Debug, Default)]
pub(super) struct Disk {
    manifests: BTreeMap<Digest, SignedManifest>,
    chunks: BTreeMap<(Digest, u32), Vec<u8>>,
    complete: BTreeSet<Digest>,
    /// Bytes of a manifest that were held until their chunk was found damaged.
    forgotten: BTreeMap<Digest, u64>,
    journals: BTreeMap<JournalId, (Head, Vec<Vec<u8>>)>,
    fleet_version: u64,
}

impl Disk {
    pub(super) fn head(&self, journal: &JournalId) -> Head {
        self.journals
            .get(journal)
            .map_or(Head::EMPTY, |(head, _)| *head)
    }

    pub(super) fn records(&self, journal: &JournalId) -> &[Vec<u8>] {
        self.journals
            .get(journal)
            .map_or(&[], |(_, records)| records)
    }

    pub(super) fn append(&mut self, journal: JournalId, record: Signed) {
        let (head, records) = self.journals.entry(journal).or_default();
        *head = record.head;
        records.push(record.bytes);
    }

    pub(super) const fn fleet_version(&self) -> u64 {
        self.fleet_version
    }

    pub(super) fn set_fleet(&mut self, version: u64) {
        self.fleet_version = version;
    }

    pub(super) fn has_manifest(&self, manifest: &Digest) -> bool {
        self.manifests.contains_key(manifest)
    }

    pub(super) fn is_complete(&self, manifest: &Digest) -> bool {
        self.complete.contains(manifest)
    }

    /// The manifests of which every chunk is, or was, held.
    pub(super) fn complete(&self) -> impl ExactSizeIterator<Item = Digest> {
        self.complete.iter().copied()
    }

    pub(super) fn manifest(&self, manifest: &Digest) -> Option<&SignedManifest> {
        self.manifests.get(manifest)
    }

    /// Bytes of a manifest's chunks that are, or were, held: damage is told after it is found.
    pub(super) fn bytes_held_once(&self, manifest: &Digest) -> u64 {
        let of_it = self.chunks.range((*manifest, 0)..=(*manifest, u32::MAX));
        let held: usize = of_it.map(|(_, bytes)| bytes.len()).sum();
        held as u64 + self.forgotten.get(manifest).copied().unwrap_or(0)
    }

    /// The durable bytes of a chunk.
    pub(super) fn chunk(&self, manifest: Digest, chunk: u32) -> &[u8] {
        self.chunks
            .get(&(manifest, chunk))
            .map_or(&[], Vec::as_slice)
    }

    /// Does a job durably and answers it; `brief` chooses between two right answers.
    pub(super) fn perform(&mut self, job: Job, brief: bool) -> Answer {
        Answer::Stored(match job {
            Job::Manifest { item, manifest } => {
                let digest = manifest.digest();
                self.manifests.insert(digest, manifest);
                self.finish_if_whole(&digest);
                if brief && self.complete.contains(&digest) {
                    Stored::Complete { item }
                } else {
                    let holding = self.holding(&digest);
                    Stored::Manifest { item, holding }
                }
            }
            Job::Find { item, manifest } => self.find(item, manifest, brief),
            Job::Data(job) => self.store(job),
            Job::Records { journal, records } => {
                let (head, held) = self.journals.entry(journal).or_default();
                for record in records {
                    if record.head.seq > head.seq {
                        *head = record.head;
                        held.push(record.bytes);
                    }
                }
                let seq = head.seq;
                Stored::Records { journal, seq }
            }
            Job::Fleet { version, document } if document == version.to_be_bytes() => {
                let version = self.fleet_version.max(version);
                self.fleet_version = version;
                Stored::Fleet { version }
            }
            Job::Fleet { .. } => Stored::FleetRefused,
            Job::LoadRecords {
                journal,
                from_seq,
                bytes_max,
            } => {
                return Answer::Loaded(self.load(journal, from_seq, bytes_max));
            }
            Job::LoadFleet => {
                let version = self.fleet_version;
                let document = version.to_be_bytes().to_vec();
                return Answer::Loaded(Loaded::Fleet { version, document });
            }
        })
    }

    fn find(&self, item: u32, manifest: Digest, brief: bool) -> Stored {
        match self.manifests.get(&manifest) {
            None => Stored::Unknown { item },
            Some(_) if brief && self.complete.contains(&manifest) => Stored::Complete { item },
            Some(found) => {
                let holding = self.holding(&manifest);
                let manifest = Box::new(found.clone());
                Stored::Found {
                    item,
                    manifest,
                    holding,
                }
            }
        }
    }

    fn store(&mut self, job: DataJob) -> Stored {
        let DataJob {
            item,
            manifest,
            chunk,
            ..
        } = job;
        let held = self.chunks.entry((manifest, chunk)).or_default();
        let follows = held.len() == job.offset as usize;
        assert!(follows, "the machine left a hole or wrote twice");
        held.extend(job.bytes);
        let upto = u32::try_from(held.len()).expect("a chunk has at most 1 MiB");
        if job.last && Digest::of(held) != job.digest {
            *self.forgotten.entry(manifest).or_default() += held.len() as u64;
            self.chunks.remove(&(manifest, chunk));
            return Stored::Damaged { item, chunk };
        }
        if job.last {
            self.finish_if_whole(&manifest);
        }
        Stored::Data { item, chunk, upto }
    }

    fn load(&self, journal: JournalId, from_seq: u64, bytes_max: usize) -> Loaded {
        let from = usize::try_from(from_seq - 1).expect("few records");
        let mut left = bytes_max;
        let fits = |(n, record): &(usize, &Vec<u8>)| {
            let fits = *n == 0 || record.len() <= left;
            left = left.saturating_sub(record.len());
            fits
        };
        let records = self.records(&journal)[from..].iter().enumerate();
        let records = records
            .take_while(fits)
            .map(|(_, record)| record.clone())
            .collect();
        Loaded::Records {
            journal,
            from_seq,
            records,
        }
    }

    fn holding(&self, manifest: &Digest) -> Holding {
        let mut holding = Holding {
            whole: Runs::new(),
            partial: Vec::new(),
        };
        for (chunk, ChunkRef { bytes, .. }) in
            (0..).zip(self.manifests[manifest].manifest().chunks())
        {
            let upto = u32::try_from(self.chunk(*manifest, chunk).len()).expect("at most 1 MiB");
            if upto == *bytes {
                holding.whole.insert(chunk);
            } else if upto > 0 {
                holding.partial.push(Partial { chunk, upto });
            }
        }
        holding
    }

    fn finish_if_whole(&mut self, manifest: &Digest) {
        let count = self.manifests[manifest].manifest().chunks().count();
        let whole = self.holding(manifest).whole;
        if whole.iter().count() == count {
            self.complete.insert(*manifest);
        }
    }
}

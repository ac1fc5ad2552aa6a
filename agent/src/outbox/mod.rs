//! Outbox: what goes next.
//!
//! In: signed revisions from `vault`, what became of them from `contact`. Out: commands for the
//! session with the hub. Which classes may go is said to it.
//! Invariant: nothing is offered that may not leave; what may have left before is offered as such,
//! so that no byte that the hub holds is sent again.
//! May not: open sockets, read pixels.

mod order;

use std::collections::{BTreeMap, BTreeSet};

use study::{Digest, Priority, StudyUid};
use sync_proto::{Begun, Class, Command, Offer, QUEUE_MAX, Rank, Unfinished};

use crate::uplink::Work;
use crate::vault::{Offerable, Vault, VaultError};

/// How many revisions of one class a session is given at a time; more follow as these are
/// delivered. Urgent ones are not kept waiting behind a full list, and no class behind another's.
const OFFERED_MAX: usize = 256;
/// How many bytes of studies that can wait are offered ahead of the link, but for the rest of a study
/// that was begun: what is not offered may still be packed smaller.
const AHEAD_BYTES: u64 = 32 << 20;

/// What has no receipt and may leave, in the order in which it is to cross.
pub(crate) fn due(vault: &Vault) -> Result<Vec<Offerable>, VaultError> {
    let mut due = vault.offerable()?;
    order::sort(&mut due);
    Ok(due)
}

/// What has been offered, and what is known of its past.
pub struct Outbox {
    vault: Vault,
    /// Revisions that were made before this program started: they may have left before.
    inherited: BTreeSet<Digest>,
    /// What an earlier session has left behind.
    begun: BTreeMap<Digest, Begun>,
    /// What the present session was given, and when it goes there.
    offered: BTreeMap<Digest, Rank>,
    /// What the present session is through with; receipts of these may still be on their way.
    delivered: BTreeSet<Digest>,
    /// Those of them that the hub could not take just now.
    put_off: BTreeSet<Digest>,
    /// What was withdrawn, until the session has given it back.
    withdrawn: BTreeSet<Digest>,
    /// The least urgent that may go; none: nothing more is begun.
    ceiling: Option<Priority>,
    /// The session has to be told something since commands were last asked for.
    is_stale: bool,
}

impl Outbox {
    /// Starts with what the vault holds.
    pub fn new(vault: Vault) -> Result<Self, VaultError> {
        let inherited = vault
            .offerable()?
            .into_iter()
            .filter(|o| o.offered)
            .map(|o| o.manifest_digest)
            .collect();
        Ok(Self {
            vault,
            inherited,
            begun: BTreeMap::new(),
            offered: BTreeMap::new(),
            delivered: BTreeSet::new(),
            put_off: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
            ceiling: Some(Priority::Bulk),
            is_stale: false,
        })
    }

    /// What may leave and has no receipt, whatever may go just now.
    pub fn work(&self) -> Result<Work, VaultError> {
        let due = self.vault.offerable()?;
        Ok(Work {
            most_urgent: due.into_iter().map(|revision| revision.priority).min(),
        })
    }

    /// Sets the least urgent that may go; none: nothing more is begun. True when the session has
    /// to be told something.
    pub fn limit(&mut self, ceiling: Option<Priority>) -> bool {
        let is_changed = self.ceiling != ceiling;
        self.ceiling = ceiling;
        std::mem::take(&mut self.is_stale) || is_changed
    }

    /// What the present session has to be told, given what the vault holds.
    ///
    /// A revision that is offered here is as it is from then on: the vault has synced that.
    pub async fn commands(&mut self) -> Result<Vec<Command>, VaultError> {
        let mut due = due(&self.vault)?;
        let mut commands = Vec::new();
        let present: BTreeSet<Digest> = due.iter().map(|o| o.manifest_digest).collect();
        due.retain(|o| Some(o.priority) <= self.ceiling);
        let allowed: BTreeSet<Digest> = due.iter().map(|o| o.manifest_digest).collect();
        let gone = self
            .offered
            .extract_if(.., |digest, _| !allowed.contains(digest));
        for (manifest, _) in gone {
            commands.push(Command::Withdraw { manifest });
            self.withdrawn.insert(manifest);
            // Some of it may have left.
            self.begun.insert(manifest, Begun::Perhaps);
        }
        self.begun.retain(|digest, _| present.contains(digest));
        self.delivered.retain(|digest| present.contains(digest));
        let mut ahead = Ahead::of(&due, &self.offered);
        let (mut order, mut to_offer) = (Vec::new(), BTreeMap::new());
        let mut given: BTreeMap<Class, usize> = BTreeMap::new();
        for rank in self.offered.values() {
            *given.entry(rank.class).or_default() += 1;
        }
        for revision in due {
            let (manifest, rank) = (revision.manifest_digest, order::rank(&revision));
            match self.offered.get(&manifest) {
                Some(offered) if *offered == rank => {}
                Some(_) => {
                    self.offered.insert(manifest, rank.clone());
                    commands.push(Command::Rank { manifest, rank });
                }
                None if self.delivered.contains(&manifest) => {}
                None if self.withdrawn.contains(&manifest) => {}
                None if given.get(&rank.class) >= Some(&offered_max(rank.class)) => {}
                None if !ahead.takes(&revision) => {}
                None => {
                    let begun = if revision.was_at_hub {
                        Begun::Perhaps
                    } else {
                        self.begun(&manifest)
                    };
                    *given.entry(rank.class).or_default() += 1;
                    order.push(manifest);
                    to_offer.insert(manifest, (rank, begun));
                }
            }
        }
        if order.is_empty() {
            return Ok(commands);
        }
        for signed in self.vault.offer(order).await?.into_inner() {
            let manifest = signed.digest();
            if let Some((rank, begun)) = to_offer.remove(&manifest) {
                self.offered.insert(manifest, rank.clone());
                commands.push(Command::Offer(Box::new(Offer {
                    manifest: signed,
                    rank,
                    begun,
                })));
            }
        }
        Ok(commands)
    }

    /// The hub holds all of a revision, or will not have it: this session is through with it.
    pub fn settled(&mut self, manifest: &Digest) {
        self.offered.remove(manifest);
        self.withdrawn.remove(manifest);
        self.delivered.insert(*manifest);
    }

    /// The hub could not take a revision just now, or it could not be read: it is offered again in
    /// a while. One that was taken back because it is no longer due stays out.
    pub fn put_off(&mut self, manifest: &Digest) {
        if self.offered.contains_key(manifest) {
            self.settled(manifest);
            self.put_off.insert(*manifest);
        }
    }

    /// The session has given a revision back: because it was withdrawn, or because it could not be
    /// read.
    pub fn taken_back(&mut self, manifest: &Digest) {
        if self.withdrawn.remove(manifest) {
            self.is_stale = true;
        } else {
            self.put_off(manifest);
        }
    }

    /// Lets what was put off be offered again.
    pub fn take_up(&mut self) -> bool {
        let put_off = std::mem::take(&mut self.put_off);
        for manifest in &put_off {
            self.delivered.remove(manifest);
            self.begun.insert(*manifest, Begun::Perhaps);
        }
        !put_off.is_empty()
    }

    /// A session begins. What one before it was given and never came back from, because its
    /// contact broke on our own side, may have left.
    pub fn begin(&mut self) {
        for manifest in std::mem::take(&mut self.offered).into_keys() {
            self.begun.insert(manifest, Begun::Perhaps);
        }
        self.ended(Vec::new());
    }

    /// The session has ended and leaves this unfinished.
    pub fn ended(&mut self, unfinished: Vec<Unfinished>) {
        for left in unfinished {
            self.begun.insert(left.manifest, left.begun);
        }
        // A delivered revision whose receipt has not come is named again, and nothing else.
        for delivered in std::mem::take(&mut self.delivered) {
            self.begun.insert(delivered, Begun::Perhaps);
        }
        self.offered.clear();
        self.put_off.clear();
        self.withdrawn.clear();
    }

    fn begun(&self, manifest: &Digest) -> Begun {
        if self.vault.has_left_otherwise(manifest) {
            return Begun::Perhaps;
        }
        match self.begun.get(manifest) {
            Some(begun) => begun.clone(),
            None if self.inherited.contains(manifest) => Begun::Perhaps,
            None => Begun::Never,
        }
    }
}

/// What is with the session, as far as it decides what else goes to it.
struct Ahead {
    bytes: u64,
    studies: BTreeSet<StudyUid>,
}

impl Ahead {
    fn of(due: &[Offerable], offered: &BTreeMap<Digest, Rank>) -> Self {
        let with_session = |o: &&Offerable| offered.contains_key(&o.manifest_digest);
        let offered = due.iter().filter(with_session);
        Self {
            bytes: offered.clone().map(|o| o.waiting_bytes).sum(),
            studies: offered.map(|o| o.study.clone()).collect(),
        }
    }

    /// Whether a revision is due now; counts it if it is.
    fn takes(&mut self, revision: &Offerable) -> bool {
        let can_wait = match revision.priority {
            Priority::Stat | Priority::Urgent => false,
            Priority::Routine | Priority::Bulk => !revision.offered,
        };
        if can_wait && self.bytes >= AHEAD_BYTES && !self.studies.contains(&revision.study) {
            return false;
        }
        self.bytes += revision.waiting_bytes;
        self.studies.insert(revision.study.clone());
        true
    }
}

/// How many of a class a session is given; together less than it takes.
fn offered_max(class: Class) -> usize {
    match class {
        Class::Stat => QUEUE_MAX / 4,
        Class::Urgent => QUEUE_MAX / 2,
        Class::Routine | Class::Bulk | Class::Software => OFFERED_MAX,
    }
}

#[cfg(test)]
mod tests;

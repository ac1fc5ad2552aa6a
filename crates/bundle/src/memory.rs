//! Memory: what a node knows of the bundles it has written and taken. All of it saves work, nothing
//! hangs on it: a file that is lost or damaged is begun anew.

use std::path::{Path, PathBuf};

use identity::NodeId;
use identity::files::{self, FileError};
use minicbor::{Decode, Encode};
use study::Digest;

const FILE: &str = "bundles.cbor";
const VERSION: u8 = 1;
/// How many bundles that were taken are known again.
const TAKEN_MAX: usize = 4096;
/// How many nodes are remembered, and how long the file may be.
const PEERS_MAX: usize = 16_384;
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Default, Encode, Decode)]
struct State {
    #[n(0)]
    version: u8,
    #[n(1)]
    peers: Vec<Peer>,
    /// The oldest first.
    #[n(2)]
    taken: Vec<Digest>,
}

#[derive(Debug, Encode, Decode)]
struct Peer {
    #[n(0)]
    node: NodeId,
    /// The last number given to a bundle for it.
    #[n(1)]
    sent: u64,
    /// The highest number of a bundle of its that was taken.
    #[n(2)]
    heard: u64,
    /// How much it holds of the journal that we write to it, as it last said.
    #[n(3)]
    told: u64,
    /// The fleet document it holds, as it last said.
    #[n(4)]
    fleet: u64,
}

/// What is known of bundles; kept in the node's folder.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    state: State,
}

impl Memory {
    /// Reads it from a folder whose lock is held.
    pub fn open(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let state = read(&path).unwrap_or_else(|reason| {
            tracing::warn!(reason, "what was known of bundles is forgotten");
            State::default()
        });
        Self { path, state }
    }

    /// Gives the next bundle for `peer` its number, which is not given again.
    pub fn next_sequence(&mut self, peer: NodeId) -> Result<u64, FileError> {
        let known = self.peer(peer);
        known.sent += 1;
        let sequence = known.sent;
        self.keep()?;
        Ok(sequence)
    }

    /// How much `peer` is known to hold: of the journal we write to it, and which fleet document.
    pub fn told(&self, peer: &NodeId) -> (u64, u64) {
        let known = self.state.peers.iter().find(|known| known.node == *peer);
        known.map_or((0, 0), |known| (known.told, known.fleet))
    }

    /// Notes what `peer` acknowledged on a link; kept when the next bundle is.
    pub fn note_acknowledged(&mut self, peer: NodeId, seq: u64) {
        let known = self.peer(peer);
        known.told = known.told.max(seq);
    }

    /// Whether the bundle with these first bytes was taken.
    pub fn was_taken(&self, fingerprint: &Digest) -> bool {
        self.state.taken.contains(fingerprint)
    }

    /// Notes that a bundle was taken, all of it, and what its sender said in it of what it holds.
    pub fn note_taken(
        &mut self,
        fingerprint: Digest,
        (peer, sequence): (NodeId, u64),
        (told, fleet): (u64, u64),
    ) -> Result<(), FileError> {
        let known = self.peer(peer);
        // An older bundle says what was so before; a newer one may say less than one before it.
        if sequence > known.heard {
            (known.heard, known.told, known.fleet) = (sequence, told, fleet);
        }
        let taken = &mut self.state.taken;
        taken.retain(|known| *known != fingerprint);
        taken.push(fingerprint);
        let over = taken.len().saturating_sub(TAKEN_MAX);
        taken.drain(..over);
        self.keep()
    }

    fn peer(&mut self, node: NodeId) -> &mut Peer {
        let peers = &mut self.state.peers;
        let at = peers.iter().position(|peer| peer.node == node);
        let at = at.unwrap_or_else(|| {
            if peers.len() >= PEERS_MAX {
                peers.remove(0);
            }
            peers.push(Peer {
                node,
                sent: 0,
                heard: 0,
                told: 0,
                fleet: 0,
            });
            peers.len() - 1
        });
        &mut peers[at]
    }

    fn keep(&mut self) -> Result<(), FileError> {
        self.state.version = VERSION;
        let bytes = minicbor::to_vec(&self.state).expect("writing to a Vec does not fail");
        files::replace(&self.path, &bytes)
    }
}

fn read(path: &Path) -> Result<State, String> {
    if !path.exists() {
        return Ok(State::default());
    }
    let bytes = files::read(path, FILE_BYTES_MAX).map_err(|error| error.to_string())?;
    let state: State = minicbor::decode(&bytes).map_err(|error| error.to_string())?;
    if state.version == VERSION {
        Ok(state)
    } else {
        Err(format!("it has format {}", state.version))
    }
}

#[cfg(test)]
mod tests {
    use identity::NodeKey;

    use super::*;

    #[test]
    fn numbers_are_given_once_and_the_newest_word_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (hub, print) = (NodeKey::generate().id(), Digest::of(b"a bundle"));
        let mut memory = Memory::open(folder.path());
        assert_eq!(memory.next_sequence(hub).unwrap(), 1);
        assert_eq!(memory.told(&hub), (0, 0));
        memory.note_taken(print, (hub, 3), (7, 2)).unwrap();
        memory.note_taken(print, (hub, 2), (9, 9)).unwrap();

        let mut memory = Memory::open(folder.path());
        assert_eq!(memory.next_sequence(hub).unwrap(), 2);
        assert_eq!(memory.told(&hub), (7, 2));
        assert!(memory.was_taken(&print));
        memory.note_taken(print, (hub, 4), (5, 2)).unwrap();
        assert_eq!(memory.told(&hub), (5, 2));
        memory.note_acknowledged(hub, 8);
        assert_eq!(memory.told(&hub), (8, 2));
    }

    #[test]
    fn a_damaged_file_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), b"rot").unwrap();
        let mut memory = Memory::open(folder.path());
        assert_eq!(memory.next_sequence(NodeKey::generate().id()).unwrap(), 1);
    }
}

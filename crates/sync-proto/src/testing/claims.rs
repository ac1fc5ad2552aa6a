//! The watch over what an end says it holds.

use study::Digest;

use super::Violation;
use super::node::Node;
use crate::frame::{Frame, Partial, Progress};

impl Node {
    /// Checks what a frame claims against the disk, at the moment it is said.
    pub(super) fn check_claim(&self, frame: &Frame) -> Result<(), Violation> {
        let holds = |manifest: &Digest, chunk: u32, upto: u32| {
            self.disk.chunk(*manifest, chunk).len() >= upto as usize
        };
        let true_claim = match frame {
            Frame::Have {
                item,
                whole,
                partial,
            } => {
                let manifest = &self.items[item];
                self.disk.has_manifest(manifest)
                    && whole
                        .iter()
                        .all(|chunk| !self.disk.chunk(*manifest, chunk).is_empty())
                    && partial
                        .iter()
                        .all(|Partial { chunk, upto }| holds(manifest, *chunk, *upto))
            }
            Frame::Held { progress } => progress
                .iter()
                .all(|Progress { item, chunk, upto }| holds(&self.items[item], *chunk, *upto)),
            Frame::Complete { item } => self.disk.is_complete(&self.items[item]),
            Frame::RecordsHeld { journal, seq } => self.disk.head(journal).seq >= *seq,
            Frame::FleetHeld { version } => self.disk.fleet_version() >= *version,
            Frame::Records {
                journal, records, ..
            } => records.iter().all(|record| self.is_true(journal, record)),
            Frame::Hello { .. }
            | Frame::Bye { .. }
            | Frame::Fleet { .. }
            | Frame::Offer { .. }
            | Frame::Resume { .. }
            | Frame::Data { .. }
            | Frame::Class { .. }
            | Frame::Withdraw { .. }
            | Frame::Want { .. }
            | Frame::Damaged { .. }
            | Frame::Refused { .. }
            | Frame::Withdrawn { .. }
            | Frame::Contradiction { .. } => true,
        };
        if true_claim {
            Ok(())
        } else {
            Err(Violation::FalseClaim(frame.name()))
        }
    }
}

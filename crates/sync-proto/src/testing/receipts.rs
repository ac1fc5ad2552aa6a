//! Receipts in the model: a record in the receiver's own journal, once all of a manifest is there.

use std::collections::BTreeSet;

use journal::{Fact, JournalId, Receipt};
use study::Digest;

use super::node::Node;
use crate::io::Millis;

impl Node {
    /// Gives a receipt for each of the peer's manifests that is whole here and has none.
    pub(super) fn give_receipts(&mut self, now: Millis) {
        if self.disk.complete().len() == self.receipted.len() {
            return;
        }
        let whole = self.disk.complete();
        let due = whole.filter(|manifest| !self.receipted.contains(manifest));
        let due: Vec<Digest> = due.collect();
        for manifest in due {
            self.give_receipt(now, manifest);
        }
    }

    /// Gives one receipt, once.
    pub(super) fn give_receipt(&mut self, now: Millis, manifest: Digest) {
        let Some(signed) = self.disk.manifest(&manifest) else {
            return;
        };
        if !self.receipted.insert(manifest) {
            return;
        }
        let said = signed.manifest();
        let receipt = Receipt {
            study: said.study.clone(),
            revision: said.revision,
            root: said.root,
            instances: said.instances,
            manifest,
        };
        self.say_fact(now, &Fact::Receipt(receipt));
    }

    /// Whether a record may be sent: a receipt of ours only for what is whole on the disk.
    pub(super) fn is_true(&self, journal: &JournalId, record: &[u8]) -> bool {
        let receipt = receipt_in(record).filter(|_| *journal == JournalId::own(self.id));
        receipt.is_none_or(|manifest| self.disk.is_complete(&manifest))
    }

    /// Whether the peer's receipt for each manifest of ours has come.
    pub(super) fn has_all_receipts(&self) -> bool {
        let records = self.disk.records(&JournalId::own(self.peer)).iter();
        let receipted: BTreeSet<Digest> = records.filter_map(|r| receipt_in(r)).collect();
        self.outgoing
            .keys()
            .all(|digest| receipted.contains(digest))
    }
}

/// The manifest that a record gives a receipt for, if it does.
fn receipt_in(record: &[u8]) -> Option<Digest> {
    let fact = journal::read_record(record).ok()?.fact().ok()?;
    if let Fact::Receipt(receipt) = fact {
        return Some(receipt.manifest);
    }
    None
}

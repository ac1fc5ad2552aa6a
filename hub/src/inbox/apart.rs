//! Journals that are found to be apart: said loudly, and kept.

use std::sync::Arc;

use identity::NodeId;
use journal::{Diverged, Divergence, JournalId};
use store::Work;

use super::Inbox;
use crate::ledger::LedgerError;

impl Inbox {
    /// Notes that our copy of a journal and that of `unit` contradict each other.
    pub(super) fn note_divergence(
        self: &Arc<Self>,
        unit: NodeId,
        journal: JournalId,
        (ours, theirs): (u64, u64),
        kind: Divergence,
    ) {
        let node = unit.short();
        if journal.author == unit {
            tracing::error!(
                node,
                ours,
                theirs,
                ?kind,
                "this box's disk was set back or cloned: quarantine it; its images go on crossing, \
                 nothing else that it says is taken"
            );
        } else {
            tracing::error!(
                node,
                ours,
                theirs,
                ?kind,
                "this hub's journal for a box is another one than the box has: the hub's disk was \
                 set back, or its key is used twice"
            );
        }
        let found = Diverged {
            author: journal.author,
            stream: journal.stream,
            ours,
            theirs,
            kind,
        };
        let inbox = Arc::clone(self);
        // The session does not wait for it. Should the program end before it is kept, the next
        // contact finds it again.
        tokio::spawn(async move {
            let ledger = Arc::clone(&inbox.ledger);
            let job = move |work: &mut Work<'_>| -> Result<(), LedgerError> {
                ledger.note_divergence(work.sql(), &found)
            };
            if let Err(error) = inbox.writer.run(job).await {
                let error = crate::chain(&error);
                tracing::error!(error, "the finding about a journal is not kept");
            }
        });
    }
}

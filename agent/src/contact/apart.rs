//! Journals that are found to be apart: said loudly, and kept.

use journal::{Diverged, Divergence, JournalId};

use crate::vault::Vault;

/// Notes that our copy of a journal and the hub's contradict each other.
pub(crate) fn note(
    vault: &Vault,
    journal: JournalId,
    (ours, theirs): (u64, u64),
    kind: Divergence,
) {
    if journal == JournalId::own(vault.unit()) {
        tracing::error!(
            ours,
            theirs,
            ?kind,
            "the hub has another history of this box: its disk was set back or cloned; \
             images go on crossing, a person must put the box aside"
        );
    } else {
        tracing::error!(
            ours,
            theirs,
            ?kind,
            "the hub's journal for this box is another one than before: its disk was set back or \
             its key is used twice; nothing that it says is believed"
        );
    }
    let found = Diverged {
        author: journal.author,
        stream: journal.stream,
        ours,
        theirs,
        kind,
    };
    let vault = vault.clone();
    // The session does not wait for it. Should the program end before it is kept, the next contact
    // finds it again.
    tokio::spawn(async move {
        if let Err(error) = vault.note_divergence(found).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the finding about a journal is not kept");
        }
    });
}

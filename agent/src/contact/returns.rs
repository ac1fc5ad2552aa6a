//! Returns: chunks of our own that the hub gives back, in memory until each is whole.

use std::collections::BTreeMap;

use study::Digest;
use sync_proto::RefusalCode;
use sync_quic::{Arrival, Kept};

use crate::vault::{Mended, Vault, VaultError};

/// How many chunks may be on their way at once; each has at most 1 MiB. The hub sends one after the
/// other, so that more are nobody's honest wish.
const CHUNKS_MAX: usize = 4;

/// Chunks on their way back.
///
/// What has come of one counts as held for as long as this contact lasts: the hub names no byte
/// twice in it. The next contact asks for the whole chunk again.
#[derive(Debug, Default)]
pub(super) struct Returns(BTreeMap<(Digest, u32), Vec<u8>>);

impl Returns {
    /// Takes in what has come; one answer for each arrival.
    pub(super) async fn take(&mut self, vault: &Vault, arrivals: Vec<Arrival>) -> Vec<Kept> {
        let mut kept = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            kept.push(self.take_one(vault, arrival).await);
        }
        kept
    }

    async fn take_one(&mut self, vault: &Vault, arrival: Arrival) -> Kept {
        let name = (arrival.manifest, arrival.chunk);
        if arrival.offset == 0 {
            self.0.remove(&name);
        }
        if !self.0.contains_key(&name) && self.0.len() >= CHUNKS_MAX {
            return refused(RefusalCode::NoRoom, "too many chunks come back at once");
        }
        let body = self.0.entry(name).or_default();
        if u32::try_from(body.len()) != Ok(arrival.offset) {
            self.0.remove(&name);
            return refused(RefusalCode::Trouble, "a chunk came back with a gap");
        }
        body.extend_from_slice(&arrival.bytes);
        if !arrival.last {
            return Kept::Durable;
        }
        let body = self.0.remove(&name).unwrap_or_default();
        match vault.mend(arrival.manifest, arrival.chunk, body).await {
            Ok(Mended::Whole | Mended::NotWanted) => Kept::Durable,
            Ok(Mended::Other) => Kept::Damaged,
            Err(VaultError::NoRoom(_)) => refused(RefusalCode::NoRoom, "the box's disk is full"),
            Err(error) => {
                let (manifest, chunk) = (arrival.manifest, arrival.chunk);
                let error = &error as &dyn std::error::Error;
                tracing::error!(%manifest, chunk, error, "a chunk that came back is not kept");
                refused(RefusalCode::Trouble, "the box could not keep it")
            }
        }
    }
}

fn refused(code: RefusalCode, text: &str) -> Kept {
    Kept::Refused(code, text.to_owned())
}

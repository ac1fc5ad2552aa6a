//! Who may begin a handshake while many do.
//!
//! In: where a first datagram came from, and whether that address has proved to be real. Out: a
//! slot for the handshake, or what else to do.
//! Invariant: handshakes under way are bounded, over all and for each address, and most of the
//! slots are for addresses that have answered a Retry (RFC 9000 8.1.2), which costs no memory.
//! May not: know who calls; that shows after the handshake.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many handshakes may be under way at once.
pub(crate) const HANDSHAKES_MAX: usize = 256;
/// How many of these before an address has to prove that it is real, which takes a round trip.
const UNPROVEN_MAX: usize = 64;
/// How many from one address; a site's boxes may share one.
const ADDRESS_MAX: usize = 64;

/// What to do with a caller.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Answer it; the slot is free again when this is dropped.
    Answer(Slot),
    /// Let it prove its address first.
    Prove,
    /// Say nothing: it calls again by itself.
    Ignore,
}

/// Counts the handshakes under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// A handshake under way.
#[derive(Debug)]
pub(crate) struct Slot {
    gate: Gate,
    from: IpAddr,
}

impl Gate {
    /// Decides about a caller from `address`, which is `proven` when it has answered a Retry.
    pub(crate) fn judge(&self, address: IpAddr, proven: bool) -> Verdict {
        let from = site(address);
        let mut pending = self.pending();
        let all: usize = pending.values().sum();
        let here = pending.get(&from).copied().unwrap_or_default();
        if !proven && all >= UNPROVEN_MAX {
            return Verdict::Prove;
        }
        if all >= HANDSHAKES_MAX || here >= ADDRESS_MAX {
            return Verdict::Ignore;
        }
        pending.insert(from, here + 1);
        Verdict::Answer(Slot {
            gate: self.clone(),
            from,
        })
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut pending = self.gate.pending();
        match pending.get_mut(&self.from) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(pending.remove(&self.from)),
        }
    }
}

/// Whoever has an IPv6 address has 2^64 of them.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn v4(number: usize) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(number).unwrap()).into()
    }

    fn enter(gate: &Gate, address: IpAddr, proven: bool) -> Slot {
        match gate.judge(address, proven) {
            Verdict::Answer(slot) => slot,
            other @ (Verdict::Prove | Verdict::Ignore) => panic!("{other:?}"),
        }
    }

    #[test]
    fn many_handshakes_need_proof_and_too_many_are_ignored() {
        let gate = Gate::default();
        let mut slots: Vec<_> = (0..UNPROVEN_MAX)
            .map(|n| enter(&gate, v4(n), false))
            .collect();
        assert!(matches!(gate.judge(v4(1000), false), Verdict::Prove));
        slots.extend((UNPROVEN_MAX..HANDSHAKES_MAX).map(|n| enter(&gate, v4(n), true)));
        assert!(matches!(gate.judge(v4(1000), true), Verdict::Ignore));
        slots.clear();
        assert!(gate.pending().is_empty());
        enter(&gate, v4(1000), false);
    }

    #[test]
    fn one_address_gets_only_its_share() {
        let gate = Gate::default();
        let v6 = |low: u128| IpAddr::from(Ipv6Addr::from_bits((0x2001_0db8 << 96) + low));
        let slots: Vec<_> = (0..ADDRESS_MAX)
            .map(|n| enter(&gate, v6(n as u128), true))
            .collect();
        assert!(matches!(gate.judge(v6(1 << 60), true), Verdict::Ignore));
        enter(&gate, v6(1 << 64), true);
        drop(slots);
        enter(&gate, v6(1), true);
    }
}

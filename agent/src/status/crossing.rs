//! What waits to cross, when each study will be at the hub, and why it is not moving.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};
use study::{Priority, StudyUid};

use super::LinkView;
use crate::uplink::{Still, UplinkView};
use crate::vault::{Custody, StudyOverview};

/// What a byte that is not packed yet will cost on the link, in percent, until the codec has said:
/// at least, likely, at most.
const PACKED_PERCENT: [u64; 3] = [20, 50, 100];
/// How much a rate that was just measured may be too low or too high, in percent, with headers and
/// what is sent again.
const RATE_PERCENT: [u64; 3] = [110, 95, 70];
/// Decoding and comparing at the hub, and the receipt's way back, besides the round trips.
const RECEIPT_MS: [u64; 3] = [0, 500, 5000];
const RECEIPT_ROUND_TRIPS: [u64; 3] = [1, 2, 6];
/// How old the hub's word on what it holds may be.
const STALE_MS: u64 = 2000;

/// In how many seconds a study will be at the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Eta {
    /// At the earliest.
    pub(super) low: u64,
    /// Most likely.
    pub(super) seconds: u64,
    /// At the latest, if nothing more urgent comes and the link stays as it is; none while it must
    /// be waited for.
    pub(super) high: Option<u64>,
}

/// Why a study does not move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub(super) enum Halt {
    /// Nobody has recorded on what basis it may leave.
    Consent,
    /// Something of it cannot be packed: a person must look.
    SetAside,
    /// The hub does not take a part of it.
    RefusedByHub,
    /// What has come of it is still being packed, or more may come.
    Packing,
    /// All of it is at the hub; the receipt has not come yet.
    ReceiptDue,
    /// Others go first.
    BehindOthers,
    /// There is no contact, or none for a study as urgent as this.
    #[serde(untagged)]
    Link(Still),
}

/// What is known of the crossing of all studies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Crossing {
    pub(super) eta: BTreeMap<StudyUid, Eta>,
    pub(super) halts: BTreeMap<StudyUid, Halt>,
    queued: BTreeMap<Priority, u64>,
}

impl Crossing {
    /// Looks at the studies, in the order of their arrival, and at the link.
    pub(super) fn of(
        studies: &[StudyOverview],
        link: &LinkView,
        uplinks: &[UplinkView],
        wall_ms: u64,
    ) -> Self {
        let mut crossing = Self::default();
        let road = Road::of(link, uplinks, wall_ms);
        let mut waiting: Vec<_> = studies
            .iter()
            .filter(|study| match study.custody {
                Custody::InBox | Custody::Crossing | Custody::WaitingConsent => true,
                Custody::AtHub | Custody::Erased => false,
            })
            .collect();
        // The sort keeps the order of arrival.
        waiting.sort_by_key(|study| study.priority);
        let mut ahead = [0; 3];
        let mut is_first = true;
        for study in waiting {
            let left = left(study);
            let halt = halt_of(study);
            if halt.is_none() || halt == Some(Halt::Packing) {
                *crossing.queued.entry(study.priority).or_default() += left[1];
                for (ahead, left) in ahead.iter_mut().zip(left) {
                    *ahead += left;
                }
                if let Some(eta) = road.eta(ahead, study.priority) {
                    crossing.eta.insert(study.study.clone(), eta);
                }
            }
            let halt = halt.or_else(|| road.halt(study.priority, is_first && left[0] > 0));
            is_first &= halt.is_some();
            if let Some(halt) = halt {
                crossing.halts.insert(study.study.clone(), halt);
            }
        }
        crossing
    }

    /// Bytes that wait to cross, by class.
    pub(super) fn queued(&self) -> Value {
        Priority::ALL
            .iter()
            .map(|class| (class.as_str().to_owned(), json!(self.queued_of(*class))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    pub(super) fn queued_of(&self, class: Priority) -> u64 {
        self.queued.get(&class).copied().unwrap_or(0)
    }
}

/// Bytes of a study that have not crossed: at least, likely, at most.
fn left(study: &StudyOverview) -> [u64; 3] {
    let packed = study.bytes_to_cross.saturating_sub(study.bytes_at_hub);
    PACKED_PERCENT.map(|percent| packed + study.bytes_unpacked * percent / 100)
}

/// Why a study would not move over any link.
fn halt_of(study: &StudyOverview) -> Option<Halt> {
    if study.custody == Custody::WaitingConsent {
        Some(Halt::Consent)
    } else if study.set_aside > 0 {
        Some(Halt::SetAside)
    } else if study.refused.is_some() {
        Some(Halt::RefusedByHub)
    } else if study.bytes_unpacked == 0 && left(study)[0] == 0 {
        Some(Halt::ReceiptDue)
    } else if study.revision == 0 {
        Some(Halt::Packing)
    } else {
        None
    }
}

/// The road to the hub, as far as it decides when something arrives.
struct Road<'a> {
    link: &'a LinkView,
    uplink: Option<&'a UplinkView>,
    rate_kbits: u64,
    rtt_ms: u64,
    wall_ms: u64,
}

impl<'a> Road<'a> {
    fn of(link: &'a LinkView, uplinks: &'a [UplinkView], wall_ms: u64) -> Self {
        let in_use = uplinks.iter().find(|uplink| uplink.in_use);
        // Without a contact, as the last one was seen.
        let last = link.uplink.as_ref();
        let known = uplinks.iter().find(|uplink| Some(&uplink.name) == last);
        let known = in_use.or(known).or(uplinks.first());
        let of = |now: u64, known: Option<u64>| if now > 0 { now } else { known.unwrap_or(0) };
        Self {
            link,
            uplink: in_use,
            rate_kbits: of(
                if link.connected { link.rate_kbits } else { 0 },
                known.map(|uplink| uplink.rate_kbits),
            ),
            rtt_ms: of(link.rtt_ms, known.map(|uplink| uplink.rtt_ms)),
            wall_ms,
        }
    }

    /// Why a study that could cross does not.
    fn halt(&self, class: Priority, is_first: bool) -> Option<Halt> {
        match self.still(class) {
            Some(still) => Some(Halt::Link(still)),
            None if is_first => None,
            None => Some(Halt::BehindOthers),
        }
    }

    /// Why nothing of this class goes over the link.
    fn still(&self, class: Priority) -> Option<Still> {
        if !self.link.connected {
            return Some(self.link.why.clone().unwrap_or(Still::Calling));
        }
        let uplink = self.uplink.filter(|uplink| Some(class) > uplink.ceiling)?;
        uplink.why.clone()
    }

    fn eta(&self, ahead: [u64; 3], class: Priority) -> Option<Eta> {
        let still = self.still(class);
        let wait_ms = match &still {
            None => 0,
            Some(still) => still.until_ms()?.saturating_sub(self.wall_ms),
        };
        let lost_percent = (self.link.bytes_lost * 100).checked_div(self.link.bytes_sent);
        let lost_percent = lost_percent.unwrap_or(0).min(50);
        let mut seconds = [0; 3];
        for (which, seconds) in seconds.iter_mut().enumerate() {
            let mut rate = self.rate_kbits * RATE_PERCENT[which] / 100;
            if which == 2 {
                rate = rate * (100 - lost_percent) / 100;
            }
            let crossing_ms = (ahead[which] * 8).checked_div(rate)?;
            let receipt_ms = RECEIPT_MS[which] + RECEIPT_ROUND_TRIPS[which] * self.rtt_ms;
            let all_ms = wait_ms + crossing_ms + receipt_ms;
            *seconds = if which == 0 {
                all_ms
                    .saturating_sub(STALE_MS + 2 * self.rtt_ms)
                    .max(wait_ms)
                    / 1000
            } else {
                all_ms.div_ceil(1000)
            };
        }
        let [low, seconds, high] = seconds;
        Some(Eta {
            low,
            seconds,
            high: still.is_none().then_some(high),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::UsedView;
    use crate::vault::ConsentState;

    fn study(uid: &str, priority: Priority, to_cross: u64, at_hub: u64) -> StudyOverview {
        StudyOverview {
            study: StudyUid::parse(uid).unwrap(),
            priority,
            received_at_ms: 0,
            instances: 1,
            let_go: 0,
            erased: 0,
            legal_hold: false,
            conflicts: 0,
            set_aside: 0,
            damaged: 0,
            bytes_original: 0,
            bytes_held: 0,
            bytes_unpacked: 0,
            bytes_to_cross: to_cross,
            bytes_at_hub: at_hub,
            percent_at_hub: 0,
            custody: Custody::Crossing,
            consent: ConsentState::Given,
            readable: false,
            revision: 1,
            refused: None,
        }
    }

    fn uplink(ceiling: Option<Priority>, why: Option<Still>) -> UplinkView {
        let used = UsedView {
            bytes: 0,
            bytes_limit: None,
            money: "0".to_owned(),
            money_limit: None,
        };
        UplinkView {
            name: "vsat".to_owned(),
            in_use: true,
            metered: false,
            priority: 1,
            ceiling,
            why,
            rate_kbits: 1000,
            rtt_ms: 600,
            day: used.clone(),
            month: used,
            currency: String::new(),
        }
    }

    fn up() -> LinkView {
        LinkView {
            connected: true,
            rate_kbits: 1000,
            rtt_ms: 600,
            ..LinkView::default()
        }
    }

    fn uid(text: &str) -> StudyUid {
        StudyUid::parse(text).unwrap()
    }

    #[test]
    fn what_is_more_urgent_goes_first_and_the_rest_waits_for_it() {
        let studies = [
            study("1.1", Priority::Routine, 1_000_000, 0),
            study("1.2", Priority::Stat, 500_000, 250_000),
        ];
        let uplinks = [uplink(Some(Priority::Bulk), None)];
        let crossing = Crossing::of(&studies, &up(), &uplinks, 0);
        assert_eq!(crossing.halts[&uid("1.1")], Halt::BehindOthers);
        assert!(!crossing.halts.contains_key(&uid("1.2")));
        let (stat, routine) = (crossing.eta[&uid("1.2")], crossing.eta[&uid("1.1")]);
        // A quarter of a megabyte and ten times that, at a megabit.
        assert!(stat.low <= 2 && stat.high.unwrap() >= 2, "{stat:?}");
        assert!(
            routine.low <= 10 && routine.high.unwrap() >= 10,
            "{routine:?}"
        );
        assert_eq!(crossing.queued_of(Priority::Routine), 1_000_000);
        assert_eq!(crossing.queued_of(Priority::Stat), 250_000);
    }

    #[test]
    fn what_must_wait_says_for_what_and_has_no_latest_time() {
        let studies = [study("1.1", Priority::Routine, 125_000, 0)];
        let until_ms = Some(60_000);
        let why = Still::OutsideWindow { until_ms };
        let uplinks = [uplink(Some(Priority::Urgent), Some(why.clone()))];
        let crossing = Crossing::of(&studies, &up(), &uplinks, 0);
        assert_eq!(crossing.halts[&uid("1.1")], Halt::Link(why));
        let eta = crossing.eta[&uid("1.1")];
        assert!((60..65).contains(&eta.low), "{eta:?}");
        assert_eq!(eta.high, None);
        let text = serde_json::to_string(&crossing.halts[&uid("1.1")]).unwrap();
        assert_eq!(text, r#"{"reason":"outside_window","until_ms":60000}"#);
    }

    #[test]
    fn nobody_says_when_nobody_knows() {
        let studies = [study("1.1", Priority::Routine, 1000, 0)];
        let link = LinkView {
            why: Some(Still::Paused),
            ..LinkView::default()
        };
        let crossing = Crossing::of(&studies, &link, &[], 0);
        assert_eq!(crossing.halts[&uid("1.1")], Halt::Link(Still::Paused));
        assert!(crossing.eta.is_empty());
        let mut held = study("1.1", Priority::Routine, 1000, 0);
        held.custody = Custody::WaitingConsent;
        let crossing = Crossing::of(&[held], &up(), &[], 0);
        assert_eq!(crossing.halts[&uid("1.1")], Halt::Consent);
        assert_eq!(crossing.queued_of(Priority::Routine), 0);
    }
}

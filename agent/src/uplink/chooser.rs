//! Which uplink is used, for what, and why nothing moves if nothing moves: no I/O, no clock.

use study::Priority;

use super::budget::Account;
use super::calendar::{Calendar, Now};
use super::line::{CALL_BYTES, Line, Verdict, ceiling_of};
use super::settings::Uplink;
use super::words::{Order, Pause, Still, Work};

/// How often a contact is looked at.
pub(super) const LOOK_MS: u64 = 250;
/// The longest time that nothing is looked at: clocks are set and plans change.
const LOOK_MS_MAX: u64 = 10_000;
/// The longest such wait on a metered uplink while something waits to be sent.
const METERED_REDIAL_MS_MAX: u64 = 15 * 60_000;
/// How long a contact lasts that shows that its uplink is in order.
const STABLE_MS: u64 = 5 * 60_000;
/// How long an uplink is kept at least before a better one is tried.
const DWELL_MS: u64 = 30_000;
/// How long after a move a better one is left alone: to a hub, a box that moves often looks like two
/// machines with one key.
const REST_MS: u64 = 5 * 60_000;
/// How long a hub that owes an answer may be silent before another uplink is tried.
const SILENCE_MS: u64 = 10_000;
/// How long a contact on a metered uplink goes on in which nothing moves; longer while the hub owes
/// a receipt.
const LINGER_MS: u64 = 10_000;
const LINGER_OWED_MS: u64 = 120_000;

/// What is to be done about contact with the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Tell the disk what is going to be used of this uplink, then ask again.
    Cover(usize),
    /// Call over this uplink.
    Call(usize),
    /// Stay in contact.
    Stay {
        /// The least urgent that may be sent; none: nothing more is begun.
        ceiling: Option<Priority>,
    },
    /// Stay in contact, and call over another uplink: when it answers, go on there.
    Move {
        /// The other one.
        to: usize,
        /// The least urgent that may be sent until then.
        ceiling: Option<Priority>,
    },
    /// Be in no contact.
    Hold {
        /// Why.
        still: Still,
        /// When to ask again at the latest.
        look_in_ms: u64,
    },
}

/// How a contact ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// We hung up, as nothing was to be said or sent.
    HungUp,
    /// It was moved to another uplink.
    Moved,
    /// It broke, or the hub ended it.
    Lost {
        /// The next one is likely to end in the same way.
        repeats: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct Current {
    line: usize,
    since_ms: u64,
    heard_ms: u64,
    moved_ms: u64,
    /// Since when something that may go waits.
    wants_since_ms: Option<u64>,
}

/// Chooses between uplinks.
#[derive(Debug, Clone)]
pub(super) struct Chooser {
    lines: Vec<Line>,
    order: Order,
    calendar: Calendar,
    /// The longest wait between two calls on an uplink that is not metered.
    redial_ms_max: u64,
    current: Option<Current>,
    /// The uplink of the contact is not what it was.
    is_changed: bool,
    last_count_ms: Option<u64>,
    last_contact_ms: Option<u64>,
    last_move_ms: Option<u64>,
    last_work: Work,
}

impl Chooser {
    pub(super) fn new(order: Order, calendar: Calendar) -> Self {
        Self {
            lines: Vec::new(),
            order,
            calendar,
            redial_ms_max: LOOK_MS_MAX,
            current: None,
            is_changed: false,
            last_count_ms: None,
            last_contact_ms: None,
            last_move_ms: None,
            last_work: Work::default(),
        }
    }

    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    pub(super) fn line_mut(&mut self, line: usize) -> Option<&mut Line> {
        self.lines.get_mut(line)
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.lines.iter().position(|line| line.uplink.name == name)
    }

    pub(super) fn current(&self) -> Option<usize> {
        self.current.map(|current| current.line)
    }

    pub(super) const fn order(&self) -> &Order {
        &self.order
    }

    pub(super) const fn calendar(&self) -> &Calendar {
        &self.calendar
    }

    /// Other uplinks from here on, each with what was used of it before this program knew it.
    pub(super) fn handle_settings(&mut self, uplinks: Vec<(Uplink, Account)>, redial_ms_max: u64) {
        let before = std::mem::take(&mut self.lines);
        let current = self.current.and_then(|current| before.get(current.line));
        let current = current.map(|line| line.uplink.clone());
        self.redial_ms_max = redial_ms_max;
        for (uplink, account) in uplinks {
            let known = before.iter().find(|line| line.uplink.name == uplink.name);
            let line = known.map_or_else(
                || Line::new(uplink.clone(), account),
                |line| Line {
                    uplink: uplink.clone(),
                    ..line.clone()
                },
            );
            self.lines.push(line);
        }
        let Some(current) = current else { return };
        // The contact goes on only where all is as it was.
        let place = self.lines.iter().position(|line| line.uplink == current);
        self.is_changed = place.is_none();
        if let (Some(contact), Some(place)) = (&mut self.current, place) {
            contact.line = place;
        } else {
            self.current = None;
        }
    }

    pub(super) fn handle_order(&mut self, order: Order) {
        self.order = order;
    }

    pub(super) fn handle_hub_clock(&mut self, now: Now, hub_wall_ms: u64) {
        self.calendar.compare(now, hub_wall_ms);
    }

    /// A call was not answered.
    pub(super) fn handle_failed(&mut self, now: Now, line: usize) {
        let most_ms = self.back_off_ms_max(line);
        if let Some(line) = self.lines.get_mut(line) {
            line.back_off(now.count_ms, most_ms);
            line.unsettle(now.count_ms);
            line.account.spend(CALL_BYTES, line.uplink.limits.price);
        }
    }

    /// A call was answered.
    pub(super) fn handle_up(&mut self, now: Now, line: usize) {
        self.is_changed = false;
        self.current = Some(Current {
            line,
            since_ms: now.count_ms,
            heard_ms: now.count_ms,
            moved_ms: now.count_ms,
            wants_since_ms: None,
        });
    }

    /// The contact over `line` has ended.
    pub(super) fn handle_down(&mut self, now: Now, line: usize, ended: Ended) {
        self.last_contact_ms = Some(now.count_ms);
        let current = self.current.filter(|current| current.line == line);
        if current.is_some() {
            self.current = None;
        }
        let most_ms = self.back_off_ms_max(line);
        let owed = self.last_work.most_urgent.is_some();
        let Some(line) = self.lines.get_mut(line) else {
            return;
        };
        let since_ms = current.map_or(now.count_ms, |current| current.since_ms);
        if now.count_ms.saturating_sub(since_ms) >= STABLE_MS {
            line.flaps = 0;
        }
        line.last_look_bytes = 0;
        match ended {
            // What the hub still owes it says at the next call: not at once.
            Ended::HungUp if owed && line.uplink.metered => line.back_off(now.count_ms, most_ms),
            Ended::HungUp => {}
            Ended::Moved => {
                self.last_move_ms = Some(now.count_ms);
                line.unsettle(now.count_ms);
            }
            Ended::Lost { repeats } => {
                if !repeats {
                    line.failures = 0;
                }
                line.back_off(now.count_ms, most_ms);
                line.unsettle(now.count_ms);
            }
        }
    }

    /// So much crossed the link of the contact, and so it does.
    pub(super) fn handle_traffic(&mut self, now: Now, traffic: Crossed) {
        let Some(current) = &mut self.current else {
            return;
        };
        let Some(line) = self.lines.get_mut(current.line) else {
            return;
        };
        if traffic.has_heard {
            current.heard_ms = now.count_ms;
        }
        if traffic.bytes > 0 {
            current.moved_ms = now.count_ms;
        }
        line.account.spend(traffic.bytes, line.uplink.limits.price);
        line.last_look_bytes = traffic.bytes;
        if traffic.rate_kbits > 0 {
            line.rate_kbits = traffic.rate_kbits;
            line.seen_ms = self.calendar.newest_ms();
        }
        if traffic.rtt_ms > 0 {
            line.rtt_ms = traffic.rtt_ms;
        }
        if now.count_ms.saturating_sub(current.since_ms) >= STABLE_MS {
            line.flaps = 0;
        }
    }

    /// What is to be done.
    pub(super) fn decide(&mut self, now: Now, work: Work) -> Decision {
        let wall_ms = self.tick(now);
        if more_urgent(work, self.last_work) {
            self.lines.iter_mut().for_each(|line| line.retry_at_ms = 0);
        }
        self.last_work = work;
        let verdicts: Vec<Verdict> = self
            .lines
            .iter()
            .map(|line| line.verdict(&self.order, wall_ms))
            .collect();
        if std::mem::take(&mut self.is_changed) {
            return hold((Still::Calling, 0));
        }
        match &mut self.current {
            Some(current) => {
                let wants = carries(ceiling_of(&verdicts[current.line]), work);
                let since_ms = current.wants_since_ms.unwrap_or(now.count_ms);
                current.wants_since_ms = wants.then_some(since_ms);
                let current = *current;
                self.decide_in_contact(now, work, current, &verdicts)
            }
            None => self.decide_alone(now, work, wall_ms, &verdicts),
        }
    }

    /// What may be done with each uplink.
    pub(super) fn verdicts(&mut self, now: Now) -> Vec<Verdict> {
        let wall_ms = self.tick(now);
        self.lines
            .iter()
            .map(|line| line.verdict(&self.order, wall_ms))
            .collect()
    }

    fn tick(&mut self, now: Now) -> Option<u64> {
        let wall_ms = self.calendar.look(now);
        let before_ms = self.last_count_ms.replace(now.count_ms);
        let ran_ms = before_ms.map_or(0, |before| now.count_ms.saturating_sub(before));
        for line in &mut self.lines {
            let local_ms = wall_ms.map(|ms| line.uplink.offset.local_ms(ms));
            line.account.roll(local_ms, ran_ms);
        }
        wall_ms
    }

    fn decide_in_contact(
        &self,
        now: Now,
        work: Work,
        current: Current,
        verdicts: &[Verdict],
    ) -> Decision {
        let (ceiling, less) = match &verdicts[current.line] {
            Verdict::Open { ceiling, less } => (*ceiling, less),
            Verdict::Closed { still, in_ms } => return hold((still.clone(), *in_ms)),
        };
        let line = &self.lines[current.line];
        let since = |ms: u64| now.count_ms.saturating_sub(ms);
        let wants = current.wants_since_ms.is_some();
        let linger_ms = if wants { LINGER_OWED_MS } else { LINGER_MS };
        let hangs_up = line.uplink.metered || self.order.pause == Pause::ExceptStat;
        if hangs_up && since(current.moved_ms) >= linger_ms {
            let next_call_ms = None;
            let still = less.clone().filter(|_| work.most_urgent.is_some());
            return hold(still.unwrap_or((Still::NothingToSend { next_call_ms }, LOOK_MS)));
        }
        // Who has not been asked anything owes no answer.
        let owed_ms = current.wants_since_ms.map(|ms| ms.max(current.heard_ms));
        let is_silent = owed_ms.is_some_and(|ms| since(ms) >= SILENCE_MS.max(8 * line.rtt_ms));
        let has_dwelt = since(current.since_ms) >= DWELL_MS
            && self.last_move_ms.is_none_or(|ms| since(ms) >= REST_MS);
        let others = (0..self.lines.len()).filter(|other| {
            let theirs = &self.lines[*other];
            let is_better = has_dwelt && theirs.uplink.preference() < line.uplink.preference();
            let may_carry = carries(ceiling_of(&verdicts[*other]), work);
            let is_worth = if wants {
                may_carry && (is_silent || is_better)
            } else {
                // To be in contact here asks for news as well as a call there would.
                let is_open = ceiling_of(&verdicts[*other]).is_some();
                may_carry || is_better && is_open && !theirs.uplink.metered
            };
            *other != current.line
                && is_worth
                && theirs.settled_at_ms.max(theirs.retry_at_ms) <= now.count_ms
        });
        let to = others.min_by_key(|other| (self.lines[*other].uplink.preference(), *other));
        if !line.is_covered(line.ahead_max()) {
            return Decision::Cover(current.line);
        }
        match to {
            Some(to) if !self.lines[to].is_covered(CALL_BYTES) => Decision::Cover(to),
            Some(to) => Decision::Move { to, ceiling },
            None => Decision::Stay { ceiling },
        }
    }

    fn decide_alone(
        &self,
        now: Now,
        work: Work,
        wall_ms: Option<u64>,
        verdicts: &[Verdict],
    ) -> Decision {
        let wanted: Vec<usize> = (0..self.lines.len())
            .filter(|line| self.has_purpose(now, work, *line, &verdicts[*line]))
            .collect();
        let callable = wanted
            .iter()
            .copied()
            .filter(|line| self.lines[*line].retry_at_ms <= now.count_ms);
        let best = callable.min_by_key(|number| {
            let line = &self.lines[*number];
            let is_unsettled = line.settled_at_ms > now.count_ms;
            (is_unsettled, line.uplink.preference(), *number)
        });
        if let Some(line) = best {
            return if self.lines[line].is_covered(CALL_BYTES) {
                Decision::Call(line)
            } else {
                Decision::Cover(line)
            };
        }
        let at_ms = |in_ms: u64| wall_ms.map(|ms| ms.saturating_add(in_ms));
        let waits = wanted.iter().map(|line| self.lines[*line].retry_at_ms);
        if let Some(retry_at_ms) = waits.min() {
            let in_ms = retry_at_ms.saturating_sub(now.count_ms);
            let next_call_ms = at_ms(in_ms);
            return hold((Still::NoAnswer { next_call_ms }, in_ms));
        }
        hold(self.why_no_call(now, work, verdicts, &at_ms))
    }

    /// Why no uplink is called although none of them failed.
    fn why_no_call(
        &self,
        now: Now,
        work: Work,
        verdicts: &[Verdict],
        at_ms: &dyn Fn(u64) -> Option<u64>,
    ) -> (Still, u64) {
        let mut waits = Vec::new();
        let mut polls = Vec::new();
        for (line, verdict) in self.lines.iter().zip(verdicts) {
            match verdict {
                Verdict::Closed { still, in_ms } => waits.push((still.clone(), *in_ms)),
                Verdict::Open { less, .. } => {
                    // What waits and may not go explains more than the next look for news.
                    waits.extend(less.clone().filter(|_| work.most_urgent.is_some()));
                    polls.push(self.poll_in_ms(now, line));
                }
            }
        }
        let soonest = waits.into_iter().min_by_key(|(_, in_ms)| *in_ms);
        match (polls.into_iter().min(), soonest) {
            (Some(poll), Some((still, in_ms))) if work.most_urgent.is_some() => {
                (still, in_ms.min(poll))
            }
            (None, Some(wait)) => wait,
            (poll, _) => {
                let in_ms = poll.unwrap_or(u64::MAX);
                let next_call_ms = at_ms(in_ms).filter(|_| in_ms < u64::MAX);
                (Still::NothingToSend { next_call_ms }, in_ms)
            }
        }
    }

    /// Whether there is a reason to call over an uplink.
    fn has_purpose(&self, now: Now, work: Work, line: usize, verdict: &Verdict) -> bool {
        let Some(ceiling) = ceiling_of(verdict) else {
            return false;
        };
        carries(Some(ceiling), work) || self.poll_in_ms(now, &self.lines[line]) == 0
    }

    /// How long until the hub is called although there is nothing to send.
    fn poll_in_ms(&self, now: Now, line: &Line) -> u64 {
        if self.order.pause != Pause::No {
            return u64::MAX;
        }
        if !line.uplink.metered {
            return 0;
        }
        self.last_contact_ms.map_or(0, |last| {
            (last + line.uplink.poll_interval_ms).saturating_sub(now.count_ms)
        })
    }

    fn back_off_ms_max(&self, line: usize) -> u64 {
        let Some(line) = self.lines.get(line) else {
            return self.redial_ms_max;
        };
        if !line.uplink.metered {
            self.redial_ms_max
        } else if self.last_work.most_urgent.is_some() {
            METERED_REDIAL_MS_MAX.min(line.uplink.poll_interval_ms)
        } else {
            line.uplink.poll_interval_ms
        }
    }
}

/// What crossed since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Crossed {
    /// Bytes both ways, headers included.
    pub(super) bytes: u64,
    /// Some of them came from the hub.
    pub(super) has_heard: bool,
    /// The rate that the link delivers; 0 until known.
    pub(super) rate_kbits: u64,
    /// Its round trip; 0 until known.
    pub(super) rtt_ms: u64,
}

/// Whether something of what waits may go.
fn carries(ceiling: Option<Priority>, work: Work) -> bool {
    ceiling
        .zip(work.most_urgent)
        .is_some_and(|(ceiling, most_urgent)| most_urgent <= ceiling)
}

/// Whether something waits that is more urgent than all that waited.
fn more_urgent(work: Work, before: Work) -> bool {
    match (work.most_urgent, before.most_urgent) {
        (Some(now), Some(before)) => now < before,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

fn hold((still, in_ms): (Still, u64)) -> Decision {
    Decision::Hold {
        still,
        look_in_ms: in_ms.min(LOOK_MS_MAX),
    }
}

//! Seeded campaigns over the choice of uplinks, in virtual time: links that fail, budgets, hours,
//! passes, orders of a person, crashes, and clocks that jump. `CHASQUI_CAMPAIGN` multiplies them.

#![expect(clippy::print_stdout, reason = "a campaign says what it did")]

use std::collections::BTreeMap;

use sync_proto::testing::Dice;
use sync_quic::Local;

use super::budget::Limit;
use super::chooser::LOOK_MS;
use super::hours::{DAY_MS, Offset, Sky, Window};
use super::line::CALL_BYTES;
use super::*;
use crate::config::ProfileName;

/// How many seeds one run takes when `CHASQUI_CAMPAIGN` is 1.
const SEEDS: u64 = 200;
/// Decisions of one seed while things go wrong.
const STEPS: u64 = 500;
/// How long a box that nothing hinders may take to send what waits.
const CALM_DAYS: u64 = 4;
const MIDNIGHT: u64 = 1_795_305_600_000;
const NAMES: [&str; 3] = ["a", "b", "c"];
/// What a call that is answered costs.
const HANDSHAKE_BYTES: u64 = 6000;

/// What a wrong program might do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// It takes for written what was not.
    NotWritten,
    /// It goes on sending whatever may go.
    DeafToCeiling,
    /// It stays in contact whatever is said.
    DeafToHold,
}

struct Link {
    is_up: bool,
    rate_kbits: u64,
    passes: Option<Passes>,
    /// Bytes that crossed, by the true local day.
    crossed: BTreeMap<u64, u64>,
    periods: u64,
}

struct World {
    dice: Dice,
    lie: Option<Lie>,
    chooser: Chooser,
    uplinks: Vec<Uplink>,
    links: Vec<Link>,
    contact: Option<(usize, Option<Priority>)>,
    waits: [u64; 4],
    now_ms: u64,
    started_ms: u64,
    skew_ms: i64,
    has_jumped: bool,
    /// Starts with another clock than the start before.
    odd_starts: u64,
    started_skew_ms: i64,
    disk: BTreeMap<String, KeptUplink>,
    order: Order,
    newest_ms: u64,
    trace: Vec<(u64, Decision)>,
}

impl World {
    fn new(seed: u64, lie: Option<Lie>) -> Self {
        let mut dice = Dice::new(seed);
        let uplinks: Vec<Uplink> = NAMES.iter().map(|name| uplink(name, &mut dice)).collect();
        let links = uplinks.iter().map(|_| Link {
            is_up: !dice.once_in(4),
            rate_kbits: [64, 256, 2000, 10_000][dice.index(4)],
            passes: dice.once_in(4).then(|| passes(&mut dice)),
            crossed: BTreeMap::new(),
            periods: 1,
        });
        let links = links.collect();
        let mut world = Self {
            dice,
            lie,
            chooser: Chooser::new(Order::default(), Calendar::new(0)),
            uplinks,
            links,
            contact: None,
            waits: [0; 4],
            now_ms: MIDNIGHT + 10 * 3_600_000,
            started_ms: 0,
            skew_ms: 0,
            has_jumped: false,
            odd_starts: 0,
            started_skew_ms: 0,
            disk: BTreeMap::new(),
            order: Order::default(),
            newest_ms: 0,
            trace: Vec::new(),
        };
        world.start();
        world
    }

    fn now(&self) -> Now {
        Now {
            count_ms: self.now_ms - self.started_ms,
            wall_ms: self.now_ms.saturating_add_signed(self.skew_ms),
        }
    }

    fn work(&self) -> Work {
        let waits = Priority::ALL.into_iter().zip(self.waits);
        Work {
            most_urgent: waits
                .into_iter()
                .find(|(_, bytes)| *bytes > 0)
                .map(|(class, _)| class),
        }
    }

    /// The program starts from what the disk has.
    fn start(&mut self) {
        self.contact = None;
        self.started_ms = self.now_ms;
        self.odd_starts += u64::from(self.skew_ms != self.started_skew_ms);
        self.started_skew_ms = self.skew_ms;
        self.chooser = Chooser::new(self.order.clone(), Calendar::new(self.newest_ms));
        self.settle();
    }

    fn settle(&mut self) {
        let known = self.uplinks.iter().map(|uplink| {
            let kept = self.disk.get(&uplink.name).cloned().unwrap_or_default();
            (uplink.clone(), Account::new(kept.day, kept.month))
        });
        self.chooser.handle_settings(known.collect(), 30_000);
        for (line, link) in self.links.iter().enumerate() {
            self.chooser.line_mut(line).unwrap().passes = link.passes.clone();
        }
        if self.chooser.current().is_none() {
            // Its uplink is another one: the edge hangs up.
            self.end(Ended::HungUp);
        }
    }

    fn write(&mut self, line: usize, cover: &Cover) {
        if self.lie == Some(Lie::NotWritten) {
            return;
        }
        let name = self.uplinks[line].name.clone();
        let kept = KeptUplink {
            name: name.clone(),
            day: cover.day,
            month: cover.month,
            ..KeptUplink::default()
        };
        self.disk.insert(name, kept);
        self.newest_ms = self.chooser.calendar().newest_ms();
    }

    /// What went wrong, if anything may.
    fn fault(&mut self) {
        let dice = &mut self.dice;
        let line = dice.index(NAMES.len());
        match dice.below(40) {
            0..4 => self.links[line].is_up = false,
            4..10 => self.links[line].is_up = true,
            10..14 => self.waits[dice.index(4)] += dice.below(2 << 20),
            14 => {
                self.now_ms += dice.below(30 * 3_600_000);
                self.start();
            }
            15 => self.start(),
            16 => {
                self.order.pause = [Pause::No, Pause::All, Pause::ExceptStat][dice.index(3)];
                self.chooser.handle_order(self.order.clone());
            }
            17 => {
                let only = [None, Some("a"), Some("b")][dice.index(3)];
                self.order.only = only.map(str::to_owned);
                self.chooser.handle_order(self.order.clone());
            }
            18 if self.has_jumped || dice.once_in(4) => {
                self.has_jumped = true;
                let days = [-400, -2, -1, 0, 0, 1, 2, 400][dice.index(8)];
                self.skew_ms = days * DAY_MS.cast_signed();
            }
            19 => {
                self.links[line].passes = dice.once_in(2).then(|| passes(dice));
                self.settle();
            }
            20 => {
                self.uplinks[line] = uplink(NAMES[line], dice);
                // What crossed before was within other limits.
                self.links[line].crossed.clear();
                self.links[line].periods += 1;
                self.settle();
            }
            _ => {}
        }
    }

    /// Time passes; what may crosses.
    fn pass(&mut self, span_ms: u64) -> Result<(), String> {
        let Some((line, ceiling)) = self.contact else {
            self.now_ms += span_ms;
            return Ok(());
        };
        // A contact is looked at often.
        let span_ms = LOOK_MS;
        let ceiling = if self.lie == Some(Lie::DeafToCeiling) {
            Some(Priority::Bulk)
        } else {
            ceiling
        };
        let link = &self.links[line];
        let mut crossed = Crossed {
            rate_kbits: link.rate_kbits,
            rtt_ms: 600,
            ..Crossed::default()
        };
        let mut least_urgent = None;
        if link.is_up {
            let mut room = link.rate_kbits * span_ms / 8;
            for (class, waits) in Priority::ALL.into_iter().zip(&mut self.waits) {
                if Some(class) <= ceiling {
                    let sent = room.min(*waits);
                    *waits -= sent;
                    room -= sent;
                    crossed.bytes += sent;
                    least_urgent = if sent > 0 { Some(class) } else { least_urgent };
                }
            }
            crossed.has_heard = crossed.bytes > 0;
        }
        if least_urgent.is_some() {
            self.check_use(line, least_urgent)?;
        }
        self.now_ms += span_ms;
        self.spend(line, crossed.bytes);
        let now = self.now();
        self.chooser.handle_traffic(now, crossed);
        if !self.links[line].is_up && self.dice.once_in(400) {
            self.end(Ended::Lost { repeats: false });
        }
        Ok(())
    }

    fn spend(&mut self, line: usize, bytes: u64) {
        let day = self.uplinks[line].offset.local_ms(self.now_ms) / DAY_MS;
        *self.links[line].crossed.entry(day).or_default() += bytes;
    }

    fn end(&mut self, ended: Ended) {
        let Some((line, _)) = self.contact.take() else {
            return;
        };
        let now = self.now();
        self.chooser.handle_down(now, line, ended);
        let exact = self.chooser.line_mut(line).unwrap().account.settle();
        self.write(line, &exact);
    }

    fn call(&mut self, line: usize) {
        let now = self.now();
        if !self.links[line].is_up || self.dice.once_in(20) {
            self.spend(line, CALL_BYTES);
            self.chooser.handle_failed(now, line);
            let exact = self.chooser.line_mut(line).unwrap().account.settle();
            // The contact over another one goes on, and its cover with it.
            self.write(line, &exact);
            return;
        }
        self.end(Ended::Moved);
        self.chooser.handle_up(now, line);
        self.chooser.handle_hub_clock(now, self.now_ms);
        self.contact = Some((line, None));
        self.spend(line, HANDSHAKE_BYTES);
        let crossed = Crossed {
            bytes: HANDSHAKE_BYTES,
            has_heard: true,
            ..Crossed::default()
        };
        self.chooser.handle_traffic(now, crossed);
    }

    /// One decision and what comes of it: how long nothing is asked then.
    fn act(&mut self) -> Result<u64, String> {
        loop {
            let (now, work) = (self.now(), self.work());
            let decision = self.chooser.decide(now, work);
            self.trace.push((self.now_ms, decision.clone()));
            match decision {
                Decision::Cover(line) => {
                    let cover = self.chooser.lines()[line].cover();
                    self.write(line, &cover);
                    self.chooser
                        .line_mut(line)
                        .unwrap()
                        .account
                        .handle_covered(&cover);
                }
                Decision::Call(line) => {
                    self.check_use(line, None)?;
                    self.call(line);
                    return Ok(0);
                }
                Decision::Stay { ceiling } => {
                    let line = self.chooser.current().ok_or("stays in no contact")?;
                    self.check_use(line, ceiling)?;
                    self.contact = Some((line, ceiling));
                    return Ok(LOOK_MS);
                }
                Decision::Move { to, ceiling } => {
                    let line = self.chooser.current().ok_or("moves from no contact")?;
                    self.check_use(line, ceiling)?;
                    self.check_use(to, None)?;
                    self.contact = Some((line, ceiling));
                    self.call(to);
                    return Ok(LOOK_MS);
                }
                Decision::Hold { .. } if self.lie == Some(Lie::DeafToHold) => return Ok(LOOK_MS),
                Decision::Hold { look_in_ms, .. } => {
                    self.end(Ended::HungUp);
                    return Ok(look_in_ms.max(1));
                }
            }
        }
    }

    /// What a person has said, hours and passes hold, judged by the true time where no clock lies.
    fn check_use(&self, line: usize, ceiling: Option<Priority>) -> Result<(), String> {
        let uplink = &self.uplinks[line];
        let wrong = |what: &str| Err(format!("{what} over {} at {}", uplink.name, self.now_ms));
        if self.order.pause == Pause::All {
            return wrong("contact in a pause");
        }
        if self.order.pause == Pause::ExceptStat && ceiling > Some(Priority::Stat) {
            return wrong("more than STAT in a pause");
        }
        if self
            .order
            .only
            .as_ref()
            .is_some_and(|only| *only != uplink.name)
        {
            return wrong("contact over one that was not chosen");
        }
        if self.has_jumped {
            return Ok(());
        }
        let sky = |passes: &Passes| passes.sky(self.now_ms, uplink.guard_ms);
        if matches!(
            self.links[line].passes.as_ref().map(sky),
            Some(Sky::Wait { .. })
        ) {
            return wrong("contact outside a pass");
        }
        let local_ms = uplink.offset.local_ms(self.now_ms);
        let is_outside = hours::windows_open_in_ms(&uplink.windows, local_ms).is_some();
        if is_outside && ceiling > uplink.outside {
            return wrong("too much outside the hours");
        }
        Ok(())
    }

    /// What holds at any moment.
    fn check(&mut self) -> Result<(), String> {
        for (number, line) in self.chooser.lines().iter().enumerate() {
            let limits = &line.uplink.limits;
            if !limits.bind() {
                continue;
            }
            let name = &line.uplink.name;
            let told = self.disk.get(name).cloned().unwrap_or_default();
            let used = line.account.day;
            let is_new = told.day.number != used.number;
            if used.bytes > told.day.bytes && (!is_new || used.bytes > 0) {
                return Err(format!(
                    "{name}: used {used:?}, the disk knows {:?}",
                    told.day
                ));
            }
            let Some(limit) = limits.day.bytes else {
                continue;
            };
            let link = &self.links[number];
            let slack = link.rate_kbits * LOOK_MS / 8 + CALL_BYTES + HANDSHAKE_BYTES;
            let most = link.crossed.values().max().copied().unwrap_or(0);
            if !self.has_jumped && most > limit + slack {
                return Err(format!("{name}: {most} in a day, {limit} allowed"));
            }
            let all: u64 = link.crossed.values().sum();
            let days = (self.now_ms - MIDNIGHT) / DAY_MS + 2;
            let most = (limit + slack) * (days + link.periods + 2 * self.odd_starts);
            if all > most {
                return Err(format!("{name}: {all} in all, {most} at most"));
            }
        }
        let in_contact = self.contact.map(|(line, _)| line);
        if in_contact != self.chooser.current() {
            return Err("the contact is another one".to_owned());
        }
        if in_contact.is_some() && self.order.pause == Pause::All && self.lie.is_some() {
            return Err("contact in a pause".to_owned());
        }
        Ok(())
    }

    /// Nothing hinders any more: all that waits must leave.
    fn calm_down(&mut self) -> Result<(), String> {
        self.order = Order::default();
        self.chooser.handle_order(Order::default());
        self.skew_ms = 0;
        for (link, uplink) in self.links.iter_mut().zip(&mut self.uplinks) {
            link.is_up = true;
            link.rate_kbits = 10_000;
            link.passes = None;
            uplink.limits.month = Limit::default();
            uplink.limits.day.money = None;
            // All that waits goes in one day, as the rest of this one may be used up.
            uplink.limits.day.bytes = uplink.limits.day.bytes.map(|_| 64 << 20);
        }
        self.waits = self.waits.map(|waits| waits.min(8 << 20));
        self.settle();
        let until_ms = self.now_ms + CALM_DAYS * DAY_MS;
        while self.work().most_urgent.is_some() {
            if self.now_ms > until_ms {
                return Err(format!("{:?} never left", self.waits));
            }
            let wait_ms = self.act()?;
            // The answer is a function of the time: few questions are enough.
            self.pass(if wait_ms > 1000 {
                600_000
            } else {
                wait_ms.max(1)
            })?;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            let wait_ms = self.act()?;
            self.check()?;
            let wait_ms = match self.dice.below(30) {
                0 => self.dice.below(4 * 3_600_000),
                _ => wait_ms,
            };
            self.pass(wait_ms)?;
            self.fault();
        }
        self.calm_down()
    }
}

fn uplink(name: &str, dice: &mut Dice) -> Uplink {
    let bytes = |dice: &mut Dice| dice.once_in(2).then(|| (1 << 20) + dice.below(8 << 20));
    Uplink {
        name: name.to_owned(),
        local: Local::Any,
        profile: ProfileName::Satellite,
        rate_kbit: 0,
        segmentation_offload: true,
        metered: dice.once_in(2),
        poll_interval_ms: 3_600_000,
        priority: u8::try_from(dice.below(3)).unwrap(),
        limits: Limits {
            day: Limit {
                bytes: bytes(dice),
                money: None,
            },
            month: Limit {
                bytes: bytes(dice).map(|bytes| bytes * 8),
                money: None,
            },
            price: Money::default(),
            reserve_percent: 10,
        },
        currency: String::new(),
        windows: if dice.once_in(3) {
            vec![Window::parse("22:00-06:00").unwrap()]
        } else {
            Vec::new()
        },
        offset: Offset::parse(["+00:00", "+05:30", "-03:00"][dice.index(3)]).unwrap(),
        outside: [None, Some(Priority::Stat), Some(Priority::Urgent)][dice.index(3)],
        plan: None,
        guard_ms: 20_000,
    }
}

/// A pass of ten minutes in every hour or so, for some days.
fn passes(dice: &mut Dice) -> Passes {
    let mut text = String::new();
    let mut at = MIDNIGHT;
    while at < MIDNIGHT + 5 * DAY_MS {
        at += 1_200_000 + dice.below(3_600_000);
        let stamp = |ms: u64| {
            let clock = identity::calendar::format_utc(ms);
            let (date, time) = clock.split_once(' ').unwrap();
            format!(
                "{date}T{}:{:02}Z",
                time.trim_end_matches(" UTC"),
                ms / 1000 % 60
            )
        };
        text.push_str(&format!("{} {}\n", stamp(at), stamp(at + 600_000)));
    }
    Passes::parse(&text).unwrap()
}

fn campaign(seed: u64, lie: Option<Lie>) -> Result<Vec<(u64, Decision)>, String> {
    let mut world = World::new(seed, lie);
    world.run()?;
    Ok(world.trace)
}

#[test]
fn whatever_happens_budgets_hours_passes_and_orders_hold() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let first = number("CHASQUI_SEED").unwrap_or(0);
    let seeds = first..first + SEEDS * number("CHASQUI_CAMPAIGN").unwrap_or(1);
    println!("campaign over seeds {seeds:?}");
    let mut decisions: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds {
        let trace = campaign(seed, None)
            .unwrap_or_else(|what| panic!("seed {seed}: {what} (replay: CHASQUI_SEED={seed})"));
        for (_, decision) in trace {
            *decisions.entry(kind(&decision)).or_default() += 1;
        }
    }
    println!("decisions: {decisions:?}");
    // Every decision, and every reason for none, must have been tried.
    assert_eq!(decisions.len(), 14, "{decisions:?}");
}

fn kind(decision: &Decision) -> &'static str {
    match decision {
        Decision::Cover(_) => "cover",
        Decision::Call(_) => "call",
        Decision::Stay { .. } => "stay",
        Decision::Move { .. } => "move",
        Decision::Hold { still, .. } => match still {
            Still::NoVoucher => "no voucher",
            Still::HubRefuses => "hub refuses",
            Still::Paused => "paused",
            Still::PausedExceptStat => "paused except stat",
            Still::BudgetUsed { .. } => "budget used",
            Still::BudgetReserved { .. } => "budget reserved",
            Still::OutsideWindow { .. } => "outside window",
            Still::WaitingForContact { .. } => "waiting for contact",
            Still::NoAnswer { .. } => "no answer",
            Still::NothingToSend { .. } => "nothing to send",
            Still::NotChosen => "not chosen",
            Still::Calling => "calling",
        },
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        assert_eq!(campaign(seed, None), campaign(seed, None), "seed {seed}");
    }
}

#[test]
fn a_program_that_does_not_obey_is_caught() {
    for lie in [Lie::NotWritten, Lie::DeafToCeiling, Lie::DeafToHold] {
        let caught = (0..40).find_map(|seed| campaign(seed, Some(lie)).err());
        println!("{lie:?}: {caught:?}");
        assert!(caught.is_some(), "{lie:?} goes unseen");
    }
}

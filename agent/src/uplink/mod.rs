//! Uplink: which way to the hub is used now, for what, and what that costs.
//!
//! In: the operator's uplinks and contact plans, what a person says, what waits, what crossed. Out:
//! whether to call, over which uplink, for which classes; why nothing moves if nothing moves.
//! Invariant: of a budget nothing is used that the disk was not told of before; a pause holds until
//! a person lifts it; no clock gives a day's budget twice.
//! May not: open sockets, know what is sent.

mod budget;
mod calendar;
mod chooser;
mod hours;
mod line;
mod money;
mod orders;
mod settings;
mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use study::Priority;
use thiserror::Error;
use tokio::sync::watch;

use crate::config::{Config, ConfigError};
use crate::vault::{KeptUplink, Vault, VaultError};
use budget::{Account, Cover, Limits};
use calendar::Calendar;
use chooser::{Chooser, Crossed, Decision};
use line::{Line, Verdict};

pub use budget::Period;
pub use calendar::Now;
pub use chooser::Ended;
pub use hours::{HoursError, PLAN_BYTES_MAX, Passes};
pub use money::{Money, MoneyError};
pub use orders::LinkRequest;
pub(crate) use orders::command;
pub use settings::{Uplink, UplinkError};
pub use words::{Order, Pause, Still, Work};

/// How often contact plans are looked at for changes.
const PLANS_LOOK_MS: u64 = 10_000;
/// How often what is used without a limit is written down.
const KEEP_MS: u64 = 60_000;

/// How often a contact asks what to do.
pub const LOOK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(chooser::LOOK_MS);

/// Says why what a person asked of the uplinks was not done.
#[derive(Debug, Error)]
pub enum OrderError {
    /// There is none of that name.
    #[error("there is no uplink `{0}`")]
    Unknown(String),
    /// It could not be kept.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The program that has the settings does not run.
    #[error("the box does not run: it reads its settings when it starts")]
    NotRunning,
    /// The settings cannot be used; those before stay in effect.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The same.
    #[error("uplinks: {0}")]
    Uplink(#[from] UplinkError),
}

/// An uplink to call over, with what is remembered of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The uplink.
    pub uplink: Uplink,
    /// The rate that it was last seen to deliver, in kbit/s; 0 until known.
    pub rate_kbits: u64,
    /// Its round trip; 0 until known.
    pub rtt_ms: u64,
    /// How long ago that was.
    pub age_ms: u64,
}

/// What `contact` is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Call the hub.
    Call(Box<Way>),
    /// Stay in contact; none: begin nothing more.
    Stay(Option<Priority>),
    /// Stay in contact, and call over this uplink beside it, to go on there.
    Move(Box<Way>, Option<Priority>),
    /// Hang up, or be in no contact, for so long.
    Hold(Still, std::time::Duration),
}

/// What has crossed the link of a contact since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meter {
    /// Bytes sent, headers included.
    pub sent: u64,
    /// Bytes received, headers included.
    pub received: u64,
}

/// An uplink as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkView {
    /// Its name.
    pub name: String,
    /// The contact with the hub goes over it.
    pub in_use: bool,
    /// Each byte costs.
    pub metered: bool,
    /// The least is used rather.
    pub priority: u8,
    /// The least urgent that may go over it now; none: nothing.
    pub ceiling: Option<Priority>,
    /// Why nothing may, or not everything.
    pub why: Option<Still>,
    /// The rate that it was last seen to deliver, in kbit/s; 0 until known.
    pub rate_kbits: u64,
    /// Its round trip; 0 until known.
    pub rtt_ms: u64,
    /// What was used this day.
    pub day: UsedView,
    /// What was used this month.
    pub month: UsedView,
    /// The currency of its amounts of money.
    pub currency: String,
}

/// What was used of a budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedView {
    /// Bytes, both ways, headers included.
    pub bytes: u64,
    /// The most.
    pub bytes_limit: Option<u64>,
    /// What they cost.
    pub money: String,
    /// The most.
    pub money_limit: Option<String>,
}

/// Where the settings come from, to read them again.
type Source = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// The box's uplinks; clones share them.
#[derive(Clone)]
pub struct Uplinks(Arc<Inner>);

struct Inner {
    vault: Vault,
    changed: watch::Sender<()>,
    state: Mutex<State>,
    source: Mutex<Option<Source>>,
}

struct State {
    chooser: Chooser,
    /// What is known of uplinks that are not in the settings, too.
    kept: BTreeMap<String, KeptUplink>,
    /// The plans as they were read, by the uplink's name.
    plans: BTreeMap<String, (PathBuf, Option<SystemTime>)>,
    plans_looked_ms: Option<u64>,
    kept_ms: u64,
}

impl Uplinks {
    /// Goes on from what the vault keeps.
    pub fn open(vault: Vault) -> Result<Self, VaultError> {
        let airtime = vault.airtime()?;
        let kept = airtime.uplinks.into_iter();
        let state = State {
            chooser: Chooser::new(airtime.order, Calendar::new(airtime.newest_ms)),
            kept: kept.map(|kept| (kept.name.clone(), kept)).collect(),
            plans: BTreeMap::new(),
            plans_looked_ms: None,
            kept_ms: 0,
        };
        Ok(Self(Arc::new(Inner {
            vault,
            changed: watch::Sender::new(()),
            state: Mutex::new(state),
            source: Mutex::default(),
        })))
    }

    /// Takes the uplinks of a configuration, and says where it can be read again.
    pub fn begin(
        &self,
        config: &Config,
        source: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
    ) -> Result<(), UplinkError> {
        *lock(&self.0.source) = Some(Box::new(source));
        self.settle(config)
    }

    /// Reads the settings again: uplinks change without a new start.
    pub fn reload(&self) -> Result<(), OrderError> {
        let config = match &*lock(&self.0.source) {
            Some(source) => source()?,
            None => return Err(OrderError::NotRunning),
        };
        self.settle(&config)?;
        tracing::info!("read the uplinks again");
        Ok(())
    }

    fn settle(&self, config: &Config) -> Result<(), UplinkError> {
        let uplinks = Uplink::all(config)?;
        let redial_ms_max = config.link.redial_delay_max.as_millis();
        let mut state = self.state();
        let known = uplinks.into_iter().map(|uplink| {
            let kept = state.kept.get(&uplink.name).cloned().unwrap_or_default();
            (uplink, Account::new(kept.day, kept.month))
        });
        let known: Vec<_> = known.collect();
        state.chooser.handle_settings(known, redial_ms_max);
        state.recall_hints();
        state.plans_looked_ms = None;
        drop(state);
        self.0.changed.send_replace(());
        Ok(())
    }

    /// Tells of every change of what a person has said or set.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// What a person has said.
    pub fn order(&self) -> Order {
        self.state().chooser.order().clone()
    }

    /// Does what a person says, once it is on the disk.
    pub async fn set_order(&self, change: impl FnOnce(&mut Order)) -> Result<(), OrderError> {
        let mut order = self.order();
        change(&mut order);
        if let Some(only) = &order.only {
            let state = self.state();
            let is_known = state.chooser.find(only).is_some();
            // Without the settings only what was in use before is known.
            let is_kept = state.chooser.lines().is_empty() && state.kept.contains_key(only);
            if !is_known && !is_kept {
                return Err(OrderError::Unknown(only.clone()));
            }
        }
        self.0.vault.keep_order(order.clone()).await?;
        self.state().chooser.handle_order(order);
        self.0.changed.send_replace(());
        Ok(())
    }

    /// What is to be done, given what waits. What is going to be used is on the disk before it is.
    pub async fn decide(&self, work: Work) -> Result<Step, VaultError> {
        loop {
            let (line, kept) = {
                let mut state = self.state();
                let now = Now::read();
                state.look_at_plans(now);
                match state.chooser.decide(now, work) {
                    Decision::Call(line) => return Ok(Step::Call(state.way(line))),
                    Decision::Stay { ceiling } => return Ok(Step::Stay(ceiling)),
                    Decision::Move { to, ceiling } => {
                        return Ok(Step::Move(state.way(to), ceiling));
                    }
                    Decision::Hold { still, look_in_ms } => {
                        let look_in = std::time::Duration::from_millis(look_in_ms);
                        return Ok(Step::Hold(still, look_in));
                    }
                    Decision::Cover(line) => {
                        let cover = state.chooser.lines()[line].cover();
                        let name = state.chooser.lines()[line].uplink.name.clone();
                        (name, cover)
                    }
                }
            };
            self.cover(&line, &kept).await?;
        }
    }

    /// A call over an uplink was not answered.
    pub async fn failed(&self, name: &str) -> Result<(), VaultError> {
        self.at(name, |chooser, line| {
            chooser.handle_failed(Now::read(), line)
        });
        self.keep(name).await
    }

    /// A call over an uplink was answered.
    pub fn up(&self, name: &str) {
        self.at(name, |chooser, line| chooser.handle_up(Now::read(), line));
    }

    /// The contact over an uplink has ended.
    pub async fn down(&self, name: &str, ended: Ended) -> Result<(), VaultError> {
        self.at(name, |chooser, line| {
            chooser.handle_down(Now::read(), line, ended);
        });
        self.keep(name).await
    }

    /// So much has crossed the link of the contact since `before`, and so it does.
    pub fn crossed(&self, before: Meter, now: Meter, rate_kbits: u64, rtt_ms: u64) {
        let received = now.received.saturating_sub(before.received);
        let crossed = Crossed {
            bytes: now.sent.saturating_sub(before.sent) + received,
            has_heard: received > 0,
            rate_kbits,
            rtt_ms,
        };
        self.state().chooser.handle_traffic(Now::read(), crossed);
    }

    /// The hub says what time it is.
    pub fn hub_clock(&self, hub_wall_ms: u64) {
        self.state()
            .chooser
            .handle_hub_clock(Now::read(), hub_wall_ms);
    }

    /// Writes down what was used of the uplink of the contact, now and then.
    pub async fn keep_now_and_then(&self) -> Result<(), VaultError> {
        let due = {
            let mut state = self.state();
            let count_ms = clock::count_ms();
            if count_ms.saturating_sub(state.kept_ms) < KEEP_MS {
                return Ok(());
            }
            state.kept_ms = count_ms;
            // A limited one is covered as it is used.
            let current = state.chooser.current();
            let line = current.and_then(|line| state.chooser.lines().get(line));
            let line = line.filter(|line| !line.uplink.limits.bind());
            line.map(|line| line.uplink.name.clone())
        };
        match due {
            Some(name) => self.keep(&name).await,
            None => Ok(()),
        }
    }

    /// The uplinks as `status` shows them.
    pub fn view(&self) -> Vec<UplinkView> {
        let mut state = self.state();
        let verdicts = state.chooser.verdicts(Now::read());
        let current = state.chooser.current();
        let lines = state.chooser.lines().iter().enumerate().zip(verdicts);
        lines
            .map(|((number, line), verdict)| view(line, verdict, current == Some(number)))
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    fn at(&self, name: &str, change: impl FnOnce(&mut Chooser, usize)) {
        let mut state = self.state();
        // One that was taken out of the settings meanwhile has nothing to count any more.
        if let Some(line) = state.chooser.find(name) {
            change(&mut state.chooser, line);
        }
    }

    /// Tells the disk exactly what was used.
    async fn keep(&self, name: &str) -> Result<(), VaultError> {
        let exact = {
            let mut state = self.state();
            let line = state.chooser.find(name);
            let line = line.and_then(|line| state.chooser.line_mut(line));
            line.map(|line| line.account.settle())
        };
        match exact {
            Some(exact) => self.write(name, &exact).await,
            None => Ok(()),
        }
    }

    async fn cover(&self, name: &str, cover: &Cover) -> Result<(), VaultError> {
        self.write(name, cover).await?;
        self.at(name, |chooser, line| {
            if let Some(line) = chooser.line_mut(line) {
                line.account.handle_covered(cover);
            }
        });
        Ok(())
    }

    async fn write(&self, name: &str, cover: &Cover) -> Result<(), VaultError> {
        let (kept, newest_ms) = {
            let mut state = self.state();
            let newest_ms = state.chooser.calendar().newest_ms();
            let line = state.chooser.find(name);
            let line = line.and_then(|line| state.chooser.lines().get(line));
            let kept = KeptUplink {
                name: name.to_owned(),
                day: cover.day,
                month: cover.month,
                rate_kbits: line.map_or(0, |line| line.rate_kbits),
                rtt_ms: line.map_or(0, |line| line.rtt_ms),
                seen_ms: line.map_or(0, |line| line.seen_ms),
            };
            state.kept.insert(name.to_owned(), kept.clone());
            (kept, newest_ms)
        };
        match self.0.vault.keep_uplink(kept, newest_ms).await {
            // To send is what makes room again: the count goes on in memory, and a power cut
            // forgets some of it.
            Err(VaultError::NoRoom(_)) => {
                tracing::warn!(
                    uplink = name,
                    "the disk is full: airtime is not written down"
                );
                Ok(())
            }
            kept => kept,
        }
    }
}

impl State {
    fn way(&self, line: usize) -> Box<Way> {
        let line = &self.chooser.lines()[line];
        Box::new(Way {
            uplink: line.uplink.clone(),
            rate_kbits: line.rate_kbits,
            rtt_ms: line.rtt_ms,
            age_ms: self
                .chooser
                .calendar()
                .newest_ms()
                .saturating_sub(line.seen_ms),
        })
    }

    /// What an earlier contact has seen of each uplink.
    fn recall_hints(&mut self) {
        for number in 0..self.chooser.lines().len() {
            let Some(line) = self.chooser.line_mut(number) else {
                continue;
            };
            if let Some(kept) = self
                .kept
                .get(&line.uplink.name)
                .filter(|_| line.rtt_ms == 0)
            {
                (line.rate_kbits, line.rtt_ms) = (kept.rate_kbits, kept.rtt_ms);
                line.seen_ms = kept.seen_ms;
            }
        }
    }

    /// Reads contact plans that have changed. One that cannot be read leaves the one before in
    /// effect; where there was none, the uplink counts as there always.
    fn look_at_plans(&mut self, now: Now) {
        let since_ms = self
            .plans_looked_ms
            .map(|ms| now.count_ms.saturating_sub(ms));
        if since_ms.is_some_and(|ms| ms < PLANS_LOOK_MS) {
            return;
        }
        self.plans_looked_ms = Some(now.count_ms);
        for number in 0..self.chooser.lines().len() {
            let Some(line) = self.chooser.line_mut(number) else {
                continue;
            };
            let name = line.uplink.name.clone();
            let Some(path) = line.uplink.plan.clone() else {
                line.passes = None;
                self.plans.remove(&name);
                continue;
            };
            let changed = std::fs::metadata(&path).and_then(|meta| meta.modified());
            let read = (path, changed.ok());
            if self.plans.get(&name) == Some(&read) {
                continue;
            }
            match read_plan(&read.0) {
                Ok(passes) => line.passes = Some(passes),
                Err(reason) => {
                    let path = read.0.display();
                    tracing::error!(uplink = name, %path, reason, "a contact plan is not used");
                }
            }
            self.plans.insert(name, read);
        }
    }
}

fn read_plan(path: &std::path::Path) -> Result<Passes, String> {
    let bytes = identity::files::read(path, PLAN_BYTES_MAX).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    Passes::parse(&text).map_err(|error| error.to_string())
}

fn view(line: &Line, verdict: Verdict, in_use: bool) -> UplinkView {
    let Line {
        uplink, account, ..
    } = line;
    let Limits { day, month, .. } = &uplink.limits;
    let (ceiling, why) = match verdict {
        Verdict::Open { ceiling, less } => (ceiling, less.map(|(still, _)| still)),
        Verdict::Closed { still, .. } => (None, Some(still)),
    };
    let used = |period: &Period, limit: &budget::Limit| UsedView {
        bytes: period.bytes,
        bytes_limit: limit.bytes,
        money: Money::of_cost(period.cost).to_string(),
        money_limit: limit.money.map(|money| money.to_string()),
    };
    UplinkView {
        name: uplink.name.clone(),
        in_use,
        metered: uplink.metered,
        priority: uplink.priority,
        ceiling,
        why,
        rate_kbits: line.rate_kbits,
        rtt_ms: line.rtt_ms,
        day: used(&account.day, day),
        month: used(&account.month, month),
        currency: uplink.currency.clone(),
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // The state is whole between any two statements that change it.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod campaign;
#[cfg(test)]
mod tests;

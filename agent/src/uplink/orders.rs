//! What a person says about the uplinks: `link list|use|auto|pause|resume|reload`.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::words::{Pause, Still};
use super::{OrderError, UplinkView, Uplinks};
use crate::commands::{self, Failure, Request};

/// What can be asked of the uplinks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "link", rename_all = "kebab-case")]
pub enum LinkRequest {
    /// Lists them.
    List,
    /// Uses one, and no other.
    Use {
        /// Its name.
        name: String,
    },
    /// Chooses between them again.
    Auto,
    /// Sends nothing more.
    Pause {
        /// STAT goes all the same.
        except_stat: bool,
    },
    /// Sends again.
    Resume,
    /// Reads the settings again.
    Reload,
}

impl Uplinks {
    /// Does what a request asks; the answer is how it stands then.
    pub async fn execute(&self, request: LinkRequest) -> Result<Value, OrderError> {
        match request {
            LinkRequest::List => {}
            LinkRequest::Use { name } => self.set_order(|order| order.only = Some(name)).await?,
            LinkRequest::Auto => self.set_order(|order| order.only = None).await?,
            LinkRequest::Pause { except_stat } => {
                let pause = if except_stat {
                    Pause::ExceptStat
                } else {
                    Pause::All
                };
                self.set_order(|order| order.pause = pause).await?;
            }
            LinkRequest::Resume => self.set_order(|order| order.pause = Pause::No).await?,
            LinkRequest::Reload => self.reload()?,
        }
        let order = self.order();
        Ok(json!({ "pause": order.pause, "only": order.only, "uplinks": self.view() }))
    }
}

/// `link ...`
pub(crate) fn command(folder: &Path, request: LinkRequest, json: bool) -> Result<(), Failure> {
    let reply = commands::ask(folder, &Request::Link(request))?;
    if json {
        return commands::say(&format!("{:#}\n", reply.output));
    }
    commands::say(&table(&reply.output)?)
}

fn table(document: &Value) -> Result<String, Failure> {
    let read = |error| Failure::internal(anyhow::Error::new(error));
    let pause = Pause::deserialize(&document["pause"]).map_err(read)?;
    let uplinks = Vec::<UplinkView>::deserialize(&document["uplinks"]).map_err(read)?;
    let mut text = String::from(match pause {
        Pause::No => "",
        Pause::All => "PAUSED: nothing is sent until `link resume`\n",
        Pause::ExceptStat => "PAUSED except for STAT, until `link resume`\n",
    });
    if let Some(only) = document["only"].as_str() {
        writeln!(text, "only {only} is used until `link auto`").expect("a String takes all");
    }
    for uplink in &uplinks {
        text.push_str(&row(uplink));
    }
    Ok(text)
}

fn row(uplink: &UplinkView) -> String {
    let state = match (&uplink.why, uplink.in_use) {
        (Some(why), _) => why.to_string(),
        (None, true) => "in use".to_owned(),
        (None, false) => "ready".to_owned(),
    };
    let (day, month) = (&uplink.day, &uplink.month);
    let limit = |limit: Option<u64>| limit.map_or(String::new(), |limit| format!(" of {limit}"));
    let mut text = format!(
        "{}  {state}  {} kbit/s  {} ms  today {}{} B  month {}{} B",
        uplink.name,
        uplink.rate_kbits,
        uplink.rtt_ms,
        day.bytes,
        limit(day.bytes_limit),
        month.bytes,
        limit(month.bytes_limit),
    );
    if month.money != "0" {
        let (money, currency) = (&month.money, &uplink.currency);
        write!(text, "  {money} {currency}").expect("a String takes all");
    }
    text.push('\n');
    text
}

impl std::fmt::Display for Still {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let until = |ms: &Option<u64>| {
            ms.map_or(String::new(), |ms| {
                format!(" until {}", identity::calendar::format_utc(ms))
            })
        };
        let at = |ms: &Option<u64>| {
            ms.map_or(String::new(), |ms| {
                format!(", at {}", identity::calendar::format_utc(ms))
            })
        };
        match self {
            Self::NoVoucher => f.write_str("this box has no voucher yet"),
            Self::HubRefuses => f.write_str("the hub refuses this box"),
            Self::Paused => f.write_str("paused"),
            Self::PausedExceptStat => f.write_str("paused except for STAT"),
            Self::BudgetUsed { until_ms } => write!(f, "budget used up{}", until(until_ms)),
            Self::BudgetReserved { until_ms } => {
                write!(f, "budget used up but for STAT{}", until(until_ms))
            }
            Self::OutsideWindow { until_ms } => {
                write!(f, "outside the hours for this{}", until(until_ms))
            }
            Self::WaitingForContact { at_ms } => {
                write!(f, "waiting for the next contact{}", at(at_ms))
            }
            Self::NoAnswer { next_call_ms } => {
                write!(f, "no answer; the hub is called again{}", at(next_call_ms))
            }
            Self::NothingToSend { next_call_ms } => {
                write!(f, "nothing to send; the next call{}", at(next_call_ms))
            }
            Self::NotChosen => f.write_str("another uplink was chosen"),
            Self::Calling => f.write_str("calling the hub"),
        }
    }
}

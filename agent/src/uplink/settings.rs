//! Uplinks as the operator describes them, checked.

use std::collections::BTreeSet;
use std::path::PathBuf;

use study::Priority;
use sync_quic::Local;
use thiserror::Error;

use super::budget::{Limit, Limits};
use super::hours::{HoursError, Offset, Window};
use super::money::{Money, MoneyError};
use crate::config::{Config, LinkConfig, OutsideName, ProfileName, UplinkConfig};

/// What the one uplink is called where none is described.
const DEFAULT_NAME: &str = "default";
const NAME_BYTES_MAX: usize = 32;
/// Uplinks of one box.
const UPLINKS_MAX: usize = 16;

/// Says why an uplink cannot be used as it is described.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UplinkError {
    /// The name is empty, too long, or not plain.
    #[error("the name `{0}` is not 1 to 32 of a-z, 0-9 and -")]
    Name(String),
    /// Two have one name.
    #[error("`{0}` is there twice")]
    Twice(String),
    /// There are too many.
    #[error("there are more than {UPLINKS_MAX}")]
    Many,
    /// Where it starts from is said twice.
    #[error("`{0}`: give an interface or a source, not both")]
    Local(String),
    /// An interface has no such name.
    #[error("`{0}`: an interface has 1 to 15 characters, without spaces and /")]
    Interface(String),
    /// The reserve is no part.
    #[error("`{0}`: reserve-percent must be 0 to 100")]
    Reserve(String),
    /// A money limit without a price limits nothing.
    #[error("`{0}`: a limit of money needs cost-per-mib")]
    Price(String),
    /// An amount of money.
    #[error("`{name}`: {key}: {source}")]
    Money {
        /// The uplink.
        name: String,
        /// The key.
        key: &'static str,
        /// What is wrong.
        source: MoneyError,
    },
    /// Hours.
    #[error("`{name}`: {source}")]
    Hours {
        /// The uplink.
        name: String,
        /// What is wrong.
        source: HoursError,
    },
}

/// One way to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name; what was used of it is kept under that.
    pub name: String,
    /// Where it starts from.
    pub local: Local,
    /// What kind of link it is.
    pub profile: ProfileName,
    /// The most to send in kbit/s; 0 measures it.
    pub rate_kbit: u32,
    /// Whether several datagrams may be handed to the kernel as one.
    pub segmentation_offload: bool,
    /// Each byte costs: a contact ends when there is nothing to say.
    pub metered: bool,
    /// How often the hub is called on a metered uplink when there is nothing to send.
    pub poll_interval_ms: u64,
    /// The least goes first.
    pub priority: u8,
    /// What may be used of it.
    pub limits: Limits,
    /// The currency of its limits and its price.
    pub currency: String,
    /// Hours in which everything goes; none: always.
    pub windows: Vec<Window>,
    /// How far the local time is from UTC.
    pub offset: Offset,
    /// The least urgent that goes outside the windows; none: nothing does.
    pub outside: Option<Priority>,
    /// A file with the passes of a satellite.
    pub plan: Option<PathBuf>,
    /// How much of each pass is left out at both ends.
    pub guard_ms: u64,
}

impl Uplink {
    /// Those of a configuration; of one that describes none, the one that `[link]` describes.
    pub fn all(config: &Config) -> Result<Vec<Self>, UplinkError> {
        if config.uplinks.is_empty() {
            return Ok(vec![Self::read(&of_link(&config.link))?]);
        }
        if config.uplinks.len() > UPLINKS_MAX {
            return Err(UplinkError::Many);
        }
        let mut names = BTreeSet::new();
        for UplinkConfig { name, .. } in &config.uplinks {
            if !names.insert(name) {
                return Err(UplinkError::Twice(name.clone()));
            }
        }
        config.uplinks.iter().map(Self::read).collect()
    }

    fn read(config: &UplinkConfig) -> Result<Self, UplinkError> {
        let name = config.name.clone();
        if !is_name(&name) {
            return Err(UplinkError::Name(name));
        }
        if config.reserve_percent > 100 {
            return Err(UplinkError::Reserve(name));
        }
        let local = match (&config.interface, config.source) {
            (None, None) => Local::Any,
            (None, Some(source)) => Local::Source(source),
            (Some(interface), None) if is_interface(interface) => {
                Local::Interface(interface.clone())
            }
            (Some(_), None) => return Err(UplinkError::Interface(name)),
            (Some(_), Some(_)) => return Err(UplinkError::Local(name)),
        };
        let hours = |source| UplinkError::Hours {
            name: name.clone(),
            source,
        };
        let windows: Result<_, _> = config.windows.iter().map(|w| Window::parse(w)).collect();
        Ok(Self {
            local,
            limits: limits(config)?,
            windows: windows.map_err(hours)?,
            offset: Offset::parse(&config.utc_offset).map_err(hours)?,
            profile: config.profile,
            rate_kbit: config.rate_kbit,
            segmentation_offload: config.segmentation_offload,
            metered: config.metered,
            poll_interval_ms: config.poll_interval.as_millis(),
            priority: config.priority,
            currency: config.currency.clone(),
            outside: match config.outside_windows {
                OutsideName::None => None,
                OutsideName::Stat => Some(Priority::Stat),
                OutsideName::Urgent => Some(Priority::Urgent),
                OutsideName::Routine => Some(Priority::Routine),
            },
            plan: config.contact_plan.clone(),
            guard_ms: config.guard.as_millis(),
            name,
        })
    }

    /// Which of two is to be used rather, all else being equal.
    pub(super) fn preference(&self) -> (u8, Money) {
        (self.priority, self.limits.price)
    }
}

fn limits(config: &UplinkConfig) -> Result<Limits, UplinkError> {
    let money = |key, text: &str| {
        text.parse::<Money>().map_err(|source| UplinkError::Money {
            name: config.name.clone(),
            key,
            source,
        })
    };
    let limit =
        |key, text: &Option<String>| text.as_deref().map(|text| money(key, text)).transpose();
    let limits = Limits {
        day: Limit {
            bytes: config.budget_day.map(settings::Bytes::get),
            money: limit("money-day", &config.money_day)?,
        },
        month: Limit {
            bytes: config.budget_month.map(settings::Bytes::get),
            money: limit("money-month", &config.money_month)?,
        },
        price: money("cost-per-mib", &config.cost_per_mib)?,
        reserve_percent: config.reserve_percent,
    };
    let has_money = limits.day.money.or(limits.month.money).is_some();
    if has_money && limits.price == Money::default() {
        return Err(UplinkError::Price(config.name.clone()));
    }
    Ok(limits)
}

/// The uplink that `[link]` describes.
fn of_link(link: &LinkConfig) -> UplinkConfig {
    UplinkConfig {
        name: DEFAULT_NAME.to_owned(),
        profile: link.profile,
        rate_kbit: link.rate_kbit,
        ..UplinkConfig::default()
    }
}

fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain)
}

fn is_interface(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'/';
    (1..=15).contains(&name.len()) && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Uplink>, UplinkError> {
        let config: Config = toml::from_str(text).unwrap();
        Uplink::all(&config)
    }

    #[test]
    fn without_a_description_there_is_the_one_of_link() {
        let uplinks = read("[link]\nprofile = \"shared\"\nrate-kbit = 256\n").unwrap();
        let [uplink] = &uplinks[..] else {
            panic!("there is one");
        };
        assert_eq!(uplink.name, "default");
        assert_eq!(
            (uplink.profile, uplink.rate_kbit),
            (ProfileName::Shared, 256)
        );
        assert!(!uplink.metered && !uplink.limits.bind());
    }

    #[test]
    fn a_description_is_read_whole() {
        let uplinks = read(
            "[[uplinks]]\nname = \"bgan\"\nsource = \"10.0.0.2\"\nmetered = true\n\
             cost-per-mib = \"4.5\"\ncurrency = \"EUR\"\nbudget-day = \"20 MiB\"\nmoney-month = \"300\"\n\
             windows = [\"22:00-06:00\"]\nutc-offset = \"+02:00\"\noutside-windows = \"stat\"\n\
             [[uplinks]]\nname = \"mobile\"\ninterface = \"wwan0\"\npriority = 10\n",
        )
        .unwrap();
        let [bgan, mobile] = &uplinks[..] else {
            panic!("there are two");
        };
        assert!(bgan.limits.bind() && bgan.metered);
        assert_eq!(bgan.limits.day.bytes, Some(20 << 20));
        assert_eq!(bgan.limits.month.money.unwrap().to_string(), "300");
        assert_eq!(bgan.outside, Some(Priority::Stat));
        assert_eq!(mobile.local, Local::Interface("wwan0".to_owned()));
        assert!(mobile.preference() < bgan.preference());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, words) in [
            ("name = \"A\"", "a-z"),
            ("name = \"a\"\n[[uplinks]]\nname = \"a\"", "twice"),
            (
                "name = \"a\"\nsource = \"::1\"\ninterface = \"b\"",
                "not both",
            ),
            ("name = \"a\"\ninterface = \"a/b\"", "interface"),
            ("name = \"a\"\nmoney-day = \"3\"", "needs cost-per-mib"),
            ("name = \"a\"\ncost-per-mib = \"3,5\"", "cost-per-mib"),
            ("name = \"a\"\nwindows = [\"22-06\"]", "22:00-06:00"),
            ("name = \"a\"\nutc-offset = \"CET\"", "+03:00"),
            ("name = \"a\"\nreserve-percent = 101", "0 to 100"),
        ] {
            let error = read(&format!("[[uplinks]]\n{line}\n")).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}

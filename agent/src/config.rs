//! Configuration of the box: one struct per room, validated once, every value with its unit.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use settings::{Bytes, Flag, Layers, SettingsError, Span};
use study::{AeTitle, SopClassUid};

use crate::uplink::Uplink;

/// All settings of the agent; each room receives its own section, never the whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The DICOM acceptor.
    pub intake: IntakeConfig,
    /// The durable hold.
    pub vault: VaultConfig,
    /// Compression and revisions.
    pub pack: PackConfig,
    /// The road to the hub.
    pub link: LinkConfig,
    /// The technician's pages.
    pub console: ConsoleConfig,
    /// The ways to the hub, where there are several or one that costs; none: the one of `link`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uplinks: Vec<UplinkConfig>,
}

/// `[intake]`: the DICOM acceptor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct IntakeConfig {
    /// Address that the acceptor listens on.
    pub bind: IpAddr,
    /// Its TCP port; 0 lets the system choose.
    pub dicom_port: u16,
    /// Our AE title.
    pub ae_title: String,
    /// Whether an association that calls another AE title is accepted all the same.
    pub accept_any_called_ae: bool,
    /// Whether modalities that nobody has accepted are rejected.
    pub known_only: bool,
    /// Private SOP classes that are stored as well as the standard ones.
    pub sop_classes_extra: Vec<SopClassUid>,
    /// What a commitment promises: that the box holds an instance, or that the hub does.
    pub commit: CommitLevel,
    /// How long a commitment waits for an instance that has not come.
    pub commit_patience: Span,
    /// How long a commitment waits until an instance is at the hub, counted while the box runs.
    pub commit_deadline: Span,
    /// How long the box tries to tell a modality, counted while it runs.
    pub commit_retry: Span,
    /// The port at which modalities of unknown address are told.
    pub commit_port: u16,
    /// How many associations may be open at once.
    pub associations_max: u32,
    /// The largest instance that is taken in.
    pub instance_bytes_max: Bytes,
    /// Memory for instances that are being received, over all associations.
    pub memory: Bytes,
    /// How long no instance of a study arrives, after the last association that brought one has
    /// closed, before the study counts as stable.
    pub quiet_period: Span,
    /// How long a peer may take to ask for an association (PS3.8 9.1.4, ARTIM).
    pub artim_timeout: Span,
    /// How long an open association may be silent.
    pub idle_timeout: Span,
    /// How long the rest of a message, or an answer to one of ours, may take.
    pub read_timeout: Span,
    /// How long a peer may take to read what we write.
    pub write_timeout: Span,
}

impl Default for IntakeConfig {
    fn default() -> Self {
        Self {
            bind: IpAddr::from([0, 0, 0, 0]),
            dicom_port: 11112,
            ae_title: "CHASQUI".to_owned(),
            accept_any_called_ae: false,
            known_only: false,
            sop_classes_extra: Vec::new(),
            commit: CommitLevel::Box,
            commit_patience: Span::from_secs(60),
            commit_deadline: Span::from_secs(3 * 24 * 3600),
            commit_retry: Span::from_secs(7 * 24 * 3600),
            commit_port: 104,
            associations_max: 256,
            instance_bytes_max: Bytes::mib(1024),
            memory: Bytes::mib(512),
            quiet_period: Span::from_secs(15),
            artim_timeout: Span::from_secs(10),
            idle_timeout: Span::from_secs(60),
            read_timeout: Span::from_secs(30),
            write_timeout: Span::from_secs(30),
        }
    }
}

/// What a commitment promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommitLevel {
    /// The box holds the instance.
    Box,
    /// The hub has given its receipt for it.
    Hub,
}

/// `[vault]`: the durable hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct VaultConfig {
    /// Part of the file system that intake leaves free, in percent of its size.
    pub reserve_percent: u8,
    /// Free part of the file system below which people are warned, in percent of its size.
    pub warn_percent: u8,
    /// Free part of the file system below which studies are let go that may be, in percent of its
    /// size; 0 lets none go.
    pub evict_below_percent: u8,
    /// How long the box keeps a study after custody has passed, counted while it runs.
    pub keep_at_hub: Span,
    /// Room on the disk that is kept for the index of a disk that is full to the last byte; 0 keeps
    /// none.
    pub ballast: Bytes,
    /// How long an unlocked vault stays open while nobody reads anything.
    pub relock_after: Span,
    /// How much the box runs between two passes that re-read all that is held.
    pub scrub_interval: Span,
    /// How much such a pass reads in a second.
    pub scrub_rate: Bytes,
    /// Size at which a segment is ended and the next one begun.
    pub segment_bytes: Bytes,
    /// Takes this as the free space instead of asking the file system; for tests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_space_assumed: Option<Bytes>,
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            reserve_percent: 5,
            warn_percent: 15,
            evict_below_percent: 20,
            keep_at_hub: Span::from_secs(7 * 24 * 3600),
            ballast: Bytes::mib(8),
            relock_after: Span::from_secs(900),
            scrub_interval: Span::from_secs(7 * 24 * 3600),
            scrub_rate: Bytes::mib(8),
            segment_bytes: Bytes::mib(64),
            free_space_assumed: None,
        }
    }
}

/// `[pack]`: compression and revisions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct PackConfig {
    /// How many instances make a batch that is packed at once.
    pub batch_instances: u32,
    /// How long an instance waits for its batch to fill.
    pub batch_delay: Span,
    /// The codec's tier: auto, fast, link or archive.
    pub tier: TierName,
    /// How many batches are packed at once; 0: as many as there are processors.
    pub threads: u32,
}

impl Default for PackConfig {
    fn default() -> Self {
        Self {
            batch_instances: 16,
            batch_delay: Span::from_secs(2),
            tier: TierName::Auto,
            threads: 0,
        }
    }
}

/// The codec's tiers by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TierName {
    /// What link, processors and power make good.
    Auto,
    /// Least work.
    Fast,
    /// What crosses where nothing is known of the link.
    Link,
    /// Least bytes.
    Archive,
}

/// `[link]`: the road to the hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LinkConfig {
    /// The hub's address, `HOST:PORT`; the voucher's when it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// The hub's TCP port, for networks that let no UDP through; 0 never calls by TCP. Missing: the
    /// number of its UDP port, and then 443.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_port: Option<u16>,
    /// How long UDP that was found blocked is left alone at first; it doubles up to twelve times
    /// that.
    pub udp_retry: Span,
    /// What kind of link to expect: satellite, terrestrial or shared.
    pub profile: ProfileName,
    /// The link's rate towards the hub in kbit/s where its owner knows it; 0 measures it.
    pub rate_kbit: u32,
    /// The longest wait between two attempts to reach the hub.
    pub redial_delay_max: Span,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            hub: None,
            tls_port: None,
            udp_retry: Span::from_secs(600),
            profile: ProfileName::Satellite,
            rate_kbit: 0,
            redial_delay_max: Span::from_secs(30),
        }
    }
}

/// Kinds of link, as far as the transport needs to tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileName {
    /// Long round trips, loss without congestion, a link of our own.
    Satellite,
    /// Short round trips, a link of our own.
    Terrestrial,
    /// A network with other users: loss is taken for congestion.
    Shared,
}

/// `[[uplinks]]`: one way to the hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct UplinkConfig {
    /// Its name; what was used of it is kept under that.
    pub name: String,
    /// The network interface that it starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The local address that it starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// What kind of link to expect.
    pub profile: ProfileName,
    /// Its rate towards the hub in kbit/s where its owner knows it; 0 measures it.
    pub rate_kbit: u32,
    /// Whether several datagrams may be handed to the kernel as one.
    pub segmentation_offload: bool,
    /// Each byte costs: a contact ends when there is nothing to say.
    pub metered: bool,
    /// How often the hub is called on a metered uplink when there is nothing to send.
    pub poll_interval: Span,
    /// Which uplink is used rather: the least.
    pub priority: u8,
    /// What a mebibyte costs, as a decimal number.
    pub cost_per_mib: String,
    /// The currency, for people.
    pub currency: String,
    /// The most to use in a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_day: Option<Bytes>,
    /// The most to use in a month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_month: Option<Bytes>,
    /// The most to spend in a day, as a decimal number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub money_day: Option<String>,
    /// The most to spend in a month, as a decimal number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub money_month: Option<String>,
    /// Part of each limit that is kept for receipts, reports and STAT.
    pub reserve_percent: u8,
    /// Hours of the local day in which everything goes; none: always.
    pub windows: Vec<String>,
    /// How far the local time is from UTC.
    pub utc_offset: String,
    /// The least urgent that goes outside the windows.
    pub outside_windows: OutsideName,
    /// A file with the passes of a satellite: there is a contact in these only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact_plan: Option<PathBuf>,
    /// How much of each pass is left out at both ends.
    pub guard: Span,
}

impl Default for UplinkConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            interface: None,
            source: None,
            profile: ProfileName::Satellite,
            rate_kbit: 0,
            segmentation_offload: true,
            metered: false,
            poll_interval: Span::from_secs(4 * 3600),
            priority: 100,
            cost_per_mib: "0".to_owned(),
            currency: String::new(),
            budget_day: None,
            budget_month: None,
            money_day: None,
            money_month: None,
            reserve_percent: 10,
            windows: Vec::new(),
            utc_offset: "+00:00".to_owned(),
            outside_windows: OutsideName::Urgent,
            contact_plan: None,
            guard: Span::from_secs(20),
        }
    }
}

/// The least urgent that goes outside the hours of an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutsideName {
    /// Nothing goes.
    None,
    /// Receipts, reports and STAT.
    Stat,
    /// The same and what is urgent.
    Urgent,
    /// All but bulk.
    Routine,
}

/// `[console]`: the technician's pages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ConsoleConfig {
    /// Address that the console listens on; plain HTTP, so loopback only.
    pub bind: IpAddr,
    /// Its TCP port; 0 lets the system choose.
    pub port: u16,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self {
            bind: IpAddr::from([127, 0, 0, 1]),
            port: 8104,
        }
    }
}

/// Says which setting cannot be used and why.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A layer could not be read or has a wrong key or value.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A value has the right form but makes no sense.
    #[error("{key}: {reason}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// What is wrong and what to write instead.
        reason: String,
    },
}

impl Config {
    /// Loads the layers (built-in < file < environment < flags) and checks the values.
    pub fn load(file: Option<&Path>, flags: Vec<Flag>) -> Result<Self, ConfigError> {
        // A name or value that is not text is nobody's setting.
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let environment = std::env::vars_os().filter_map(text).collect();
        let config: Self = settings::load(Layers {
            file,
            prefix: "AGENT",
            environment,
            flags,
        })?;
        config.check()?;
        Ok(config)
    }

    /// The effective configuration as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are plain TOML values")
    }

    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |key, reason: &str| {
            Err(ConfigError::Invalid {
                key,
                reason: reason.into(),
            })
        };
        if let Err(error) = AeTitle::parse(&self.intake.ae_title) {
            return invalid("intake.ae-title", &error.to_string());
        }
        if self.intake.associations_max == 0 {
            return invalid("intake.associations-max", "must be at least 1");
        }
        if self.intake.commit_port == 0 {
            return invalid("intake.commit-port", "must be 1 to 65535");
        }
        if self.vault.reserve_percent > 90 {
            return invalid("vault.reserve-percent", "must be 0 to 90");
        }
        if self.vault.warn_percent > 100 {
            return invalid("vault.warn-percent", "must be 0 to 100");
        }
        if self.vault.evict_below_percent > 100 {
            return invalid("vault.evict-below-percent", "must be 0 to 100");
        }
        if self.vault.scrub_rate.get() == 0 {
            return invalid("vault.scrub-rate", "must be at least 1 B");
        }
        if !(1..=256).contains(&self.pack.batch_instances) {
            return invalid("pack.batch-instances", "must be 1 to 256");
        }
        if self.pack.threads > 64 {
            return invalid("pack.threads", "must be 0 to 64");
        }
        if !(Span::from_secs(1)..=Span::from_secs(86_400)).contains(&self.link.udp_retry) {
            return invalid("link.udp-retry", "must be 1s to 1d");
        }
        if let Err(error) = Uplink::all(self) {
            return invalid("uplinks", &error.to_string());
        }
        if !self.console.bind.is_loopback() {
            return invalid("console.bind", "plain HTTP is served on loopback only");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_equals_the_built_in_defaults() {
        let shipped: Config = toml::from_str(include_str!("../agent.toml")).unwrap();
        assert_eq!(shipped, Config::default());
        let named: toml::Table = toml::from_str(include_str!("../agent.toml")).unwrap();
        assert_eq!(named, toml::Table::try_from(Config::default()).unwrap());
    }

    #[test]
    fn a_console_on_the_network_is_refused() {
        let mut config = Config::default();
        config.console.bind = IpAddr::from([0, 0, 0, 0]);
        assert!(
            config
                .check()
                .unwrap_err()
                .to_string()
                .starts_with("console.bind")
        );
    }
}

//! The hub's settings: one struct per room, each with its built-in defaults.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use settings::{Bytes, Layers, SettingsError, Span};
use study::AeTitle;
use thiserror::Error;

/// Says why the hub cannot run with its settings.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    /// A layer cannot be read, or names an unknown key, or has a value of a wrong form.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A value has the right form and a meaning that is not allowed.
    #[error("{key}: {reason}")]
    Refused {
        /// The dotted key.
        key: &'static str,
        /// Why not.
        reason: String,
    },
}

/// All settings of the hub.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Config {
    /// Where boxes call.
    pub link: Link,
    /// Where people and scripts look.
    pub web: Web,
    /// Where DICOM peers call.
    pub dicom: Dicom,
    /// How arriving studies are taken in.
    pub inbox: Inbox,
    /// How studies are kept.
    pub archive: Archive,
}

/// Where boxes call (QUIC over UDP, TLS over TCP where no UDP passes).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Link {
    /// The address to listen on.
    pub bind: IpAddr,
    /// The UDP port; 0 lets the system choose.
    pub port: u16,
    /// The TCP port for boxes that no UDP reaches; 0 takes no such calls. Missing: the number of
    /// the UDP port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_port: Option<u16>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::UNSPECIFIED.into(),
            port: 4433,
            tls_port: None,
        }
    }
}

/// Where people and scripts look (HTTP).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Web {
    /// The address to listen on; a loopback address, as the pages are plain HTTP.
    pub bind: IpAddr,
    /// The TCP port; 0 lets the system choose.
    pub port: u16,
}

impl Default for Web {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::LOCALHOST.into(),
            port: 8043,
        }
    }
}

/// Where DICOM peers call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Dicom {
    /// The address to listen on.
    pub bind: IpAddr,
    /// The TCP port; 0 lets the system choose.
    pub port: u16,
    /// The hub's application entity title.
    pub ae_title: String,
}

impl Default for Dicom {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::LOCALHOST.into(),
            port: 11113,
            ae_title: "CHASQUI_HUB".to_owned(),
        }
    }
}

/// How arriving studies are taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Inbox {
    /// How long a part of a chunk may wait before it is made durable.
    pub progress_delay: Span,
    /// How much of a chunk may wait before it is made durable.
    pub progress_bytes: Bytes,
    /// The largest group of instances that is decoded, before the codec.
    pub group_bytes_max: Bytes,
    /// Free space below which nothing more is taken in: the index must always find room.
    pub reserve: Bytes,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            progress_delay: Span::from_millis(200),
            progress_bytes: Bytes::new(256 << 10),
            group_bytes_max: Bytes::mib(1024),
            reserve: Bytes::mib(256),
        }
    }
}

/// How studies are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Archive {
    /// The file of the key that everything at rest is sealed to; in the hub's folder unless the
    /// path is absolute.
    pub store_key: PathBuf,
    /// The size at which a segment file is closed and the next one begun.
    pub segment_bytes: Bytes,
    /// Memory for images that were read, and for what their neighbours are predicted from.
    pub cache: Bytes,
}

impl Default for Archive {
    fn default() -> Self {
        Self {
            store_key: PathBuf::from("store.key"),
            segment_bytes: Bytes::mib(64),
            cache: Bytes::mib(256),
        }
    }
}

impl Config {
    /// Lays file, environment and flags over the defaults and checks what came out.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: Vec<(String, String)>,
        flags: Vec<settings::Flag>,
    ) -> Result<Self, ConfigError> {
        let config: Self = settings::load(Layers {
            file,
            prefix: "HUB",
            environment,
            flags,
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, reason: &str| {
            Err(ConfigError::Refused {
                key,
                reason: reason.to_owned(),
            })
        };
        if !self.web.bind.is_loopback() {
            return refuse(
                "web.bind",
                "plain HTTP is served on a loopback address only",
            );
        }
        if let Err(reason) = AeTitle::parse(&self.dicom.ae_title) {
            return refuse("dicom.ae-title", &reason.to_string());
        }
        if self.archive.store_key.file_name().is_none() {
            return refuse("archive.store-key", "this is not the name of a file");
        }
        if !(Bytes::mib(4)..=Bytes::mib(4096)).contains(&self.archive.segment_bytes) {
            return refuse("archive.segment-bytes", "allowed are 4 MiB to 4 GiB");
        }
        if !(Bytes::new(32 << 10)..=Bytes::mib(1)).contains(&self.inbox.progress_bytes) {
            return refuse("inbox.progress-bytes", "allowed are 32 KiB to 1 MiB");
        }
        if !(Span::from_millis(10)..=Span::from_secs(10)).contains(&self.inbox.progress_delay) {
            return refuse("inbox.progress-delay", "allowed are 10ms to 10s");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commented_file_says_what_the_program_does() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("hub.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let read: Config = toml::from_str(&text).unwrap();
        assert_eq!(read, Config::default());
        // Every key is there, not only those that happen to be written.
        let written: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(written, toml::Table::try_from(Config::default()).unwrap());
    }

    #[test]
    fn an_unknown_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hub.toml");
        std::fs::write(&file, "[link]\nprot = 1\n").unwrap();
        let error = Config::load(Some(&file), Vec::new(), Vec::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains("prot"), "{error}");
        let environment = vec![("HUB__INBOX__PROGRES".to_owned(), "1s".to_owned())];
        let error = Config::load(None, environment, Vec::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains("progres"), "{error}");
    }

    #[test]
    fn plain_pages_stay_on_loopback() {
        let environment = vec![("HUB__WEB__BIND".to_owned(), "0.0.0.0".to_owned())];
        let error = Config::load(None, environment, Vec::new())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("web.bind"), "{error}");
    }
}

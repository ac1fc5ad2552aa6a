//! Settings of a program: built-in defaults, then a TOML file, then the environment, then flags.
//!
//! In: a file, environment variables, flags. Out: one validated struct, or an error that names the
//! key and the place it came from.
//! Invariant: an unknown key is an error wherever it is written.
//! May not: know what any setting means.

#![forbid(unsafe_code)]

mod units;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use toml::{Table, Value};

pub use units::{Bytes, Span, UnitError};

/// Says why the settings cannot be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The file is there but cannot be read.
    #[error("cannot read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {path} is not valid TOML")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A key is unknown, or its value is not of the form it must have.
    #[error("{origin}: {reason}")]
    Value {
        /// The file, `the environment` or `the command line`.
        origin: String,
        /// What is wrong, with the key's name.
        reason: String,
    },
}

/// One setting given on the command line: its dotted key and its value.
pub type Flag = (&'static str, Option<Value>);

/// Where the layers above the defaults come from.
#[derive(Debug, Default)]
pub struct Layers<'a> {
    /// The configuration file, if one was named.
    pub file: Option<&'a Path>,
    /// The prefix of environment names, `AGENT` for `AGENT__INTAKE__QUIET_PERIOD`.
    pub prefix: &'a str,
    /// The environment, as pairs of name and value.
    pub environment: Vec<(String, String)>,
    /// Flags; those without a value are left out.
    pub flags: Vec<Flag>,
}

/// Lays the layers over the defaults of `T`; each layer is checked by itself, so that an error
/// names the layer it came from.
pub fn load<T: Default + Serialize + DeserializeOwned>(
    layers: Layers<'_>,
) -> Result<T, SettingsError> {
    let mut table = Table::try_from(T::default()).expect("defaults are plain TOML values");
    if let Some(path) = layers.file {
        let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read {
            path: path.into(),
            source,
        })?;
        let layer: Table = toml::from_str(&text).map_err(|source| SettingsError::Syntax {
            path: path.into(),
            source: Box::new(source),
        })?;
        lay::<T>(&mut table, layer, &path.display().to_string())?;
    }
    let environment = from_environment(layers.prefix, &layers.environment);
    lay::<T>(&mut table, environment, "the environment")?;
    let mut flags = Table::new();
    for (key, value) in layers.flags {
        if let Some(value) = value {
            insert(&mut flags, key.split('.'), value);
        }
    }
    lay::<T>(&mut table, flags, "the command line")?;
    table
        .try_into()
        .map_err(|e| value_error("the configuration", &e))
}

/// Merges one layer and checks that the result still is a `T`.
fn lay<T: DeserializeOwned>(
    table: &mut Table,
    layer: Table,
    origin: &str,
) -> Result<(), SettingsError> {
    merge(table, layer);
    T::deserialize(table.clone())
        .map(drop)
        .map_err(|e| value_error(origin, &e))
}

fn value_error(origin: &str, error: &toml::de::Error) -> SettingsError {
    let reason = error.to_string().trim().replace('\n', " ");
    SettingsError::Value {
        origin: origin.to_owned(),
        reason,
    }
}

fn merge(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// Reads `PREFIX__SECTION__SOME_KEY=value` as `section.some-key`; a value that is no TOML literal
/// is taken as a string.
fn from_environment(prefix: &str, environment: &[(String, String)]) -> Table {
    let mut table = Table::new();
    for (name, text) in environment {
        let Some(path) = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix("__"))
        else {
            continue;
        };
        let path = path.to_lowercase().replace('_', "-").replace("--", ".");
        let value = toml::from_str::<Table>(&format!("v = {text}"))
            .ok()
            .and_then(|mut t| t.remove("v"))
            .unwrap_or_else(|| Value::String(text.clone()));
        insert(&mut table, path.split('.'), value);
    }
    table
}

fn insert<'k>(table: &mut Table, mut path: impl Iterator<Item = &'k str>, value: Value) {
    let Some(key) = path.next() else { return };
    let rest: Vec<&str> = path.collect();
    if rest.is_empty() {
        table.insert(key.to_owned(), value);
        return;
    }
    let entry = table
        .entry(key.to_owned())
        .or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = entry {
        insert(inner, rest.into_iter(), value);
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    struct Intake {
        quiet_period: Span,
        port: u16,
    }

    impl Default for Intake {
        fn default() -> Self {
            Self {
                quiet_period: Span::from_secs(15),
                port: 11112,
            }
        }
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    struct Config {
        intake: Intake,
    }

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn later_layers_win() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        std::fs::write(&file, "[intake]\nquiet-period = \"3s\"\nport = 1\n").unwrap();
        let config: Config = load(Layers {
            file: Some(&file),
            prefix: "AGENT",
            environment: environment(&[
                ("AGENT__INTAKE__QUIET_PERIOD", "2s"),
                ("AGENT__INTAKE__PORT", "2"),
                ("HUB__INTAKE__PORT", "9"),
            ]),
            flags: vec![("intake.port", Some(Value::Integer(3)))],
        })
        .unwrap();
        assert_eq!(
            config.intake,
            Intake {
                quiet_period: Span::from_secs(2),
                port: 3
            }
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_its_origin() {
        let error = load::<Config>(Layers {
            prefix: "AGENT",
            environment: environment(&[("AGENT__INTAKE__QUITE_PERIOD", "2s")]),
            ..Layers::default()
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains("the environment"), "{error}");
        assert!(error.contains("quite-period"), "{error}");
    }

    #[test]
    fn a_missing_unit_is_explained() {
        let error = load::<Config>(Layers {
            flags: vec![("intake.quiet-period", Some(Value::String("15".into())))],
            ..Layers::default()
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains("unit"), "{error}");
    }
}

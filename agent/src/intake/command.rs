//! `modality`: what people ask of the scanners.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use study::AeTitle;

use super::Modalities;
use crate::commands::{Failure, Request, ask, pretty, say};

/// What can be asked of the modalities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum ModalityRequest {
    /// All of them.
    List,
    /// Accepts one that has called.
    Accept {
        /// Its AE title.
        ae: String,
    },
    /// Enters one with its address.
    Add {
        /// Its AE title.
        ae: String,
        /// Where it is.
        host: String,
        /// Where it is.
        port: u16,
    },
    /// Sends it a C-ECHO.
    Echo {
        /// Its AE title.
        ae: String,
    },
}

/// Does what was asked; `ours` is this box's AE title.
pub(crate) async fn execute(
    modalities: &Modalities,
    ours: &str,
    request: ModalityRequest,
) -> anyhow::Result<Value> {
    match request {
        ModalityRequest::List => return Ok(json!({ "modalities": modalities.list() })),
        ModalityRequest::Accept { ae } => modalities.accept(&AeTitle::parse(&ae)?).await?,
        ModalityRequest::Add { ae, host, port } => {
            modalities.add(&AeTitle::parse(&ae)?, host, port).await?;
        }
        ModalityRequest::Echo { ae } => {
            modalities
                .echo(AeTitle::parse(ours)?, &AeTitle::parse(&ae)?)
                .await?;
        }
    }
    Ok(Value::Null)
}

/// `modality list`
pub(crate) fn list(folder: &Path, json: bool) -> Result<(), Failure> {
    let listed = ask(folder, &Request::Modality(ModalityRequest::List))?.output;
    if json {
        return say(&pretty(&listed));
    }
    let mut text = String::new();
    for modality in listed["modalities"].as_array().into_iter().flatten() {
        let word = |key: &str| modality[key].as_str().unwrap_or("-").to_owned();
        let state = match modality["accepted"].as_bool() {
            Some(true) => "accepted",
            Some(false) | None => "NEW",
        };
        let address = match modality["port"].as_u64() {
            Some(port) => format!("{}:{port}", word("host")),
            None => "no address".to_owned(),
        };
        let seen = word("seen_at");
        text.push_str(&format!(
            "{}  {state}  {address}  called from {seen}\n",
            word("ae_title")
        ));
        if let Some(failure) = modality["last_failure"].as_str() {
            text.push_str(&format!("    {failure}\n"));
        }
    }
    say(&text)
}

/// `modality accept`, `modality add`, `modality echo`
pub(crate) fn change(folder: &Path, request: ModalityRequest) -> Result<(), Failure> {
    ask(folder, &Request::Modality(request)).map(drop)
}

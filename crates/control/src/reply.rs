//! What a program replies.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a command prints and ends with.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reply {
    /// The command's exit code.
    pub exit: u8,
    /// What is printed with `--json`, or put into words without it.
    pub output: Value,
    /// What goes to stderr: one clear chain.
    pub error: Option<String>,
    /// Bytes that the command was asked for, such as an instance.
    pub body: Vec<u8>,
}

impl Reply {
    /// The request is done.
    pub fn done(output: Value) -> Self {
        Self {
            output,
            ..Self::default()
        }
    }

    /// The request failed; `exit` is one of the codes that scripts rely on (1, 64, 70, 78).
    pub fn failed(exit: u8, error: impl Into<String>) -> Self {
        Self {
            exit,
            error: Some(error.into()),
            ..Self::default()
        }
    }
}

/// A reply without its body.
#[derive(Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) exit: u8,
    pub(crate) output: Value,
    pub(crate) error: Option<String>,
    pub(crate) body_bytes: u64,
}

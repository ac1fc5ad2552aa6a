//! What can go wrong between a command and a program.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Says what was tried with the socket and why it failed.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The folder or the socket.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// The request has more than [`REQUEST_BYTES_MAX`](crate::REQUEST_BYTES_MAX) bytes.
    #[error("the request has {0} bytes, which is too long")]
    RequestTooLong(usize),
    /// The program ended, or gave up on us, before its reply was complete.
    #[error("the program ended the connection before its reply was complete")]
    Cut,
    /// What came back is not a reply.
    #[error("what came back is not a reply")]
    NotAReply(#[source] serde_json::Error),
    /// The reply says it has more bytes than one may have.
    #[error("the reply is too long")]
    ReplyTooLong,
}

impl ControlError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

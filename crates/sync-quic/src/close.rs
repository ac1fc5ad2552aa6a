//! Why a connection ended: one table of close codes and the words for each.
//!
//! In: what ends a connection, over either road. Out: [`End`], which programs log and act on.
//! Invariant: text from the peer is cut to 200 characters and stripped of control characters
//! before anyone sees it.
//! May not: carry anything about a patient; close reasons cross in the clear of both programs' logs.

use std::fmt;

use quinn::{ConnectionError, VarInt};

/// The longest reason that a close carries, in bytes.
const REASON_BYTES_MAX: usize = 200;

/// The application close codes of `chasqui/1`; `docs/protocol.md` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// All was said; nothing is wrong.
    Done = 0,
    /// The peer's key is not on the allow-list (any more).
    Refused = 1,
    /// The peer broke the protocol.
    PeerFault = 2,
    /// The same peer has a newer connection.
    Replaced = 3,
    /// This program is stopping and will be back.
    Stopping = 4,
    /// This program cannot go on, through no fault of the peer.
    Trouble = 5,
}

impl Code {
    fn of(code: u64) -> Option<Self> {
        [
            Self::Done,
            Self::Refused,
            Self::PeerFault,
            Self::Replaced,
            Self::Stopping,
            Self::Trouble,
        ]
        .into_iter()
        .find(|known| *known as u64 == code)
    }

    pub(crate) fn varint(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Either side said goodbye; call again when there is something to say.
    Done,
    /// The other side does not accept us; its own words say why.
    Refused(String),
    /// We broke the protocol in the other side's eyes; its own words say how.
    Blamed(String),
    /// The other side broke the protocol; we closed.
    PeerFault(String),
    /// A newer connection of the same unit took over.
    Replaced,
    /// The other side is stopping, or has restarted and forgot this connection.
    PeerStopped,
    /// Nothing was heard for the idle timeout.
    TimedOut,
    /// Our own disk or program could not go on; we closed.
    Trouble(String),
    /// The other side could not go on, through no fault of ours.
    PeerTrouble(String),
    /// We closed on request.
    Closed,
    /// Anything else that QUIC reports.
    Broken(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("both sides were done"),
            Self::Refused(text) => write!(f, "refused by the other side: {text}"),
            Self::Blamed(text) => write!(f, "the other side says we broke the protocol: {text}"),
            Self::PeerFault(text) => write!(f, "the other side broke the protocol: {text}"),
            Self::Replaced => f.write_str("a newer connection of the same unit took over"),
            Self::PeerStopped => f.write_str("the other side stopped or restarted"),
            Self::TimedOut => f.write_str("nothing was heard for too long"),
            Self::Trouble(text) => write!(f, "could not go on: {text}"),
            Self::PeerTrouble(text) => write!(f, "the other side could not go on: {text}"),
            Self::Closed => f.write_str("closed here"),
            Self::Broken(text) => write!(f, "the connection broke: {text}"),
        }
    }
}

impl End {
    /// What a close by the peer means.
    pub(crate) fn of_code(code: u64, reason: &[u8]) -> Self {
        let text = plain(reason);
        match Code::of(code) {
            Some(Code::Done) => Self::Done,
            Some(Code::Refused) => Self::Refused(text),
            Some(Code::PeerFault) => Self::Blamed(text),
            Some(Code::Replaced) => Self::Replaced,
            Some(Code::Stopping) => Self::PeerStopped,
            Some(Code::Trouble) => Self::PeerTrouble(text),
            None => Self::Broken(format!("unknown close code {code}")),
        }
    }
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                Self::of_code(close.error_code.into_inner(), &close.reason)
            }
            ConnectionError::Reset => Self::PeerStopped,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::LocallyClosed => Self::Closed,
            ConnectionError::ConnectionClosed(close) => Self::Broken(plain(&close.reason)),
            other @ (ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::CidsExhausted) => Self::Broken(other.to_string()),
        }
    }
}

/// Closes `connection`; a second close of the same connection changes nothing.
pub(crate) fn close(connection: &quinn::Connection, code: Code, reason: &str) {
    connection.close(code.varint(), cut(reason));
}

/// As much of a reason as a close carries.
pub(crate) fn cut(reason: &str) -> &[u8] {
    let end = reason.floor_char_boundary(REASON_BYTES_MAX);
    &reason.as_bytes()[..end]
}

/// Makes text from outside fit for a log line and a screen.
pub(crate) fn plain(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|c| !c.is_control())
        .take(REASON_BYTES_MAX)
        .collect()
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_from_outside_is_cut_and_loses_its_control_characters() {
        let hostile = [b"\x1b[2Jred\nalert ".as_slice(), &[b'x'; 1000]].concat();
        let text = plain(&hostile);
        assert!(text.starts_with("[2Jredalert x"));
        assert_eq!(text.chars().count(), 200);
    }
}

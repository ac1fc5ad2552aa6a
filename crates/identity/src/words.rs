//! Small words of the documents: names, addresses, the consent policy.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};
use thiserror::Error;

/// The longest name, licence, site or reason, in bytes.
const LABEL_BYTES_MAX: usize = 200;
/// The longest host name (RFC 1035 2.3.4).
const HOST_BYTES_MAX: usize = 255;

/// Says why a text is not such a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WordError {
    /// A label is empty, too long or would not print as it reads.
    #[error("a name has 1 to {LABEL_BYTES_MAX} bytes and no control characters")]
    Label,
    /// An address is not `HOST:PORT`.
    #[error("an address is HOST:PORT, with a port from 1 to 65535")]
    Address,
    /// No consent policy has this name.
    #[error("a consent policy is ask or emergency")]
    Consent,
}

/// A short text for people: a name, a licence, a site, a reason.
///
/// It holds no control characters and no marks that turn the direction of what follows, so that
/// it prints as what it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Box<str>);

impl Label {
    /// Takes a text after trimming blanks around it.
    pub fn parse(text: &str) -> Result<Self, WordError> {
        let text = text.trim();
        let unprintable = |c: char| {
            c.is_control()
                || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        if text.is_empty() || text.len() > LABEL_BYTES_MAX || text.contains(unprintable) {
            return Err(WordError::Label);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a node is reached: a host name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HubAddress(Box<str>);

impl HubAddress {
    /// Takes `HOST:PORT`; an IPv6 address stands in brackets.
    pub fn parse(text: &str) -> Result<Self, WordError> {
        let (host, port) = text.rsplit_once(':').ok_or(WordError::Address)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host_is_fine = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host.len() <= HOST_BYTES_MAX
                    && host
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
            }
        };
        // One way to write it: no sign, no zero before it.
        let port_is_fine =
            port.starts_with(|c: char| ('1'..='9').contains(&c)) && port.parse::<u16>().is_ok();
        if host_is_fine && port_is_fine {
            Ok(Self(text.into()))
        } else {
            Err(WordError::Address)
        }
    }

    /// The address as `HOST:PORT`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What lets a study leave a site (product.md C2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum ConsentPolicy {
    /// Nothing leaves before a person records the consent or the emergency.
    #[default]
    #[n(1)]
    Ask,
    /// Studies leave on an emergency basis, by the site's policy, until a person confirms.
    #[n(2)]
    Emergency,
}

impl ConsentPolicy {
    /// The word used in commands and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Emergency => "emergency",
        }
    }
}

impl fmt::Display for ConsentPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ConsentPolicy {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "ask" => Ok(Self::Ask),
            "emergency" => Ok(Self::Emergency),
            _ => Err(WordError::Consent),
        }
    }
}

macro_rules! text_word {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = WordError;
            fn from_str(text: &str) -> Result<Self, WordError> {
                Self::parse(text)
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(
                d: &mut minicbor::Decoder<'b>,
                _: &mut C,
            ) -> Result<Self, minicbor::decode::Error> {
                let at = d.position();
                Self::parse(d.str()?).map_err(|e| minicbor::decode::Error::message(e).at(at))
            }
        }
    };
}

text_word!(Label);
text_word!(HubAddress);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_prints_as_it_reads() {
        assert_eq!(
            Label::parse("  Dr. M\u{fc}ller ").unwrap().as_str(),
            "Dr. M\u{fc}ller"
        );
        assert!(Label::parse("\u{645}\u{631}\u{64a}\u{645}").is_ok());
        for text in [
            "",
            "  ",
            "a\u{1b}[2Jb",
            "two\nlines",
            "abc\u{202e}cba",
            "abc\u{61c}cba",
            &"x".repeat(201),
        ] {
            assert_eq!(Label::parse(text), Err(WordError::Label), "{text:?}");
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        for text in [
            "hub.example.org:4433",
            "10.0.0.1:1",
            "[::1]:4433",
            "localhost:65535",
        ] {
            assert_eq!(HubAddress::parse(text).unwrap().as_str(), text);
        }
        for text in [
            "",
            "hub",
            "hub:",
            ":4433",
            "hub:0",
            "hub:65536",
            "::1:4433",
            "a b:1",
            "hub:+1",
            "hub:01",
            "hub:1x",
            "[x]:1",
        ] {
            assert_eq!(HubAddress::parse(text), Err(WordError::Address), "{text}");
        }
    }

    #[test]
    fn consent_words_go_there_and_back() {
        for policy in [ConsentPolicy::Ask, ConsentPolicy::Emergency] {
            assert_eq!(policy.as_str().parse(), Ok(policy));
        }
        assert_eq!("never".parse::<ConsentPolicy>(), Err(WordError::Consent));
        assert_eq!(ConsentPolicy::default(), ConsentPolicy::Ask);
    }
}

//! Unique identifiers of PS3.5 section 9, one type per meaning.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest UID that PS3.5 9.1 allows, in characters.
const UID_CHARS_MAX: usize = 64;

/// Says why a text is not a UID (PS3.5 9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UidError {
    /// Nothing is left after the padding is taken off.
    #[error("the UID is empty")]
    Empty,
    /// The text is longer than 64 characters.
    #[error("the UID has {0} characters, 64 are allowed")]
    TooLong(usize),
    /// A character is neither a digit nor a dot.
    #[error("the UID has a character that is neither digit nor dot")]
    BadCharacter,
    /// Two dots meet, or a dot stands first or last.
    #[error("the UID has an empty component")]
    EmptyComponent,
}

/// Checks the shape of a UID and takes off trailing padding (NUL and space).
///
/// A leading zero in a component is let through: some scanners write it, and refusing it would
/// refuse their studies.
fn parse(text: &str) -> Result<Box<str>, UidError> {
    let text = text.trim_end_matches(['\0', ' ']);
    if text.is_empty() {
        return Err(UidError::Empty);
    }
    if text.len() > UID_CHARS_MAX {
        return Err(UidError::TooLong(text.len()));
    }
    if !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(UidError::BadCharacter);
    }
    if text.split('.').any(str::is_empty) {
        return Err(UidError::EmptyComponent);
    }
    Ok(text.into())
}

macro_rules! uid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Parses a UID; trailing NUL or space padding is taken off.
            pub fn parse(text: &str) -> Result<Self, UidError> {
                parse(text).map(Self)
            }

            /// The UID as text, without padding.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = UidError;
            fn from_str(text: &str) -> Result<Self, UidError> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(
                d: &mut minicbor::Decoder<'b>,
                _: &mut C,
            ) -> Result<Self, minicbor::decode::Error> {
                let at = d.position();
                Self::parse(d.str()?).map_err(|e| minicbor::decode::Error::message(e).at(at))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

uid! {
    /// Study Instance UID (0020,000D).
    StudyUid
}
uid! {
    /// Series Instance UID (0020,000E).
    SeriesUid
}
uid! {
    /// SOP Instance UID (0008,0018).
    SopInstanceUid
}
uid! {
    /// SOP Class UID (0008,0016).
    SopClassUid
}
uid! {
    /// Transaction UID (0008,1195).
    TransactionUid
}
uid! {
    /// Transfer Syntax UID (0002,0010).
    TransferSyntaxUid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_taken_off_and_nothing_else() {
        assert_eq!(StudyUid::parse("1.2.840\0").unwrap().as_str(), "1.2.840");
        assert_eq!(StudyUid::parse("1.2.840 ").unwrap().as_str(), "1.2.840");
        assert_eq!(StudyUid::parse("1.02.3").unwrap().as_str(), "1.02.3");
    }

    #[test]
    fn what_is_no_uid_is_refused_with_its_reason() {
        assert_eq!(StudyUid::parse(""), Err(UidError::Empty));
        assert_eq!(StudyUid::parse("\0"), Err(UidError::Empty));
        assert_eq!(StudyUid::parse("../../x"), Err(UidError::BadCharacter));
        assert_eq!(StudyUid::parse("1.2\0.3"), Err(UidError::BadCharacter));
        assert_eq!(StudyUid::parse("1..2"), Err(UidError::EmptyComponent));
        assert_eq!(
            StudyUid::parse(&"1".repeat(200)),
            Err(UidError::TooLong(200))
        );
    }
}

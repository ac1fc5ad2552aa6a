//! Application entity titles (PS3.5 6.2, value representation AE).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Says why a text is not an AE title.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AeTitleError {
    /// Nothing but spaces.
    #[error("the AE title is empty")]
    Empty,
    /// More than 16 characters.
    #[error("the AE title has {0} characters, 16 are allowed")]
    TooLong(usize),
    /// A control character, a backslash, or a character outside ASCII.
    #[error("the AE title has a character that is not allowed")]
    BadCharacter,
}

/// An application entity title: 1 to 16 characters, leading and trailing spaces not significant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AeTitle(Box<str>);

impl AeTitle {
    /// Parses an AE title; surrounding spaces and trailing NULs are taken off.
    pub fn parse(text: &str) -> Result<Self, AeTitleError> {
        let text = text.trim_end_matches('\0').trim_matches(' ');
        if text.is_empty() {
            return Err(AeTitleError::Empty);
        }
        if text.len() > 16 {
            return Err(AeTitleError::TooLong(text.len()));
        }
        if !text
            .bytes()
            .all(|b| (0x20..0x7f).contains(&b) && b != b'\\')
        {
            return Err(AeTitleError::BadCharacter);
        }
        Ok(Self(text.into()))
    }

    /// The title without padding.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AeTitle {
    type Err = AeTitleError;
    fn from_str(text: &str) -> Result<Self, AeTitleError> {
        Self::parse(text)
    }
}

impl fmt::Display for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AeTitle({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_around_are_not_part_of_the_title() {
        assert_eq!(AeTitle::parse("  CT 1   ").unwrap().as_str(), "CT 1");
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(AeTitle::parse("    "), Err(AeTitleError::Empty));
        assert_eq!(AeTitle::parse("A\\B"), Err(AeTitleError::BadCharacter));
        assert_eq!(
            AeTitle::parse("ABCDEFGHIJKLMNOPQ"),
            Err(AeTitleError::TooLong(17))
        );
    }
}

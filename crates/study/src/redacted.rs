//! A wrapper that keeps patient data out of logs.

use std::fmt;

/// A value that identifies a person: it prints as `***` in Debug and has no Display.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Redacted<T>(T);

impl<T> Redacted<T> {
    /// Wraps a value that must not be printed.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for the screen or the paper of those who may see it.
    pub const fn reveal(&self) -> &T {
        &self.0
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Redacted::new("DOE^JANE")), "***");
    }
}

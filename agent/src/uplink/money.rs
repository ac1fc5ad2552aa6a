//! Money as operators write it: a decimal number, kept in whole millionths.

use std::str::FromStr;

use thiserror::Error;

/// Millionths in one unit of a currency.
const MICRO: u64 = 1_000_000;
/// How the bytes of a mebibyte are divided out of a cost.
const MIB_BITS: u32 = 20;

/// Says why a text is no amount of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an amount of money is written like `12`, `4.5` or `0.000125`, with at most six decimals")]
pub struct MoneyError;

/// An amount of money, in millionths of its currency's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Money(u64);

impl Money {
    /// The amount in millionths.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// What so many bytes cost at this price for a mebibyte. The unit is a millionth divided by the
    /// bytes of a mebibyte, so that counting byte by byte rounds nothing.
    pub fn cost_of(self, bytes: u64) -> u64 {
        self.0.saturating_mul(bytes)
    }

    /// The amount in the unit of [`Money::cost_of`].
    pub fn as_cost(self) -> u64 {
        self.0.saturating_mul(1 << MIB_BITS)
    }

    /// What a cost comes to, rounded up.
    pub fn of_cost(cost: u64) -> Self {
        Self(cost.div_ceil(1 << MIB_BITS))
    }
}

impl FromStr for Money {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 6 {
            return Err(MoneyError);
        }
        let whole: u64 = whole.parse().map_err(|_| MoneyError)?;
        let part: u64 = format!("{part:0<6}").parse().map_err(|_| MoneyError)?;
        let micros = whole.checked_mul(MICRO).and_then(|m| m.checked_add(part));
        micros.map(Self).ok_or(MoneyError)
    }
}

impl std::fmt::Display for Money {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, part) = (self.0 / MICRO, self.0 % MICRO);
        let part = format!("{part:06}");
        let part = part.trim_end_matches('0');
        match part {
            "" => write!(f, "{whole}"),
            _ => write!(f, "{whole}.{part}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_they_are_read() {
        for text in ["0", "12", "4.5", "0.000125"] {
            assert_eq!(text.parse::<Money>().unwrap().to_string(), text);
        }
        for text in ["", ".5", "1.", "-1", "1e3", "1.0000001", "99999999999999"] {
            assert_eq!(text.parse::<Money>(), Err(MoneyError), "{text}");
        }
    }

    #[test]
    fn counting_byte_by_byte_rounds_nothing() {
        let price: Money = "0.1".parse().unwrap();
        let cost: u64 = (0..1 << 10).map(|_| price.cost_of(1 << 10)).sum();
        assert_eq!(Money::of_cost(cost), price);
        assert_eq!(Money::of_cost(price.cost_of(1)).micros(), 1);
    }
}

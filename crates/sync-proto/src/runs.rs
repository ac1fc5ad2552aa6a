//! Sets of chunk numbers as runs: what a HAVE says, in a few bytes.

use std::collections::BTreeMap;

use minicbor::decode::{Decoder, Error as DecodeError};
use minicbor::encode::{Encoder, Error as EncodeError, Write};
use minicbor::{Decode, Encode};

/// A set of numbers below 2^32 - 1, kept as disjoint runs that do not touch.
///
/// Its CBOR is one array `[start, length, start, length, ..]`: ascending, lengths of at least 1,
/// a gap of at least 1 between runs. Anything else is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Runs(BTreeMap<u32, u32>);

impl Runs {
    /// The empty set.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The set of 0 to `count - 1`.
    pub fn full(count: u32) -> Self {
        Self(if count == 0 {
            BTreeMap::new()
        } else {
            BTreeMap::from([(0, count)])
        })
    }

    /// Adds one number.
    pub fn insert(&mut self, number: u32) {
        if self.contains(number) {
            return;
        }
        let mut start = number;
        let mut end = number + 1;
        if let Some((&before, &upto)) = self.0.range(..number).next_back()
            && upto == number
        {
            start = before;
        }
        if let Some(upto) = self.0.remove(&end) {
            end = upto;
        }
        self.0.insert(start, end);
    }

    /// Whether the number is in the set.
    pub fn contains(&self, number: u32) -> bool {
        self.0
            .range(..=number)
            .next_back()
            .is_some_and(|(_, &end)| number < end)
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|(&start, &end)| start..end)
    }

    /// One more than the greatest number; 0 for the empty set.
    pub fn end(&self) -> u32 {
        self.0.last_key_value().map_or(0, |(_, &end)| end)
    }

    /// How many runs it takes.
    pub fn runs(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<u32> for Runs {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut runs = Self::new();
        numbers.into_iter().for_each(|number| runs.insert(number));
        runs
    }
}

impl<C> Encode<C> for Runs {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.array(self.0.len() as u64 * 2)?;
        for (&start, &end) in &self.0 {
            e.u32(start)?.u32(end - start)?;
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Runs {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        let count = d
            .array()?
            .ok_or_else(|| DecodeError::message("runs of unknown length"))?;
        let mut runs = BTreeMap::new();
        let mut least = 0;
        for _ in 0..count / 2 {
            let (start, length) = (d.u32()?, d.u32()?);
            let end = start
                .checked_add(length)
                .filter(|_| length > 0 && start >= least);
            let end = end.ok_or_else(|| DecodeError::message("runs out of order"))?;
            runs.insert(start, end);
            least = end.saturating_add(1);
        }
        if count % 2 == 1 {
            return Err(DecodeError::message("half a run"));
        }
        Ok(Self(runs))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_a_set_and_cross_as_one(numbers in prop::collection::vec(0_u32..64, 0..64)) {
            let set: BTreeSet<u32> = numbers.iter().copied().collect();
            let runs: Runs = numbers.into_iter().collect();
            prop_assert_eq!(runs.iter().collect::<BTreeSet<_>>(), set.clone());
            prop_assert!((0..64).all(|n| runs.contains(n) == set.contains(&n)));
            prop_assert_eq!(runs.end(), set.last().map_or(0, |n| n + 1));
            let bytes = minicbor::to_vec(&runs).unwrap();
            prop_assert_eq!(minicbor::decode::<Runs>(&bytes).unwrap(), runs);
        }
    }

    #[test]
    fn only_the_one_form_of_a_set_is_accepted() {
        for wrong in [
            &[3, 1, 0, 1][..],
            &[0, 2, 2, 1],
            &[0, 0],
            &[0],
            &[u32::MAX, 1],
        ] {
            let bytes = minicbor::to_vec(wrong).unwrap();
            assert!(minicbor::decode::<Runs>(&bytes).is_err(), "{wrong:?}");
        }
    }
}

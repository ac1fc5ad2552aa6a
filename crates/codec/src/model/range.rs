//! A range coder: 64-bit range, 32 bits out at a time; and beside it bits that are as they are.
//!
//! In: bits and symbols with their probabilities, in 1/65,536; numbers. Out: bytes; and back.
//! Invariant: the decoder gives back what the encoder was given if it is asked with the same
//! probabilities. May not: fail on any bytes; past their end it reads zeros.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "words are cut out of wider numbers on purpose"
)]

use super::prefix::{Reader, Writer};

/// Upper ends of 16 symbols: where each begins, in 1/65,536; the first is 0.
pub(super) type Begins = [i32; 16];

/// One side of the coder. A model is written once, over this: the encoder says what is given to
/// it, the decoder ignores that and says what was read.
pub(super) trait Coder {
    /// A bit that is true with probability `p`, 1 to 65,535.
    fn bit(&mut self, bit: bool, p: u32) -> bool;
    /// A number of `bits` bits, at most 20, all equally likely; they go round the range.
    fn number(&mut self, number: u32, bits: u32) -> u32;
    /// One of 16 symbols.
    fn symbol(&mut self, symbol: usize, begins: &Begins) -> usize;
}

pub(super) struct Encoder {
    low: u64,
    range: u64,
    out: Vec<u8>,
    /// Where `out` began.
    start: usize,
    numbers: Writer,
}

impl Encoder {
    /// Writes behind the bytes given.
    pub(super) fn new(mut out: Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        Self {
            low: 0,
            range: u64::MAX,
            out,
            start,
            numbers: Writer::new(Vec::new()),
        }
    }

    /// The bytes: how many the range made, these, and the numbers.
    pub(super) fn finish(mut self) -> Vec<u8> {
        // A number in the range with zeros after its first word, which need not be written.
        self.narrow((1 << 32) - 1, 0);
        self.out
            .extend_from_slice(&((self.low >> 32) as u32).to_be_bytes());
        let coded = (self.out.len() - self.start - 4) as u32;
        self.out
            .splice(self.start..self.start + 4, coded.to_le_bytes());
        self.out.extend(self.numbers.finish());
        self.out
    }

    #[inline(always)]
    fn narrow(&mut self, by: u64, range: u64) {
        let (low, carries) = self.low.overflowing_add(by);
        self.low = low;
        self.range = range;
        if carries {
            carry(&mut self.out);
        }
    }

    #[inline(always)]
    fn flush(&mut self) {
        if self.range < 1 << 32 {
            self.out
                .extend_from_slice(&((self.low >> 32) as u32).to_be_bytes());
            self.low <<= 32;
            self.range <<= 32;
        }
    }
}

#[cold]
fn carry(out: &mut [u8]) {
    for byte in out.iter_mut().rev() {
        let (sum, carries) = byte.overflowing_add(1);
        *byte = sum;
        if !carries {
            break;
        }
    }
}

impl Coder for Encoder {
    #[inline(always)]
    fn bit(&mut self, bit: bool, p: u32) -> bool {
        let share = (self.range >> 16) * u64::from(p);
        let rest = self.range - share;
        if bit {
            self.range = share;
        } else {
            self.narrow(share, rest);
        }
        self.flush();
        bit
    }

    #[inline(always)]
    fn number(&mut self, number: u32, bits: u32) -> u32 {
        self.numbers.put(number, bits);
        number
    }

    #[inline(always)]
    fn symbol(&mut self, symbol: usize, begins: &Begins) -> usize {
        let share = self.range >> 16;
        let (begin, width) = stretch(symbol, begins);
        self.narrow(share * begin, share * width);
        self.flush();
        symbol
    }
}

/// Where a symbol begins, and how wide it is.
#[inline(always)]
fn stretch(symbol: usize, begins: &Begins) -> (u64, u64) {
    let begin = begins.get(symbol).copied().unwrap_or_default();
    let end = begins.get(symbol + 1).copied().unwrap_or(1 << 16);
    (u64::from(begin as u32), u64::from((end - begin) as u32))
}

pub(super) struct Decoder<'a> {
    /// How far the number read lies above the range's lower end.
    above: u64,
    range: u64,
    rest: &'a [u8],
    numbers: Reader<'a>,
}

impl<'a> Decoder<'a> {
    /// Reads what [`Encoder::finish`] gave; `None` if it ends early.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let (coded, rest) = bytes.split_first_chunk()?;
        let (coded, numbers) = rest.split_at_checked(u32::from_le_bytes(*coded) as usize)?;
        let mut decoder = Self {
            above: 0,
            range: u64::MAX,
            rest: coded,
            numbers: Reader::new(numbers),
        };
        decoder.above = (decoder.word() << 32) | decoder.word();
        Some(decoder)
    }

    #[inline(always)]
    fn word(&mut self) -> u64 {
        match self.rest.split_first_chunk() {
            Some((word, rest)) => {
                self.rest = rest;
                u64::from(u32::from_be_bytes(*word))
            }
            None => self.last_word(),
        }
    }

    #[cold]
    fn last_word(&mut self) -> u64 {
        let bytes = std::mem::take(&mut self.rest).iter();
        bytes
            .chain(&[0; 4])
            .take(4)
            .fold(0, |word, byte| (word << 8) | u64::from(*byte))
    }

    #[inline(always)]
    fn fill(&mut self) {
        if self.range < 1 << 32 {
            self.above = (self.above << 32) | self.word();
            self.range <<= 32;
        }
    }
}

impl Coder for Decoder<'_> {
    #[inline(always)]
    fn bit(&mut self, _: bool, p: u32) -> bool {
        let share = (self.range >> 16) * u64::from(p);
        let bit = self.above < share;
        // No branch: what it would take is as good as random.
        if bit {
            self.range = share;
        } else {
            self.above -= share;
            self.range -= share;
        }
        self.fill();
        bit
    }

    #[inline(always)]
    fn number(&mut self, _: u32, bits: u32) -> u32 {
        self.numbers.number(bits)
    }

    #[inline(always)]
    fn symbol(&mut self, _: usize, begins: &Begins) -> usize {
        let share = self.range >> 16;
        let at = (self.above / share).min(65535) as i32;
        // The first one begins at 0, and is always among them.
        let begun = begins.map(|begin| i32::from(begin <= at));
        let symbol = begun.iter().sum::<i32>() as usize - 1;
        let (begin, width) = stretch(symbol, begins);
        self.above -= share * begin;
        self.range = share * width;
        self.fill();
        symbol
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn begins() -> Begins {
        std::array::from_fn(|i| i32::try_from(i * i * 250).unwrap())
    }

    fn run(coder: &mut impl Coder, plan: &[(u8, u32, u32)]) -> Vec<u32> {
        plan.iter()
            .map(|(kind, value, p)| match kind {
                0 => u32::from(coder.bit(value & 1 == 1, *p)),
                1 => coder.number(value & 0xFFF, 12),
                _ => {
                    let symbol = usize::try_from(value % 16).unwrap();
                    u32::try_from(coder.symbol(symbol, &begins())).unwrap()
                }
            })
            .collect()
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            plan in prop::collection::vec((0..3_u8, any::<u32>(), 1..65536_u32), 0..2000)
        ) {
            let mut encoder = Encoder::new(Vec::new());
            let given = run(&mut encoder, &plan);
            let bytes = encoder.finish();
            prop_assert_eq!(run(&mut Decoder::new(&bytes).unwrap(), &plan), given);
        }

        #[test]
        fn any_bytes_decode_to_something(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            plan in prop::collection::vec((0..3_u8, any::<u32>(), 1..65536_u32), 0..500),
        ) {
            if let Some(mut decoder) = Decoder::new(&bytes) {
                run(&mut decoder, &plan);
            }
        }
    }

    #[test]
    fn likely_bits_cost_next_to_nothing() {
        let mut encoder = Encoder::new(Vec::new());
        for _ in 0..1_000_000 {
            encoder.bit(true, 65512);
        }
        assert!(encoder.finish().len() < 100);
        // A carry that runs through many bytes.
        let mut encoder = Encoder::new(Vec::new());
        let plan: Vec<_> = (0..500).map(|i| (0, u32::from(i == 499), 1)).collect();
        run(&mut encoder, &plan);
        let bytes = encoder.finish();
        let back = run(&mut Decoder::new(&bytes).unwrap(), &plan);
        assert_eq!(back.iter().sum::<u32>(), 1);
    }
}

//! Prefix codes (Huffman) for tier `fast`, and the bits they are written in.
//!
//! In: how often each symbol occurs. Out: codes of at most [`LENGTH_MAX`] bits; their lengths in
//! few bits; and back. Invariant: a code that is read is complete, so that every bit pattern means
//! a symbol. May not: fail on any bytes but by `None`; past their end zeros are read.

#![expect(
    clippy::cast_possible_truncation,
    reason = "bits are cut out of wider numbers on purpose"
)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The longest code.
pub(super) const LENGTH_MAX: u32 = 12;

/// Writes bits, the least significant first.
pub(super) struct Writer {
    bits: u64,
    count: u32,
    out: Vec<u8>,
}

impl Writer {
    /// Writes behind the bytes given.
    pub(super) fn new(out: Vec<u8>) -> Self {
        Self {
            bits: 0,
            count: 0,
            out,
        }
    }

    /// Writes at most 32 bits.
    #[inline(always)]
    pub(super) fn put(&mut self, bits: u32, count: u32) {
        self.bits |= u64::from(bits) << self.count;
        self.count += count;
        if self.count >= 32 {
            self.out
                .extend_from_slice(&(self.bits as u32).to_le_bytes());
            self.bits >>= 32;
            self.count -= 32;
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let bytes = self.bits.to_le_bytes();
        let used = self.count.div_ceil(8) as usize;
        self.out.extend_from_slice(&bytes[..used]);
        self.out
    }
}

/// Reads bits; zeros past the end.
pub(super) struct Reader<'a> {
    bits: u64,
    count: u32,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bits: 0,
            count: 0,
            rest: bytes,
        }
    }

    /// Makes at least 32 bits ready.
    #[inline(always)]
    pub(super) fn fill(&mut self) {
        if self.count < 32 {
            let word = match self.rest.split_first_chunk() {
                Some((word, rest)) => {
                    self.rest = rest;
                    u32::from_le_bytes(*word)
                }
                None => self.last_word(),
            };
            self.bits |= u64::from(word) << self.count;
            self.count += 32;
        }
    }

    #[cold]
    fn last_word(&mut self) -> u32 {
        let bytes = std::mem::take(&mut self.rest).iter().rev();
        bytes.fold(0, |word, byte| (word << 8) | u32::from(*byte))
    }

    /// Takes bits that are ready.
    #[inline(always)]
    pub(super) fn take(&mut self, count: u32) -> u32 {
        let bits = self.bits & ((1 << count) - 1);
        self.bits >>= count;
        self.count -= count;
        bits as u32
    }

    /// Takes up to 32 bits.
    #[inline(always)]
    pub(super) fn number(&mut self, count: u32) -> u32 {
        self.fill();
        self.take(count)
    }

    /// Takes a symbol; 12 bits must be ready.
    #[inline(always)]
    pub(super) fn symbol(&mut self, code: &Decoding) -> usize {
        let entry = code.0[(self.bits as usize) & (TABLE - 1)];
        self.take(u32::from(entry & 15));
        usize::from(entry >> 4)
    }
}

/// The codes of symbols: bits, and how many.
pub(super) struct Encoding([(u16, u8); SYMBOLS_MAX]);

impl Encoding {
    /// Makes a code for symbols that occur this often, and writes its lengths.
    pub(super) fn new(counts: &[u32], writer: &mut Writer) -> Self {
        let lengths = lengths(counts);
        write_lengths(&lengths, writer);
        let patterns = patterns(&lengths).expect("lengths from counts make a code");
        let mut codes = [(0, 0); SYMBOLS_MAX];
        for (code, pair) in codes.iter_mut().zip(patterns.into_iter().zip(lengths)) {
            *code = pair;
        }
        Self(codes)
    }

    #[inline(always)]
    pub(super) fn code(&self, symbol: usize) -> (u32, u32) {
        let (bits, count) = self.0[symbol % SYMBOLS_MAX];
        (u32::from(bits), u32::from(count))
    }
}

/// How many symbols a code has.
const SYMBOLS_MAX: usize = 64;
const TABLE: usize = 1 << LENGTH_MAX;

/// By the next 12 bits: the symbol, and in the lower 4 bits how many bits are its.
pub(super) struct Decoding(Box<[u16; TABLE]>);

impl Decoding {
    /// Reads a code of so many symbols, at most 64; `None` if it is none.
    pub(super) fn read(reader: &mut Reader<'_>, symbols: usize) -> Option<Self> {
        let lengths = read_lengths(reader, symbols)?;
        let patterns = patterns(&lengths)?;
        let mut table = Box::new([0; TABLE]);
        for (symbol, (pattern, length)) in (0_u16..).zip(patterns.iter().zip(&lengths)) {
            if *length > 0 {
                let places = usize::from(*pattern)..TABLE;
                for place in places.step_by(1 << length) {
                    table[place] = (symbol << 4) | u16::from(*length);
                }
            }
        }
        Some(Self(table))
    }
}

/// The lengths of a Huffman code. Rare symbols count for more until no length is over the limit.
fn lengths(counts: &[u32]) -> Vec<u8> {
    let mut counts = counts.to_vec();
    match counts.iter().filter(|count| **count > 0).count() {
        0 => return vec![0; counts.len()],
        // One bit that is never looked at would do; two symbols of one bit keep it complete.
        1 => {
            let spare = usize::from(counts[0] > 0);
            counts[spare] = 1;
        }
        _ => {}
    }
    loop {
        let lengths = tree(&counts);
        if lengths
            .iter()
            .all(|length| u32::from(*length) <= LENGTH_MAX)
        {
            return lengths;
        }
        for count in counts.iter_mut().filter(|count| **count > 0) {
            *count = *count / 2 + 1;
        }
    }
}

/// The depths of the leaves of a Huffman tree over at least two symbols.
fn tree(counts: &[u32]) -> Vec<u8> {
    // Equal counts are told apart by their numbers, so that the tree is always the same.
    let mut open: BinaryHeap<Reverse<(u32, usize)>> = counts
        .iter()
        .copied()
        .zip(0..)
        .filter(|(count, _)| *count > 0)
        .map(Reverse)
        .collect();
    let mut parents = vec![0; counts.len()];
    while let (Some(Reverse(one)), Some(Reverse(two))) = (open.pop(), open.pop()) {
        let node = parents.len();
        parents.push(node);
        parents[one.1] = node;
        parents[two.1] = node;
        if open.is_empty() {
            break;
        }
        open.push(Reverse((one.0 + two.0, node)));
    }
    // A node's parent has a higher number than the node; the root is its own.
    let root = parents.len() - 1;
    let mut depths = vec![0_u8; parents.len()];
    for node in (0..root).rev() {
        depths[node] = depths[parents[node]] + 1;
    }
    depths.truncate(counts.len());
    for (depth, count) in depths.iter_mut().zip(counts) {
        if *count == 0 {
            *depth = 0;
        }
    }
    depths
}

/// The canonical codes of these lengths, first bit lowest; `None` unless they are complete.
fn patterns(lengths: &[u8]) -> Option<Vec<u16>> {
    let mut codes = vec![0; lengths.len()];
    let mut next = 0_u32;
    for length in 1..=LENGTH_MAX {
        next <<= 1;
        for (code, own) in codes.iter_mut().zip(lengths) {
            if u32::from(*own) == length {
                *code = (next.reverse_bits() >> (32 - length)) as u16;
                next += 1;
            }
        }
        if next > 1 << length {
            return None;
        }
    }
    let unused = lengths.iter().all(|length| *length == 0);
    (unused || next == 1 << LENGTH_MAX).then_some(codes)
}

/// Lengths are written from the first to the last that is not 0, each as its difference from the
/// one before, in as many 0 bits as its number says, then a 1.
fn write_lengths(lengths: &[u8], writer: &mut Writer) {
    let first = lengths.iter().position(|l| *l > 0).unwrap_or(0);
    let end = lengths
        .iter()
        .rposition(|l| *l > 0)
        .map_or(first, |l| l + 1);
    writer.put(first as u32, 6);
    writer.put((end - first) as u32, 6);
    let mut before = FIRST_LENGTH;
    for length in &lengths[first..end] {
        let length = i32::from(*length);
        let difference = length - before;
        let zeros = if difference > 0 {
            2 * difference - 1
        } else {
            -2 * difference
        };
        writer.put(1 << zeros, zeros.unsigned_abs() + 1);
        before = length;
    }
}

/// What the first length is compared with.
const FIRST_LENGTH: i32 = 4;

fn read_lengths(reader: &mut Reader<'_>, symbols: usize) -> Option<Vec<u8>> {
    let first = reader.number(6) as usize;
    let count = reader.number(6) as usize;
    let mut lengths = vec![0; symbols];
    let mut before = FIRST_LENGTH;
    for length in lengths.get_mut(first..first + count)? {
        let mut zeros = 0;
        while reader.number(1) == 0 {
            zeros += 1;
            if zeros > 2 * LENGTH_MAX as i32 {
                return None;
            }
        }
        before += if zeros % 2 == 1 {
            (zeros + 1) / 2
        } else {
            -zeros / 2
        };
        *length = u8::try_from(before)
            .ok()
            .filter(|length| u32::from(*length) <= LENGTH_MAX)?;
    }
    Some(lengths)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn symbols_come_back(
            counts in prop::collection::vec(0..100_000_u32, 2..64),
            symbols in prop::collection::vec(any::<prop::sample::Index>(), 0..500),
        ) {
            let used: Vec<usize> = (0..counts.len()).filter(|i| counts[*i] > 0).collect();
            prop_assume!(!used.is_empty());
            let symbols: Vec<usize> = symbols.iter().map(|s| *s.get(&used)).collect();
            let mut writer = Writer::new(Vec::new());
            let encoding = Encoding::new(&counts, &mut writer);
            for symbol in &symbols {
                let (bits, count) = encoding.code(*symbol);
                prop_assert!(count <= LENGTH_MAX);
                writer.put(bits, count);
            }
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            let decoding = Decoding::read(&mut reader, counts.len()).unwrap();
            for symbol in &symbols {
                reader.fill();
                prop_assert_eq!(reader.symbol(&decoding), *symbol);
            }
        }

        #[test]
        fn any_bytes_are_a_code_or_none(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut reader = Reader::new(&bytes);
            for _ in 0..10 {
                if let Some(code) = Decoding::read(&mut reader, 44) {
                    reader.fill();
                    prop_assert!(reader.symbol(&code) < 44);
                }
            }
        }
    }

    #[test]
    fn steep_counts_stay_under_the_limit() {
        let counts: Vec<u32> = (0..30).map(|i| 1 << i).collect();
        let lengths = lengths(&counts);
        assert_eq!(u32::from(*lengths.iter().max().unwrap()), LENGTH_MAX);
        assert!(patterns(&lengths).is_some());
        assert_eq!(patterns(&[1, 1, 1]), None);
        assert_eq!(patterns(&[1, 2]), None);
    }
}

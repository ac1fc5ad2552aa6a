//! JPEG lossless (ITU-T T.81 annex H, process 14): one component, any predictor.
//!
//! In: a frame. Out: its samples, and the step that codes them again with the same tables.
//! Invariant: a step is written only if it gives the stored bytes.
//! May not: judge a stream: what it does not know has no native form.

use crate::reader::Reader;
use crate::split::Source;

use super::{Recipe, place};

/// What a scan was coded with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scan {
    rows: u16,
    columns: u16,
    /// Bits of a sample.
    precision: u8,
    /// Bytes of a pixel.
    bytes: u8,
    predictor: u8,
    /// Rows between restarts; 0: none.
    restart_rows: u16,
    code: Code,
}

/// Takes a frame over.
pub(super) fn take(
    frame: &[u8],
    source: &Source,
    pixels: &mut Vec<u8>,
    recipe: &mut Recipe,
) -> Option<()> {
    let (scan, data_at) = parse(frame, source)?;
    let (head, data) = frame.split_at_checked(data_at)?;
    let samples = scan.decode(data)?;
    // Whole bytes only: how the last one is filled up is the writer's own affair.
    let coded = scan.encode(&samples)?;
    let after = data.strip_prefix(coded.as_slice())?;
    recipe.copy(head);
    scan.write(place(pixels)?, recipe);
    recipe.copy(after);
    let shift = 16 - u32::from(scan.precision);
    for sample in samples {
        let pixel = if source.signed && scan.precision < 16 && scan.bytes == 2 {
            // The sign goes into the bits above the sample, where order among numbers wants it.
            ((sample << shift).cast_signed() >> shift).cast_unsigned()
        } else {
            sample
        };
        pixels.extend(pixel.to_le_bytes().into_iter().take(scan.bytes.into()));
    }
    Some(())
}

/// Reads the markers up to the scan; gives where its data begins.
fn parse(frame: &[u8], source: &Source) -> Option<(Scan, usize)> {
    let mut reader = Reader::new(frame);
    let mut tables: [Option<Code>; 4] = Default::default();
    let (mut precision, mut restart) = (None, 0);
    if reader.array() != Some([0xFF, 0xD8]) {
        return None;
    }
    loop {
        let [0xFF, marker] = reader.array()? else {
            return None;
        };
        let length = u16::from_be_bytes(reader.array()?);
        let mut segment = Reader::new(reader.take(usize::from(length).checked_sub(2)?)?);
        match marker {
            // Frame header of a lossless process.
            0xC3 => {
                let [bits, h1, h0, w1, w0, components] = segment.array()?;
                let size = (u16::from_be_bytes([h1, h0]), u16::from_be_bytes([w1, w0]));
                let fits = size == (source.rows, source.columns) && components == 1;
                precision = fits.then_some(bits);
            }
            // Huffman tables.
            0xC4 => {
                while !segment.rest().is_empty() {
                    let place = segment.u8()?;
                    *tables.get_mut(usize::from(place))? = Some(Code::read(&mut segment)?);
                }
            }
            0xDD => restart = u16::from_be_bytes(segment.array()?),
            0xDA => {
                let [1, _, selector, predictor, _, transform] = segment.array()? else {
                    return None;
                };
                let code = tables.get_mut(usize::from(selector >> 4))?.take()?;
                let scan = Scan {
                    rows: source.rows,
                    columns: source.columns,
                    precision: precision?,
                    bytes: u8::try_from(source.sample_bytes()).ok()?,
                    predictor,
                    restart_rows: restart / source.columns.max(1),
                    code,
                };
                let whole_rows = restart.is_multiple_of(source.columns.max(1));
                let fits = transform & 15 == 0 && whole_rows && scan.is_sound();
                return fits.then_some((scan, frame.len() - reader.rest().len()));
            }
            // Application data and comments.
            0xE0..=0xEF | 0xFE => {}
            _ => return None,
        }
    }
}

impl Scan {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<(usize, Self)> {
        let at = usize::try_from(reader.u32()?).ok()?;
        let scan = Self {
            rows: reader.u16()?,
            columns: reader.u16()?,
            precision: reader.u8()?,
            bytes: reader.u8()?,
            predictor: reader.u8()?,
            restart_rows: reader.u16()?,
            code: Code::read(reader)?,
        };
        scan.is_sound().then_some((at, scan))
    }

    fn write(&self, at: u32, recipe: &mut Recipe) {
        recipe.0.push(super::JPEG);
        recipe.0.extend_from_slice(&at.to_le_bytes());
        recipe.0.extend_from_slice(&self.rows.to_le_bytes());
        recipe.0.extend_from_slice(&self.columns.to_le_bytes());
        let [precision, bytes, predictor] = [self.precision, self.bytes, self.predictor];
        recipe.0.extend_from_slice(&[precision, bytes, predictor]);
        recipe.0.extend_from_slice(&self.restart_rows.to_le_bytes());
        recipe.0.extend_from_slice(&self.code.counts);
        recipe.0.extend_from_slice(&self.code.values);
    }

    fn is_sound(&self) -> bool {
        let bits = match self.bytes {
            1 => 2..=8,
            2 => 2..=16,
            _ => return false,
        };
        bits.contains(&self.precision)
            && (1..=7).contains(&self.predictor)
            && self.rows > 0
            && self.columns > 0
    }

    /// The samples of the scan's pixels.
    pub(super) fn samples(&self, pixels: &[u8]) -> Option<Vec<u16>> {
        let count = usize::from(self.rows) * usize::from(self.columns);
        let own = pixels.get(..count * usize::from(self.bytes))?;
        let mask = u16::MAX >> (16 - u32::from(self.precision));
        Some(if self.bytes == 1 {
            own.iter().map(|byte| u16::from(*byte) & mask).collect()
        } else {
            let pairs = own.as_chunks().0.iter();
            pairs.map(|pair| u16::from_le_bytes(*pair) & mask).collect()
        })
    }

    fn decode(&self, data: &[u8]) -> Option<Vec<u16>> {
        let columns = usize::from(self.columns);
        let mut samples: Vec<u16> = Vec::with_capacity(usize::from(self.rows) * columns);
        let mut bits = BitReader::new(data);
        let mut above = vec![0; columns];
        let mut restarts = 0_u8;
        for y in 0..self.rows {
            let first = self.begins(y);
            if first && y > 0 {
                bits.restart(restarts)?;
                restarts = (restarts + 1) % 8;
            }
            let mut near = Near::begin(self, first);
            for north in &mut above {
                near.step(*north);
                let difference = self.code.decode(&mut bits)?;
                let sample = near.predicted(self.predictor).wrapping_add(difference);
                near.west = sample;
                *north = sample;
                samples.push(sample);
            }
        }
        Some(samples)
    }

    /// The whole bytes that the samples are coded in.
    pub(super) fn encode(&self, samples: &[u16]) -> Option<Vec<u8>> {
        Some(self.code(samples)?.bytes)
    }

    fn code(&self, samples: &[u16]) -> Option<BitWriter> {
        let columns = usize::from(self.columns);
        let patterns = self.code.patterns()?;
        let mut out = BitWriter::default();
        let mut above = vec![0; columns];
        let mut restarts = 0_u8;
        for (y, row) in (0..self.rows).zip(samples.chunks(columns)) {
            let first = self.begins(y);
            if first && y > 0 {
                out.restart(restarts);
                restarts = (restarts + 1) % 8;
            }
            let mut near = Near::begin(self, first);
            for (north, sample) in above.iter_mut().zip(row) {
                near.step(*north);
                let difference = sample.wrapping_sub(near.predicted(self.predictor));
                let (category, extra) = split(difference);
                let (pattern, length) = *patterns.get(usize::from(category))?;
                out.put(u32::from(pattern), (length > 0).then_some(length)?);
                if category < 16 {
                    out.put(u32::from(extra), category);
                }
                near.west = *sample;
                *north = *sample;
            }
        }
        Some(out)
    }

    /// Whether a row is the first one, or the first after a restart.
    fn begins(&self, y: u16) -> bool {
        y == 0 || self.restart_rows > 0 && y.is_multiple_of(self.restart_rows)
    }
}

/// The neighbours of a sample (T.81 H.1.2.1).
struct Near {
    west: u16,
    north: u16,
    north_west: u16,
    /// Whether there is no row above.
    first: bool,
    /// Whether there is nothing to the west.
    edge: bool,
}

impl Near {
    fn begin(scan: &Scan, first: bool) -> Self {
        Self {
            west: 1 << (scan.precision - 1),
            north: 0,
            north_west: 0,
            first,
            edge: true,
        }
    }

    /// Goes on to the sample below `north`.
    fn step(&mut self, north: u16) {
        // Nothing to the west: the sample above stands in, but in the first row.
        if self.edge && !self.first {
            (self.west, self.north) = (north, north);
        }
        self.north_west = if self.edge { north } else { self.north };
        self.north = north;
        self.edge = false;
    }

    fn predicted(&self, predictor: u8) -> u16 {
        if self.first {
            return self.west;
        }
        let (a, b, c) = (
            i32::from(self.west),
            i32::from(self.north),
            i32::from(self.north_west),
        );
        let predicted = match predictor {
            1 => a,
            2 => b,
            3 => c,
            4 => a + b - c,
            5 => a + ((b - c) >> 1),
            6 => b + ((a - c) >> 1),
            _ => (a + b) >> 1,
        };
        let [low, high, ..] = predicted.to_le_bytes();
        u16::from_le_bytes([low, high])
    }
}

/// A difference's category, and the bits that tell it among those of its category.
fn split(difference: u16) -> (u8, u16) {
    let signed = difference.cast_signed();
    if signed == i16::MIN {
        return (16, 0);
    }
    let category = 16 - signed.unsigned_abs().leading_zeros();
    let below = if signed < 0 { 1 } else { 0 };
    let mask = if category == 0 {
        0
    } else {
        u16::MAX >> (16 - category)
    };
    let category = u8::try_from(category).unwrap_or_default();
    (category, difference.wrapping_sub(below) & mask)
}

/// A Huffman code for the 17 categories (T.81 annex C).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Code {
    /// How many codes there are of 1 to 16 bits.
    counts: [u8; 16],
    values: Vec<u8>,
}

impl Code {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let counts: [u8; 16] = reader.array()?;
        let total: usize = counts.iter().copied().map(usize::from).sum();
        let values = reader.take(total)?.to_vec();
        // As many codes of each length as that length has room for.
        let mut next = 0_u32;
        for (count, length) in counts.iter().zip(1_u32..) {
            next = (next << 1) + u32::from(*count);
            if next > 1 << length {
                return None;
            }
        }
        Some(Self { counts, values })
    }

    /// By category: the bits and how many; none for a category without a code.
    fn patterns(&self) -> Option<[(u16, u8); 17]> {
        let mut patterns = [(0, 0); 17];
        let mut values = self.values.iter();
        let mut next = 0_u32;
        for (count, length) in self.counts.iter().zip(1_u8..) {
            next <<= 1;
            for value in values.by_ref().take(usize::from(*count)) {
                let pattern = patterns.get_mut(usize::from(*value))?;
                *pattern = (u16::try_from(next).ok()?, length);
                next += 1;
            }
        }
        Some(patterns)
    }

    /// Reads a difference.
    fn decode(&self, bits: &mut BitReader<'_>) -> Option<u16> {
        let (mut code, mut first, mut at) = (0_u32, 0_u32, 0_usize);
        for count in self.counts {
            code = (code << 1) | bits.bit()?;
            first <<= 1;
            let above = code - first;
            if above < u32::from(count) {
                let category = *self.values.get(at + usize::try_from(above).ok()?)?;
                return difference(category, bits);
            }
            first += u32::from(count);
            at += usize::from(count);
        }
        None
    }
}

fn difference(category: u8, bits: &mut BitReader<'_>) -> Option<u16> {
    match category {
        0 => Some(0),
        1..=15 => {
            let mut extra = 0_u32;
            for _ in 0..category {
                extra = (extra << 1) | bits.bit()?;
            }
            let extra = u16::try_from(extra).ok()?;
            let negative = extra >> (category - 1) == 0;
            let least = (1_u16 << category) - 1;
            Some(extra.wrapping_sub(if negative { least } else { 0 }))
        }
        16 => Some(0x8000),
        _ => None,
    }
}

/// Reads bits, the most significant first, past stuffed zeros (T.81 B.1.1.5).
struct BitReader<'a> {
    rest: &'a [u8],
    byte: u8,
    left: u8,
}

impl<'a> BitReader<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self {
            rest,
            byte: 0,
            left: 0,
        }
    }

    fn bit(&mut self) -> Option<u32> {
        if self.left == 0 {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = match (byte, rest) {
                (0xFF, [0, rest @ ..]) => rest,
                (0xFF, _) => return None,
                (_, rest) => rest,
            };
            (self.byte, self.left) = (*byte, 8);
        }
        self.left -= 1;
        Some(u32::from(self.byte >> self.left) & 1)
    }

    /// Goes on behind a restart marker.
    fn restart(&mut self, number: u8) -> Option<()> {
        self.left = 0;
        self.rest = self.rest.strip_prefix(&[0xFF, 0xD0 + number])?;
        Some(())
    }
}

/// Writes bits, the most significant first, and stuffs zeros.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    bits: u32,
    count: u8,
}

impl BitWriter {
    /// Writes at most 16 bits.
    fn put(&mut self, bits: u32, count: u8) {
        self.bits = (self.bits << count) | bits;
        self.count += count;
        while self.count >= 8 {
            self.count -= 8;
            let [byte, ..] = (self.bits >> self.count).to_le_bytes();
            self.bytes.push(byte);
            if byte == 0xFF {
                self.bytes.push(0);
            }
        }
        self.bits &= (1 << self.count) - 1;
    }

    /// Fills the last byte up with ones.
    fn fill(&mut self) {
        if self.count > 0 {
            let missing = 8 - self.count;
            self.put((1 << missing) - 1, missing);
        }
    }

    fn restart(&mut self, number: u8) {
        self.fill();
        self.bytes.extend_from_slice(&[0xFF, 0xD0 + number]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn samples_come_back(
            columns in 1..20_u16,
            predictor in 1..=7_u8,
            precision in 2..=16_u8,
            restart_rows in 0..4_u16,
            samples in prop::collection::vec(any::<u16>(), 20..200),
        ) {
            let rows = u16::try_from(samples.len()).unwrap() / columns;
            let count = usize::from(rows * columns);
            let mask = u16::MAX >> (16 - u32::from(precision));
            let samples: Vec<u16> = samples[..count].iter().map(|s| s & mask).collect();
            // All categories at 5 bits.
            let mut counts = [0; 16];
            counts[4] = 17;
            let code = Code { counts, values: (0..17).collect() };
            let scan =
                Scan { rows, columns, precision, bytes: 2, predictor, restart_rows, code };
            let mut coded = scan.code(&samples).unwrap();
            coded.fill();
            prop_assert_eq!(scan.decode(&coded.bytes), Some(samples));
        }
    }

    #[test]
    fn the_extreme_differences_have_their_categories() {
        assert_eq!(split(0), (0, 0));
        assert_eq!(split(1), (1, 1));
        assert_eq!(split(1_u16.wrapping_neg()), (1, 0));
        assert_eq!(split(32767), (15, 32767));
        assert_eq!(split(32769), (15, 0));
        assert_eq!(split(32768), (16, 0));
    }

    #[test]
    fn a_code_with_too_many_words_is_refused() {
        let mut table = [0; 16 + 3];
        table[0] = 3;
        assert_eq!(Code::read(&mut Reader::new(&table)), None);
    }
}

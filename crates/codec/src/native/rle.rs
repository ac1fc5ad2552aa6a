//! RLE (PS3.5 annex G): one byte of each sample of a frame, row by row.
//!
//! In: a frame. Out: its samples, and for each segment the step that packs it again.
//! Invariant: a step is written only if it gives the stored bytes.
//! May not: know who packed it: a rule is tried, and kept if it fits.

use crate::reader::Reader;
use crate::split::Source;

use super::{Recipe, place, span};

const HEADER_BYTES: usize = 64;
/// The longest run of either kind.
const RUN_MAX: usize = 128;

/// When a packer breaks off a run of unlike bytes for two equal ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Whenever they come (pydicom).
    Pairs,
    /// Only at the end of a row, otherwise for three (DCMTK).
    Triples,
}

impl Rule {
    const ALL: [Self; 2] = [Self::Triples, Self::Pairs];

    fn byte(self) -> u8 {
        match self {
            Self::Pairs => 0,
            Self::Triples => 1,
        }
    }
}

/// One segment of a frame.
pub(super) struct Segment {
    rule: Rule,
    /// Where its first byte is among the pixels.
    at: usize,
    rows: u16,
    columns: u16,
    /// From one of its bytes to the next.
    stride: u8,
}

/// Takes a frame over.
pub(super) fn take(
    frame: &[u8],
    source: &Source,
    pixels: &mut Vec<u8>,
    recipe: &mut Recipe,
) -> Option<()> {
    let mut reader = Reader::new(frame);
    let count = usize::try_from(reader.u32()?).ok()?;
    let stride = source.sample_bytes();
    if count != stride {
        return None;
    }
    let mut ends = Vec::new();
    for _ in 0..count {
        ends.push(usize::try_from(reader.u32()?).ok()?);
    }
    let starts = ends.clone();
    ends.push(frame.len());
    let at = place(pixels)?;
    let samples = usize::from(source.rows) * usize::from(source.columns);
    let start = pixels.len();
    pixels.resize(start + samples * stride, 0);
    recipe.copy(frame.get(..*starts.first()?)?);
    for (segment, (from, to)) in starts.iter().zip(ends.iter().skip(1)).enumerate() {
        let stored = frame.get(*from..*to)?;
        // The most significant byte comes first; pixels are little endian.
        let byte = stride - 1 - segment;
        let plane = pixels.get_mut(start..)?.iter_mut().skip(byte);
        unpack(stored, plane.step_by(stride))?;
        let fits = Rule::ALL.into_iter().find_map(|rule| {
            let segment = Segment {
                rule,
                at: usize::try_from(at).ok()? + byte,
                rows: source.rows,
                columns: source.columns,
                stride: u8::try_from(stride).ok()?,
            };
            let mut packed = Vec::new();
            segment.pack(pixels, &mut packed)?;
            stored
                .strip_prefix(packed.as_slice())
                .map(|after| (segment, after))
        });
        let (segment, after) = fits?;
        segment.write(recipe)?;
        recipe.copy(after);
    }
    (*starts.first()? >= HEADER_BYTES).then_some(())
}

/// Unpacks a segment (PS3.5 G.3.2) to as many bytes as there are places.
fn unpack<'a>(stored: &[u8], mut places: impl ExactSizeIterator<Item = &'a mut u8>) -> Option<()> {
    let mut reader = Reader::new(stored);
    while places.len() > 0 {
        let head = reader.u8()?;
        match head {
            0..=127 => {
                for byte in reader.take(usize::from(head) + 1)? {
                    *places.next()? = *byte;
                }
            }
            128 => {}
            129..=255 => {
                let byte = reader.u8()?;
                for _ in 0..257 - usize::from(head) {
                    *places.next()? = byte;
                }
            }
        }
    }
    Some(())
}

impl Segment {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let rule = reader.u8()?;
        Some(Self {
            rule: Rule::ALL.into_iter().find(|known| known.byte() == rule)?,
            at: usize::try_from(reader.u32()?).ok()?,
            rows: reader.u16()?,
            columns: reader.u16()?,
            stride: reader.u8().filter(|stride| *stride > 0)?,
        })
    }

    fn write(&self, recipe: &mut Recipe) -> Option<()> {
        recipe.0.extend_from_slice(&[super::RLE, self.rule.byte()]);
        let at = u32::try_from(self.at).ok()?;
        recipe.0.extend_from_slice(&at.to_le_bytes());
        recipe.0.extend_from_slice(&self.rows.to_le_bytes());
        recipe.0.extend_from_slice(&self.columns.to_le_bytes());
        recipe.0.push(self.stride);
        Some(())
    }

    /// Packs the segment; no run crosses the end of a row (PS3.5 G.3.1).
    pub(super) fn pack(&self, pixels: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let (columns, stride) = (usize::from(self.columns), usize::from(self.stride));
        let samples = usize::from(self.rows) * columns;
        if samples == 0 {
            return None;
        }
        let own = span(pixels, self.at, (samples - 1) * stride + 1)?;
        let bytes: Vec<u8> = own.iter().step_by(stride).copied().collect();
        for row in bytes.chunks(columns) {
            self.pack_row(row, out);
        }
        Some(())
    }

    fn pack_row(&self, row: &[u8], out: &mut Vec<u8>) {
        let mut unlike: Vec<u8> = Vec::with_capacity(row.len());
        let mut left = row.len();
        for run in row.chunk_by(|a, b| a == b) {
            left -= run.len();
            let enough = match self.rule {
                Rule::Pairs => 2,
                Rule::Triples if left == 0 => 2,
                Rule::Triples => 3,
            };
            if run.len() < enough {
                unlike.extend_from_slice(run);
                continue;
            }
            pack_unlike(&mut unlike, out);
            for part in run.chunks(RUN_MAX) {
                // A single one that is left over comes out as a run of unlike bytes (257 - 1 = 0).
                let head = u8::try_from((257 - part.len()) % 256).unwrap_or_default();
                out.push(head);
                out.extend(part.first());
            }
        }
        pack_unlike(&mut unlike, out);
    }
}

fn pack_unlike(unlike: &mut Vec<u8>, out: &mut Vec<u8>) {
    for part in unlike.chunks(RUN_MAX) {
        out.push(u8::try_from(part.len() - 1).unwrap_or_default());
        out.extend_from_slice(part);
    }
    unlike.clear();
}

//! Native form: files whose pixels came compressed (RLE, JPEG lossless), as their pixels and a
//! recipe that makes the very same file of them.
//!
//! In: a file. Out: pixels that the models understand, and the recipe; or the file again. The bytes
//! are described in [`format`](mod@crate::format).
//! Invariant: a native form is made only of a file that it gives back byte for byte.
//! May not: refuse a file: what is not understood has no native form and is kept as it is; make
//! much of few bytes: a file has at most [`GROWTH`] times the bytes of its native form.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod jpeg;
mod rle;

use std::ops::Range;

use crate::reader::Reader;
use crate::split::{Compressed, Pixels, compressed_of};

/// How many times longer than its native form a file may be.
pub(crate) const GROWTH: u64 = 2;
/// How many bytes stand before the pixels.
const HEAD_BYTES: usize = 8;

/// A file in its native form.
pub(crate) struct Native {
    pub(crate) bytes: Vec<u8>,
    /// The pixels in those bytes.
    pub(crate) pixels: Pixels,
}

impl Native {
    /// The native form of a file; `None` if it has none that gives the file back.
    pub(crate) fn of(file: &[u8]) -> Option<Self> {
        let source = compressed_of(file)?;
        let mut pixels = Vec::new();
        let mut recipe = Recipe::default();
        let mut rest = 0;
        for fragment in &source.fragments {
            recipe.copy(file.get(rest..fragment.start)?);
            let bytes = file.get(fragment.clone())?;
            match source.transfer_syntax {
                Compressed::Rle => rle::take(bytes, &source, &mut pixels, &mut recipe)?,
                Compressed::JpegLossless => jpeg::take(bytes, &source, &mut pixels, &mut recipe)?,
            }
            rest = fragment.end;
        }
        recipe.copy(file.get(rest..)?);
        let range = HEAD_BYTES..HEAD_BYTES + pixels.len();
        let mut bytes = (pixels.len() as u64).to_le_bytes().to_vec();
        bytes.append(&mut pixels);
        bytes.append(&mut recipe.0);
        let pixels = source.pixels(range)?;
        (rebuild(&bytes, file.len() as u64).as_deref() == Some(file))
            .then_some(Self { bytes, pixels })
    }
}

/// The file of a native form; `None` if it is none, or makes more than `bytes_max` bytes.
pub(crate) fn rebuild(native: &[u8], bytes_max: u64) -> Option<Vec<u8>> {
    if bytes_max > GROWTH * native.len() as u64 {
        return None;
    }
    let bytes_max = usize::try_from(bytes_max).ok()?;
    let mut reader = Reader::new(native);
    let pixel_bytes = usize::try_from(reader.u64()?).ok()?;
    let pixels = reader.take(pixel_bytes)?;
    let mut file = Vec::with_capacity(bytes_max);
    while !reader.rest().is_empty() {
        match reader.u8()? {
            COPY => {
                let length = usize::try_from(reader.u32()?).ok()?;
                file.extend_from_slice(reader.take(length)?);
            }
            RLE => rle::Segment::read(&mut reader)?.pack(pixels, &mut file)?,
            JPEG => {
                let (at, scan) = jpeg::Scan::read(&mut reader)?;
                let samples = scan.samples(pixels.get(at..)?)?;
                file.append(&mut scan.encode(&samples)?);
            }
            _ => return None,
        }
        // A step makes some bytes for each pixel it looks at, so that this bounds time as well.
        if file.len() > bytes_max {
            return None;
        }
    }
    Some(file)
}

const COPY: u8 = 0;
const RLE: u8 = 1;
const JPEG: u8 = 2;

/// The steps that make a file.
#[derive(Default)]
struct Recipe(Vec<u8>);

impl Recipe {
    /// Bytes as they are.
    fn copy(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(u32::MAX as usize) {
            self.0.push(COPY);
            let length = u32::try_from(part.len()).expect("parts are cut to fit");
            self.0.extend_from_slice(&length.to_le_bytes());
            self.0.extend_from_slice(part);
        }
    }
}

/// A place among the pixels, as a recipe says it.
fn place(pixels: &[u8]) -> Option<u32> {
    u32::try_from(pixels.len()).ok()
}

/// Checked sub-slice from a start and a length.
fn span(bytes: &[u8], from: usize, length: usize) -> Option<&[u8]> {
    let range: Range<usize> = from..from.checked_add(length)?;
    bytes.get(range)
}

#[cfg(test)]
mod tests;

//! Models: what the codec knows of pixels.
//!
//! In: whole rows of pixels of one slice or part of one, and the same rows of up to two other
//! slices. Out: a payload; and back. The rules are written down in [`format`](mod@crate::format).
//! Invariant: a payload decodes to the same bytes on every machine, in every build, for ever;
//! numbers are integers, or f32 with `+ - * /` in a pinned order.
//! May not: panic or take unbounded memory or time on a payload from outside; use threads.

mod archive;
mod decisions;
mod fast;
mod link;
mod plane;
mod prefix;
mod range;
mod scene;
mod solve;
mod tables;

use plane::Layout;
pub(crate) use plane::Shape;
use range::{Decoder, Encoder};
use scene::Field;

use crate::format::{RAW_BYTES_MAX, REFS_MAX};
use crate::reader::Reader;

/// Which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    Fast,
    Link,
    Archive,
}

/// Narrower rows would cost more time a pixel, wider ones more memory.
const COLUMNS: std::ops::RangeInclusive<u16> = 16..=8192;

/// Whether there are models for such pixels.
pub(crate) fn fits(shape: Shape, bytes: usize) -> bool {
    COLUMNS.contains(&shape.columns)
        && (1..=RAW_BYTES_MAX).contains(&bytes)
        && bytes.is_multiple_of(shape.row_bytes())
}

/// Codes pixels; each reference has as many bytes as they. `None` if there is no model for them.
pub(crate) fn encode(
    model: Model,
    pixels: &[u8],
    shape: Shape,
    references: &[&[u8]],
) -> Option<Vec<u8>> {
    if !fits(shape, pixels.len()) || references.iter().any(|r| r.len() != pixels.len()) {
        return None;
    }
    let mut values = shape.values(pixels);
    let (least, most) = (*values.iter().min()?, *values.iter().max()?);
    let field = field(shape, pixels.len(), (least, most), references);
    let mut out = Vec::with_capacity(pixels.len() / 2);
    out.extend_from_slice(&shape.columns.to_le_bytes());
    let flags =
        u8::from(shape.signed) + 2 * u8::from(shape.big_endian) + 4 * u8::from(shape.single);
    out.extend_from_slice(&[flags, 0]);
    out.extend_from_slice(&least.to_le_bytes());
    out.extend_from_slice(&most.to_le_bytes());
    Some(match model {
        Model::Fast => fast::encode(&field, &values, out),
        Model::Link => {
            let mut encoder = Encoder::new(out);
            link::code(&mut encoder, &field, &mut values);
            encoder.finish()
        }
        Model::Archive => {
            let mut encoder = Encoder::new(out);
            archive::code(&mut encoder, &field, &mut values);
            encoder.finish()
        }
    })
}

/// Decodes a payload to `bytes` bytes; `None` if it is none.
pub(crate) fn decode(
    model: Model,
    payload: &[u8],
    bytes: usize,
    references: &[&[u8]],
) -> Option<Vec<u8>> {
    let mut reader = Reader::new(payload);
    let columns = reader.u16()?;
    let (flags, zero) = (reader.u8()?, reader.u8()?);
    let range = (reader.u16()?, reader.u16()?);
    let shape = Shape {
        columns,
        signed: flags & 1 != 0,
        big_endian: flags & 2 != 0,
        single: flags & 4 != 0,
    };
    let fine = flags < 8
        && zero == 0
        && range.0 <= range.1
        && fits(shape, bytes)
        && references.len() <= REFS_MAX
        && references.iter().all(|r| r.len() == bytes);
    if !fine {
        return None;
    }
    let field = field(shape, bytes, range, references);
    let mut values = vec![0; field.layout.width * field.layout.height];
    match model {
        Model::Fast => values = fast::decode(&field, reader.rest())?,
        Model::Link => link::code(&mut Decoder::new(reader.rest())?, &field, &mut values),
        Model::Archive => archive::code(&mut Decoder::new(reader.rest())?, &field, &mut values),
    }
    Some(shape.bytes(&values))
}

fn field(shape: Shape, bytes: usize, range: (u16, u16), references: &[&[u8]]) -> Field {
    Field {
        layout: Layout::new(usize::from(shape.columns), bytes / shape.row_bytes()),
        least: range.0,
        most: range.1,
        references: references.iter().map(|r| shape.values(r)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MODELS: [Model; 3] = [Model::Fast, Model::Link, Model::Archive];

    fn shape() -> impl Strategy<Value = Shape> {
        (16_u16..70, any::<[bool; 3]>()).prop_map(|(columns, [signed, big_endian, single])| Shape {
            columns,
            signed,
            big_endian,
            single,
        })
    }

    /// Pixels that are level, smooth, restless or without any sense, with jumps between.
    fn pixels(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut out = Vec::with_capacity(length);
        let mut level = 1000_u64;
        while out.len() < length {
            let (kind, run) = (next() % 5, next() % 200);
            for i in 0..run {
                let value = match kind {
                    0 => level,
                    1 => level + i * 3,
                    2 => level + next() % 40,
                    3 => next(),
                    _ => 63536,
                };
                out.extend_from_slice(&value.to_le_bytes()[..2]);
            }
            level = next() % 5000;
        }
        out.truncate(length);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn any_pixels_come_back(
            shape in shape(), rows in 1..40_usize, seed: u64, others in 0..=2_u64, related: bool,
        ) {
            let length = shape.row_bytes() * rows;
            let pixels_0 = pixels(length, seed);
            let others: Vec<Vec<u8>> =
                (1..=others).map(|o| pixels(length, if related { seed } else { seed + o })).collect();
            let references: Vec<&[u8]> = others.iter().map(Vec::as_slice).collect();
            for model in MODELS {
                let payload = encode(model, &pixels_0, shape, &references).unwrap();
                let back = decode(model, &payload, length, &references);
                prop_assert_eq!(back.as_ref(), Some(&pixels_0), "{:?}", model);
            }
        }

        #[test]
        fn any_payload_is_harmless(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            shape in shape(), rows in 1..20_usize, others in 0..=2_usize,
        ) {
            let length = shape.row_bytes() * rows;
            let mut payload = shape.columns.to_le_bytes().to_vec();
            payload.extend([u8::from(shape.single) * 4, 0, 0, 0, 255, 255]);
            payload.extend(bytes);
            let other = pixels(length, 5);
            let references: Vec<&[u8]> = vec![other.as_slice(); others];
            for model in MODELS {
                if let Some(back) = decode(model, &payload, length, &references) {
                    prop_assert_eq!(back.len(), length);
                }
            }
        }

        #[test]
        fn a_payload_with_changes_is_harmless(
            shape in shape(), seed: u64,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        ) {
            let length = shape.row_bytes() * 30;
            let original = pixels(length, seed);
            for model in MODELS {
                let mut payload = encode(model, &original, shape, &[&original]).unwrap();
                for (at, value) in &changes {
                    let at = at.index(payload.len());
                    payload[at] = *value;
                }
                let _ = decode(model, &payload, length, &[&original]);
            }
        }
    }

    #[test]
    fn what_no_model_fits_is_refused() {
        let narrow = Shape {
            columns: 15,
            signed: false,
            big_endian: false,
            single: false,
        };
        assert_eq!(encode(Model::Link, &[0; 30], narrow, &[]), None);
        let shape = Shape {
            columns: 16,
            ..narrow
        };
        assert_eq!(encode(Model::Link, &[0; 31], shape, &[]), None);
        assert_eq!(encode(Model::Link, &[0; 32], shape, &[&[0; 64]]), None);
        assert!(encode(Model::Link, &[0; 32], shape, &[]).is_some());
        assert_eq!(decode(Model::Link, &[0; 7], 32, &[]), None);
    }
}

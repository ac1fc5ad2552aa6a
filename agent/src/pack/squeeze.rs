//! The codec, and the proof that it gives back what it was given.

use codec::{Decoder, EncodeError, Limits, Source, Tier, Unit};
use thiserror::Error;

/// Says why files cannot be packed together.
#[derive(Debug, Error)]
pub(super) enum SqueezeError {
    /// The codec refused.
    #[error("the codec refused")]
    Encode(#[from] EncodeError),
    /// What was packed does not decode.
    #[error("what was packed does not decode")]
    Decode(#[from] codec::DecodeError),
    /// What was packed decodes to other bytes.
    #[error("file {0} of the batch decodes to other bytes")]
    Differs(usize),
}

/// Encodes named files, decodes them again and compares every byte; no files make no units.
pub(super) fn squeeze(files: &[(&str, &[u8])], tier: Tier) -> Result<Vec<Vec<u8>>, SqueezeError> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let sources: Vec<Source<'_>> = files
        .iter()
        .map(|(name, bytes)| Source { name, bytes })
        .collect();
    let units = codec::encode_group(&sources, tier)?;
    let mut decoder = Decoder::new(Limits::default());
    for unit in &units {
        decoder.push(unit.as_bytes())?;
    }
    for (index, (_, bytes)) in files.iter().enumerate() {
        if decoder.file(index)? != *bytes {
            return Err(SqueezeError::Differs(index));
        }
    }
    Ok(units.into_iter().map(Unit::into_bytes).collect())
}

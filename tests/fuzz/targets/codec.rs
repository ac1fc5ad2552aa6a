//! What the fuzz targets of the codec do with an input; the corpus is put through the same by the
//! codec's own tests.

use codec::{Decoder, HEADER_BYTES, Limits, Source, Tier, UnitHeader, encode_group, unit_bytes};

/// What a unit begins with; the input is cut there.
const MAGIC: &[u8] = b"CTPU";
/// What stands between files; the input is cut there too.
pub(crate) const SEPARATOR: &[u8] = b"--file--";
/// Little enough for many runs a second.
const LIMITS: Limits = Limits {
    table_bytes: 16 << 10,
    held_bytes: 16 << 10,
};

/// Takes an input for units; none may panic, or give a file that has not its digest.
///
/// Each is taken as it is and once more with lengths, group and digest made right, or else hardly
/// any would get past its digest.
pub(crate) fn decode(data: &[u8]) {
    let _ = unit_bytes(data);
    let _ = UnitHeader::parse(data);
    let mut decoder = Decoder::new(LIMITS);
    let mut group = [0; 16];
    for piece in cut(data, MAGIC) {
        if let Some(unit) = mended(piece, &mut group) {
            let _ = decoder.push(&unit);
        }
    }
    for index in 0..decoder.files().map_or(0, <[_]>::len) {
        let _ = decoder.units_of(index);
        if let Ok(file) = decoder.file(index) {
            let digest = decoder.files().map(|files| files[index].digest);
            assert_eq!(Some(study::Digest::of(&file)), digest);
        }
    }
}

/// Takes an input for a tier and files; they must come back.
pub(crate) fn encode(data: &[u8]) {
    let Some((tier, data)) = data.split_first() else {
        return;
    };
    let tier = Tier::ALL[usize::from(*tier) % Tier::ALL.len()];
    let sources: Vec<Source<'_>> = cut(data, SEPARATOR)
        .into_iter()
        .map(|bytes| Source { name: "n", bytes })
        .collect();
    let units = encode_group(&sources, tier).expect("few files make a group");
    let mut decoder = Decoder::new(Limits::default());
    for unit in &units {
        decoder.push(unit.as_bytes()).expect("our own unit");
    }
    for (index, source) in sources.iter().enumerate() {
        assert!(decoder.file(index).as_deref() == Ok(source.bytes));
    }
}

/// The pieces after each mark, and what is before the first one if there is none.
fn cut<'a>(data: &'a [u8], mark: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while let Some(window) = data.get(at..at + mark.len()) {
        if window == mark {
            pieces.push(&data[start..at]);
            at += mark.len();
            start = at;
        } else {
            at += 1;
        }
    }
    pieces.push(&data[start..]);
    pieces
}

/// A unit whose lengths and digests agree with its bytes; a table unit names the group.
fn mended(piece: &[u8], group: &mut [u8; 16]) -> Option<Vec<u8>> {
    let mut unit = [MAGIC, piece].concat();
    let references = usize::from(u16::from_le_bytes(*unit.get(56..)?.first_chunk()?)) % 4;
    let payload = unit.get(HEADER_BYTES + 4 * references..)?;
    let payload_bytes = u32::try_from(payload.len()).ok()?;
    if unit[5] == 1 {
        let table = match unit[6] {
            1 => zstd::bulk::decompress(payload, LIMITS.table_bytes).ok()?,
            _ => payload.to_vec(),
        };
        *group = *blake3::hash(&table).as_bytes().first_chunk()?;
        unit[48..52].copy_from_slice(&u32::try_from(table.len()).ok()?.to_le_bytes());
    }
    unit[8..24].copy_from_slice(group);
    unit[52..56].copy_from_slice(&payload_bytes.to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&unit[..60]).update(&unit[92..]);
    unit[60..92].copy_from_slice(hasher.finalize().as_bytes());
    Some(unit)
}

//! The table of a group: its files, the plan of its data units, and the inline bytes.
//!
//! In: the decoded table from outside. Out: files and, for each, the pieces it is put together
//! from. Invariant: the pieces of a file that is given out cover it without gap or overlap.
//! May not: believe a number before it is checked against what is there.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::collections::BTreeSet;
use std::ops::Range;

use study::Digest;

use crate::decode::DecodeError;
use crate::format::{RAW_BYTES_MAX, REFS_MAX, Span, require};
use crate::reader::Reader;

/// How many files one group has.
pub(crate) const GROUP_FILES_MAX: usize = 4096;
/// How long a file's name is.
pub(crate) const NAME_BYTES_MAX: usize = 1024;
/// How large a decoded table is.
pub(crate) const TABLE_BYTES_MAX: usize = 32 << 20;

/// A file of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// The name it was given; from outside, so mind what it may say before using it as a path.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
}

/// A file as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) entry: FileEntry,
    /// The size of its native form, if that is what is kept.
    pub(crate) native_bytes: Option<u64>,
}

impl Kept {
    /// How many bytes are kept.
    fn bytes(&self) -> u64 {
        self.native_bytes.unwrap_or(self.entry.bytes)
    }
}

/// One data unit to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) span: Span,
    /// The units it may predict from: in a table's bytes and on the way there counted from the first
    /// data unit, in a parsed table from the first unit.
    pub(crate) refs: Vec<u32>,
}

/// Where a stretch of a file comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// These bytes of the table.
    Inline(Range<usize>),
    /// The data unit with this number.
    Unit(u32),
}

/// A table that has been checked.
pub(crate) struct Table {
    bytes: Vec<u8>,
    pub(crate) files: Vec<FileEntry>,
    /// By file: the size of its native form, if that is what the pieces make.
    pub(crate) native_bytes: Vec<Option<u64>>,
    /// By unit number less the number of table units.
    pub(crate) plan: Vec<Planned>,
    /// By file.
    pub(crate) pieces: Vec<Vec<Piece>>,
}

impl Table {
    /// Reads a table of a group with `data_units` data units after `table_units` table units.
    pub(crate) fn parse(
        bytes: Vec<u8>,
        table_units: u32,
        data_units: u32,
    ) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(&bytes);
        let ended = DecodeError::Inconsistent("table ends early");
        let files = read_files(&mut reader)?.ok_or(ended.clone())?;
        let mut plan = read_plan(&mut reader, data_units)?.ok_or(ended)?;
        for (planned, number) in plan.iter_mut().zip(0..) {
            let refs = planned.refs.iter_mut();
            for reference in refs {
                require(*reference < number, DecodeError::Inconsistent("refs"))?;
                // Both are under the number of units.
                *reference += table_units;
            }
        }
        let inline_at = bytes.len() - reader.rest().len();
        let pieces = lay_out(&files, &plan, table_units, inline_at..bytes.len())?;
        let native_bytes = files.iter().map(|file| file.native_bytes).collect();
        Ok(Self {
            bytes,
            files: files.into_iter().map(|file| file.entry).collect(),
            native_bytes,
            plan,
            pieces,
        })
    }

    /// Inline bytes.
    pub(crate) fn inline(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }
}

/// Puts a table together; `inline` is the bytes that the plan's spans leave uncovered.
pub(crate) fn compose(files: &[Kept], plan: &[Planned], inline: &[u8]) -> Vec<u8> {
    let u32_of = |n: usize| u32::try_from(n).expect("groups have limits");
    let mut table = Vec::with_capacity(inline.len() + 80 * files.len() + 32 * plan.len());
    table.extend_from_slice(&u32_of(files.len()).to_le_bytes());
    for Kept {
        entry: file,
        native_bytes,
    } in files
    {
        let name_bytes = u16::try_from(file.name.len()).expect("names have a limit");
        table.extend_from_slice(&name_bytes.to_le_bytes());
        table.extend_from_slice(file.name.as_bytes());
        table.extend_from_slice(&file.bytes.to_le_bytes());
        table.extend_from_slice(file.digest.as_bytes());
        table.extend_from_slice(&native_bytes.unwrap_or(0).to_le_bytes());
    }
    table.extend_from_slice(&u32_of(plan.len()).to_le_bytes());
    for Planned { span, refs } in plan {
        table.extend_from_slice(&span.file.to_le_bytes());
        table.extend_from_slice(&span.offset.to_le_bytes());
        table.extend_from_slice(&span.bytes.to_le_bytes());
        table.push(u8::try_from(refs.len()).expect("at most 2 refs"));
        refs.iter()
            .for_each(|r| table.extend_from_slice(&r.to_le_bytes()));
    }
    table.extend_from_slice(inline);
    table
}

fn read_files(reader: &mut Reader<'_>) -> Result<Option<Vec<Kept>>, DecodeError> {
    let Some(count) = reader.u32() else {
        return Ok(None);
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    require(
        (1..=GROUP_FILES_MAX).contains(&count),
        DecodeError::OverLimit("files in a group"),
    )?;
    let mut files = Vec::new();
    for _ in 0..count {
        let Some(name_bytes) = reader.u16().map(usize::from) else {
            return Ok(None);
        };
        require(name_bytes <= NAME_BYTES_MAX, DecodeError::OverLimit("name"))?;
        let Some(name) = reader.take(name_bytes) else {
            return Ok(None);
        };
        let name = std::str::from_utf8(name).map_err(|_| DecodeError::Inconsistent("name"))?;
        let (Some(bytes), Some(digest), Some(native)) =
            (reader.u64(), reader.array(), reader.u64())
        else {
            return Ok(None);
        };
        files.push(Kept {
            entry: FileEntry {
                name: name.to_owned(),
                bytes,
                digest: Digest::from_bytes(digest),
            },
            native_bytes: (native > 0).then_some(native),
        });
    }
    Ok(Some(files))
}

fn read_plan(
    reader: &mut Reader<'_>,
    data_units: u32,
) -> Result<Option<Vec<Planned>>, DecodeError> {
    let Some(count) = reader.u32() else {
        return Ok(None);
    };
    require(
        count == data_units,
        DecodeError::Inconsistent("number of data units"),
    )?;
    let mut plan = Vec::new();
    for _ in 0..count {
        let (Some(file), Some(offset), Some(bytes), Some(refs)) =
            (reader.u32(), reader.u64(), reader.u32(), reader.u8())
        else {
            return Ok(None);
        };
        let raw = usize::try_from(bytes).unwrap_or(usize::MAX);
        require(
            (1..=RAW_BYTES_MAX).contains(&raw),
            DecodeError::OverLimit("bytes of a unit"),
        )?;
        require(
            usize::from(refs) <= REFS_MAX,
            DecodeError::OverLimit("refs"),
        )?;
        let Some(refs) = (0..refs).map(|_| reader.u32()).collect() else {
            return Ok(None);
        };
        plan.push(Planned {
            span: Span {
                file,
                offset,
                bytes,
            },
            refs,
        });
    }
    Ok(Some(plan))
}

/// Finds the pieces of every file, and that they and the inline bytes come out even.
fn lay_out(
    files: &[Kept],
    plan: &[Planned],
    table_units: u32,
    inline: Range<usize>,
) -> Result<Vec<Vec<Piece>>, DecodeError> {
    let mut spans: BTreeSet<(Span, u32)> = plan.iter().map(|p| p.span).zip(table_units..).collect();
    let mut inline_at = inline.start;
    let mut pieces = Vec::with_capacity(files.len());
    for (file, index) in files.iter().zip(0_u32..) {
        let mut own = Vec::new();
        let mut at = 0_u64;
        let mut gap = |from: u64, to: u64, own: &mut Vec<Piece>| {
            let gap = to
                .checked_sub(from)
                .ok_or(DecodeError::Inconsistent("spans overlap"))?;
            let end = usize::try_from(gap)
                .ok()
                .and_then(|gap| inline_at.checked_add(gap))
                .filter(|end| *end <= inline.end)
                .ok_or(DecodeError::Inconsistent("inline bytes"))?;
            if gap > 0 {
                own.push(Piece::Inline(inline_at..end));
                inline_at = end;
            }
            Ok(())
        };
        while let Some((span, unit)) = spans.first().copied().filter(|(s, _)| s.file == index) {
            spans.pop_first();
            gap(at, span.offset, &mut own)?;
            own.push(Piece::Unit(unit));
            at = span
                .offset
                .checked_add(u64::from(span.bytes))
                .ok_or(DecodeError::Inconsistent("span"))?;
        }
        gap(at, file.bytes(), &mut own)?;
        pieces.push(own);
    }
    require(
        spans.is_empty(),
        DecodeError::Inconsistent("span of no file"),
    )?;
    require(
        inline_at == inline.end,
        DecodeError::Inconsistent("inline bytes"),
    )?;
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: u64) -> Kept {
        Kept {
            entry: FileEntry {
                name: "f".into(),
                bytes,
                digest: Digest::of(b""),
            },
            native_bytes: None,
        }
    }

    fn planned(file: u32, offset: u64, bytes: u32) -> Planned {
        Planned {
            span: Span {
                file,
                offset,
                bytes,
            },
            refs: Vec::new(),
        }
    }

    fn parse(files: &[Kept], plan: &[Planned], inline: &[u8]) -> Result<Table, DecodeError> {
        let data_units = u32::try_from(plan.len()).unwrap();
        Table::parse(compose(files, plan, inline), 1, data_units)
    }

    #[test]
    fn inline_bytes_fill_what_spans_leave_open() {
        let plan = [planned(1, 0, 10), planned(0, 5, 10), planned(0, 15, 5)];
        let table = parse(&[file(23), file(12)], &plan, b"01234567ab").unwrap();
        let inline = |piece: &Piece| match piece {
            Piece::Inline(range) => table.inline(range.clone()).to_vec(),
            Piece::Unit(unit) => format!("u{unit}").into_bytes(),
        };
        let of = |i: usize| table.pieces[i].iter().map(inline).collect::<Vec<_>>();
        assert_eq!(
            of(0),
            [
                b"01234".to_vec(),
                b"u2".to_vec(),
                b"u3".to_vec(),
                b"567".to_vec()
            ]
        );
        assert_eq!(of(1), [b"u1".to_vec(), b"ab".to_vec()]);
    }

    #[test]
    fn tables_that_do_not_come_out_even_are_refused() {
        let why = |files: &[Kept], plan: &[Planned], inline: &[u8]| {
            parse(files, plan, inline).err().unwrap()
        };
        use DecodeError::Inconsistent;
        assert_eq!(why(&[file(5)], &[], b"four"), Inconsistent("inline bytes"));
        assert_eq!(why(&[file(3)], &[], b"four"), Inconsistent("inline bytes"));
        assert_eq!(
            why(&[file(u64::MAX)], &[], b""),
            Inconsistent("inline bytes")
        );
        assert_eq!(
            why(&[file(4)], &[planned(1, 0, 4)], b"four"),
            Inconsistent("span of no file")
        );
        let overlap = [planned(0, 0, 4), planned(0, 3, 4)];
        assert_eq!(
            why(&[file(7)], &overlap, b""),
            Inconsistent("spans overlap")
        );
        assert_eq!(
            why(&[file(3)], &[planned(0, 0, 4)], b""),
            Inconsistent("spans overlap")
        );
        let far = [planned(0, u64::MAX, 4)];
        assert_eq!(
            why(&[file(u64::MAX)], &far, b""),
            Inconsistent("inline bytes")
        );
    }

    #[test]
    fn a_unit_predicts_only_from_data_units_before_it() {
        let with_ref = |r: u32| {
            let mut second = planned(0, 4, 4);
            second.refs.push(r);
            parse(&[file(8)], &[planned(0, 0, 4), second], b"").err()
        };
        assert_eq!(with_ref(0), None);
        for r in [1, 2, u32::MAX] {
            assert_eq!(with_ref(r), Some(DecodeError::Inconsistent("refs")));
        }
    }
}

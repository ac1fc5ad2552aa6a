//! Even and odd bytes apart: for pixels that no model makes smaller.
//!
//! In: pairs of bytes. Out: all first bytes, then all second ones; and back.
//! May not: fail but on an odd length.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

/// Splits pairs; `None` if a byte is over.
pub(crate) fn split_planes(bytes: &[u8]) -> Option<Vec<u8>> {
    let (pairs, []) = bytes.as_chunks::<2>() else {
        return None;
    };
    let firsts = pairs.iter().map(|[first, _]| *first);
    Some(
        firsts
            .chain(pairs.iter().map(|[_, second]| *second))
            .collect(),
    )
}

/// Joins pairs; `None` if a byte is over.
pub(crate) fn join_planes(planes: &[u8]) -> Option<Vec<u8>> {
    let (firsts, seconds) = planes.split_at_checked(planes.len() / 2)?;
    let pairs = firsts.iter().zip(seconds).flat_map(|(a, b)| [*a, *b]);
    (firsts.len() == seconds.len()).then(|| pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back() {
        let planes = split_planes(b"a1b2c3").unwrap();
        assert_eq!(planes, b"abc123");
        assert_eq!(join_planes(&planes).unwrap(), b"a1b2c3");
        assert_eq!(split_planes(b"abc"), None);
        assert_eq!(join_planes(b"abc"), None);
    }
}

//! The transfer syntaxes that are taken, and which one of a proposal is chosen.
//!
//! All of PS3.6 that encode a data set for an association. Left out are those that don't: RFC 2557 and
//! XML (retired, never a data set), SMPTE ST 2110 (live video over RTP, PS3.22), Papyrus 3 (a file format).

use study::TransferSyntaxUid;

/// When a proposal names several transfer syntaxes, which of them is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// Loses nothing: neither pixels nor value representations.
    First,
    /// Loses value representations, or is retired: implicit VR, big endian.
    Second,
    /// May lose pixels, or doesn't carry them. Choosing it over another would make a scanner that can
    /// send either degrade what it has.
    Last,
}

/// UID, name and choice of every transfer syntax that is taken, ordered by UID component.
#[rustfmt::skip]
pub const TRANSFER_SYNTAXES: &[(&str, &str, Choice)] = &[
    ("1.2.840.10008.1.2", "Implicit VR Little Endian", Choice::Second),
    ("1.2.840.10008.1.2.1", "Explicit VR Little Endian", Choice::First),
    ("1.2.840.10008.1.2.1.98", "Encapsulated Uncompressed Explicit VR Little Endian", Choice::First),
    ("1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian", Choice::First),
    ("1.2.840.10008.1.2.2", "Explicit VR Big Endian (Retired)", Choice::Second),
    ("1.2.840.10008.1.2.4.50", "JPEG Baseline (Process 1)", Choice::Last),
    ("1.2.840.10008.1.2.4.51", "JPEG Extended (Process 2 & 4)", Choice::Last),
    ("1.2.840.10008.1.2.4.52", "JPEG Extended (Process 3 & 5) (Retired)", Choice::Last),
    ("1.2.840.10008.1.2.4.53", "JPEG Spectral Selection, Non-Hierarchical (Process 6 & 8) (Retired)", Choice::Last),
    ("1.2.840.10008.1.2.4.54", "JPEG Spectral Selection, Non-Hierarchical (Process 7 & 9) (Retired)", Choice::Last),
    ("1.2.840.10008.1.2.4.55", "JPEG Full Progression, Non-Hierarchical (Process 10 & 12) (Retired)", Choice::Last),
    ("1.2.840.10008.1.2.4.56", "JPEG Full Progression, Non-Hierarchical (Process 11 & 13) (Retired)", Choice::Last),
    ("1.2.840.10008.1.2.4.57", "JPEG Lossless, Non-Hierarchical (Process 14)", Choice::First),
    ("1.2.840.10008.1.2.4.58", "JPEG Lossless, Non-Hierarchical (Process 15) (Retired)", Choice::First),
    ("1.2.840.10008.1.2.4.59", "JPEG Extended, Hierarchical (Process 16 & 18) (Retired)", Choice::Last),
    ("1.2.840.10008.1.2.4.60", "JPEG Extended, Hierarchical (Process 17 & 19) (Retired)", Choice::Last),
    ("1.2.840.10008.1.2.4.61", "JPEG Spectral Selection, Hierarchical (Process 20 & 22) (Retired)", Choice::Last),
    ("1.2.840.10008.1.2.4.62", "JPEG Spectral Selection, Hierarchical (Process 21 & 23) (Retired)", Choice::Last),
    ("1.2.840.10008.1.2.4.63", "JPEG Full Progression, Hierarchical (Process 24 & 26) (Retired)", Choice::Last),
    ("1.2.840.10008.1.2.4.64", "JPEG Full Progression, Hierarchical (Process 25 & 27) (Retired)", Choice::Last),
    ("1.2.840.10008.1.2.4.65", "JPEG Lossless, Hierarchical (Process 28) (Retired)", Choice::First),
    ("1.2.840.10008.1.2.4.66", "JPEG Lossless, Hierarchical (Process 29) (Retired)", Choice::First),
    ("1.2.840.10008.1.2.4.70", "JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])", Choice::First),
    ("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless Image Compression", Choice::First),
    ("1.2.840.10008.1.2.4.81", "JPEG-LS Lossy (Near-Lossless) Image Compression", Choice::Last),
    ("1.2.840.10008.1.2.4.90", "JPEG 2000 Image Compression (Lossless Only)", Choice::First),
    ("1.2.840.10008.1.2.4.91", "JPEG 2000 Image Compression", Choice::Last),
    ("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2 Multi-component Image Compression (Lossless Only)", Choice::First),
    ("1.2.840.10008.1.2.4.93", "JPEG 2000 Part 2 Multi-component Image Compression", Choice::Last),
    ("1.2.840.10008.1.2.4.94", "JPIP Referenced", Choice::Last),
    ("1.2.840.10008.1.2.4.95", "JPIP Referenced Deflate", Choice::Last),
    ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile / Main Level", Choice::Last),
    ("1.2.840.10008.1.2.4.100.1", "Fragmentable MPEG2 Main Profile / Main Level", Choice::Last),
    ("1.2.840.10008.1.2.4.101", "MPEG2 Main Profile / High Level", Choice::Last),
    ("1.2.840.10008.1.2.4.101.1", "Fragmentable MPEG2 Main Profile / High Level", Choice::Last),
    ("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile / Level 4.1", Choice::Last),
    ("1.2.840.10008.1.2.4.102.1", "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.1", Choice::Last),
    ("1.2.840.10008.1.2.4.103", "MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1", Choice::Last),
    ("1.2.840.10008.1.2.4.103.1", "Fragmentable MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1", Choice::Last),
    ("1.2.840.10008.1.2.4.104", "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video", Choice::Last),
    ("1.2.840.10008.1.2.4.104.1", "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video", Choice::Last),
    ("1.2.840.10008.1.2.4.105", "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video", Choice::Last),
    ("1.2.840.10008.1.2.4.105.1", "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video", Choice::Last),
    ("1.2.840.10008.1.2.4.106", "MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2", Choice::Last),
    ("1.2.840.10008.1.2.4.106.1", "Fragmentable MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2", Choice::Last),
    ("1.2.840.10008.1.2.4.107", "HEVC/H.265 Main Profile / Level 5.1", Choice::Last),
    ("1.2.840.10008.1.2.4.108", "HEVC/H.265 Main 10 Profile / Level 5.1", Choice::Last),
    ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless", Choice::First),
    ("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression", Choice::First),
    ("1.2.840.10008.1.2.4.112", "JPEG XL", Choice::Last),
    ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000 Image Compression (Lossless Only)", Choice::First),
    ("1.2.840.10008.1.2.4.202", "High-Throughput JPEG 2000 with RPCL Options Image Compression (Lossless Only)", Choice::First),
    ("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000 Image Compression", Choice::Last),
    ("1.2.840.10008.1.2.4.204", "JPIP HTJ2K Referenced", Choice::Last),
    ("1.2.840.10008.1.2.4.205", "JPIP HTJ2K Referenced Deflate", Choice::Last),
    ("1.2.840.10008.1.2.5", "RLE Lossless", Choice::First),
    ("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression", Choice::First),
];

/// Chooses among proposed transfer syntaxes; none when none is known.
///
/// Within the same [`Choice`] the order of the proposal decides.
pub(crate) fn choose(proposed: &[String]) -> Option<TransferSyntaxUid> {
    proposed
        .iter()
        .filter_map(|text| TransferSyntaxUid::parse(text).ok())
        .filter_map(|uid| Some((choice_of(uid.as_str())?, uid)))
        .min_by_key(|(choice, _)| *choice)
        .map(|(_, uid)| uid)
}

/// Chooses for a service that parses its data sets: one of the two encodings without retired parts.
pub(crate) fn choose_parsed(proposed: &[String]) -> Option<TransferSyntaxUid> {
    let parsed: Vec<String> = proposed
        .iter()
        .filter(|uid| PARSED.contains(&uid.trim_end_matches(['\0', ' '])))
        .cloned()
        .collect();
    choose(&parsed)
}

/// Implicit and explicit VR, little endian.
const PARSED: [&str; 2] = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"];

fn choice_of(uid: &str) -> Option<Choice> {
    TRANSFER_SYNTAXES
        .iter()
        .find(|(known, _, _)| *known == uid)
        .map(|(_, _, choice)| *choice)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn chosen(proposed: &[&str]) -> Option<String> {
        let proposed: Vec<String> = proposed.iter().map(ToString::to_string).collect();
        choose(&proposed).map(|uid| uid.as_str().to_string())
    }

    #[test]
    fn what_loses_nothing_is_chosen_in_the_order_of_the_proposal() {
        let (implicit, explicit) = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1");
        let (jpeg_lossy, jpeg_lossless) = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70");
        assert_eq!(chosen(&[implicit, explicit]).as_deref(), Some(explicit));
        assert_eq!(chosen(&[jpeg_lossy, implicit]).as_deref(), Some(implicit));
        assert_eq!(
            chosen(&[jpeg_lossless, explicit]).as_deref(),
            Some(jpeg_lossless)
        );
        assert_eq!(
            chosen(&[explicit, jpeg_lossless]).as_deref(),
            Some(explicit)
        );
        assert_eq!(chosen(&[jpeg_lossy]).as_deref(), Some(jpeg_lossy));
    }

    #[test]
    fn a_private_or_broken_transfer_syntax_is_never_chosen() {
        assert_eq!(chosen(&["1.2.840.113619.5.2", "../x", ""]), None);
        assert_eq!(
            chosen(&["1.2.840.113619.5.2", "1.2.840.10008.1.2\0"]).as_deref(),
            Some("1.2.840.10008.1.2")
        );
    }

    #[test]
    fn no_row_stands_twice() {
        let uids: BTreeSet<_> = TRANSFER_SYNTAXES.iter().map(|(uid, _, _)| uid).collect();
        assert_eq!(uids.len(), TRANSFER_SYNTAXES.len());
    }
}

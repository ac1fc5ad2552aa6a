//! Character sets: what the bytes of a text value say (PS3.3 C.12.1.1.2, PS3.5 6.1).
//!
//! In: values as they came, and the Specific Character Set (0008,0005) beside them. Out: text; and
//! text as bytes, for a peer that asks for one of these character sets.
//! Invariant: reading never fails; what cannot be read becomes U+FFFD, one for each run of bytes.
//! May not: change what is kept; bytes at rest stay as they came.
//!
//! All defined terms are read, code extensions (ISO 2022) too. Written are the single-byte sets,
//! UTF-8, GB18030, GBK, and the Japanese and Korean extensions.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use encoding_rs::{
    EUC_JP, EUC_KR, Encoding, GB18030, GBK, ISO_2022_JP, ISO_8859_2, ISO_8859_3, ISO_8859_4,
    ISO_8859_5, ISO_8859_6, ISO_8859_7, ISO_8859_8, ISO_8859_15, SHIFT_JIS, UTF_8, WINDOWS_874,
    WINDOWS_1252, WINDOWS_1254,
};

/// The defined term of UTF-8.
pub const UTF8_TERM: &str = "ISO_IR 192";

const ESCAPE: u8 = 0x1B;

/// How bytes are read between two escape sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The bytes as they are.
    Plain(&'static Encoding),
    /// Two bytes of seven bits each stand for one character of JIS X 0208.
    Jis0208,
    /// Two bytes of seven bits each stand for one character of JIS X 0212.
    Jis0212,
}

/// The character sets that one data set uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CharacterSet {
    /// What holds at the beginning of a value and after each of its delimiters.
    initial: &'static Encoding,
    /// The terms, as they stand in the attribute.
    terms: Vec<String>,
}

impl CharacterSet {
    /// Unicode.
    pub fn utf8() -> Self {
        Self::of_terms(&[UTF8_TERM])
    }

    /// Reads Specific Character Set (0008,0005); what is missing or unknown is ASCII.
    pub fn of(value: &[u8]) -> Self {
        let text = String::from_utf8_lossy(value);
        let terms: Vec<&str> = text
            .split('\\')
            .map(|term| term.trim_matches([' ', '\0']))
            .collect();
        Self::of_terms(&terms)
    }

    fn of_terms(terms: &[&str]) -> Self {
        let first = terms.first().copied().unwrap_or_default();
        Self {
            // Latin-1 is what a value with high bytes and no character set mostly is.
            initial: single(&normal(first)).unwrap_or(WINDOWS_1252),
            terms: terms.iter().map(ToString::to_string).collect(),
        }
    }

    /// Specific Character Set as it is to stand in a data set; empty for ASCII alone.
    pub fn to_value(&self) -> String {
        self.terms.join("\\")
    }

    /// Reads a text value, its padding included.
    pub fn read(&self, value: &[u8]) -> String {
        if self.extends() {
            return self.read_extended(value);
        }
        read(Reading::Plain(self.initial), value)
    }

    /// Writes a text; none when a character of it is not in these sets, or they are only read.
    pub fn write(&self, text: &str) -> Option<Vec<u8>> {
        if text.is_ascii() {
            return Some(text.as_bytes().to_vec());
        }
        let has = |wanted: &str| self.terms.iter().any(|term| normal(term) == wanted);
        let initial = || {
            // No term at all is ASCII; of Shift JIS only the single bytes are a DICOM character set.
            let encoding = single(&normal(self.terms.first()?))?;
            (encoding != SHIFT_JIS).then(|| write(encoding, text))?
        };
        let japanese = || {
            let mut bytes = has("IR 87").then(|| write(ISO_2022_JP, text))??;
            if self.initial == SHIFT_JIS {
                return_to_romaji(&mut bytes);
            }
            Some(bytes)
        };
        let korean = || has("IR 149").then(|| write_korean(text))?;
        let written = initial().or_else(japanese).or_else(korean)?;
        // Half a width of katakana, for one, is not what it was when it comes back.
        (self.read(&written) == text).then_some(written)
    }

    /// Whether escape sequences have a meaning (PS3.5 6.1.2.5).
    fn extends(&self) -> bool {
        self.terms.len() > 1
            || self
                .terms
                .first()
                .is_some_and(|term| term.starts_with("ISO 2022"))
    }

    fn read_extended(&self, value: &[u8]) -> String {
        let mut text = String::new();
        let initial = Reading::Plain(self.initial);
        let mut reading = initial;
        let mut rest = value;
        while let Some((first, after)) = rest.split_first() {
            if *first == ESCAPE {
                let (length, next) = designated(after, self.initial);
                reading = next.unwrap_or(reading);
                rest = after.get(length..).unwrap_or_default();
                continue;
            }
            // A delimiter brings the initial state back (PS3.5 6.1.2.5.3); in two-byte sets of seven
            // bits it is half a character.
            let is_delimiter = matches!(first, b'^' | b'=' | b'\\' | b'\r' | b'\n' | b'\t' | 0x0C);
            if is_delimiter && matches!(reading, Reading::Plain(_)) {
                text.push(char::from(*first));
                reading = initial;
                rest = after;
                continue;
            }
            let ends = |byte: &u8| {
                *byte == ESCAPE
                    || matches!(reading, Reading::Plain(_))
                        && matches!(byte, b'^' | b'=' | b'\\' | b'\r' | b'\n' | b'\t' | 0x0C)
            };
            let end = rest.iter().position(ends).unwrap_or(rest.len());
            let (run, after) = rest.split_at(end);
            text.push_str(&read(reading, run));
            rest = after;
        }
        text
    }
}

/// A term without what says whether it is used with code extensions.
fn normal(term: &str) -> String {
    let term = term.replace('_', " ");
    let term = term.strip_prefix("ISO ").unwrap_or(&term);
    term.strip_prefix("2022 ").unwrap_or(term).to_owned()
}

/// The encoding of a character set without code extensions.
fn single(term: &str) -> Option<&'static Encoding> {
    Some(match term {
        "IR 100" => WINDOWS_1252,
        "IR 101" => ISO_8859_2,
        "IR 109" => ISO_8859_3,
        "IR 110" => ISO_8859_4,
        "IR 144" => ISO_8859_5,
        "IR 127" => ISO_8859_6,
        "IR 126" => ISO_8859_7,
        "IR 138" => ISO_8859_8,
        "IR 148" => WINDOWS_1254,
        "IR 166" => WINDOWS_874,
        "IR 203" => ISO_8859_15,
        // JIS X 0201: the single bytes of Shift JIS.
        "IR 13" => SHIFT_JIS,
        "IR 192" => UTF_8,
        "GB18030" => GB18030,
        "GBK" => GBK,
        _ => return None,
    })
}

/// What an escape sequence begins, behind its ESC: its length, and how to read from there on
/// (PS3.3 tables C.12-3 and C.12-4).
fn designated(after: &[u8], initial: &'static Encoding) -> (usize, Option<Reading>) {
    let plain = |encoding| Some(Reading::Plain(encoding));
    match after {
        [b'(', b'B', ..] => (2, plain(initial)),
        [b'(', b'J', ..] | [b')', b'I', ..] => (2, plain(SHIFT_JIS)),
        [b'$', b'B' | b'@', ..] => (2, Some(Reading::Jis0208)),
        [b'$', b'(', b'D', ..] => (3, Some(Reading::Jis0212)),
        [b'$', b')', b'C', ..] => (3, plain(EUC_KR)),
        [b'$', b')', b'A', ..] => (3, plain(GBK)),
        [b'-', set, ..] => (2, latin(*set).and_then(plain)),
        // An unknown sequence: two bytes, as most have, and nothing changes.
        _ => (after.len().min(2), None),
    }
}

/// The right half that `ESC -` designates.
fn latin(set: u8) -> Option<&'static Encoding> {
    Some(match set {
        b'A' => WINDOWS_1252,
        b'B' => ISO_8859_2,
        b'C' => ISO_8859_3,
        b'D' => ISO_8859_4,
        b'L' => ISO_8859_5,
        b'G' => ISO_8859_6,
        b'F' => ISO_8859_7,
        b'H' => ISO_8859_8,
        b'M' => WINDOWS_1254,
        b'T' => WINDOWS_874,
        b'b' => ISO_8859_15,
        _ => return None,
    })
}

fn read(reading: Reading, bytes: &[u8]) -> String {
    let decode = |encoding: &'static Encoding, bytes: &[u8]| {
        encoding.decode_without_bom_handling(bytes).0.into_owned()
    };
    match reading {
        Reading::Plain(encoding) => decode(encoding, bytes),
        // The same rows and cells, each byte with its high bit set.
        Reading::Jis0208 => {
            let raised: Vec<u8> = bytes.iter().map(|byte| byte | 0x80).collect();
            decode(EUC_JP, &raised)
        }
        Reading::Jis0212 => {
            let pairs = bytes.chunks(2);
            let raised: Vec<u8> = pairs
                .flat_map(|pair| std::iter::once(0x8F).chain(pair.iter().map(|byte| byte | 0x80)))
                .collect();
            decode(EUC_JP, &raised)
        }
    }
}

fn write(encoding: &'static Encoding, text: &str) -> Option<Vec<u8>> {
    let (bytes, used, lossy) = encoding.encode(text);
    (used == encoding && !lossy).then(|| bytes.into_owned())
}

/// Where JIS X 0201 is the initial set, its left half is what two-byte runs return to.
fn return_to_romaji(bytes: &mut [u8]) {
    let ascii = b"\x1b(B";
    let mut at = 0;
    while let Some(run) = bytes.get_mut(at..at + ascii.len()) {
        if run == ascii {
            run.copy_from_slice(b"\x1b(J");
        }
        at += 1;
    }
}

/// KS X 1001 must be designated anew in each line and each component of a name (PS3.5 6.1.2.5.3).
fn write_korean(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in text.split_inclusive(['^', '=', '\\', '\r', '\n', '\t', '\u{c}']) {
        if !part.is_ascii() {
            bytes.extend_from_slice(b"\x1b$)C");
        }
        bytes.extend_from_slice(&write(EUC_KR, part)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terms, bytes and text; the long ones are the examples of PS3.5 annexes H, I and J.
    const SAMPLES: &[(&str, &[u8], &str)] = &[
        ("", b"Buc^J\xe9r\xf4me", "Buc^J\u{e9}r\u{f4}me"),
        ("ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^J\u{e9}r\u{f4}me"),
        (
            "ISO_IR 144",
            b"\xbb\xee\xda\xdeceee",
            "\u{41b}\u{44e}\u{43a}\u{43e}ceee",
        ),
        (
            "ISO_IR 127",
            b"\xe2\xc8\xc7\xe6\xea",
            "\u{642}\u{628}\u{627}\u{646}\u{64a}",
        ),
        ("ISO_IR 126", b"\xc4\xe9\xef", "\u{394}\u{3b9}\u{3bf}"),
        (
            "ISO_IR 138",
            b"\xf9\xf8\xe5\xef",
            "\u{5e9}\u{5e8}\u{5d5}\u{5df}",
        ),
        (
            "ISO_IR 192",
            "Wang^\u{5c0f}\u{6771}".as_bytes(),
            "Wang^\u{5c0f}\u{6771}",
        ),
        (
            "GB18030",
            b"\xcd\xf5^\xd0\xa1\xb6\xab",
            "\u{738b}^\u{5c0f}\u{4e1c}",
        ),
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
            "Yamada^Tarou=\u{5c71}\u{7530}^\u{592a}\u{90ce}",
        ),
        (
            "ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
            "\u{ff94}\u{ff8f}\u{ff80}\u{ff9e}^\u{ff80}\u{ff9b}\u{ff73}=\u{5c71}\u{7530}^\u{592a}\u{90ce}",
        ),
        (
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
            "Hong^Gildong=\u{6d2a}^\u{5409}\u{6d1e}",
        ),
        (
            "ISO 2022 IR 100\\ISO 2022 IR 126",
            b"Dionysios=\x1b-F\xc4\xe9\xef^\xe9",
            "Dionysios=\u{394}\u{3b9}\u{3bf}^\u{e9}",
        ),
        (
            "\\ISO 2022 IR 58",
            b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab",
            "Zhang^XiaoDong=\u{5f20}^\u{5c0f}\u{4e1c}",
        ),
    ];

    #[test]
    fn every_sample_is_read() {
        for (terms, bytes, text) in SAMPLES {
            assert_eq!(
                CharacterSet::of(terms.as_bytes()).read(bytes),
                *text,
                "{terms}"
            );
        }
    }

    #[test]
    fn what_can_be_written_is_read_back() {
        for (terms, _, text) in SAMPLES {
            let set = CharacterSet::of(terms.as_bytes());
            match set.write(text) {
                Some(bytes) => assert_eq!(set.read(&bytes), *text, "{terms}"),
                None => assert!(
                    terms.is_empty()
                        || terms.contains("IR 13")
                        || terms.contains("IR 126")
                        || terms.contains("IR 58"),
                    "{terms}"
                ),
            }
        }
        let korean = CharacterSet::of(b"\\ISO 2022 IR 149");
        let (_, bytes, text) = SAMPLES[10];
        assert_eq!(korean.write(text).as_deref(), Some(bytes));
    }

    #[test]
    fn what_is_not_in_a_set_is_not_written() {
        assert_eq!(CharacterSet::of(b"ISO_IR 100").write("\u{5c71}"), None);
        assert_eq!(CharacterSet::of(b"").write("\u{e9}"), None);
        assert!(CharacterSet::utf8().write("\u{5c71}").is_some());
    }

    #[test]
    fn torn_escapes_and_nonsense_do_no_harm() {
        for terms in ["", "\\ISO 2022 IR 87", "\\\\\\", "ISO_IR 999", "ISO_IR 192"] {
            let set = CharacterSet::of(terms.as_bytes());
            for bytes in [
                &b"\x1b"[..],
                b"\x1b$",
                b"\x1b$)",
                b"a\x1b$(D\xff",
                b"\xff\xfe\x80",
            ] {
                set.read(bytes);
            }
        }
    }
}

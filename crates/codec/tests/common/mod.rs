//! Files to pack: small, made anew, the same on every machine.

#![expect(clippy::unwrap_used, reason = "a helper of tests")]
#![expect(unreachable_pub, reason = "each test binary uses its own share")]

use study::part10::compose_meta;
use study::{SopClassUid, SopInstanceUid, TransferSyntaxUid};

pub const EXPLICIT: &str = "1.2.840.10008.1.2.1";
pub const IMPLICIT: &str = "1.2.840.10008.1.2";
pub const JPEG_LOSSLESS: &str = "1.2.840.10008.1.2.4.70";

/// A xorshift generator: a seed gives the same numbers for ever.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// What a slice looks like.
#[derive(Clone, Copy)]
pub struct Slice {
    pub transfer_syntax: &'static str,
    pub rows: u16,
    pub columns: u16,
    pub frames: u16,
    pub signed: bool,
    pub seed: u64,
}

impl Slice {
    pub fn small(seed: u64) -> Self {
        Self {
            transfer_syntax: EXPLICIT,
            rows: 24,
            columns: 16,
            frames: 1,
            signed: false,
            seed,
        }
    }

    /// A disc with noise in air, as a whole file.
    pub fn file(self) -> Vec<u8> {
        let mut noise = Noise(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut pixels = Vec::new();
        let (rows, columns) = (i64::from(self.rows), i64::from(self.columns));
        for _ in 0..self.frames {
            for y in 0..rows {
                for x in 0..columns {
                    let (dy, dx) = (2 * y - rows, 2 * x - columns);
                    let inside = dy * dy + dx * dx < rows * columns * 3 / 4;
                    let grain = i64::try_from(noise.next() % 32).unwrap();
                    let value = if inside { 40 + y + grain } else { -1000 };
                    let value = if self.signed { value } else { value + 1024 };
                    pixels.extend(u16::try_from(value & 0xFFFF).unwrap().to_le_bytes());
                }
            }
        }
        self.wrap(&pixels)
    }

    /// A file with these pixels, whether they fit or not.
    pub fn wrap(self, pixels: &[u8]) -> Vec<u8> {
        let mut file = compose_meta(
            &SopClassUid::parse("1.2.840.10008.5.1.4.1.1.2").unwrap(),
            &SopInstanceUid::parse(&format!("1.2.3.{}", self.seed)).unwrap(),
            &TransferSyntaxUid::parse(self.transfer_syntax).unwrap(),
            None,
        );
        let explicit = self.transfer_syntax != IMPLICIT;
        let mut put = |tag: [u8; 4], vr: &[u8; 2], value: &[u8]| {
            file.extend(tag);
            let length = u32::try_from(value.len()).unwrap();
            if !explicit {
                file.extend(length.to_le_bytes());
            } else if vr == b"OW" {
                file.extend(b"OW\0\0");
                file.extend(length.to_le_bytes());
            } else {
                file.extend(vr);
                file.extend(u16::try_from(length).unwrap().to_le_bytes());
            }
            file.extend(value);
        };
        put([0x08, 0, 0x16, 0], b"UI", b"1.2.840.10008.5.1.4.1.1.2\0");
        put([0x28, 0, 0x02, 0], b"US", &1_u16.to_le_bytes());
        put([0x28, 0, 0x10, 0], b"US", &self.rows.to_le_bytes());
        put([0x28, 0, 0x11, 0], b"US", &self.columns.to_le_bytes());
        put([0x28, 0, 0x00, 1], b"US", &16_u16.to_le_bytes());
        put(
            [0x28, 0, 0x03, 1],
            b"US",
            &u16::from(self.signed).to_le_bytes(),
        );
        put([0xE0, 0x7F, 0x10, 0], b"OW", pixels);
        file
    }
}

/// One of each kind: name and bytes.
pub fn mixed_files() -> Vec<(&'static str, Vec<u8>)> {
    let unsigned = Slice::small(1);
    let signed = Slice {
        signed: true,
        ..Slice::small(2)
    };
    let implicit = Slice {
        transfer_syntax: IMPLICIT,
        ..Slice::small(3)
    };
    let compressed = Slice {
        transfer_syntax: JPEG_LOSSLESS,
        ..Slice::small(4)
    };
    let mut trailing = Slice::small(5).file();
    trailing.extend(b"\xFC\xFF\xFC\xFFOB\0\0\x03\0\0\0abc");
    let mut cut = Slice::small(6).file();
    cut.truncate(cut.len() - 101);
    vec![
        ("a/unsigned.dcm", unsigned.file()),
        ("a/signed.dcm", signed.file()),
        ("implicit.dcm", implicit.file()),
        ("compressed.dcm", compressed.wrap(&Noise(9).bytes(777))),
        ("trailing.dcm", trailing),
        ("cut.dcm", cut),
        (
            "partial row.dcm",
            Slice::small(7).wrap(&Noise(7).bytes(16 * 2 * 3 + 5)),
        ),
        ("no pixels.dcm", Slice::small(8).wrap(b"")),
        ("empty", Vec::new()),
        ("note.txt", b"not DICOM at all".to_vec()),
        ("long.bin", Noise(11).bytes(70_000)),
    ]
}

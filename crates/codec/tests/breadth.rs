//! Every kind of image a CT room sends, and those it should not: all come back byte for byte, and
//! what a model fits is modelled.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use codec::{Decoder, Kind, Limits, Method, Source, Tier, UnitHeader, encode_group};
use study::part10::compose_meta;
use study::{SopClassUid, SopInstanceUid, TransferSyntaxUid};

const IMPLICIT: &str = "1.2.840.10008.1.2";
const LITTLE: &str = "1.2.840.10008.1.2.1";
const BIG: &str = "1.2.840.10008.1.2.2";

/// An image, and what varies among images.
#[derive(Clone)]
struct Image {
    syntax: &'static str,
    rows: u16,
    columns: u16,
    frames: u16,
    samples: u16,
    allocated: u16,
    stored: u32,
    signed: bool,
    series: &'static str,
    orientation: &'static str,
    place: i32,
    seed: u64,
}

impl Image {
    fn plain() -> Self {
        Self {
            syntax: LITTLE,
            rows: 40,
            columns: 48,
            frames: 1,
            samples: 1,
            allocated: 16,
            stored: 12,
            signed: false,
            series: "1.2.3",
            orientation: "1\\0\\0\\0\\1\\0 ",
            place: 0,
            seed: 1,
        }
    }

    /// A slope with noise that fills the bits stored, in a frame of padding.
    fn pixels(&self) -> Vec<u8> {
        let mut state = self.seed;
        let mut bytes = Vec::new();
        let (rows, columns) = (u32::from(self.rows), u32::from(self.columns));
        for _ in 0..self.frames * self.samples {
            for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let grain = u32::try_from(state >> 61).unwrap();
                let top = (1 << self.stored) - 9;
                let slope = top - (x + y) * (1 << self.stored.min(11)) / 2 / (rows + columns);
                let inside = x > 2 && y > 2;
                let value = if inside { slope + grain } else { 0xF830 } & ((1 << self.stored) - 1);
                let value = u16::try_from(value).unwrap();
                let shift = u32::from(self.allocated) - self.stored;
                let value = if self.signed {
                    // Two's complement, its sign in all bits above.
                    (value << shift)
                        .cast_signed()
                        .wrapping_shr(shift)
                        .cast_unsigned()
                } else {
                    value
                };
                match (self.allocated, self.syntax == BIG) {
                    (8, _) => bytes.push(value.to_le_bytes()[0]),
                    (_, true) => bytes.extend(value.to_be_bytes()),
                    (_, false) => bytes.extend(value.to_le_bytes()),
                }
            }
        }
        if !bytes.len().is_multiple_of(2) {
            bytes.push(0);
        }
        bytes
    }

    fn file(&self) -> Vec<u8> {
        let mut file = compose_meta(
            &SopClassUid::parse("1.2.840.10008.5.1.4.1.1.2").unwrap(),
            &SopInstanceUid::parse(&format!("1.2.3.{}", self.seed)).unwrap(),
            &TransferSyntaxUid::parse(self.syntax).unwrap(),
            None,
        );
        let u16 = |value: u16| match self.syntax {
            BIG => value.to_be_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        };
        let u32 = |value: usize| match self.syntax {
            BIG => u32::try_from(value).unwrap().to_be_bytes(),
            _ => u32::try_from(value).unwrap().to_le_bytes(),
        };
        let mut put = |group: u16, element: u16, vr: &[u8; 2], value: &[u8]| {
            file.extend(u16(group));
            file.extend(u16(element));
            if self.syntax == IMPLICIT {
                file.extend(u32(value.len()));
            } else if vr == b"OW" {
                file.extend(b"OW\0\0");
                file.extend(u32(value.len()));
            } else {
                file.extend(vr);
                file.extend(u16(u16::try_from(value.len()).unwrap()));
            }
            file.extend(value);
        };
        put(0x0020, 0x000E, b"UI", self.series.as_bytes());
        let place = format!("0\\0\\{:5}", self.place);
        put(0x0020, 0x0032, b"DS", place.as_bytes());
        put(0x0020, 0x0037, b"DS", self.orientation.as_bytes());
        put(0x0028, 0x0002, b"US", &u16(self.samples));
        put(0x0028, 0x0010, b"US", &u16(self.rows));
        put(0x0028, 0x0011, b"US", &u16(self.columns));
        put(0x0028, 0x0100, b"US", &u16(self.allocated));
        put(
            0x0028,
            0x0101,
            b"US",
            &u16(u16::try_from(self.stored).unwrap()),
        );
        put(0x0028, 0x0103, b"US", &u16(self.signed.into()));
        put(0x7FE0, 0x0010, b"OW", &self.pixels());
        file
    }
}

/// Encodes the images together, and gives the methods and references of each one's units.
fn round_trip(images: &[Image], tier: Tier) -> Vec<Vec<(Method, usize)>> {
    let files: Vec<Vec<u8>> = images.iter().map(Image::file).collect();
    let sources: Vec<Source<'_>> = files
        .iter()
        .map(|bytes| Source { name: "i", bytes })
        .collect();
    let units = encode_group(&sources, tier).unwrap();
    let mut decoder = Decoder::new(Limits::default());
    let mut methods = vec![Vec::new(); files.len()];
    for unit in &units {
        decoder.push(unit.as_bytes()).unwrap();
        let header = UnitHeader::parse(unit.as_bytes()).unwrap();
        if header.kind == Kind::Data {
            let file = usize::try_from(header.span.file).unwrap();
            methods[file].push((header.method, header.refs.len()));
        }
    }
    for (index, file) in files.iter().enumerate() {
        assert!(decoder.file(index).as_ref() == Ok(file), "image {index}");
    }
    methods
}

#[test]
fn every_depth_sign_and_encoding_is_modelled() {
    for tier in Tier::ALL {
        for syntax in [IMPLICIT, LITTLE, BIG] {
            for signed in [false, true] {
                let deep = (8..=16).map(|stored| (16, stored));
                for (allocated, stored) in deep.chain([(8, 8), (8, 7)]) {
                    let image = Image {
                        syntax,
                        signed,
                        allocated,
                        stored,
                        ..Image::plain()
                    };
                    let methods = round_trip(&[image], tier);
                    let plain = [Method::Stored, Method::Zstd, Method::Planes];
                    assert!(
                        !plain.contains(&methods[0][0].0),
                        "{tier} {syntax} signed {signed} {allocated}/{stored}: {methods:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_size_comes_back() {
    let sizes = [
        (1, 1),
        (1, 2),
        (3, 5),
        (17, 33),
        (1, 65535),
        (65535, 1),
        (2, 8192),
        (2, 8193),
    ];
    for tier in Tier::ALL {
        for allocated in [8, 16] {
            let images: Vec<Image> = sizes
                .into_iter()
                .map(|(rows, columns)| Image {
                    rows,
                    columns,
                    allocated,
                    stored: 8,
                    ..Image::plain()
                })
                .collect();
            round_trip(&images, tier);
        }
    }
}

#[test]
fn a_study_of_all_sorts_comes_back_and_its_slices_refer_to_their_like() {
    let slice = |place: i32| Image {
        place,
        seed: u64::from(place.unsigned_abs()) + 2,
        ..Image::plain()
    };
    // Slices with a gap between; depth, sign and size that change on the way; a localiser; a dose
    // page in colour; a frame of zeros.
    let mut images: Vec<Image> = [0, 1, 2, 3, 9, 10, 11, 12].map(slice).to_vec();
    images.push(Image {
        stored: 16,
        ..slice(4)
    });
    images.push(Image {
        signed: true,
        ..slice(5)
    });
    images.push(Image {
        rows: 30,
        ..slice(6)
    });
    images.push(Image {
        orientation: "0\\1\\0\\0\\0\\-1",
        ..slice(7)
    });
    images.push(Image {
        samples: 3,
        allocated: 8,
        stored: 8,
        series: "1.2.4",
        ..slice(8)
    });
    images.push(Image {
        syntax: BIG,
        ..slice(13)
    });
    images.push(Image {
        syntax: IMPLICIT,
        ..slice(14)
    });
    for tier in Tier::ALL {
        let methods = round_trip(&images, tier);
        let referring = methods[..8].iter().filter(|units| units[0].1 > 0).count();
        assert_eq!(referring, 7, "{tier}: {methods:?}");
        assert_eq!(methods[11][0].1, 0, "a localiser has no like");
    }
}

#[test]
fn the_frames_of_an_enhanced_image_are_modelled_from_each_other() {
    let image = Image {
        frames: 9,
        rows: 512,
        columns: 512,
        ..Image::plain()
    };
    let methods = round_trip(std::slice::from_ref(&image), Tier::Link);
    assert_eq!(methods[0].len(), 9);
    let from_others = methods[0]
        .iter()
        .filter(|(method, references)| *method == Method::Link && *references > 0);
    assert_eq!(from_others.count(), 8);
}

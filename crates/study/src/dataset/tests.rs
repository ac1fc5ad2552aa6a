use proptest::prelude::*;

use super::*;

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";

fn ts(uid: &str) -> TransferSyntaxUid {
    TransferSyntaxUid::parse(uid).unwrap()
}

/// Builds data sets in one encoding; knows nothing of the walker.
struct Builder {
    encoding: Encoding,
    bytes: Vec<u8>,
}

impl Builder {
    fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            bytes: Vec::new(),
        }
    }

    fn n16(&mut self, n: u16) {
        match self.encoding {
            Encoding::ExplicitBig => self.bytes.extend(n.to_be_bytes()),
            Encoding::ExplicitLittle | Encoding::ImplicitLittle => {
                self.bytes.extend(n.to_le_bytes());
            }
        }
    }

    fn n32(&mut self, n: u32) {
        match self.encoding {
            Encoding::ExplicitBig => self.bytes.extend(n.to_be_bytes()),
            Encoding::ExplicitLittle | Encoding::ImplicitLittle => {
                self.bytes.extend(n.to_le_bytes());
            }
        }
    }

    fn header(&mut self, tag: Tag, vr: &[u8; 2], length: u32) {
        self.n16(tag.0);
        self.n16(tag.1);
        if self.encoding == Encoding::ImplicitLittle || tag.0 == 0xFFFE {
            self.n32(length);
        } else if matches!(vr, b"OB" | b"OW" | b"SQ" | b"UN" | b"UT") {
            self.bytes.extend(vr);
            self.n16(0);
            self.n32(length);
        } else {
            self.bytes.extend(vr);
            self.n16(u16::try_from(length).unwrap());
        }
    }

    fn put(&mut self, tag: Tag, vr: &[u8; 2], value: &[u8]) {
        self.header(tag, vr, u32::try_from(value.len()).unwrap());
        self.bytes.extend(value);
    }

    fn put16(&mut self, tag: Tag, n: u16) {
        self.header(tag, b"US", 2);
        self.n16(n);
    }

    fn head(&mut self) {
        self.put(SOP_CLASS, b"UI", format!("{CT}\0").as_bytes());
        self.put(SOP_INSTANCE, b"UI", b"1.2.3.4\0");
        self.put(STUDY, b"UI", b"1.2.3 ");
        self.put(SERIES, b"UI", b"1.2.3.5\0");
        self.put(INSTANCE_NUMBER, b"IS", b" -7 ");
        self.put16(ROWS, 512);
        self.put16(COLUMNS, 256);
        self.put16(BITS_ALLOCATED, 16);
    }

    /// `levels` sequences in one another, all of undefined length.
    fn nest(&mut self, vr: &[u8; 2], levels: usize) {
        for _ in 0..levels {
            self.header(Tag(0x0040, 0xA730), vr, u32::MAX);
            self.header(ITEM, b"  ", u32::MAX);
        }
        for _ in 0..levels {
            self.header(ITEM_END, b"  ", 0);
            self.header(SEQUENCE_END, b"  ", 0);
        }
    }
}

const PLAIN: [(Encoding, &str); 3] = [
    (Encoding::ExplicitLittle, "1.2.840.10008.1.2.1"),
    (Encoding::ImplicitLittle, "1.2.840.10008.1.2"),
    (Encoding::ExplicitBig, "1.2.840.10008.1.2.2"),
];

fn tags(bytes: &[u8], encoding: Encoding) -> Result<Vec<Tag>, DatasetError> {
    Walk::new(bytes, encoding)
        .map(|e| e.map(|e| e.tag))
        .collect()
}

#[test]
fn the_head_is_read_in_every_encoding() {
    for (encoding, uid) in PLAIN {
        let mut b = Builder::new(encoding);
        b.head();
        let head = InstanceHead::read(&b.bytes, &ts(uid)).unwrap();
        assert_eq!(head.sop_class.as_str(), CT);
        assert_eq!(head.sop.as_str(), "1.2.3.4");
        assert_eq!(head.study.as_str(), "1.2.3");
        assert_eq!(head.series.as_str(), "1.2.3.5");
        assert_eq!(head.instance_number, Some(-7));
        assert_eq!((head.rows, head.columns), (Some(512), Some(256)));
        assert_eq!(head.bits_allocated, Some(16));
    }
}

#[test]
fn values_inside_sequences_are_not_the_instances_own() {
    let mut b = Builder::new(Encoding::ExplicitLittle);
    b.header(Tag(0x0008, 0x1140), b"SQ", u32::MAX);
    b.header(ITEM, b"  ", u32::MAX);
    b.put(SOP_INSTANCE, b"UI", b"9.9.9.9\0");
    b.header(ITEM_END, b"  ", 0);
    b.header(SEQUENCE_END, b"  ", 0);
    b.head();
    let head = InstanceHead::read(&b.bytes, &ts("1.2.840.10008.1.2.1")).unwrap();
    assert_eq!(head.sop.as_str(), "1.2.3.4");
}

#[test]
fn a_missing_or_bad_uid_is_named() {
    let explicit = ts("1.2.840.10008.1.2.1");
    assert_eq!(
        InstanceHead::read(b"", &explicit),
        Err(DatasetError::Missing(SOP_CLASS))
    );
    let mut b = Builder::new(Encoding::ExplicitLittle);
    b.put(SOP_CLASS, b"UI", b"1.2");
    b.put(SOP_INSTANCE, b"UI", b"../../etc");
    assert_eq!(
        InstanceHead::read(&b.bytes, &explicit),
        Err(DatasetError::BadUid {
            tag: SOP_INSTANCE,
            source: UidError::BadCharacter
        })
    );
}

#[test]
fn twenty_thousand_nested_sequences_cost_a_counter() {
    for (encoding, uid) in PLAIN {
        let mut b = Builder::new(encoding);
        b.head();
        b.nest(b"SQ", 20_000);
        assert!(InstanceHead::read(&b.bytes, &ts(uid)).is_ok());
        let whole = b.bytes.len();
        b.bytes.truncate(whole - 8);
        assert!(matches!(
            InstanceHead::read(&b.bytes, &ts(uid)),
            Err(DatasetError::Truncated { .. })
        ));
    }
}

#[test]
fn the_element_after_an_undefined_length_sequence_is_found() {
    for (encoding, _) in PLAIN {
        let mut b = Builder::new(encoding);
        b.header(Tag(0x0008, 0x1140), b"SQ", u32::MAX);
        b.header(ITEM, b"  ", u32::MAX);
        b.put16(ROWS, 1);
        b.nest(b"SQ", 2);
        b.header(ITEM_END, b"  ", 0);
        // An item of defined length is stepped over, whatever is in it.
        b.put(ITEM, b"  ", b"not an element at all");
        b.header(SEQUENCE_END, b"  ", 0);
        b.put16(COLUMNS, 2);
        assert_eq!(
            tags(&b.bytes, encoding),
            Ok(vec![Tag(0x0008, 0x1140), COLUMNS])
        );
    }
}

#[test]
fn an_unknown_value_of_undefined_length_is_implicit_inside() {
    let mut inner = Builder::new(Encoding::ImplicitLittle);
    inner.header(ITEM, b"  ", u32::MAX);
    inner.put(Tag(0x0009, 0x1001), b"LO", b"HIDDEN");
    inner.nest(b"SQ", 3);
    inner.header(ITEM_END, b"  ", 0);

    // At the top, and inside a sequence that is explicit again after it.
    let mut b = Builder::new(Encoding::ExplicitLittle);
    b.header(Tag(0x0009, 0x1000), b"UN", u32::MAX);
    b.bytes.extend(&inner.bytes);
    b.header(SEQUENCE_END, b"  ", 0);
    b.header(Tag(0x0008, 0x1140), b"SQ", u32::MAX);
    b.header(ITEM, b"  ", u32::MAX);
    b.header(Tag(0x0009, 0x1000), b"UN", u32::MAX);
    b.bytes.extend(&inner.bytes);
    b.header(SEQUENCE_END, b"  ", 0);
    b.put16(ROWS, 1);
    b.header(ITEM_END, b"  ", 0);
    b.header(SEQUENCE_END, b"  ", 0);
    b.put16(COLUMNS, 1);
    assert_eq!(
        tags(&b.bytes, Encoding::ExplicitLittle),
        Ok(vec![Tag(0x0009, 0x1000), Tag(0x0008, 0x1140), COLUMNS])
    );
}

#[test]
fn fragments_of_pixel_data_are_stepped_over() {
    let mut b = Builder::new(Encoding::ExplicitLittle);
    b.head();
    let at = b.bytes.len();
    b.header(Tag(0x7FE0, 0x0010), b"OB", u32::MAX);
    b.put(ITEM, b"  ", b"");
    // A fragment may hold bytes that look like a delimiter.
    b.put(ITEM, b"  ", b"\xFE\xFF\xDD\xE0\0\0\0\0");
    b.header(SEQUENCE_END, b"  ", 0);
    let end = b.bytes.len();
    b.put(Tag(0xFFFC, 0xFFFC), b"OB", b"\0\0");

    let elements: Result<Vec<_>, _> = Walk::new(&b.bytes, Encoding::ExplicitLittle).collect();
    let elements = elements.unwrap();
    let pixels = &elements[elements.len() - 2];
    assert_eq!(pixels.header, at..at + 12);
    assert_eq!(pixels.value, at + 12..end - 8);
    assert_eq!(pixels.end(), end);
    assert!(pixels.undefined_length);
    assert_eq!(elements.last().unwrap().tag, Tag(0xFFFC, 0xFFFC));
}

#[test]
fn a_fragment_of_undefined_length_is_out_of_place() {
    let mut b = Builder::new(Encoding::ExplicitLittle);
    b.header(Tag(0x7FE0, 0x0010), b"OB", u32::MAX);
    b.header(ITEM, b"  ", u32::MAX);
    b.header(ITEM_END, b"  ", 0);
    b.header(SEQUENCE_END, b"  ", 0);
    assert_eq!(
        tags(&b.bytes, Encoding::ExplicitLittle),
        Err(DatasetError::OutOfPlace { tag: ITEM, at: 12 })
    );
}

#[test]
fn lengths_that_lie_are_errors() {
    for (encoding, _) in PLAIN {
        for length in [9, 0x7FFF_FFFF, 0xFFFF_FFFE] {
            let mut b = Builder::new(encoding);
            b.header(Tag(0x7FE0, 0x0010), b"OW", length);
            b.bytes.extend([0; 8]);
            assert_eq!(
                tags(&b.bytes, encoding),
                Err(DatasetError::Truncated { at: 0 })
            );
        }
        let mut b = Builder::new(encoding);
        b.header(Tag(0x0008, 0x1140), b"SQ", u32::MAX);
        b.header(ITEM, b"  ", 0xFFFF_FFF0);
        assert!(matches!(
            tags(&b.bytes, encoding),
            Err(DatasetError::Truncated { .. })
        ));
    }
}

#[test]
fn delimiters_where_none_is_due_are_errors() {
    for (encoding, _) in PLAIN {
        for tag in [ITEM, ITEM_END, SEQUENCE_END] {
            let mut b = Builder::new(encoding);
            b.header(tag, b"  ", 0);
            assert_eq!(
                tags(&b.bytes, encoding),
                Err(DatasetError::OutOfPlace { tag, at: 0 })
            );
        }
        let mut b = Builder::new(encoding);
        b.header(Tag(0x0008, 0x1140), b"SQ", u32::MAX);
        let at = b.bytes.len();
        b.put16(ROWS, 1);
        assert_eq!(
            tags(&b.bytes, encoding),
            Err(DatasetError::OutOfPlace { tag: ROWS, at })
        );
    }
}

#[test]
fn every_cut_inside_an_element_is_noticed() {
    for (encoding, _) in PLAIN {
        let mut b = Builder::new(encoding);
        b.head();
        b.nest(b"SQ", 2);
        b.put(Tag(0x7FE0, 0x0010), b"OW", &[7; 40]);
        let borders: Vec<usize> = Walk::new(&b.bytes, encoding)
            .map(|e| e.unwrap().header.start)
            .collect();
        for cut in 0..b.bytes.len() {
            let walk: Result<Vec<_>, _> = Walk::new(&b.bytes[..cut], encoding).collect();
            assert_eq!(walk.is_ok(), borders.contains(&cut), "cut at {cut}");
        }
    }
}

#[test]
fn a_deflated_data_set_is_inflated_for_the_head() {
    let mut b = Builder::new(Encoding::ExplicitLittle);
    b.head();
    let deflated_ts = ts("1.2.840.10008.1.2.1.99");
    let mut deflated = miniz_oxide::deflate::compress_to_vec(&b.bytes, 6);
    let head = InstanceHead::read(&deflated, &deflated_ts).unwrap();
    assert_eq!(head.sop.as_str(), "1.2.3.4");
    // PS3.5 A.5: the stream is padded to an even length.
    deflated.push(0);
    assert!(InstanceHead::read(&deflated, &deflated_ts).is_ok());
    deflated.truncate(deflated.len() / 2);
    assert_eq!(
        InstanceHead::read(&deflated, &deflated_ts),
        Err(DatasetError::Inflate)
    );
}

#[test]
fn a_deflate_bomb_is_not_inflated_beyond_the_bound() {
    let bomb = miniz_oxide::deflate::compress_to_vec(&vec![0; INFLATED_BYTES_MAX + 1], 6);
    assert!(bomb.len() < 1 << 20);
    assert_eq!(
        InstanceHead::read(&bomb, &ts("1.2.840.10008.1.2.1.99")),
        Err(DatasetError::InflatesTooFar(INFLATED_BYTES_MAX))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for (_, uid) in PLAIN {
            let _ = InstanceHead::read(&bytes, &ts(uid));
        }
        let _ = InstanceHead::read(&bytes, &ts("1.2.840.10008.1.2.1.99"));
    }

    /// Bytes that mostly make sense reach further into the walker than noise does.
    #[test]
    fn a_walk_covers_the_bytes_without_gaps(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        for (encoding, _) in PLAIN {
            let mut b = Builder::new(encoding);
            b.head();
            b.header(Tag(0x0009, 0x1000), b"UN", u32::MAX);
            b.header(SEQUENCE_END, b"  ", 0);
            b.nest(b"SQ", 3);
            b.put(Tag(0x7FE0, 0x0010), b"OW", &[7; 40]);
            for (index, value) in &flips {
                let at = index.index(b.bytes.len());
                b.bytes[at] = *value;
            }
            let mut walk = Walk::new(&b.bytes, encoding);
            let mut at = 0;
            while let Some(step) = walk.next() {
                let Ok(element) = step else {
                    prop_assert!(walk.next().is_none());
                    return Ok(());
                };
                prop_assert_eq!(element.header.start, at);
                prop_assert_eq!(element.header.end, element.value.start);
                at = element.end();
            }
            prop_assert_eq!(at, b.bytes.len());
        }
    }
}

//! Objects that are legal, or nearly, and that a careless receiver damages.

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use study::SopInstanceUid;

use super::header::{self, put, put_item, put_number};
use super::{Instance, Phantom};

const SECONDARY_CAPTURE: &str = "1.2.840.10008.5.1.4.1.1.7";

/// Instances of one study, each odd in its own way.
pub fn oddities(seed: u64) -> Vec<Instance> {
    let phantom = Phantom {
        seed,
        slices: 6,
        side: 32,
    };
    vec![
        implicit(&phantom, 0),
        private_elements(&phantom, 1),
        odd_length(&phantom, 2),
        padded_uid_and_nested(&phantom, 3),
        big_endian(&phantom, 4),
        secondary_capture(&phantom, 5),
    ]
}

/// No value representations on the wire.
fn implicit(phantom: &Phantom, index: u16) -> Instance {
    Instance::compose(phantom.object(index), uids::IMPLICIT_VR_LITTLE_ENDIAN)
}

/// The retired byte order, which old scanners still send.
fn big_endian(phantom: &Phantom, index: u16) -> Instance {
    Instance::compose(phantom.object(index), "1.2.840.10008.1.2.2")
}

/// A maker's own elements with bytes that are no text.
fn private_elements(phantom: &Phantom, index: u16) -> Instance {
    let mut object = phantom.object(index);
    put(
        &mut object,
        Tag(0x0029, 0x0010),
        VR::LO,
        "CHASQUI PHANTOM".to_owned(),
    );
    let calibration: Vec<u8> = (0..=255).collect();
    object.put(DataElement::new(
        Tag(0x0029, 0x1001),
        VR::OB,
        PrimitiveValue::U8(calibration.into()),
    ));
    object.put(DataElement::new(
        Tag(0x0029, 0x1002),
        VR::UN,
        PrimitiveValue::U8([0xFF; 6].into_iter().collect()),
    ));
    Instance::compose(object, uids::EXPLICIT_VR_LITTLE_ENDIAN)
}

/// A value of odd length after the pixels. PS3.5 7.1 forbids it; scanners do it.
fn odd_length(phantom: &Phantom, index: u16) -> Instance {
    let mut instance = phantom.slice(index);
    let mut element = |tag: (u16, u16), vr: &[u8; 2], long_form: bool, value: &[u8]| {
        instance.file.extend(tag.0.to_le_bytes());
        instance.file.extend(tag.1.to_le_bytes());
        instance.file.extend(vr);
        let length = u16::try_from(value.len()).expect("written out below");
        if long_form {
            instance.file.extend([0, 0]);
            instance.file.extend(u32::from(length).to_le_bytes());
        } else {
            instance.file.extend(length.to_le_bytes());
        }
        instance.file.extend(value);
    };
    element((0x7FE1, 0x0010), b"LO", false, b"CHASQUI PHANTOM ");
    element((0x7FE1, 0x1001), b"OB", true, &[1, 2, 3, 4, 5, 6, 7]);
    instance
}

/// Sequences within sequences, of undefined length as dicom-object writes them.
fn padded_uid_and_nested(phantom: &Phantom, index: u16) -> Instance {
    let mut object = phantom.object(index);
    let mut code = InMemDicomObject::new_empty();
    put(&mut code, tags::CODE_VALUE, VR::SH, "24725-4".to_owned());
    put(
        &mut code,
        tags::CODING_SCHEME_DESIGNATOR,
        VR::SH,
        "LN".to_owned(),
    );
    put(&mut code, tags::CODE_MEANING, VR::LO, "CT Head".to_owned());
    let mut request = InMemDicomObject::new_empty();
    put(
        &mut request,
        tags::REQUESTED_PROCEDURE_ID,
        VR::SH,
        "R1".to_owned(),
    );
    put(
        &mut request,
        tags::SCHEDULED_PROCEDURE_STEP_ID,
        VR::SH,
        "S1".to_owned(),
    );
    put_item(&mut request, tags::REQUESTED_PROCEDURE_CODE_SEQUENCE, code);
    put_item(&mut object, tags::REQUEST_ATTRIBUTES_SEQUENCE, request);
    Instance::compose(object, uids::EXPLICIT_VR_LITTLE_ENDIAN)
}

/// A screen photographed by the scanner's console: eight bits, three colours.
fn secondary_capture(phantom: &Phantom, index: u16) -> Instance {
    let mut object = header::study(phantom, "OT");
    let sop: SopInstanceUid = phantom.sop(index);
    for (tag, vr, text) in [
        (tags::SOP_CLASS_UID, VR::UI, SECONDARY_CAPTURE),
        (tags::SOP_INSTANCE_UID, VR::UI, sop.as_str()),
        (tags::CONVERSION_TYPE, VR::CS, "WSD"),
        (tags::SERIES_NUMBER, VR::IS, "99"),
        (tags::INSTANCE_NUMBER, VR::IS, "1"),
        (tags::PATIENT_ORIENTATION, VR::CS, ""),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "RGB"),
    ] {
        put(&mut object, tag, vr, text.to_owned());
    }
    put(
        &mut object,
        tags::SERIES_INSTANCE_UID,
        VR::UI,
        phantom.uid(2, 99),
    );
    for (tag, number) in [
        (tags::SAMPLES_PER_PIXEL, 3),
        (tags::PLANAR_CONFIGURATION, 0),
        (tags::ROWS, phantom.side),
        (tags::COLUMNS, phantom.side),
        (tags::BITS_ALLOCATED, 8),
        (tags::BITS_STORED, 8),
        (tags::HIGH_BIT, 7),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        put_number(&mut object, tag, number);
    }
    let pixels: Vec<u8> = (0..phantom.side)
        .flat_map(|row| (0..phantom.side).map(move |column| (row, column)))
        .flat_map(|(row, column)| [row, column, row ^ column].map(|level| level.to_le_bytes()[0]))
        .collect();
    object.put(DataElement::new(
        tags::PIXEL_DATA,
        VR::OB,
        PrimitiveValue::U8(pixels.into()),
    ));
    Instance::compose(object, uids::EXPLICIT_VR_LITTLE_ENDIAN)
}

//! What a scanner writes before the pixels: the attributes of CT Image Storage (PS3.3 A.3).

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use super::Phantom;
use super::anatomy::{FIELD_MM, HEIGHT_MM};
use super::slice::{INTERCEPT, PADDING};

pub(super) const CT_IMAGE_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.2";

/// Everything but the pixels of slice `index`.
pub(super) fn ct(phantom: &Phantom, index: u16, z_mm: f32) -> InMemDicomObject {
    let mut object = study(phantom, "CT");
    let thickness = HEIGHT_MM / f32::from(phantom.slices);
    let pitch = FIELD_MM / f32::from(phantom.side);
    let corner = decimal(-FIELD_MM / 2.0 + pitch / 2.0);
    let position = format!("{corner}\\{corner}\\{}", decimal(z_mm));
    for (tag, vr, text) in [
        (
            tags::IMAGE_TYPE,
            VR::CS,
            "ORIGINAL\\PRIMARY\\AXIAL".to_owned(),
        ),
        (tags::SOP_CLASS_UID, VR::UI, CT_IMAGE_STORAGE.to_owned()),
        (
            tags::SOP_INSTANCE_UID,
            VR::UI,
            phantom.sop(index).as_str().to_owned(),
        ),
        (tags::SLICE_THICKNESS, VR::DS, decimal(thickness)),
        (
            tags::X_RAY_TUBE_CURRENT,
            VR::IS,
            (180 + index % 7).to_string(),
        ),
        (tags::EXPOSURE, VR::IS, (180 + index % 7).to_string()),
        (tags::SERIES_NUMBER, VR::IS, "2".to_owned()),
        (tags::ACQUISITION_NUMBER, VR::IS, "1".to_owned()),
        (tags::INSTANCE_NUMBER, VR::IS, (index + 1).to_string()),
        (tags::IMAGE_POSITION_PATIENT, VR::DS, position),
        (
            tags::IMAGE_ORIENTATION_PATIENT,
            VR::DS,
            "1\\0\\0\\0\\1\\0".to_owned(),
        ),
        (tags::FRAME_OF_REFERENCE_UID, VR::UI, phantom.uid(3, 0)),
        (tags::POSITION_REFERENCE_INDICATOR, VR::LO, "OM".to_owned()),
        (tags::SLICE_LOCATION, VR::DS, decimal(z_mm)),
        (
            tags::PHOTOMETRIC_INTERPRETATION,
            VR::CS,
            "MONOCHROME2".to_owned(),
        ),
        (
            tags::PIXEL_SPACING,
            VR::DS,
            format!("{p}\\{p}", p = decimal(pitch)),
        ),
        (tags::WINDOW_CENTER, VR::DS, "40".to_owned()),
        (tags::WINDOW_WIDTH, VR::DS, "80".to_owned()),
        (tags::RESCALE_INTERCEPT, VR::DS, decimal(-INTERCEPT)),
        (tags::RESCALE_SLOPE, VR::DS, "1".to_owned()),
        (tags::RESCALE_TYPE, VR::LO, "HU".to_owned()),
        (tags::ACQUISITION_TIME, VR::TM, clock(index)),
        (tags::CONTENT_TIME, VR::TM, clock(index)),
    ] {
        put(&mut object, tag, vr, text);
    }
    protocol(&mut object);
    for (tag, number) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, phantom.side),
        (tags::COLUMNS, phantom.side),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 12),
        (tags::HIGH_BIT, 11),
        (tags::PIXEL_REPRESENTATION, 0),
        (tags::PIXEL_PADDING_VALUE, PADDING),
    ] {
        put_number(&mut object, tag, number);
    }
    object
}

/// How the scanner was set, the same for all slices.
fn protocol(object: &mut InMemDicomObject) {
    for (tag, vr, text) in [
        (tags::BODY_PART_EXAMINED, VR::CS, "HEAD"),
        (tags::SCAN_OPTIONS, VR::CS, "AXIAL MODE"),
        (tags::KVP, VR::DS, "120"),
        (tags::DATA_COLLECTION_DIAMETER, VR::DS, "250"),
        (tags::PROTOCOL_NAME, VR::LO, "HEAD ROUTINE"),
        (tags::RECONSTRUCTION_DIAMETER, VR::DS, "230"),
        (tags::DISTANCE_SOURCE_TO_DETECTOR, VR::DS, "710"),
        (tags::DISTANCE_SOURCE_TO_PATIENT, VR::DS, "435"),
        (tags::GANTRY_DETECTOR_TILT, VR::DS, "0"),
        (tags::TABLE_HEIGHT, VR::DS, "132.5"),
        (tags::ROTATION_DIRECTION, VR::CS, "CW"),
        (tags::EXPOSURE_TIME, VR::IS, "1000"),
        (tags::FILTER_TYPE, VR::SH, "HEAD FILTER"),
        (tags::GENERATOR_POWER, VR::IS, "24"),
        (tags::FOCAL_SPOTS, VR::DS, "0.7"),
        (tags::CONVOLUTION_KERNEL, VR::SH, "STANDARD"),
        (tags::PATIENT_POSITION, VR::CS, "HFS"),
    ] {
        put(object, tag, vr, text.to_owned());
    }
}

/// Patient, study, series and equipment: what all instances of a study share.
pub(super) fn study(phantom: &Phantom, modality: &str) -> InMemDicomObject {
    let mut object = InMemDicomObject::new_empty();
    let number = phantom.seed % 100_000;
    for (tag, vr, text) in [
        (
            tags::SPECIFIC_CHARACTER_SET,
            VR::CS,
            "ISO_IR 192".to_owned(),
        ),
        (tags::STUDY_DATE, VR::DA, "20260314".to_owned()),
        (tags::SERIES_DATE, VR::DA, "20260314".to_owned()),
        (tags::ACQUISITION_DATE, VR::DA, "20260314".to_owned()),
        (tags::CONTENT_DATE, VR::DA, "20260314".to_owned()),
        (tags::STUDY_TIME, VR::TM, "091500".to_owned()),
        (tags::SERIES_TIME, VR::TM, "091730".to_owned()),
        (tags::ACCESSION_NUMBER, VR::SH, format!("A{number:05}")),
        (tags::MODALITY, VR::CS, modality.to_owned()),
        (tags::MANUFACTURER, VR::LO, "CHASQUI PHANTOM".to_owned()),
        (tags::INSTITUTION_NAME, VR::LO, "Field Clinic".to_owned()),
        (
            tags::REFERRING_PHYSICIAN_NAME,
            VR::PN,
            "REFERRER^EXAMPLE".to_owned(),
        ),
        (tags::STATION_NAME, VR::SH, "CT01".to_owned()),
        (
            tags::STUDY_DESCRIPTION,
            VR::LO,
            "CT HEAD WITHOUT CONTRAST".to_owned(),
        ),
        (tags::BODY_PART_EXAMINED, VR::CS, "HEAD".to_owned()),
        (
            tags::SERIES_DESCRIPTION,
            VR::LO,
            "AXIAL STANDARD".to_owned(),
        ),
        (
            tags::MANUFACTURER_MODEL_NAME,
            VR::LO,
            "HEAD GENERATOR".to_owned(),
        ),
        (
            tags::PATIENT_NAME,
            VR::PN,
            format!("PHANTOM^HEAD {number:05}"),
        ),
        (tags::PATIENT_ID, VR::LO, format!("PH{number:05}")),
        (tags::PATIENT_BIRTH_DATE, VR::DA, "19700101".to_owned()),
        (
            tags::PATIENT_SEX,
            VR::CS,
            if number.is_multiple_of(2) { "F" } else { "M" }.to_owned(),
        ),
        (tags::PATIENT_AGE, VR::AS, "056Y".to_owned()),
        (tags::DEVICE_SERIAL_NUMBER, VR::LO, "0001".to_owned()),
        (tags::SOFTWARE_VERSIONS, VR::LO, "1".to_owned()),
        (
            tags::STUDY_INSTANCE_UID,
            VR::UI,
            phantom.study().as_str().to_owned(),
        ),
        (tags::SERIES_INSTANCE_UID, VR::UI, phantom.uid(2, 0)),
        (tags::STUDY_ID, VR::SH, "1".to_owned()),
    ] {
        put(&mut object, tag, vr, text);
    }
    object
}

pub(super) fn put(object: &mut InMemDicomObject, tag: Tag, vr: VR, text: String) {
    object.put(DataElement::new(tag, vr, PrimitiveValue::from(text)));
}

pub(super) fn put_number(object: &mut InMemDicomObject, tag: Tag, number: u16) {
    object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(number)));
}

/// A sequence of one item.
pub(super) fn put_item(object: &mut InMemDicomObject, tag: Tag, item: InMemDicomObject) {
    object.put(DataElement::new(
        tag,
        VR::SQ,
        DataSetSequence::from(vec![item]),
    ));
}

/// A decimal string within the 16 characters of PS3.5 6.2.
fn decimal(number: f32) -> String {
    let text = format!("{number:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// One second per slice from the start of the series.
fn clock(index: u16) -> String {
    let second = 17 * 60 + 30 + u32::from(index);
    format!("09{:02}{:02}", second / 60 % 60, second % 60)
}

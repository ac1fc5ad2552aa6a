//! Tags of PS3.6 that the services here speak of.

use study::dataset::Tag;

macro_rules! tags {
    ($($name:ident = ($group:literal, $element:literal), $what:literal;)*) => {
        $(
            #[doc = $what]
            pub const $name: Tag = Tag($group, $element);
        )*
    };
}

tags! {
    SPECIFIC_CHARACTER_SET = (0x0008, 0x0005), "Specific Character Set";
    ACCESSION_NUMBER = (0x0008, 0x0050), "Accession Number";
    RETRIEVE_AE_TITLE = (0x0008, 0x0054), "Retrieve AE Title";
    MODALITY = (0x0008, 0x0060), "Modality";
    REFERRING_PHYSICIAN = (0x0008, 0x0090), "Referring Physician's Name";
    REFERENCED_STUDIES = (0x0008, 0x1110), "Referenced Study Sequence";
    REFERENCED_IMAGES = (0x0008, 0x1140), "Referenced Image Sequence";
    REFERENCED_SOP_CLASS = (0x0008, 0x1150), "Referenced SOP Class UID";
    REFERENCED_SOP_INSTANCE = (0x0008, 0x1155), "Referenced SOP Instance UID";
    TRANSACTION = (0x0008, 0x1195), "Transaction UID";
    FAILURE_REASON = (0x0008, 0x1197), "Failure Reason";
    FAILED_SOPS = (0x0008, 0x1198), "Failed SOP Sequence";
    REFERENCED_SOPS = (0x0008, 0x1199), "Referenced SOP Sequence";
    PATIENT_NAME = (0x0010, 0x0010), "Patient's Name";
    PATIENT_ID = (0x0010, 0x0020), "Patient ID";
    BIRTH_DATE = (0x0010, 0x0030), "Patient's Birth Date";
    SEX = (0x0010, 0x0040), "Patient's Sex";
    PREGNANCY_STATUS = (0x0010, 0x21C0), "Pregnancy Status";
    BODY_PART = (0x0018, 0x0015), "Body Part Examined";
    STUDY_INSTANCE = (0x0020, 0x000D), "Study Instance UID";
    SERIES_INSTANCE = (0x0020, 0x000E), "Series Instance UID";
    REQUESTED_PROCEDURE = (0x0032, 0x1060), "Requested Procedure Description";
    REQUESTED_CONTRAST = (0x0032, 0x1070), "Requested Contrast Agent";
    STATION_AE_TITLE = (0x0040, 0x0001), "Scheduled Station AE Title";
    STEP_START_DATE = (0x0040, 0x0002), "Scheduled Procedure Step Start Date";
    STEP_START_TIME = (0x0040, 0x0003), "Scheduled Procedure Step Start Time";
    STEP_DESCRIPTION = (0x0040, 0x0007), "Scheduled Procedure Step Description";
    STEP_ID = (0x0040, 0x0009), "Scheduled Procedure Step ID";
    SCHEDULED_STEPS = (0x0040, 0x0100), "Scheduled Procedure Step Sequence";
    REFERENCED_NON_IMAGES = (0x0040, 0x0220), "Referenced Non-Image Composite SOP Instance Sequence";
    PERFORMED_STATUS = (0x0040, 0x0252), "Performed Procedure Step Status";
    SCHEDULED_ATTRIBUTES = (0x0040, 0x0270), "Scheduled Step Attributes Sequence";
    PERFORMED_SERIES = (0x0040, 0x0340), "Performed Series Sequence";
    PROCEDURE_ID = (0x0040, 0x1001), "Requested Procedure ID";
    PROCEDURE_REASON = (0x0040, 0x1002), "Reason for the Requested Procedure";
    PROCEDURE_PRIORITY = (0x0040, 0x1003), "Requested Procedure Priority";
    PROCEDURE_COMMENTS = (0x0040, 0x1400), "Requested Procedure Comments";
}

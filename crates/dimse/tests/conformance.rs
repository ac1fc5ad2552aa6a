//! The conformance statement says what the code does (docs/conformance.md).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use dimse::scp::ScpConfig;
use dimse::{Choice, SERVICE_CLASSES, STORAGE_CLASSES, Status, TRANSFER_SYNTAXES};
use study::AeTitle;
use study::part10::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME};

fn statement() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance.md");
    std::fs::read_to_string(page).unwrap()
}

/// The cells of each row of the first table whose header begins with `first` after `heading`.
fn table<'a>(page: &'a str, heading: &str, first: &str) -> Vec<Vec<&'a str>> {
    let (_, section) = page.split_once(&format!("\n{heading}\n")).unwrap();
    let header = format!("| {first} |");
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with(&header));
    rows.skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line
                .strip_prefix('|')
                .and_then(|line| line.strip_suffix('|'));
            cells.unwrap().split('|').map(str::trim).collect()
        })
        .collect()
}

#[test]
fn the_storage_classes_are_those_accepted() {
    let page = statement();
    let rows = table(&page, "## A. Storage SOP classes", "UID");
    let accepted: Vec<_> = STORAGE_CLASSES
        .iter()
        .map(|(uid, name)| vec![*uid, *name])
        .collect();
    assert_eq!(rows, accepted);
}

#[test]
fn the_transfer_syntaxes_are_those_accepted_and_so_is_their_choice() {
    let page = statement();
    let rows = table(&page, "## B. Transfer syntaxes", "UID");
    let accepted: Vec<_> = TRANSFER_SYNTAXES
        .iter()
        .map(|(uid, name, choice)| {
            let choice = match choice {
                Choice::First => "1",
                Choice::Second => "2",
                Choice::Last => "3",
            };
            vec![*uid, *name, choice]
        })
        .collect();
    assert_eq!(rows, accepted);
}

#[test]
fn the_services_are_those_that_can_be_served() {
    let page = statement();
    let rows = table(&page, "## C. Services", "UID");
    let served: Vec<_> = SERVICE_CLASSES
        .iter()
        .map(|(uid, name, _)| vec![*uid, *name])
        .collect();
    assert_eq!(rows, served);
}

fn assert_statuses(heading: &str, answered: &[Status]) {
    let page = statement();
    let rows = table(&page, heading, "status");
    let named: Vec<_> = rows.iter().map(|row| format!("0x{}", row[0])).collect();
    let answered: Vec<_> = answered.iter().map(ToString::to_string).collect();
    assert_eq!(named, answered, "{heading}");
}

#[test]
fn every_status_is_named_and_no_other() {
    assert_statuses(
        "#### 4.2.4 Storage",
        &[
            Status::SUCCESS,
            Status::OUT_OF_RESOURCES,
            Status::DATA_SET_MISMATCH,
            Status::CANNOT_UNDERSTAND,
            Status::PROCESSING_FAILURE,
            Status::SOP_CLASS_NOT_SUPPORTED,
            Status::UNRECOGNIZED_OPERATION,
        ],
    );
    assert_statuses(
        "#### 4.2.5 Modality Worklist",
        &[
            Status::PENDING,
            Status::SUCCESS,
            Status::CANCELLED,
            Status::OUT_OF_RESOURCES,
            Status::DATA_SET_MISMATCH,
            Status::CANNOT_UNDERSTAND,
            Status::RESOURCE_LIMITATION,
        ],
    );
    assert_statuses(
        "#### 4.2.6 Modality Performed Procedure Step",
        &[
            Status::SUCCESS,
            Status::INVALID_ATTRIBUTE_VALUE,
            Status::PROCESSING_FAILURE,
            Status::DUPLICATE_SOP_INSTANCE,
            Status::NO_SUCH_SOP_INSTANCE,
            Status::INVALID_SOP_INSTANCE,
            Status::MISSING_ATTRIBUTE,
            Status::RESOURCE_LIMITATION,
            Status::CANNOT_UNDERSTAND,
        ],
    );
    assert_statuses(
        "#### 4.2.7 Storage Commitment Push Model",
        &[
            Status::SUCCESS,
            Status::PROCESSING_FAILURE,
            Status::NO_SUCH_SOP_INSTANCE,
            Status::INVALID_ARGUMENT_VALUE,
            Status::CLASS_INSTANCE_CONFLICT,
            Status::NO_SUCH_ACTION,
            Status::DUPLICATE_TRANSACTION,
            Status::RESOURCE_LIMITATION,
            Status::CANNOT_UNDERSTAND,
        ],
    );
}

#[test]
fn the_implementation_is_the_one_announced() {
    let page = statement();
    let heading = "#### 4.2.1 AE titles and association policy";
    let rows = table(&page, heading, "implementation");
    let value = |name: &str| rows.iter().find(|row| row[0].starts_with(name)).unwrap()[1];
    assert_eq!(value("Implementation Class UID"), IMPLEMENTATION_CLASS_UID);
    assert_eq!(
        value("Implementation Version Name"),
        IMPLEMENTATION_VERSION_NAME
    );
    let config = ScpConfig::new(AeTitle::parse("CHASQUI").unwrap());
    assert_eq!(
        value("maximum length received"),
        config.pdu_bytes_max.to_string()
    );
}

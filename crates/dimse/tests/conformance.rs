//! The conformance statement says what the code does (docs/conformance.md).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use dimse::scp::ScpConfig;
use dimse::{Choice, STORAGE_CLASSES, Status, TRANSFER_SYNTAXES};
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
fn every_status_is_named_and_no_other() {
    let page = statement();
    let rows = table(&page, "#### 4.2.4 Storage", "status");
    let named: Vec<_> = rows.iter().map(|row| format!("0x{}", row[0])).collect();
    let answered = [
        Status::SUCCESS,
        Status::OUT_OF_RESOURCES,
        Status::DATA_SET_MISMATCH,
        Status::CANNOT_UNDERSTAND,
        Status::PROCESSING_FAILURE,
        Status::SOP_CLASS_NOT_SUPPORTED,
        Status::UNRECOGNIZED_OPERATION,
    ];
    assert_eq!(named, answered.map(|status| status.to_string()));
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

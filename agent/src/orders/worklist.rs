//! The worklist: orders as a scanner asks for them (PS3.4 K).

use std::sync::Arc;

use dimse::scp::Matches;
use dimse::{Answer, DataSet, Status, is_sequence, tag};
use study::charset::{CharacterSet, UTF8_TERM};
use study::{AeTitle, Priority};

use super::Orders;
use super::form::Order;
use super::matching;

/// Answers a query from the orders that are to be done.
pub(super) fn answer(orders: &Orders, identifier: &DataSet) -> Result<Matches, Answer> {
    let to_do = orders.to_do().map_err(|error| {
        let error = &error as &dyn std::error::Error;
        tracing::error!(error, "cannot read the orders");
        Answer::failure(Status::OUT_OF_RESOURCES, "the box cannot read its orders")
    })?;
    let Some(to_do) = to_do else {
        return Err(Answer::failure(Status::OUT_OF_RESOURCES, "vault locked"));
    };
    let set = identifier.character_set();
    let mut found: Vec<Arc<Order>> = Vec::new();
    for order in to_do {
        let entry = entry(&order, &CharacterSet::utf8()).expect("Unicode has every character");
        let is_found = matching::matches(identifier, &set, &entry)
            .map_err(|error| Answer::failure(Status::DATA_SET_MISMATCH, error.to_string()))?;
        if is_found {
            found.push(order);
        }
    }
    found.sort_by(|a, b| (a.priority, &a.date, &a.time).cmp(&(b.priority, &b.date, &b.time)));
    let asked = identifier.clone();
    Ok(Box::new(
        found
            .into_iter()
            .map(move |order| reply(&asked, &set, &order)),
    ))
}

/// What is answered of an order: what was asked for, in the character set that was asked in where all
/// of it fits.
fn reply(asked: &DataSet, set: &CharacterSet, order: &Order) -> DataSet {
    let (entry, term) = match entry(order, set) {
        Some(entry) => (entry, set.to_value()),
        None => {
            let entry = entry(order, &CharacterSet::utf8());
            let entry = entry.expect("Unicode has every character");
            (entry, UTF8_TERM.to_owned())
        }
    };
    let mut reply = projected(asked, &entry);
    if !term.is_empty() {
        reply.put(tag::SPECIFIC_CHARACTER_SET, term);
    }
    reply
}

/// Of the entry what the query names; a sequence without an item asks for all of it.
fn projected(asked: &DataSet, entry: &DataSet) -> DataSet {
    let mut reply = DataSet::default();
    for tag in asked
        .tags()
        .filter(|tag| *tag != tag::SPECIFIC_CHARACTER_SET)
    {
        // Group lengths are retired, and would be wrong.
        if tag.1 == 0 {
            continue;
        }
        match (asked.item(tag), entry.items(tag)) {
            (Some(wanted), Some(items)) => {
                let items = items.iter().map(|item| projected(wanted, item)).collect();
                reply.put_items(tag, items);
            }
            (Some(_), None) if is_sequence(tag) => reply.put_items(tag, Vec::new()),
            (Some(_) | None, _) => reply.put_from(tag, entry),
        }
        // An order for any station is for the one that asks.
        let is_any = tag == tag::STATION_AE_TITLE && entry.ascii(tag).is_none();
        let title = asked.ascii(tag).and_then(|text| AeTitle::parse(text).ok());
        if is_any && let Some(title) = title.filter(|title| !title.as_str().contains(['*', '?'])) {
            reply.put(tag, title.as_str());
        }
    }
    reply
}

/// An order as a worklist entry; none when a text has characters that the set has not.
fn entry(order: &Order, set: &CharacterSet) -> Option<DataSet> {
    let text = |text: &str| set.write(text);
    let mut step = DataSet::default()
        .with(tag::STATION_AE_TITLE, &order.station_aet)
        .with(tag::STEP_START_DATE, &order.date)
        .with(tag::STEP_START_TIME, &order.time)
        .with(tag::MODALITY, &order.modality)
        .with(tag::STEP_DESCRIPTION, text(&order.procedure)?)
        .with(tag::STEP_ID, text(&order.accession_number)?)
        .with(tag::REQUESTED_CONTRAST, text(&order.contrast)?);
    if is_code(&order.body_region) {
        step.put(tag::BODY_PART, order.body_region.to_uppercase());
    }
    let mut entry = DataSet::default()
        .with(tag::ACCESSION_NUMBER, text(&order.accession_number)?)
        .with(tag::PATIENT_NAME, text(&order.patient_name)?)
        .with(tag::PATIENT_ID, text(&order.patient_id)?)
        .with(tag::BIRTH_DATE, &order.birth_date)
        .with(tag::SEX, &order.sex)
        .with(tag::STUDY_INSTANCE, order.study.as_str())
        .with(tag::REQUESTED_PROCEDURE, text(&order.procedure)?)
        .with(tag::PROCEDURE_ID, text(&order.accession_number)?)
        .with(tag::PROCEDURE_PRIORITY, priority(order.priority))
        .with(tag::PROCEDURE_REASON, text(&short(&order.question))?)
        .with(tag::PROCEDURE_COMMENTS, text(&comments(order))?)
        .with_items(tag::REFERENCED_STUDIES, Vec::new())
        .with_items(tag::SCHEDULED_STEPS, vec![step]);
    if let Some(pregnancy) = order.pregnancy {
        entry = entry.with_u16(tag::PREGNANCY_STATUS, pregnancy.code());
    }
    Some(entry)
}

/// Requested Procedure Priority (PS3.3 C.4.11).
const fn priority(priority: Priority) -> &'static str {
    match priority {
        Priority::Stat => "STAT",
        Priority::Urgent => "HIGH",
        Priority::Routine => "ROUTINE",
        Priority::Bulk => "LOW",
    }
}

/// Body Part Examined is a code string.
fn is_code(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == ' ' || c == '_';
    !text.is_empty() && text.len() <= 16 && text.chars().all(allowed)
}

/// What fits into one line of 64 characters (LO).
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(64).collect()
}

/// What the scanner's operator reads: region, question and symptoms in full.
fn comments(order: &Order) -> String {
    let lines = [
        ("Region", &order.body_region),
        ("Question", &order.question),
        ("Symptoms", &order.symptoms),
    ];
    let said = lines.iter().filter(|(_, text)| !text.is_empty());
    let said: Vec<String> = said.map(|(what, text)| format!("{what}: {text}")).collect();
    said.join("\r\n")
}

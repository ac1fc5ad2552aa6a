//! What the fleet document lists: finding, showing, revoking and renewing it.
//!
//! In: a fleet document, an ID or a name. Out: lines for people and scripts; the next version.
//! Invariant: an ID that could mean two things is refused, never guessed.
//! May not: claim to know whether a voucher was used; only the hub does.

use std::path::Path;

use identity::calendar::format_date;
use identity::{
    Credential, CredentialFault, FleetDocument, HubEntry, Label, NodeId, Revocation, StoreKeyId,
    VoucherEntry, VoucherId,
};
use serde_json::{Value, json};
use thiserror::Error;

use crate::authority::{Authority, AuthorityError};
use crate::radiologists::{self, RadiologistError};

/// The shortest beginning of an ID that is looked up.
const ID_DIGITS_MIN: usize = 8;
/// How much of an ID a table shows.
const ID_DIGITS_SHOWN: usize = 16;

/// Says why something was not found, revoked or renewed.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// The fleet's folder.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The credential could not be renewed.
    #[error(transparent)]
    Radiologist(#[from] RadiologistError),
    /// Nothing has this ID or name.
    #[error("the fleet lists nothing as {0}; a box is named by all 64 digits of its key")]
    Unknown(String),
    /// Several things have it.
    #[error("{0} could be {1} things: give more of the ID")]
    Ambiguous(String, usize),
    /// A key that only a new root can replace.
    #[error("{0} is a key of the fleet itself: it is replaced by a new root, not revoked")]
    OwnKey(String),
    /// It is revoked.
    #[error("{0} was revoked on {date}", date = format_date(*.1))]
    Revoked(String, u64),
    /// Its papers carry no date.
    #[error("a {0} needs no renewal: what it holds has no end")]
    NoEnd(&'static str),
}

/// What an ID stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectKind {
    /// A hub.
    Hub,
    /// A voucher, and with it the box that used it.
    Voucher,
    /// A radiologist.
    Radiologist,
    /// A box, by its own key.
    Unit,
}

impl SubjectKind {
    /// The word in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Voucher => "voucher",
            Self::Radiologist => "radiologist",
            Self::Unit => "unit",
        }
    }
}

/// Something that an ID or a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What it is.
    pub kind: SubjectKind,
    /// Its key.
    pub key: NodeId,
    /// Its name, or a voucher's site; none for a box.
    pub name: Option<Label>,
}

/// Finds what is meant: by a whole ID, by its first eight digits or more, or by a name or site.
pub fn find(document: &FleetDocument, id: &str) -> Result<Subject, RegistryError> {
    let key = id.to_ascii_lowercase();
    let is_beginning = key.len() >= ID_DIGITS_MIN && key.bytes().all(|b| b.is_ascii_hexdigit());
    let mut found: Vec<_> = subjects(document)
        .filter(|s| {
            let named = s.name.as_ref().is_some_and(|name| name.as_str() == id);
            named || is_beginning && s.key.to_string().starts_with(&key)
        })
        .collect();
    // A renewed radiologist is listed once for each credential.
    found.sort_by_key(|s| s.key);
    found.dedup_by_key(|s| s.key);
    match (found.len(), key.parse::<NodeId>()) {
        (1, _) => Ok(found.remove(0)),
        (0, Ok(key)) => {
            let root = document.root().body();
            if root.keys.contains(&key) || key == root.issuing || key == root.release {
                return Err(RegistryError::OwnKey(id.into()));
            }
            Ok(Subject {
                kind: SubjectKind::Unit,
                key,
                name: None,
            })
        }
        (0, Err(_)) => Err(RegistryError::Unknown(id.into())),
        (several, _) => Err(RegistryError::Ambiguous(id.into(), several)),
    }
}

/// Withdraws trust from a hub, a voucher (with the box that used it), a radiologist or a box.
pub fn revoke(
    authority: &mut Authority,
    id: &str,
    reason: Label,
    now_ms: u64,
) -> Result<Subject, RegistryError> {
    let subject = find(authority.document(), id)?;
    refuse_revoked(authority.document(), &subject.key, id)?;
    let revocation = Revocation {
        subject: subject.key,
        at_ms: now_ms,
        reason,
    };
    authority.publish(now_ms, |body| body.revocations.push(revocation))?;
    Ok(subject)
}

/// How long something was prolonged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// What was prolonged.
    pub subject: Subject,
    /// Its new end, milliseconds of the Unix epoch.
    pub until_ms: u64,
}

/// Prolongs a voucher or a credential, to `until_ms` or by as long as it was given the first time.
///
/// A renewed credential may be written to `output`; a voucher's file stays as it is in the field.
pub fn renew(
    authority: &mut Authority,
    id: &str,
    until_ms: Option<u64>,
    (output, now_ms): (Option<&Path>, u64),
) -> Result<Renewed, RegistryError> {
    let document = authority.document();
    let subject = find(document, id)?;
    refuse_revoked(document, &subject.key, id)?;
    let again = |from_ms: u64, to_ms: u64| now_ms.saturating_add(to_ms.saturating_sub(from_ms));
    let unknown = || RegistryError::Unknown(id.into());
    let until_ms = match subject.kind {
        SubjectKind::Hub | SubjectKind::Unit => {
            return Err(RegistryError::NoEnd(subject.kind.as_str()));
        }
        SubjectKind::Voucher => {
            let voucher_id = VoucherId::new(subject.key);
            let voucher = document.voucher(&voucher_id).ok_or_else(unknown)?;
            let until_ms = until_ms.unwrap_or(again(voucher.made_at_ms, voucher.not_after_ms));
            authority.publish(now_ms, |body| {
                let listed = body.vouchers.iter_mut().filter(|v| v.id == voucher_id);
                listed.for_each(|v| v.not_after_ms = until_ms);
            })?;
            until_ms
        }
        SubjectKind::Radiologist => {
            let last = last_credential(document, &subject.key)
                .ok_or_else(unknown)?
                .clone();
            let until_ms = until_ms.unwrap_or(again(last.valid_from_ms, last.valid_until_ms));
            radiologists::prolong(authority, &last, until_ms, (output, now_ms))?;
            until_ms
        }
    };
    Ok(Renewed { subject, until_ms })
}

/// One line of `list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is.
    pub kind: SubjectKind,
    /// Its key.
    pub key: NodeId,
    /// Its name or site.
    pub name: String,
    /// `listed`, `open`, `valid`, `not yet`, `expired` or `revoked`.
    pub state: &'static str,
    /// Its end, milliseconds of the Unix epoch.
    pub until_ms: Option<u64>,
    /// A hub's store key.
    pub store_key: Option<StoreKeyId>,
    /// What else is to be known.
    pub detail: String,
}

/// Everything that the fleet document lists, as it stands at `now_ms`.
pub fn list(document: &FleetDocument, now_ms: u64) -> Vec<Row> {
    let body = document.body();
    let hubs = body.hubs.iter().map(hub_row);
    let vouchers = body
        .vouchers
        .iter()
        .map(|voucher| voucher_row(voucher, now_ms));
    let last = |c: &&Credential| last_credential(document, &c.key) == Some(*c);
    let radiologists = body
        .credentials
        .iter()
        .filter(last)
        .map(|c| credential_row(document, c, now_ms));
    let mut rows: Vec<Row> = hubs.chain(vouchers).chain(radiologists).collect();
    for revocation in &body.revocations {
        match rows.iter_mut().find(|row| row.key == revocation.subject) {
            Some(row) => revoked(row, revocation),
            None => {
                let mut row = Row {
                    kind: SubjectKind::Unit,
                    key: revocation.subject,
                    name: String::new(),
                    state: "revoked",
                    until_ms: None,
                    store_key: None,
                    detail: String::new(),
                };
                revoked(&mut row, revocation);
                rows.push(row);
            }
        }
    }
    rows
}

/// Prints rows as a table.
pub fn to_table(rows: &[Row]) -> String {
    let head = ["KIND", "ID", "NAME", "STATE", "UNTIL", "DETAIL"].map(String::from);
    let cells = rows.iter().map(|row| {
        let mut id = row.key.to_string();
        id.truncate(ID_DIGITS_SHOWN);
        let until = row.until_ms.map_or_else(|| "-".into(), format_date);
        [
            row.kind.as_str().into(),
            id,
            row.name.clone(),
            row.state.into(),
            until,
            row.detail.clone(),
        ]
    });
    let lines: Vec<[String; 6]> = std::iter::once(head).chain(cells).collect();
    let width = |column: usize| {
        lines
            .iter()
            .map(|l| l[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut table = String::new();
    for line in &lines {
        let padded: Vec<_> = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        table.push_str(padded.join("  ").trim_end());
        table.push('\n');
    }
    table
}

/// Gives rows as JSON, with whole IDs.
pub fn to_json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "kind": row.kind.as_str(),
            "id": row.key.to_string(),
            "name": row.name,
            "state": row.state,
            "until_ms": row.until_ms,
            "store_key": row.store_key.map(|id| id.to_string()),
            "detail": row.detail,
        })
    };
    rows.iter().map(row).collect()
}

fn subjects(document: &FleetDocument) -> impl Iterator<Item = Subject> {
    let body = document.body();
    let subject = |kind, key: &NodeId, name: &Label| Subject {
        kind,
        key: *key,
        name: Some(name.clone()),
    };
    let hubs = body
        .hubs
        .iter()
        .map(move |h| subject(SubjectKind::Hub, &h.key, &h.name));
    let vouchers = body
        .vouchers
        .iter()
        .map(move |v| subject(SubjectKind::Voucher, v.id.key(), &v.site));
    let radiologists = body
        .credentials
        .iter()
        .map(move |c| subject(SubjectKind::Radiologist, &c.key, &c.name));
    hubs.chain(vouchers).chain(radiologists)
}

fn refuse_revoked(document: &FleetDocument, key: &NodeId, id: &str) -> Result<(), RegistryError> {
    match document.revocation(key) {
        Some(revocation) => Err(RegistryError::Revoked(id.into(), revocation.at_ms)),
        None => Ok(()),
    }
}

fn last_credential<'a>(document: &'a FleetDocument, key: &NodeId) -> Option<&'a Credential> {
    document
        .body()
        .credentials
        .iter()
        .filter(|c| c.key == *key)
        .max_by_key(|c| c.valid_until_ms)
}

fn hub_row(hub: &HubEntry) -> Row {
    Row {
        kind: SubjectKind::Hub,
        key: hub.key,
        name: hub.name.to_string(),
        state: "listed",
        until_ms: None,
        store_key: Some(hub.store.id()),
        detail: format!("{}, store key {}", hub.address, hub.store.id()),
    }
}

fn voucher_row(voucher: &VoucherEntry, now_ms: u64) -> Row {
    Row {
        kind: SubjectKind::Voucher,
        key: *voucher.id.key(),
        name: voucher.site.to_string(),
        state: if now_ms > voucher.not_after_ms {
            "expired"
        } else {
            "open"
        },
        until_ms: Some(voucher.not_after_ms),
        store_key: None,
        detail: format!("consent {}, hub {}", voucher.consent, voucher.hub.short()),
    }
}

fn credential_row(document: &FleetDocument, credential: &Credential, now_ms: u64) -> Row {
    let state = match document.credential_at(&credential.key, now_ms) {
        Ok(_) => "valid",
        Err(CredentialFault::NotYet { .. }) => "not yet",
        Err(CredentialFault::Expired { .. }) => "expired",
        Err(CredentialFault::Revoked { .. } | CredentialFault::None(_)) => "revoked",
    };
    Row {
        kind: SubjectKind::Radiologist,
        key: credential.key,
        name: credential.name.to_string(),
        state,
        until_ms: Some(credential.valid_until_ms),
        store_key: None,
        detail: format!("licence {}", credential.licence),
    }
}

fn revoked(row: &mut Row, revocation: &Revocation) {
    row.state = "revoked";
    let comma = if row.detail.is_empty() { "" } else { ", " };
    let date = format_date(revocation.at_ms);
    row.detail
        .push_str(&format!("{comma}revoked {date}: {}", revocation.reason));
}

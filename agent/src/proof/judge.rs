//! Judging: follows every signature of a proof up to the fleet's first root.

use std::error::Error;
use std::fmt;

use identity::{FleetDocument, FleetId, Grant, HubEntry, NodeId, VoucherEntry};
use journal::{
    ChainFault, Fact, Head, JournalId, Record, Signed, SignedManifest, read_record, verify_next,
};
use report::VerifiedReport;
use study::{Digest, Manifest, StudyRoot};

use super::format::{Papers, Proof, Seal};

/// A part of a proof, by the name that people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// The file as such.
    File,
    /// The fleet document.
    Fleet,
    /// The hub's grant to the box.
    Grant,
    /// The manifest of a revision.
    Manifest(u32),
    /// The pairs of UID and digest.
    Images,
    /// A receipt, by its place from 1.
    Receipt(usize),
    /// A report, by its place from 1.
    Report(usize),
    /// The box's seal over the file.
    Seal,
}

/// A document that does not hold, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which one.
    pub document: Document,
    /// Why, in plain words.
    pub reason: String,
}

/// The box that signed, as the fleet knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The hub's word on it.
    pub grant: Grant,
    /// The hub that gave it.
    pub hub: HubEntry,
}

/// A receipt that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipted {
    /// The revision that the hub has taken over.
    pub revision: u32,
    /// The hub's record of it, which says when.
    pub record: Record,
}

/// A report that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filed {
    /// What it says and who signed it.
    pub report: VerifiedReport,
    /// The first revision with the images that it speaks of.
    pub revision: u32,
    /// The hub's record of it, which says when it was filed.
    pub record: Record,
}

/// What a proof shows, what it does not, and what in it is wrong.
#[derive(Debug, Default)]
pub struct Judgement {
    /// The fleet, once its document holds.
    pub fleet: Option<FleetDocument>,
    /// The box, once its grant holds.
    pub unit: Option<Unit>,
    /// The manifests, once all of them hold; the newest is the last.
    pub manifests: Vec<Manifest>,
    /// The list of images is the one that the newest manifest speaks of.
    pub images_hold: bool,
    /// The receipts that hold.
    pub receipts: Vec<Receipted>,
    /// The reports that hold.
    pub reports: Vec<Filed>,
    /// What the box said when it sealed the file.
    pub(super) seal: Option<Seal>,
    /// What does not hold. Empty: everything that is there does.
    pub faults: Vec<Fault>,
    /// What is not there, or weaker than it might be, in plain words.
    pub not_shown: Vec<String>,
}

/// Judges the papers of a proof; with `fleet`, only that fleet's count.
///
/// Where fleet document, grant or a manifest does not hold, what comes after it is not judged; of
/// everything else each fault is told.
pub fn judge(proof: &Proof, fleet: Option<&str>) -> Judgement {
    let mut found = Judgement::default();
    if let Err(fault) = found.follow(proof, fleet) {
        found.faults.push(fault);
    }
    found
}

impl Judgement {
    fn follow(&mut self, proof: &Proof, wanted: Option<&str>) -> Result<(), Fault> {
        let papers = proof.papers();
        let fleet = self
            .fleet
            .insert(open_fleet(&papers.fleet, wanted)?)
            .clone();
        let unit = open_grant(&papers.grant, &fleet)?;
        let unit = self.unit.insert(unit).clone();
        let signed = open_manifests(&papers.manifests, &unit.grant.unit)?;
        self.manifests = signed.iter().map(|s| s.manifest().clone()).collect();
        self.compare_images(papers);
        self.open_receipts(papers, &signed, &unit, &fleet);
        self.open_reports(papers, &unit, &fleet);
        self.weigh_revocation(&fleet, &unit);
        self.open_seal(proof, &unit.grant.unit);
        self.name_gaps(&fleet, &unit);
        Ok(())
    }

    fn fault(&mut self, document: Document, reason: impl Into<String>) {
        let reason = reason.into();
        self.faults.push(Fault { document, reason });
    }

    /// The newest manifest; there is one where this is asked.
    pub fn newest(&self) -> Option<&Manifest> {
        self.manifests.last()
    }

    fn compare_images(&mut self, papers: &Papers) {
        let root = StudyRoot::over(&papers.images);
        let count = papers.images.len();
        let same = |m: &Manifest| m.root == root && usize::try_from(m.instances) == Ok(count);
        self.images_hold = self.newest().is_some_and(same);
        if !self.images_hold {
            let reason = "a UID or digest in it is not what the newest manifest was signed over";
            self.fault(Document::Images, reason);
        }
    }

    fn open_receipts(
        &mut self,
        papers: &Papers,
        manifests: &[SignedManifest],
        unit: &Unit,
        fleet: &FleetDocument,
    ) {
        let mut head = Head::EMPTY;
        for (number, bytes) in (1..).zip(&papers.receipts) {
            let receipted = open_record(bytes, &head, unit).and_then(|signed| {
                head = signed.head;
                let revoked = fleet.revocation(&unit.hub.key);
                if revoked.is_some_and(|r| r.at_ms <= signed.record.wall_ms) {
                    return Err("the hub was revoked before it gave it".to_owned());
                }
                receipted(signed.record, manifests)
            });
            match receipted {
                Ok(receipted) => self.receipts.push(receipted),
                Err(reason) => self.fault(Document::Receipt(number), reason),
            }
        }
    }

    fn open_reports(&mut self, papers: &Papers, unit: &Unit, fleet: &FleetDocument) {
        let mut head = Head::EMPTY;
        for (number, paper) in (1..).zip(&papers.reports) {
            let filed = open_record(&paper.record, &head, unit).and_then(|signed| {
                head = signed.head;
                self.filed(signed.record, &paper.signed, fleet)
            });
            match filed {
                Ok(filed) => self.reports.push(filed),
                Err(reason) => {
                    // Those behind it follow a report that is not known to be one.
                    let later = papers.reports.len() - number;
                    self.fault(Document::Report(number), reason);
                    if later > 0 {
                        let text = format!("{later} later report(s) were not judged");
                        self.not_shown.push(text);
                    }
                    return;
                }
            }
        }
    }

    /// The hub's record names the report by its digest: it crossed sealed.
    fn filed(&self, record: Record, signed: &[u8], fleet: &FleetDocument) -> Result<Filed, String> {
        let Fact::Report(fact) = record.fact().map_err(|e| reasons(&e))? else {
            return Err("the hub's record carries no report".to_owned());
        };
        if Digest::of(signed) != fact.report {
            return Err("it is not the report that the hub's record names".to_owned());
        }
        let report = report::verify(signed, fleet).map_err(|e| reasons(&e))?;
        let study = self.newest().map(|m| &m.study);
        if study != Some(&report.document.study) || study != Some(&fact.study) {
            return Err("it is a report of another study".to_owned());
        }
        let before = self.reports.last().map(|filed| &filed.report);
        let follows = report.document.check_follows(before);
        follows.map_err(|e| reasons(&e))?;
        let read = self
            .manifests
            .iter()
            .find(|m| m.root == report.document.root);
        let revision = read.ok_or("it speaks of images that are not those of this proof")?;
        Ok(Filed {
            revision: revision.revision,
            report,
            record,
        })
    }

    /// A key that was withdrawn counts only for what is older, and only the hub can say that it is.
    fn weigh_revocation(&mut self, fleet: &FleetDocument, unit: &Unit) {
        let keys = [&unit.grant.unit, unit.grant.voucher.key()];
        let revoked = keys.into_iter().filter_map(|key| fleet.revocation(key));
        let Some(at_ms) = revoked.map(|r| r.at_ms).min() else {
            return;
        };
        let newest = self.newest().map(|m| m.revision);
        let receipt = self.receipts.iter().find(|r| Some(r.revision) == newest);
        let when = time(at_ms);
        if receipt.is_some_and(|r| r.record.wall_ms < at_ms) {
            self.not_shown.push(format!(
                "the box was revoked at {when}; the hub's receipt is older by the hub's clock"
            ));
        } else {
            let reason = format!("the box was revoked at {when} and no receipt is older than that");
            self.fault(Document::Grant, reason);
        }
    }

    fn open_seal(&mut self, proof: &Proof, unit: &NodeId) {
        match proof.open_seal() {
            Err(error) => self.fault(Document::Seal, reasons(&error)),
            Ok((signer, _)) if signer != *unit => {
                self.fault(
                    Document::Seal,
                    "it is not that of the box that signed the images",
                );
            }
            // What was altered has been named; if nothing was, something was put in or taken out.
            Ok((_, seal)) if seal.sealed != proof.sealed() && self.faults.is_empty() => {
                let reason = "papers were left out, added or exchanged since the box sealed it";
                self.fault(Document::Seal, reason);
            }
            Ok((_, seal)) => self.seal = Some(seal),
        }
    }

    fn name_gaps(&mut self, fleet: &FleetDocument, unit: &Unit) {
        let Some(newest) = self.newest().cloned() else {
            return;
        };
        let revision = newest.revision;
        if !self.receipts.iter().any(|r| r.revision == revision) {
            self.not_shown.push(format!(
                "the hub's receipt for revision {revision}: nothing here says that the hub has \
                 these images"
            ));
        }
        if !newest.closed {
            let text = "the end of the study: more images may have come later";
            self.not_shown.push(text.to_owned());
        }
        match self.reports.last() {
            None => self.not_shown.push("a report".to_owned()),
            Some(filed) if filed.report.document.root != newest.root => {
                let (read, all) = (filed.revision, newest.revision);
                self.not_shown.push(format!(
                    "that the reader saw all images: the last report speaks of revision {read} \
                     of {all}"
                ));
            }
            Some(_) => {}
        }
        if fleet.voucher(&unit.grant.voucher).is_none() {
            let text = "the box's voucher in the fleet document: the hub alone vouches for the box";
            self.not_shown.push(text.to_owned());
        }
        if let Some(revoked) = fleet.revocation(&unit.hub.key) {
            self.not_shown.push(format!(
                "the hub's good standing: it was revoked at {}",
                time(revoked.at_ms)
            ));
        }
    }
}

fn open_fleet(bytes: &[u8], wanted: Option<&str>) -> Result<FleetDocument, Fault> {
    let fault = |reason| Fault {
        document: Document::Fleet,
        reason,
    };
    // The fleet's name is a digest over the keys of its first root: a document that is right in
    // itself is that of the fleet it names, and whether that is the right one says `wanted`.
    let fleet = FleetDocument::parse_own(bytes).map_err(|e| fault(reasons(&e)))?;
    let id: FleetId = fleet.fleet();
    match wanted {
        Some(wanted) if !wanted.eq_ignore_ascii_case(&id.to_string()) => {
            Err(fault(format!("it is that of another fleet, {id}")))
        }
        Some(_) | None => Ok(fleet),
    }
}

fn open_grant(bytes: &[u8], fleet: &FleetDocument) -> Result<Unit, Fault> {
    let fault = |reason: String| Fault {
        document: Document::Grant,
        reason,
    };
    let mut refused = fault("the fleet document lists no hub".to_owned());
    for hub in &fleet.body().hubs {
        let grant = match Grant::verify(bytes, &hub.key) {
            Ok(grant) => grant,
            Err(error) => {
                refused = fault(reasons(&error));
                continue;
            }
        };
        let listed = fleet.voucher(&grant.voucher);
        if grant.fleet != fleet.fleet() || listed.is_some_and(|v| !is_for(v, &grant, hub)) {
            return Err(fault(
                "it does not say what the fleet document says".to_owned(),
            ));
        }
        let hub_revoked = fleet.revocation(&hub.key);
        if hub_revoked.is_some_and(|r| r.at_ms <= grant.made_at_ms) {
            return Err(fault("the hub was revoked before it gave it".to_owned()));
        }
        let hub = hub.clone();
        return Ok(Unit { grant, hub });
    }
    Err(refused)
}

fn is_for(voucher: &VoucherEntry, grant: &Grant, hub: &HubEntry) -> bool {
    voucher.hub == hub.key && voucher.site == grant.site && voucher.consent == grant.consent
}

fn open_manifests(papers: &[Vec<u8>], unit: &NodeId) -> Result<Vec<SignedManifest>, Fault> {
    let mut signed: Vec<SignedManifest> = Vec::new();
    for (revision, bytes) in (1..).zip(papers) {
        let fault = |reason: String| Fault {
            document: Document::Manifest(revision),
            reason,
        };
        let next = SignedManifest::open(bytes).map_err(|e| fault(reasons(&e)))?;
        if next.signer() != *unit {
            return Err(fault("it is not signed by the box".to_owned()));
        }
        let (manifest, before) = (next.manifest(), signed.last());
        let follows = manifest.revision == revision
            && manifest.previous == before.map(SignedManifest::digest)
            && before.is_none_or(|b| b.manifest().study == manifest.study);
        if !follows {
            return Err(fault("it does not follow the one before it".to_owned()));
        }
        signed.push(next);
    }
    if signed.is_empty() {
        return Err(Fault {
            document: Document::Manifest(1),
            reason: "it is not in the file".to_owned(),
        });
    }
    Ok(signed)
}

fn receipted(record: Record, manifests: &[SignedManifest]) -> Result<Receipted, String> {
    let Fact::Receipt(receipt) = record.fact().map_err(|e| reasons(&e))? else {
        return Err("the hub's record carries no receipt".to_owned());
    };
    let answered = manifests.iter().find(|m| m.digest() == receipt.manifest);
    let is_same = answered.map(SignedManifest::manifest).is_some_and(|m| {
        (&m.study, m.revision, m.root, m.instances)
            == (
                &receipt.study,
                receipt.revision,
                receipt.root,
                receipt.instances,
            )
    });
    if is_same {
        let revision = receipt.revision;
        Ok(Receipted { revision, record })
    } else {
        Err("it is for something else than the manifests here".to_owned())
    }
}

/// Reads a record of the hub's journal for this box, of which only some are here: it must come
/// after `head`, and continue it where it is the next.
fn open_record(bytes: &[u8], head: &Head, unit: &Unit) -> Result<Signed, String> {
    let journal = JournalId {
        author: unit.hub.key,
        stream: unit.grant.unit,
    };
    let read = match verify_next(&journal, head, bytes) {
        Err(ChainFault::NotNext { expected, found }) if expected < found => {
            let previous = read_record(bytes).map_err(|e| reasons(&e))?.previous;
            let count_ms = head.count_ms;
            let before = Head {
                seq: found - 1,
                digest: previous,
                count_ms,
            };
            verify_next(&journal, &before, bytes)
        }
        other => other,
    };
    read.map_err(|e| reasons(&e))
}

fn reasons(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A time for people.
pub(super) fn time(ms: u64) -> String {
    identity::calendar::format_utc(ms)
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("the proof file"),
            Self::Fleet => f.write_str("the fleet document"),
            Self::Grant => f.write_str("the box's grant"),
            Self::Manifest(revision) => write!(f, "the manifest of revision {revision}"),
            Self::Images => f.write_str("the list of images"),
            Self::Receipt(number) => write!(f, "the hub's receipt no. {number}"),
            Self::Report(number) => write!(f, "report no. {number}"),
            Self::Seal => f.write_str("the box's seal"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.document, self.reason)
    }
}

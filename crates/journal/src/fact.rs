//! The facts that records state, one CBOR body per kind.

use identity::NodeId;
use minicbor::{Decode, Encode};
use study::{Digest, Priority, SopInstanceUid, StudyRoot, StudyUid, TransactionUid};
use thiserror::Error;

/// The longest text in a fact, in bytes.
pub const TEXT_BYTES_MAX: usize = 200;

/// The most critical a finding can be.
pub const CRITICAL_MAX: u8 = 3;

/// How many instances one [`InstancesFirst`] names.
pub const INSTANCES_FIRST_MAX: usize = 256;

/// Says that a record's body is not the fact that its kind announces.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FactError {
    /// The body is not the CBOR of that kind.
    #[error("the body of a record of kind {kind} cannot be read: {reason}")]
    Malformed {
        /// The record's kind.
        kind: u16,
        /// What the decoder says.
        reason: String,
    },
    /// A text in it is longer than [`TEXT_BYTES_MAX`].
    #[error("a text in a record of kind {kind} is too long")]
    TextTooLong {
        /// The record's kind.
        kind: u16,
    },
    /// An [`InstancesFirst`] names more than [`INSTANCES_FIRST_MAX`].
    #[error("{0} instances are asked for, {max} may be", max = INSTANCES_FIRST_MAX)]
    TooManyInstances(usize),
    /// A report says that it is more critical than anything can be.
    #[error("a report is critical to degree {0}, the highest is {max}", max = CRITICAL_MAX)]
    TooCritical(u8),
}

/// A program took up its journal (kind 1).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Opened {
    /// Program and version.
    #[n(0)]
    pub software: String,
}

/// A box offers a revision of a study (kind 2).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Offered {
    /// The study.
    #[n(0)]
    pub study: StudyUid,
    /// The revision, from 1.
    #[n(1)]
    pub revision: u32,
    /// The root over the study after that revision.
    #[n(2)]
    pub root: StudyRoot,
    /// BLAKE3 of the signed manifest.
    #[n(3)]
    pub manifest: Digest,
}

/// On what ground a study may leave the clinic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum ConsentBasis {
    /// The patient said so.
    #[n(1)]
    Spoken,
    /// The patient signed.
    #[n(2)]
    Written,
    /// A guardian agreed.
    #[n(3)]
    Guardian,
    /// An emergency, confirmed by a person.
    #[n(4)]
    Emergency,
    /// An emergency by the site's policy; no person has confirmed it.
    #[n(5)]
    SitePolicy,
}

/// A study may leave the clinic (kind 3).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Consent {
    /// The study.
    #[n(0)]
    pub study: StudyUid,
    /// The ground.
    #[n(1)]
    pub basis: ConsentBasis,
    /// Initials of who recorded it; none when it was the policy.
    #[n(2)]
    pub by: Option<String>,
}

/// A study's urgency was set (kind 4): by the unit, or by the hub in a unit's stream, which the unit
/// obeys and says again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PrioritySet {
    /// The study.
    #[n(0)]
    pub study: StudyUid,
    /// How urgent it is from now on.
    #[n(1)]
    pub priority: Priority,
}

/// The box let go of its copy after custody passed (kind 5).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Released {
    /// The study.
    #[n(0)]
    pub study: StudyUid,
    /// The root that the hub's receipt spoke of.
    #[n(1)]
    pub root: StudyRoot,
}

/// The box holds a report and has verified it (kind 6).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReportReceived {
    /// The study.
    #[n(0)]
    pub study: StudyUid,
    /// BLAKE3 of the signed report.
    #[n(1)]
    pub report: Digest,
}

/// The hub bound a voucher to a unit (kind 7).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Enrolled {
    /// The unit.
    #[n(0)]
    pub unit: NodeId,
    /// The signed grant.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub grant: Vec<u8>,
}

/// The hub holds a revision: every instance is decoded, compared and synced (kind 8).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Receipt {
    /// The study.
    #[n(0)]
    pub study: StudyUid,
    /// The revision.
    #[n(1)]
    pub revision: u32,
    /// The root that the hub computed itself.
    #[n(2)]
    pub root: StudyRoot,
    /// How many instances the root speaks of.
    #[n(3)]
    pub instances: u32,
    /// BLAKE3 of the signed manifest that this answers.
    #[n(4)]
    pub manifest: Digest,
}

/// The hub has all chunks of a revision and cannot give a receipt for it (kind 9).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReceiptRefused {
    /// BLAKE3 of the signed manifest that this answers.
    #[n(0)]
    pub manifest: Digest,
    /// Why, in plain words, without patient data.
    #[n(1)]
    pub reason: String,
}

/// What kind of report a record carries, as the signed report in it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum ReportStatus {
    /// More is to come.
    #[n(1)]
    Preliminary,
    /// The radiologist has finished.
    #[n(2)]
    Final,
    /// It adds to a final report.
    #[n(3)]
    Addendum,
}

/// A report for a study of this stream's unit (kind 10).
///
/// Status and criticality stand in clear, as the hub's word, so that a locked box can still sound
/// the alarm; the signed report has the last word.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Report {
    /// The study.
    #[n(0)]
    pub study: StudyUid,
    /// BLAKE3 of the signed report, by which [`ReportReceived`] answers.
    #[n(1)]
    pub report: Digest,
    /// Which kind of report it is.
    #[n(2)]
    pub status: ReportStatus,
    /// How critical its finding is: 0 not at all, to [`CRITICAL_MAX`].
    #[n(3)]
    pub critical: u8,
    /// The report, signed by a radiologist's own key, sealed to the unit's store key under the
    /// domain of [`report_domain`].
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    pub sealed: Vec<u8>,
}

/// The domain that a signed report is sealed under, at the hub and on its way to a unit.
pub fn report_domain(study: &StudyUid) -> String {
    format!("report/{}", study.as_str())
}

/// A newer fleet document is in force at the author (kind 11).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FleetApplied {
    /// Its version.
    #[n(0)]
    pub version: u64,
}

/// The hub gave out a bearer token for scripts (kind 12).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TokenIssued {
    /// BLAKE3 of the token.
    #[n(0)]
    pub token: Digest,
    /// The role that it stands for.
    #[n(1)]
    pub role: String,
    /// Until when, milliseconds of the Unix epoch.
    #[n(2)]
    pub not_after_ms: u64,
}

/// A person holds a study: it is neither let go nor erased, or may be again (kind 13).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LegalHold {
    /// The study.
    #[n(0)]
    pub study: StudyUid,
    /// Held from now on, or not any more.
    #[n(1)]
    pub held: bool,
    /// Initials of who says so.
    #[n(2)]
    pub by: String,
}

/// The box has dropped the keys of a study and let its bytes go, on a person's word (kind 14).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Erased {
    /// The study.
    #[n(0)]
    pub study: StudyUid,
    /// The root over what was erased.
    #[n(1)]
    pub root: StudyRoot,
    /// How many instances that root speaks of.
    #[n(2)]
    pub instances: u32,
    /// Initials of who says so.
    #[n(3)]
    pub by: String,
}

/// Something that the box holds was found damaged, or is whole again (kind 15).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Damaged {
    /// The study.
    #[n(0)]
    pub study: StudyUid,
    /// How many records are damaged now; 0: the study is whole again.
    #[n(1)]
    pub records: u32,
}

/// The box asks the hub for chunks back that it has let rot (kind 16).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ChunksWanted {
    /// BLAKE3 of the signed manifest that names them.
    #[n(0)]
    pub manifest: Digest,
    /// Their numbers in it, ascending; none: no more are wanted.
    #[n(1)]
    pub chunks: Vec<u32>,
}

/// How two copies of one journal are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Divergence {
    /// Its author has less of it than somebody else: a disk was set back.
    #[n(1)]
    SetBack,
    /// Two records have one number: a disk was set back or cloned, and both copies were written to.
    #[n(2)]
    Forked,
}

/// A journal that is held here and the same one elsewhere contradict each other: a disk was set
/// back or cloned, or a key is used twice (kind 17).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Diverged {
    /// Whose journal it is.
    #[n(0)]
    pub author: NodeId,
    /// Its stream.
    #[n(1)]
    pub stream: NodeId,
    /// The last record of it here.
    #[n(2)]
    pub ours: u64,
    /// The last record of it there.
    #[n(3)]
    pub theirs: u64,
    /// How they are apart.
    #[n(4)]
    pub kind: Divergence,
}

/// A reader waits for these instances of a study: the groups of chunks that hold them go before the
/// rest of it (kind 18). It takes the place of the one before.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct InstancesFirst {
    /// The study.
    #[n(0)]
    pub study: StudyUid,
    /// One instance of each group is enough; none: nothing goes first any more.
    #[n(1)]
    pub instances: Vec<SopInstanceUid>,
}

/// Somebody wants the other studies of a study's patient (kind 19).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PriorsWanted {
    /// The study.
    #[n(0)]
    pub study: StudyUid,
}

/// A commitment that a scanner asked for has been answered, or given up (kind 20).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CommitmentAnswered {
    /// The scanner's name for it.
    #[n(0)]
    pub transaction: TransactionUid,
    /// The scanner's AE title.
    #[n(1)]
    pub requester: String,
    /// What was committed to is at the hub, and not in the box alone.
    #[n(2)]
    pub at_hub: bool,
    /// Instances that were committed to.
    #[n(3)]
    pub committed: u32,
    /// Instances that were not.
    #[n(4)]
    pub failed: u32,
    /// The scanner has confirmed that it heard; else nobody was reached in time.
    #[n(5)]
    pub delivered: bool,
}

/// What a record states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Kind 1.
    Opened(Opened),
    /// Kind 2.
    Offered(Offered),
    /// Kind 3.
    Consent(Consent),
    /// Kind 4.
    PrioritySet(PrioritySet),
    /// Kind 5.
    Released(Released),
    /// Kind 6.
    ReportReceived(ReportReceived),
    /// Kind 7.
    Enrolled(Enrolled),
    /// Kind 8.
    Receipt(Receipt),
    /// Kind 9.
    ReceiptRefused(ReceiptRefused),
    /// Kind 10.
    Report(Report),
    /// Kind 11.
    FleetApplied(FleetApplied),
    /// Kind 12.
    TokenIssued(TokenIssued),
    /// Kind 13.
    LegalHold(LegalHold),
    /// Kind 14.
    Erased(Erased),
    /// Kind 15.
    Damaged(Damaged),
    /// Kind 16.
    ChunksWanted(ChunksWanted),
    /// Kind 17.
    Diverged(Diverged),
    /// Kind 18.
    InstancesFirst(InstancesFirst),
    /// Kind 19.
    PriorsWanted(PriorsWanted),
    /// Kind 20.
    CommitmentAnswered(CommitmentAnswered),
    /// A kind of a later version: kept and passed on.
    Unknown {
        /// The record's kind.
        kind: u16,
        /// The record's body.
        body: Vec<u8>,
    },
}

impl Fact {
    /// The kind's number in a record.
    pub const fn kind(&self) -> u16 {
        match self {
            Self::Opened(_) => 1,
            Self::Offered(_) => 2,
            Self::Consent(_) => 3,
            Self::PrioritySet(_) => 4,
            Self::Released(_) => 5,
            Self::ReportReceived(_) => 6,
            Self::Enrolled(_) => 7,
            Self::Receipt(_) => 8,
            Self::ReceiptRefused(_) => 9,
            Self::Report(_) => 10,
            Self::FleetApplied(_) => 11,
            Self::TokenIssued(_) => 12,
            Self::LegalHold(_) => 13,
            Self::Erased(_) => 14,
            Self::Damaged(_) => 15,
            Self::ChunksWanted(_) => 16,
            Self::Diverged(_) => 17,
            Self::InstancesFirst(_) => 18,
            Self::PriorsWanted(_) => 19,
            Self::CommitmentAnswered(_) => 20,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    /// The body of a record that states this fact.
    pub fn body(&self) -> Vec<u8> {
        match self {
            Self::Opened(f) => encode(f),
            Self::Offered(f) => encode(f),
            Self::Consent(f) => encode(f),
            Self::PrioritySet(f) => encode(f),
            Self::Released(f) => encode(f),
            Self::ReportReceived(f) => encode(f),
            Self::Enrolled(f) => encode(f),
            Self::Receipt(f) => encode(f),
            Self::ReceiptRefused(f) => encode(f),
            Self::Report(f) => encode(f),
            Self::FleetApplied(f) => encode(f),
            Self::TokenIssued(f) => encode(f),
            Self::LegalHold(f) => encode(f),
            Self::Erased(f) => encode(f),
            Self::Damaged(f) => encode(f),
            Self::ChunksWanted(f) => encode(f),
            Self::Diverged(f) => encode(f),
            Self::InstancesFirst(f) => encode(f),
            Self::PriorsWanted(f) => encode(f),
            Self::CommitmentAnswered(f) => encode(f),
            Self::Unknown { body, .. } => body.clone(),
        }
    }

    /// Reads the body of a record of `kind`.
    pub fn read(kind: u16, body: &[u8]) -> Result<Self, FactError> {
        let fact = match kind {
            1 => Self::Opened(decode(kind, body)?),
            2 => Self::Offered(decode(kind, body)?),
            3 => Self::Consent(decode(kind, body)?),
            4 => Self::PrioritySet(decode(kind, body)?),
            5 => Self::Released(decode(kind, body)?),
            6 => Self::ReportReceived(decode(kind, body)?),
            7 => Self::Enrolled(decode(kind, body)?),
            8 => Self::Receipt(decode(kind, body)?),
            9 => Self::ReceiptRefused(decode(kind, body)?),
            10 => Self::Report(decode(kind, body)?),
            11 => Self::FleetApplied(decode(kind, body)?),
            12 => Self::TokenIssued(decode(kind, body)?),
            13 => Self::LegalHold(decode(kind, body)?),
            14 => Self::Erased(decode(kind, body)?),
            15 => Self::Damaged(decode(kind, body)?),
            16 => Self::ChunksWanted(decode(kind, body)?),
            17 => Self::Diverged(decode(kind, body)?),
            18 => Self::InstancesFirst(decode(kind, body)?),
            19 => Self::PriorsWanted(decode(kind, body)?),
            20 => Self::CommitmentAnswered(decode(kind, body)?),
            _ => Self::Unknown {
                kind,
                body: body.to_vec(),
            },
        };
        if fact.text().is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
            return Err(FactError::TextTooLong { kind });
        }
        if let Self::InstancesFirst(InstancesFirst { instances, .. }) = &fact
            && instances.len() > INSTANCES_FIRST_MAX
        {
            return Err(FactError::TooManyInstances(instances.len()));
        }
        if let Self::Report(Report { critical, .. }) = &fact
            && *critical > CRITICAL_MAX
        {
            return Err(FactError::TooCritical(*critical));
        }
        Ok(fact)
    }

    /// The free text in the fact, if it has one.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Opened(f) => Some(&f.software),
            Self::Consent(f) => f.by.as_deref(),
            Self::ReceiptRefused(f) => Some(&f.reason),
            Self::TokenIssued(f) => Some(&f.role),
            Self::LegalHold(f) => Some(&f.by),
            Self::Erased(f) => Some(&f.by),
            Self::CommitmentAnswered(f) => Some(&f.requester),
            Self::Offered(_)
            | Self::PrioritySet(_)
            | Self::Released(_)
            | Self::ReportReceived(_)
            | Self::Enrolled(_)
            | Self::Receipt(_)
            | Self::Report(_)
            | Self::FleetApplied(_)
            | Self::Damaged(_)
            | Self::ChunksWanted(_)
            | Self::Diverged(_)
            | Self::InstancesFirst(_)
            | Self::PriorsWanted(_)
            | Self::Unknown { .. } => None,
        }
    }
}

fn encode<T: Encode<()>>(fact: &T) -> Vec<u8> {
    minicbor::to_vec(fact).expect("writing to a Vec does not fail")
}

fn decode<'b, T: Decode<'b, ()>>(kind: u16, body: &'b [u8]) -> Result<T, FactError> {
    minicbor::decode(body).map_err(|e| FactError::Malformed {
        kind,
        reason: e.to_string(),
    })
}

//! Enrolment: the box asks with its voucher, the hub grants, by link or by stick.

use minicbor::{Decode, Encode};
use thiserror::Error;

use crate::calendar::format_utc;
use crate::cose;
use crate::fleet::FleetDocument;
use crate::key::{NodeId, NodeKey};
use crate::root::{FleetId, Root};
use crate::store_key::{StoreKeyId, StorePublicKey};
use crate::voucher::{Voucher, VoucherError, VoucherId, VoucherTerms};
use crate::wire::{self, DocumentError, FORMAT, Kind};
use crate::words::{ConsentPolicy, Label};

const REQUEST: Kind = Kind {
    what: "enrolment request",
    domain: "chasqui/enrol/1",
};
const GRANT: Kind = Kind {
    what: "grant",
    domain: "chasqui/grant/1",
};
/// The longest request or reply.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// The longest reason in a reply, in bytes.
const REASON_BYTES_MAX: usize = 400;

/// Says why the hub does not enrol a box.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnrolRefusal {
    /// Longer than any request.
    #[error("the enrolment request has {0} bytes, {MESSAGE_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Signature or content of the request.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The voucher inside is not right.
    #[error("the request carries no valid voucher")]
    Voucher(#[source] VoucherError),
    /// Not signed by exactly the box and the voucher's one-time key.
    #[error("the request is not signed by the box and by the voucher's one-time key")]
    WrongSigners,
    /// A voucher of another fleet.
    #[error("the voucher is from fleet {}", .0.short())]
    OtherFleet(FleetId),
    /// Signed by a key that this fleet does not issue vouchers with.
    #[error("the voucher was not issued by this fleet's issuing key")]
    NotIssuer,
    /// A voucher for another hub.
    #[error("the voucher is for hub {}", .0.short())]
    OtherHub(NodeId),
    /// The voucher's time is over by the hub's clock.
    #[error("the voucher expired at {}", format_utc(*.0))]
    Expired(u64),
    /// The voucher was withdrawn.
    #[error("the voucher was revoked")]
    VoucherRevoked,
    /// The box's key was withdrawn.
    #[error("the box {} was revoked", .0.short())]
    UnitRevoked(NodeId),
    /// Another box came first; for the hub, which keeps the bindings.
    #[error("the voucher was already used by another box")]
    Used,
}

/// A box's wish to join: its keys, and the proof that it holds a voucher.
///
/// A `COSE_Sign` by the box's key and by the voucher's one-time key, domain `chasqui/enrol/1`. The
/// voucher's secret is not in it, so the same bytes may travel on a stick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolRequest {
    terms: VoucherTerms,
    voucher_root: Root,
    unit: NodeId,
    store: StorePublicKey,
    made_at_ms: u64,
}

impl EnrolRequest {
    /// Makes the signed bytes of a request; `store` is to whom things for the box will be sealed.
    pub fn sign(
        voucher: &Voucher,
        unit: &NodeKey,
        store: &StorePublicKey,
        made_at_ms: u64,
    ) -> Vec<u8> {
        let voucher_terms = voucher.signed_terms().to_vec();
        let body = RequestBody {
            format: FORMAT,
            voucher_terms,
            unit: unit.id(),
            store: *store,
            made_at_ms,
        };
        cose::sign_many(
            &[unit, voucher.one_time()],
            REQUEST.domain,
            &wire::encode(&body),
        )
    }

    /// Reads a request and judges everything but whether the voucher was used before.
    ///
    /// `hub` is who judges and `now_ms` its clock. The caller then binds voucher to unit, once:
    /// the same unit may come again, any other gets [`EnrolRefusal::Used`]. Whoever repeats an old
    /// request of that unit must not bring an old store key back: the one made last counts.
    pub fn verify(
        bytes: &[u8],
        fleet: &FleetDocument,
        hub: &NodeId,
        now_ms: u64,
    ) -> Result<Self, EnrolRefusal> {
        let request = Self::open(bytes)?;
        let terms = &request.terms;
        if terms.fleet != fleet.fleet() {
            return Err(EnrolRefusal::OtherFleet(terms.fleet));
        }
        if !request.issued_by(fleet) {
            return Err(EnrolRefusal::NotIssuer);
        }
        if terms.hub.key != *hub {
            return Err(EnrolRefusal::OtherHub(terms.hub.key));
        }
        if fleet.revocation(terms.id.key()).is_some() {
            return Err(EnrolRefusal::VoucherRevoked);
        }
        if fleet.revocation(&request.unit).is_some() {
            return Err(EnrolRefusal::UnitRevoked(request.unit));
        }
        // `renew` prolongs a voucher in the fleet document; the file in the field stays as it is.
        let not_after_ms = fleet
            .voucher(&terms.id)
            .map_or(terms.not_after_ms, |v| v.not_after_ms);
        if now_ms > not_after_ms {
            return Err(EnrolRefusal::Expired(not_after_ms));
        }
        Ok(request)
    }

    fn open(bytes: &[u8]) -> Result<Self, EnrolRefusal> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(EnrolRefusal::TooLong(bytes.len()));
        }
        let verified = cose::verify_many(bytes, REQUEST.domain).map_err(|e| REQUEST.unsigned(e))?;
        let body: RequestBody = wire::decode(REQUEST.what, &verified.payload)?;
        let (terms, voucher_root) =
            VoucherTerms::open(&body.voucher_terms).map_err(EnrolRefusal::Voucher)?;
        if verified.signers != [body.unit, *terms.id.key()] {
            return Err(EnrolRefusal::WrongSigners);
        }
        Ok(Self {
            terms,
            voucher_root,
            unit: body.unit,
            store: body.store,
            made_at_ms: body.made_at_ms,
        })
    }

    /// Whether the voucher's root is one that the fleet's chain of roots names, and its issuing
    /// key is the present one.
    fn issued_by(&self, fleet: &FleetDocument) -> bool {
        fleet.roots().iter().any(|root| {
            root.digest() == self.voucher_root.digest()
                && root.body().issuing == fleet.root().body().issuing
        })
    }

    /// The voucher's terms.
    pub fn terms(&self) -> &VoucherTerms {
        &self.terms
    }

    /// The box that asks.
    pub fn unit(&self) -> &NodeId {
        &self.unit
    }

    /// The box's store key.
    pub fn store(&self) -> &StorePublicKey {
        &self.store
    }

    /// When the box made the request, by the box's clock.
    pub fn made_at_ms(&self) -> u64 {
        self.made_at_ms
    }
}

#[derive(Encode, Decode)]
struct RequestBody {
    #[n(0)]
    format: u8,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    voucher_terms: Vec<u8>,
    #[n(2)]
    unit: NodeId,
    #[n(3)]
    store: StorePublicKey,
    #[n(4)]
    made_at_ms: u64,
}

/// Says why a grant is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GrantError {
    /// Signature or content.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Not signed by the hub that it must come from.
    #[error("the grant is signed by key {}, not by the hub {}", signer.short(), hub.short())]
    NotHub {
        /// Who signed.
        signer: NodeId,
        /// Who should have.
        hub: NodeId,
    },
    /// Given to another box.
    #[error("the grant is for the box {}", .0.short())]
    OtherUnit(NodeId),
    /// Given for another store key than the box's.
    #[error("the grant is for store key {granted}, not for {ours}")]
    OtherStoreKey {
        /// The store key that the grant names.
        granted: StoreKeyId,
        /// The box's store key.
        ours: StoreKeyId,
    },
    /// Given for another voucher, or its site or policy is not the voucher's.
    #[error("the grant does not say what the voucher says")]
    NotAsPromised,
}

/// The hub's word that a box belongs to the fleet, for good: it ends by revocation, not by a date.
///
/// `COSE_Sign1` by the hub, domain `chasqui/grant/1`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Grant {
    /// Format version, 1.
    #[n(0)]
    pub format: u8,
    /// The fleet.
    #[n(1)]
    pub fleet: FleetId,
    /// The voucher that was redeemed.
    #[n(2)]
    pub voucher: VoucherId,
    /// The box.
    #[n(3)]
    pub unit: NodeId,
    /// The box's store key, to which the hub seals what it sends.
    #[n(4)]
    pub store: StorePublicKey,
    /// The box's site, as the voucher says.
    #[n(5)]
    pub site: Label,
    /// The site's consent policy, as the voucher says.
    #[n(6)]
    pub consent: ConsentPolicy,
    /// When the hub granted, by the hub's clock.
    #[n(7)]
    pub made_at_ms: u64,
}

impl Grant {
    /// Grants what a request asks for; the caller has bound the voucher to the unit.
    pub fn to_request(request: &EnrolRequest, made_at_ms: u64) -> Self {
        let terms = request.terms();
        Self {
            format: FORMAT,
            fleet: terms.fleet,
            voucher: terms.id,
            unit: request.unit,
            store: request.store,
            site: terms.site.clone(),
            consent: terms.consent,
            made_at_ms,
        }
    }

    /// Signs it.
    pub fn sign(&self, hub: &NodeKey) -> Vec<u8> {
        GRANT.sign(hub, self)
    }

    /// Reads a grant and checks that `hub` signed it.
    pub fn verify(bytes: &[u8], hub: &NodeId) -> Result<Self, GrantError> {
        let (signer, grant) = GRANT.open(bytes)?;
        if signer != *hub {
            return Err(GrantError::NotHub { signer, hub: *hub });
        }
        Ok(grant)
    }

    /// Reads a grant as the box does: from the voucher's hub, to this box, as the voucher promised.
    ///
    /// Whether it names the box's present store key says [`Grant::check_store`]: membership holds
    /// without it, for a box that erased its store key is still a box of the fleet.
    pub fn verify_for(bytes: &[u8], voucher: &Voucher, unit: &NodeId) -> Result<Self, GrantError> {
        let terms = voucher.terms();
        let grant = Self::verify(bytes, &terms.hub.key)?;
        if grant.unit != *unit {
            return Err(GrantError::OtherUnit(grant.unit));
        }
        let as_promised = grant.fleet == terms.fleet
            && grant.voucher == terms.id
            && grant.site == terms.site
            && grant.consent == terms.consent;
        if as_promised {
            Ok(grant)
        } else {
            Err(GrantError::NotAsPromised)
        }
    }

    /// Checks that the grant names this store key: what the hub seals to another, this box can't open.
    pub fn check_store(&self, store: &StorePublicKey) -> Result<(), GrantError> {
        if self.store == *store {
            Ok(())
        } else {
            Err(GrantError::OtherStoreKey {
                granted: self.store.id(),
                ours: store.id(),
            })
        }
    }
}

/// What the hub answers to a request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum EnrolReply {
    /// The signed grant.
    #[n(1)]
    Granted(
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        Vec<u8>,
    ),
    /// Not granted, with the reason in words.
    #[n(2)]
    Refused(#[n(0)] String),
}

impl EnrolReply {
    /// Refuses with an error and its causes as the reason.
    pub fn refused(refusal: &dyn std::error::Error) -> Self {
        let mut reason = refusal.to_string();
        let mut cause = refusal.source();
        while let Some(error) = cause {
            reason.push_str(": ");
            reason.push_str(&error.to_string());
            cause = error.source();
        }
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        Self::Refused(reason)
    }

    /// The bytes that go to the box.
    pub fn to_cbor(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Reads a reply; the grant inside is still to be verified.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, DocumentError> {
        const WHAT: &str = "enrolment reply";
        let malformed = |reason: String| DocumentError::Malformed { what: WHAT, reason };
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(malformed("too long".into()));
        }
        match wire::decode_bare(WHAT, bytes)? {
            Self::Refused(reason)
                if reason.len() > REASON_BYTES_MAX || reason.contains(char::is_control) =>
            {
                Err(malformed("the reason is not a short line".into()))
            }
            reply @ (Self::Granted(_) | Self::Refused(_)) => Ok(reply),
        }
    }
}

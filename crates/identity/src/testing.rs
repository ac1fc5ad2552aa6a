//! A fleet in memory, for tests: root keys, an issuing key and whatever the test adds.

use crate::{
    ConsentPolicy, Credential, FleetBody, FleetDocument, FleetId, HubAddress, HubEntry, Label,
    NodeId, NodeKey, Revocation, Root, RootBody, StorePublicKey, Voucher, VoucherEntry, VoucherId,
    VoucherTerms,
};

/// When everything in a test fleet was made, milliseconds of the Unix epoch.
pub const MADE_AT_MS: u64 = 1_795_000_000_000;
/// Until when vouchers and credentials of a test fleet are valid.
pub const VALID_UNTIL_MS: u64 = MADE_AT_MS + 86_400_000;

/// A fleet whose keys a test holds.
///
/// ```
/// let mut fleet = identity::testing::TestFleet::new();
/// let hub = fleet.add_hub("127.0.0.1:4433");
/// let doctor = fleet.add_radiologist("Dr. A. Reader");
/// let document = fleet.document();
/// assert!(document.hub(&hub.id()).is_some());
/// assert!(document.credential_at(&doctor.id(), identity::testing::MADE_AT_MS).is_ok());
/// ```
#[derive(Debug, Clone)]
pub struct TestFleet {
    /// The three root keys, of which two must sign.
    pub root_keys: Vec<NodeKey>,
    /// The key that signs documents.
    pub issuing: NodeKey,
    /// The present root.
    pub root: Root,
    /// The next document's content, for tests that bend it.
    pub body: FleetBody,
}

impl Default for TestFleet {
    fn default() -> Self {
        Self::new()
    }
}

impl TestFleet {
    /// A fleet with new keys, no hub, no voucher, no radiologist.
    pub fn new() -> Self {
        let root_keys: Vec<_> = (0..3).map(|_| NodeKey::generate()).collect();
        let issuing = NodeKey::generate();
        let ids = root_keys.iter().map(NodeKey::id).collect();
        let delegates = (issuing.id(), NodeKey::generate().id());
        let signed =
            RootBody::first(2, ids, delegates, MADE_AT_MS).sign(&[&root_keys[0], &root_keys[2]]);
        let root = Root::verify_first(&signed).expect("a root made here is right");
        let body = FleetBody::first(&root);
        Self {
            root_keys,
            issuing,
            root,
            body,
        }
    }

    /// The fleet's name.
    pub fn id(&self) -> FleetId {
        self.body.fleet
    }

    /// Signs the document and goes on to the next version.
    pub fn document(&mut self) -> FleetDocument {
        let signed = self.body.sign(&self.issuing);
        self.body.version += 1;
        FleetDocument::parse(&signed, &self.root.anchor()).expect("a document made here is right")
    }

    /// Adds a hub with a store key to which nobody holds the secret.
    pub fn add_hub(&mut self, address: &str) -> NodeKey {
        self.add_hub_with(address, store_key())
    }

    /// Adds a hub with the public half of its store key.
    pub fn add_hub_with(&mut self, address: &str, store: StorePublicKey) -> NodeKey {
        let key = NodeKey::generate();
        let name = label("hub");
        let address = HubAddress::parse(address).expect("the test gives an address");
        self.body.hubs.push(HubEntry {
            name,
            address,
            key: key.id(),
            store,
        });
        key
    }

    /// Gives out a voucher for the last hub, which is listed in the next document.
    pub fn add_voucher(&mut self, site: &str, consent: ConsentPolicy) -> Voucher {
        let bytes = self.voucher_bytes(site, consent);
        Voucher::parse(&bytes).expect("a voucher made here is right")
    }

    /// As [`TestFleet::add_voucher`], the content of the voucher file.
    pub fn voucher_bytes(&mut self, site: &str, consent: ConsentPolicy) -> Vec<u8> {
        let one_time = NodeKey::generate();
        let hub = self
            .body
            .hubs
            .last()
            .expect("the test adds a hub first")
            .clone();
        let (id, site, not_after_ms) = (VoucherId::new(one_time.id()), label(site), VALID_UNTIL_MS);
        let made_at_ms = MADE_AT_MS;
        self.body.vouchers.push(VoucherEntry {
            id,
            site: site.clone(),
            consent,
            hub: hub.key,
            made_at_ms,
            not_after_ms,
        });
        let terms = VoucherTerms {
            format: VoucherTerms::FORMAT,
            fleet: self.body.fleet,
            id,
            hub,
            site,
            consent,
            made_at_ms,
            not_after_ms,
            root: self.root.signed().to_vec(),
        };
        Voucher::issue(&terms, &self.issuing, &one_time).to_vec()
    }

    /// Adds a radiologist with a credential from [`MADE_AT_MS`] to [`VALID_UNTIL_MS`].
    pub fn add_radiologist(&mut self, name: &str) -> NodeKey {
        let key = NodeKey::generate();
        self.body.credentials.push(Credential {
            format: Credential::FORMAT,
            fleet: self.body.fleet,
            key: key.id(),
            name: label(name),
            licence: label("L-1"),
            valid_from_ms: MADE_AT_MS,
            valid_until_ms: VALID_UNTIL_MS,
        });
        key
    }

    /// Revokes a key from `at_ms` on.
    pub fn revoke(&mut self, subject: NodeId, at_ms: u64) {
        self.body.revocations.push(Revocation {
            subject,
            at_ms,
            reason: label("test"),
        });
    }
}

/// A new store key's public half, for tests that seal nothing: its secret is gone.
pub fn store_key() -> StorePublicKey {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).expect("the operating system gives randomness");
    let public = x25519_dalek::x25519(secret, x25519_dalek::X25519_BASEPOINT_BYTES);
    StorePublicKey::from_bytes(public).expect("a clamped secret's public half is valid")
}

fn label(text: &str) -> Label {
    Label::parse(text).expect("the test gives a label")
}

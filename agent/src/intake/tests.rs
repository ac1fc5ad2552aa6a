//! Intake with a vault on a real disk, called by our own user role.

use std::net::SocketAddr;

use dimse::scu::{Association, Instance, Proposal, ScuConfig, ScuError};
use dimse::{Answer, Status};
use study::part10::Part10;
use study::{SopClassUid, SopInstanceUid, TransferSyntaxUid};
use tokio::task::JoinHandle;

use super::*;
use crate::config::VaultConfig;
use crate::vault::tests::open_vault_with;
use crate::vault::{Now, Skipped};

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
const MR: &str = "1.2.840.10008.5.1.4.1.1.4";
const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";

pub(super) struct World {
    _folder: tempfile::TempDir,
    pub(super) vault: Vault,
    pub(super) desk: Desk,
    pub(super) address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<Result<(), IntakeError>>,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::of(IntakeConfig::default()).await
    }

    pub(super) async fn of(intake: IntakeConfig) -> Self {
        let vault = VaultConfig {
            reserve_percent: 0,
            ..VaultConfig::default()
        };
        Self::with(vault, intake).await
    }

    async fn with(config: VaultConfig, intake: IntakeConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let vault = open_vault_with(&path, config).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let desk = Desk {
            vault: vault.clone(),
            orders: Orders::new(vault.clone()),
            modalities: Modalities::open(vault.clone()).unwrap(),
        };
        let running = tokio::spawn(run(listener, desk.clone(), intake, stop.clone()));
        Self {
            desk,
            _folder: folder,
            vault,
            address,
            stop,
            running,
        }
    }

    pub(super) async fn associate(&self) -> Association {
        self.call("CHASQUI").await.unwrap()
    }

    pub(super) async fn call(&self, called: &str) -> Result<Association, ScuError> {
        let titles = ScuConfig::new(title("SCANNER"), title(called));
        let proposal = Proposal {
            sop_class: SopClassUid::parse(CT).unwrap(),
            transfer_syntaxes: vec![TransferSyntaxUid::parse(EXPLICIT_LITTLE).unwrap()],
        };
        Association::open(self.address, titles, &[proposal]).await
    }

    /// The data sets that are kept under a UID.
    fn kept(&self, sop: &str) -> Vec<Vec<u8>> {
        let sop = SopInstanceUid::parse(sop).unwrap();
        let versions = (1..).map_while(|version| self.vault.file(&sop, version).ok());
        versions
            .map(|kept| {
                let parts = Part10::parse(&kept.bytes).unwrap();
                assert_eq!(parts.sop, Some(sop.clone()));
                assert_eq!(parts.transfer_syntax.as_str(), EXPLICIT_LITTLE);
                kept.bytes[parts.data_set].to_vec()
            })
            .collect()
    }
}

pub(super) fn title(text: &str) -> AeTitle {
    AeTitle::parse(text).unwrap()
}

fn element(tag: [u8; 4], vr: &[u8; 2], value: &str) -> Vec<u8> {
    let mut value = value.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(0);
    }
    let length = u16::try_from(value.len()).unwrap().to_le_bytes();
    [&tag[..], vr, &length, &value].concat()
}

pub(super) fn data_set(class: &str, sop: &str, study: &str, words: &str) -> Vec<u8> {
    [
        element([8, 0, 0x16, 0], b"UI", class),
        element([8, 0, 0x18, 0], b"UI", sop),
        element([0x20, 0, 0x0d, 0], b"UI", study),
        element([0x20, 0, 0x0e, 0], b"UI", "1.2.3.4"),
        element([0x20, 0, 0x00, 0x40], b"LT", words),
    ]
    .concat()
}

pub(super) async fn send(association: &mut Association, sop: &str, data_set: &[u8]) -> Answer {
    let instance = Instance {
        sop_class: &SopClassUid::parse(CT).unwrap(),
        sop: &SopInstanceUid::parse(sop).unwrap(),
        transfer_syntax: &TransferSyntaxUid::parse(EXPLICIT_LITTLE).unwrap(),
        data_set,
    };
    association.store(instance).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_held_to_the_byte() {
    let world = World::new().await;
    let mut association = world.associate().await;
    let (one, other) = (
        data_set(CT, "1.2.1", "1.2", "one"),
        data_set(CT, "1.2.1", "1.2", "other"),
    );
    assert_eq!(
        send(&mut association, "1.2.1", &one).await,
        Answer::success()
    );
    assert_eq!(
        send(&mut association, "1.2.1", &one).await,
        Answer::success(),
        "the same again"
    );
    assert_eq!(
        send(&mut association, "1.2.1", &other).await,
        Answer::success(),
        "other bytes"
    );
    association.release().await.unwrap();
    assert_eq!(world.kept("1.2.1"), [one, other]);
    world.stop.cancel();
    world.running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_is_refused_with_its_status_and_the_next_is_taken() {
    let world = World::new().await;
    let mut association = world.associate().await;
    let whole = data_set(CT, "1.2.1", "1.2", "words");
    let cases: [(&[u8], Status, &str); 6] = [
        (
            &data_set(MR, "1.2.1", "1.2", ""),
            Status::DATA_SET_MISMATCH,
            "another class",
        ),
        (
            &data_set(CT, "1.2.2", "1.2", ""),
            Status::DATA_SET_MISMATCH,
            "another instance",
        ),
        (
            &whole[..whole.len() - 1],
            Status::CANNOT_UNDERSTAND,
            "truncated",
        ),
        (
            &data_set(CT, "1.2.1", "", ""),
            Status::CANNOT_UNDERSTAND,
            "no study",
        ),
        (
            &data_set(CT, "1.2.1", "../../x", ""),
            Status::CANNOT_UNDERSTAND,
            "a study that is no UID",
        ),
        (b"", Status::CANNOT_UNDERSTAND, "nothing at all"),
    ];
    for (bytes, status, what) in cases {
        let answer = send(&mut association, "1.2.1", bytes).await;
        assert_eq!(answer.status, status, "{what}");
        assert!(answer.comment.is_some_and(|c| !c.is_empty()), "{what}");
    }
    assert_eq!(world.kept("1.2.1"), Vec::<Vec<u8>>::new());
    assert_eq!(
        send(&mut association, "1.2.1", &whole).await,
        Answer::success()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_with_a700_and_the_association_goes_on() {
    let full = VaultConfig {
        reserve_percent: 0,
        free_space_assumed: Some(settings::Bytes::mib(0)),
        ..VaultConfig::default()
    };
    let world = World::with(full, IntakeConfig::default()).await;
    let mut association = world.associate().await;
    for _ in 0..2 {
        let answer = send(&mut association, "1.2.1", &data_set(CT, "1.2.1", "1.2", "")).await;
        assert_eq!(
            answer,
            Answer::failure(Status::OUT_OF_RESOURCES, "no room in the box")
        );
    }
    association.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_is_attended_while_its_association_is_open() {
    let world = World::new().await;
    let mut association = world.associate().await;
    send(&mut association, "1.2.1", &data_set(CT, "1.2.1", "1.2", "")).await;
    let now = Now::read();
    let far_off = Now {
        count_ms: now.count_ms + 1_000_000,
        ..now
    };
    let rule = crate::vault::BatchRule {
        instances: 100,
        bytes: 1 << 30,
        delay_ms: 10_000_000,
        quiet_period_ms: 1,
    };
    let due = |vault: &Vault| format!("{:?}", vault.next_batch(rule, far_off, &Skipped::default()));
    let while_open = due(&world.vault);
    let mut changed = world.vault.arrivals();
    association.release().await.unwrap();
    changed.changed().await.unwrap();
    assert_ne!(
        while_open,
        due(&world.vault),
        "it becomes stable only after the release"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_says_what_to_do() {
    let world = World::new().await;
    assert!(matches!(
        world.call("ARCHIVE").await,
        Err(ScuError::Rejected(_))
    ));
    let (desk, config) = (world.desk.clone(), IntakeConfig::default());
    let (vault, modalities) = (desk.vault.clone(), desk.modalities.clone());
    let commitments = Commitments::new(vault, modalities, &config, title("CHASQUI")).unwrap();
    let intake = Intake::new(desk, commitments, &config, title("CHASQUI"));
    let peer = Peer {
        id: 1,
        address: world.address,
        calling: Some(title("SCANNER")),
        called: Some(title("ARCHIVE")),
    };
    let words = intake.explain(&peer, &Rejection::CalledTitle);
    assert!(words.starts_with("it calls ARCHIVE, this box is CHASQUI: set the called AE title"));
}

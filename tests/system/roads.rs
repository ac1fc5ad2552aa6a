//! Roads: where no UDP passes a study goes by TLS, nothing is sent twice over it, and nothing of it
//! can be read on the way.
//!
//! Needs root for network namespaces, and `ip` of iproute2.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kit::gap::{BOX_ADDRESS, DEVICE, Gap, GapConfig, HUB_ADDRESS};
use kit::modality::Modality;
use kit::phantom::{Instance, Phantom};
use kit::process::{Role, finish};
use kit::relay::Profile;
use kit::wait::until;
use kit::world::{World, WorldConfig};
use study::StudyUid;
use tempfile::TempDir;

use crate::counts::repeated_in_all;
use crate::gap::{Capture, found};
use crate::programs;

const DEADLINE: Duration = Duration::from_secs(120);

/// The hub's port for UDP and TCP alike.
const PORT: u16 = 4_433;

/// Everything after the handshake looks like this to a stranger (RFC 8446 5.2).
const APPLICATION_DATA: u8 = 23;

/// A box and its hub with real packets between them, some of which can be kept from passing.
struct Field {
    world: World,
    gap: Gap,
    study: StudyUid,
    instances: Vec<Instance>,
    scratch: TempDir,
}

impl Field {
    /// Blocks UDP or not, and then builds a world over a link of so many kbit/s.
    fn begin(seed: u64, kbit: u32, udp: bool) -> Self {
        let profile = Profile::steady(kbit, kbit, 50, 0.0);
        let gap = Gap::open(&GapConfig::on(profile, seed)).unwrap();
        // What is for the hub itself is looked up first of all; there has to be a place before it.
        rule(&gap, &["add", "pref", "2", "lookup", "local"]);
        rule(&gap, &["del", "pref", "0"]);
        if !udp {
            pass_udp(&gap, false);
        }
        let programs = programs()
            .placing(Role::Agent, gap.clinic())
            .placing(Role::Hub, gap.hub());
        let mut config = WorldConfig {
            hub_at: Some(SocketAddr::from((HUB_ADDRESS, PORT))),
            ..WorldConfig::on(Profile::none())
        };
        for (key, value) in [("PROFILE", "terrestrial"), ("UDP_RETRY", "3s")] {
            let key = format!("AGENT__LINK__{key}");
            config.agent_env.push((key, value.to_owned()));
        }
        let phantom = Phantom {
            seed,
            slices: 32,
            side: 256,
        };
        Self {
            world: World::start(programs, config).unwrap(),
            gap,
            study: phantom.study(),
            instances: phantom.instances(),
            scratch: tempfile::tempdir().unwrap(),
        }
    }

    /// The scanner stores its study in the box.
    fn scan(&mut self) {
        let dicom = self.world.agent().unwrap().address("dicom").unwrap();
        let dicom = SocketAddr::from((Ipv4Addr::LOCALHOST, dicom.port()));
        let instances = &self.instances;
        let sent = self.gap.clinic().within(|| {
            let sending = Modality::new(dicom)?.send(instances);
            sending.complete(instances.len())
        });
        sent.unwrap().unwrap();
    }

    /// Waits until the box says that its contact takes this road.
    fn takes(&self, road: &str) {
        until(DEADLINE, &format!("the road to be {road}"), || {
            let status = self.world.agent_status().ok()?;
            (status["link"]["road"] == road).then_some(())
        })
        .unwrap();
    }

    /// Waits until so much of the study is at the hub.
    fn reaches(&self, percent: u64) {
        let view = until(DEADLINE, "the transfer to get on", || {
            let view = self.world.study_at_agent(&self.study).ok()??;
            (view["percent_at_hub"].as_u64()? >= percent).then_some(view)
        });
        let view = view.unwrap();
        assert_ne!(view["custody"], "at_hub", "it is over already: {view}");
    }

    /// Waits for the receipt, and compares what came.
    fn is_at_hub(&self) {
        self.world
            .wait_at_agent(&self.study, "custody", "at_hub", DEADLINE)
            .unwrap();
        self.world.hub_has_exactly(&self.instances).unwrap();
    }
}

/// Lets UDP through to the hub, or drops it on arrival without a word.
fn pass_udp(gap: &Gap, pass: bool) {
    let verb = if pass { "del" } else { "add" };
    let udp = ["pref", "1", "iif", DEVICE, "ipproto", "udp", "blackhole"];
    rule(gap, &[&[verb], udp.as_slice()].concat());
}

/// Changes how the hub's kernel routes.
fn rule(gap: &Gap, words: &[&str]) {
    let mut command = gap.hub().command("ip");
    command.arg("rule").args(words);
    finish(command, DEADLINE).unwrap().success().unwrap();
}

#[test]
#[ignore = "needs root, tcpdump and tshark"]
fn where_udp_is_blocked_a_study_crosses_by_tls_and_nobody_can_read_it() {
    let mut field = Field::begin(31, 4_000, false);
    field.takes("tls");
    // A new connection, so that its handshake is captured.
    field.world.take_agent().unwrap().stop().unwrap();
    let tls = Capture::start(field.gap.clinic(), field.scratch.path().join("tls.pcap"));
    field.world.start_agent().unwrap();
    field.scan();
    field.is_at_hub();
    let tls = tls.end();
    assert!(found(&tls, "tcp dst port 4433").len() > 100);
    let elsewhere = "not dst port 4433 and not icmp";
    assert_eq!(found(&tls, elsewhere), Vec::<String>::new());
    nothing_but_tls(&tls);
    unreadable(&tls, &field);

    pass_udp(&field.gap, true);
    let quic = Capture::start(field.gap.clinic(), field.scratch.path().join("quic.pcap"));
    field.takes("quic");
    let quic = quic.end();
    assert_eq!(names_in(&quic), "");
    unreadable(&quic, &field);
    assert_eq!(repeated_in_all(&mut field.world), Some(0));
}

/// What tshark shows of a capture.
fn tshark(capture: &Path, args: &[&str]) -> String {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(capture).args(args);
    finish(command, DEADLINE).unwrap().success().unwrap()
}

/// The server names that can be read in a capture.
fn names_in(capture: &Path) -> String {
    let name = "tls.handshake.extensions_server_name";
    tshark(capture, &["-Y", name, "-T", "fields", "-e", name])
}

/// Fails unless tshark, which is told nothing of the port, finds TLS in a capture, of which it can
/// read the client's hellos and no more, and nothing that it cannot place.
fn nothing_but_tls(capture: &Path) {
    assert_eq!(names_in(capture), "");
    assert_eq!(tshark(capture, &["-Y", "tcp.len > 0 and data"]), "");
    let readable = ["-Y", "tls.handshake and tls.handshake.type != 1"];
    assert_eq!(tshark(capture, &readable), "");
    // Only who hears both sides knows that what is inside may be of another kind.
    let kind = |field| format!("tls.record.{field}_type == {APPLICATION_DATA}");
    let sealed = [kind("content"), kind("opaque")].join(" or ");
    let sealed = tshark(capture, &["-Y", &sealed]);
    assert!(sealed.lines().count() > 10, "{sealed}");
}

/// Fails if a word of the study or the site can be found in a capture.
fn unreadable(capture: &Path, field: &Field) {
    let bytes = std::fs::read(capture).unwrap();
    let words = [
        field.study.as_str(),
        field.instances[0].sop.as_str(),
        "DICM",
        "north clinic",
        "chasqui-agent",
    ];
    for word in words {
        let mut windows = bytes.windows(word.len());
        let read = windows.any(|window| window == word.as_bytes());
        assert!(!read, "{word} can be read on the link");
    }
}

#[test]
#[ignore = "needs root"]
fn udp_that_is_blocked_and_opened_in_the_middle_costs_no_byte() {
    let mut field = Field::begin(32, 400, true);
    field.takes("quic");
    field.scan();
    field.reaches(15);
    pass_udp(&field.gap, false);
    field.takes("tls");
    field.reaches(40);
    pass_udp(&field.gap, true);
    field.takes("quic");
    field.is_at_hub();
    assert_eq!(repeated_in_all(&mut field.world), Some(0));
}

#[test]
#[ignore = "needs root"]
fn a_cut_and_a_kill_of_either_end_cost_no_byte_over_tls() {
    let mut field = Field::begin(33, 400, false);
    field.takes("tls");
    field.scan();
    field.reaches(15);
    field.gap.switch(false);
    let before = field.gap.counters().up.silenced;
    until(DEADLINE, "the box to speak into the silence", || {
        (field.gap.counters().up.silenced > before + 3).then_some(())
    })
    .unwrap();
    field.gap.switch(true);
    field.reaches(30);
    field.world.take_agent().unwrap().kill().unwrap();
    field.world.start_agent().unwrap();
    field.reaches(45);
    field.world.take_hub().unwrap().kill().unwrap();
    field.world.start_hub().unwrap();
    field.takes("tls");
    field.is_at_hub();
    let counted = found_by_tls(&field);
    assert!(counted >= 2, "{counted} contacts by TLS");
    assert_eq!(repeated_in_all(&mut field.world), Some(0));
}

/// How many contacts by TLS the hub has noted, none by any other road.
fn found_by_tls(field: &Field) -> usize {
    let log = std::fs::read_to_string(field.world.path("hub.log")).unwrap();
    let contacts: Vec<_> = log.lines().filter(|l| l.contains("contact up")).collect();
    let box_address = BOX_ADDRESS.to_string();
    assert!(
        contacts
            .iter()
            .all(|line| line.contains("tls") && line.contains(&box_address)),
        "{contacts:?}"
    );
    contacts.len()
}

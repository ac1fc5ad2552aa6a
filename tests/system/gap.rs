//! The emulator of real packets, as strangers see it, and box and hub on either side of it.
//!
//! Needs root for network namespaces, and `ip` of iproute2.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kit::gap::{BOX_ADDRESS, DEVICE, Gap, GapConfig, HUB_ADDRESS, Namespace};
use kit::peers::{Reference, storescu};
use kit::phantom::{Instance, Phantom, write_folder};
use kit::process::{Finished, Role, finish};
use kit::relay::{Counters, Faults, Loss, Outage, Profile, Step};
use kit::wait::until;
use kit::world::{World, WorldConfig};
use rustix::process::{Pid, Signal, kill_process};

use crate::counts::repeated_in_all;
use crate::programs;

const DEADLINE: Duration = Duration::from_secs(120);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The kernel's own word, for packets that still come when a program has closed its socket.
const CLOSED: &str = "icmp[icmptype] == icmp-unreach";

/// No packets.
const NONE: Vec<String> = Vec::new();

fn run(namespace: &Namespace, program: &str, args: &[&str]) -> Finished {
    let mut command = namespace.command(program);
    command.args(args);
    finish(command, DEADLINE).unwrap()
}

fn ping(gap: &Gap, args: &[&str]) -> Finished {
    let hub = HUB_ADDRESS.to_string();
    run(gap.clinic(), "ping", &[args, &[hub.as_str()]].concat())
}

/// The number right before a word of what a program said.
fn number_before(said: &str, word: &str) -> Option<u64> {
    let before = said.split_once(word)?.0.trim_end();
    let number = before.rsplit([' ', '+', '\n', ',']).next()?;
    number.parse().ok()
}

/// Waits until nothing is on its way any more.
fn settled(gap: &Gap) -> Counters {
    let mut last = gap.counters();
    until(DEADLINE, "the link to fall silent", || {
        std::thread::park_timeout(300 * MS);
        let now = gap.counters();
        let quiet = now == last;
        last = now;
        quiet.then_some(now)
    })
    .unwrap()
}

#[test]
#[ignore = "needs root and ping of iputils-ping"]
fn ping_sees_the_delay_and_exactly_the_loss() {
    let mut profile = Profile::steady(10_000, 10_000, 100, 0.05);
    profile.down.delay = 50 * MS;
    let gap = Gap::open(&GapConfig::on(profile, 7)).unwrap();
    let said = ping(&gap, &["-c", "300", "-i", "0.01", "-W", "2"]);
    let said = said.success().unwrap();
    let counters = settled(&gap);
    let received = number_before(&said, " received").unwrap();
    let lost = counters.up.lost + counters.down.lost;
    assert_eq!(300 - received, lost, "{said}\n{counters:?}");
    // One in ten, both ways together.
    assert!((15..=45).contains(&lost), "{lost} lost");
    let least = said
        .split_once("mdev = ")
        .and_then(|(_, figures)| figures.split('/').next()?.parse::<f64>().ok())
        .unwrap();
    assert!((150.0..165.0).contains(&least), "{said}");
}

#[test]
#[ignore = "needs root and ping of iputils-ping"]
fn ping_sees_duplicates_and_another_order() {
    let mut profile = Profile::steady(10_000, 10_000, 20, 0.0);
    profile.up.faults = Faults {
        duplicate_share: 0.1,
        ..Faults::default()
    };
    profile.down.faults = Faults {
        reorder_share: 0.1,
        reorder_by: 60 * MS,
        ..Faults::default()
    };
    let gap = Gap::open(&GapConfig::on(profile, 3)).unwrap();
    let said = ping(&gap, &["-c", "200", "-i", "0.01", "-W", "2"]);
    let said = said.success().unwrap();
    let counters = settled(&gap);
    let duplicates = number_before(&said, " duplicates").unwrap();
    assert_eq!(duplicates, counters.up.duplicated, "{said}");
    let sequence: Vec<u32> = said
        .lines()
        .filter_map(|line| {
            line.split_once("icmp_seq=")?
                .1
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .collect();
    let late = sequence.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(
        late as u64 * 2 >= counters.down.held_back,
        "{late} late, {counters:?}"
    );
    assert!(late > 5, "{sequence:?}");
}

#[test]
#[ignore = "needs root and ping of iputils-ping"]
fn ping_hears_nothing_in_an_outage_and_again_after_it() {
    let mut config = GapConfig::on(Profile::steady(10_000, 10_000, 5, 0.0), 1);
    config.outages.push(Outage {
        after: SECOND,
        length: SECOND,
    });
    let gap = Gap::open(&config).unwrap();
    let said = ping(&gap, &["-c", "400", "-i", "0.01", "-W", "1"]);
    let said = said.success().unwrap();
    let counters = settled(&gap);
    let received = number_before(&said, " received").unwrap();
    let silenced = counters.up.silenced + counters.down.silenced;
    assert_eq!(400 - received, silenced, "{said}\n{counters:?}");
    assert!(silenced > 10 && said.contains("icmp_seq=400"), "{said}");
}

#[test]
#[ignore = "needs root and ping of iputils-ping"]
fn a_packet_over_the_mtu_vanishes_or_is_refused_at_the_device() {
    let mut profile = Profile::steady(10_000, 10_000, 5, 0.0);
    (profile.up.mtu, profile.down.mtu) = (Some(1_280), Some(1_280));
    let mut config = GapConfig::on(profile, 1);
    let hidden = Gap::open(&config).unwrap();
    let fits = ["-M", "do", "-c", "3", "-i", "0.1", "-W", "1", "-s", "1252"];
    let not = ["-M", "do", "-c", "3", "-i", "0.1", "-W", "1", "-s", "1253"];
    ping(&hidden, &fits).success().unwrap();
    ping(&hidden, &not).failure(1).unwrap();
    assert_eq!(hidden.counters().up.too_big, 3);
    drop(hidden);

    config.device_mtu = 1_280;
    let open = Gap::open(&config).unwrap();
    ping(&open, &fits).success().unwrap();
    let said = ping(&open, &not);
    assert!(said.stderr.contains("mtu=1280"), "{said:?}");
    // A packet that may be cut passes in pieces.
    ping(&open, &["-c", "3", "-i", "0.1", "-W", "1", "-s", "1400"])
        .success()
        .unwrap();
    assert_eq!(open.counters().up.too_big, 0);
}

#[test]
#[ignore = "needs root and iperf3"]
fn iperf3_gets_the_rate_of_the_link() {
    let profile = Profile::steady(4_000, 8_000, 20, 0.0);
    let gap = Gap::open(&GapConfig::on(profile, 1)).unwrap();
    let _server = Serving::start(gap.hub(), "iperf3", &["--server"]);
    let hub = HUB_ADDRESS.to_string();
    for (direction, kbit) in [(None, 4_000.0), (Some("--reverse"), 8_000.0)] {
        let mut args = vec!["--json", "--time", "6", "--omit", "2", "--client", &hub];
        args.extend(direction);
        let report = until(DEADLINE, "iperf3's server", || {
            run(gap.clinic(), "iperf3", &args).json().ok()
        })
        .unwrap();
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
        // Of 1500 bytes 52 are headers.
        let share = bits.unwrap() / (kbit * 1_000.0 * 1_448.0 / 1_500.0);
        assert!((0.93..1.03).contains(&share), "{share} of {kbit} kbit/s");
    }
}

#[test]
#[ignore = "needs root and iperf3"]
fn where_the_link_is_shared_a_tcp_flow_keeps_its_part() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-gap"));
    // Over a satellite TCP takes longer than a test should last to find its part.
    command.args(["leo", "--shared", "30", "--only", "chasqui-shared"]);
    let said = finish(command, DEADLINE).unwrap().success().unwrap();
    let row = said.lines().find(|line| line.starts_with("| leo")).unwrap();
    let cells: Vec<_> = row.split('|').map(str::trim).collect();
    let [ours, both] = [3, 4].map(|cell| cells[cell].parse::<f64>().unwrap());
    assert!(ours <= 0.6 && ours > 0.1 && both > 0.6, "{row}");
}

#[test]
#[ignore = "needs root"]
fn flipped_bits_are_checksum_failures_at_the_other_end() {
    let mut profile = Profile::steady(10_000, 10_000, 5, 0.0);
    profile.up.faults.corrupt_share = 0.3;
    let gap = Gap::open(&GapConfig::on(profile, 1)).unwrap();
    let bound = |at: Ipv4Addr| move || UdpSocket::bind((at, 5_000)).unwrap();
    let hub = gap.hub().within(bound(HUB_ADDRESS)).unwrap();
    let unit = gap.clinic().within(bound(BOX_ADDRESS)).unwrap();
    hub.set_nonblocking(true).unwrap();
    let mut buffer = [0; 1_000];
    let (mut intact, mut slipped) = (0, 0);
    let mut drain = || {
        while let Ok((length, _)) = hub.recv_from(&mut buffer) {
            let same = buffer[4..length].chunks(4).all(|word| *word == buffer[..4]);
            *(if same && length == 400 {
                &mut intact
            } else {
                &mut slipped
            }) += 1;
        }
    };
    for number in 0..400u32 {
        unit.send_to(&[number.to_be_bytes(); 100].concat(), (HUB_ADDRESS, 5_000))
            .unwrap();
        if number % 20 == 0 {
            std::thread::park_timeout(10 * MS);
            drain();
        }
    }
    let up = settled(&gap).up;
    drain();
    assert_eq!((up.delivered, up.dropped_queue), (400, 0));
    let udp = snmp(gap.hub(), "Udp:", "InCsumErrors");
    let ip = snmp(gap.hub(), "Ip:", "InHdrErrors");
    assert!(up.corrupted > 80, "{up:?}");
    assert_eq!(intact, 400 - up.corrupted, "{up:?}");
    // Flips that cancel each other in the sum slip through, as on a real link.
    assert_eq!(
        udp + ip + slipped,
        up.corrupted,
        "{udp} {ip} {slipped} {up:?}"
    );
    assert!(
        slipped * 10 < up.corrupted && udp > ip && ip > 0,
        "{udp} {ip}"
    );
}

/// One of the kernel's counters inside a namespace.
fn snmp(namespace: &Namespace, protocol: &str, counter: &str) -> u64 {
    let text = namespace.proc_net("snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with(protocol));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == counter).unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs root"]
fn nothing_stays_of_a_gap_and_what_a_killed_one_left_is_swept() {
    // No process has a number that large.
    let stale = "chasqui-4999999-0-box";
    let mut command = Command::new("ip");
    command.args(["netns", "add", stale]);
    finish(command, DEADLINE).unwrap().success().unwrap();
    let gap = Gap::open(&GapConfig::on(Profile::none(), 1)).unwrap();
    let file = |name: &str| Path::new("/run/netns").join(name);
    let names = [gap.clinic().name().to_owned(), gap.hub().name().to_owned()];
    assert!(!file(stale).exists());
    assert!(names.iter().all(|name| file(name).exists()));
    drop(gap);
    assert!(names.iter().all(|name| !file(name).exists()));
}

/// A stranger that serves until it is dropped.
struct Serving(Child);

impl Serving {
    fn start(namespace: &Namespace, program: &str, args: &[&str]) -> Self {
        // Ends with us even if we are killed.
        let mut command = namespace.command("setpriv");
        command.args(["--pdeathsig", "KILL", program]).args(args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// Asks it to end in order.
    fn stop(mut self) {
        let pid = Pid::from_raw(self.0.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that leaves the box, as tcpdump writes it.
pub(crate) struct Capture {
    tcpdump: Serving,
    file: PathBuf,
}

impl Capture {
    pub(crate) fn start(namespace: &Namespace, file: PathBuf) -> Self {
        let name = file.to_str().unwrap();
        let args = [
            "-i",
            DEVICE,
            "-Q",
            "out",
            "-U",
            // Each packet waits in a slot of this size; of larger ones there are too few.
            "-s",
            "2000",
            "--immediate-mode",
            "-Z",
            "root",
            "-w",
            name,
        ];
        let tcpdump = Serving::start(namespace, "tcpdump", &args);
        // It writes the file's header when it has begun to listen.
        until(DEADLINE, "tcpdump", || {
            (std::fs::metadata(&file).ok()?.len() > 0).then_some(())
        })
        .unwrap();
        Self { tcpdump, file }
    }

    pub(crate) fn end(self) -> PathBuf {
        self.tcpdump.stop();
        self.file
    }
}

/// The packets of a capture that tcpdump finds with this filter.
pub(crate) fn found(capture: &Path, filter: &str) -> Vec<String> {
    let mut command = Command::new("tcpdump");
    command.args(["-n", "-r"]).arg(capture).arg(filter);
    let said = finish(command, DEADLINE).unwrap().success().unwrap();
    said.lines().map(str::to_owned).collect()
}

/// The packets of a capture that tshark, which is told nothing of the port, does not find to be
/// QUIC: it knows a connection by its first packet, which it can open. Of what comes from another
/// address later nobody outside can tell, as the names of a connection change with the address.
fn strange(capture: &Path) -> Vec<String> {
    let mut command = Command::new("tshark");
    command.args([
        "-n",
        "-Y",
        &format!("ip.src == {BOX_ADDRESS} and not quic and not icmp"),
        "-r",
    ]);
    command.arg(capture);
    let said = finish(command, DEADLINE).unwrap().success().unwrap();
    said.lines().map(str::to_owned).collect()
}

/// Fails unless all that left the box, also after its move, is QUIC to the hub's port, and none of
/// the words can be read in it.
fn nothing_but_quic(capture: &Path, moved: Ipv4Addr, words: &[&str]) {
    let from_moved = format!("src host {moved} and udp dst port 4433");
    assert!(found(capture, &from_moved).len() > 100);
    let elsewhere = format!("not udp dst port 4433 and not {CLOSED}");
    assert_eq!(found(capture, &elsewhere), NONE);
    assert_eq!(strange(capture), NONE);
    // A handshake has long headers: the connection moved and was not made anew.
    let handshake = format!("src host {moved} and udp and udp[8] & 0x80 != 0");
    assert_eq!(found(capture, &handshake), NONE);
    let bytes = std::fs::read(capture).unwrap();
    for word in words {
        let mut windows = bytes.windows(word.len());
        let read = windows.any(|window| window == word.as_bytes());
        assert!(!read, "{word} can be read on the link");
    }
}

/// Everything that a link can do to a packet, at the rate and delay of a satellite in the rain.
fn bad_weather() -> GapConfig {
    let mut profile = Profile::geo_rain();
    for road in [&mut profile.up, &mut profile.down] {
        road.jitter = 20 * MS;
        road.loss = Loss::Random { share: 0.03 };
        road.mtu = Some(1_280);
        road.faults = Faults {
            reorder_share: 0.02,
            reorder_by: 60 * MS,
            corrupt_share: 0.01,
            duplicate_share: 0.01,
        };
    }
    let mut config = GapConfig::on(profile, 11);
    // A transfer of any length at any time sees some.
    config.steps = (1..200)
        .map(|number| Step {
            after: number * 3 * SECOND,
            up_kbit: if number % 2 == 0 { 1_000 } else { 500 },
            down_kbit: 4_000,
        })
        .collect();
    config
}

/// What arrives at a receiver that keeps what it gets; senders may write a data set anew.
fn as_sent_by_storescu(files: &Path, scratch: &Path) -> Vec<Instance> {
    let reference = Reference::start(scratch).unwrap();
    let sent = storescu(reference.address(), files).unwrap();
    sent.success().unwrap();
    reference.received().unwrap()
}

#[test]
#[ignore = "needs root, storescu and storescp of dcmtk, tcpdump and tshark"]
fn a_study_of_storescu_crosses_bad_weather_and_a_new_address_byte_for_byte() {
    let scratch = tempfile::tempdir().unwrap();
    let phantom = Phantom {
        seed: 21,
        slices: 32,
        side: 256,
    };
    let (study, files) = (phantom.study(), scratch.path().join("files"));
    write_folder(&files, &phantom.instances()).unwrap();
    let instances = as_sent_by_storescu(&files, &scratch.path().join("reference"));
    assert_eq!(instances.len(), 32);

    let mut gap = Gap::open(&bad_weather()).unwrap();
    let hub = SocketAddr::from((HUB_ADDRESS, 4_433));
    let capture = Capture::start(gap.clinic(), scratch.path().join("out.pcap"));
    let programs = programs()
        .placing(Role::Agent, gap.clinic())
        .placing(Role::Hub, gap.hub());
    let config = WorldConfig {
        hub_at: Some(hub),
        ..WorldConfig::on(Profile::none())
    };
    let mut world = World::start(programs, config).unwrap();
    let dicom = world.agent().unwrap().address("dicom").unwrap();
    let dicom = SocketAddr::from((Ipv4Addr::LOCALHOST, dicom.port()));
    let sent = gap.clinic().within(|| storescu(dicom, &files)).unwrap();
    sent.unwrap().success().unwrap();

    let view = until(DEADLINE, "a third of the study to be at the hub", || {
        let view = world.study_at_agent(&study).ok()??;
        (view["percent_at_hub"].as_u64()? >= 33).then_some(view)
    })
    .unwrap();
    assert_ne!(view["custody"], "at_hub", "it is over already: {view}");
    let moved = Ipv4Addr::new(10, 77, 1, 1);
    gap.move_box(moved).unwrap();
    world
        .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
        .unwrap();
    world.hub_has_exactly(&instances).unwrap();
    let log = world.agent().unwrap().log().unwrap();
    assert!(
        !log.contains("contact down"),
        "the connection did not move:\n{log}"
    );

    let counters = gap.counters();
    for way in [counters.up, counters.down] {
        let seen = [way.lost, way.corrupted, way.duplicated, way.held_back];
        assert!(seen.iter().all(|count| *count > 0), "{counters:?}");
    }
    assert!(
        counters.up.too_big > 0,
        "nobody looked for the largest packet"
    );
    assert_eq!(repeated_in_all(&mut world), Some(0));
    let capture = capture.end();
    let words = [
        study.as_str(),
        instances[0].sop.as_str(),
        "DICM",
        "north clinic",
    ];
    nothing_but_quic(&capture, moved, &words);
}

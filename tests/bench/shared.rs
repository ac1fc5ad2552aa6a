//! How much of a link we take beside somebody else's TCP flow.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use kit::gap::{Gap, GapConfig, HUB_ADDRESS};
use kit::process::finish;
use kit::wait::until;
use sync_quic::{Control, LinkProfile};
use tokio::runtime::Runtime;

use crate::aims::Trial;
use crate::ends::link_profile;

/// What both flows take to find their rate, and is not counted.
const SETTLE: Duration = Duration::from_secs(10);
/// What iperf3 takes to start and to report, at the most.
const SLACK: Duration = Duration::from_secs(60);
/// Of so many bytes on the wire so many are iperf3's payload.
const TCP_SHARE: f64 = 1448.0 / 1500.0;

/// What two flows made of a link.
pub(crate) struct Shares {
    /// Ours, of what both carried.
    pub(crate) ours: f64,
    /// Both, of what the link could carry.
    pub(crate) used: f64,
}

/// Sends beside one TCP flow of the kernel's cubic for so long.
pub(crate) fn beside_tcp(
    trial: &Trial,
    control: Control,
    seed: u64,
    span: Duration,
) -> Result<Shares> {
    let gap = Gap::open(&GapConfig::on(trial.profile, seed))?;
    gap.congestion_control("cubic")?;
    let kbit = trial
        .profile
        .up
        .rate_kbit
        .context("a link without a rate")?;
    let runtime = Runtime::new()?;
    let link = LinkProfile {
        control,
        ..link_profile(&trial.profile)
    };
    let ends = super::ends(&runtime, &gap, link)?;
    let hub = SocketAddr::from((HUB_ADDRESS, ends.listener.local_addr()?.port()));
    // More than can cross in all that time.
    let seconds = u32::try_from((SETTLE + span + SLACK).as_secs())?;
    let crossing = runtime.spawn(ends.cross(hub, kbit / 8 * seconds, None));
    let rival = rival(&gap, span)?;
    ensure!(!crossing.is_finished(), "our own flow ended early");
    runtime.shutdown_background();
    let link_bits = f64::from(kbit) * 1000.0;
    Ok(Shares {
        ours: 1.0 - rival.rival_bits / rival.all_bits,
        used: rival.all_bits / link_bits,
    })
}

/// Bits per second on the wire, while both were sending.
struct Rates {
    rival_bits: f64,
    all_bits: f64,
}

/// Runs iperf3 from the box to the hub and counts what the link delivers meanwhile.
fn rival(gap: &Gap, span: Duration) -> Result<Rates> {
    let mut server = gap.hub().command("setpriv");
    server.args(["--pdeathsig", "KILL", "iperf3", "--server", "--one-off"]);
    server.stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = server.spawn().context("cannot start iperf3")?;
    until(Duration::from_secs(20), "iperf3 to listen", || {
        let tcp = gap.hub().proc_net("tcp6").ok()? + &gap.hub().proc_net("tcp").ok()?;
        tcp.contains(":1451 ").then_some(())
    })?;
    let mut client = gap.clinic().command("iperf3");
    let (seconds, settle) = (span.as_secs().to_string(), SETTLE.as_secs().to_string());
    client.args(["--json", "--time", &seconds, "--omit", &settle]);
    client.args(["--client", &Ipv4Addr::to_string(&HUB_ADDRESS)]);
    let (said, bytes) = std::thread::scope(|scope| {
        let client = scope.spawn(|| finish(client, SETTLE + span + SLACK));
        std::thread::park_timeout(SETTLE);
        let (from, before) = (gap.age(), gap.counters().up.delivered_bytes);
        std::thread::park_timeout(span);
        let took = gap.age() - from;
        let bytes = gap.counters().up.delivered_bytes - before;
        let said = client
            .join()
            .map_err(|_| anyhow!("iperf3's thread panicked"));
        (said, bytes as f64 / took.as_secs_f64())
    });
    let report = said??.json()?;
    server.wait()?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(Rates {
        rival_bits: bits.context("iperf3 reports no rate")? / TCP_SHARE,
        all_bits: bytes * 8.0,
    })
}

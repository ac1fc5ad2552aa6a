//! bench-link: how much of an emulated link one study uses, over the real QUIC stack.
//!
//! In: a profile, seeds, a payload, perhaps an outage. Out: one line of figures per seed.
//! Invariant: the clock runs from the box's first call until the box knows that all is stored.
//! May not: be part of the products; the disks are in memory, only the link is measured.
//!
//! `cargo run -p system-tests --bin bench-link -- geo 1,2,3 15000`: profile, seeds, payload in kB;
//! then `cubic` for that controller, `rate=KBITS` for a configured cap, `out=AFTER,LENGTH` for an
//! outage in seconds, `mtu=BYTES` for datagrams, `stat=AFTER` for an urgent study of 100 kB that is
//! offered in the midst of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use identity::{NodeId, NodeKey};
use journal::{ClockQuality, Head, JournalId, SignedManifest};
use kit::relay::{Outage, Profile, Relay, RelayConfig, WayCounters};
use study::{Digest, Priority};
use sync_proto::{Begun, Command, Config, Event, Offer, Session};
use sync_quic::testing::MemoryShelf;
use sync_quic::{Admission, Call, Control, Dialer, LinkProfile, Listener, Refusal, Traffic, run};
use tokio::sync::mpsc;

/// What a sync of the hub's disk takes.
const SYNC: Duration = Duration::from_millis(10);
/// One chunk, as the codec makes them of a CT slice.
const CHUNK_BYTES: u32 = 120_000;

struct Everyone;

impl Admission for Everyone {
    fn admit(&self, _: &NodeId) -> Result<(), Refusal> {
        Ok(())
    }

    fn admit_enrolment(&self, _: &NodeId) -> Result<(), Refusal> {
        Ok(())
    }
}

struct Run {
    profile: Profile,
    link: LinkProfile,
    chunks: u32,
    outages: Vec<Outage>,
    stat_after: Option<Duration>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, seeds, kilobytes, options @ ..] = arguments.as_slice() else {
        bail!(
            "usage: bench-link PROFILE SEED,SEED.. KILOBYTES [cubic] [rate=KBITS] [out=AFTER,LENGTH] [mtu=BYTES]"
        );
    };
    let run = plan(name, kilobytes.parse()?, options)?;
    for seed in seeds.split(',') {
        println(&format!(
            "{name:9} seed {seed}: {}",
            measure(&run, seed.parse()?).await?
        ));
    }
    Ok(())
}

fn plan(name: &str, kilobytes: u32, options: &[String]) -> Result<Run> {
    let profile = Profile::named(name).ok_or_else(|| anyhow!("no profile {name}"))?;
    let rtt_expected =
        (profile.up.delay + profile.down.delay).max(Duration::from_millis(20)) * 5 / 4;
    let mut link = LinkProfile {
        rtt_expected,
        ..LinkProfile::default()
    };
    let (mut outages, mut stat_after) = (Vec::new(), None);
    for option in options {
        match option.split_once('=') {
            None if option == "cubic" => link.control = Control::Cubic,
            Some(("rate", kbits)) => link.rate_kbits_max = Some(kbits.parse()?),
            Some(("mtu", bytes)) => link.datagram_bytes = bytes.parse()?,
            Some(("stat", after)) => {
                stat_after = Some(Duration::from_secs_f64(after.parse()?));
            }
            Some(("out", times)) => {
                let (after, length) = times.split_once(',').context("out=AFTER,LENGTH")?;
                let seconds = |text: &str| text.parse().map(Duration::from_secs_f64);
                outages.push(Outage {
                    after: seconds(after)?,
                    length: seconds(length)?,
                });
            }
            Some(_) | None => bail!("no option {option}"),
        }
    }
    Ok(Run {
        profile,
        link,
        chunks: kilobytes * 1000 / CHUNK_BYTES,
        outages,
        stat_after,
    })
}

async fn measure(plan: &Run, seed: u64) -> Result<String> {
    let (hub_key, unit_key) = (NodeKey::generate(), NodeKey::generate());
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = Listener::bind(here, &hub_key, &plan.link, Arc::new(Everyone))?;
    let mut config = RelayConfig::to(listener.local_addr()?, plan.profile, seed);
    config.outages.clone_from(&plan.outages);
    let relay = Relay::start(&config)?;
    let (hub_shelf, _hub_events) = MemoryShelf::new(SYNC);
    let (unit_shelf, mut events) = MemoryShelf::new(Duration::ZERO);
    let manifest = unit_shelf.study(&unit_key, "1.2.3", plan.chunks, CHUNK_BYTES);
    let (routine, stat) = (
        manifest.digest(),
        unit_shelf.study(&unit_key, "1.2.4", 1, 100_000),
    );
    let payload = u64::from(plan.chunks) * u64::from(CHUNK_BYTES);
    let (hub_commands, taken) = mpsc::channel(1);
    let hub_session = session(hub_key.id(), unit_key.id());
    let hub = tokio::spawn(async move {
        let Some(Call::Session(link)) = listener.accept().await else {
            return None;
        };
        Some(run(link, hub_session, Arc::new(hub_shelf), taken).await)
    });

    let started = Instant::now();
    let dialer = Dialer::bind(here, &unit_key)?;
    let link = dialer
        .dial(relay.address(), hub_key.id(), &plan.link)
        .await?;
    let (commands, taken) = mpsc::channel(1);
    let offer = Offer {
        manifest,
        class: Priority::Routine,
        begun: Begun::Never,
    };
    commands.send(Command::Offer(Box::new(offer))).await?;
    let unit_session = session(unit_key.id(), hub_key.id());
    let unit = tokio::spawn(run(link, unit_session, Arc::new(unit_shelf), taken));
    let stat_took = deliveries(plan, started, stat, routine, &commands, &mut events).await?;
    let took = started.elapsed();
    let counters = relay.counters();
    dialer.close().await;
    let unit = unit.await?;
    drop(hub_commands);
    let repeated = hub.await?.map_or(0, |hub| hub.counters.repeated_bytes);

    Ok(figures(plan, took, counters.up, unit.traffic, payload)
        + &format!(
            ", repeated {repeated}, stat in {:.2} s",
            stat_took.as_secs_f64()
        ))
}

/// Waits until the routine study is delivered; returns what the urgent one took.
async fn deliveries(
    plan: &Run,
    started: Instant,
    stat: SignedManifest,
    routine: Digest,
    commands: &mpsc::Sender<Command>,
    events: &mut mpsc::UnboundedReceiver<Event>,
) -> Result<Duration> {
    let mut stat_took = Duration::ZERO;
    if let Some(after) = plan.stat_after {
        tokio::time::sleep_until((started + after).into()).await;
        let offer = Offer {
            manifest: stat,
            class: Priority::Stat,
            begun: Begun::Never,
        };
        commands.send(Command::Offer(Box::new(offer))).await?;
    }
    loop {
        if let Event::Delivered { manifest } =
            events.recv().await.context("the session ended early")?
        {
            if manifest == routine {
                return Ok(stat_took);
            }
            stat_took = started.elapsed() - plan.stat_after.unwrap_or_default();
        }
    }
}

/// The line of figures of one run.
fn figures(plan: &Run, took: Duration, up: WayCounters, traffic: Traffic, payload: u64) -> String {
    let rate = f64::from(plan.profile.up.rate_kbit.unwrap_or(u32::MAX)) * 125.0;
    let open = open_time(plan, took);
    let loss = share(up.lost, up.offered - up.dropped_queue);
    format!(
        "efficiency {:.3} in {:.1} s (of which open {:.1} s), wire/payload {:.3} (allowed {:.3}), queue drops {:.2} %, \
         lost {:.2} %, silenced {}, rtt {} ms, rate {} kbit/s",
        payload as f64 / (rate * open.as_secs_f64()),
        took.as_secs_f64(),
        open.as_secs_f64(),
        up.offered_bytes as f64 / payload as f64,
        1.05 / (1.0 - loss) + 0.02,
        100.0 * share(up.dropped_queue, up.offered),
        100.0 * loss,
        up.silenced,
        traffic.rtt_ms,
        traffic.rate_kbits,
    )
}

/// How much of the first `took` the link was not silent.
fn open_time(plan: &Run, took: Duration) -> Duration {
    let step = Duration::from_millis(10);
    let mut open = Duration::ZERO;
    let mut at = Duration::ZERO;
    while at < took {
        let gap = plan.profile.gaps.is_some_and(|gaps| {
            at.as_nanos() % (gaps.up + gaps.down).as_nanos() >= gaps.up.as_nanos()
        });
        let out = plan
            .outages
            .iter()
            .any(|o| at >= o.after && at < o.after + o.length);
        if !gap && !out {
            open += step;
        }
        at += step;
    }
    open
}

fn session(me: NodeId, peer: NodeId) -> Session {
    Session::new(Config {
        me,
        peer,
        software: "bench".into(),
        wall_ms: 0,
        clock: ClockQuality::Unknown,
        fleet_version: 0,
        journals: vec![
            (JournalId::own(me), Head::EMPTY),
            (JournalId::own(peer), Head::EMPTY),
        ],
        data_bytes: 16 << 10,
    })
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what this program is for"
)]
fn println(line: &str) {
    println!("{line}");
}

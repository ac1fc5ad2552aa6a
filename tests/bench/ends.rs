//! Both ends of a crossing as the programs have them, with their disks in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use identity::{NodeId, NodeKey};
use journal::{ClockQuality, Head, JournalId, SignedManifest};
use kit::relay::Profile;
use study::Digest;
use sync_proto::{Begun, Class, Command, Config, Event, Offer, Rank, Session};
use sync_quic::testing::MemoryShelf;
use sync_quic::{
    Admission, Call, Dialer, LinkProfile, Listener, Local, Refusal, Road, Traffic, run,
};
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

/// What a box that knows its link says of it.
pub(crate) fn link_profile(link: &Profile) -> LinkProfile {
    let round_trip = (link.up.delay + link.down.delay).max(Duration::from_millis(20));
    LinkProfile {
        rtt_expected: round_trip * 5 / 4,
        ..LinkProfile::default()
    }
}

/// Who the two ends are.
pub(crate) struct Keys {
    hub: NodeKey,
    unit: NodeKey,
}

impl Keys {
    pub(crate) fn generate() -> Self {
        Self {
            hub: NodeKey::generate(),
            unit: NodeKey::generate(),
        }
    }

    /// The hub's socket. Needs a runtime, as the other one does.
    pub(crate) fn listen(&self, at: SocketAddr, link: &LinkProfile) -> Result<Listener> {
        Ok(Listener::bind(at, &self.hub, link, Arc::new(Everyone))?)
    }

    /// The box's socket.
    pub(crate) fn dialer(&self, at: SocketAddr) -> Result<Dialer> {
        Ok(Dialer::bind(&Local::Source(at.ip()), &self.unit)?)
    }
}

/// A hub that listens and a box that has not yet called.
pub(crate) struct Ends {
    pub(crate) keys: Keys,
    pub(crate) link: LinkProfile,
    pub(crate) listener: Listener,
    pub(crate) dialer: Dialer,
}

/// How a study crossed.
pub(crate) struct Crossed {
    pub(crate) payload: u64,
    /// From the box's first call until it knew that all is stored.
    pub(crate) took: Duration,
    traffic: Traffic,
    /// Bytes that came to the hub although it held them.
    repeated: u64,
    /// What the urgent study took, if there was one.
    stat_took: Option<Duration>,
}

impl Crossed {
    /// What only our own ends know of a crossing.
    pub(crate) fn told(&self) -> String {
        let stat = self.stat_took.map_or_else(String::new, |took| {
            format!(", stat in {:.2} s", took.as_secs_f64())
        });
        format!(
            "rtt {} ms, rate {} kbit/s, repeated {}{stat}",
            self.traffic.rtt_ms, self.traffic.rate_kbits, self.repeated
        )
    }
}

impl Ends {
    /// Sends a study of so many bytes by way of `to`; with an urgent one of 100 kB after a while.
    pub(crate) async fn cross(
        self,
        to: SocketAddr,
        kilobytes: u32,
        stat_after: Option<Duration>,
    ) -> Result<Crossed> {
        let Self {
            keys,
            link,
            listener,
            dialer,
        } = self;
        let (hub_id, unit_id) = (keys.hub.id(), keys.unit.id());
        let (hub_shelf, _hub_events) = MemoryShelf::new(SYNC);
        let (unit_shelf, mut events) = MemoryShelf::new(Duration::ZERO);
        let chunks = kilobytes * 1000 / CHUNK_BYTES;
        let manifest = unit_shelf.study(&keys.unit, "1.2.3", chunks, CHUNK_BYTES);
        let routine = manifest.digest();
        let stat = unit_shelf.study(&keys.unit, "1.2.4", 1, 100_000);
        let (hub_commands, taken) = mpsc::channel(1);
        let hub_session = session(hub_id, unit_id);
        let hub = tokio::spawn(async move {
            let Some(Call::Session(link)) = listener.accept().await else {
                return None;
            };
            Some(run(link, hub_session, Arc::new(hub_shelf), taken).await)
        });

        let started = Instant::now();
        let line = dialer.dial(Road::Quic, to, hub_id, &link).await?;
        let (commands, taken) = mpsc::channel(1);
        commands.send(offer(manifest, Class::Routine)).await?;
        let unit_session = session(unit_id, hub_id);
        let unit = tokio::spawn(run(line, unit_session, Arc::new(unit_shelf), taken));
        let mut stat_took = None;
        if let Some(after) = stat_after {
            tokio::time::sleep_until((started + after).into()).await;
            commands.send(offer(stat, Class::Stat)).await?;
        }
        while delivery(&mut events).await? != routine {
            stat_took = stat_after.map(|after| started.elapsed() - after);
        }
        let took = started.elapsed();
        dialer.close().await;
        let unit = unit.await?;
        drop(hub_commands);
        let repeated = hub.await?.map_or(0, |hub| hub.counters.repeated_bytes);
        Ok(Crossed {
            payload: u64::from(chunks) * u64::from(CHUNK_BYTES),
            took,
            traffic: unit.traffic,
            repeated,
            stat_took,
        })
    }
}

fn offer(manifest: SignedManifest, class: Class) -> Command {
    Command::Offer(Box::new(Offer {
        manifest,
        rank: Rank::new(class, 0),
        begun: Begun::Never,
    }))
}

/// The next study that the box knows to be stored.
async fn delivery(events: &mut mpsc::UnboundedReceiver<Event>) -> Result<Digest> {
    loop {
        let event = events.recv().await.context("the session ended early")?;
        if let Event::Delivered { manifest } = event {
            return Ok(manifest);
        }
    }
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

//! Which road is taken to the hub, and when the other one is tried.
//!
//! In: the hub's address and key. Out: a link over the first road that answers; a link over the
//! other one when the first falls silent, or works again.
//! Invariant: UDP is the road of choice, and counts as blocked only when the hub itself has
//! answered over TCP meanwhile: an outage of both blocks nothing. Once blocked it is tried again
//! less and less often, until it has lasted.
//! May not: choose the uplink, or give up.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use identity::{NodeId, NodeKey};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::dial::{Called, DialError, Dialer};
use crate::enrol::{self, ENROL_BYTES_MAX, EnrolError};
use crate::line::Line;
use crate::link::{Link, Road};
use crate::local::{Local, LocalError};
use crate::profile::LinkProfile;
use crate::tls::Purpose;
use crate::wake::{self, Pulse};

/// The port that is open where few are.
const HTTPS: u16 = 443;
/// A road that has not answered for so many round trips is likely to be closed: it takes as many
/// for two lost first flights to be sent again.
const PATIENCE_ROUND_TRIPS: u32 = 10;
const PATIENCE_MIN: Duration = Duration::from_secs(3);
const PATIENCE_MAX: Duration = Duration::from_secs(15);
/// How much longer than at first blocked UDP is left alone in the end: two hours instead of ten
/// minutes.
const RETRY_TIMES_MAX: u32 = 12;
/// How often a silent link is looked at, and one over which the other road is being tried.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_CLOSELY: Duration = Duration::from_millis(50);
/// The pause between two tries of the other road while a link is silent; it doubles each time.
const SILENT_PAUSE_MIN: Duration = Duration::from_secs(10);
const SILENT_PAUSE_MAX: Duration = Duration::from_secs(120);

/// Where a hub is, and who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubAddress {
    /// Its UDP address.
    pub address: SocketAddr,
    /// The key that it must prove.
    pub key: NodeId,
}

/// At which TCP ports of its host a hub is called by TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsPorts {
    /// At the one that has the number of its UDP port, and then at 443.
    #[default]
    Usual,
    /// At this one.
    One(u16),
    /// Nowhere: there is one road.
    Closed,
}

impl TlsPorts {
    fn of(self, hub: SocketAddr) -> Vec<SocketAddr> {
        let at = |port| SocketAddr::new(hub.ip(), port);
        match self {
            Self::Usual if hub.port() == HTTPS => vec![hub],
            Self::Usual => vec![hub, at(HTTPS)],
            Self::One(port) => vec![at(port)],
            Self::Closed => Vec::new(),
        }
    }
}

/// What the roads of a box are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoadsConfig {
    /// Where calls leave from.
    pub local: Local,
    /// At which TCP ports the hub is called.
    pub tls_ports: TlsPorts,
    /// How long blocked UDP is left alone at first; it doubles each time.
    pub udp_retry: Duration,
}

impl Default for RoadsConfig {
    fn default() -> Self {
        Self {
            local: Local::Any,
            tls_ports: TlsPorts::Usual,
            udp_retry: Duration::from_secs(600),
        }
    }
}

/// Both roads to a hub from one uplink.
#[derive(Debug)]
pub struct Roads {
    dialer: Dialer,
    tls_ports: TlsPorts,
    udp_retry: Duration,
    udp: Mutex<Udp>,
    /// Told when the uplink changes: what was blocked may not be.
    changed: Notify,
}

impl Roads {
    /// Opens a UDP socket to call from; calls by TCP leave from the same uplink. Needs a tokio
    /// runtime.
    pub fn bind(config: &RoadsConfig, key: &NodeKey) -> Result<Self, LocalError> {
        Ok(Self {
            dialer: Dialer::bind(&config.local, key)?,
            tls_ports: config.tls_ports,
            udp_retry: config.udp_retry,
            udp: Mutex::new(Udp::new(config.udp_retry)),
            changed: Notify::new(),
        })
    }

    /// Calls the hub over the road that is likely to work, and soon over both.
    pub async fn call(&self, hub: HubAddress, profile: &LinkProfile) -> Result<Link, DialError> {
        let called = self.connect(hub, profile, Purpose::Session).await?;
        Ok(called.into_link(hub.key))
    }

    /// Sends an enrolment `request` to the hub and waits for its reply.
    pub async fn enrol(
        &self,
        hub: HubAddress,
        profile: &LinkProfile,
        request: &[u8],
    ) -> Result<Vec<u8>, EnrolError> {
        if request.len() > ENROL_BYTES_MAX {
            return Err(EnrolError::TooLong);
        }
        let called = self.connect(hub, profile, Purpose::Enrol).await?;
        enrol::exchange(called, request).await
    }

    /// Waits, perhaps for ever, for a link that is better than `link`: one over TLS when QUIC has
    /// fallen silent and the hub answers over TLS, one over QUIC when `link` is not. The hub has
    /// closed `link` by then.
    pub async fn better(&self, link: &Link, hub: HubAddress, profile: &LinkProfile) -> Link {
        match link.line() {
            Line::Quic(connection) => {
                let pulse = wake::pulse_of(connection);
                self.when_silent(&pulse, hub, profile).await
            }
            Line::Tcp(_) => self.when_open(hub, profile).await,
        }
    }

    /// Moves to another uplink: live QUIC links without a new handshake, later calls too. Links
    /// over TLS break and are called anew.
    pub fn rebind(&self, local: &Local) -> Result<(), LocalError> {
        self.dialer.rebind(local)?;
        *self.udp() = Udp::new(self.udp_retry);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Closes all connections and waits until the hub has heard of it (3 s at most).
    pub async fn close(&self) {
        self.dialer.close().await;
    }

    async fn connect(
        &self,
        hub: HubAddress,
        profile: &LinkProfile,
        purpose: Purpose,
    ) -> Result<Called, DialError> {
        let by_udp = self
            .dialer
            .connect(Road::Quic, hub.address, hub.key, profile, purpose);
        let ports = self.tls_ports.of(hub.address);
        if ports.is_empty() {
            return by_udp.await;
        }
        let by_tls = self.by_tls(&ports, hub.key, profile, purpose);
        let (by_udp, by_tls) = (Box::pin(by_udp), Box::pin(by_tls));
        let udp_first = self.udp().is_open(Instant::now());
        let patience = patience(profile);
        let called = match udp_first {
            true => staggered(by_udp, by_tls, patience).await?,
            false => staggered(by_tls, by_udp, patience).await?,
        };
        match called {
            Called::Quic(_) => self.udp().passed(Instant::now()),
            Called::Tcp(_) if udp_first => self.blocked(),
            Called::Tcp(_) => {}
        }
        Ok(called)
    }

    /// Calls the hub by TLS at one port after the other; the first failure is the one to tell.
    async fn by_tls(
        &self,
        ports: &[SocketAddr],
        key: NodeId,
        profile: &LinkProfile,
        purpose: Purpose,
    ) -> Result<Called, DialError> {
        let mut failure = None;
        for (number, address) in ports.iter().enumerate() {
            let call = self
                .dialer
                .connect(Road::Tls, *address, key, profile, purpose);
            let waited = match number + 1 == ports.len() {
                true => Duration::MAX,
                false => patience(profile) * 2,
            };
            let address = *address;
            let answer = tokio::time::timeout(waited, call)
                .await
                .unwrap_or(Err(DialError::NoAnswer { address, waited }));
            match answer {
                Ok(called) => return Ok(called),
                Err(error) => {
                    tracing::debug!(%address, error = crate::close::chain(&error), "no TLS");
                    failure = failure.or(Some(error));
                }
            }
        }
        Err(failure.unwrap_or_else(|| DialError::Tcp {
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            source: io::Error::other("there is no port to call"),
        }))
    }

    async fn when_silent(&self, pulse: &Pulse, hub: HubAddress, profile: &LinkProfile) -> Link {
        let ports = self.tls_ports.of(hub.address);
        if ports.is_empty() {
            return pending().await;
        }
        let mut pause = SILENT_PAUSE_MIN;
        let mut silence = Silence::default();
        loop {
            tokio::time::sleep(LOOK).await;
            if silence.look(Instant::now(), pulse.standing()) < patience(profile) {
                pause = SILENT_PAUSE_MIN;
                continue;
            }
            // UDP that is heard again meanwhile is no worse than before: nothing has been said yet
            // that would make the hub leave it.
            let tried = tokio::select! {
                biased;
                () = heard(pulse) => continue,
                tried = self.by_tls(&ports, hub.key, profile, Purpose::Session) => tried,
            };
            match tried {
                Ok(called) => {
                    self.blocked();
                    return called.into_link(hub.key);
                }
                Err(_) => {
                    tokio::select! {
                        () = heard(pulse) => {}
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(SILENT_PAUSE_MAX);
                }
            }
        }
    }

    async fn when_open(&self, hub: HubAddress, profile: &LinkProfile) -> Link {
        loop {
            let changed = self.changed.notified();
            let retry_at = self.udp().retry_at();
            if let Some(retry_at) = retry_at.filter(|retry_at| *retry_at > Instant::now()) {
                tokio::select! {
                    () = tokio::time::sleep_until(retry_at) => {}
                    () = changed => {}
                }
                continue;
            }
            let call = self.dialer.dial(Road::Quic, hub.address, hub.key, profile);
            match tokio::time::timeout(patience(profile), call).await {
                Ok(Ok(link)) => {
                    tracing::info!("UDP passes again");
                    self.udp().passed(Instant::now());
                    return link;
                }
                Ok(Err(_)) | Err(_) => self.blocked(),
            }
        }
    }

    fn blocked(&self) {
        let retry = self.udp().blocked(Instant::now());
        tracing::info!(retry_s = retry.as_secs(), "UDP is blocked");
    }

    fn udp(&self) -> MutexGuard<'_, Udp> {
        self.udp.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a road may leave unanswered what is said on it.
fn patience(profile: &LinkProfile) -> Duration {
    (profile.rtt_expected * PATIENCE_ROUND_TRIPS).clamp(PATIENCE_MIN, PATIENCE_MAX)
}

/// The first success of two tries, the second of which begins when the first has failed or had
/// enough time; if both fail, why the first did.
async fn staggered<T, E>(
    mut first: impl Future<Output = Result<T, E>> + Unpin,
    mut second: impl Future<Output = Result<T, E>> + Unpin,
    patience: Duration,
) -> Result<T, E> {
    let early = tokio::time::timeout(patience, &mut first).await;
    let failure = match early {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(failure)) => failure,
        Err(_) => tokio::select! {
            biased;
            done = &mut first => match done {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            },
            done = &mut second => return match done {
                Ok(done) => Ok(done),
                Err(_) => first.await,
            },
        },
    };
    second.await.map_err(|_| failure)
}

/// Waits until the peer has heard something.
async fn heard(pulse: &Pulse) {
    let (_, before) = pulse.standing();
    while pulse.standing().1 == before {
        tokio::time::sleep(LOOK_CLOSELY).await;
    }
}

/// How long nothing of what is in flight on a link has been acknowledged.
#[derive(Debug, Default)]
struct Silence {
    acked: u64,
    since: Option<Instant>,
}

impl Silence {
    fn look(&mut self, now: Instant, (in_flight, acked): (bool, u64)) -> Duration {
        if acked != self.acked || !in_flight {
            self.since = None;
        } else {
            self.since.get_or_insert(now);
        }
        self.acked = acked;
        self.since.map_or(Duration::ZERO, |since| now - since)
    }
}

/// What is known of UDP from this uplink.
#[derive(Debug)]
struct Udp {
    /// How long it is left alone at first.
    retry: Duration,
    /// When it was last found to pass.
    passed_at: Option<Instant>,
    blocked: Option<Blocked>,
}

#[derive(Debug)]
struct Blocked {
    retry_at: Instant,
    /// How long it is left alone.
    pause: Duration,
    /// Whether it is blocked at the moment; if not, it has passed again and may not last.
    now: bool,
}

impl Udp {
    fn new(retry: Duration) -> Self {
        Self {
            retry,
            passed_at: None,
            blocked: None,
        }
    }

    /// Whether UDP should be tried first.
    fn is_open(&self, now: Instant) -> bool {
        self.retry_at().is_none_or(|retry_at| retry_at <= now)
    }

    /// When to try it again; none when it is not known to be blocked.
    fn retry_at(&self) -> Option<Instant> {
        let blocked = self.blocked.as_ref().filter(|blocked| blocked.now)?;
        Some(blocked.retry_at)
    }

    /// It does not pass. Returns how long to leave it alone.
    fn blocked(&mut self, now: Instant) -> Duration {
        let lasted = |pause: Duration| self.passed_at.is_some_and(|at| now - at >= pause);
        let pause = match &self.blocked {
            // It passed for as long as it had been left alone: that was another story.
            Some(before) if !before.now && lasted(before.pause) => self.retry,
            Some(before) => (before.pause * 2).min(self.retry * RETRY_TIMES_MAX),
            None => self.retry,
        };
        self.blocked = Some(Blocked {
            retry_at: now + pause,
            pause,
            now: true,
        });
        pause
    }

    /// It passes.
    fn passed(&mut self, now: Instant) {
        self.passed_at = Some(now);
        if let Some(blocked) = &mut self.blocked {
            blocked.now = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn blocked_udp_is_tried_less_and_less_often_until_it_has_lasted() {
        let mut now = Instant::now();
        let mut udp = Udp::new(10 * MINUTE);
        assert!(udp.is_open(now));
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let pause = udp.blocked(now);
            assert!(!udp.is_open(now + pause - Duration::from_secs(1)));
            now += pause;
            assert!(udp.is_open(now));
            pauses.push(pause.as_secs() / 60);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 120, 120]);
        // It comes and goes: that is no reason to try more often.
        udp.passed(now);
        assert!(udp.is_open(now));
        assert_eq!(udp.blocked(now + MINUTE), 120 * MINUTE);
        udp.passed(now + 121 * MINUTE);
        assert_eq!(udp.blocked(now + 242 * MINUTE), 10 * MINUTE);
    }

    #[test]
    fn silence_begins_when_something_is_said_and_ends_with_an_answer() {
        let start = Instant::now();
        let mut silence = Silence::default();
        let mut look = |seconds, in_flight, acked| {
            let now = start + Duration::from_secs(seconds);
            silence.look(now, (in_flight, acked)).as_secs()
        };
        assert_eq!(look(0, true, 5), 0);
        assert_eq!(look(1, false, 5), 0);
        assert_eq!(look(100, false, 5), 0, "nobody said anything");
        assert_eq!(look(101, true, 5), 0);
        assert_eq!(look(105, true, 5), 4);
        assert_eq!(look(106, true, 6), 0);
        assert_eq!(look(107, true, 6), 0);
        assert_eq!(look(110, false, 6), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_road_is_tried_when_the_first_has_had_its_time() {
        let after = |seconds, result: Result<u8, u8>| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                result
            })
        };
        let patience = Duration::from_secs(3);
        let begun = Instant::now();
        assert_eq!(
            staggered(after(2, Ok(1)), after(0, Ok(2)), patience).await,
            Ok(1)
        );
        assert_eq!(begun.elapsed().as_secs(), 2);
        assert_eq!(
            staggered(after(9, Ok(1)), after(2, Ok(2)), patience).await,
            Ok(2)
        );
        assert_eq!(begun.elapsed().as_secs(), 2 + 5);
        assert_eq!(
            staggered(after(4, Ok(1)), after(2, Ok(2)), patience).await,
            Ok(1)
        );
        assert_eq!(
            staggered(ready(Err(1)), after(1, Ok(2)), patience).await,
            Ok(2)
        );
        assert_eq!(
            staggered(after(5, Ok(1)), after(1, Err(2)), patience).await,
            Ok(1)
        );
        assert_eq!(
            staggered(after(5, Err(1)), after(1, Err(2)), patience).await,
            Err(1)
        );
    }

    #[test]
    fn the_usual_ports_are_the_hubs_own_and_443() {
        let hub: SocketAddr = "192.0.2.7:4433".parse().unwrap();
        let ports = |ports: TlsPorts, hub: SocketAddr| -> Vec<u16> {
            ports.of(hub).iter().map(SocketAddr::port).collect()
        };
        assert_eq!(ports(TlsPorts::Usual, hub), [4433, 443]);
        assert_eq!(
            ports(TlsPorts::Usual, "192.0.2.7:443".parse().unwrap()),
            [443]
        );
        assert_eq!(ports(TlsPorts::One(8443), hub), [8443]);
        assert_eq!(ports(TlsPorts::Closed, hub), Vec::<u16>::new());
    }
}

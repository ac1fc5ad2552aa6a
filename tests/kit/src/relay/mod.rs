//! Relay: a UDP relay that behaves like a satellite link, in both directions, in user space.
//!
//! In: datagrams of the box and of the hub. Out: the same datagrams later, or never.
//! Invariant: order, rate, delay, queue and loss are those of the profile; the seed fixes the loss.
//! May not: look into a datagram, change one, make one.
//!
//! Threads and not tasks: the timer of the runtime counts in milliseconds, and a fast link sends
//! four datagrams in one. The senders under test would see them arrive in clumps.

mod link;
pub(crate) mod process;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use link::{Carrier, Flight, Silence};
pub use link::{Gaps, HEADER_BYTES, Loss, Outage, Profile, Road};
pub use process::RelayProcess;

/// How often a thread that waits for datagrams looks whether the relay has ended.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// Addresses of boxes served at the same time; one more replaces the one that came first.
const CLIENTS_MAX: usize = 64;

const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Room in the kernel for datagrams that arrive while a thread waits for the processor.
const SOCKET_BYTES: usize = 4 << 20;

/// What a relay is built from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RelayConfig {
    /// Where boxes send to; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the hub listens.
    pub hub: SocketAddr,
    /// The link between them.
    pub profile: Profile,
    /// Fixes which datagrams are lost.
    pub seed: u64,
    /// Silences known beforehand.
    pub outages: Vec<Outage>,
}

impl RelayConfig {
    /// A relay on a free loopback port towards `hub`.
    pub fn to(hub: SocketAddr, profile: Profile, seed: u64) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            hub,
            profile,
            seed,
            outages: Vec::new(),
        }
    }
}

/// What one direction did so far. Bytes count the IP and UDP headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayCounters {
    /// Datagrams that came in.
    pub offered: u64,
    /// Their bytes.
    pub offered_bytes: u64,
    /// Datagrams handed on.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Dropped as the queue was full.
    pub dropped_queue: u64,
    /// Lost on the air.
    pub lost: u64,
    /// Sent while the link was silent.
    pub silenced: u64,
}

/// What both directions did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// From the box to the hub.
    pub up: WayCounters,
    /// From the hub to the box.
    pub down: WayCounters,
}

/// A running relay; dropping it ends it and loses what is on its way.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Opens the front socket and starts to relay.
    pub fn start(config: &RelayConfig) -> io::Result<Self> {
        let front = socket(config.listen)?;
        let address = front.local_addr()?;
        let (up, up_flights) = Way::new(config.profile.up, config.seed);
        // The directions must not lose the same datagrams.
        let (down, down_flights) = Way::new(config.profile.down, config.seed ^ 0x0D0D_0D0D);
        let shared = Arc::new(Shared {
            start: Instant::now(),
            ended: AtomicBool::new(false),
            silence: Mutex::new(Silence::new(config.profile.gaps, config.outages.clone())),
            up,
            down,
        });
        let front = Arc::new(front);
        let receive = {
            let (shared, front, hub) = (shared.clone(), front, config.hub);
            std::thread::spawn(move || shared.receive_front(&front, hub))
        };
        let mut threads = vec![receive];
        for (ours, flights) in [(true, up_flights), (false, down_flights)] {
            let shared = shared.clone();
            threads.push(std::thread::spawn(move || {
                let way = if ours { &shared.up } else { &shared.down };
                shared.release(way, &flights);
            }));
        }
        Ok(Self {
            address,
            shared,
            threads,
        })
    }

    /// Where boxes send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts the link down or up again. What is sent while it is down is lost.
    pub fn switch(&self, up: bool) {
        let now = self.shared.start.elapsed();
        lock(&self.shared.silence).switch(now, up);
    }

    /// What was relayed and lost so far.
    pub fn counters(&self) -> Counters {
        Counters {
            up: lock(&self.shared.up.state).counters,
            down: lock(&self.shared.down.state).counters,
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A thread that panicked has printed why.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    ended: AtomicBool,
    silence: Mutex<Silence>,
    up: Way,
    down: Way,
}

#[derive(Debug)]
struct Way {
    state: Mutex<WayState>,
}

#[derive(Debug)]
struct WayState {
    carrier: Carrier,
    counters: WayCounters,
    /// Filled under the lock, so that flights stand in the order of their arrival.
    flights: Sender<(Flight, Parcel)>,
}

#[derive(Debug)]
struct Parcel {
    bytes: Vec<u8>,
    by: Arc<UdpSocket>,
    /// `None`: `by` is connected.
    to: Option<SocketAddr>,
}

impl Way {
    fn new(road: Road, seed: u64) -> (Self, Receiver<(Flight, Parcel)>) {
        let (flights, arrivals) = channel();
        let carrier = Carrier::new(road, seed);
        let state = WayState {
            carrier,
            counters: WayCounters::default(),
            flights,
        };
        (
            Self {
                state: Mutex::new(state),
            },
            arrivals,
        )
    }

    fn offer(&self, start: Instant, parcel: Parcel) {
        let mut state = lock(&self.state);
        state.counters.offered += 1;
        state.counters.offered_bytes += parcel.bytes.len() as u64 + HEADER_BYTES;
        match state.carrier.offer(start.elapsed(), parcel.bytes.len()) {
            // The other end is gone only when the relay is ending.
            Some(flight) => drop(state.flights.send((flight, parcel))),
            None => state.counters.dropped_queue += 1,
        }
    }
}

impl Shared {
    fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Takes what boxes send and gives each of their addresses a socket towards the hub.
    fn receive_front(self: &Arc<Self>, front: &Arc<UdpSocket>, hub: SocketAddr) {
        let mut clients = Clients::default();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        while !self.ended() {
            let Ok((length, from)) = front.recv_from(&mut buffer) else {
                continue;
            };
            let towards_hub = match clients.sockets.get(&from) {
                Some((socket, _)) => socket.clone(),
                None => match self.add_client(front, from, hub) {
                    Ok((socket, thread)) => clients.insert(from, socket, thread),
                    // Out of sockets: for the box that is one lost datagram.
                    Err(_) => continue,
                },
            };
            let bytes = buffer[..length].to_vec();
            self.up.offer(
                self.start,
                Parcel {
                    bytes,
                    by: towards_hub,
                    to: None,
                },
            );
        }
        // They hold the front socket, whose port must be free when the relay has ended.
        for (_, thread) in clients.sockets.into_values() {
            let _ = thread.join();
        }
    }

    fn add_client(
        self: &Arc<Self>,
        front: &Arc<UdpSocket>,
        client: SocketAddr,
        hub: SocketAddr,
    ) -> io::Result<(Arc<UdpSocket>, JoinHandle<()>)> {
        let back = Arc::new(socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?);
        back.connect(hub)?;
        let (shared, front) = (self.clone(), front.clone());
        let weak = Arc::downgrade(&back);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            while !shared.ended() {
                // Gone when a newer client has taken this one's place.
                let Some(back) = weak.upgrade() else { return };
                // An error is a timeout, or the hub's port being closed for the moment.
                let Ok(length) = back.recv(&mut buffer) else {
                    continue;
                };
                let bytes = buffer[..length].to_vec();
                shared.down.offer(
                    shared.start,
                    Parcel {
                        bytes,
                        by: front.clone(),
                        to: Some(client),
                    },
                );
            }
        });
        Ok((back, thread))
    }

    /// Hands on each datagram at its time.
    fn release(&self, way: &Way, flights: &Receiver<(Flight, Parcel)>) {
        while !self.ended() {
            let (flight, parcel) = match flights.recv_timeout(STOP_CHECK) {
                Ok(next) => next,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while let Some(wait) = flight.due.checked_sub(self.start.elapsed()) {
                if self.ended() {
                    return;
                }
                if wait.is_zero() {
                    break;
                }
                std::thread::park_timeout(wait);
            }
            let silent = lock(&self.silence).covers(flight.sent_at);
            let mut state = lock(&way.state);
            if silent {
                state.counters.silenced += 1;
            } else if !state.carrier.arrives(&flight) {
                state.counters.lost += 1;
            } else {
                state.counters.delivered += 1;
                state.counters.delivered_bytes += parcel.bytes.len() as u64 + HEADER_BYTES;
                drop(state);
                // Nobody listening looks like loss, as on a real link.
                let _ = match parcel.to {
                    Some(to) => parcel.by.send_to(&parcel.bytes, to),
                    None => parcel.by.send(&parcel.bytes),
                };
            }
        }
    }
}

/// The boxes' addresses seen so far, oldest first.
#[derive(Default)]
struct Clients {
    sockets: BTreeMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)>,
    order: VecDeque<SocketAddr>,
}

impl Clients {
    fn insert(
        &mut self,
        client: SocketAddr,
        socket: Arc<UdpSocket>,
        thread: JoinHandle<()>,
    ) -> Arc<UdpSocket> {
        if self.order.len() == CLIENTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.sockets.remove(&oldest);
        }
        self.order.push_back(client);
        self.sockets.insert(client, (socket.clone(), thread));
        socket
    }
}

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    socket.set_recv_buffer_size(SOCKET_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    socket.set_read_timeout(Some(STOP_CHECK))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A thread that panicked while holding the lock leaves counters that are still true enough.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

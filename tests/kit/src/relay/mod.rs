//! Relay: a UDP relay that behaves like a satellite link, in both directions, in user space.
//!
//! In: datagrams of the box and of the hub. Out: the same datagrams later, or never.
//! Invariant: rate, delay, queue, loss and faults are those of the profile; the seed fixes them.
//! May not: look into a datagram; change or double one that the profile's faults leave alone.
//!
//! Threads and not tasks: the timer of the runtime counts in milliseconds, and a fast link sends
//! four datagrams in one. The senders under test would see them arrive in clumps.

mod carrier;
mod link;
pub(crate) mod process;
pub(crate) mod way;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

pub use link::{Faults, Gaps, Loss, Outage, Profile, Road, Step};
pub use process::RelayProcess;
pub use way::{Counters, WayCounters};
use way::{Flights, Link, Packet, STOP_CHECK, Way};

/// Bytes of the IPv4 and UDP headers, which take link capacity too.
pub const HEADER_BYTES: u64 = 28;

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
    /// Changes of the rate known beforehand.
    pub steps: Vec<Step>,
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
            steps: Vec::new(),
        }
    }
}

/// A running relay; dropping it ends it and loses what is on its way.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    link: Arc<Link<Exit>>,
    mute: Mute,
    threads: Vec<JoinHandle<()>>,
}

/// Addresses of boxes that hear nothing and are not heard: uplinks that have died.
type Mute = Arc<Mutex<BTreeSet<IpAddr>>>;

impl Relay {
    /// Opens the front socket and starts to relay.
    pub fn start(config: &RelayConfig) -> io::Result<Self> {
        let front = socket(config.listen)?;
        let address = front.local_addr()?;
        let (link, [up, down]) = Link::begin(
            &config.profile,
            config.seed,
            &config.outages,
            &config.steps,
            HEADER_BYTES,
        );
        let link = Arc::new(link);
        let (receive, hub) = (link.clone(), config.hub);
        let front = Arc::new(front);
        let mute = Mute::default();
        let dead = Arc::clone(&mute);
        let threads = vec![
            std::thread::spawn(move || receive_front(&receive, &front, hub, &dead)),
            hand_on(&link, up, |link| &link.up),
            hand_on(&link, down, |link| &link.down),
        ];
        Ok(Self {
            address,
            link,
            mute,
            threads,
        })
    }

    /// Where boxes send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts the link down or up again. What is sent while it is down is lost.
    pub fn switch(&self, up: bool) {
        self.link.course.switch(up);
    }

    /// Lets nothing through from and to this address of a box, or everything again.
    pub fn mute(&self, address: IpAddr, is_mute: bool) {
        let mut mute = self.mute.lock().unwrap_or_else(PoisonError::into_inner);
        if is_mute {
            mute.insert(address);
        } else {
            mute.remove(&address);
        }
    }

    /// What was relayed and lost so far.
    pub fn counters(&self) -> Counters {
        self.link.counters()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.link.course.end();
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A thread that panicked has printed why.
            let _ = thread.join();
        }
    }
}

/// Where a datagram leaves the relay.
#[derive(Debug)]
struct Exit {
    by: Arc<UdpSocket>,
    /// `None`: `by` is connected.
    to: Option<SocketAddr>,
}

/// Starts the thread that hands on what crosses in one direction.
fn hand_on(
    link: &Arc<Link<Exit>>,
    flights: Flights<Exit>,
    way: fn(&Link<Exit>) -> &Way<Exit>,
) -> JoinHandle<()> {
    let link = link.clone();
    std::thread::spawn(move || {
        way(&link).release(&link.course, &flights, |Packet { bytes, to: exit }| {
            // Nobody listening looks like loss, as on a real link.
            let _ = match exit.to {
                Some(to) => exit.by.send_to(bytes, to),
                None => exit.by.send(bytes),
            };
        });
    })
}

/// Takes what boxes send and gives each of their addresses a socket towards the hub.
fn receive_front(link: &Arc<Link<Exit>>, front: &Arc<UdpSocket>, hub: SocketAddr, mute: &Mute) {
    let mut clients = Clients::default();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    while !link.course.ended() {
        let Ok((length, from)) = front.recv_from(&mut buffer) else {
            continue;
        };
        if is_mute(mute, from) {
            continue;
        }
        let towards_hub = match clients.sockets.get(&from) {
            Some((socket, _)) => socket.clone(),
            None => match add_client(link, front, (from, mute), hub) {
                Ok((socket, thread)) => clients.insert(from, socket, thread),
                // Out of sockets: for the box that is one lost datagram.
                Err(_) => continue,
            },
        };
        let packet = Packet {
            bytes: buffer[..length].to_vec(),
            to: Exit {
                by: towards_hub,
                to: None,
            },
        };
        link.up.offer(&link.course, packet);
    }
    // They hold the front socket, whose port must be free when the relay has ended.
    for (_, thread) in clients.sockets.into_values() {
        let _ = thread.join();
    }
}

fn add_client(
    link: &Arc<Link<Exit>>,
    front: &Arc<UdpSocket>,
    (client, mute): (SocketAddr, &Mute),
    hub: SocketAddr,
) -> io::Result<(Arc<UdpSocket>, JoinHandle<()>)> {
    let back = Arc::new(socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?);
    back.connect(hub)?;
    let (link, front) = (link.clone(), front.clone());
    let weak = Arc::downgrade(&back);
    let mute = Arc::clone(mute);
    let thread = std::thread::spawn(move || {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        while !link.course.ended() {
            // Gone when a newer client has taken this one's place.
            let Some(back) = weak.upgrade() else { return };
            // An error is a timeout, or the hub's port being closed for the moment.
            let Ok(length) = back.recv(&mut buffer) else {
                continue;
            };
            if is_mute(&mute, client) {
                continue;
            }
            let packet = Packet {
                bytes: buffer[..length].to_vec(),
                to: Exit {
                    by: front.clone(),
                    to: Some(client),
                },
            };
            link.down.offer(&link.course, packet);
        }
    });
    Ok((back, thread))
}

fn is_mute(mute: &Mute, client: SocketAddr) -> bool {
    let mute = mute.lock().unwrap_or_else(PoisonError::into_inner);
    mute.contains(&client.ip())
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

#[cfg(test)]
mod tests;

//! A link in virtual time: sockets of quinn's kind with an emulated link between them.
//!
//! In: what the link is like, datagrams of boxes and of the hub. Out: the same datagrams later, or
//! never, and the counts.
//! Invariant: nothing here reads a real clock, so a busy machine changes no figure; what becomes of
//! a datagram follows from the seed and the moment it leaves.
//! May not: look into a datagram; be part of the product.
//!
//! quinn and everything in this crate take the time from tokio, whose clock a test can pause: it
//! then jumps to the next timer whenever nobody has work. A day of idling takes seconds.

mod crossing;
mod tests;

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

/// Bytes of the IPv4 and UDP headers, which take link capacity too.
const HEADER_BYTES: u64 = 28;
/// As many datagrams leave as one as a kernel with segmentation offload takes.
const SEGMENTS_MAX: usize = 10;

const HUB: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 4433);
const BOX: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// How one direction loses datagrams.
#[derive(Debug, Clone, Copy)]
pub(super) enum Loss {
    None,
    /// Each on its own, with this share.
    Random(f64),
    /// All that leave within a span of this length, in this share of the spans.
    Bursts(f64, Duration),
}

/// One direction of a link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Road {
    pub(super) kbits: u32,
    pub(super) delay: Duration,
    pub(super) loss: Loss,
}

/// A link.
#[derive(Debug, Clone)]
pub(super) struct Weather {
    pub(super) up: Road,
    pub(super) down: Road,
    /// How long the link is up and then down, again and again.
    pub(super) gaps: Option<(Duration, Duration)>,
    /// A silence: when it begins and how long it lasts.
    pub(super) outage: Option<(Duration, Duration)>,
    pub(super) seed: u64,
}

impl Weather {
    pub(super) fn steady(up: u32, down: u32, delay_ms: u64, loss: Loss) -> Self {
        let road = |kbits| Road {
            kbits,
            delay: Duration::from_millis(delay_ms),
            loss,
        };
        Self {
            up: road(up),
            down: road(down),
            gaps: None,
            outage: None,
            seed: 1,
        }
    }

    fn silent(&self, at: Duration) -> bool {
        let gap = self.gaps.is_some_and(|(up, down)| {
            at.as_nanos() % (up + down).as_nanos().max(1) >= up.as_nanos()
        });
        let out = |(from, length): (Duration, Duration)| at >= from && at < from + length;
        gap || self.outage.is_some_and(out)
    }

    /// How much of the time from the beginning until `end` the link is up.
    pub(super) fn open(&self, end: Duration) -> Duration {
        const STEP: Duration = Duration::from_millis(1);
        let moments = std::iter::successors(Some(Duration::ZERO), |at| Some(*at + STEP));
        let open = moments
            .take_while(|at| *at < end)
            .filter(|at| !self.silent(*at));
        STEP * u32::try_from(open.count()).expect("a test lasts less than a month")
    }
}

/// What one direction did so far, in bytes from the IP header on unless it is a count.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) sent_bytes: u64,
    pub(super) dropped: u64,
    pub(super) lost: u64,
    pub(super) silenced: u64,
    pub(super) silenced_bytes: u64,
    pub(super) delivered_bytes: u64,
}

/// The link and all that are on it.
#[derive(Debug)]
pub(super) struct Air {
    epoch: Instant,
    weather: Weather,
    up: Mutex<Way>,
    down: Mutex<Way>,
    inboxes: Mutex<BTreeMap<SocketAddr, UnboundedSender<Datagram>>>,
}

/// One direction at work.
#[derive(Debug)]
struct Way {
    free_at: Instant,
    numbers: u64,
    counts: Counts,
    flights: UnboundedSender<Flight>,
}

#[derive(Debug)]
struct Datagram {
    from: SocketAddr,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Flight {
    due: Instant,
    to: SocketAddr,
    datagram: Datagram,
    /// What becomes of it.
    fate: Fate,
}

#[derive(Debug, PartialEq)]
enum Fate {
    Arrives,
    Lost,
    Silenced,
}

impl Air {
    pub(super) fn new(weather: Weather) -> Arc<Self> {
        let epoch = Instant::now();
        let way = || {
            let (flights, arrivals) = unbounded_channel();
            let way = Mutex::new(Way {
                free_at: epoch,
                numbers: 0,
                counts: Counts::default(),
                flights,
            });
            (way, arrivals)
        };
        let ((up, rising), (down, falling)) = (way(), way());
        let air = Arc::new(Self {
            epoch,
            weather,
            up,
            down,
            inboxes: Mutex::default(),
        });
        tokio::spawn(carry(Arc::clone(&air), rising, |air| &air.up));
        tokio::spawn(carry(Arc::clone(&air), falling, |air| &air.down));
        air
    }

    /// A socket of the hub.
    pub(super) fn hub(self: &Arc<Self>) -> Arc<Socket> {
        self.socket(HUB)
    }

    /// A socket of a box; each has a number of its own.
    pub(super) fn unit(self: &Arc<Self>, number: u16) -> Arc<Socket> {
        self.socket(SocketAddr::from((BOX, number)))
    }

    fn socket(self: &Arc<Self>, address: SocketAddr) -> Arc<Socket> {
        let (inbox, arrivals) = unbounded_channel();
        lock(&self.inboxes).insert(address, inbox);
        Arc::new(Socket {
            air: Arc::clone(self),
            address,
            arrivals: Mutex::new(arrivals),
        })
    }

    /// Puts a datagram on the way to the hub that says to come from `from`.
    pub(super) fn forge(&self, from: SocketAddr, bytes: &[u8]) {
        self.offer(from, HUB, bytes);
    }

    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// How much of the time so far the link was up.
    pub(super) fn open(&self) -> Duration {
        self.weather.open(self.now())
    }

    pub(super) fn up(&self) -> Counts {
        lock(&self.up).counts
    }

    pub(super) fn down(&self) -> Counts {
        lock(&self.down).counts
    }

    /// Puts a datagram onto the link, or drops it at the modem's queue.
    fn offer(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let now = Instant::now();
        let weather = &self.weather;
        let (road, way) = match from == HUB {
            true => (weather.down, &self.down),
            false => (weather.up, &self.up),
        };
        let mut way = lock(way);
        let wire = bytes.len() as u64 + HEADER_BYTES;
        way.counts.sent += 1;
        way.counts.sent_bytes += wire;
        // One product of rate and round trip, as modems have it.
        let bytes_per_second = f64::from(road.kbits) * 125.0;
        let product = bytes_per_second * road.delay.as_secs_f64() * 2.0;
        let queue = product.max(6000.0) / bytes_per_second;
        let serial = Duration::from_secs_f64(wire as f64 / bytes_per_second);
        let start = way.free_at.max(now);
        if (start + serial - now).as_secs_f64() > queue {
            way.counts.dropped += 1;
            return;
        }
        way.free_at = start + serial;
        way.numbers += 1;
        let left = way.free_at - self.epoch;
        let fate = match road.loss {
            _ if weather.silent(left) => Fate::Silenced,
            Loss::Random(share) if happens(weather.seed, way.numbers, share) => Fate::Lost,
            Loss::Bursts(share, length)
                if happens(
                    weather.seed,
                    u64::try_from(left.as_nanos() / length.as_nanos()).unwrap_or(u64::MAX),
                    share,
                ) =>
            {
                Fate::Lost
            }
            Loss::None | Loss::Random(_) | Loss::Bursts(..) => Fate::Arrives,
        };
        let flight = Flight {
            due: way.free_at + road.delay,
            to,
            datagram: Datagram {
                from,
                bytes: bytes.to_vec(),
            },
            fate,
        };
        way.flights.send(flight).expect("the carrier goes on");
    }
}

/// Lets everything in one direction arrive at its time, in the order in which it left.
async fn carry(
    air: Arc<Air>,
    mut flights: UnboundedReceiver<Flight>,
    way: fn(&Air) -> &Mutex<Way>,
) {
    while let Some(Flight {
        due,
        to,
        datagram,
        fate,
    }) = flights.recv().await
    {
        sleep_until(due).await;
        let wire = datagram.bytes.len() as u64 + HEADER_BYTES;
        {
            let counts = &mut lock(way(&air)).counts;
            match fate {
                Fate::Arrives => counts.delivered_bytes += wire,
                Fate::Lost => counts.lost += 1,
                Fate::Silenced => {
                    counts.silenced += 1;
                    counts.silenced_bytes += wire;
                }
            }
        }
        if fate == Fate::Arrives
            && let Some(inbox) = lock(&air.inboxes).get(&to)
        {
            // Its socket may be gone; then it is lost.
            let _ = inbox.send(datagram);
        }
    }
}

/// A draw that depends on nothing but the seed and the event.
fn happens(seed: u64, event: u64, share: f64) -> bool {
    let mut mixed = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ event).wrapping_add(0x1234_5678);
    for _ in 0..2 {
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    }
    ((mixed ^ (mixed >> 29)) >> 11) as f64 / ((1u64 << 53) as f64) < share
}

/// One end's socket.
#[derive(Debug)]
pub(super) struct Socket {
    air: Arc<Air>,
    address: SocketAddr,
    arrivals: Mutex<UnboundedReceiver<Datagram>>,
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        for datagram in transmit.contents.chunks(segment.max(1)) {
            self.air.offer(self.address, transmit.destination, datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Poll::Ready(Some(datagram)) = lock(&self.arrivals).poll_recv(context) else {
            return Poll::Pending;
        };
        let length = datagram.bytes.len();
        buffers[0][..length].copy_from_slice(&datagram.bytes);
        meta[0] = RecvMeta {
            addr: datagram.from,
            len: length,
            stride: length,
            ..RecvMeta::default()
        };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS_MAX
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// The link always takes what it is given.
#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

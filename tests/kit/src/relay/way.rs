//! An emulated link, with threads: what came in waits for its time and goes out.
//!
//! The thread that offers packets and the one that hands them on belong to the caller, as they
//! know sockets and devices; all that happens between is here, once for every kind of emulator.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::carrier::{Carrier, Flight, Refused, Silence, rates};
use super::link::{Outage, Profile, Step};

/// How often a thread that waits for packets looks whether the emulator has ended.
pub(crate) const STOP_CHECK: Duration = Duration::from_millis(50);

/// What one direction did so far. Bytes count the headers from IP on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayCounters {
    /// Packets that came in.
    pub offered: u64,
    /// Their bytes.
    pub offered_bytes: u64,
    /// Packets handed on; one that arrives twice counts once.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Dropped as the queue was full.
    pub dropped_queue: u64,
    /// Vanished as they were larger than what passes.
    pub too_big: u64,
    /// Lost on the air.
    pub lost: u64,
    /// Sent while the link was silent.
    pub silenced: u64,
    /// Of those handed on: with bits flipped.
    pub corrupted: u64,
    /// Of those handed on: a second time.
    pub duplicated: u64,
    /// Of those handed on: held back, so that later ones could overtake.
    pub held_back: u64,
}

/// What both directions did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// From the box to the hub.
    pub up: WayCounters,
    /// From the hub to the box.
    pub down: WayCounters,
}

/// Both directions of a link, and what they share.
#[derive(Debug)]
pub(crate) struct Link<T> {
    pub(crate) course: Course,
    pub(crate) up: Way<T>,
    pub(crate) down: Way<T>,
}

impl<T> Link<T> {
    /// A link that begins now, and what is on its way up and down.
    pub(crate) fn begin(
        profile: &Profile,
        seed: u64,
        outages: &[Outage],
        steps: &[Step],
        header_bytes: u64,
    ) -> (Self, [Flights<T>; 2]) {
        let [up_rates, down_rates] = rates(steps);
        let up = Carrier::new(profile.up, up_rates, seed);
        // The directions must not lose the same packets.
        let down = Carrier::new(profile.down, down_rates, seed ^ 0x0D0D_0D0D);
        let (up, up_flights) = Way::new(up, header_bytes);
        let (down, down_flights) = Way::new(down, header_bytes);
        let course = Course {
            start: Instant::now(),
            ended: AtomicBool::new(false),
            silence: Mutex::new(Silence::new(profile.gaps, outages.to_vec())),
        };
        (Self { course, up, down }, [up_flights, down_flights])
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            up: self.up.counters(),
            down: self.down.counters(),
        }
    }
}

/// What both directions of a link share.
#[derive(Debug)]
pub(crate) struct Course {
    start: Instant,
    ended: AtomicBool,
    silence: Mutex<Silence>,
}

impl Course {
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Puts the link down or up.
    pub(crate) fn switch(&self, up: bool) {
        lock(&self.silence).switch(self.now(), up);
    }

    /// Tells every thread to end.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// Bytes on their way, and where they leave the link.
#[derive(Debug)]
pub(crate) struct Packet<T> {
    pub(crate) bytes: Vec<u8>,
    pub(crate) to: T,
}

/// What is on its way, to be taken by the one thread that hands it on.
pub(crate) type Flights<T> = Receiver<(Flight, Packet<T>)>;

/// One direction.
#[derive(Debug)]
pub(crate) struct Way<T> {
    state: Mutex<State<T>>,
    /// Bytes that a packet takes on the link besides its own.
    header_bytes: u64,
    /// Nothing that comes in now is due before this has passed.
    delay: Duration,
}

#[derive(Debug)]
struct State<T> {
    carrier: Carrier,
    counters: WayCounters,
    flights: Sender<(Flight, Packet<T>)>,
}

impl<T> Way<T> {
    fn new(carrier: Carrier, header_bytes: u64) -> (Self, Flights<T>) {
        let (flights, arrivals) = channel();
        let delay = carrier.road().delay;
        let state = Mutex::new(State {
            carrier,
            counters: WayCounters::default(),
            flights,
        });
        let way = Self {
            state,
            header_bytes,
            delay,
        };
        (way, arrivals)
    }

    fn counters(&self) -> WayCounters {
        lock(&self.state).counters
    }

    /// Puts a packet onto the link, or drops it at the entrance.
    pub(crate) fn offer(&self, course: &Course, packet: Packet<T>) {
        let wire_bytes = packet.bytes.len() as u64 + self.header_bytes;
        let mut state = lock(&self.state);
        state.counters.offered += 1;
        state.counters.offered_bytes += wire_bytes;
        match state.carrier.offer(course.now(), wire_bytes) {
            // The other end is gone only when the emulator is ending.
            Ok(flight) => drop(state.flights.send((flight, packet))),
            Err(Refused::Full) => state.counters.dropped_queue += 1,
            Err(Refused::TooBig) => state.counters.too_big += 1,
        }
    }

    /// Hands on each packet at its time, until the emulator ends.
    pub(crate) fn release(
        &self,
        course: &Course,
        flights: &Flights<T>,
        mut hand: impl FnMut(&Packet<T>),
    ) {
        let mut waiting = BinaryHeap::new();
        while !course.ended() {
            waiting.extend(
                flights
                    .try_iter()
                    .map(|(flight, packet)| Reverse(Due { flight, packet })),
            );
            let wait = waiting
                .peek()
                .map(|Reverse(next)| next.flight.due.saturating_sub(course.now()));
            match wait {
                Some(Duration::ZERO) => {
                    if let Some(Reverse(due)) = waiting.pop() {
                        self.arrive(course, due, &mut hand);
                    }
                }
                // What comes in while we sleep is due later than our waking.
                Some(wait) if !self.delay.is_zero() => {
                    std::thread::park_timeout(wait.min(self.delay));
                }
                Some(_) | None => {
                    let wait = wait.unwrap_or(STOP_CHECK).min(STOP_CHECK);
                    match flights.recv_timeout(wait) {
                        Ok((flight, packet)) => waiting.push(Reverse(Due { flight, packet })),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            }
        }
    }

    /// Decides what becomes of a packet whose time has come.
    fn arrive(&self, course: &Course, due: Due<T>, hand: &mut impl FnMut(&Packet<T>)) {
        let Due { flight, mut packet } = due;
        let silent = lock(&course.silence).covers(flight.sent_at);
        let mut state = lock(&self.state);
        let State {
            carrier, counters, ..
        } = &mut *state;
        if silent {
            counters.silenced += 1;
            return;
        }
        if !carrier.arrives(&flight) {
            counters.lost += 1;
            return;
        }
        let twice = carrier.doubles(&flight);
        counters.delivered += 1;
        counters.delivered_bytes += packet.bytes.len() as u64 + self.header_bytes;
        counters.held_back += u64::from(flight.held_back);
        counters.duplicated += u64::from(twice);
        counters.corrupted += u64::from(carrier.spoils(&flight, &mut packet.bytes));
        drop(state);
        for _ in 0..1 + u8::from(twice) {
            hand(&packet);
        }
    }
}

/// A packet in the order of its arrival.
struct Due<T> {
    flight: Flight,
    packet: Packet<T>,
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.flight == other.flight
    }
}

impl<T> Eq for Due<T> {}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.flight.cmp(&other.flight)
    }
}

/// A thread that panicked while holding the lock leaves counters that are still true enough.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

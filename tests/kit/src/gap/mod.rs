//! Gap: real packets between two network namespaces, over a link that behaves like a bad one.
//!
//! In: a link profile, a seed, silences and rate steps known beforehand. Out: two namespaces with
//! a device each, between which every IPv4 packet crosses as the profile says, and the counts.
//! Invariant: what leaves one device reaches the other through the emulator or not at all; devices,
//! namespaces and threads are gone when the gap is dropped, or at the latest with the next gap.
//! May not: know what the packets are; model a link, which is [`crate::relay`]'s business.
//!
//! Needs root and `ip` of iproute2. A device is held by a descriptor in this process, so that the
//! kernel removes it with the process; only a namespace's name can outlive it.

pub(crate) mod namespace;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::{DeviceBuilder, SyncDevice};

pub use namespace::Namespace;

use crate::relay::way::{Flights, Link, Packet, Way};
use crate::relay::{Counters, Outage, Profile, Step};

/// Where the box is. Every gap has the same addresses, as nobody but its two ends sees them.
pub const BOX_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Where the hub is.
pub const HUB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// The name of the device at either end.
pub const DEVICE: &str = "gap0";

/// An IPv4 packet is no longer.
const PACKET_BYTES_MAX: usize = 65_535;

/// Packets that a device holds until the emulator has read them; the modem's queue is elsewhere.
const DEVICE_PACKETS: &str = "2000";

/// Neither namespace shall say anything on its own: no neighbour or router discovery.
const NO_IPV6: &str = "net/ipv6/conf/all/disable_ipv6";

/// What a gap is built from.
#[derive(Debug, Clone)]
pub struct GapConfig {
    /// The link.
    pub profile: Profile,
    /// Fixes what becomes of each packet.
    pub seed: u64,
    /// Silences known beforehand, counted from the opening.
    pub outages: Vec<Outage>,
    /// Changes of the rate known beforehand, counted from the opening.
    pub steps: Vec<Step>,
    /// What the devices say is the largest packet. The profile may let less through.
    pub device_mtu: u16,
}

impl GapConfig {
    /// This link with devices of the usual size, nothing planned.
    pub fn on(profile: Profile, seed: u64) -> Self {
        Self {
            profile,
            seed,
            outages: Vec::new(),
            steps: Vec::new(),
            device_mtu: 1_500,
        }
    }
}

/// An open gap; dropping it loses what is on its way and removes all that was made.
#[derive(Debug)]
pub struct Gap {
    link: Arc<Link<()>>,
    threads: Vec<JoinHandle<()>>,
    clinic: Namespace,
    reading: Namespace,
    box_address: Ipv4Addr,
}

impl Gap {
    /// Makes both namespaces with their devices and starts to carry packets.
    pub fn open(config: &GapConfig) -> anyhow::Result<Self> {
        namespace::sweep()?;
        let clinic = Namespace::make("box")?;
        let reading = Namespace::make("hub")?;
        let box_device = Arc::new(device(&clinic, BOX_ADDRESS, config.device_mtu)?);
        let hub_device = Arc::new(device(&reading, HUB_ADDRESS, config.device_mtu)?);
        let (link, [up, down]) = Link::begin(
            &config.profile,
            config.seed,
            &config.outages,
            &config.steps,
            0,
        );
        let link = Arc::new(link);
        let threads = vec![
            take(&link, &box_device, |link| &link.up),
            take(&link, &hub_device, |link| &link.down),
            hand_on(&link, up, hub_device, |link| &link.up),
            hand_on(&link, down, box_device, |link| &link.down),
        ];
        Ok(Self {
            link,
            threads,
            clinic,
            reading,
            box_address: BOX_ADDRESS,
        })
    }

    /// The box's end.
    pub fn clinic(&self) -> &Namespace {
        &self.clinic
    }

    /// The hub's end.
    pub fn hub(&self) -> &Namespace {
        &self.reading
    }

    /// How long the link has been open; planned silences and rate steps count from there.
    pub fn age(&self) -> Duration {
        self.link.course.now()
    }

    /// Puts the link down or up again. What is sent while it is down is lost.
    pub fn switch(&self, up: bool) {
        self.link.course.switch(up);
    }

    /// What was carried and lost so far.
    pub fn counters(&self) -> Counters {
        self.link.counters()
    }

    /// The kernel's congestion control for TCP over the gap, such as `cubic` or `bbr`. It is set
    /// on the routes, as a namespace may not choose one that the machine keeps for itself.
    pub fn congestion_control(&self, name: &str) -> anyhow::Result<()> {
        [&self.clinic, &self.reading]
            .into_iter()
            .try_for_each(|end| {
                end.ip(&[
                    "route", "replace", "default", "dev", DEVICE, "congctl", name,
                ])
            })
    }

    /// Gives the box another address in place of the one it has, as another uplink would.
    pub fn move_box(&mut self, address: Ipv4Addr) -> anyhow::Result<()> {
        let namespace = &self.clinic;
        // The new one first: a device without addresses loses its routes.
        namespace.ip(&["addr", "add", &format!("{address}/32"), "dev", DEVICE])?;
        let old = std::mem::replace(&mut self.box_address, address);
        namespace.ip(&["addr", "del", &format!("{old}/32"), "dev", DEVICE])
    }
}

impl Drop for Gap {
    fn drop(&mut self) {
        self.link.course.end();
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A thread that panicked has printed why.
            let _ = thread.join();
        }
    }
}

/// A device inside a namespace, with an address and the way to everywhere.
fn device(namespace: &Namespace, address: Ipv4Addr, mtu: u16) -> anyhow::Result<SyncDevice> {
    let device = namespace.within(|| -> anyhow::Result<SyncDevice> {
        std::fs::write(format!("/proc/sys/{NO_IPV6}"), "1")?;
        let device = DeviceBuilder::new()
            .name(DEVICE)
            .inherit_enable_state()
            .build_sync()?;
        device.set_nonblocking(true)?;
        Ok(device)
    })?;
    let device = device.with_context(|| format!("cannot make a device in {}", namespace.name()))?;
    let mtu = mtu.to_string();
    namespace.ip(&["link", "set", "lo", "up"])?;
    namespace.ip(&["addr", "add", &format!("{address}/32"), "dev", DEVICE])?;
    namespace.ip(&[
        "link",
        "set",
        DEVICE,
        "mtu",
        &mtu,
        "txqueuelen",
        DEVICE_PACKETS,
        "up",
    ])?;
    namespace.ip(&["route", "add", "default", "dev", DEVICE])?;
    Ok(device)
}

/// Starts the thread that takes what one end sends.
fn take(
    link: &Arc<Link<()>>,
    device: &Arc<SyncDevice>,
    way: fn(&Link<()>) -> &Way<()>,
) -> JoinHandle<()> {
    let (link, device) = (link.clone(), device.clone());
    std::thread::spawn(move || {
        let stop_check = Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        while !link.course.ended() {
            // Whether there is a packet or the time is over, the next lines find out.
            let _ = poll(
                &mut [PollFd::new(&*device, PollFlags::IN)],
                Some(&stop_check),
            );
            while let Ok(length) = device.recv(&mut buffer) {
                let bytes = buffer[..length].to_vec();
                way(&link).offer(&link.course, Packet { bytes, to: () });
            }
        }
    })
}

/// Starts the thread that gives the other end what has crossed.
fn hand_on(
    link: &Arc<Link<()>>,
    flights: Flights<()>,
    device: Arc<SyncDevice>,
    way: fn(&Link<()>) -> &Way<()>,
) -> JoinHandle<()> {
    let link = link.clone();
    std::thread::spawn(move || {
        way(&link).release(&link.course, &flights, |packet| {
            // What the kernel does not want, such as a spoilt header, is lost.
            let _ = device.send(&packet.bytes);
        });
    })
}

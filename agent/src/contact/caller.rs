//! Calls over one uplink or another; which road of it is taken is the transport's affair.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use identity::StorePublicKey;
use sync_quic::{
    Control, Hint, HubAddress, Link, LinkProfile, Local, Road, Roads, RoadsConfig, TlsPorts,
    Traffic,
};

use crate::config::{LinkConfig, ProfileName};
use crate::enrol;
use crate::membership::Membership;
use crate::uplink::{Meter, Uplink, Way};
use crate::vault::Vault;

/// Headers of IP before each packet.
const V4_HEADER: u64 = 20;
const V6_HEADER: u64 = 40;
/// Of UDP, and of TCP with its time stamps.
const UDP_HEADER: u64 = 8;
const TCP_HEADER: u64 = 32;

/// How the hub is called.
pub(super) struct Caller {
    membership: Arc<Membership>,
    store: StorePublicKey,
    config: LinkConfig,
    /// Both roads of each uplink that was called over, by its name.
    roads: BTreeMap<String, (Local, Arc<Roads>)>,
}

/// A hub that has answered, and over which uplink.
pub(super) struct Answered {
    pub(super) way: Box<Way>,
    pub(super) link: Link,
    hub: HubAddress,
    roads: Arc<Roads>,
}

impl Answered {
    /// Waits, perhaps for ever, for a better link by the other road of the same uplink.
    pub(super) async fn better(&self) -> Self {
        let profile = profile(&self.way);
        let link = self.roads.better(&self.link, self.hub, &profile).await;
        Self {
            way: self.way.clone(),
            link,
            hub: self.hub,
            roads: Arc::clone(&self.roads),
        }
    }
}

/// A call that nobody answered.
pub(super) struct Unanswered {
    pub(super) way: Box<Way>,
    pub(super) why: anyhow::Error,
}

/// What came of a call over a way.
type Answer = Result<Answered, Unanswered>;

/// A call under way, or none.
#[derive(Default)]
pub(super) struct Calling(Option<Pin<Box<dyn Future<Output = Answer> + Send>>>);

impl Calling {
    pub(super) const fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// What comes of the call; of none, nothing ever.
    pub(super) async fn answer(&mut self) -> Answer {
        let answer = match &mut self.0 {
            Some(calling) => calling.await,
            None => std::future::pending().await,
        };
        self.0 = None;
        answer
    }
}

impl Caller {
    pub(super) fn new(vault: &Vault, membership: Arc<Membership>, config: LinkConfig) -> Self {
        Self {
            membership,
            store: vault.keys().public_key(),
            config,
            roads: BTreeMap::new(),
        }
    }

    /// Calls the hub, after redeeming the voucher where that is still to be done.
    pub(super) fn call(&mut self, way: Box<Way>) -> Calling {
        let roads = self.roads(&way.uplink);
        let (membership, store) = (Arc::clone(&self.membership), self.store);
        let address = self.config.hub.clone();
        Calling(Some(Box::pin(async move {
            let called = async {
                let roads = roads?;
                let Some(hub) = membership.hub() else {
                    bail!("this box has no voucher yet");
                };
                let address = address.unwrap_or_else(|| hub.address.as_str().to_owned());
                if !membership.is_enrolled() {
                    enrol::redeem(&membership, &store, &roads, Some(&address)).await?;
                    tracing::info!("enrolled");
                }
                let hub = enrol::resolve(&address, hub.key).await?;
                let link = roads.call(hub, &profile(&way)).await?;
                Ok((link, hub, roads))
            };
            match called.await {
                Ok((link, hub, roads)) => Ok(Answered {
                    way,
                    link,
                    hub,
                    roads,
                }),
                Err(why) => Err(Unanswered { way, why }),
            }
        })))
    }

    /// Says goodbye on every uplink, on all of them at once.
    pub(super) async fn farewell(&self) {
        let mut goodbyes = tokio::task::JoinSet::new();
        for (_, roads) in self.roads.values() {
            let roads = Arc::clone(roads);
            goodbyes.spawn(async move { enrol::farewell(&roads).await });
        }
        goodbyes.join_all().await;
    }

    /// The roads of an uplink; other ones when the uplink starts from somewhere else now.
    fn roads(&mut self, uplink: &Uplink) -> anyhow::Result<Arc<Roads>> {
        if let Some((local, roads)) = self.roads.get(&uplink.name)
            && *local == uplink.local
        {
            return Ok(Arc::clone(roads));
        }
        let config = RoadsConfig {
            local: uplink.local.clone(),
            tls_ports: match self.config.tls_port {
                None => TlsPorts::Usual,
                Some(0) => TlsPorts::Closed,
                Some(port) => TlsPorts::One(port),
            },
            udp_retry: self.config.udp_retry.duration(),
        };
        let roads = Arc::new(Roads::bind(&config, &self.membership.key())?);
        let known = (config.local, Arc::clone(&roads));
        self.roads.insert(uplink.name.clone(), known);
        Ok(roads)
    }
}

/// What is known of a link before it is used.
fn profile(way: &Way) -> LinkProfile {
    let uplink = &way.uplink;
    let (control, rtt_expected_ms) = match uplink.profile {
        ProfileName::Satellite => (Control::LossTolerant, 700),
        ProfileName::Terrestrial => (Control::LossTolerant, 100),
        ProfileName::Shared => (Control::Shared, 100),
    };
    let seen = u32::try_from(way.rate_kbits).ok().filter(|rate| *rate > 0);
    LinkProfile {
        control,
        rtt_expected: Duration::from_millis(rtt_expected_ms),
        rate_kbits_max: (uplink.rate_kbit > 0).then_some(uplink.rate_kbit),
        hint: seen.map(|rate_kbits| Hint {
            rate_kbits,
            rtt: Duration::from_millis(way.rtt_ms),
            age: Duration::from_millis(way.age_ms),
        }),
        metered: uplink.metered,
        segmentation_offload: uplink.segmentation_offload,
        ..LinkProfile::default()
    }
}

/// What a link's operator counts: the packets with their headers.
pub(super) fn meter(link: &Link, traffic: &Traffic) -> Meter {
    let headers = headers(link.road(), link.remote_address());
    Meter {
        sent: traffic.bytes_sent + traffic.datagrams_sent * headers,
        received: traffic.bytes_received + traffic.datagrams_received * headers,
    }
}

fn headers(road: Road, hub: SocketAddr) -> u64 {
    let below = match hub.ip() {
        IpAddr::V4(Ipv4Addr { .. }) => V4_HEADER,
        IpAddr::V6(Ipv6Addr { .. }) => V6_HEADER,
    };
    let above = match road {
        Road::Quic => UDP_HEADER,
        Road::Tls => TCP_HEADER,
    };
    below + above
}

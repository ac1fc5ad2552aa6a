//! Where calls leave from: any uplink, one network interface, or one address of this machine.
//!
//! In: the operator's choice. Out: sockets that keep to it, UDP and TCP alike.
//! Invariant: a socket that was asked to keep to an uplink never leaves by another one.
//! May not: choose.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::TcpSocket;

/// The kernel's word for an interface that does not exist.
const ENODEV: i32 = 19;

/// Where calls leave from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Local {
    /// Wherever the routing table says.
    #[default]
    Any,
    /// From this address of ours.
    Source(IpAddr),
    /// By this network interface, whatever the routing table says.
    Interface(String),
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any uplink"),
            Self::Source(address) => write!(f, "{address}"),
            Self::Interface(name) => write!(f, "the interface {name}"),
        }
    }
}

/// Says why no call can leave from there.
#[derive(Debug, Error)]
pub enum LocalError {
    /// No interface has this name, at the moment at least.
    #[error("there is no network interface {0}")]
    NoInterface(String),
    /// The kernel does not let this program choose an interface.
    #[error(
        "to call by the interface {0} this program needs the capability CAP_NET_RAW; \
         or name the uplink by its source address"
    )]
    NotAllowed(String),
    /// The address is not ours, or the kernel has no socket left.
    #[error("cannot call from {local}")]
    Socket {
        /// From where.
        local: Local,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

impl Local {
    /// A UDP socket that leaves from here.
    pub(crate) fn udp(&self) -> Result<UdpSocket, LocalError> {
        let address = self.address(Ipv4Addr::UNSPECIFIED.into());
        let bound = self.socket(address, Type::DGRAM, Protocol::UDP)?;
        bound.bind(&address.into()).map_err(self.failed())?;
        Ok(bound.into())
    }

    /// A TCP socket that calls `remote` from here.
    pub(crate) fn tcp(&self, remote: SocketAddr) -> Result<TcpSocket, LocalError> {
        let unspecified: IpAddr = match remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let address = self.address(unspecified);
        let socket = self.socket(address, Type::STREAM, Protocol::TCP)?;
        socket.bind(&address.into()).map_err(self.failed())?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }

    fn socket(
        &self,
        address: SocketAddr,
        kind: Type,
        protocol: Protocol,
    ) -> Result<Socket, LocalError> {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))
            .map_err(self.failed())?;
        socket.set_nonblocking(true).map_err(self.failed())?;
        if let Self::Interface(name) = self {
            socket
                .bind_device(Some(name.as_bytes()))
                .map_err(|source| {
                    if source.kind() == io::ErrorKind::PermissionDenied {
                        LocalError::NotAllowed(name.clone())
                    } else if source.raw_os_error() == Some(ENODEV) {
                        LocalError::NoInterface(name.clone())
                    } else {
                        self.failed()(source)
                    }
                })?;
        }
        Ok(socket)
    }

    fn address(&self, unspecified: IpAddr) -> SocketAddr {
        let ip = match self {
            Self::Source(address) => *address,
            Self::Any | Self::Interface(_) => unspecified,
        };
        SocketAddr::new(ip, 0)
    }

    pub(crate) fn failed(&self) -> impl Fn(io::Error) -> LocalError {
        move |source| LocalError::Socket {
            local: self.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_keep_to_their_source_and_errors_say_what_is_missing() {
        let here = Local::Source(Ipv4Addr::new(127, 0, 0, 2).into());
        let bound = here.udp().unwrap().local_addr().unwrap();
        assert_eq!(bound.ip(), Ipv4Addr::new(127, 0, 0, 2));
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let bound = here.tcp(remote).unwrap().local_addr().unwrap();
        assert_eq!(bound.ip(), Ipv4Addr::new(127, 0, 0, 2));

        // An address for documentation (RFC 5737) is nobody's.
        let error = Local::Source(Ipv4Addr::new(192, 0, 2, 1).into()).udp();
        assert!(matches!(error, Err(LocalError::Socket { .. })), "{error:?}");
        let error = Local::Interface("nosuchlink0".into()).udp().unwrap_err();
        // Which of the two depends on who asks.
        assert!(
            matches!(
                error,
                LocalError::NoInterface(_) | LocalError::NotAllowed(_)
            ),
            "{error}"
        );
    }
}

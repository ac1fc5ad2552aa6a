//! The other road: one TLS 1.3 connection over TCP, for networks that let no UDP through.
//!
//! In: a TCP connection. Out: the same with its peer proven, and on it what QUIC offers otherwise:
//! lanes with an order of urgency, a close with a code and a reason.
//! Invariant: the peer has proved its key before anything but the handshake crosses; little waits
//! in the kernel, so that what is urgent overtakes.
//! May not: choose between the roads.

mod line;
mod record;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsStream;

pub(crate) use self::line::{TcpLine, TcpReceiver, TcpSender};
use self::record::Record;
use crate::close::{self, Code, End};
use crate::link::Traffic;
use crate::profile::LinkProfile;

/// How much may wait in the kernel that has not left: what is more urgent waits behind it.
const UNSENT_BYTES_MAX: u32 = 8 << 10;
/// How long a goodbye may take to be written, and the peer to hang up after it.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long the side that calls waits for an acknowledgement: the kernel's own timers grow up to
/// two minutes, calling anew is quicker.
const SILENCE_OF_CALLER: Duration = Duration::from_secs(20);
/// What a segment carries, to estimate how many there were.
const SEGMENT_BYTES: u64 = 1400;

/// Sets the socket up: small frames leave at once, a dead peer is noticed.
pub(crate) fn prepare(stream: &TcpStream, called: bool, profile: &LinkProfile) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    let silence = match called {
        true => SILENCE_OF_CALLER.max(profile.rtt_expected * 10),
        false => profile.idle_timeout,
    };
    socket.set_tcp_user_timeout(Some(silence))?;
    if let Some(every) = profile.keep_alive {
        // Who pays for idle bytes hears nothing before the connection would be given up.
        let every = if profile.metered {
            profile.idle_timeout
        } else {
            every
        };
        let keep_alive = TcpKeepalive::new().with_time(every).with_interval(every);
        socket.set_tcp_keepalive(&keep_alive)?;
    }
    Ok(())
}

/// TLS on a connection that counts; it is large, and moves.
pub(crate) type Stream = Box<TlsStream<Counted>>;

/// A TLS connection whose peer is proven.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(crate) stream: Stream,
    pub(crate) remote: SocketAddr,
    pub(crate) counts: Arc<Counts>,
    /// Turns true when the program stops; as long as a receiver lives, so does a connection.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Secured {
    /// Sends one message, as long as it is.
    pub(crate) async fn say(&mut self, message: &[u8]) -> io::Result<()> {
        record::write(&mut self.stream, message).await
    }

    /// Waits for one message of at most `bytes_max`.
    pub(crate) async fn hear(&mut self, bytes_max: usize) -> Result<Vec<u8>, End> {
        match record::read(&mut self.stream, bytes_max).await? {
            Record::Body(message) => Ok(message),
            Record::Close(end) => Err(end),
        }
    }

    /// Closes with a code and a reason, and waits a little until the peer has hung up too.
    pub(crate) async fn part(mut self, code: Code, reason: &str) {
        let farewell = async {
            record::write_close(&mut self.stream, code, reason).await?;
            self.stream.shutdown().await?;
            drain(&mut self.stream).await
        };
        // Who does not listen to the end does not hear why.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}

/// Reads what still comes: to close a socket over unread bytes would take back what was written.
async fn drain(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Why a connection ended, from what the kernel or TLS says.
pub(crate) fn end_of(error: &io::Error) -> End {
    let cut = [
        io::ErrorKind::UnexpectedEof,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::BrokenPipe,
    ];
    if cut.contains(&error.kind()) {
        End::PeerStopped
    } else if error.kind() == io::ErrorKind::TimedOut {
        End::TimedOut
    } else {
        End::Broken(close::plain(error.to_string().as_bytes()))
    }
}

/// What has crossed a connection.
#[derive(Debug)]
pub(crate) struct Counts {
    began: Instant,
    /// When something was last heard, in milliseconds from the beginning.
    heard_ms: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    /// The round trip of the handshake, in milliseconds; 0 at the side that was called.
    rtt_ms: AtomicU64,
    rate_kbits: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            began: Instant::now(),
            heard_ms: zero(),
            sent: zero(),
            received: zero(),
            rtt_ms: zero(),
            rate_kbits: zero(),
        }
    }
}

impl Counts {
    /// How long nothing has been heard.
    pub(crate) fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(heard)
    }

    fn heard(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(crate) fn note_round_trip(&self, took: Duration) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.rtt_ms.store(took_ms, Ordering::Relaxed);
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let sent = self.sent.load(Ordering::Relaxed);
        let received = self.received.load(Ordering::Relaxed);
        // Every other segment is acknowledged.
        let segments = |out: u64, back: u64| {
            out.div_ceil(SEGMENT_BYTES) + back.div_ceil(SEGMENT_BYTES).div_ceil(2)
        };
        Traffic {
            bytes_sent: sent,
            bytes_received: received,
            datagrams_sent: segments(sent, received),
            datagrams_received: segments(received, sent),
            bytes_lost: 0,
            rtt_ms: self.rtt_ms.load(Ordering::Relaxed),
            rate_kbits: self.rate_kbits.load(Ordering::Relaxed),
        }
    }
}

/// A TCP connection that counts.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) stream: TcpStream,
    pub(crate) counts: Arc<Counts>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = (buffer.filled().len() - before) as u64;
        self.counts.heard(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.counts
            .sent
            .fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

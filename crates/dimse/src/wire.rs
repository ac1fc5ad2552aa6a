//! PDUs on a TCP connection (PS3.8 9.3), for both roles.
//!
//! P-DATA-TF is read value by value straight into its place, so that a PDU's length claims no memory.
//! Everything else is read whole, within a small limit, and left to dicom-ul's codec.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use dicom_ul::Pdu;
use dicom_ul::pdu::{AbortRQServiceProviderReason, AbortRQSource, MAXIMUM_PDU_SIZE, read_pdu};
use socket2::SockRef;
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf,
};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::command::{COMMAND_BYTES_MAX, CommandSet};

/// P-DATA-TF up to this length is read, whatever was announced: some scanners count their PDUs wrongly.
const PDATA_BYTES_MAX: usize = 16 << 20;
/// 128 presentation contexts with every transfer syntax of PS3.6 each take half of this.
const ASSOCIATE_BYTES_MAX: usize = 1 << 20;
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// How much of a P-DATA-TF is header when it has one value: of the PDU, and of the value.
const PDU_HEADER_BYTES: usize = 6;
const PDV_HEADER_BYTES: usize = 6;
/// Where no maximum is known, P-DATA-TF of ours are this long.
const PDATA_BYTES_DEFAULT: usize = 131_072;
/// Less than this can't carry a message in reasonable time; a peer that claims it gets this much.
const PDATA_BYTES_MIN: usize = 64;
/// How long a closing connection is read on, so that our last PDU isn't lost to a reset.
const LINGER: Duration = Duration::from_secs(2);

/// Why a connection can't go on.
#[derive(Debug)]
pub(crate) enum WireFault {
    /// It was closed, reset, or never answered.
    Lost(io::Error),
    /// It was silent for too long; says when.
    TimedOut(&'static str),
    /// The peer sent an A-ABORT.
    Aborted,
    /// The peer broke the protocol.
    Breach(Breach),
}

/// How the peer broke the protocol: for the A-ABORT, and in plain words.
#[derive(Debug)]
pub(crate) struct Breach {
    pub(crate) reason: AbortRQServiceProviderReason,
    pub(crate) text: &'static str,
}

/// A PDU that has a meaning on an open association.
#[derive(Debug)]
pub(crate) enum Received {
    /// The header of a presentation data value; its bytes are to be taken or are skipped.
    Value(Value),
    /// A-RELEASE-RQ.
    ReleaseRequest,
    /// A-RELEASE-RP.
    ReleaseReply,
}

/// The header of a presentation data value (PS3.8 9.3.5.1, E.2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value {
    pub(crate) context: u8,
    pub(crate) is_command: bool,
    pub(crate) is_last: bool,
}

/// Timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    pub(crate) read: Duration,
    pub(crate) write: Duration,
}

/// A connection that carries PDUs.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: BufReader<QuickAcked>,
    timeouts: Timeouts,
    /// Until when the PDU that is being read must be complete.
    deadline: Instant,
    /// What of the current P-DATA-TF hasn't been read, the rest of the current value left out.
    pdu_rest: usize,
    /// What of the current value hasn't been read.
    value_rest: usize,
}

impl Wire {
    /// Takes a connected socket.
    pub(crate) fn new(stream: TcpStream, timeouts: Timeouts) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(READ_BUFFER_BYTES, QuickAcked(stream)),
            timeouts,
            deadline: Instant::now(),
            pdu_rest: 0,
            value_rest: 0,
        })
    }

    /// Reads the first PDU of a connection, or the answer to it; it must be complete within `wait`.
    pub(crate) async fn associate_pdu(
        &mut self,
        wait: Duration,
        what: &'static str,
    ) -> Result<Pdu, WireFault> {
        self.deadline = Instant::now() + wait;
        let (kind, length) = self.header(what).await?;
        match kind {
            0x01..=0x03 | 0x07 if length <= ASSOCIATE_BYTES_MAX => {}
            0x01..=0x03 => return Err(breach::invalid("an A-ASSOCIATE PDU of absurd length")),
            0x04..=0x07 => return Err(breach::unexpected("a PDU before the association")),
            0x16 => {
                return Err(breach::unrecognized(
                    "a TLS handshake on a port without TLS",
                ));
            }
            _ => return Err(breach::unrecognized("bytes that are no DICOM PDU")),
        }
        let length_field = u32::try_from(length)
            .expect("it came as 32 bits")
            .to_be_bytes();
        let mut bytes = vec![kind, 0];
        bytes.extend_from_slice(&length_field);
        self.append(length, &mut bytes, what).await?;
        match read_pdu(bytes.as_slice(), MAXIMUM_PDU_SIZE, false) {
            Ok(Some(Pdu::AbortRQ { .. })) => Err(WireFault::Aborted),
            Ok(Some(pdu)) => Ok(pdu),
            Ok(None) | Err(_) => Err(breach::invalid("an A-ASSOCIATE PDU that cannot be read")),
        }
    }

    /// Waits until the next PDU, or value of one, begins to come; may be given up at any time.
    ///
    /// That the connection has ended counts as coming: [`Wire::receive`] says so.
    pub(crate) async fn coming(
        &mut self,
        wait: Duration,
        what: &'static str,
    ) -> Result<(), WireFault> {
        if self.pdu_rest > 0 {
            return Ok(());
        }
        match timeout(wait, self.stream.fill_buf()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(WireFault::Lost(error)),
            Err(_) => Err(WireFault::TimedOut(what)),
        }
    }

    /// Says without waiting whether something has come.
    pub(crate) fn has_come(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let socket = SockRef::from(&self.stream.get_ref().0);
        self.pdu_rest > 0 || !self.stream.buffer().is_empty() || socket.peek(&mut byte).is_ok()
    }

    /// Reads to the next presentation data value or release; skips what is left of the value before.
    ///
    /// Only the wait for the beginning of a PDU is `wait`; its rest has the read timeout.
    pub(crate) async fn receive(
        &mut self,
        wait: Duration,
        what: &'static str,
    ) -> Result<Received, WireFault> {
        self.skip_value().await?;
        if self.pdu_rest == 0 {
            self.deadline = Instant::now() + wait;
            let (kind, length) = self.header(what).await?;
            self.restart_deadline();
            match kind {
                0x04 if length > PDATA_BYTES_MAX => {
                    return Err(breach::invalid("a P-DATA-TF of absurd length"));
                }
                0x04 if length == 0 => return Err(breach::invalid("a P-DATA-TF without values")),
                0x04 => self.pdu_rest = length,
                0x05..=0x07 => return self.release_or_abort(kind, length).await,
                0x01..=0x03 => {
                    return Err(breach::unexpected(
                        "an A-ASSOCIATE PDU on an open association",
                    ));
                }
                _ => return Err(breach::unrecognized("bytes that are no DICOM PDU")),
            }
        }
        self.value().await.map(Received::Value)
    }

    async fn release_or_abort(&mut self, kind: u8, length: usize) -> Result<Received, WireFault> {
        if length != 4 {
            return Err(breach::invalid("a release or abort of the wrong length"));
        }
        self.append(length, &mut Vec::with_capacity(length), "rest of a PDU")
            .await?;
        match kind {
            0x05 => Ok(Received::ReleaseRequest),
            0x06 => Ok(Received::ReleaseReply),
            _ => Err(WireFault::Aborted),
        }
    }

    async fn value(&mut self) -> Result<Value, WireFault> {
        let mut header = [0; PDV_HEADER_BYTES];
        if self.pdu_rest < header.len() {
            return Err(breach::invalid(
                "a presentation data value without a header",
            ));
        }
        self.exact(&mut header, "rest of a PDU").await?;
        self.pdu_rest -= header.len();
        let [l0, l1, l2, l3, context, control] = header;
        // The length counts context ID and control header, which have been read.
        let rest = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let Some(rest) = rest.checked_sub(2).filter(|rest| *rest <= self.pdu_rest) else {
            return Err(breach::invalid(
                "a presentation data value longer than its PDU",
            ));
        };
        self.pdu_rest -= rest;
        self.value_rest = rest;
        Ok(Value {
            context,
            is_command: control & 1 != 0,
            is_last: control & 2 != 0,
        })
    }

    /// How many bytes of the current value haven't been taken.
    pub(crate) const fn value_rest(&self) -> usize {
        self.value_rest
    }

    /// Appends the next `bytes` of the current value.
    pub(crate) async fn take(&mut self, bytes: usize, into: &mut Vec<u8>) -> Result<(), WireFault> {
        debug_assert!(bytes <= self.value_rest, "more than the value has");
        self.append(bytes, into, "rest of a PDU").await?;
        self.value_rest -= bytes;
        Ok(())
    }

    /// Reads past what is left of the current value.
    pub(crate) async fn skip_value(&mut self) -> Result<(), WireFault> {
        let mut scratch = [0; 4096];
        while self.value_rest > 0 {
            let step = self.value_rest.min(scratch.len());
            self.exact(&mut scratch[..step], "rest of a PDU").await?;
            self.value_rest -= step;
        }
        Ok(())
    }

    /// Collects the values of a command, of which the first has come.
    pub(crate) async fn command(
        &mut self,
        first: Value,
        wait: Duration,
    ) -> Result<CommandSet, WireFault> {
        let mut bytes = Vec::new();
        let mut value = first;
        loop {
            if !value.is_command {
                return Err(breach::invalid("a data set where a command belongs"));
            }
            if value.context != first.context {
                return Err(breach::invalid(
                    "a command that changes its presentation context",
                ));
            }
            if bytes.len() + self.value_rest > COMMAND_BYTES_MAX {
                return Err(breach::invalid("a command of absurd length"));
            }
            self.take(self.value_rest, &mut bytes).await?;
            if value.is_last {
                let invalid = |_| breach::invalid("a command set that cannot be read");
                return CommandSet::parse(&bytes).map_err(invalid);
            }
            value = match self.receive(wait, "the rest of a command").await? {
                Received::Value(value) => value,
                Received::ReleaseRequest | Received::ReleaseReply => {
                    return Err(breach::unexpected("a release within a message"));
                }
            };
        }
    }

    /// Gives the current PDU its time anew, after we let the peer wait.
    pub(crate) fn restart_deadline(&mut self) {
        self.deadline = Instant::now() + self.timeouts.read;
    }

    /// Sends a PDU other than P-DATA-TF.
    pub(crate) async fn send_pdu(&mut self, pdu: &Pdu) -> Result<(), WireFault> {
        let mut bytes = Vec::new();
        dicom_ul::write_pdu(&mut bytes, pdu)
            .map_err(|_| WireFault::Lost(io::Error::from(io::ErrorKind::InvalidInput)))?;
        self.send(&bytes).await
    }

    /// Sends a command or a data set, cut into PDUs that the peer takes (its maximum length; 0 is none).
    pub(crate) async fn send_message(
        &mut self,
        context: u8,
        is_command: bool,
        message: &[u8],
        peer_max: u32,
    ) -> Result<(), WireFault> {
        let pdata_max = match usize::try_from(peer_max).unwrap_or(usize::MAX) {
            0 => PDATA_BYTES_DEFAULT,
            max => max.clamp(PDATA_BYTES_MIN, PDATA_BYTES_DEFAULT),
        };
        // Some peers insist on fragments of even length.
        let fragment_max = (pdata_max - PDV_HEADER_BYTES) & !1;
        let mut rest = message;
        loop {
            let (fragment, after) = rest.split_at(rest.len().min(fragment_max));
            rest = after;
            let control = u8::from(is_command) | u8::from(rest.is_empty()) << 1;
            self.send(&pdata(context, control, fragment)).await?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Sends an A-ABORT, if the peer still takes it.
    pub(crate) async fn abort(&mut self, source: AbortRQSource) {
        // The association is over either way.
        let _ = self.send_pdu(&Pdu::AbortRQ { source }).await;
    }

    /// Ends the connection after our last PDU, giving the peer time to read it (PS3.8 9.2, state 13).
    pub(crate) async fn close(mut self) {
        let rest = async {
            self.stream.get_mut().shutdown().await?;
            let mut scratch = vec![0; READ_BUFFER_BYTES];
            while self.stream.read(&mut scratch).await? > 0 {}
            io::Result::Ok(())
        };
        // Whether the peer closed, broke off or is silent, there is nothing left to do.
        let _ = timeout(LINGER, rest).await;
    }

    async fn header(&mut self, what: &'static str) -> Result<(u8, usize), WireFault> {
        let mut header = [0; PDU_HEADER_BYTES];
        self.exact(&mut header, what).await?;
        let [kind, _, l0, l1, l2, l3] = header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        Ok((kind, usize::try_from(length).unwrap_or(usize::MAX)))
    }

    async fn exact(&mut self, into: &mut [u8], what: &'static str) -> Result<(), WireFault> {
        match timeout_at(self.deadline, self.stream.read_exact(into)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(WireFault::Lost(error)),
            Err(_) => Err(WireFault::TimedOut(what)),
        }
    }

    /// Appends exactly `bytes`; memory grows with what arrives, not with what was claimed.
    async fn append(
        &mut self,
        bytes: usize,
        into: &mut Vec<u8>,
        what: &'static str,
    ) -> Result<(), WireFault> {
        let mut limited = (&mut self.stream).take(u64::try_from(bytes).unwrap_or(u64::MAX));
        let end = into.len() + bytes;
        let all = async {
            while into.len() < end {
                if limited.read_buf(into).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
            }
            Ok(())
        };
        match timeout_at(self.deadline, all).await {
            Ok(result) => result.map_err(WireFault::Lost),
            Err(_) => Err(WireFault::TimedOut(what)),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), WireFault> {
        match timeout(self.timeouts.write, self.stream.get_mut().write_all(bytes)).await {
            Ok(result) => result.map_err(WireFault::Lost),
            Err(_) => Err(WireFault::TimedOut("a PDU to be taken")),
        }
    }
}

/// A P-DATA-TF with one value.
fn pdata(context: u8, control: u8, fragment: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| {
        u32::try_from(bytes)
            .expect("fragments are short")
            .to_be_bytes()
    };
    let mut pdu = Vec::with_capacity(PDU_HEADER_BYTES + PDV_HEADER_BYTES + fragment.len());
    pdu.extend_from_slice(&[0x04, 0]);
    pdu.extend_from_slice(&length(PDV_HEADER_BYTES + fragment.len()));
    pdu.extend_from_slice(&length(2 + fragment.len()));
    pdu.extend_from_slice(&[context, control]);
    pdu.extend_from_slice(fragment);
    pdu
}

/// Breaches by the reason that an A-ABORT gives for them (PS3.8 table 9-26).
pub(crate) mod breach {
    use super::{AbortRQServiceProviderReason as Reason, Breach, WireFault};

    pub(crate) const fn invalid(text: &'static str) -> WireFault {
        WireFault::Breach(Breach {
            reason: Reason::InvalidPduParameter,
            text,
        })
    }

    pub(crate) const fn unexpected(text: &'static str) -> WireFault {
        WireFault::Breach(Breach {
            reason: Reason::UnexpectedPdu,
            text,
        })
    }

    pub(crate) const fn unrecognized(text: &'static str) -> WireFault {
        WireFault::Breach(Breach {
            reason: Reason::UnrecognizedPdu,
            text,
        })
    }
}

/// A socket that acknowledges at once what it has received.
///
/// Scanners that leave Nagle's algorithm on wait for the acknowledgement before they send the short rest
/// of a message; the system's delayed acknowledgement would cost 40 ms for each. The option isn't
/// permanent (tcp(7)), so it is set before each receive.
#[derive(Debug)]
struct QuickAcked(TcpStream);

impl AsyncRead for QuickAcked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // It is only about speed: a system that refuses it is slower, not wrong.
        let _ = SockRef::from(&self.0).set_tcp_quickack(true);
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for QuickAcked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

//! Frames on streams: how the bytes of one follow those of another.
//!
//! In: frames; what a lane delivers. Out: the same the other way round.
//! Invariant: a frame is a length of four bytes, big-endian, then so many bytes of CBOR; a length
//! over the limit is refused before anything is allocated for it.
//! May not: look into a frame.

use bytes::Bytes;
use quinn::{ReadError, ReadExactError, RecvStream};
use sync_proto::{FRAME_BYTES_MAX, Frame, PeerFault};

use crate::close::chain;
use crate::line::LaneReceiver;

/// How a stream ended, or what was wrong on it.
#[derive(Debug)]
pub(super) enum ReadEnd {
    /// The peer finished or gave up the stream, or the connection is gone.
    Over,
    /// The peer broke the protocol.
    Fault(String),
}

/// The bytes of one frame on a stream.
pub(super) fn encode(frame: &Frame) -> Bytes {
    let body = frame.encode();
    let length = u32::try_from(body.len()).expect("a frame has at most 320 KiB");
    [&length.to_be_bytes()[..], &body].concat().into()
}

/// Reads the next frame.
pub(super) async fn read(lane: &mut LaneReceiver) -> Result<Frame, ReadEnd> {
    match lane {
        LaneReceiver::Quic(stream) => read_stream(stream).await,
        LaneReceiver::Tcp(frames) => match frames.recv().await {
            Some(frame) => frame.map_err(ReadEnd::Fault),
            None => Err(ReadEnd::Over),
        },
    }
}

async fn read_stream(stream: &mut RecvStream) -> Result<Frame, ReadEnd> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Err(ReadEnd::Over),
        Err(error) => return Err(broken(&error)),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        let fault = PeerFault::Frame(sync_proto::FrameError::TooLong(length));
        return Err(ReadEnd::Fault(chain(&fault)));
    }
    let mut body = vec![0; length];
    stream
        .read_exact(&mut body)
        .await
        .map_err(|error| broken(&error))?;
    Frame::decode(&body).map_err(|error| ReadEnd::Fault(chain(&PeerFault::Frame(error))))
}

fn broken(error: &ReadExactError) -> ReadEnd {
    match error {
        ReadExactError::FinishedEarly(_) => {
            ReadEnd::Fault("a stream of the peer ended inside a frame".into())
        }
        // A reset stream is a withdrawn item; a lost connection is told elsewhere.
        ReadExactError::ReadError(
            ReadError::Reset(_)
            | ReadError::ConnectionLost(_)
            | ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected,
        ) => ReadEnd::Over,
    }
}

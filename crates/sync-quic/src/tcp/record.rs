//! What follows what on a TLS connection: messages with their length before them, and the close.
//!
//! In: bytes. Out: messages, or why the peer closes.
//! Invariant: a length over the limit is refused before anything is allocated for it.
//! May not: look into a message.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::close::{self, Code, End};

/// The length that no message has: a close follows.
const CLOSE: [u8; 4] = [0; 4];

/// One thing that the peer says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A message.
    Body(Vec<u8>),
    /// Goodbye.
    Close(End),
}

/// Reads the next one; an error is the end of the connection, whoever is to blame.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<Record, End> {
    let broken = |error: io::Error| super::end_of(&error);
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.map_err(broken)?;
    if length == CLOSE {
        let code = stream.read_u8().await.map_err(broken)?;
        let mut reason = vec![0; stream.read_u8().await.map_err(broken)?.into()];
        stream.read_exact(&mut reason).await.map_err(broken)?;
        return Ok(Record::Close(End::of_code(code.into(), &reason)));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > bytes_max {
        let fault = format!("the peer sent a message of {length} bytes, allowed are {bytes_max}");
        return Err(End::PeerFault(fault));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(broken)?;
    Ok(Record::Body(body))
}

/// Writes a message with its length before it.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(message).await?;
    stream.flush().await
}

/// Writes a goodbye.
pub(super) async fn write_close(
    stream: &mut (impl AsyncWrite + Unpin),
    code: Code,
    reason: &str,
) -> io::Result<()> {
    let reason = close::cut(reason);
    let length = u8::try_from(reason.len()).map_err(io::Error::other)?;
    let head = [&CLOSE[..], &[code as u8, length]].concat();
    stream.write_all(&[&head, reason].concat()).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_and_a_close_come_out_as_they_went_in() {
        let mut wire = Vec::new();
        write(&mut wire, b"one").await.unwrap();
        write_close(&mut wire, Code::Refused, "not in the fleet")
            .await
            .unwrap();
        assert_eq!(
            wire,
            b"\0\0\0\x03one\0\0\0\0\x01\x10not in the fleet".as_slice()
        );
        let mut read_from = wire.as_slice();
        let one = read(&mut read_from, 3).await;
        assert_eq!(one, Ok(Record::Body(b"one".to_vec())));
        let close = read(&mut read_from, 3).await;
        let end = End::Refused("not in the fleet".into());
        assert_eq!(close, Ok(Record::Close(end)));
        // A connection that ends here ended without a word.
        assert_eq!(read(&mut read_from, 3).await, Err(End::PeerStopped));
    }

    #[tokio::test]
    async fn a_length_over_the_limit_is_refused_unread() {
        let mut hostile = [0xff; 8].as_slice();
        let end = read(&mut hostile, 327_680).await;
        assert!(matches!(end, Err(End::PeerFault(_))), "{end:?}");
        assert_eq!(hostile.len(), 4);
        let mut unknown = [0, 0, 0, 0, 99, 0].as_slice();
        let end = read(&mut unknown, 1).await.unwrap();
        assert!(matches!(end, Record::Close(End::Broken(_))), "{end:?}");
    }
}

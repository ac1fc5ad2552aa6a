//! The command's side.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::ControlError;
use crate::reply::{Head, Reply};
use crate::{HEAD_BYTES_MAX, REQUEST_BYTES_MAX, SOCKET};

/// Asks the program that works in `folder` and waits for its reply, however long it takes; `None`: nobody listens.
pub fn ask(folder: &Path, request: &Value) -> Result<Option<Reply>, ControlError> {
    let request = request.to_string();
    let bytes = u32::try_from(request.len())
        .ok()
        .filter(|_| request.len() <= REQUEST_BYTES_MAX);
    let bytes = bytes.ok_or(ControlError::RequestTooLong(request.len()))?;

    let handle = File::open(folder).map_err(ControlError::io("open", folder))?;
    let mut stream = match UnixStream::connect(within(&handle, SOCKET)) {
        Ok(stream) => stream,
        Err(error) if nobody_listens(&error) => return Ok(None),
        Err(error) => return Err(failed("connect to", folder)(error)),
    };
    let message = [bytes.to_be_bytes().as_slice(), request.as_bytes()].concat();
    stream
        .write_all(&message)
        .map_err(failed("write to", folder))?;
    read_reply(&mut stream, folder).map(Some)
}

/// A path to a name in an open folder that is short however deep the folder is: a socket's path has room for 107 bytes.
pub(crate) fn within(folder: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

fn nobody_listens(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn failed(action: &'static str, folder: &Path) -> impl Fn(io::Error) -> ControlError {
    let socket = folder.join(SOCKET);
    move |error| {
        if is_cut(&error) {
            ControlError::Cut
        } else {
            ControlError::io(action, &socket)(error)
        }
    }
}

fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn read_reply(stream: &mut impl Read, folder: &Path) -> Result<Reply, ControlError> {
    let failed = failed("read from", folder);
    let mut length = [0; 4];
    stream.read_exact(&mut length).map_err(&failed)?;
    let length = u32::from_be_bytes(length);
    if u64::from(length) > HEAD_BYTES_MAX as u64 {
        return Err(ControlError::ReplyTooLong);
    }
    let head = read_all(stream, length.into()).map_err(&failed)?;
    let head: Head = serde_json::from_slice(&head).map_err(ControlError::NotAReply)?;
    let body = read_all(stream, head.body_bytes).map_err(&failed)?;
    Ok(Reply {
        exit: head.exit,
        output: head.output,
        error: head.error,
        body,
    })
}

/// Reads so many bytes; takes memory as they come, not as they are announced.
fn read_all(stream: &mut impl Read, bytes: u64) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    stream.take(bytes).read_to_end(&mut read)?;
    if read.len() as u64 == bytes {
        Ok(read)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

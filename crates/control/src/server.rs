//! The program's side.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::geteuid;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::ask::within;
use crate::error::ControlError;
use crate::reply::{Head, Reply};
use crate::{REQUEST_BYTES_MAX, SOCKET};

const CLIENTS_MAX: usize = 64;
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);
const WRITE_WAIT_MAX: Duration = Duration::from_secs(30);
const WRITE_BYTES: usize = 1 << 20;
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

const EXIT_USAGE: u8 = 64;
const EXIT_INTERNAL: u8 = 70;

/// Listens in a folder.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
}

impl Server {
    /// Listens at `control.sock` in `folder`, in the place of whatever a crash left there.
    ///
    /// The caller holds the folder's [`FolderLock`](crate::FolderLock) and is within a tokio runtime.
    pub fn bind(folder: &Path) -> Result<Self, ControlError> {
        let socket = folder.join(SOCKET);
        let failed = || ControlError::io("listen at", &socket);
        let handle = File::open(folder).map_err(ControlError::io("open", folder))?;
        // Made under another name: at its own, it is owner-only and listening from the first moment on.
        let fresh = within(&handle, "control.sock.new");
        // What is there is stale, as the lock is ours. It goes first: a full disk may have no inode
        // for two.
        for stale in [&fresh, &within(&handle, SOCKET)] {
            match fs::remove_file(stale) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed()(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let listener = UnixListener::bind(&fresh).map_err(failed())?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600)).map_err(failed())?;
        fs::rename(&fresh, within(&handle, SOCKET)).map_err(failed())?;
        Ok(Self { listener })
    }

    /// Gives each request to `handler` and its reply to the client, for ever; to end it, drop it.
    ///
    /// Clients are served side by side. Dropping it drops the handlers that still run.
    pub async fn serve<H, F>(self, handler: H)
    where
        H: Fn(Value) -> F + Send + Sync + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        let mut clients = JoinSet::new();
        loop {
            while clients.try_join_next().is_some() {}
            let place = Arc::clone(&places)
                .acquire_owned()
                .await
                .expect("nobody closes it");
            let Ok((stream, _)) = self.listener.accept().await else {
                // Out of file handles, most likely: they come back.
                sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            };
            let handler = Arc::clone(&handler);
            clients.spawn(async move {
                let _place = place;
                // A client that has gone or misbehaves has nobody to be told to.
                let _ = serve_client(stream, handler.as_ref()).await;
            });
        }
    }
}

async fn serve_client<H, F>(mut stream: UnixStream, handler: &H) -> io::Result<()>
where
    H: Fn(Value) -> F,
    F: Future<Output = Reply>,
{
    let client = stream.peer_cred()?.uid();
    if client != 0 && client != geteuid().as_raw() {
        return Ok(());
    }
    let reply = match timeout(REQUEST_WAIT_MAX, read_request(&mut stream)).await?? {
        Ok(request) => handler(request).await,
        Err(refusal) => Reply::failed(EXIT_USAGE, refusal),
    };
    write_reply(&mut stream, reply).await
}

/// The inner error is what the client is told.
async fn read_request(stream: &mut UnixStream) -> io::Result<Result<Value, &'static str>> {
    let bytes = stream.read_u32().await?;
    if u64::from(bytes) > REQUEST_BYTES_MAX as u64 {
        return Ok(Err("the request is too long"));
    }
    let mut request = Vec::new();
    stream.take(bytes.into()).read_to_end(&mut request).await?;
    Ok(serde_json::from_slice(&request).map_err(|_| "the request is not JSON"))
}

async fn write_reply(stream: &mut UnixStream, reply: Reply) -> io::Result<()> {
    let Reply {
        exit,
        output,
        error,
        body,
    } = reply;
    let head = encode(&Head {
        exit,
        output,
        error,
        body_bytes: body.len() as u64,
    });
    match head {
        Some(head) => {
            write(stream, &head).await?;
            write(stream, &body).await
        }
        None => {
            let error = Some("the reply is too long".to_owned());
            let head = encode(&Head {
                exit: EXIT_INTERNAL,
                output: Value::Null,
                error,
                body_bytes: 0,
            });
            write(stream, &head.expect("a short text is not too long")).await
        }
    }
}

fn encode(head: &Head) -> Option<Vec<u8>> {
    let json = serde_json::to_vec(head)
        .ok()
        .filter(|json| json.len() <= crate::HEAD_BYTES_MAX)?;
    let bytes = u32::try_from(json.len()).ok()?;
    Some([bytes.to_be_bytes().as_slice(), &json].concat())
}

async fn write(stream: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
    for block in bytes.chunks(WRITE_BYTES) {
        timeout(WRITE_WAIT_MAX, stream.write_all(block)).await??;
    }
    Ok(())
}

//! Tests through the public face, over real sockets.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{ControlError, FolderLock, LockError, REQUEST_BYTES_MAX, Reply, Server, ask};

/// Serves `folder` for as long as it is kept; replies with what it was asked, and the request as the body.
fn serve(folder: &Path) -> Runtime {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(async { Server::bind(folder) }).unwrap();
    runtime.spawn(server.serve(|request: Value| async move {
        if request["wait"] == "for ever" {
            std::future::pending::<()>().await;
        }
        if request["panic"] == true {
            panic!("on purpose");
        }
        let body = vec![7; usize::try_from(request["body"].as_u64().unwrap_or(0)).unwrap()];
        Reply {
            exit: 3,
            output: json!({"asked": request}),
            error: Some("so so".to_owned()),
            body,
        }
    }));
    runtime
}

fn assert_serves(folder: &Path) {
    let reply = ask(folder, &json!({"n": 1})).unwrap().unwrap();
    assert_eq!(
        (reply.exit, reply.output, reply.error.as_deref()),
        (3, json!({"asked": {"n": 1}}), Some("so so"))
    );
}

fn send(folder: &Path, bytes: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(folder.join("control.sock")).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

fn refusal(mut stream: UnixStream) -> String {
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    let head: Value = serde_json::from_slice(&reply[4..]).unwrap();
    assert_eq!(head["exit"], 64);
    head["error"].as_str().unwrap().to_owned()
}

#[test]
fn a_folder_is_held_by_one_until_it_lets_go() {
    let folder = tempfile::tempdir().unwrap();
    let held = FolderLock::take(folder.path()).unwrap();
    assert!(
        matches!(FolderLock::take(folder.path()), Err(LockError::Held(path)) if path == folder.path())
    );
    assert_eq!(
        std::fs::metadata(folder.path().join("lock"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    drop(held);
    FolderLock::take(folder.path()).unwrap();
    assert!(matches!(
        FolderLock::take(&folder.path().join("missing")),
        Err(LockError::Io { .. })
    ));
}

#[test]
fn a_request_gets_its_reply_with_a_large_body() {
    let folder = tempfile::tempdir().unwrap();
    let _running = serve(folder.path());
    assert_serves(folder.path());
    let reply = ask(folder.path(), &json!({"body": 5_000_000}))
        .unwrap()
        .unwrap();
    assert_eq!(reply.body, vec![7; 5_000_000]);
}

#[test]
fn the_socket_is_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let _running = serve(folder.path());
    let mode = std::fs::metadata(folder.path().join("control.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn nobody_listens_before_and_after() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(ask(folder.path(), &json!(1)).unwrap(), None);
    drop(serve(folder.path()));
    assert!(
        folder.path().join("control.sock").exists(),
        "a stale socket is what this is about"
    );
    assert_eq!(ask(folder.path(), &json!(1)).unwrap(), None);
    assert!(matches!(
        ask(&folder.path().join("missing"), &json!(1)),
        Err(ControlError::Io { .. })
    ));
}

#[test]
fn a_stale_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    for stale in ["control.sock", "control.sock.new"] {
        drop(UnixListener::bind(folder.path().join(stale)).unwrap());
    }
    let _running = serve(folder.path());
    assert_serves(folder.path());
}

#[test]
fn a_path_longer_than_a_socket_address_works() {
    let root = tempfile::tempdir().unwrap();
    let deep = (0..12).fold(root.path().to_owned(), |path: PathBuf, _| {
        path.join("a-folder-with-a-rather-long-name")
    });
    std::fs::create_dir_all(&deep).unwrap();
    assert!(deep.as_os_str().len() > 300);
    let _lock = FolderLock::take(&deep).unwrap();
    let _running = serve(&deep);
    assert_serves(&deep);
}

#[test]
fn garbage_and_lying_lengths_are_refused_and_others_served() {
    let folder = tempfile::tempdir().unwrap();
    let _running = serve(folder.path());
    assert_eq!(
        refusal(send(folder.path(), b"\xff\xff\xff\xff")),
        "the request is too long"
    );
    drop(send(folder.path(), b"GET / HTTP/1.1\r\n\r\n"));
    assert_eq!(
        refusal(send(folder.path(), b"\0\0\0\x03{{{")),
        "the request is not JSON"
    );
    let deep = [&20_000_u32.to_be_bytes()[..], &[b'['; 20_000]].concat();
    assert_eq!(
        refusal(send(folder.path(), &deep)),
        "the request is not JSON"
    );
    drop(send(folder.path(), b"\0\0"));
    drop(send(folder.path(), b"\0\0\0\x09tru"));
    assert_serves(folder.path());
}

#[test]
fn clients_that_hang_hold_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let _running = serve(folder.path());
    let _silent: Vec<_> = (0..8).map(|_| send(folder.path(), b"")).collect();
    let _half: Vec<_> = (0..8)
        .map(|_| send(folder.path(), b"\0\0\0\x20{\"n\""))
        .collect();
    let waiting = json!({"wait": "for ever"}).to_string();
    let waiting = [
        &u32::try_from(waiting.len()).unwrap().to_be_bytes()[..],
        waiting.as_bytes(),
    ]
    .concat();
    let _waiting: Vec<_> = (0..8).map(|_| send(folder.path(), &waiting)).collect();
    let large = json!({"body": 50_000_000}).to_string();
    let large = [
        &u32::try_from(large.len()).unwrap().to_be_bytes()[..],
        large.as_bytes(),
    ]
    .concat();
    let _unread = send(folder.path(), &large);
    assert_serves(folder.path());
}

#[test]
fn a_request_that_is_not_there_in_time_ends_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let reply = runtime.block_on(async {
        tokio::spawn(
            Server::bind(folder.path())
                .unwrap()
                .serve(|_| async { Reply::default() }),
        );
        let mut client = tokio::net::UnixStream::connect(folder.path().join("control.sock"))
            .await
            .unwrap();
        // Time is virtual: it goes on while nothing else does.
        let mut reply = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut client, &mut reply)
            .await
            .map(|_| reply)
    });
    assert_eq!(reply.unwrap(), b"");
}

#[test]
fn a_request_too_long_is_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let request = Value::String("x".repeat(REQUEST_BYTES_MAX));
    assert!(matches!(
        ask(folder.path(), &request),
        Err(ControlError::RequestTooLong(_))
    ));
}

#[test]
fn a_program_that_dies_over_a_request_is_said_to_have() {
    let folder = tempfile::tempdir().unwrap();
    let _running = serve(folder.path());
    assert!(matches!(
        ask(folder.path(), &json!({"panic": true})),
        Err(ControlError::Cut)
    ));
}

#[test]
fn a_reply_that_lies_is_refused_without_taking_memory_for_it() {
    let head = |body_bytes: u64| {
        let json =
            json!({"exit": 0, "output": null, "error": null, "body_bytes": body_bytes}).to_string();
        [
            &u32::try_from(json.len()).unwrap().to_be_bytes()[..],
            json.as_bytes(),
        ]
        .concat()
    };
    let answer_with = |reply: Vec<u8>| {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("control.sock")).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut client = listener.accept().unwrap().0;
                client.read_exact(&mut [0; 5]).unwrap();
                client.write_all(&reply).unwrap();
            });
            ask(folder.path(), &json!(1))
        })
    };
    assert!(matches!(
        answer_with(head(u64::MAX)),
        Err(ControlError::Cut)
    ));
    assert!(matches!(answer_with(head(1)), Err(ControlError::Cut)));
    assert!(matches!(
        answer_with(vec![255; 8]),
        Err(ControlError::ReplyTooLong)
    ));
    assert!(matches!(
        answer_with(b"\0\0\0\x02{}".to_vec()),
        Err(ControlError::NotAReply(_))
    ));
    assert_eq!(answer_with(head(0)).unwrap(), Some(Reply::default()));
}

//! What others use to get a folder of files across: DICOM, rsync, and a tar by HTTP.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kit::gap::{Gap, HUB_ADDRESS, Namespace};
use kit::process::finish;
use kit::wait::until;

/// Where each of the servers listens.
const PORT: u16 = 8_104;

/// A stranger's way to send a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// DCMTK's storescu to storescp, with the files shared among so many associations.
    Storescu { associations: usize },
    /// rsync to its daemon.
    Rsync,
    /// curl puts one tar onto a server that syncs it and then answers.
    Http,
}

/// Files to send, and where to put what arrives.
pub(crate) struct Freight {
    /// One folder for each association, with its share of the files.
    pub(crate) shares: Vec<PathBuf>,
    /// All files.
    pub(crate) files: PathBuf,
    /// All files in one.
    pub(crate) tar: PathBuf,
    /// An empty folder.
    pub(crate) arrived: PathBuf,
}

/// A stranger's receiver; dropping it ends it.
pub(crate) struct Receiver {
    child: Option<Child>,
}

impl Receiver {
    /// Starts the receiver of this stranger at the hub and waits until it listens.
    pub(crate) fn start(stranger: Stranger, gap: &Gap, freight: &Freight) -> Result<Self> {
        let hub = gap.hub();
        let child = match stranger {
            Stranger::Storescu { .. } => Some(storescp(hub, &freight.arrived)?),
            Stranger::Rsync => Some(rsync_daemon(hub, &freight.arrived)?),
            Stranger::Http => {
                let listener = hub.within(|| TcpListener::bind((HUB_ADDRESS, PORT)))??;
                let arrived = freight.arrived.join("study.tar");
                // Ends after its one upload, or with the program.
                std::thread::spawn(move || http_upload(&listener, &arrived));
                None
            }
        };
        let receiver = Self { child };
        until(Duration::from_secs(20), "the receiver to listen", || {
            listens(hub).ok()?.then_some(())
        })?;
        Ok(receiver)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Fails only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether somebody inside listens on our port; asked of the kernel, so that the link stays empty.
fn listens(namespace: &Namespace) -> Result<bool> {
    let (port, listening) = (format!(":{PORT:04X}"), "0A");
    let tables = [namespace.proc_net("tcp")?, namespace.proc_net("tcp6")?];
    Ok(tables.iter().flat_map(|table| table.lines()).any(|line| {
        let words: Vec<_> = line.split_whitespace().take(4).collect();
        matches!(words[..], [_, local, _, state] if local.ends_with(&port) && state == listening)
    }))
}

fn storescp(hub: &Namespace, arrived: &Path) -> Result<Child> {
    let mut command = serving(hub, "storescp");
    // It would ask a name server that nobody can reach.
    command.args([
        "--fork",
        "--bit-preserving",
        "--promiscuous",
        "--disable-host-lookup",
    ]);
    command.arg("-od");
    command.arg(arrived).arg(PORT.to_string());
    command.spawn().context("cannot start storescp")
}

fn rsync_daemon(hub: &Namespace, arrived: &Path) -> Result<Child> {
    let config = arrived.with_extension("conf");
    let path = arrived.display();
    let text = format!(
        "use chroot = no\nuid = 0\ngid = 0\nreverse lookup = no\n\
         [in]\npath = {path}\nread only = no\n"
    );
    std::fs::write(&config, text)?;
    let mut command = serving(hub, "rsync");
    command.args(["--daemon", "--no-detach", "--port", &PORT.to_string()]);
    command.arg("--config").arg(config);
    command.spawn().context("cannot start rsync")
}

/// A server inside a namespace that ends with us even if we are killed.
fn serving(namespace: &Namespace, program: &str) -> Command {
    let mut command = namespace.command("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command.env("TCP_NODELAY", "1");
    command.stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Takes one upload, makes it durable and says so. What goes wrong the sender sees.
fn http_upload(listener: &TcpListener, arrived: &Path) -> Result<()> {
    let (stream, _) = listener.accept()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut length, mut line) = (None, String::new());
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the request has no end");
        let (name, value) = line.trim_end().split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.parse()?),
            "expect" => answer(&stream, "100 Continue")?,
            _ => {}
        }
        if line == "\r\n" {
            break;
        }
    }
    let length: u64 = length.context("the request has no length")?;
    let mut file = File::create(arrived)?;
    let copied = std::io::copy(&mut reader.take(length), &mut file)?;
    ensure!(copied == length, "{copied} of {length} bytes came");
    file.sync_all()?;
    answer(&stream, "201 Created")
}

fn answer(mut stream: &TcpStream, status: &str) -> Result<()> {
    let length = if status.starts_with('1') {
        ""
    } else {
        "Content-Length: 0\r\n"
    };
    Ok(stream.write_all(format!("HTTP/1.1 {status}\r\n{length}\r\n").as_bytes())?)
}

/// Sends everything and returns when the sender believes that it has arrived.
pub(crate) fn send(
    stranger: Stranger,
    gap: &Gap,
    freight: &Freight,
    patience: Duration,
) -> Result<()> {
    let clinic = gap.clinic();
    let commands = match stranger {
        Stranger::Storescu { associations } => {
            let folders = match associations {
                1 => std::slice::from_ref(&freight.files),
                _ => &freight.shares,
            };
            ensure!(
                folders.len() == associations,
                "no shares for {associations}"
            );
            folders
                .iter()
                .map(|folder| storescu(clinic, folder))
                .collect()
        }
        Stranger::Rsync => {
            let mut command = clinic.command("rsync");
            command.args(["--recursive", "--whole-file"]);
            command.arg(format!("{}/", freight.files.display()));
            command.arg(format!("rsync://{HUB_ADDRESS}:{PORT}/in/"));
            vec![command]
        }
        Stranger::Http => {
            let mut command = clinic.command("curl");
            command.args(["--silent", "--show-error", "--fail", "--upload-file"]);
            command.arg(&freight.tar);
            command.arg(format!("http://{HUB_ADDRESS}:{PORT}/study.tar"));
            vec![command]
        }
    };
    std::thread::scope(|scope| {
        let senders: Vec<_> = commands
            .into_iter()
            .map(|command| scope.spawn(move || finish(command, patience)?.success()))
            .collect();
        for sender in senders {
            match sender.join() {
                Ok(sent) => drop(sent?),
                Err(_) => bail!("a sender panicked"),
            }
        }
        Ok(())
    })
}

fn storescu(clinic: &Namespace, folder: &Path) -> Command {
    let mut command = clinic.command("storescu");
    command.env("TCP_NODELAY", "1");
    command.args(["-R", "-aet", "STORESCU", "-aec", "CHASQUI", "+sd"]);
    let hub: Ipv4Addr = HUB_ADDRESS;
    command
        .args([hub.to_string(), PORT.to_string()])
        .arg(folder);
    command
}

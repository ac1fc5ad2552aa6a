//! Programs of others that speak DICOM, as `tests/run` installs them. A missing one is an error.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::phantom::Instance;
use crate::process::{Finished, finish};
use crate::wait::until;

/// A real series over a slow disk, with the processor shared.
const DEADLINE: Duration = Duration::from_secs(300);

/// DCMTK's `storescu`: stores every file of a folder in one association.
pub fn storescu(to: SocketAddr, folder: &Path) -> anyhow::Result<Finished> {
    let mut command = dcmtk("storescu");
    // Without +r every file is offered uncompressed; -R proposes only what the files need.
    command.args(["-v", "-R", "-aet", "STORESCU", "-aec", "CHASQUI", "+sd"]);
    run(command, to, folder)
}

/// DCMTK's `dcmsend`, which reads each file and proposes its own transfer syntax.
pub fn dcmsend(to: SocketAddr, folder: &Path) -> anyhow::Result<Finished> {
    let mut command = dcmtk("dcmsend");
    command.args([
        "-v",
        "--no-uid-checks",
        "-aet",
        "DCMSEND",
        "-aec",
        "CHASQUI",
        "+sd",
    ]);
    run(command, to, folder)
}

/// DCMTK's `echoscu`.
pub fn echoscu(to: SocketAddr) -> anyhow::Result<Finished> {
    let mut command = dcmtk("echoscu");
    command.args(["-aet", "ECHOSCU", "-aec", "CHASQUI", &to.ip().to_string()]);
    command.arg(to.port().to_string());
    finish(command, DEADLINE)
}

/// pynetdicom, sending the bytes of the files as they are.
pub fn pynetdicom_send(to: SocketAddr, folder: &Path) -> anyhow::Result<Finished> {
    let mut command = python("send.py")?;
    command
        .args([to.ip().to_string(), to.port().to_string()])
        .arg(folder);
    finish(command, DEADLINE)
}

/// DCMTK's `findscu` with a worklist query of these keys.
pub fn findscu_worklist(to: SocketAddr, keys: &[&str]) -> anyhow::Result<Finished> {
    let mut command = dcmtk("findscu");
    command.args(["-v", "-W", "-aet", "FINDSCU", "-aec", "CHASQUI"]);
    command.args(keys.iter().flat_map(|key| ["-k", key]));
    command.args([to.ip().to_string(), to.port().to_string()]);
    finish(command, DEADLINE)
}

/// pynetdicom as a user of the services beside storage; what it can do is in `services.py`.
pub fn pynetdicom_services(what: &str, to: SocketAddr, args: &[&str]) -> anyhow::Result<Finished> {
    let mut command = python("services.py")?;
    command
        .args([what, &to.ip().to_string(), &to.port().to_string()])
        .args(args);
    finish(command, DEADLINE)
}

/// Orthanc stores a folder and asks for commitment; it is called back at `own_port`.
pub fn orthanc_commit(to: SocketAddr, own_port: u16, folder: &Path) -> anyhow::Result<Finished> {
    let mut command = python("orthanc_commit.py")?;
    command
        .args([
            to.ip().to_string(),
            to.port().to_string(),
            own_port.to_string(),
        ])
        .arg(folder);
    finish(command, DEADLINE)
}

/// pydicom's opinion whether two folders hold the same instances with the same data set bytes.
pub fn pydicom_compare(one: &Path, other: &Path) -> anyhow::Result<Finished> {
    let mut command = python("compare.py")?;
    command.arg(one).arg(other);
    finish(command, DEADLINE)
}

/// dicom3tools' `dciodvfy`: the errors it finds in a file, without its warnings.
pub fn dciodvfy(file: &Path) -> anyhow::Result<Vec<String>> {
    let mut command = Command::new("dciodvfy");
    command.arg(file);
    // It exits with 0 whatever it found.
    let finished = finish(command, DEADLINE)?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    anyhow::ensure!(
        !said.is_empty(),
        "dciodvfy always names at least the object's class"
    );
    Ok(said
        .lines()
        .filter(|line| line.starts_with("Error"))
        .map(str::to_owned)
        .collect())
}

/// DCMTK's `storescp`, which keeps what arrives bit by bit: what a sender really sent, as senders
/// may write a data set anew before they send it.
#[derive(Debug)]
pub struct Reference {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Reference {
    /// Starts it on a free port; it writes into `folder`.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        // storescp can't choose a port itself.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        // It can't be told to end with us, so util-linux tells it.
        let child = dcmtk("setpriv")
            .args(["--pdeathsig", "KILL", "storescp"])
            .args(["--bit-preserving", "--promiscuous", "-od"])
            .arg(folder)
            .arg(address.port().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start storescp; tests/run installs it")?;
        let reference = Self {
            child,
            address,
            folder: folder.to_owned(),
        };
        until(Duration::from_secs(10), "storescp to listen", || {
            echoscu(address).ok()?.success().ok()
        })?;
        Ok(reference)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has arrived.
    pub fn received(&self) -> anyhow::Result<Vec<Instance>> {
        Instance::read_folder(&self.folder)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian's DCMTK leaves Nagle's algorithm on; figures taken so measure that and nothing else.
fn dcmtk(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("TCP_NODELAY", "1");
    command
}

fn run(mut command: Command, to: SocketAddr, folder: &Path) -> anyhow::Result<Finished> {
    command
        .arg(to.ip().to_string())
        .arg(to.port().to_string())
        .arg(folder);
    finish(command, DEADLINE)
}

fn python(script: impl AsRef<OsStr>) -> anyhow::Result<Command> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = tests.join(".venv/bin/python");
    anyhow::ensure!(
        python.exists(),
        "{} is missing; tests/run makes it",
        python.display()
    );
    let mut command = Command::new(python);
    command.arg(tests.join("peers").join(script.as_ref()));
    Ok(command)
}

//! Fleet: one hub and many boxes, each a process of its own, all on loopback.
//!
//! In: the binary, how many boxes. Out: boxes that are enrolled and run, and what the hub says of
//! itself.
//! Invariant: nothing runs when the fleet is gone.
//! May not: emulate a link; a fleet is about the hub.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::modality::Modality;
use crate::process::{Finished, Programs, Role, Running, finish};
use crate::wait::until;
use crate::world::words;

/// How long the hub may take for one look at itself, however busy it is.
const METRICS_DEADLINE: Duration = Duration::from_secs(10);

/// A hub and its boxes.
#[derive(Debug)]
pub struct Fleet {
    // Processes come first: they end before their folders go.
    boxes: Vec<Running>,
    hub: Running,
    programs: Programs,
    link: SocketAddr,
    folder: TempDir,
}

impl Fleet {
    /// Provisions a hub and `boxes` boxes, and starts the hub. No box runs yet.
    pub fn provision(programs: Programs, boxes: usize) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("chasqui-fleet-")
            .tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let link = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let provision = |args: Vec<std::ffi::OsString>| -> anyhow::Result<()> {
            programs.run(Role::Provision, &args)?.success().map(drop)
        };
        provision(words(["init"], [path("fleet")]).collect())?;
        let (address, hub) = (link.to_string(), path("hub"));
        let named = words(["--name", "hub", "--address", &address, "-o"], [hub]);
        provision(words(["hub"], [path("fleet")]).chain(named).collect())?;
        for index in 0..boxes {
            let site = format!("clinic {index}");
            let words_of = words(
                ["--site", &site, "--consent", "emergency", "-o"],
                [path(&format!("voucher-{index}"))],
            );
            provision(words(["unit"], [path("fleet")]).chain(words_of).collect())?;
        }
        let document = path("fleet").join("fleet.cose");
        let apply = words(["fleet", "apply", "--data"], [path("hub"), document]);
        programs
            .run(Role::Hub, &apply.collect::<Vec<_>>())?
            .success()?;
        let mut command = programs.command(Role::Hub);
        command
            .args(["serve", "--link-port", &link.port().to_string()])
            .args(["--web-port", "0", "--dicom-port", "0", "--data"])
            .arg(path("hub"));
        let hub = Running::start(command, Role::Hub, &path("hub.log"))?;
        Ok(Self {
            boxes: Vec::new(),
            hub,
            programs,
            link,
            folder,
        })
    }

    /// Enrols the next box and starts it; its index.
    pub fn start_box(&mut self) -> anyhow::Result<usize> {
        let index = self.boxes.len();
        let voucher = self.path(&format!("voucher-{index}"));
        let hub = self.link.to_string();
        let enrol = words(["enrol", "--hub", &hub, "--voucher"], [voucher])
            .chain(words(["--data"], [self.folder_of(index)]));
        self.programs
            .run(Role::Agent, &enrol.collect::<Vec<_>>())?
            .success()?;
        let mut command = self.programs.command(Role::Agent);
        command
            .args(["serve", "--dicom-port", "0", "--console-port", "0"])
            .args(["--hub", &hub, "--data"])
            .arg(self.folder_of(index))
            .env("AGENT__INTAKE__QUIET_PERIOD", "1s");
        let log = self.path(&format!("box-{index}.log"));
        self.boxes.push(Running::start(command, Role::Agent, &log)?);
        Ok(index)
    }

    /// A scanner beside box `index`.
    pub fn modality(&self, index: usize) -> anyhow::Result<Modality> {
        let running = self.boxes.get(index).context("no such box")?;
        Modality::new(running.address("dicom")?)
    }

    /// Runs a command of box `index` on its folder.
    pub fn agent_command(&self, index: usize, words_of: &[&str]) -> anyhow::Result<Finished> {
        let mut command = self.programs.command(Role::Agent);
        command
            .args(words_of)
            .arg("--data")
            .arg(self.folder_of(index));
        finish(command, METRICS_DEADLINE)
    }

    /// The hub's process.
    pub fn hub(&self) -> &Running {
        &self.hub
    }

    /// Where the boxes call.
    pub fn link(&self) -> SocketAddr {
        self.link
    }

    /// A figure of the hub's `/metrics`.
    pub fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let url = format!("{}/metrics", self.hub.ready("web")?.trim_end_matches('/'));
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--fail", &url]);
        let text = finish(curl, METRICS_DEADLINE)?.success()?;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .with_context(|| format!("the hub shows no {name}"))
    }

    /// Waits until the hub's figure has reached `least`.
    pub fn wait_metric(&self, name: &str, least: u64, deadline: Duration) -> anyhow::Result<()> {
        until(deadline, &format!("{name} {least}"), || {
            (self.metric(name).ok()? >= least).then_some(())
        })
    }

    /// The most memory that the hub has had resident so far, in bytes (proc(5), `VmHWM`).
    pub fn hub_memory_most(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.hub.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| kib << 10)
            .context("the kernel tells no VmHWM")
    }

    fn folder_of(&self, index: usize) -> PathBuf {
        self.path(&format!("box-{index}"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

//! Network namespaces with names of our own, which go when their handle does.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::finish;

/// Where `ip netns` keeps a file for each name.
const NAMES: &str = "/run/netns";

/// Begins all our names; the process follows, and then a number, so that tests can run side by side.
const PREFIX: &str = "chasqui-";

const DEADLINE: Duration = Duration::from_secs(20);

/// A network namespace of our own.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one that nobody else has.
    pub(super) fn make(end: &str) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{end}", std::process::id());
        ip(&["netns", "add", &name])?;
        Ok(Self { name })
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command line of a program that runs inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        command(&self.name, program)
    }

    /// Does something on a thread that is inside. Sockets stay where they were opened; a program
    /// that is started here ends with the thread if it is one that ends with its parent.
    pub fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> anyhow::Result<R> {
        let file = File::open(self.file()).context("the namespace is gone")?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || -> anyhow::Result<R> {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("cannot enter a network namespace; are we root?")?;
                Ok(work())
            });
            match thread.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A file of `/proc/net`, such as the counters in `snmp`, as it is inside.
    pub fn proc_net(&self, file: &str) -> anyhow::Result<String> {
        let file = Path::new("/proc/thread-self/net").join(file);
        Ok(self.within(|| std::fs::read_to_string(&file))??)
    }

    /// Runs `ip` on what is inside.
    pub(super) fn ip(&self, args: &[&str]) -> anyhow::Result<()> {
        ip(&[&["-netns", &self.name], args].concat()).map(drop)
    }

    fn file(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("the namespace {} stays: {error:#}", self.name);
        }
    }
}

/// Removes a namespace, and what forked inside it and was left alone.
fn remove(name: &str) -> anyhow::Result<()> {
    for pid in ip(&["netns", "pids", name])?.lines() {
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
        // Fails only when it has ended by itself.
        let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
    }
    ip(&["netns", "del", name]).map(drop)
}

/// A command line of a program that runs inside the namespace of this name.
pub(crate) fn command(name: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name]).arg(program);
    command
}

/// Removes the names that killed processes have left.
pub(super) fn sweep() -> anyhow::Result<()> {
    let Ok(names) = std::fs::read_dir(NAMES) else {
        // Nobody on this machine has made one yet.
        return Ok(());
    };
    for name in names {
        let name = name?.file_name().to_string_lossy().into_owned();
        let maker = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'));
        if maker.is_some_and(|(pid, _)| !Path::new("/proc").join(pid).exists()) {
            // Somebody else may be sweeping too.
            let _ = remove(&name);
        }
    }
    Ok(())
}

fn ip(args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("ip");
    command.args(args);
    finish(command, DEADLINE)?.success()
}

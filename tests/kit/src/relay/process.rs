//! A relay in a process of its own, so that a test can kill it.

use std::io::{self, BufRead as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Counters, Relay, RelayConfig};
use crate::process::{Programs, Role, Running};

const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The child's side: `ready relay=HOST:PORT` on stdout, then `down`, `up`, `mute ADDRESS`,
/// `unmute ADDRESS` and `counters` on stdin, each answered with one line, until stdin ends, so that it never outlives its parent.
pub(crate) fn run(config_json: &str) -> anyhow::Result<()> {
    let config: RelayConfig = serde_json::from_str(config_json)?;
    let relay = Relay::start(&config)?;
    let mut out = io::stdout();
    writeln!(out, "ready relay={}", relay.address())?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("down", "") => relay.switch(false),
            ("up", "") => relay.switch(true),
            ("mute", address) => relay.mute(address.parse()?, true),
            ("unmute", address) => relay.mute(address.parse()?, false),
            ("counters", "") => {}
            _ => anyhow::bail!("unknown relay command `{line}`"),
        }
        writeln!(out, "{}", serde_json::to_string(&relay.counters())?)?;
    }
    Ok(())
}

/// The parent's side. Dropping it kills the relay.
#[derive(Debug)]
pub struct RelayProcess {
    programs: Programs,
    config: RelayConfig,
    log: PathBuf,
    running: Option<Running>,
}

impl RelayProcess {
    /// Starts a relay; from then on its address stays the same, also over [`Self::restart`].
    pub fn start(programs: &Programs, config: RelayConfig, log: &Path) -> anyhow::Result<Self> {
        let mut relay = Self {
            programs: programs.clone(),
            config,
            log: log.to_owned(),
            running: None,
        };
        relay.restart()?;
        Ok(relay)
    }

    /// Where boxes send to.
    pub fn address(&self) -> SocketAddr {
        self.config.listen
    }

    /// Changes the link from the next [`Self::restart`] on.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut RelayConfig)) {
        change(&mut self.config);
    }

    /// Ends it as if its machine had lost power.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.running.take().map_or(Ok(()), Running::kill)
    }

    /// Starts it again on the same port; the hub sees another address, and counters begin at 0.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        let mut command = self.programs.command(Role::Relay);
        command.arg(serde_json::to_string(&self.config)?);
        let running = Running::start(command, Role::Relay, &self.log)?;
        self.config.listen = running.address("relay")?;
        self.running = Some(running);
        Ok(())
    }

    /// Puts the link down or up.
    pub fn switch(&mut self, up: bool) -> anyhow::Result<()> {
        self.ask(if up { "up" } else { "down" }).map(drop)
    }

    /// Lets nothing through from and to this address of a box, or everything again.
    pub fn mute(&mut self, address: IpAddr, is_mute: bool) -> anyhow::Result<()> {
        let word = if is_mute { "mute" } else { "unmute" };
        self.ask(&format!("{word} {address}")).map(drop)
    }

    /// What was relayed and lost since its start.
    pub fn counters(&mut self) -> anyhow::Result<Counters> {
        self.ask("counters")
    }

    fn ask(&mut self, line: &str) -> anyhow::Result<Counters> {
        let running = self
            .running
            .as_mut()
            .ok_or_else(|| anyhow::anyhow!("the relay is dead"))?;
        running.tell(line)?;
        Ok(serde_json::from_str(&running.line(ANSWER_DEADLINE)?)?)
    }
}

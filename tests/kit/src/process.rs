//! Programs as processes of their own: started, waited for, stopped in order or killed.
//!
//! A test can't name another package's binary, so the tests package has one binary that is all
//! programs; see [`multi_call`].

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};

use crate::gap::{Namespace, namespace};
use crate::wait::until;

/// Names the process that started us; we end with it.
const PARENT_VARIABLE: &str = "CHASQUI_PARENT";

/// Debug builds on a machine with two busy cores take their time.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// How long a command that only asks or files something may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);

/// cli.md: SIGTERM ends a program in order within five seconds; one more for the machine.
const STOP_DEADLINE: Duration = Duration::from_secs(6);

/// Lines of a program's log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 40;

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The box.
    Agent,
    /// The reading hub.
    Hub,
    /// The fleet authority.
    Provision,
    /// The link emulator.
    Relay,
}

impl Role {
    const ALL: [Self; 4] = [Self::Agent, Self::Hub, Self::Provision, Self::Relay];

    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Hub => "hub",
            Self::Provision => "provision",
            Self::Relay => "relay",
        }
    }
}

/// Whether a first argument names a program that [`multi_call`] can be.
pub fn is_role(argument: Option<&OsString>) -> bool {
    role(argument).is_some()
}

fn role(argument: Option<&OsString>) -> Option<Role> {
    Role::ALL
        .into_iter()
        .find(|role| argument.is_some_and(|word| word == role.name()))
}

/// Runs the program that the first argument names with the rest of the arguments.
pub fn multi_call(args: Vec<OsString>) -> ExitCode {
    end_with_parent();
    let role = role(args.get(1));
    let with_name = |name: &str| {
        std::iter::once(OsString::from(name))
            .chain(args.into_iter().skip(2))
            .collect()
    };
    match role {
        Some(Role::Agent) => agent::cli::main(with_name("chasqui-agent")),
        Some(Role::Hub) => hub::cli::main(with_name("chasqui-hub")),
        Some(Role::Provision) => provisioning::cli::main(with_name("chasqui-provision")),
        Some(Role::Relay) => relay(with_name("relay")),
        None => {
            eprintln!("usage: chasqui-all agent|hub|provision ARGS... | relay JSON");
            ExitCode::from(64)
        }
    }
}

fn relay(args: Vec<OsString>) -> ExitCode {
    let config = args
        .get(1)
        .and_then(|text| text.to_str())
        .unwrap_or_default();
    match crate::relay::process::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay: {error:#}");
            ExitCode::from(70)
        }
    }
}

/// A test that is killed can't clean up, so the kernel does: the child gets SIGKILL when the
/// thread that started it ends. Programs are therefore started from threads that outlive them.
fn end_with_parent() {
    let Some(parent) = std::env::var(PARENT_VARIABLE)
        .ok()
        .and_then(|pid| pid.parse().ok())
    else {
        return;
    };
    let told = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The parent may have ended before we could ask.
    let orphan = rustix::process::getppid() != Pid::from_raw(parent);
    if told.is_err() || orphan {
        std::process::exit(70);
    }
}

/// The binary that is all programs.
#[derive(Debug, Clone)]
pub struct Programs {
    exe: PathBuf,
    /// Programs that run inside a network namespace, and its name.
    places: Vec<(Role, String)>,
}

impl Programs {
    /// The binary at this path; tests pass `env!("CARGO_BIN_EXE_chasqui-all")`.
    pub fn at(exe: impl Into<PathBuf>) -> Self {
        Self {
            exe: exe.into(),
            places: Vec::new(),
        }
    }

    /// The same, with one of the programs inside a network namespace.
    pub fn placing(mut self, role: Role, namespace: &Namespace) -> Self {
        self.places.push((role, namespace.name().to_owned()));
        self
    }

    /// A command line of one program, for callers with wishes of their own.
    pub fn command(&self, role: Role) -> Command {
        let place = self.places.iter().find(|(placed, _)| *placed == role);
        let mut command = match place {
            // It becomes the program, so that signals and deaths need no help.
            Some((_, namespace)) => namespace::command(namespace, &self.exe),
            None => Command::new(&self.exe),
        };
        command
            .arg(role.name())
            .env(PARENT_VARIABLE, std::process::id().to_string());
        command
    }

    /// Runs a command that ends by itself.
    pub fn run<A: AsRef<OsStr>>(&self, role: Role, args: &[A]) -> anyhow::Result<Finished> {
        let mut command = self.command(role);
        command.args(args);
        finish(command, COMMAND_DEADLINE)
    }
}

/// What a command left behind.
#[derive(Debug)]
pub struct Finished {
    /// The command, for messages.
    pub line: String,
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All it printed.
    pub stdout: String,
    /// All it complained about.
    pub stderr: String,
}

impl Finished {
    /// What it printed, if it succeeded.
    pub fn success(self) -> anyhow::Result<String> {
        if self.code != Some(0) {
            bail!(
                "`{}` ended with {:?}\n{}{}",
                self.line,
                self.code,
                self.stdout,
                self.stderr
            );
        }
        Ok(self.stdout)
    }

    /// The JSON document it printed, if it succeeded.
    pub fn json(self) -> anyhow::Result<serde_json::Value> {
        let text = self.success()?;
        serde_json::from_str(&text).with_context(|| format!("not one JSON document: {text}"))
    }

    /// What it complained about, if it failed with this code.
    pub fn failure(self, code: i32) -> anyhow::Result<String> {
        if self.code != Some(code) {
            let (stdout, stderr) = (&self.stdout, &self.stderr);
            bail!(
                "`{}` ended with {:?}, not {code}\n{stdout}{stderr}",
                self.line,
                self.code
            );
        }
        Ok(self.stderr)
    }
}

/// Runs any command to its end, or kills it at the deadline.
pub fn finish(mut command: Command, deadline: Duration) -> anyhow::Result<Finished> {
    let line = shown(&command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let read = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // A pipe that breaks ends the text early; the exit code tells the rest.
            let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let ended = until(deadline, "its end", || child.try_wait().transpose());
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let (stdout, stderr) = (
        stdout.join().unwrap_or_default(),
        stderr.join().unwrap_or_default(),
    );
    let status = ended.with_context(|| format!("`{line}` said so far:\n{stdout}{stderr}"))??;
    Ok(Finished {
        line,
        code: status.code(),
        stdout,
        stderr,
    })
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// A program that serves. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    role: Role,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    ready: BTreeMap<String, String>,
    log: PathBuf,
}

impl Running {
    /// Starts a program and waits for its `ready` line; stderr is appended to `log`.
    pub fn start(mut command: Command, role: Role, log: &Path) -> anyhow::Result<Self> {
        let errors = File::options().create(true).append(true).open(log)?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start `{}`", shown(&command)))?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                // Ends with the program, or with the one who listens.
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        let stdin = child.stdin.take();
        let ready = BTreeMap::new();
        let mut running = Self {
            role,
            child,
            stdin,
            lines,
            ready,
            log: log.to_owned(),
        };
        let line = running
            .line(READY_DEADLINE)
            .context("it printed no `ready` line")?;
        running.ready = ready_words(&line)
            .with_context(|| format!("{} said `{line}` and not `ready`", role.name()))?;
        Ok(running)
    }

    /// A word of the ready line, such as the address behind `console=`.
    pub fn ready(&self, word: &str) -> anyhow::Result<&str> {
        let value = self.ready.get(word).map(String::as_str);
        value.with_context(|| format!("the ready line of {} has no {word}=", self.role.name()))
    }

    /// An address of the ready line.
    pub fn address(&self, word: &str) -> anyhow::Result<SocketAddr> {
        Ok(self.ready(word)?.parse()?)
    }

    /// The next line it prints.
    pub fn line(&mut self, deadline: Duration) -> anyhow::Result<String> {
        self.lines.recv_timeout(deadline).map_err(|_| {
            let ended = self.child.try_wait().ok().flatten();
            let log = tail(&self.log);
            anyhow::anyhow!(
                "no line from {} ({ended:?}); its log ends:\n{log}",
                self.role.name()
            )
        })
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self
            .stdin
            .as_mut()
            .context("its standard input is closed")?;
        Ok(writeln!(stdin, "{line}")?)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks it to end (SIGTERM) and waits; an error when it doesn't end in time.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            rustix::process::kill_process(pid, Signal::TERM)?;
        }
        until(STOP_DEADLINE, "the end after SIGTERM", || {
            self.child.try_wait().transpose()
        })?
        .map_err(Into::into)
    }

    /// Ends it as a power cut would (SIGKILL).
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// All it wrote to its log so far.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- log of {} ends ---\n{}",
                self.role.name(),
                tail(&self.log)
            );
        }
    }
}

/// The words `name=value` of a ready line; `None` when it is another line.
fn ready_words(line: &str) -> Option<BTreeMap<String, String>> {
    let words = line.strip_prefix("ready")?;
    let pairs = words
        .split_whitespace()
        .filter_map(|word| word.split_once('='));
    Some(
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    )
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut last = VecDeque::with_capacity(LOG_LINES_SHOWN);
    for line in text.lines() {
        if last.len() == LOG_LINES_SHOWN {
            last.pop_front();
        }
        last.push_back(line);
    }
    Vec::from(last).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_line_names_what_it_opened() {
        let words = ready_words("ready dicom=127.0.0.1:104 console=http://127.0.0.1:80/").unwrap();
        assert_eq!(words["dicom"], "127.0.0.1:104");
        assert_eq!(words["console"], "http://127.0.0.1:80/");
        assert_eq!(ready_words("error: port taken"), None);
    }

    #[test]
    fn a_command_that_hangs_is_killed_and_named() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; exec sleep 600"]);
        let error = finish(command, Duration::from_millis(300)).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("sleep 600") && text.contains("begun"),
            "{text}"
        );
    }

    #[test]
    fn a_failure_carries_what_was_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo because >&2; exit 3"]);
        let finished = finish(command, READY_DEADLINE).unwrap();
        assert_eq!(finished.failure(3).unwrap(), "because\n");
    }
}

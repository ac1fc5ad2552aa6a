//! bench-intake: how fast studies are taken in, beside the archives of others on the same disk.
//!
//! In: rounds, instances. Out: one table of instances per second with the ratios, and the peak of
//! the box's memory.
//! Invariant: all receivers get the same instances from the same senders on the same file system,
//! in an order that changes with each round; what a run left dirty is on the disk before the next.
//! May not: count an instance that was not acknowledged with success.
//!
//! `cargo run --release -p system-tests --bin bench-intake -- --help`. It needs dcmtk and orthanc.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use dimse::scu::{Association, Instance as Stored, Proposal, ScuConfig};
use kit::peers;
use kit::phantom::{Instance, Phantom, write_folder};
use kit::process::{self, Programs, Role, Running};
use kit::voucher::enrol_offline;
use kit::wait::until;
use serde_json::{Value, json};
use study::{AeTitle, SopInstanceUid};
use tempfile::TempDir;
use tokio::runtime::Builder;

/// What kind of load, as `associations` and `studies`: a scanner alone, scanners that each send a
/// study of their own, and one scanner that sends one study over several associations.
const LOADS: [(u16, u16); 5] = [(1, 1), (4, 4), (4, 1), (16, 16), (16, 1)];
/// A receiver with fewer threads than associations makes a scanner wait for its turn.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);
/// How long packing 5,000 slices may take.
const PACK_DEADLINE: Duration = Duration::from_secs(900);
/// Slices that differ in their pixels in the study that memory is measured with.
const DISTINCT_SLICES: u16 = 40;
/// Digits at the end of a SOP Instance UID that number the copies of a slice.
const NUMBER_DIGITS: usize = 6;

/// Measures how fast the box takes studies in, beside storescp, Orthanc and a bare loop.
#[derive(Debug, Parser)]
#[command(name = "bench-intake", version, about)]
struct Options {
    /// How often each figure is taken; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Instances of 512 x 512 in each run, shared by its associations.
    #[arg(long, default_value_t = 320)]
    instances: u16,
    /// Slices of the study that memory is measured with; 0 leaves that out.
    #[arg(long, default_value_t = 5000)]
    slices: u32,
    /// Rows and columns of those slices.
    #[arg(long, default_value_t = 512)]
    side: u16,
    /// Leaves DCMTK's storescu out.
    #[arg(long)]
    own_sender_only: bool,
    /// Leaves the other receivers out, to look at one with a profiler.
    #[arg(long, value_enum)]
    only: Option<Kind>,
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if process::is_role(args.get(1)) {
        return process::multi_call(args);
    }
    match measure(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<()> {
    let programs = Programs::at(std::env::current_exe()?);
    if options.rounds > 0 {
        say(
            "| sender | associations | studies | bare write + fdatasync | storescp | Orthanc | agent \
             | agent/Orthanc | agent/storescp | agent/bare |",
        );
        say("|---|---|---|---|---|---|---|---|---|---|");
        for (associations, studies) in LOADS {
            let load = Load::new(options.instances, associations, studies)?;
            say(&Row::measure(&programs, &load, Sender::Own, options)?.line());
            if studies == associations && !options.own_sender_only {
                say(&Row::measure(&programs, &load, Sender::Storescu, options)?.line());
            }
        }
    }
    if options.slices > 0 {
        say(&memory(&programs, options.slices, options.side)?);
    }
    Ok(())
}

/// What is sent in one run: a list for each association, in memory and in folders.
struct Load {
    parts: Vec<Vec<Instance>>,
    studies: u16,
    folder: TempDir,
}

impl Load {
    fn new(instances: u16, associations: u16, studies: u16) -> Result<Self> {
        let part = usize::from(instances / associations);
        let slices = instances / studies;
        let all: Vec<Instance> = (1..=u64::from(studies))
            .flat_map(|seed| {
                Phantom {
                    seed,
                    slices,
                    side: 512,
                }
                .instances()
            })
            .collect();
        let parts: Vec<_> = all
            .chunks_exact(part)
            .take(usize::from(associations))
            .map(<[_]>::to_vec)
            .collect();
        let folder = TempDir::new()?;
        for (number, part) in parts.iter().enumerate() {
            write_folder(&folder.path().join(number.to_string()), part)?;
        }
        Ok(Self {
            parts,
            studies,
            folder,
        })
    }

    fn instances(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }
}

#[derive(Debug, Clone, Copy)]
enum Sender {
    /// Our own SCU, from memory.
    Own,
    /// DCMTK's, from files.
    Storescu,
}

impl Sender {
    fn name(self) -> &'static str {
        match self {
            Self::Own => "own SCU",
            Self::Storescu => "storescu",
        }
    }

    /// Sends one association's part; an error unless all of it was taken.
    fn send(self, to: SocketAddr, part: &[Instance], folder: &Path) -> Result<()> {
        match self {
            Self::Own => store(to, part.iter().map(Cow::Borrowed)),
            Self::Storescu => {
                let sent = peers::storescu(to, folder)?;
                let said = format!("{}{}", sent.stdout, sent.stderr);
                let taken = said.matches("Received Store Response (Success)").count();
                ensure!(
                    taken == part.len(),
                    "{taken} of {} taken: {said}",
                    part.len()
                );
                Ok(())
            }
        }
    }
}

/// Stores CT slices in one association; an error unless all of them were taken.
fn store<'a>(to: SocketAddr, slices: impl Iterator<Item = Cow<'a, Instance>>) -> Result<()> {
    let mut slices = slices.peekable();
    let first = slices.peek().context("nothing to send")?;
    let proposal = Proposal {
        sop_class: first.sop_class.clone(),
        transfer_syntaxes: vec![first.transfer_syntax.clone()],
    };
    let mut config = ScuConfig::new(AeTitle::parse("CT01")?, AeTitle::parse("CHASQUI")?);
    config.connect_timeout = ANSWER_DEADLINE;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut association = Association::open(to, config, &[proposal]).await?;
        for slice in slices {
            let answer = association
                .store(Stored {
                    sop_class: &slice.sop_class,
                    sop: &slice.sop,
                    transfer_syntax: &slice.transfer_syntax,
                    data_set: slice.data_set(),
                })
                .await?;
            ensure!(answer.status.is_success(), "refused: {answer:?}");
        }
        Ok(association.release().await?)
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Bare,
    Storescp,
    Orthanc,
    Agent,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Bare, Self::Storescp, Self::Orthanc, Self::Agent];

    /// Instances per second of one run into a fresh folder.
    fn run(self, programs: &Programs, load: &Load, sender: Sender) -> Result<f64> {
        let folder = TempDir::new()?;
        let receiver = match self {
            Self::Bare => None,
            Self::Storescp => Some(Receiver::storescp(folder.path())?),
            Self::Orthanc => Some(Receiver::orthanc(folder.path())?),
            Self::Agent => Some(Receiver::agent(programs, folder.path())?),
        };
        // What others left in memory must not be written during this run.
        rustix::fs::sync();
        let took = match &receiver {
            None => bare(load, folder.path())?,
            Some(receiver) => send_all(load, sender, receiver.address)?,
        };
        Ok(load.instances() as f64 / took.as_secs_f64())
    }
}

/// Sends each part over an association of its own, all at the same time.
fn send_all(load: &Load, sender: Sender, to: SocketAddr) -> Result<Duration> {
    let ready = &Barrier::new(load.parts.len() + 1);
    std::thread::scope(|scope| {
        let senders: Vec<_> = load
            .parts
            .iter()
            .enumerate()
            .map(|(number, part)| {
                let folder = load.folder.path().join(number.to_string());
                scope.spawn(move || {
                    ready.wait();
                    sender.send(to, part, &folder)
                })
            })
            .collect();
        let begun = Instant::now();
        ready.wait();
        for sender in senders {
            sender.join().expect("a sender does not panic")?;
        }
        Ok(begun.elapsed())
    })
}

/// The least that a promise costs on this disk: each file written behind the last and synced.
fn bare(load: &Load, folder: &Path) -> Result<Duration> {
    let mut file = File::create_new(folder.join("bare"))?;
    let begun = Instant::now();
    for instance in load.parts.iter().flatten() {
        file.write_all(&instance.file)?;
        file.sync_data()?;
    }
    Ok(begun.elapsed())
}

/// A program that takes instances in; it ends when this is dropped.
struct Receiver {
    address: SocketAddr,
    program: Program,
}

enum Program {
    Box(Running),
    Peer(Child),
}

impl Receiver {
    /// The box with its built-in settings, but for the ports. Its voucher names a hub that is not
    /// there: everything is sealed and packed for it, and nothing leaves.
    fn agent(programs: &Programs, folder: &Path) -> Result<Self> {
        enrol_offline(programs, folder, &folder.join("agent"))?;
        let mut command = programs.command(Role::Agent);
        command.args(["serve", "--dicom-port", "0", "--console-port", "0"]);
        command.env("AGENT__INTAKE__BIND", "127.0.0.1");
        command.arg("--data").arg(folder.join("agent"));
        let running = Running::start(command, Role::Agent, &folder.join("agent.log"))?;
        Ok(Self {
            address: running.address("dicom")?,
            program: Program::Box(running),
        })
    }

    /// A process for each association, and bytes as they come: as fast as it can be.
    fn storescp(folder: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut command = peer("storescp");
        command
            .args(["--fork", "--bit-preserving", "--promiscuous", "-od"])
            .arg(folder)
            .arg(port.to_string());
        Self::peer(command, port)
    }

    /// Orthanc as it comes, but for a thread for each association: four by default.
    fn orthanc(folder: &Path) -> Result<Self> {
        let port = free_port()?;
        let config = json!({
            "StorageDirectory": folder.join("storage"),
            "IndexDirectory": folder.join("index"),
            "HttpServerEnabled": false,
            "AuthenticationEnabled": false,
            "DicomPort": port,
            "DicomCheckCalledAet": false,
            "DicomAlwaysAllowStore": true,
            "DicomThreadsCount": 16,
        });
        let file = folder.join("orthanc.json");
        std::fs::write(&file, config.to_string())?;
        let mut command = peer("Orthanc");
        command.arg(file);
        Self::peer(command, port)
    }

    fn peer(mut command: Command, port: u16) -> Result<Self> {
        let child = command
            .spawn()
            .context("cannot start a peer; tests/run installs them")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let receiver = Self {
            address,
            program: Program::Peer(child),
        };
        until(Duration::from_secs(30), "the peer to listen", || {
            peers::echoscu(address).ok()?.success().ok()
        })?;
        Ok(receiver)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        match self {
            Self::Box(_) => {}
            Self::Peer(child) => {
                // Fails only when it has ended already.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// A program of others that ends with this one and has Nagle's algorithm off.
fn peer(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", program])
        .env("TCP_NODELAY", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Neither peer can choose a port itself.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// One line of the table: what each kind of receiver reached, in the order of [`Kind::ALL`].
struct Row {
    head: String,
    rates: [Vec<f64>; 4],
}

impl Row {
    fn measure(
        programs: &Programs,
        load: &Load,
        sender: Sender,
        options: &Options,
    ) -> Result<Self> {
        let mut rates: [Vec<f64>; 4] = Default::default();
        for round in 0..options.rounds {
            let mut order = [0, 1, 2, 3];
            order.rotate_left(round % Kind::ALL.len());
            if round / Kind::ALL.len() % 2 == 1 {
                order.reverse();
            }
            for which in order {
                let kind = Kind::ALL[which];
                if options.only.is_some_and(|only| only != kind) {
                    continue;
                }
                let rate = kind.run(programs, load, sender);
                rates[which].push(rate.with_context(|| format!("{kind:?}"))?);
            }
        }
        for rates in &mut rates {
            rates.sort_by(f64::total_cmp);
        }
        let (associations, studies) = (load.parts.len(), load.studies);
        let head = format!("{} | {associations} | {studies}", sender.name());
        Ok(Self { head, rates })
    }

    fn line(&self) -> String {
        let [bare, storescp, orthanc, agent] = self.rates.each_ref().map(|rates| median(rates));
        let cells = self.rates.each_ref().map(|rates| {
            let least = rates.first().unwrap_or(&f64::NAN);
            let most = rates.last().unwrap_or(&f64::NAN);
            format!("{:.0} ({least:.0}-{most:.0})", median(rates))
        });
        format!(
            "| {} | {} | {:.2} | {:.2} | {:.2} |",
            self.head,
            cells.join(" | "),
            agent / orthanc,
            agent / storescp,
            agent / bare,
        )
    }
}

/// The middle one of sorted figures; not a number when there is none.
fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The peak of the box's memory with one large study: while it comes in, and until it is packed.
fn memory(programs: &Programs, slices: u32, side: u16) -> Result<String> {
    let folder = TempDir::new()?;
    let receiver = Receiver::agent(programs, folder.path())?;
    let Program::Box(agent) = &receiver.program else {
        unreachable!("it is the box")
    };
    let phantom = Phantom {
        seed: 1,
        slices: DISTINCT_SLICES,
        side,
    };
    let distinct = phantom.instances();
    let begun = Instant::now();
    let copies = (0..slices)
        .zip(distinct.iter().cycle())
        .map(|(number, slice)| renamed(slice, number).map(Cow::Owned));
    // A slice that cannot be renamed is missing, and the study then never counts as packed.
    store(receiver.address, copies.filter_map(Result::ok))?;
    let intake = begun.elapsed();
    let peak_at_intake = peak_rss_kib(agent.pid())?;
    until(PACK_DEADLINE, "all to be packed", || {
        let status = ["status", "--json", "--data"].map(PathBuf::from);
        let args = status.into_iter().chain([folder.path().join("agent")]);
        let status = programs.run(Role::Agent, &args.collect::<Vec<_>>()).ok()?;
        is_packed(&status.json().ok()?["studies"][0], slices).then_some(())
    })?;
    Ok(format!(
        "memory: {slices} slices of {side} x {side} in one association: taken in after {:.1} s with a peak RSS of {} \
         MiB; packed after {:.1} s with a peak RSS of {} MiB",
        intake.as_secs_f64(),
        peak_at_intake / 1024,
        begun.elapsed().as_secs_f64(),
        peak_rss_kib(agent.pid())? / 1024,
    ))
}

fn is_packed(study: &Value, slices: u32) -> bool {
    study["instances"] == slices
        && study["revision"] != 0
        && study["bytes_held"] == study["bytes_to_cross"]
}

/// A copy of a slice under another SOP Instance UID of the same length.
fn renamed(slice: &Instance, number: u32) -> Result<Instance> {
    let old = slice.sop.as_str();
    let stem = old
        .len()
        .checked_sub(NUMBER_DIGITS)
        .context("a short UID")?;
    let new = format!("{}{number:0NUMBER_DIGITS$}", &old[..stem]);
    let mut copy = slice.clone();
    // The UID stands in group 2 and in the data set, both times before the pixels.
    for at in 0..slice.file.len().min(4096) - old.len() {
        if slice.file[at..].starts_with(old.as_bytes()) {
            copy.file[at..at + new.len()].copy_from_slice(new.as_bytes());
        }
    }
    copy.sop = SopInstanceUid::parse(&new)?;
    Ok(copy)
}

/// The most memory that a process has had in use so far.
fn peak_rss_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    let kib = line.trim().strip_suffix(" kB").context("not in kB")?;
    Ok(kib.parse()?)
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what this program is for"
)]
fn say(line: &str) {
    println!("{line}");
}

//! bench-gap: how much of a link we use, and how much others do, over real packets.
//!
//! In: profiles, seeds, a payload. Out: a table of every sender on every profile, as markdown.
//! Invariant: all senders of a profile meet the same link in the same run; each runs alone, with
//! the clock from its start until it believes that all is stored.
//! May not: be part of the products; pass over a sender that failed.
//!
//! Needs root, `ip` of iproute2, dcmtk, rsync, curl, tar and, for `--shared`, iperf3.
//! `cargo run --release -p system-tests --bin bench-gap -- geo-rain --kilobytes 15000 --seeds 1,2,3`

mod aims;
mod ends;
mod shared;
mod strangers;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aims::{Figures, Trial, open_time};
use anyhow::{Result, anyhow};
use clap::Parser;
use ends::{Ends, Keys, link_profile};
use kit::gap::{Gap, GapConfig, HUB_ADDRESS};
use kit::phantom::{Phantom, write_folder};
use kit::process::finish;
use kit::relay::Outage;
use strangers::{Freight, Receiver, Stranger, send};
use sync_quic::{Control, LinkProfile};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// So many associations share the files where one is not enough.
const ASSOCIATIONS: usize = 4;

/// A sender that takes so many times what the link needs is given up.
const PATIENCE: u32 = 10;
/// The same, for what does not depend on the size.
const PATIENCE_MIN: Duration = Duration::from_secs(120);

/// Delivered bytes after which bulk is moving again, and not only a probe.
const MOVING_BYTES: u64 = 20_000;

/// So much of a failure's reason fits into a table.
const REASON_CHARS: usize = 120;

/// How often the end of an outage is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// Measures us and others on emulated links between two network namespaces.
#[derive(Debug, Parser)]
#[command(name = "bench-gap")]
struct Options {
    /// The profiles to run; all when none is named.
    profiles: Vec<String>,
    /// The payload, in thousands of bytes.
    #[arg(long, default_value_t = 15_000)]
    kilobytes: u32,
    /// The seeds to run each sender with.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    seeds: Vec<u64>,
    /// Only senders of these names, or of those that begin so where nobody has just that name.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Another length of the outage in the profiles that have one, in seconds.
    #[arg(long)]
    outage: Option<u64>,
    /// Instead: how much of the link ours takes beside one TCP flow, in so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60")]
    shared: Option<u64>,
}

impl Options {
    fn wants(&self, sender: &str) -> bool {
        let names = |name: &String| SENDERS.iter().any(|(known, _)| known == name);
        let meant = |name: &String| sender == name || !names(name) && sender.starts_with(name);
        self.only.is_empty() || self.only.iter().any(meant)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Our own ends, as `bench-link` has them.
    Chasqui(Control),
    /// Somebody else's, with a congestion control of the kernel.
    Stranger(Stranger, &'static str),
}

const ONE: Stranger = Stranger::Storescu { associations: 1 };
const FOUR: Stranger = Stranger::Storescu {
    associations: ASSOCIATIONS,
};

const SENDERS: [(&str, Way); 11] = [
    ("chasqui", Way::Chasqui(Control::LossTolerant)),
    ("chasqui-shared", Way::Chasqui(Control::Shared)),
    ("chasqui-cubic", Way::Chasqui(Control::Cubic)),
    ("storescu-1-cubic", Way::Stranger(ONE, "cubic")),
    ("storescu-1-bbr", Way::Stranger(ONE, "bbr")),
    ("storescu-4-cubic", Way::Stranger(FOUR, "cubic")),
    ("storescu-4-bbr", Way::Stranger(FOUR, "bbr")),
    ("rsync-cubic", Way::Stranger(Stranger::Rsync, "cubic")),
    ("rsync-bbr", Way::Stranger(Stranger::Rsync, "bbr")),
    ("http-cubic", Way::Stranger(Stranger::Http, "cubic")),
    ("http-bbr", Way::Stranger(Stranger::Http, "bbr")),
];

fn main() -> Result<()> {
    let options = Options::parse();
    let names: Vec<&str> = match options.profiles.as_slice() {
        [] => Trial::NAMES.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    let mut trials = Vec::new();
    for name in names {
        let mut trial = Trial::named(name)
            .ok_or_else(|| anyhow!("no profile {name}; there are {}", Trial::NAMES.join(", ")))?;
        let other = options.outage.map(Duration::from_secs);
        trial.outage = trial.outage.map(|length| other.unwrap_or(length));
        trials.push((name, trial));
    }
    let load = std::fs::read_to_string("/proc/loadavg")?;
    println(&format!("Load before the run: {}", load.trim_end()));
    if let Some(seconds) = options.shared {
        return shares(&trials, Duration::from_secs(seconds), &options);
    }
    for (name, trial) in trials {
        println(&format!("\n{}", head(name, &trial, &options)));
        let mut told = Vec::new();
        for (sender, way) in SENDERS {
            if options.wants(sender) {
                let (row, notes) = measure(sender, way, &trial, &options);
                println(&row);
                told.extend(notes);
            }
        }
        println(&format!("\n{}", told.join("\n")));
    }
    Ok(())
}

/// What our own senders take of each link beside a TCP flow.
fn shares(trials: &[(&str, Trial)], span: Duration, options: &Options) -> Result<()> {
    let span_s = span.as_secs();
    println(&format!(
        "\n| link, beside one TCP cubic flow for {span_s} s | sender | our share | both of the link |\n|---|---|---|---|"
    ));
    for (name, trial) in trials {
        for (sender, way) in SENDERS {
            let Way::Chasqui(control) = way else { continue };
            if !options.wants(sender) {
                continue;
            }
            for seed in &options.seeds {
                let it = shared::beside_tcp(trial, control, *seed, span)?;
                println(&format!(
                    "| {name} | {sender} | {:.2} | {:.2} |",
                    it.ours, it.used
                ));
            }
        }
    }
    Ok(())
}

/// The table's head for one profile.
fn head(name: &str, trial: &Trial, options: &Options) -> String {
    let outage = trial.outage.map_or_else(String::new, |length| {
        format!(", an outage of {} s", length.as_secs())
    });
    format!(
        "### {name}{outage}, {} kB, seeds {:?}, ceiling {:.2}\n\n\
         | sender | efficiency | wire/payload (lost) | queue drops | time | over ideal | bulk again |\n\
         |---|---|---|---|---|---|---|",
        options.kilobytes, options.seeds, trial.ceiling
    )
}

/// One sender's row, in which the figures of the seeds stand side by side, and what only our own
/// sender can say, a line for each seed.
fn measure(sender: &str, way: Way, trial: &Trial, options: &Options) -> (String, Vec<String>) {
    let mut cells: [Vec<String>; 6] = Default::default();
    let mut notes = Vec::new();
    for seed in &options.seeds {
        let said = match run(way, trial, options.kilobytes, *seed) {
            Ok(run) => {
                let judged = run.figures.judged(trial);
                let note = |told| format!("- {sender}, seed {seed}: {judged}, {told}");
                notes.extend(run.told.as_ref().map(note));
                run.cells(trial)
            }
            Err(error) => {
                let why = format!("{error:#}").replace(['\n', '|'], " ");
                // The end says more than the command line with which it begins.
                let short: String = why.chars().rev().take(REASON_CHARS).collect();
                let short: String = short.chars().rev().collect();
                let mut cells: [String; 6] = std::array::from_fn(|_| "-".to_owned());
                cells[0] = format!("FAILED: {short}");
                cells
            }
        };
        for (cell, said) in cells.iter_mut().zip(said) {
            cell.push(said);
        }
    }
    let cells = cells.map(|cell| cell.join(" / "));
    (format!("| {sender} | {} |", cells.join(" | ")), notes)
}

/// One transfer.
struct Run {
    figures: Figures,
    /// From the link's return until bulk moved, if there was an outage.
    again: Option<Duration>,
    /// What our own ends say of it.
    told: Option<String>,
}

/// What a sender says of its transfer.
struct Sent {
    payload: u64,
    /// Until it knew that all is stored.
    took: Duration,
    told: Option<String>,
}

impl Run {
    fn cells(&self, trial: &Trial) -> [String; 6] {
        let Self { figures, again, .. } = self;
        [
            format!("{:.3}", figures.efficiency(trial)),
            format!("{:.3} ({:.3})", figures.wire(), figures.loss()),
            format!("{:.2} %", 100.0 * figures.queue_drops()),
            format!("{:.1} s", figures.took.as_secs_f64()),
            format!("{:.3}", figures.over_ideal(trial)),
            again.map_or_else(
                || "-".to_owned(),
                |again| format!("{:.2} s", again.as_secs_f64()),
            ),
        ]
    }
}

fn run(way: Way, trial: &Trial, kilobytes: u32, seed: u64) -> Result<Run> {
    let gap = Gap::open(&GapConfig::on(trial.profile, seed))?;
    let sender = Sender::prepare(way, &gap, trial, kilobytes, seed)?;
    let done = AtomicBool::new(false);
    let begun = gap.age();
    let (sent, up, silence) = std::thread::scope(|scope| {
        let silence = trial.outage.map(|length| {
            let after = begun + trial.outage_after(u64::from(kilobytes) * 1000);
            let (gap, done) = (&gap, &done);
            scope.spawn(move || silence(gap, Outage { after, length }, done))
        });
        let sent = sender.send(&gap, trial);
        done.store(true, Ordering::Relaxed);
        let up = gap.counters().up;
        (sent, up, silence.map(|silence| silence.join()))
    });
    let Sent {
        payload,
        took,
        told,
    } = sent?;
    let silence = silence
        .transpose()
        .map_err(|_| anyhow!("the outage's thread panicked"))?;
    let outages = Vec::from_iter(silence.map(|(outage, _)| outage));
    let open = open_time(trial.profile.gaps, &outages, begun, begun + took);
    Ok(Run {
        figures: Figures {
            payload,
            took,
            open,
            up,
        },
        again: silence.and_then(|(_, again)| again),
        told,
    })
}

/// Takes the link down for a while. Returns the outage as it was, which is shorter when the
/// transfer ended before, and how long after it bulk was moving.
fn silence(gap: &Gap, planned: Outage, done: &AtomicBool) -> (Outage, Option<Duration>) {
    let Outage { after, length } = planned;
    let wait_until = |moment: Duration| {
        while gap.age() < moment && !done.load(Ordering::Relaxed) {
            std::thread::park_timeout(LOOK);
        }
    };
    wait_until(after);
    gap.switch(false);
    let down = gap.age();
    wait_until(after + length);
    gap.switch(true);
    let (up, before) = (gap.age(), gap.counters().up.delivered_bytes);
    let outage = Outage {
        after: down,
        length: up - down,
    };
    while !done.load(Ordering::Relaxed) {
        if gap.counters().up.delivered_bytes > before + MOVING_BYTES {
            return (outage, Some(gap.age() - up));
        }
        std::thread::park_timeout(LOOK);
    }
    (outage, None)
}

/// A sender that only waits for its start, and its receiver.
enum Sender {
    Chasqui {
        runtime: Runtime,
        ends: Box<Ends>,
        kilobytes: u32,
    },
    Stranger {
        stranger: Stranger,
        freight: Freight,
        payload: u64,
        _receiver: Receiver,
        _folder: TempDir,
    },
}

impl Sender {
    fn prepare(way: Way, gap: &Gap, trial: &Trial, kilobytes: u32, seed: u64) -> Result<Self> {
        match way {
            Way::Chasqui(control) => {
                let runtime = Runtime::new()?;
                let link = LinkProfile {
                    control,
                    ..link_profile(&trial.profile)
                };
                let ends = Box::new(ends(&runtime, gap, link)?);
                Ok(Self::Chasqui {
                    runtime,
                    ends,
                    kilobytes,
                })
            }
            Way::Stranger(stranger, control) => {
                gap.congestion_control(control)?;
                let folder = tempfile::tempdir()?;
                let (freight, payload) = load(folder.path(), kilobytes, seed)?;
                Ok(Self::Stranger {
                    stranger,
                    payload,
                    _receiver: Receiver::start(stranger, gap, &freight)?,
                    freight,
                    _folder: folder,
                })
            }
        }
    }

    /// Sends everything.
    fn send(self, gap: &Gap, trial: &Trial) -> Result<Sent> {
        match self {
            Self::Chasqui {
                runtime,
                ends,
                kilobytes,
            } => {
                let hub = SocketAddr::from((HUB_ADDRESS, ends.listener.local_addr()?.port()));
                let crossed = runtime.block_on(ends.cross(hub, kilobytes, None))?;
                Ok(Sent {
                    payload: crossed.payload,
                    took: crossed.took,
                    told: Some(crossed.told()),
                })
            }
            Self::Stranger {
                stranger,
                ref freight,
                payload,
                ..
            } => {
                let patience = trial.at_full_rate(payload) * PATIENCE
                    + PATIENCE_MIN
                    + trial.outage.unwrap_or_default();
                let begun = Instant::now();
                send(stranger, gap, freight, patience)?;
                Ok(Sent {
                    payload,
                    took: begun.elapsed(),
                    told: None,
                })
            }
        }
    }
}

/// Our ends, each inside its namespace.
fn ends(runtime: &Runtime, gap: &Gap, link: LinkProfile) -> Result<Ends> {
    let here = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let keys = Keys::generate();
    let listener = gap.hub().within(|| {
        let _guard = runtime.enter();
        keys.listen(here, &link)
    })??;
    let dialer = gap.clinic().within(|| {
        let _guard = runtime.enter();
        keys.dialer(here)
    })??;
    Ok(Ends {
        keys,
        link,
        listener,
        dialer,
    })
}

/// Writes slices of a phantom in every form that somebody sends; returns the bytes of the slices.
fn load(folder: &Path, kilobytes: u32, seed: u64) -> Result<(Freight, u64)> {
    let phantom = Phantom::head(seed);
    let mut instances = Vec::new();
    let mut payload = 0;
    // A slice for each association, however small the payload.
    while payload < u64::from(kilobytes) * 1000 || instances.len() < ASSOCIATIONS {
        let slice = phantom.slice(instances.len().try_into()?);
        payload += slice.file.len() as u64;
        instances.push(slice);
    }
    let files = folder.join("files");
    write_folder(&files, &instances)?;
    let mut shares = Vec::new();
    for number in 0..ASSOCIATIONS {
        let share = folder.join(format!("share-{number}"));
        let part: Vec<_> = instances
            .iter()
            .skip(number)
            .step_by(ASSOCIATIONS)
            .cloned()
            .collect();
        write_folder(&share, &part)?;
        shares.push(share);
    }
    let (tar, arrived) = (folder.join("study.tar"), folder.join("arrived"));
    let mut command = Command::new("tar");
    command.arg("-cf").arg(&tar).arg("-C").arg(&files).arg(".");
    finish(command, PATIENCE_MIN)?.success()?;
    std::fs::create_dir(&arrived)?;
    let freight = Freight {
        shares,
        files,
        tar,
        arrived,
    };
    Ok((freight, payload))
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what this program is for"
)]
fn println(line: &str) {
    println!("{line}");
}

//! `cargo demo`: the whole system on one machine, and a CT study all the way through it.
//!
//! In: a link's name, a folder of DICOM files or nothing. Out: live progress, then a table.
//! Invariant: everything shown was read from the programs; nothing is left running or on disk.
//! May not: know the inside of a program: it does what a person with a shell would do.

#![forbid(unsafe_code)]

mod progress;
mod table;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use kit::phantom::{Instance, Phantom};
use kit::process::{self, Programs};
use kit::relay::Profile;
use kit::world::{World, WorldConfig, words};
use serde_json::json;
use study::StudyUid;
use study::dataset::InstanceHead;

use progress::Progress;
use table::Row;

/// How often the programs are asked how far they are.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long nothing may change before the demo says that something is wrong.
const STALL: Duration = Duration::from_secs(300);
/// The exit code after Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// Runs hub, box, satellite link, scanner and radiologist on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo demo", bin_name = "cargo demo --", version, about)]
struct Options {
    /// The link between clinic and hub: geo, geo-rain, bgan, leo or none.
    #[arg(long, default_value = "geo", value_parser = link)]
    link: Link,
    /// A folder of DICOM files instead of the generated head.
    #[arg(long, value_name = "DIR")]
    study: Option<PathBuf>,
    /// Ends when the report is back, instead of leaving everything up to be looked at.
    #[arg(long)]
    once: bool,
    /// Prints one JSON document at the end instead of progress and a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone)]
struct Link {
    name: String,
    profile: Profile,
}

fn link(name: &str) -> Result<Link, String> {
    let profile = Profile::named(name).ok_or("one of geo, geo-rain, bgan, leo, none")?;
    Ok(Link {
        name: name.to_owned(),
        profile,
    })
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // The demo starts itself again as each of the programs.
    if process::is_role(args.get(1)) {
        return process::multi_call(args);
    }
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(error) => {
            let code = if error.use_stderr() { 64 } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    if let Err(error) = watch_for_ctrl_c(Arc::clone(&interrupted)) {
        eprintln!("demo: {error:#}");
        return ExitCode::from(70);
    }
    match run(&options, &interrupted) {
        Ok(()) if interrupted.load(Ordering::Relaxed) => ExitCode::from(EXIT_INTERRUPTED),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn watch_for_ctrl_c(interrupted: Arc<AtomicBool>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                interrupted.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(())
}

fn run(options: &Options, interrupted: &AtomicBool) -> anyhow::Result<()> {
    let mut progress = Progress::new(options.json);
    let instances = match &options.study {
        Some(folder) => Instance::read_folder(folder)?,
        None => {
            progress.say("making a CT of a head that belongs to nobody: 120 slices of 512 x 512");
            Phantom::head(1).instances()
        }
    };
    let studies = studies_of(&instances)?;
    progress.say("provisioning a fleet; starting hub, satellite link and box");
    let programs = Programs::at(std::env::current_exe()?);
    let mut world = World::start(programs, WorldConfig::on(options.link.profile))?;
    show_where_to_look(&mut world, &options.link, &mut progress)?;

    let rows = tell_story(
        &mut world,
        options,
        &instances,
        &studies,
        &mut progress,
        interrupted,
    )?;
    if interrupted.load(Ordering::Relaxed) {
        progress.say("interrupted; ending all programs");
        return Ok(());
    }
    if options.json {
        let studies: Vec<_> = rows.iter().map(Row::to_json).collect();
        table::write(&format!(
            "{:#}\n",
            json!({ "link": options.link.name, "studies": studies })
        ))?;
    } else {
        for row in &rows {
            table::write(&row.to_text())?;
        }
    }
    if !options.once {
        progress.say("everything is still up; Ctrl-C ends it");
        while !interrupted.load(Ordering::Relaxed) {
            pause();
        }
    }
    Ok(())
}

/// From the scanner to the printed report.
fn tell_story(
    world: &mut World,
    options: &Options,
    instances: &[Instance],
    studies: &BTreeMap<StudyUid, usize>,
    progress: &mut Progress,
    interrupted: &AtomicBool,
) -> anyhow::Result<Vec<Row>> {
    let modality = world.modality()?;
    let begun = Instant::now();
    let (scanned, done) = (AtomicBool::new(false), begun);
    let mut rows: BTreeMap<StudyUid, Row> = BTreeMap::new();
    let count = instances.len();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let sending = scope.spawn(|| {
            let sent = modality.send(instances).complete(count);
            scanned.store(true, Ordering::Relaxed);
            sent
        });
        let mut last_change = (String::new(), done);
        while rows.len() < studies.len() && !interrupted.load(Ordering::Relaxed) {
            let status = world.agent_status()?;
            let line = progress.look(&status, count, scanned.load(Ordering::Relaxed));
            if line != last_change.0 {
                last_change = (line, Instant::now());
            } else if last_change.1.elapsed() > STALL {
                bail!("nothing has moved for {} s: {status:#}", STALL.as_secs());
            }
            for study in status["studies"].as_array().into_iter().flatten() {
                let uid =
                    StudyUid::parse(study["study_instance_uid"].as_str().unwrap_or_default())?;
                if study["custody"] == "at_hub" && !rows.contains_key(&uid) {
                    let elapsed = progress.crossing(&uid).unwrap_or_else(|| begun.elapsed());
                    progress.say("custody is at the hub: its receipt has come back and holds");
                    read_and_report(world, &uid, progress)?;
                    let after = world
                        .study_at_agent(&uid)?
                        .context("the box lost the study")?;
                    rows.insert(uid, Row::new(&after, &options.link.profile, elapsed));
                }
            }
            pause();
        }
        match sending.join() {
            Ok(sent) if !interrupted.load(Ordering::Relaxed) => sent.context("the scanner failed"),
            Ok(_) => Ok(()),
            Err(_) => bail!("the scanner's thread broke"),
        }
    })?;
    Ok(rows.into_values().collect())
}

/// The radiologist's part: files a signed report at the hub and waits until the box has it.
fn read_and_report(world: &World, study: &StudyUid, progress: &mut Progress) -> anyhow::Result<()> {
    let impression = "Demonstration report. Nothing was read.";
    world.file_report(study, impression)?.success()?;
    progress.say("a report is signed by the radiologist's own key; waiting until the box has it");
    world.wait_at_agent(study, "report", "final", STALL)?;
    let print = world
        .agent_command(words(["report", "print", study.as_str()], []))?
        .success()?;
    progress.say("the report is back in the box, its signature holds; this prints at the clinic:");
    progress.say(print.trim_end());
    Ok(())
}

fn show_where_to_look(
    world: &mut World,
    link: &Link,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let dicom = world.agent()?.address("dicom")?;
    let console = world.agent()?.ready("console")?.to_owned();
    let web = world.hub()?.ready("web")?.to_owned();
    progress.say(&format!(
        "box      DICOM {dicom} (AE title CHASQUI), console {console}"
    ));
    progress.say(&format!("hub      {web}"));
    progress.say(&format!("link     {} (a relay between them)", link.name));
    progress.say("consent  site policy `emergency`: studies leave without asking a person");
    progress.say(&format!(
        "folder   {} (logs inside)",
        world.path("").display()
    ));
    Ok(())
}

/// The studies that the instances belong to, with how many instances each has.
fn studies_of(instances: &[Instance]) -> anyhow::Result<BTreeMap<StudyUid, usize>> {
    let mut studies = BTreeMap::new();
    for instance in instances {
        let head = InstanceHead::read(instance.data_set(), &instance.transfer_syntax)?;
        *studies.entry(head.study).or_insert(0) += 1;
    }
    anyhow::ensure!(!studies.is_empty(), "there are no DICOM files to send");
    Ok(studies)
}

/// Waits before the next look at the programs.
fn pause() {
    std::thread::park_timeout(LOOK_INTERVAL);
}

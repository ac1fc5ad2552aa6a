//! A box alone: it takes studies in and packs them for a hub that it never reaches. And how long
//! campaigns are.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use kit::modality::Modality;
use kit::phantom::Instance;
use kit::process::{Finished, Programs, Role, Running};
use kit::voucher::enrol_offline;
use kit::world::{same, words};
use serde_json::Value;
use study::SopInstanceUid;

const LENGTH_VARIABLE: &str = "CHASQUI_CAMPAIGN";
const SEED_VARIABLE: &str = "CHASQUI_SEED";

/// How many times as long as usual a campaign is to be.
pub(crate) fn campaign_length() -> u64 {
    number(LENGTH_VARIABLE).unwrap_or(1)
}

/// The seed a campaign begins with.
pub(crate) fn campaign_seed() -> u64 {
    number(SEED_VARIABLE).unwrap_or(1)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`")))
}

/// Says something although the test holds; the test runner keeps what the macros print.
pub(crate) fn report(line: &str) {
    use std::io::Write as _;
    let mut out = std::io::stderr();
    writeln!(out, "{line}").unwrap();
}

/// A box whose hub is nowhere.
pub(crate) struct Lone {
    running: Option<Running>,
    programs: Programs,
    folder: PathBuf,
    aside: PathBuf,
    wrapper: Vec<OsString>,
    settings: Vec<(String, String)>,
}

impl Lone {
    /// A box whose folder lies in `place`, its log and its fleet `aside`; it does not run yet.
    pub(crate) fn new(
        programs: Programs,
        place: &Path,
        aside: &Path,
        settings: &[(&str, &str)],
    ) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let folder = place.join("box");
        enrol_offline(&programs, aside, &folder).unwrap();
        Self {
            running: None,
            programs,
            folder,
            aside: aside.to_owned(),
            wrapper: Vec::new(),
            settings: settings.iter().map(own).collect(),
        }
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lets it run under another program from its next start on.
    pub(crate) fn wrap(&mut self, wrapper: impl IntoIterator<Item = OsString>) {
        self.wrapper = wrapper.into_iter().collect();
    }

    /// Starts it.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let mut command = self.programs.command(Role::Agent);
        command.args(["serve", "--dicom-port", "0", "--console-port", "0"]);
        command.arg("--data").arg(&self.folder);
        command.envs(self.settings.iter().cloned());
        if let [wrapper, args @ ..] = &self.wrapper[..] {
            command = within(command, wrapper, args);
        }
        let log = self.aside.join("box.log");
        self.running = Some(Running::start(command, Role::Agent, &log)?);
        Ok(())
    }

    /// Ends it in order.
    pub(crate) fn stop(&mut self) {
        let running = self.running.take().expect("it runs");
        assert!(running.stop().unwrap().success());
    }

    /// Ends it as a power cut of the processor alone would. Killed already, it only is waited for.
    pub(crate) fn kill(&mut self) {
        self.running.take().expect("it runs").kill().unwrap();
    }

    /// Its process.
    pub(crate) fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("it runs")
    }

    /// Where it takes studies in.
    pub(crate) fn dicom(&mut self) -> SocketAddr {
        self.running().address("dicom").unwrap()
    }

    /// A scanner that knows it.
    pub(crate) fn modality(&mut self) -> Modality {
        Modality::new(self.dicom()).unwrap()
    }

    /// Runs a command on its folder.
    pub(crate) fn command(&self, args: impl IntoIterator<Item = OsString>) -> Finished {
        let args: Vec<_> = args
            .into_iter()
            .chain(words(["--data"], [self.folder.clone()]))
            .collect();
        self.programs.run(Role::Agent, &args).unwrap()
    }

    /// `status --json`.
    pub(crate) fn status(&self) -> Value {
        self.command(words(["status", "--json"], []))
            .json()
            .unwrap()
    }

    /// Every copy of one instance, in the order they came.
    pub(crate) fn copies(&self, sop: &SopInstanceUid, count: usize) -> Vec<Instance> {
        let output = self.aside.join("copy.dcm");
        let get = |copy: usize| {
            let copy = copy.to_string();
            let args = words(
                ["get", sop.as_str(), "--copy", &copy, "-o"],
                [output.clone()],
            );
            self.command(args)
        };
        let all = (1..=count).map(|copy| {
            get(copy).success().unwrap();
            Instance::parse(std::fs::read(&output).unwrap()).unwrap()
        });
        let all = all.collect();
        // There is not one more.
        get(count + 1).failure(1).unwrap();
        all
    }

    /// Fails unless it gives each of these, once and with exactly this data set.
    pub(crate) fn has_exactly<'a>(&self, instances: impl IntoIterator<Item = &'a Instance>) {
        self.look_at(instances).unwrap();
    }

    /// The same, as an error.
    pub(crate) fn look_at<'a>(
        &self,
        instances: impl IntoIterator<Item = &'a Instance>,
    ) -> anyhow::Result<()> {
        let wanted: BTreeMap<_, _> = instances.into_iter().map(|i| (&i.sop, i)).collect();
        let place = tempfile::tempdir().unwrap();
        let (list, output) = (place.path().join("list"), place.path().join("files"));
        write_list(&list, wanted.keys().copied());
        let args = words(["get", "--list"], [list]).chain(words(["-o"], [output.clone()]));
        if wanted.is_empty() {
            return Ok(());
        }
        self.command(args).success()?;
        let got = Instance::read_folder(&output)?;
        assert_eq!(got.len(), wanted.len(), "each is there once");
        got.iter().try_for_each(|got| same(wanted[&got.sop], got))
    }
}

/// The same instance under UIDs that end otherwise, everywhere in its file; rendering a new one
/// takes long.
pub(crate) fn renamed(instance: &Instance, endings: &[(&str, &str)]) -> Instance {
    let mut file = instance.file.clone();
    for (uid, ending) in endings {
        let uid = uid.as_bytes();
        for at in 0..file.len() - uid.len() {
            let place = &mut file[at..at + uid.len()];
            if place == uid {
                place[uid.len() - ending.len()..].copy_from_slice(ending.as_bytes());
            }
        }
    }
    Instance::parse(file).unwrap()
}

/// The same command under another program.
fn within(command: Command, wrapper: &OsString, args: &[OsString]) -> Command {
    let mut outer = Command::new(wrapper);
    outer
        .args(args)
        .arg(command.get_program())
        .args(command.get_args());
    let set = |(name, value): (_, Option<_>)| Some((name, value?));
    outer.envs(command.get_envs().filter_map(set));
    outer
}

/// Writes a list as `get --list` reads it.
pub(crate) fn write_list<'a>(path: &Path, sops: impl Iterator<Item = &'a SopInstanceUid>) {
    let lines: BTreeSet<_> = sops.map(|sop| format!("{sop}\n")).collect();
    std::fs::write(path, lines.into_iter().collect::<String>()).unwrap();
}

//! Commands that are done by the desk: of the running hub, or of this program itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use control::Reply;
use identity::{FLEET_BYTES_MAX, FleetDocument, NodeKey, files};
use report::{Case, Draft};
use serde_json::Value;
use study::{SopInstanceUid, StudyRoot, StudyUid};

use super::{
    BundleExportArgs, BundleImportArgs, DataArgs, Failure, GetArgs, ReportFileArgs, TokenArgs,
    WhoseArgs,
};
use super::{configuration, open_failure, print};
use crate::bundles::BundleRequest;
use crate::config::Config;
use crate::desk::{self, Request, Whose, Wish};
use crate::run::Rooms;
use clock::wall_ms;

/// Asks until there is an answer; keeps what was opened for the next question.
struct Desk<'a> {
    folder: &'a Path,
    /// For when no hub runs in the folder.
    config: Config,
    own: Option<(tokio::runtime::Runtime, Arc<Rooms>)>,
}

impl<'a> Desk<'a> {
    fn new(args: &'a DataArgs) -> Result<Self, Failure> {
        let config = configuration(args.config.as_deref(), Vec::new())?;
        Ok(Self::with(&args.data, config))
    }

    fn with(folder: &'a Path, config: Config) -> Self {
        Self {
            folder,
            config,
            own: None,
        }
    }

    fn ask(&mut self, request: Request) -> Result<Reply, Failure> {
        let reply = match self.running(&request)? {
            Some(reply) => reply,
            None => self.own_answer(request)?,
        };
        match reply {
            Reply { exit: 0, .. } => Ok(reply),
            Reply { exit, error, .. } => {
                let error = anyhow!(error.unwrap_or_else(|| "the request failed".to_owned()));
                Err(Failure { exit, error })
            }
        }
    }

    fn running(&self, request: &Request) -> Result<Option<Reply>, Failure> {
        // A folder that is not there has no hub in it; to open it says so.
        if self.own.is_some() || !self.folder.exists() {
            return Ok(None);
        }
        let request = serde_json::to_value(request).expect("a request is plain JSON");
        control::ask(self.folder, &request)
            .context("the running hub cannot be asked")
            .map_err(Failure::internal)
    }

    fn own_answer(&mut self, request: Request) -> Result<Reply, Failure> {
        if self.own.is_none() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(Failure::internal)?;
            let rooms = Rooms::open(self.folder, &self.config).map_err(open_failure)?;
            self.own = Some((runtime, Arc::new(rooms)));
        }
        let (runtime, rooms) = self.own.as_ref().expect("opened above");
        // What a stick brings is judged before its command ends, as in a hub that runs.
        let judges = matches!(request, Request::Bundle(_));
        let judging = judges.then(|| rooms.inbox.start()).transpose();
        let judging = judging.map_err(Failure::internal)?;
        let reply = runtime.block_on(desk::answer(Arc::clone(rooms), request));
        if let Some(judging) = judging {
            rooms.inbox.stop();
            drop(judging.join());
        }
        Ok(reply)
    }
}

pub(super) fn fleet_apply(args: &DataArgs, file: &Path) -> Result<(), Failure> {
    let bytes = files::read(file, FLEET_BYTES_MAX as u64).map_err(Failure::request)?;
    let document = desk::hex(&bytes);
    let reply = Desk::new(args)?.ask(Request::FleetApply { document })?;
    show(args, &reply.output, |output| {
        let version = &output["version"];
        let words = if output["applied"] == true {
            "in force"
        } else {
            "in force already"
        };
        print::line(&format!("fleet document {version} {words}"))
    })
}

pub(super) fn study_list(args: &DataArgs) -> Result<(), Failure> {
    let reply = Desk::new(args)?.ask(Request::StudyList)?;
    show(args, &reply.output, print::studies)
}

pub(super) fn study_show(args: &DataArgs, study: StudyUid) -> Result<(), Failure> {
    let reply = Desk::new(args)?.ask(Request::StudyShow { study })?;
    show(args, &reply.output, print::studies)
}

/// Tells the unit of a study what is wanted of it.
pub(super) fn wish(args: &WhoseArgs, wish: Wish) -> Result<(), Failure> {
    let study = args.study.clone();
    let unit = args.unit.map(|unit| unit.to_string());
    let whose = Whose { study, unit };
    let reply = Desk::new(&args.data)?.ask(Request::Wish { whose, wish })?;
    show(&args.data, &reply.output, |output| {
        let groups = output["groups"].as_u64();
        groups.map_or(Ok(()), |groups| {
            print::line(&format!("groups asked for: {groups}"))
        })
    })
}

pub(super) fn get(args: &GetArgs) -> Result<(), Failure> {
    let mut desk = Desk::new(&args.data)?;
    if let Some(sop) = &args.sop_instance_uid {
        return fetch(&mut desk, sop, args.copy, &args.output);
    }
    let list = args
        .list
        .as_deref()
        .expect("the arguments name an instance or a list");
    let text = fs::read_to_string(list)
        .with_context(|| format!("cannot read {}", list.display()))
        .map_err(Failure::request)?;
    fs::create_dir_all(&args.output)
        .with_context(|| format!("cannot make {}", args.output.display()))
        .map_err(Failure::request)?;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let sop = SopInstanceUid::parse(line)
            .with_context(|| format!("{} names {line:?}", list.display()))
            .map_err(Failure::request)?;
        fetch(&mut desk, &sop, 1, &args.output.join(format!("{sop}.dcm")))?;
    }
    Ok(())
}

fn fetch(desk: &mut Desk<'_>, sop: &SopInstanceUid, copy: u32, to: &Path) -> Result<(), Failure> {
    let reply = desk.ask(Request::Get {
        sop: sop.clone(),
        copy,
    })?;
    fs::write(to, &reply.body)
        .with_context(|| format!("cannot write {}", to.display()))
        .map_err(Failure::request)?;
    let copies = reply.output["copies"].as_u64().unwrap_or(1);
    if copies > 1 {
        eprintln!("chasqui-hub: {sop}: {copies} instances share this UID, see --copy");
    }
    Ok(())
}

/// Signs here and files there: the radiologist's key never leaves this process.
pub(super) fn report_file(args: &ReportFileArgs) -> Result<(), Failure> {
    let draft = fs::read(&args.from)
        .with_context(|| format!("cannot read {}", args.from.display()))
        .and_then(|bytes| Ok(Draft::from_json(&bytes)?))
        .map_err(Failure::request)?;
    let key = signing_key(&args.sign, args.passphrase_file.as_deref()).map_err(Failure::request)?;
    let mut desk = Desk::new(&args.data)?;
    let unit = args.unit.map(|unit| unit.to_string());
    let open = desk.ask(Request::ReportCase {
        study: args.study.clone(),
        unit,
    })?;
    let signed = sign(args, draft, &key, &open).map_err(Failure::request)?;
    let unit = open.output["unit"].as_str().unwrap_or_default().to_owned();
    let (signed, incomplete) = (desk::hex(&signed), args.incomplete);
    let reply = desk.ask(Request::ReportFile {
        unit,
        signed,
        incomplete,
    })?;
    show(&args.data, &reply.output, |output| {
        print::line(&format!(
            "{} report filed",
            output["report"].as_str().unwrap_or_default()
        ))
    })
}

fn signing_key(file: &Path, passphrase_file: Option<&Path>) -> anyhow::Result<NodeKey> {
    let words = || format!("cannot use the key {}", file.display());
    match passphrase_file {
        None => NodeKey::load(file)
            .context("a sealed key needs --passphrase-file")
            .with_context(words),
        Some(passphrase_file) => {
            let passphrase = identity::read_passphrase(passphrase_file)?;
            identity::load_sealed_key(file, &passphrase).with_context(words)
        }
    }
}

fn sign(
    args: &ReportFileArgs,
    draft: Draft,
    key: &NodeKey,
    open: &Reply,
) -> anyhow::Result<Vec<u8>> {
    let path = args.data.data.join("fleet.cose");
    let fleet = FleetDocument::parse_own(&files::read(&path, FLEET_BYTES_MAX as u64)?)?;
    let previous = match open.output["has_previous"].as_bool() {
        Some(true) => Some(report::verify(&open.body, &fleet)?),
        Some(false) | None => None,
    };
    let count = |field: &str| u32::try_from(open.output[field].as_u64().unwrap_or(0));
    let case = Case {
        study: args.study.clone(),
        root: StudyRoot::from_digest(open.output["root"].as_str().unwrap_or_default().parse()?),
        instances_seen: count("instances_seen")?,
        instances_total: count("instances_total")?,
    };
    let document = draft.complete(case, previous.as_ref(), wall_ms())?;
    Ok(report::sign(&document, key))
}

pub(super) fn token(args: &TokenArgs) -> Result<(), Failure> {
    let request = Request::Token {
        role: args.role,
        hours: args.hours,
    };
    let reply = Desk::new(&args.data)?.ask(request)?;
    show(&args.data, &reply.output, |output| {
        print::line(output["token"].as_str().unwrap_or_default())
    })
}

pub(super) fn diagnose(args: &DataArgs) -> Result<(), Failure> {
    let reply = Desk::new(args)?.ask(Request::Diagnose)?;
    print::json(&reply.output)
}

/// Has every chunk at rest read again; gives what is damaged.
pub(super) fn scrub(folder: &Path, config: &Config) -> Result<Value, Failure> {
    let reply = Desk::with(folder, config.clone()).ask(Request::Scrub)?;
    Ok(reply.output)
}

/// Writes bundles for boxes onto a stick.
pub(super) fn bundle_export(args: &BundleExportArgs) -> Result<(), Failure> {
    let request = BundleRequest::Export {
        path: whole(&args.mountpoint)?,
        part_bytes: args.part_size,
    };
    let output = carry(&args.data, request)?;
    if let Some(warning) = bundle::export_warning(&output) {
        eprintln!("warning: {warning}");
    }
    show(&args.data, &output, |output| {
        print::line(bundle::export_text(output).trim_end())
    })
}

/// Takes the boxes' bundles from a stick.
pub(super) fn bundle_import(args: &BundleImportArgs) -> Result<(), Failure> {
    let request = BundleRequest::Import {
        path: whole(&args.mountpoint)?,
        remove_imported: args.remove_imported,
    };
    let output = carry(&args.data, request)?;
    show(&args.data, &output, |output| {
        print::line(bundle::import_text(output).trim_end())
    })?;
    match output["failed"].as_u64() {
        Some(0) | None => Ok(()),
        Some(count) => Err(Failure::request(anyhow!(
            "{count} bundle(s) could not be imported"
        ))),
    }
}

/// Asks the desk, and says how far the work has come while it goes on.
fn carry(args: &DataArgs, request: BundleRequest) -> Result<Value, Failure> {
    let look = || {
        let look = serde_json::to_value(Request::Bundle(BundleRequest::Look)).ok()?;
        match control::ask(&args.data, &look).ok()? {
            Some(reply) => Some(reply.output),
            None => Some(bundle::at_work(&bundle::Progress::of_this_program())),
        }
    };
    let tell = |text: &str| eprintln!("{text}");
    let work = || Desk::new(args)?.ask(Request::Bundle(request));
    Ok(bundle::with_progress(work, look, tell)?.output)
}

/// The running hub may stand in another folder.
fn whole(mountpoint: &Path) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(mountpoint);
    path.with_context(|| format!("cannot look at {}", mountpoint.display()))
        .map_err(Failure::request)
}

fn show(
    args: &DataArgs,
    output: &Value,
    plain: impl FnOnce(&Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if args.json {
        print::json(output)
    } else {
        plain(output)
    }
}

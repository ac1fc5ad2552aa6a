//! Voucher: makes a box that belongs to a fleet and has never reached its hub.
//!
//! In: a place for the fleet, the box's folder. Out: the folder with the box's keys and its voucher.
//! Invariant: the hub is nobody's: what the box packs is sealed for it, and nothing leaves.
//! May not: be used where something is to arrive.

use std::path::{Path, PathBuf};

use crate::process::{Programs, Role};

/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:9";

/// Gives the box in `data` a voucher of a fleet in `place`, which is made when it is not there.
pub fn enrol_offline(programs: &Programs, place: &Path, data: &Path) -> anyhow::Result<()> {
    let path = |name: &str| place.join(name);
    let (fleet, voucher) = (path("fleet"), path("voucher"));
    if !voucher.exists() {
        let provision = |words: &[&str], output: &[PathBuf]| {
            let (verb, rest) = words.split_at(1);
            let verb = verb.iter().map(PathBuf::from).chain([fleet.clone()]);
            let rest = rest.iter().map(PathBuf::from);
            let args = verb.chain(rest).chain(output.iter().cloned());
            let args: Vec<_> = args.collect();
            programs.run(Role::Provision, &args)?.success()
        };
        provision(&["init"], &[])?;
        let hub = ["hub", "--name", "hub", "--address", NOWHERE, "-o"];
        provision(&hub, &[path("hub-of-nobody")])?;
        let unit = ["unit", "--site", "north clinic", "-o"];
        provision(&unit, std::slice::from_ref(&voucher))?;
    }
    let enrol = ["enrol", "--offline", "--voucher"].map(PathBuf::from);
    let args = enrol
        .into_iter()
        .chain([voucher, "--data".into(), data.to_owned()]);
    let enrolled = programs.run(Role::Agent, &args.collect::<Vec<_>>())?;
    enrolled.success().map(drop)
}

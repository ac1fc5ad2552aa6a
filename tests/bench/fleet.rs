//! bench-fleet: what many boxes cost one hub, every program a process of its own.
//!
//! In: how many boxes are on the line, how many of them send, slices a study. Out: when each
//! study was at the hub, what an urgent one had to wait, the hub's memory against its limit.
//! Invariant: a study counts when its box has verified the hub's receipt.
//! May not: emulate links; the hub and its disk are what is measured.
//!
//! `cargo run --release -p system-tests --bin bench-fleet -- 200 20 40`; the binary that is all
//! programs is built by `cargo build --release -p system-tests --bin chasqui-all`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use kit::fleet::Fleet;
use kit::phantom::Phantom;
use kit::process::Programs;
use kit::wait::until;

/// Issue of the fleet: a hub with 200 boxes stays below this.
const MEMORY_MOST: u64 = 2 << 30;
/// How long all of it may take before it counts as stuck.
const DEADLINE: Duration = Duration::from_secs(1800);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [boxes, sending, slices] = arguments.as_slice() else {
        bail!("usage: bench-fleet BOXES SENDING SLICES");
    };
    let (boxes, sending): (usize, usize) = (boxes.parse()?, sending.parse()?);
    ensure!(sending < boxes, "one box more must be there than send");
    let all = std::env::current_exe()?.with_file_name("chasqui-all");
    ensure!(all.exists(), "build the binary chasqui-all first");

    let begun = Instant::now();
    let mut fleet = Fleet::provision(Programs::at(all), boxes)?;
    for _ in 0..boxes {
        fleet.start_box()?;
    }
    let wanted = boxes.try_into()?;
    fleet.wait_metric("chasqui_hub_contacts_open ", wanted, DEADLINE)?;
    say(format!(
        "{boxes} boxes provisioned, enrolled and on the line after {:.0} s; hub {} MiB",
        begun.elapsed().as_secs_f64(),
        fleet.hub_memory_most()? >> 20,
    ));
    measure(&fleet, sending, slices.parse()?)?;
    let most = fleet.hub_memory_most()?;
    say(format!(
        "hub: {} MiB at most, {:.2} of the limit; {} boxes still on the line",
        most >> 20,
        ratio(most, MEMORY_MOST),
        fleet.metric("chasqui_hub_contacts_open ")?,
    ));
    Ok(())
}

/// Lets the first boxes send a study each, and one more an urgent one when they are at it.
fn measure(fleet: &Fleet, sending: usize, slices: u16) -> Result<()> {
    let phantoms: Vec<Phantom> = (0..=sending).map(|index| study_of(index, slices)).collect();
    let (urgent, routine) = phantoms.split_last().context("at least one sends")?;
    let begun = Instant::now();
    for (index, phantom) in routine.iter().enumerate() {
        scan(fleet, index, phantom)?;
    }
    say(format!(
        "{sending} studies of {slices} slices safe in their boxes after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    let asked = Instant::now();
    scan(fleet, sending, urgent)?;
    let mut waiting: Vec<usize> = (0..=sending).collect();
    let mut took = Vec::new();
    until(DEADLINE, "every study at the hub", || {
        waiting.retain(|index| {
            let there = at_hub(fleet, *index);
            if there && *index == sending {
                say(format!(
                    "the urgent one, sent last: at the hub after {:.1} s",
                    asked.elapsed().as_secs_f64()
                ));
            } else if there {
                took.push(begun.elapsed());
            }
            !there
        });
        waiting.is_empty().then_some(())
    })?;
    took.sort();
    let at = |share: usize| took.get((took.len() - 1) * share / 100).copied();
    say(format!(
        "at the hub, from the first slice: first {:.1?}, half {:.1?}, last {:.1?}",
        at(0).context("none")?,
        at(50).context("none")?,
        at(100).context("none")?,
    ));
    Ok(())
}

fn study_of(index: usize, slices: u16) -> Phantom {
    Phantom {
        seed: 1000 + index as u64,
        slices,
        side: 256,
    }
}

fn scan(fleet: &Fleet, index: usize, phantom: &Phantom) -> Result<()> {
    let instances = phantom.instances();
    fleet
        .modality(index)?
        .send(&instances)
        .complete(instances.len())
}

fn at_hub(fleet: &Fleet, index: usize) -> bool {
    let status = fleet.agent_command(index, &["status", "--json"]);
    let status = status.and_then(kit::process::Finished::json);
    status.is_ok_and(|status| status["studies"][0]["custody"] == "at_hub")
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a ratio is shown with two digits"
)]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn say(line: String) {
    println!("{line}");
}

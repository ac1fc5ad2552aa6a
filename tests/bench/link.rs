//! bench-link: how much of an emulated link one study uses, over the real QUIC stack.
//!
//! In: a profile, seeds, a payload, perhaps an outage. Out: one line of figures per seed.
//! Invariant: the clock runs from the box's first call until the box knows that all is stored.
//! May not: be part of the products; the disks are in memory, only the link is measured.
//!
//! `cargo run -p system-tests --bin bench-link -- geo 1,2,3 15000`: profile, seeds, payload in kB;
//! then `cubic` for that controller, `rate=KBITS` for a configured cap, `out=AFTER,LENGTH` for an
//! outage in seconds, `mtu=BYTES` for datagrams, `stat=AFTER` for an urgent study of 100 kB that is
//! offered in the midst of it. `geo-drop` and `leo-drop` bring an outage of their own.

mod aims;
mod ends;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use aims::{Figures, Trial, open_time};
use anyhow::{Context, Result, anyhow, bail};
use ends::{Crossed, Ends, Keys};
use kit::relay::{Outage, Relay, RelayConfig, WayCounters};
use sync_quic::{Control, LinkProfile};

struct Run {
    trial: Trial,
    link: LinkProfile,
    kilobytes: u32,
    outages: Vec<Outage>,
    stat_after: Option<Duration>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, seeds, kilobytes, options @ ..] = arguments.as_slice() else {
        bail!(
            "usage: bench-link PROFILE SEED,SEED.. KILOBYTES [cubic] [rate=KBITS] [out=AFTER,LENGTH] \
             [mtu=BYTES] [stat=AFTER]; profiles: {}",
            Trial::NAMES.join(", ")
        );
    };
    let run = plan(name, kilobytes.parse()?, options)?;
    for seed in seeds.split(',') {
        println(&format!(
            "{name:9} seed {seed}: {}",
            measure(&run, seed.parse()?).await?
        ));
    }
    Ok(())
}

fn plan(name: &str, kilobytes: u32, options: &[String]) -> Result<Run> {
    let trial = Trial::named(name).ok_or_else(|| anyhow!("no profile {name}"))?;
    let mut link = ends::link_profile(&trial.profile);
    let payload = u64::from(kilobytes) * 1000;
    let own = trial.outage.map(|length| Outage {
        after: trial.outage_after(payload),
        length,
    });
    let (mut outages, mut stat_after) = (Vec::from_iter(own), None);
    for option in options {
        match option.split_once('=') {
            None if option == "cubic" => link.control = Control::Cubic,
            Some(("rate", kbits)) => link.rate_kbits_max = Some(kbits.parse()?),
            Some(("mtu", bytes)) => link.datagram_bytes = bytes.parse()?,
            Some(("stat", after)) => {
                stat_after = Some(Duration::from_secs_f64(after.parse()?));
            }
            Some(("out", times)) => {
                let (after, length) = times.split_once(',').context("out=AFTER,LENGTH")?;
                let seconds = |text: &str| text.parse().map(Duration::from_secs_f64);
                outages.push(Outage {
                    after: seconds(after)?,
                    length: seconds(length)?,
                });
            }
            Some(_) | None => bail!("no option {option}"),
        }
    }
    Ok(Run {
        trial,
        link,
        kilobytes,
        outages,
        stat_after,
    })
}

async fn measure(run: &Run, seed: u64) -> Result<String> {
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let keys = Keys::generate();
    let ends = Ends {
        listener: keys.listen(here, &run.link)?,
        dialer: keys.dialer(here)?,
        keys,
        link: run.link.clone(),
    };
    let mut config = RelayConfig::to(ends.listener.local_addr()?, run.trial.profile, seed);
    config.outages.clone_from(&run.outages);
    let relay = Relay::start(&config)?;
    let crossed = ends
        .cross(relay.address(), run.kilobytes, run.stat_after)
        .await?;
    Ok(told(run, &crossed, relay.counters().up))
}

/// The line of figures of one run.
fn told(run: &Run, crossed: &Crossed, up: WayCounters) -> String {
    let gaps = run.trial.profile.gaps;
    let figures = Figures {
        payload: crossed.payload,
        took: crossed.took,
        open: open_time(gaps, &run.outages, Duration::ZERO, crossed.took),
        up,
    };
    format!(
        "{} in {:.1} s (of which open {:.1} s), lost {:.3}, silenced {}, {}",
        figures.judged(&run.trial),
        figures.took.as_secs_f64(),
        figures.open.as_secs_f64(),
        figures.loss(),
        up.silenced,
        crossed.told(),
    )
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what this program is for"
)]
fn println(line: &str) {
    println!("{line}");
}

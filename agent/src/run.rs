//! The only place that builds the rooms and joins them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use control::{Reply, Server};
use settings::Flag;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use toml::Value;

use crate::cli::{self, ServeArgs};
use crate::commands::{self, Failure, Request, Rooms, say};
use crate::config::{Config, TierName};
use crate::intake::Desk;
use crate::membership::Membership;
use crate::status::LinkStatus;
use crate::vault::keep;
use crate::{console, contact, intake, orders, pack, priors, reports, scrub};

/// How often it is looked whether the vault is to be locked.
const RELOCK_LOOK: Duration = Duration::from_secs(1);
/// A link's rate counts as measured after so many bytes in a contact: the first ones are sent to find it.
const LINK_MEASURED_BYTES: u64 = 512 << 10;
/// How long the rooms may take to end in order.
const STOP_DEADLINE: Duration = Duration::from_secs(4);

/// `serve`
pub(crate) fn command(args: &ServeArgs) -> Result<(), Failure> {
    telemetry::init("chasqui-agent");
    if args.hub.as_deref().is_some_and(|hub| !cli::is_address(hub)) {
        return Err(Failure::usage("--hub takes HOST:PORT"));
    }
    let config =
        Config::load(args.config.as_deref(), flags(args)).map_err(Failure::configuration)?;
    identity::files::create_private_directory(&args.data).context("cannot make the folder")?;
    let _lock = commands::take_lock(&args.data).context("cannot work in the folder")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::internal)?;
    let membership = Membership::open_or_found(&args.data).context("cannot open the box")?;
    let rooms =
        Rooms::open(&args.data, membership, config.vault.clone()).context("cannot open the box")?;
    let (file, given) = (args.config.clone(), flags(args));
    rooms
        .uplinks
        .begin(&config, move || {
            Config::load(file.as_deref(), given.clone())
        })
        .map_err(Failure::configuration)?;
    let served = runtime.block_on(serve(args, config, rooms));
    // What still computes on a thread of its own is of no use any more.
    runtime.shutdown_background();
    served
}

fn flags(args: &ServeArgs) -> Vec<Flag> {
    let port = |port: Option<u16>| port.map(|p| Value::Integer(p.into()));
    vec![
        ("intake.dicom-port", port(args.dicom_port)),
        ("console.port", port(args.console_port)),
        ("link.hub", args.hub.clone().map(Value::String)),
    ]
}

async fn serve(args: &ServeArgs, config: Config, mut rooms: Rooms) -> Result<(), Failure> {
    let link = Arc::new(LinkStatus::default());
    rooms.link = Some(Arc::clone(&link));
    rooms.ae_title.clone_from(&config.intake.ae_title);
    let dicom = bind(
        SocketAddr::new(config.intake.bind, config.intake.dicom_port),
        "DICOM",
    )
    .await?;
    let web = bind(
        SocketAddr::new(config.console.bind, config.console.port),
        "console",
    )
    .await?;
    let control = Server::bind(&args.data).context("cannot open the control socket")?;
    let addresses = (
        dicom.local_addr().map_err(Failure::internal)?,
        web.local_addr().map_err(Failure::internal)?,
    );

    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let vault = rooms.vault.clone();
    tasks.spawn({
        let desk = Desk {
            vault: vault.clone(),
            orders: rooms.orders.clone(),
            modalities: rooms.modalities.clone(),
        };
        let intake = intake::run(dicom, desk, config.intake.clone(), stop.clone());
        async { intake.await.context("intake") }
    });
    spawn_doorless(&mut tasks, &rooms, &link, &config, &stop);
    tasks.spawn({
        let membership = Arc::clone(&rooms.membership);
        let uplinks = rooms.uplinks.clone();
        let contact = contact::Contact::new(vault.clone(), membership, link, uplinks, config.link);
        let stop = stop.clone();
        async move {
            contact
                .context("contact")?
                .run(stop)
                .await
                .context("contact")
        }
    });
    tasks.spawn({
        let console = console::run(web, rooms.clone(), stop.clone());
        async { console.await.context("console") }
    });
    let commands = tokio::spawn(control.serve({
        let rooms = rooms.clone();
        move |request| answer(rooms.clone(), request)
    }));

    let signals = Signals::listen()?;
    say(&format!(
        "ready dicom={} console=http://{}\n",
        addresses.0, addresses.1
    ))?;
    let ended = wait_for_end(signals, &rooms, &mut tasks).await;
    commands.abort();
    stop.cancel();
    let rest = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_DEADLINE, rest).await.is_err() {
        tracing::warn!("a room did not end in time");
    }
    ended
}

/// Starts what works on the vault alone, and talks to nobody outside.
fn spawn_doorless(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    rooms: &Rooms,
    link: &Arc<LinkStatus>,
    config: &Config,
    stop: &CancellationToken,
) {
    let vault = &rooms.vault;
    tasks.spawn(ends_well(pack::run(
        vault.clone(),
        pack_settings(config, Arc::clone(link)),
        stop.clone(),
    )));
    tasks.spawn(ends_well(orders::run(
        vault.clone(),
        Arc::clone(&rooms.membership),
        stop.clone(),
    )));
    tasks.spawn(ends_well(priors::run(vault.clone(), stop.clone())));
    tasks.spawn(ends_well(orders::reconcile(
        rooms.orders.clone(),
        stop.clone(),
    )));
    tasks.spawn(ends_well(reports::run(rooms.reports.clone(), stop.clone())));
    tasks.spawn(ends_well(scrub::run(
        vault.clone(),
        scrub::Settings::of(&config.vault),
        stop.clone(),
    )));
    tasks.spawn(ends_well(keep::run(vault.clone(), stop.clone())));
    tasks.spawn(ends_well(mind_keys(
        rooms.clone(),
        config.vault.relock_after.as_millis(),
        stop.clone(),
    )));
}

/// Tells the vault to which hub it seals, and locks it when nobody reads.
async fn mind_keys(rooms: Rooms, relock_after_ms: u64, stop: CancellationToken) {
    let mut papers = rooms.membership.watch();
    let mut look = tokio::time::interval(RELOCK_LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = papers.changed() => {
                if changed.is_err() { return }
                rooms.vault.set_hub(rooms.membership.hub().map(|hub| hub.store));
            }
            _ = look.tick() => {
                if rooms.vault.keys().lock_if_idle(relock_after_ms) {
                    rooms.vault.note_lock();
                    tracing::info!("locked the vault: nobody has read anything for a while");
                }
            }
        }
    }
}

/// What asks the program to end; listened to before anybody is told that it is ready.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::internal);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }
}

/// Waits for a signal, a failed disk, or a room that ended by itself.
async fn wait_for_end(
    mut signals: Signals,
    rooms: &Rooms,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> Result<(), Failure> {
    let reload = async {
        while signals.hangup.recv().await.is_some() {
            if let Err(error) = rooms.uplinks.reload() {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the uplinks stay as they were");
            }
        }
    };
    tokio::select! {
        _ = signals.terminate.recv() => Ok(()),
        _ = signals.interrupt.recv() => Ok(()),
        () = reload => Err(Failure::internal(anyhow!("no signals come any more"))),
        error = rooms.vault.poisoned() => {
            tracing::error!(error = &*error as &dyn std::error::Error, "the disk has failed");
            Err(Failure::internal(anyhow!("the disk failed to sync; nothing more is taken in")))
        }
        ended = tasks.join_next() => Err(Failure::internal(match ended {
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(()))) | None => anyhow!("a room ended by itself"),
            Some(Err(error)) => anyhow::Error::new(error).context("a room broke"),
        })),
    }
}

async fn bind(address: SocketAddr, what: &str) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).await;
    Ok(bound.with_context(|| format!("cannot listen on {address} for {what}"))?)
}

async fn ends_well(room: impl Future<Output = ()>) -> anyhow::Result<()> {
    room.await;
    Ok(())
}

async fn answer(rooms: Rooms, request: serde_json::Value) -> Reply {
    match serde_json::from_value::<Request>(request) {
        Ok(request) => rooms.execute(request).await,
        Err(error) => Reply {
            exit: 64,
            error: Some(format!(
                "the running program does not know this request: {error}"
            )),
            ..Reply::default()
        },
    }
}

fn pack_settings(config: &Config, link: Arc<LinkStatus>) -> pack::Settings {
    let rate_kbit = config.link.rate_kbit;
    pack::Settings {
        batch_instances: config.pack.batch_instances,
        batch_delay_ms: config.pack.batch_delay.as_millis(),
        quiet_period_ms: config.intake.quiet_period.as_millis(),
        tier: match config.pack.tier {
            TierName::Auto => None,
            TierName::Fast => Some(codec::Tier::Fast),
            TierName::Link => Some(codec::Tier::Link),
            TierName::Archive => Some(codec::Tier::Archive),
        },
        threads: match usize::try_from(config.pack.threads) {
            Ok(threads) if threads > 0 => threads,
            Ok(_) | Err(_) => thread::available_parallelism().map_or(1, usize::from),
        },
        power: pack::Power::Unknown,
        link: Arc::new(move || road(&link, rate_kbit)),
    }
}

/// What the link carries towards the hub, as far as anybody knows: measured, or as its owner says.
fn road(link: &LinkStatus, said_kbit: u32) -> pack::Road {
    let view = link.view();
    let measured = (view.bytes_sent >= LINK_MEASURED_BYTES).then_some(view.rate_kbits);
    let said = (said_kbit > 0).then_some(u64::from(said_kbit));
    pack::Road {
        bytes_s: measured.or(said).map(|kbits| kbits * 125),
        is_up: view.connected,
    }
}

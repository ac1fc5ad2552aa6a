//! Builds the rooms, joins them, and runs the program from its first to its last moment.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use codec::Limits;
use control::{FolderLock, LockError, Server};
use identity::{KeyError, NodeId, NodeKey};
use journal::{Fact, JournalId, Opened};
use sealing::{KeyFile, KeyFileError, StoreKey};
use store::rusqlite::{self, Connection};
use store::{FsDisk, Readers, SegmentName, Segments, StoreError, Writer, open_database};
use sync_quic::{Admission, Call, EnrolCall, Link, LinkProfile, Listener, Refusal};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::access::Access;
use crate::archive::Archive;
use crate::bundles::Bundles;
use crate::config::{self, Config};
use crate::db;
use crate::fleet::{Fleet, RoomError};
use crate::inbox::{self, Inbox};
use crate::ledger::{Ledger, LedgerError};
use crate::outbox::Outbox;
use crate::report::Reports;
use crate::{desk, dicom, web};

/// How long those may take to end who are still at work when the boxes have been told, which
/// takes 3 s at most.
const STOP: Duration = Duration::from_secs(1);
/// How long the group at hand may still take.
const STOP_DECODING: Duration = Duration::from_millis(500);

/// How often a port is chosen that is to be free for UDP and TCP alike.
const PORTS_TRIED: u32 = 8;

/// The rooms of one hub.
pub(crate) struct Rooms {
    pub access: Access,
    pub archive: Archive,
    pub bundles: Bundles,
    pub fleet: Arc<Fleet>,
    pub inbox: Arc<Inbox>,
    pub ledger: Arc<Ledger>,
    pub outbox: Arc<Outbox>,
    pub reports: Reports,
    pub writer: Writer,
    key: Arc<NodeKey>,
    _lock: FolderLock,
}

impl Rooms {
    /// Takes up the hub in `folder`, alone.
    pub(crate) fn open(folder: &Path, config: &Config) -> Result<Self, OpenError> {
        // Before the lock, which would be made in any folder.
        let (key, store_key) = load_keys(folder, config)?;
        let lock = FolderLock::take(folder)?;
        let index = folder.join("index.sqlite");
        let connection = open_database(&index, db::MIGRATIONS)?;
        let segments = recovered_segments(folder, config, &connection)?;
        let writer = Writer::spawn(segments, connection)?;
        let readers = Arc::new(Readers::open(&index)?);
        let ledger = Arc::new(Ledger::new(Arc::clone(&key)));
        let fleet = Arc::new(Fleet::open(
            folder,
            Arc::clone(&key),
            *store_key.public_key(),
            Arc::clone(&ledger),
            writer.clone(),
            Arc::clone(&readers),
        )?);
        let outbox = Arc::new(Outbox::new(Arc::clone(&readers), Arc::clone(&ledger)));
        let inbox = Arc::new(Inbox::new(
            &config.inbox,
            writer.clone(),
            Arc::clone(&readers),
            Arc::clone(&ledger),
            Arc::clone(&outbox),
            Arc::clone(&store_key),
        ));
        let reports = Reports::new(
            writer.clone(),
            Arc::clone(&readers),
            Arc::clone(&ledger),
            Arc::clone(&fleet),
            Arc::clone(&outbox),
            Arc::clone(&store_key),
        );
        let held_bytes = usize::try_from(config.inbox.group_bytes_max.get()).unwrap_or(usize::MAX);
        let limits = Limits {
            held_bytes,
            ..Limits::default()
        };
        let segments = Arc::clone(writer.segments());
        let cache_bytes = config.archive.cache.get();
        let archive = Archive::new(
            Arc::clone(&readers),
            segments,
            store_key,
            limits,
            cache_bytes,
        );
        let access = Access::new(writer.clone(), readers, Arc::clone(&ledger));
        let bundles = Bundles::new(
            folder,
            Arc::clone(&key),
            Arc::clone(&inbox),
            Arc::clone(&fleet),
        );
        Ok(Self {
            access,
            archive,
            bundles,
            fleet,
            inbox,
            ledger,
            outbox,
            reports,
            writer,
            key,
            _lock: lock,
        })
    }
}

/// Loads who the hub is, and what opens that which is sealed to it.
pub(crate) fn load_keys(
    folder: &Path,
    config: &Config,
) -> Result<(Arc<NodeKey>, Arc<StoreKey>), OpenError> {
    let key = NodeKey::load(&folder.join("node.key"))?;
    let path = folder.join(&config.archive.store_key);
    match KeyFile::load(&path) {
        Ok(KeyFile::Plain(store_key)) => Ok((Arc::new(key), Arc::new(store_key))),
        Ok(KeyFile::Wrapped(_)) => Err(OpenError::StoreKeyHasPin(path)),
        Err(source) => Err(OpenError::StoreKey { path, source }),
    }
}

/// Opens the segments: torn ends are cut off, spool segments that nothing refers to go.
fn recovered_segments(
    folder: &Path,
    config: &Config,
    index: &Connection,
) -> Result<Segments, StoreError> {
    let disk = Arc::new(FsDisk::open(&folder.join("segments"))?);
    let mut segments =
        Segments::open(disk, index)?.with_segment_bytes_max(config.archive.segment_bytes.get());
    let known = known_ends(index)?;
    for name in segments.list() {
        let known_upto = known.get(&name).copied().unwrap_or(0);
        let recovered = segments.recover(&name, known_upto)?;
        // What nobody was told of is not adopted: the unit still holds it and sends it again.
        let (unknown, torn) = (recovered.found.len(), recovered.truncated_bytes);
        if unknown > 0 || torn > 0 {
            tracing::info!(segment = %name, unknown, torn, "an interrupted write was found");
        }
        let (damaged, missing) = (recovered.damaged.len(), recovered.missing_bytes);
        if damaged > 0 || missing > 0 {
            tracing::error!(segment = %name, damaged, missing, "a segment is damaged");
        }
    }
    Ok(segments)
}

/// How far the index knows each segment: one walk through it, however many segments there are.
fn known_ends(index: &Connection) -> rusqlite::Result<BTreeMap<SegmentName, u64>> {
    index
        .prepare(
            "SELECT segment, max(upto) FROM
                 (SELECT segment, at + stored AS upto FROM chunk WHERE segment IS NOT NULL
                  UNION ALL SELECT segment, at + stored FROM part)
             GROUP BY segment",
        )?
        .query_map([], |row| Ok((row.get(0)?, db::uint(row, 1)?)))?
        .collect()
}

/// Why the hub's folder cannot be taken up.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// Another program works in it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The node's key is not there.
    #[error("this is not a folder that `chasqui-provision hub` made")]
    Key(#[from] KeyError),
    /// The store key is not there, or is damaged.
    #[error(
        "the hub's store key {} cannot be used: put it back from its copy, or name its file in \
         [archive] store-key; nothing that was sealed to this hub can be read without it",
        path.display()
    )]
    StoreKey {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: KeyFileError,
    },
    /// The store key waits for a PIN that nobody would type.
    #[error("the hub's store key {} has a PIN: a hub starts by itself, remove the PIN", .0.display())]
    StoreKeyHasPin(PathBuf),
    /// The fleet document is not there, or not for this hub.
    #[error("the folder's fleet document cannot be used")]
    Fleet(#[from] RoomError),
    /// Segments or index cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
}

/// Why serving ended without being asked.
#[derive(Debug)]
pub(crate) enum ServeError {
    /// It never began.
    Open(OpenError),
    /// It could not go on.
    Fatal(anyhow::Error),
}

/// Runs the hub until SIGTERM or SIGINT.
pub(crate) async fn serve(folder: &Path, config: &Config) -> Result<(), ServeError> {
    let rooms = Arc::new(Rooms::open(folder, config).map_err(ServeError::Open)?);
    let decoding = rooms
        .inbox
        .start()
        .map_err(|e| ServeError::Fatal(e.into()))?;
    let ended = serve_rooms(&rooms, folder, config).await;
    rooms.inbox.stop();
    // A group that takes longer is decoded again at the next start.
    let joined = tokio::task::spawn_blocking(move || decoding.join());
    if tokio::time::timeout(STOP_DECODING, joined).await.is_err() {
        tracing::debug!("a group was being decoded");
    }
    ended.map_err(ServeError::Fatal)
}

async fn serve_rooms(rooms: &Arc<Rooms>, folder: &Path, config: &Config) -> anyhow::Result<()> {
    // Taken before anything is announced: who reads the ready line may send a signal at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    open_journal(rooms).await?;

    let listener = Arc::new(open_link(rooms, &config.link).await?);
    let web = listen(config.web.bind, config.web.port).await?;
    let dicom = listen(config.dicom.bind, config.dicom.port).await?;
    let server = Server::bind(folder)?;
    announce(
        listener.local_addr()?,
        web.local_addr()?,
        dicom.local_addr()?,
    )?;

    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(accept(
        Arc::clone(rooms),
        Arc::clone(&listener),
        stopped.clone(),
    ));
    tasks.spawn(follow_fleet(
        Arc::clone(rooms),
        Arc::clone(&listener),
        stopped.clone(),
    ));
    tasks.spawn(web::serve(web, Arc::clone(rooms), until(stopped.clone())));
    tasks.spawn(dicom::serve(dicom, config.dicom.clone(), until(stopped)));
    let desk_rooms = Arc::clone(rooms);
    let commands = tokio::spawn(
        server.serve(move |request| desk::answer_json(Arc::clone(&desk_rooms), request)),
    );

    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        fault = rooms.writer.poisoned() => {
            Err(anyhow!("the store cannot be trusted any more: {}", crate::chain(&*fault)))
        }
    };
    tracing::info!("stopping");
    commands.abort();
    stop.send_replace(true);
    listener.close().await;
    let ends = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP, ends).await.is_err() {
        tracing::warn!("not everyone ended in time");
    }
    ended
}

/// Notes in the hub's own journal that it was taken up.
async fn open_journal(rooms: &Rooms) -> anyhow::Result<()> {
    let ledger = Arc::clone(&rooms.ledger);
    let job = move |work: &mut store::Work<'_>| -> Result<_, LedgerError> {
        let own = JournalId::own(ledger.hub());
        ledger.say(
            work.sql(),
            own,
            &Fact::Opened(Opened {
                software: crate::SOFTWARE.to_owned(),
            }),
        )
    };
    rooms
        .writer
        .run(job)
        .await
        .context("the journal cannot be written")?;
    Ok(())
}

/// Opens the doors for boxes: UDP, and TCP beside it.
async fn open_link(rooms: &Rooms, link: &config::Link) -> anyhow::Result<Listener> {
    let mut tries = PORTS_TRIED;
    let profile = LinkProfile::default();
    loop {
        let admission = Arc::new(Door(Arc::clone(&rooms.fleet)));
        let local = SocketAddr::new(link.bind, link.port);
        let listener = Listener::bind(local, &rooms.key, &profile, admission)
            .with_context(|| format!("cannot listen for boxes on UDP {local}"))?;
        let port = link.tls_port.unwrap_or(listener.local_addr()?.port());
        if port == 0 {
            return Ok(listener);
        }
        let local = SocketAddr::new(link.bind, port);
        match listener.bind_tls(local, &rooms.key, &profile).await {
            Ok(tls) => {
                tracing::info!(%tls, "boxes that no UDP reaches can call by TCP");
                return Ok(listener);
            }
            // The system chose a port that is taken for TCP; it may choose another.
            Err(_) if link.port == 0 && link.tls_port.is_none() && tries > 1 => tries -= 1,
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot listen for boxes on TCP {local}; \
                         link.tls-port names another port, or 0 for none"
                    )
                });
            }
        }
    }
}

async fn listen(address: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    let local = SocketAddr::new(address, port);
    TcpListener::bind(local)
        .await
        .with_context(|| format!("cannot listen on {local}"))
}

/// Prints the line that scripts wait for.
fn announce(link: SocketAddr, web: SocketAddr, dicom: SocketAddr) -> std::io::Result<()> {
    let (link, dicom) = (callable(link), callable(dicom));
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready link={link} web=http://{web} dicom={dicom}")?;
    out.flush()
}

/// An address to call from this machine: who listens on all addresses is on the loopback too.
fn callable(local: SocketAddr) -> SocketAddr {
    let ip = match local.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, local.port())
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error says that the sender is gone, which is a stop too.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

/// Takes calls until the program stops, then waits for those that are open; closing the listener
/// ends them.
async fn accept(rooms: Arc<Rooms>, listener: Arc<Listener>, mut stopped: watch::Receiver<bool>) {
    let mut calls = JoinSet::new();
    loop {
        let call = tokio::select! {
            call = listener.accept() => call,
            _ = stopped.changed() => None,
        };
        let Some(call) = call else { break };
        while calls.try_join_next().is_some() {}
        match call {
            Call::Session(link) => drop(calls.spawn(contact(Arc::clone(&rooms), link))),
            Call::Enrol(call) => drop(calls.spawn(enrol(Arc::clone(&rooms), call))),
        }
    }
    while calls.join_next().await.is_some() {}
}

async fn contact(rooms: Arc<Rooms>, link: Link) {
    let unit = link.peer();
    let node = unit.short();
    let road = link.road().as_str();
    tracing::info!(node, peer = %link.remote_address(), road, "contact up");
    if link.took_over() {
        rooms.fleet.took_over(unit);
    }
    if let Err(error) = rooms.fleet.heard(unit).await {
        tracing::error!(error = crate::chain(&error), "the contact cannot be noted");
    }
    match inbox::serve(Arc::clone(&rooms.inbox), Arc::clone(&rooms.fleet), link).await {
        Ok(ended) => {
            let (reason, received) = (ended.why.to_string(), ended.traffic.bytes_received);
            let repeated_bytes = ended.counters.repeated_bytes;
            tracing::info!(node, reason, received, repeated_bytes, "contact down");
        }
        Err(error) => tracing::error!(node, %error, "the contact cannot be served"),
    }
}

async fn enrol(rooms: Arc<Rooms>, mut call: EnrolCall) {
    let caller = call.peer();
    let request = match call.request().await {
        Ok(request) => request,
        Err(error) => {
            tracing::info!(node = %caller.short(), %error, "no enrolment request came");
            return;
        }
    };
    match rooms.fleet.enrol(caller, &request).await {
        Ok(reply) => {
            if let Err(error) = call.answer(&reply.to_cbor()).await {
                // The box asks again with the same key and gets the same grant.
                tracing::info!(node = %caller.short(), %error, "the box may not have the answer");
            }
        }
        Err(error) => {
            tracing::error!(
                error = crate::chain(&error),
                "an enrolment cannot be recorded"
            );
            call.refuse("the hub cannot record the enrolment; try again later")
                .await;
        }
    }
}

/// Lets a new fleet document take effect on those who are on the line.
async fn follow_fleet(
    rooms: Arc<Rooms>,
    listener: Arc<Listener>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut documents = rooms.fleet.watch();
    loop {
        tokio::select! {
            changed = documents.changed() => if changed.is_err() { return },
            _ = stopped.changed() => return,
        }
        let version = documents.borrow_and_update().version();
        for unit in listener.recheck() {
            tracing::warn!(node = %unit.short(), version, "a revoked unit was cut off");
        }
        rooms.outbox.fleet_changed(version);
    }
}

/// Asks the fleet who may come in.
struct Door(Arc<Fleet>);

impl Admission for Door {
    fn admit(&self, peer: &NodeId) -> Result<(), Refusal> {
        self.0.admit(peer).map_err(Refusal)
    }

    fn admit_enrolment(&self, peer: &NodeId) -> Result<(), Refusal> {
        self.0.admit_enrolment(peer).map_err(Refusal)
    }
}

#[cfg(test)]
mod tests;

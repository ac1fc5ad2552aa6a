//! The index: how the database is opened, and read-only connections to it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::disk::{forget_cached, sync_parent};
use crate::doomed;
use crate::error::StoreError;

pub(crate) const BUSY_WAIT: Duration = Duration::from_secs(5);
const IDLE_READERS_MAX: usize = 8;

/// Opens a database, or makes it for its owner only, and runs the `migrations` that it has not seen.
///
/// Migrations go forward only; number n is run once, in a transaction that also sets `user_version` to n.
/// The database is in WAL mode with `synchronous=FULL`: a commit is on the disk when it returns. With
/// `secure_delete=ON` what is deleted is overwritten with zeros; see [`Writer::truncate_log`](crate::Writer).
pub fn open_database(path: &Path, migrations: &[&str]) -> Result<Connection, StoreError> {
    // Closed again before SQLite opens it: closing any handle of a file gives up SQLite's locks on it.
    prepare_files(path).map_err(StoreError::io("open", path.display()))?;
    let failed = |source| StoreError::OpenIndex {
        path: path.to_owned(),
        source,
    };
    let mut connection = Connection::open(path).map_err(failed)?;
    configure(&connection).map_err(failed)?;
    migrate(&mut connection, path, migrations)?;
    doomed::make_list(&connection).map_err(failed)?;
    Ok(connection)
}

/// Makes the file if it is missing, and has the kernel forget what it holds of an old one: after a sync that
/// failed, a commit may be in memory and not on the disk.
fn prepare_files(path: &Path) -> io::Result<()> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    match File::open(PathBuf::from(wal)) {
        Ok(file) => {
            file.sync_data()?;
            forget_cached(&file, 0..u64::MAX)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.sync_data()?;
    forget_cached(&file, 0..u64::MAX)?;
    sync_parent(path)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_WAIT)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::InvalidParameterName(format!(
            "journal_mode = {mode}"
        )));
    }
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
    // Answers with a row.
    connection.query_row("PRAGMA secure_delete = ON", (), |_| Ok(()))?;
    // Nobody else has it open.
    empty_log(connection).map(drop)
}

/// Puts what the log holds into the database and makes the log's file empty; false if somebody still reads from
/// the log.
pub(crate) fn empty_log(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| {
        row.get(0).map(|busy: bool| !busy)
    })
}

fn migrate(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<(), StoreError> {
    let found: i64 = connection.query_row("PRAGMA user_version", (), |row| row.get(0))?;
    let known = migrations.len();
    let done = usize::try_from(found).ok().filter(|done| *done <= known);
    let done = done.ok_or_else(|| StoreError::NewerIndex {
        path: path.to_owned(),
        found,
        known,
    })?;
    for (index, migration) in migrations.iter().enumerate().skip(done) {
        let number = index + 1;
        let run = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            transaction.execute_batch(migration)?;
            transaction.execute_batch(&format!("PRAGMA user_version = {number}"))?;
            transaction.commit()
        };
        run(connection).map_err(|source| StoreError::Migration { number, source })?;
    }
    Ok(())
}

/// Read-only connections to a database that [`open_database`] has opened; shared between threads.
pub struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    /// Makes sure that the database can be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let readers = Self {
            path: path.to_owned(),
            idle: Mutex::default(),
        };
        let first = readers.connect();
        let first = first.map_err(|source| StoreError::OpenIndex {
            path: path.to_owned(),
            source,
        })?;
        readers.give_back(first);
        Ok(readers)
    }

    /// Asks the database; all that `query` sees is of one moment. Blocks on the disk.
    pub fn with<T, E: From<rusqlite::Error>>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let snapshot = connection.unchecked_transaction()?;
        let answer = query(&snapshot);
        snapshot.finish()?;
        self.give_back(connection);
        answer
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY_WAIT)?;
        Ok(connection)
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_READERS_MAX {
            idle.push(connection);
        }
    }
}

//! Store: append-only segments of records beside an SQLite index, and the one thread that writes both.
//!
//! In: jobs that append records and change the index. Out: [`Synced`] results, records read back and verified.
//! Invariant: a [`Synced`] value exists only after its bytes are synced and its index changes are committed;
//! a committed row never refers to bytes that a power cut can still take away.
//! May not: know what the bytes mean, take a record for good without its digest, go on after a failed sync.
//!
//! Everything that is written goes through the one [`Writer`]; any thread may read.
//!
//! ```no_run
//! # use std::{path::Path, sync::Arc};
//! # use store::*;
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = Path::new("/var/lib/chasqui");
//! let connection = open_database(
//!     &folder.join("index.sqlite"),
//!     &["CREATE TABLE held (sop TEXT, segment TEXT, offset INTEGER, bytes INTEGER) STRICT"],
//! )?;
//! let disk = Arc::new(FsDisk::open(&folder.join("segments"))?);
//! let mut segments = Segments::open(disk, &connection)?;
//! for name in segments.list() {
//!     let known_upto = 0; // the largest offset + bytes that the index has of this segment
//!     let recovered = segments.recover(&name, known_upto)?;
//! }
//! let writer = Writer::spawn(segments, connection)?;
//! let header = RecordHeader { kind: RecordKind(1), ..RecordHeader::default() };
//! let record = Record::new(header, vec![0; 500_000])?; // digests the body, on this thread
//! let held: Synced<Location> = writer
//!     .run(move |work| -> Result<_, StoreError> {
//!         let location = work.append("intake-3f9a01", &record)?;
//!         let (segment, offset, bytes) = location.to_columns();
//!         work.sql().execute("INSERT INTO held VALUES ('1.2', ?1, ?2, ?3)", (segment, offset, bytes))?;
//!         Ok(location)
//!     })
//!     .await?;
//! let back: Record = writer.segments().read(held.get())?;
//! # Ok(())
//! # }
//! ```
//!
//! # A folder of segments
//!
//! A segment is one file of the folder, named `FAMILY-NUMBER`. FAMILY is 1 to 64 characters of `a-z`, `0-9` and
//! `-`, and says what belongs together (`packed`; `intake-` and some digits of a series' digest). NUMBER is
//! decimal, padded to eight digits, and higher than every other in the folder when the segment is made. Files
//! with other names are not looked at.
//!
//! A segment is a row of records without gap or padding, and nothing else; its byte format is in [`Record`].
//! It grows at its end only. It is closed, and the next one of its family made, when a record would take it
//! over 64 MiB (a larger record gets a segment of its own), when more than 64 families are being written to,
//! and at each start of the program: a segment from an earlier run is never appended to. An empty file holds
//! nothing and is removed at the next start.
//!
//! # Runs
//!
//! [`Work::append_run`] appends several records one right behind the other into one segment and gives one place for
//! all of them; [`Segments::read_run`] and [`Segments::split_run`] take it apart. On the disk nothing tells a run
//! from records that were appended one by one: who rebuilds an index joins them by what their meta says.
//!
//! # What is synced, and when
//!
//! The writer takes up to 64 jobs, or as many as it can start in 10 ms, as one group, and runs each in a
//! savepoint of one transaction. Then, in this order: `fdatasync` of every segment that was appended to, `fsync`
//! of the folder if a segment was made, `COMMIT` (WAL, `synchronous=FULL`: one sync of the log), `unlink` and
//! `fsync` of the folder if segments were given up, and only then the answers.
//!
//! A job that returns an error leaves nothing behind: its rows are rolled back and its bytes truncated. So does
//! an append that fails, for example because the disk is full. A sync or commit that fails is another matter:
//! what the kernel then holds in its cache is not known to be on the disk, and asking again proves nothing.
//! The writer is poisoned for good, all waiting and later jobs get [`WriteError::Poisoned`], and the program has
//! to exit. The index must always find room to commit, so programs keep a reserve of free space.
//!
//! # Giving up a segment
//!
//! [`Work::remove_segment_after_commit`] writes the name into the table `store_doomed_segment(name, wipe)`, in the
//! same transaction as the program's own rows. The file is unlinked after the commit, the row goes with a later
//! commit; [`Segments::open`] finishes what a crash interrupted before anyone sees the segment again.
//!
//! # Wiping
//!
//! [`Work::wipe_segment_after_commit`] gives a segment up in the same way (`wipe` is 1 in that table), and the file
//! is overwritten with zeros and synced before it is unlinked, by whoever finishes it. Nothing else ever overwrites
//! a segment. What was truncated, because its job failed or because it was torn, is not wiped: it went back to the
//! file system before.
//!
//! On a disk that writes where it is told, with a file system that does so too (ext4, xfs), what was there is gone
//! for whoever reads the whole device. Flash does not write where it is told: the old cells keep the old bytes until
//! the controller erases them, and who takes the chips off the board reads them. A file system that copies on
//! write (btrfs, zfs, f2fs) and one that journals data keep them as well. So wiping stands between a secret and who
//! has the device in hand, not between it and a laboratory; against the latter what is wiped here has to be worth
//! nothing without a key that lies elsewhere.
//!
//! The index has `secure_delete=ON`: deleted rows become zeros in its pages. Their old pages stay in the log until
//! [`Writer::truncate_log`], which gives the log's blocks back without overwriting them: the same, and weaker.
//!
//! # Scrubbing, and an index that is lost
//!
//! [`Segments::read_from_disk`] and [`Segments::read_run_from_disk`] have the kernel forget the bytes first, so that
//! they see what the medium gives back. [`Segments::scan`] goes through a whole segment in that way and changes
//! nothing. It names what is damaged and goes on at the next whole header behind it:
//!
//! | found | handed out as |
//! |---|---|
//! | whole header, whole body, right digest | [`Scanned::Whole`] |
//! | whole header, wrong digest | damaged up to the record's end |
//! | whole header, body ends behind the end of the file | damaged up to the end |
//! | bytes that the medium does not give back, in a body | damaged up to the record's end |
//! | anything else | damaged up to the next whole header, or the end |
//!
//! A record that is found behind a rotten header may have been part of that record's body. Its digest says that it
//! is whole, not that it was ever appended: bodies that a stranger chooses have to be sealed.
//!
//! # A disk that is full
//!
//! The index has to grow before anything can be deleted, and to be opened. [`Ballast`] is a file that takes up room
//! for that: when opening fails and [`StoreError::is_full`], the ballast is released, what was to be opened is
//! opened, and the ballast is put back as soon as there is room.
//!
//! ```no_run
//! # use std::path::Path;
//! # use store::{Ballast, StoreError, open_database};
//! # fn example(folder: &Path) -> Result<(), StoreError> {
//! let ballast = Ballast::new(&folder.join("ballast"), 16 << 20);
//! let open = || open_database(&folder.join("index.sqlite"), &[]);
//! let connection = match open() {
//!     Err(error) if error.is_full() && ballast.release()? => open()?,
//!     opened => opened?,
//! };
//! // Now and whenever there is more room than before:
//! match ballast.ensure() {
//!     Err(error) if error.is_full() => {} // later
//!     set_aside => set_aside?,
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A commit that finds no room poisons the writer. Who writes to a disk that may be full to the last byte releases
//! the ballast before the first commit, not after it.
//!
//! # Recovery
//!
//! What the index refers to was synced before. What lies behind the last record that the index knows of was
//! never acknowledged. [`Segments::recover`] syncs the file, has the kernel forget what it holds of it in memory
//! (after a failed sync the two may differ), and reads from there on:
//!
//! | found | done |
//! |---|---|
//! | whole header, whole body, right digest | handed out, to be put into the index or ignored |
//! | whole header, body of full length, wrong digest | named as damaged, left alone, goes on behind it |
//! | whole header, body ends behind the end of the file | torn: truncated here |
//! | no whole header, and none anywhere behind | torn: truncated here |
//! | no whole header, but one somewhere behind | named as damaged up to the end, left alone: a lost index and a rotten header must not make us destroy what may be somebody's only copy |
//! | header of a later version | [`Damage::Version`] as an error: this program is too old for the folder |

#![forbid(unsafe_code)]

mod appender;
mod ballast;
mod database;
mod disk;
mod doomed;
mod error;
mod name;
mod reading;
mod record;
mod recovery;
mod scan;
mod segments;
mod writer;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
mod tests;

pub use ballast::Ballast;
pub use database::{Readers, open_database};
pub use disk::{Disk, DiskFile, FsDisk};
pub use error::{Damage, StoreError};
pub use name::{Location, SegmentName, SegmentNameError};
pub use record::{Record, RecordHeader, RecordKind};
pub use recovery::{Found, Recovered};
pub use rusqlite;
pub use scan::{Scan, Scanned};
pub use segments::Segments;
pub use writer::{Synced, Work, WriteError, Writer};

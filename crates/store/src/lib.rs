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
//! `Work::remove_segment_after_commit` writes the name into the table `store_doomed_segment(name TEXT)`, in the
//! same transaction as the program's own rows. The file is unlinked after the commit, the row goes with a later
//! commit; [`Segments::open`] finishes what a crash interrupted before anyone sees the segment again.
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
mod database;
mod disk;
mod error;
mod name;
mod record;
mod recovery;
mod segments;
mod writer;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
mod tests;

pub use database::{Readers, open_database};
pub use disk::{Disk, DiskFile, FsDisk};
pub use error::{Damage, StoreError};
pub use name::{Location, SegmentName, SegmentNameError};
pub use record::{Record, RecordHeader, RecordKind};
pub use recovery::{Found, Recovered};
pub use rusqlite;
pub use segments::Segments;
pub use writer::{Synced, Work, WriteError, Writer};

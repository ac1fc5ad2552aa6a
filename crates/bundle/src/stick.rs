//! The medium: a folder `CHASQUI` with one folder for each bundle, in it the parts of one age file.
//!
//! A bundle is written into a folder of another name, synced, read back from the medium and compared,
//! and only then gets its own name: who looks for bundles finds whole ones or none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use identity::NodeId;
use rustix::fs::{Advice, OFlags, fadvise, statvfs, syncfs};
use study::Digest;
use thiserror::Error;

use crate::format::Refusal;
use crate::progress::Progress;

/// The largest part: FAT32 has files of less than 4 GiB.
pub const PART_BYTES_MAX: u64 = (4 << 30) - (64 << 10);
/// The smallest part.
pub const PART_BYTES_MIN: u64 = 64 << 10;
/// How large parts are unless somebody says otherwise.
pub const PART_BYTES_DEFAULT: u64 = 1 << 30;

/// Whether parts may be so large.
pub fn part_bytes(bytes: u64) -> Result<u64, String> {
    match (PART_BYTES_MIN..=PART_BYTES_MAX).contains(&bytes) {
        true => Ok(bytes),
        false => Err("parts have at least 64 KiB and less than 4 GiB".to_owned()),
    }
}

const FOLDER: &str = "CHASQUI";
const DRAFT_CONTEXT: &str = "chasqui bundle draft 1";
const PARTS_MAX: u32 = 9999;
const ENTRIES_MAX: usize = 10_000;
const READ_BYTES: usize = 1 << 20;
/// What a disk may ask a reader to align to who goes past the memory's copy.
const ALIGNMENT: usize = 4096;

/// What went wrong with a medium.
#[derive(Debug, Error)]
pub enum StickError {
    /// Nothing is there.
    #[error("there is no {}: is the stick plugged in and mounted?", .0.display())]
    NotThere(PathBuf),
    /// Something else is there.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// Nothing can be written to it.
    #[error("the stick at {} is read-only", .0.display())]
    ReadOnly(PathBuf),
    /// It is full.
    #[error("the stick at {} is full", .0.display())]
    Full(PathBuf),
    /// It holds more than is looked through.
    #[error("{} has more than {ENTRIES_MAX} entries", .0.display())]
    Crowded(PathBuf),
    /// A bundle does not fit in so many parts of this size.
    #[error("the bundle takes more than {PARTS_MAX} parts; choose larger ones")]
    TooManyParts,
    /// The bytes that come back are not those that were written.
    #[error("{} does not hold what was written to it: do not use this stick", .0.display())]
    NotKept(PathBuf),
    /// The operating system refused.
    #[error("cannot {action} {}: was the stick pulled out?", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

impl StickError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            let kind = source.kind();
            if [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&kind) {
                Self::Full(path)
            } else if kind == io::ErrorKind::ReadOnlyFilesystem {
                Self::ReadOnly(path)
            } else {
                Self::Io {
                    action,
                    path,
                    source,
                }
            }
        }
    }
}

/// A bundle's name on a medium: eight hexadecimal digits that say nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    fn random() -> Self {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).expect("the operating system gives randomness");
        Self(bytes.iter().map(|b| format!("{b:02X}")).collect())
    }

    fn read(file_name: &str) -> Option<Self> {
        let is_name = file_name.len() == 8 && file_name.bytes().all(|b| b.is_ascii_hexdigit());
        is_name.then(|| Self(file_name.to_owned()))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mounted medium.
#[derive(Debug, Clone)]
pub struct Stick {
    root: PathBuf,
}

impl Stick {
    /// The medium that is mounted at `path`; any folder will do.
    pub fn at(path: &Path) -> Result<Self, StickError> {
        let metadata = fs::metadata(path).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                StickError::NotThere(path.to_owned())
            } else {
                StickError::io("open", path)(error)
            }
        })?;
        if !metadata.is_dir() {
            return Err(StickError::NotAFolder(path.to_owned()));
        }
        let root = fs::canonicalize(path).map_err(StickError::io("open", path))?;
        Ok(Self { root })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Whether `folder` is on the same file system: then this is no stick, or it is not mounted.
    pub fn is_the_disk_of(&self, folder: &Path) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
        matches!((device(&self.root), device(folder)), (Ok(a), Ok(b)) if a == b)
    }

    /// How many bytes bundles may take on it.
    pub fn free_bytes(&self) -> Result<u64, StickError> {
        let space =
            statvfs(&self.root).map_err(|e| StickError::io("look at", &self.root)(e.into()))?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// The bundles on it, whoever they are for.
    pub fn bundles(&self) -> Result<Vec<Bundle>, StickError> {
        let folder = self.folder();
        let mut bundles = Vec::new();
        for (name, path) in entries(&folder)? {
            let is_folder = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
            if let Some(name) = Name::read(&name).filter(|_| is_folder) {
                bundles.push(Bundle { name, path });
            }
        }
        bundles.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(bundles)
    }

    /// Takes a bundle off the medium.
    pub fn remove(&self, bundle: &Bundle) -> Result<(), StickError> {
        remove_folder(&bundle.path)?;
        sync_folder(&self.folder())?;
        self.sync()
    }

    /// Starts a bundle of `sender`; what an earlier attempt of the same sender left goes first.
    pub(crate) fn draft(
        &self,
        sender: &NodeId,
        part_bytes: u64,
        progress: Arc<Progress>,
    ) -> Result<Draft, StickError> {
        let folder = self.folder();
        match fs::create_dir(&folder) {
            Ok(()) => sync_folder(&self.root)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StickError::io("write to", &self.root)(error)),
        }
        let tag = blake3::derive_key(DRAFT_CONTEXT, sender.as_bytes());
        let tag: String = tag.iter().take(4).map(|b| format!("{b:02X}")).collect();
        let path = folder.join(format!("{tag}.TMP"));
        if path.exists() {
            tracing::info!("a bundle that was not finished is taken off the stick");
            remove_folder(&path)?;
        }
        fs::create_dir(&path).map_err(StickError::io("make", &path))?;
        Ok(Draft {
            stick: self.clone(),
            path,
            part_bytes,
            parts: Vec::new(),
            open: None,
            progress,
            done: false,
        })
    }

    fn folder(&self) -> PathBuf {
        self.root.join(FOLDER)
    }

    fn sync(&self) -> Result<(), StickError> {
        let root = File::open(&self.root).map_err(StickError::io("open", &self.root))?;
        syncfs(&root).map_err(|e| StickError::io("sync", &self.root)(e.into()))
    }
}

/// A bundle on a medium.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Its name there.
    pub name: Name,
    path: PathBuf,
}

impl Bundle {
    /// How many bytes it has.
    pub fn bytes(&self) -> Result<u64, Refusal> {
        let parts = self.parts()?;
        let bytes = parts.iter().map(|part| Ok(fs::metadata(part)?.len()));
        Ok(bytes.sum::<io::Result<u64>>()?)
    }

    /// Opens it for reading, all parts as one.
    pub(crate) fn open(&self, progress: Arc<Progress>) -> Result<Parts, Refusal> {
        Ok(Parts {
            paths: self.parts()?.into_iter(),
            open: None,
            progress,
        })
    }

    /// The files of its parts in their order.
    fn parts(&self) -> Result<Vec<PathBuf>, Refusal> {
        let listed = entries(&self.path);
        let listed = listed.map_err(|error| Refusal::Medium(io::Error::other(error)))?;
        let mut parts: Vec<(u32, PathBuf)> = listed
            .into_iter()
            .filter_map(|(name, path)| Some((part_number(&name)?, path)))
            .collect();
        parts.sort();
        for (expected, (number, path)) in (1..).zip(&parts) {
            if *number != expected {
                return Err(Refusal::Torn(format!("part {expected} is missing")));
            }
            // A pipe or a device would hold the reader up.
            if !fs::symlink_metadata(path)?.is_file() {
                return Err(Refusal::NotABundle);
            }
        }
        if parts.is_empty() {
            return Err(Refusal::Torn("part 1 is missing".to_owned()));
        }
        Ok(parts.into_iter().map(|(_, path)| path).collect())
    }
}

/// The parts of a bundle, read as one.
#[derive(Debug)]
pub(crate) struct Parts {
    paths: std::vec::IntoIter<PathBuf>,
    open: Option<File>,
    progress: Arc<Progress>,
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.open {
                let read = file.read(buffer)?;
                self.progress.add(read);
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
            }
            let Some(next) = self.paths.next() else {
                return Ok(0);
            };
            self.open = Some(File::open(next)?);
        }
    }
}

/// A part that was written.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    digest: Digest,
    bytes: u64,
}

/// A part that is being written.
#[derive(Debug)]
struct OpenPart {
    path: PathBuf,
    file: File,
    digest: blake3::Hasher,
    bytes: u64,
}

/// A bundle that is being written. Dropped before it is complete, it is taken off again.
#[derive(Debug)]
pub(crate) struct Draft {
    stick: Stick,
    path: PathBuf,
    part_bytes: u64,
    parts: Vec<Part>,
    open: Option<OpenPart>,
    progress: Arc<Progress>,
    done: bool,
}

impl Draft {
    /// Where it is written.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs, reads back and compares everything, then gives the bundle its name: what is said of it
    /// from here on holds when the stick is pulled out. Gives name, number of parts and bytes.
    pub(crate) fn complete(mut self) -> Result<(Name, usize, u64), StickError> {
        self.close_part()?;
        sync_folder(&self.path)?;
        for part in &self.parts {
            verify(part)?;
        }
        let folder = self.stick.folder();
        let name = loop {
            let name = Name::random();
            if !folder.join(&name.0).exists() {
                break name;
            }
        };
        let path = folder.join(&name.0);
        fs::rename(&self.path, &path).map_err(StickError::io("name", &path))?;
        self.done = true;
        sync_folder(&folder)?;
        self.stick.sync()?;
        let bytes = self.parts.iter().map(|part| part.bytes).sum();
        Ok((name, self.parts.len(), bytes))
    }

    fn part(&mut self) -> Result<&mut OpenPart, StickError> {
        if self
            .open
            .as_ref()
            .is_some_and(|part| part.bytes >= self.part_bytes)
        {
            self.close_part()?;
        }
        if self.open.is_none() {
            let number = u32::try_from(self.parts.len()).unwrap_or(u32::MAX) + 1;
            if number > PARTS_MAX {
                return Err(StickError::TooManyParts);
            }
            let path = self.path.join(format!("PART{number:04}.AGE"));
            let file = File::create_new(&path).map_err(StickError::io("write", &path))?;
            self.open = Some(OpenPart {
                path,
                file,
                digest: blake3::Hasher::new(),
                bytes: 0,
            });
        }
        Ok(self.open.as_mut().expect("it was opened above"))
    }

    fn close_part(&mut self) -> Result<(), StickError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        open.file
            .sync_all()
            .map_err(StickError::io("sync", &open.path))?;
        self.parts.push(Part {
            path: open.path,
            digest: Digest::from_bytes(*open.digest.finalize().as_bytes()),
            bytes: open.bytes,
        });
        Ok(())
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part_bytes = self.part_bytes;
        let part = self.part().map_err(io::Error::other)?;
        let room = usize::try_from(part_bytes - part.bytes).unwrap_or(usize::MAX);
        let written = part.file.write(&bytes[..room.min(bytes.len())])?;
        part.digest.update(&bytes[..written]);
        part.bytes += written as u64;
        self.progress.add(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.done {
            self.open = None;
            // The stick may be gone; then the next attempt tidies up.
            let _ = remove_folder(&self.path);
        }
    }
}

/// Reads a part again, from the medium where the system lets us past the memory's copy.
fn verify(part: &Part) -> Result<(), StickError> {
    let failed = |error| StickError::io("read back", &part.path)(error);
    let file = File::open(&part.path).map_err(failed)?;
    // Synced pages are dropped, so that even an ordinary read goes to the medium.
    fadvise(&file, 0, None, Advice::DontNeed).map_err(|e| failed(e.into()))?;
    let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
    let past_memory = OpenOptions::new()
        .read(true)
        .custom_flags(direct)
        .open(&part.path);
    // Not every file system knows that flag: it refuses to open or to read.
    let read = match past_memory.and_then(digest_of) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => digest_of(file),
        read => read,
    };
    let (digest, bytes) = read.map_err(failed)?;
    if (digest, bytes) == (part.digest, part.bytes) {
        Ok(())
    } else {
        Err(StickError::NotKept(part.path.clone()))
    }
}

fn digest_of(mut file: File) -> io::Result<(Digest, u64)> {
    let mut space = vec![0; READ_BYTES + ALIGNMENT];
    let from = space.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut space[from..from + READ_BYTES];
    let (mut digest, mut bytes) = (blake3::Hasher::new(), 0);
    loop {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(read) => {
                digest.update(&buffer[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((Digest::from_bytes(*digest.finalize().as_bytes()), bytes))
}

fn part_number(name: &str) -> Option<u32> {
    let name = name.to_ascii_uppercase();
    let digits = name.strip_prefix("PART")?.strip_suffix(".AGE")?;
    let is_number = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// Names and paths in a folder; a folder that is not there is empty.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, StickError> {
    let listed = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(StickError::io("look into", folder))?,
    };
    let mut found = Vec::new();
    for entry in listed {
        let entry = entry.map_err(StickError::io("look into", folder))?;
        if found.len() >= ENTRIES_MAX {
            return Err(StickError::Crowded(folder.to_owned()));
        }
        // A name that is not text is none of ours.
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

/// Removes a bundle's folder with its parts, and nothing that somebody else put there.
fn remove_folder(path: &Path) -> Result<(), StickError> {
    for (name, part) in entries(path)? {
        if part_number(&name).is_some() {
            fs::remove_file(&part).map_err(StickError::io("remove", &part))?;
        }
    }
    fs::remove_dir(path).map_err(StickError::io("remove", path))
}

fn sync_folder(path: &Path) -> Result<(), StickError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(StickError::io("sync", path))
}

//! The fleet's folder: its keys, its present document, and the one way to change it.
//!
//! In: a folder, a change to the document. Out: the next version, signed and on disk.
//! Invariant: a document that `identity` would refuse is never written.
//! May not: know what the changes mean.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use identity::files::{self, FileError};
use identity::{
    FLEET_BYTES_MAX, FleetBody, FleetDocument, FleetError, KeyError, NodeKey, Root, RootBody,
    RootError,
};
use thiserror::Error;

/// The fleet document's name, in the fleet's folder and in a hub's.
pub const FLEET_FILE: &str = "fleet.cose";
/// How many root keys a fleet begins with, and how many of them must sign.
const ROOT_KEYS: usize = 3;
const ROOT_THRESHOLD: u8 = 2;
const ROOT_FOLDER: &str = "root";
const ISSUING_FILE: &str = "issuing.key";
const RELEASE_FILE: &str = "release.key";
const LOCK_FILE: &str = "lock";

/// Says why a fleet's folder could not be made, opened or changed.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The place is taken.
    #[error("{} is not empty; a fleet is never overwritten", .0.display())]
    Exists(PathBuf),
    /// Another command is at work.
    #[error("another command is changing {}", .0.display())]
    Busy(PathBuf),
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key could not be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The root document that was made is not right.
    #[error("the root document is not right")]
    Root(#[from] RootError),
    /// The fleet document is not right, or would not be.
    #[error("the fleet document is not right")]
    Fleet(#[from] FleetError),
    /// The issuing key in the folder is not the one that the root names.
    #[error("{ISSUING_FILE} is not the issuing key of this fleet")]
    OtherIssuingKey,
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// An open fleet folder; nobody else changes it meanwhile.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuing: NodeKey,
    document: FleetDocument,
    _lock: File,
}

impl Authority {
    /// Makes a fleet: three root keys of which two must sign, an issuing key, a release key, and
    /// version 1 of the fleet document. The folder appears complete or not at all.
    pub fn init(folder: &Path, now_ms: u64) -> Result<FleetDocument, AuthorityError> {
        let taken = || AuthorityError::Exists(folder.into());
        let is_free = match fs::read_dir(folder) {
            Ok(mut entries) => entries.next().is_none(),
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        };
        if !is_free {
            return Err(taken());
        }
        // Without a trailing slash or dot, so that the unfinished one stands beside it.
        let folder = &folder
            .canonicalize()
            .unwrap_or_else(|_| folder.components().collect());
        let mut unfinished = folder.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        if unfinished.exists() {
            return Err(AuthorityError::Exists(unfinished));
        }
        let made = mint(&unfinished, now_ms).and_then(|document| {
            // Takes the place of an empty folder, fails on any other.
            fs::rename(&unfinished, folder).map_err(|_| taken())?;
            files::sync_directory_of(folder)?;
            Ok(document)
        });
        if made.is_err() {
            // The first error matters; what is left holds keys that nothing trusts.
            let _ = fs::remove_dir_all(&unfinished);
        }
        made
    }

    /// Opens a fleet's folder for a change.
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        // A folder that is no fleet gets no lock file.
        read_document(folder)?;
        let lock = take_lock(folder)?;
        let document = read_document(folder)?;
        let issuing = NodeKey::load(&folder.join(ISSUING_FILE))?;
        if issuing.id() != document.root().body().issuing {
            return Err(AuthorityError::OtherIssuingKey);
        }
        Ok(Self {
            folder: folder.into(),
            issuing,
            document,
            _lock: lock,
        })
    }

    /// The present document.
    pub fn document(&self) -> &FleetDocument {
        &self.document
    }

    /// The key that signs vouchers and credentials.
    pub fn issuing(&self) -> &NodeKey {
        &self.issuing
    }

    /// Makes the next version of the fleet document and puts it in the place of the last one.
    pub fn publish(
        &mut self,
        now_ms: u64,
        change: impl FnOnce(&mut FleetBody),
    ) -> Result<(), AuthorityError> {
        let mut body = self.document.body().clone();
        body.version += 1;
        body.made_at_ms = now_ms;
        change(&mut body);
        let document = FleetDocument::parse(&body.sign(&self.issuing), &self.document.anchor())?;
        files::replace(&self.folder.join(FLEET_FILE), document.signed())?;
        self.document = document;
        Ok(())
    }
}

/// Reads the present document without changing anything; needs no key.
pub fn read_document(folder: &Path) -> Result<FleetDocument, AuthorityError> {
    let bytes = files::read(&folder.join(FLEET_FILE), FLEET_BYTES_MAX as u64)?;
    Ok(FleetDocument::parse_own(&bytes)?)
}

fn mint(folder: &Path, now_ms: u64) -> Result<FleetDocument, AuthorityError> {
    let root_folder = folder.join(ROOT_FOLDER);
    files::create_private_directory(folder)?;
    files::create_private_directory(&root_folder)?;
    let root_keys = (1..=ROOT_KEYS)
        .map(|n| NodeKey::create(&root_folder.join(format!("root-{n}.key"))))
        .collect::<Result<Vec<_>, _>>()?;
    let issuing = NodeKey::create(&folder.join(ISSUING_FILE))?;
    let release = NodeKey::create(&folder.join(RELEASE_FILE))?;
    let ids = root_keys.iter().map(NodeKey::id).collect();
    let root = RootBody::first(ROOT_THRESHOLD, ids, (issuing.id(), release.id()), now_ms);
    let root = Root::verify_first(&root.sign(&root_keys.iter().collect::<Vec<_>>()))?;
    let signed = FleetBody::first(&root).sign(&issuing);
    let document = FleetDocument::parse(&signed, &root.anchor())?;
    files::create_private(&folder.join(FLEET_FILE), document.signed())?;
    Ok(document)
}

fn take_lock(folder: &Path) -> Result<File, AuthorityError> {
    let path = folder.join(LOCK_FILE);
    let io = |source| AuthorityError::Io {
        action: "lock",
        path: path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AuthorityError::Busy(folder.into())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

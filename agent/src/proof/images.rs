//! The images: each file of a folder, held against the pairs that the papers speak of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use study::dataset::InstanceHead;
use study::part10::{Part10, Part10Error};
use study::{InstanceDigest, SopInstanceUid};
use thiserror::Error;

/// The largest file that is taken for an image.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// Media Storage Directory Storage: the table of contents of a disc, no image.
const DIRECTORY_SOP_CLASS: &str = "1.2.840.10008.1.3.10";

/// Says that a folder cannot be looked through.
#[derive(Debug, Error)]
#[error("cannot look through {path:?}")]
pub struct FolderError {
    path: PathBuf,
    source: io::Error,
}

/// An image that is not what was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Altered {
    /// The file.
    pub file: PathBuf,
    /// The image that it pretends to be.
    pub sop: SopInstanceUid,
    /// What is wrong, in plain words.
    pub what: &'static str,
}

/// What a folder was found to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FolderCheck {
    /// How many images of the study are there as they were signed.
    pub unaltered: usize,
    /// Images of the study that are not as they were signed.
    pub altered: Vec<Altered>,
    /// Images of the study of which no file is there.
    pub missing: Vec<(SopInstanceUid, InstanceDigest)>,
    /// DICOM files that are no image of this study.
    pub foreign: Vec<PathBuf>,
    /// Files that cannot be read, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Files that are no images at all: the proof says nothing of them.
    pub not_covered: Vec<PathBuf>,
}

impl FolderCheck {
    /// All images are there, unaltered, and nothing else that is an image.
    pub fn holds(&self) -> bool {
        self.altered.is_empty()
            && self.missing.is_empty()
            && self.foreign.is_empty()
            && self.unreadable.is_empty()
    }
}

enum Verdict {
    Unaltered(SopInstanceUid, InstanceDigest),
    Altered(SopInstanceUid, &'static str),
    Foreign,
    Unreadable(String),
    NotCovered,
}

/// Looks at every file under `folder`, whatever its name. Links to folders are not followed.
pub fn check_folder(
    folder: &Path,
    images: &BTreeSet<(SopInstanceUid, InstanceDigest)>,
) -> Result<FolderCheck, FolderError> {
    let by_digest = images.iter().map(|(sop, digest)| (*digest, sop)).collect();
    let sops = images.iter().map(|(sop, _)| sop).collect();
    let signed = Signed { by_digest, sops };
    let mut found = FolderCheck::default();
    let mut seen = BTreeSet::new();
    for file in files(folder)? {
        match signed.judge(&file) {
            Verdict::Unaltered(sop, digest) => {
                seen.insert((sop, digest));
            }
            Verdict::Altered(sop, what) => found.altered.push(Altered { file, sop, what }),
            Verdict::Foreign => found.foreign.push(file),
            Verdict::Unreadable(why) => found.unreadable.push((file, why)),
            Verdict::NotCovered => found.not_covered.push(file),
        }
    }
    found.unaltered = seen.len();
    // An altered image is there, if not as it was: it is named once.
    let mut altered: BTreeMap<&SopInstanceUid, usize> = BTreeMap::new();
    for image in &found.altered {
        *altered.entry(&image.sop).or_default() += 1;
    }
    for pair in images.difference(&seen) {
        match altered.get_mut(&pair.0) {
            Some(count) if *count > 0 => *count -= 1,
            Some(_) | None => found.missing.push(pair.clone()),
        }
    }
    Ok(found)
}

/// The pairs, by either half.
struct Signed<'a> {
    by_digest: BTreeMap<InstanceDigest, &'a SopInstanceUid>,
    sops: BTreeSet<&'a SopInstanceUid>,
}

impl Signed<'_> {
    fn judge(&self, path: &Path) -> Verdict {
        let file = match read(path) {
            Ok(file) => file,
            Err(error) => return Verdict::Unreadable(error.to_string()),
        };
        let part10 = match Part10::parse(&file) {
            Ok(part10) => part10,
            Err(Part10Error::NoPreamble) => return Verdict::NotCovered,
            Err(
                error @ (Part10Error::Meta(_)
                | Part10Error::NoTransferSyntax
                | Part10Error::BadUid { .. }),
            ) => return Verdict::Unreadable(error.to_string()),
        };
        let data_set = file.get(part10.data_set).unwrap_or_default();
        let digest = InstanceDigest::of(&part10.transfer_syntax, data_set);
        if let Some(&sop) = self.by_digest.get(&digest) {
            return if part10.sop.is_none_or(|named| named == *sop) {
                Verdict::Unaltered(sop.clone(), digest)
            } else {
                Verdict::Altered(sop.clone(), "its file head names another image")
            };
        }
        // The head of the file may tell which image it was, even if its data set is damaged.
        let inside = InstanceHead::read(data_set, &part10.transfer_syntax);
        let names = [part10.sop, inside.ok().map(|head| head.sop)];
        if let Some(sop) = names.into_iter().flatten().find(|s| self.sops.contains(s)) {
            return Verdict::Altered(sop, "its content is not what was signed");
        }
        match part10.sop_class {
            Some(class) if class.as_str() == DIRECTORY_SOP_CLASS => Verdict::NotCovered,
            Some(_) | None => Verdict::Foreign,
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Reading a pipe or a device might never end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than any image"));
    }
    Ok(bytes)
}

/// All files under a folder, in the order of their paths.
fn files(folder: &Path) -> Result<Vec<PathBuf>, FolderError> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let failed = |source| FolderError {
            path: folder.clone(),
            source,
        };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

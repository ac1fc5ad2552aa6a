//! The command `proof verify`: needs a file, and no box.

use std::path::Path;

use identity::files;

use super::format::{PROOF_BYTES_MAX, Proof};
use super::images::check_folder;
use super::judge::{Document, Fault, Judgement, judge};
use super::present::Findings;
use crate::commands::{Failure, say};

/// Checks a proof file, with a folder its images too; fails unless everything given holds.
pub(crate) fn verify(
    file: &Path,
    folder: Option<&Path>,
    fleet: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let bytes = files::read(file, PROOF_BYTES_MAX as u64).map_err(anyhow::Error::new)?;
    let (judgement, checked) = match Proof::parse(&bytes) {
        Err(error) => (unreadable(error.to_string()), None),
        Ok(proof) => {
            let judgement = judge(&proof, fleet);
            // Against a list that nobody signed, no image can be called unaltered.
            let images = judgement.images_hold.then(|| &proof.papers().images);
            let checked = folder
                .zip(images)
                .map(|(f, images)| check_folder(f, images));
            (judgement, checked.transpose().map_err(anyhow::Error::new)?)
        }
    };
    let findings = Findings {
        judgement: &judgement,
        fleet_demanded: fleet.is_some(),
        folder_given: folder.is_some(),
        folder: checked.as_ref(),
    };
    if json {
        say(&format!("{:#}\n", findings.to_json()))?;
    } else {
        say(&findings.to_text())?;
    }
    if findings.hold() {
        return Ok(());
    }
    let faults = judgement.faults.iter().map(Fault::to_string);
    let altered = checked.iter().flat_map(|folder| &folder.altered);
    let images = altered.map(|a| format!("image {} is altered: {}", a.sop, a.what));
    let first = faults.chain(images).next();
    let first = first.unwrap_or_else(|| "the folder does not hold exactly its images".to_owned());
    Err(anyhow::anyhow!("the proof does not hold: {first}").into())
}

fn unreadable(reason: String) -> Judgement {
    Judgement {
        faults: vec![Fault {
            document: Document::File,
            reason,
        }],
        ..Judgement::default()
    }
}

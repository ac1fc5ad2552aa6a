//! Reconciling: whether what came is what was ordered and what the modality says it made.

use std::collections::BTreeSet;
use std::time::Duration;

use dimse::tag;
use study::charset::CharacterSet;
use study::dataset::{Encoding, Tag, Walk, is_deflated};
use study::part10::Part10;
use study::{SopInstanceUid, StudyUid};
use tokio_util::sync::CancellationToken;

use super::findings::{self, Finding, FindingKind, Findings};
use super::form::Order;
use super::performed::{self, PerformedStep, StepState};
use super::{ARRIVED, FILED, OpenFault, Orders, filed};
use crate::vault::{Change, Document, Drawer, VaultError};

/// A scanner sends hundreds a second: not each of them is looked at by itself.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// How long nothing must have come before what did not come is called missing.
const SETTLED_MS: u64 = 3000;
/// How long it rests after a failure.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// Looks at each study that changes, until `stop`.
pub async fn run(orders: Orders, stop: CancellationToken) {
    let vault = orders.0.vault.clone();
    let (mut arrived, mut changed) = (vault.arrivals(), vault.watch());
    let mut watched = orders.ordered();
    loop {
        arrived.mark_unchanged();
        changed.mark_unchanged();
        let looked = orders.look(&mut watched).await;
        if let Err(error) = &looked {
            let error = error as &dyn std::error::Error;
            tracing::error!(error, "cannot reconcile orders with studies");
        }
        let pause = match looked {
            Ok(true) => Duration::from_millis(SETTLED_MS),
            Ok(false) => Duration::MAX,
            Err(_) => RETRY_DELAY,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            arrived = arrived.changed() => if arrived.is_err() { return },
            changed = changed.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

impl Orders {
    /// The studies that were ordered: what came while the vault was locked is compared later.
    fn ordered(&self) -> BTreeSet<StudyUid> {
        let orders = self
            .0
            .vault
            .documents(Drawer::Orders)
            .unwrap_or_else(|error| {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "cannot read the orders");
                Vec::new()
            });
        let names = orders
            .iter()
            .filter_map(|(name, _)| StudyUid::parse(name).ok());
        names.collect()
    }

    /// Looks at the studies that are open, once more at those that were, and at those that could not
    /// be compared yet. Says whether one is to be looked at again though nothing comes.
    pub(super) async fn look(&self, watched: &mut BTreeSet<StudyUid>) -> Result<bool, VaultError> {
        if !self.0.vault.keys().is_readable() {
            self.opened().clear();
        }
        let open = self.0.vault.open_studies()?;
        let seen: Vec<StudyUid> = open.union(watched).cloned().collect();
        let mut again = open.clone();
        let mut soon = false;
        for study in seen {
            let looked = self.look_at(&study, open.contains(&study)).await?;
            soon |= looked.soon;
            if !looked.compared {
                again.insert(study);
            }
        }
        *watched = again;
        Ok(soon)
    }

    async fn look_at(&self, study: &StudyUid, is_open: bool) -> Result<Looked, VaultError> {
        let vault = &self.0.vault;
        let has_order = self
            .pass_urgency_on(study, vault.is_open(study)?.is_some())
            .await?;
        let steps = performed::steps_of(vault, study)?;
        if steps.is_empty() && !has_order && vault.studies_to_do()?.is_empty() {
            return Ok(Looked::DONE);
        }
        let held = vault.instances_of(study)?;
        let Some(one) = held.first() else {
            let compared = !has_order;
            return Ok(Looked {
                compared,
                ..Looked::DONE
            });
        };
        let made = made(&steps);
        if is_open && has_all(&steps, &made, &held) {
            vault.conclude(study);
        }
        let before = findings::of(vault, study)?;
        let mut now = Findings {
            compared: before.compared,
            list: before.list.clone(),
        };
        let quiet_ms = vault.quiet_ms(study);
        let is_settled = !is_open || quiet_ms.is_some_and(|quiet_ms| quiet_ms >= SETTLED_MS);
        if is_settled {
            now.list.retain(|finding| is_comparison(finding.kind));
            now.list.extend(counted(&steps, &made, &held));
        }
        if !before.compared
            && let Some(found) = self.compare(study, one)?
        {
            now.compared = true;
            now.list.extend(found);
        }
        now.list.sort_unstable();
        let is_worth_filing = now.compared || !now.list.is_empty() || before.compared;
        let looked = Looked {
            compared: now.compared || !has_order,
            soon: !steps.is_empty() && !is_settled && quiet_ms.is_some(),
        };
        if now != before && is_worth_filing {
            findings::file(vault, study, now).await?;
        }
        Ok(looked)
    }

    /// Gives the order's urgency to the study, once, when it begins to come; says whether there is an
    /// order for it.
    async fn pass_urgency_on(&self, study: &StudyUid, has_come: bool) -> Result<bool, VaultError> {
        let vault = &self.0.vault;
        let Some(document) = vault.document(Drawer::Orders, study.as_str())? else {
            return Ok(false);
        };
        let (FILED, Some(order), true) = (document.state, filed(&document), has_come) else {
            return Ok(true);
        };
        vault.set_priority(study.clone(), order.priority).await?;
        let arrived = |found: Option<Document>| {
            Ok::<_, VaultError>(match found {
                Some(found) => Change::File(Document {
                    state: ARRIVED,
                    ..found
                }),
                None => Change::Nothing,
            })
        };
        let name = study.as_str().to_owned();
        vault.change_document(Drawer::Orders, name, arrived).await?;
        Ok(true)
    }

    /// Compares an instance with the order for its study, and its accession number with those of
    /// others; none when that cannot be done now.
    fn compare(
        &self,
        study: &StudyUid,
        one: &SopInstanceUid,
    ) -> Result<Option<Vec<Finding>>, VaultError> {
        let vault = &self.0.vault;
        let waiting = vault.studies_to_do()?;
        let has_order = vault.document(Drawer::Orders, study.as_str())?.is_some();
        if !has_order && waiting.is_empty() || !vault.keys().is_readable() {
            return Ok(None);
        }
        let Ok(file) = vault.checked_file(one) else {
            // Locked meanwhile, damaged, or not in the box any more: `status` says so.
            return Ok(None);
        };
        let Some(said) = Said::read(&file.bytes) else {
            return Ok(None);
        };
        match self.order(study) {
            Ok(Some(order)) => Ok(Some(said.against(&order))),
            Ok(None) => {
                let others = self.to_do()?.unwrap_or_default();
                let is_elsewhere = !said.accession_number.is_empty()
                    && others
                        .iter()
                        .any(|order| order.accession_number == said.accession_number);
                Ok(Some(if is_elsewhere {
                    vec![whole(FindingKind::OrderElsewhere)]
                } else {
                    Vec::new()
                }))
            }
            Err(OpenFault::Locked | OpenFault::Damaged) => Ok(None),
            Err(OpenFault::Vault(error)) => Err(error),
        }
    }
}

/// What came of looking at a study.
struct Looked {
    /// It was compared with its order, or has none.
    compared: bool,
    /// It is to be looked at again though nothing comes.
    soon: bool,
}

impl Looked {
    const DONE: Self = Self {
        compared: true,
        soon: false,
    };
}

/// Whether a finding comes from comparing an image with the order, which is done once.
const fn is_comparison(kind: FindingKind) -> bool {
    match kind {
        FindingKind::PatientDiffers
        | FindingKind::AccessionDiffers
        | FindingKind::OrderElsewhere => true,
        FindingKind::InstancesMissing
        | FindingKind::InstancesUnannounced
        | FindingKind::Discontinued => false,
    }
}

const fn whole(kind: FindingKind) -> Finding {
    Finding { kind, instances: 0 }
}

/// Everything that the steps say they made.
fn made(steps: &[PerformedStep]) -> BTreeSet<SopInstanceUid> {
    let series = steps.iter().flat_map(|step| &step.series);
    series.flat_map(|series| series.instances.clone()).collect()
}

/// Whether all steps are at their end and all that they made is held.
fn has_all(
    steps: &[PerformedStep],
    made: &BTreeSet<SopInstanceUid>,
    held: &BTreeSet<SopInstanceUid>,
) -> bool {
    let ended = |step: &PerformedStep| step.state != StepState::InProgress;
    !made.is_empty() && steps.iter().all(ended) && made.is_subset(held)
}

/// What is to be said of a study of which nothing comes any more, for the time being.
fn counted(
    steps: &[PerformedStep],
    made: &BTreeSet<SopInstanceUid>,
    held: &BTreeSet<SopInstanceUid>,
) -> Vec<Finding> {
    let mut found = Vec::new();
    if steps
        .iter()
        .any(|step| step.state == StepState::Discontinued)
    {
        found.push(whole(FindingKind::Discontinued));
    }
    let all_ended = steps.iter().all(|step| step.state != StepState::InProgress);
    // A step that lists nothing has not been asked to, and one that goes on may list more.
    if made.is_empty() || !all_ended {
        return found;
    }
    for (kind, instances) in [
        (FindingKind::InstancesMissing, made.difference(held).count()),
        (
            FindingKind::InstancesUnannounced,
            held.difference(made).count(),
        ),
    ] {
        if instances > 0 {
            let instances = instances as u64;
            found.push(Finding { kind, instances });
        }
    }
    found
}

/// What an instance says of its patient and its order.
#[derive(Default)]
struct Said {
    patient_name: String,
    patient_id: String,
    birth_date: String,
    accession_number: String,
}

impl Said {
    /// Reads a file; none when nothing can be read of it without inflating it.
    fn read(file: &[u8]) -> Option<Self> {
        let parts = Part10::parse(file).ok()?;
        if is_deflated(&parts.transfer_syntax) {
            return None;
        }
        let data_set = file.get(parts.data_set)?;
        let mut said = Self::default();
        let mut set = CharacterSet::of(b"");
        for element in Walk::new(data_set, Encoding::of(&parts.transfer_syntax)) {
            let Ok(element) = element else { break };
            if element.tag > LAST_READ {
                break;
            }
            let value = data_set.get(element.value.clone()).unwrap_or_default();
            let place = match element.tag {
                tag::SPECIFIC_CHARACTER_SET => {
                    set = CharacterSet::of(value);
                    continue;
                }
                tag::ACCESSION_NUMBER => &mut said.accession_number,
                tag::PATIENT_NAME => &mut said.patient_name,
                tag::PATIENT_ID => &mut said.patient_id,
                tag::BIRTH_DATE => &mut said.birth_date,
                _ => continue,
            };
            set.read(value).trim_matches([' ', '\0']).clone_into(place);
        }
        Some(said)
    }

    fn against(&self, order: &Order) -> Vec<Finding> {
        let mut found = Vec::new();
        let differs =
            |said: &str, ordered: &str| !said.is_empty() && !ordered.is_empty() && said != ordered;
        if differs(&self.patient_id, &order.patient_id)
            || differs(&self.birth_date, &order.birth_date)
            || differs(&plain(&self.patient_name), &plain(&order.patient_name))
        {
            found.push(whole(FindingKind::PatientDiffers));
        }
        if differs(&self.accession_number, &order.accession_number) {
            found.push(whole(FindingKind::AccessionDiffers));
        }
        found
    }
}

/// The last element that is read: they come in order.
const LAST_READ: Tag = tag::BIRTH_DATE;

/// A name as it is compared: the first group of components, without case and without what separates.
fn plain(name: &str) -> String {
    let group = name.split('=').next().unwrap_or_default();
    let words = group.split(['^', ' ', ',']).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use study::SeriesUid;

    use super::super::performed::PerformedSeries;
    use super::*;

    fn sops(numbers: &[u32]) -> BTreeSet<SopInstanceUid> {
        let sop = |number| SopInstanceUid::parse(&format!("1.2.{number}")).unwrap();
        numbers.iter().map(sop).collect()
    }

    fn step(state: StepState, numbers: &[u32]) -> PerformedStep {
        let instances = sops(numbers).into_iter().collect();
        let series = SeriesUid::parse("1.2").unwrap();
        PerformedStep {
            state,
            series: vec![PerformedSeries { series, instances }],
        }
    }

    fn found(steps: &[PerformedStep], held: &[u32]) -> Vec<(FindingKind, u64)> {
        let found = counted(steps, &made(steps), &sops(held));
        found.iter().map(|f| (f.kind, f.instances)).collect()
    }

    #[test]
    fn what_did_not_come_and_what_was_not_listed_is_counted_at_the_end() {
        use StepState::{Completed, Discontinued, InProgress};
        let whole = [step(Completed, &[1, 2, 3])];
        assert_eq!(found(&whole, &[1, 2, 3]), []);
        let both = [
            (FindingKind::InstancesMissing, 2),
            (FindingKind::InstancesUnannounced, 1),
        ];
        assert_eq!(found(&whole, &[1, 4]), both);
        let going_on = [step(Completed, &[1, 2]), step(InProgress, &[])];
        assert_eq!(found(&going_on, &[1]), []);
        let broken_off = [step(Discontinued, &[])];
        assert_eq!(found(&broken_off, &[1]), [(FindingKind::Discontinued, 0)]);
    }

    #[test]
    fn names_are_the_same_however_they_are_written() {
        assert_eq!(plain("DOE^JANE^^"), plain("Doe Jane"));
        assert_eq!(plain("Yamada^Tarou=x^y"), plain("yamada^tarou"));
        assert_ne!(plain("Doe^Jane"), plain("Doe^John"));
    }
}

//! Orders: what is to be done, on what basis it may leave, and whether what came is what was ordered.
//!
//! In: orders and consent from people, the site's policy from `membership`, worklist queries and
//! performed steps from `intake`. Out: signed consent records and sealed orders in `vault`, matches to
//! scanners, findings to `status`.
//! Invariant: where a person must be asked, nothing is recorded in their place; what is a patient's in
//! an order is at rest only sealed; a study is bound to an order by its Study Instance UID and by
//! nothing else.
//! May not: send anything, change an instance.

pub(crate) mod command;
mod consent;
mod findings;
mod form;
mod identifiers;
mod matching;
mod performed;
mod reconcile;
mod worklist;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dimse::Answer;
use dimse::scp::{Matches, Operation};
use minicbor::{Decode, Encode};
use sealing::KeyringError;
use serde::Serialize;
use study::{Priority, StudyUid};
use thiserror::Error;

use crate::vault::{Change, Document, Drawer, Vault, VaultError};

pub use command::OrderRequest;
pub use consent::{ConsentBasis, run};
pub use findings::Finding;
pub use form::{FormError, OrderForm};
pub use reconcile::run as reconcile;

use form::Order;

/// Orders that may be waiting at once; a worklist is made of all of them.
const ORDERS_MAX: usize = 5000;

/// What an order's document says in its state: what happened to it by itself is in other documents.
const FILED: u8 = 1;
/// Its urgency was given to the study when that came.
const ARRIVED: u8 = 2;

/// Says why an order is not taken, shown or cancelled.
#[derive(Debug, Error)]
pub enum OrderError {
    /// The form cannot be an order.
    #[error("the order cannot be taken")]
    Form(#[from] FormError),
    /// As many orders wait as may.
    #[error("{ORDERS_MAX} orders are waiting already: cancel those that will not be done")]
    TooMany,
    /// No such order waits.
    #[error("no order for study {0} is kept")]
    Unknown(StudyUid),
    /// Images of the study have come.
    #[error("study {0} has begun: its order stays with it")]
    Begun(StudyUid),
    /// The vault could not keep or give it.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// An order as it is filed; what is a patient's is sealed.
#[derive(Debug, Encode, Decode)]
struct FiledOrder {
    #[n(0)]
    priority: Priority,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    sealed: Vec<u8>,
}

/// What people are told of an order that was taken.
#[derive(Debug, Serialize)]
pub struct Taken {
    /// What images of it will be known by.
    pub study_instance_uid: StudyUid,
    /// As given, or made here.
    pub accession_number: String,
    /// As given, or the tag of an unknown patient.
    pub patient_id: String,
}

/// An order in a list.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// What images of it are known by.
    pub study_instance_uid: StudyUid,
    /// How urgent it is.
    pub priority: Priority,
    /// `waiting`, or `done`.
    pub state: &'static str,
    /// What it says; none while the vault is locked.
    pub order: Option<serde_json::Value>,
}

/// The orders of a box; clones share them.
#[derive(Clone)]
pub struct Orders(Arc<Inner>);

struct Inner {
    vault: Vault,
    /// Orders that were opened, for as long as the vault is.
    opened: Mutex<BTreeMap<StudyUid, Arc<Order>>>,
}

impl Orders {
    /// The orders in a vault.
    pub fn new(vault: Vault) -> Self {
        Self(Arc::new(Inner {
            vault,
            opened: Mutex::default(),
        }))
    }

    /// Takes an order; returns when it is on the disk. Works locked.
    pub async fn add(&self, form: OrderForm) -> Result<Taken, OrderError> {
        let order = Order::from_form(form)?;
        if self.0.vault.studies_to_do()?.len() >= ORDERS_MAX {
            return Err(OrderError::TooMany);
        }
        let taken = Taken {
            study_instance_uid: order.study.clone(),
            accession_number: order.accession_number.clone(),
            patient_id: order.patient_id.clone(),
        };
        let document = self.sealed(&order, FILED);
        let name = order.study.as_str().to_owned();
        let file = |_| Ok::<_, VaultError>(Change::File(document));
        let vault = &self.0.vault;
        vault.change_document(Drawer::Orders, name, file).await?;
        tracing::info!(study = %order.study, priority = %order.priority, "an order was taken");
        Ok(taken)
    }

    /// All orders; what they say is shown when the vault is open.
    pub fn list(&self) -> Result<Vec<Listed>, OrderError> {
        let vault = &self.0.vault;
        let to_do = vault.studies_to_do()?;
        // A person reads: an idle vault stays open for that.
        let readable = vault.keys().readable().is_ok();
        let mut listed = Vec::new();
        for (name, document) in vault.documents(Drawer::Orders)? {
            let (Ok(study), Some(filed)) = (StudyUid::parse(&name), filed(&document)) else {
                continue;
            };
            let opened = readable
                .then(|| self.open(&study, &filed))
                .and_then(Result::ok);
            listed.push(Listed {
                priority: filed.priority,
                state: if to_do.contains(&study) {
                    "waiting"
                } else {
                    "done"
                },
                order: opened.and_then(|order| serde_json::to_value(&*order).ok()),
                study_instance_uid: study,
            });
        }
        Ok(listed)
    }

    /// Cancels an order of which nothing has come; nothing of it is left.
    pub async fn cancel(&self, study: StudyUid) -> Result<(), OrderError> {
        let vault = &self.0.vault;
        let steps = vault.documents_of(Drawer::PerformedSteps, &study)?;
        if vault.is_open(&study)?.is_some() || !steps.is_empty() {
            return Err(OrderError::Begun(study));
        }
        let name = study.as_str().to_owned();
        let unknown = study.clone();
        let shred = move |found: Option<Document>| match found {
            Some(_) => Ok(Change::Shred),
            None => Err(OrderError::Unknown(unknown)),
        };
        vault.change_document(Drawer::Orders, name, shred).await?;
        self.opened().remove(&study);
        tracing::info!(%study, "an order was cancelled");
        Ok(())
    }

    /// Answers a worklist query; a locked box cannot.
    pub(crate) fn worklist(&self, identifier: &dimse::DataSet) -> Result<Matches, Answer> {
        worklist::answer(self, identifier)
    }

    /// Takes what a modality says of a step that it performs.
    pub(crate) async fn performed(&self, operation: Operation, calling: Option<String>) -> Answer {
        performed::take(&self.0.vault, operation, calling).await
    }

    /// What was found wrong with a study.
    pub fn findings(&self, study: &StudyUid) -> Result<Vec<Finding>, VaultError> {
        Ok(findings::of(&self.0.vault, study)?.list)
    }

    /// The orders that are to be done, opened; none while the vault is locked.
    fn to_do(&self) -> Result<Option<Vec<Arc<Order>>>, VaultError> {
        let vault = &self.0.vault;
        if !vault.keys().is_readable() {
            self.opened().clear();
            return Ok(None);
        }
        let mut orders = Vec::new();
        for study in vault.studies_to_do()? {
            match self.order(&study) {
                Ok(Some(order)) => orders.push(order),
                Ok(None) => {}
                Err(OpenFault::Locked) => return Ok(None),
                Err(OpenFault::Vault(error)) => return Err(error),
                Err(OpenFault::Damaged) => {
                    tracing::error!(%study, "an order cannot be opened: it is left out");
                }
            }
        }
        Ok(Some(orders))
    }

    /// The order for a study, opened.
    fn order(&self, study: &StudyUid) -> Result<Option<Arc<Order>>, OpenFault> {
        if let Some(order) = self.opened().get(study) {
            return Ok(Some(Arc::clone(order)));
        }
        let document = self.0.vault.document(Drawer::Orders, study.as_str())?;
        let filed = document.as_ref().and_then(filed);
        filed.map(|filed| self.open(study, &filed)).transpose()
    }

    fn open(&self, study: &StudyUid, filed: &FiledOrder) -> Result<Arc<Order>, OpenFault> {
        let keys = self.0.vault.keys();
        if !keys.is_readable() {
            return Err(OpenFault::Locked);
        }
        let opened = keys.open_document(&domain(study), &filed.sealed);
        let text = opened.map_err(|error| match error {
            KeyringError::Locked => OpenFault::Locked,
            KeyringError::OtherStoreKey { .. }
            | KeyringError::NotHeld(_)
            | KeyringError::NotForUs(_)
            | KeyringError::Unseal(_) => OpenFault::Damaged,
        })?;
        let order: Order = serde_json::from_slice(&text).map_err(|_| OpenFault::Damaged)?;
        let order = Arc::new(order);
        self.opened().insert(study.clone(), Arc::clone(&order));
        Ok(order)
    }

    fn sealed(&self, order: &Order, state: u8) -> Document {
        let text = serde_json::to_vec(order).expect("an order is plain JSON");
        let to = self.0.vault.keys().public_key();
        let filed = FiledOrder {
            priority: order.priority,
            sealed: sealing::seal_to(&to, &domain(&order.study), &text),
        };
        Document {
            study: Some(order.study.clone()),
            state,
            body: minicbor::to_vec(&filed).expect("writing to a Vec does not fail"),
        }
    }

    fn opened(&self) -> MutexGuard<'_, BTreeMap<StudyUid, Arc<Order>>> {
        // Each statement leaves the map whole.
        self.0.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an order cannot be read now.
enum OpenFault {
    Locked,
    Damaged,
    Vault(VaultError),
}

impl From<VaultError> for OpenFault {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

fn filed(document: &Document) -> Option<FiledOrder> {
    minicbor::decode(&document.body).ok()
}

/// The domain that an order is sealed under.
fn domain(study: &StudyUid) -> String {
    format!("order/{study}")
}

#[cfg(test)]
mod tests;

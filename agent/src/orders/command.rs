//! `order`: what people ask of the orders.

use std::path::Path;

use anyhow::Context as _;
use identity::files;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use study::StudyUid;

use super::{OrderForm, Orders};
use crate::commands::{Failure, Request, ask, pretty, say};

/// The largest form that is read.
const FORM_BYTES_MAX: u64 = 64 << 10;

/// What can be asked of the orders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum OrderRequest {
    /// Takes an order.
    Add {
        /// What is to be done.
        form: Box<OrderForm>,
    },
    /// All orders.
    List,
    /// Cancels an order of which nothing has come.
    Cancel {
        /// Its study.
        study: StudyUid,
    },
}

/// Does what was asked.
pub(crate) async fn execute(orders: &Orders, request: OrderRequest) -> anyhow::Result<Value> {
    match request {
        OrderRequest::Add { form } => Ok(serde_json::to_value(orders.add(*form).await?)?),
        OrderRequest::List => {
            let orders = orders.clone();
            let read = tokio::task::spawn_blocking(move || orders.list());
            let listed = read.await.context("reading was interrupted")??;
            Ok(serde_json::json!({ "orders": listed }))
        }
        OrderRequest::Cancel { study } => {
            orders.cancel(study).await?;
            Ok(Value::Null)
        }
    }
}

/// `order add`
pub(crate) fn add(folder: &Path, file: &Path, json: bool) -> Result<(), Failure> {
    let unreadable = || format!("cannot read the order in {}", file.display());
    let text = files::read(file, FORM_BYTES_MAX).with_context(unreadable)?;
    let form = OrderForm::from_json(&text).with_context(unreadable)?;
    let form = Box::new(form);
    let taken = ask(folder, &Request::Order(OrderRequest::Add { form }))?.output;
    if json {
        return say(&pretty(&taken));
    }
    let word = |key: &str| taken[key].as_str().unwrap_or("-").to_owned();
    say(&format!(
        "study {}\naccession {}\npatient {}\n",
        word("study_instance_uid"),
        word("accession_number"),
        word("patient_id")
    ))
}

/// `order list`
pub(crate) fn list(folder: &Path, json: bool) -> Result<(), Failure> {
    let listed = ask(folder, &Request::Order(OrderRequest::List))?.output;
    if json {
        return say(&pretty(&listed));
    }
    let mut text = String::new();
    for order in listed["orders"].as_array().into_iter().flatten() {
        let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let (study, state) = (word(&order["study_instance_uid"]), word(&order["state"]));
        let said = &order["order"];
        let what = if said.is_null() {
            "(locked)".to_owned()
        } else {
            let (date, time) = (word(&said["date"]), word(&said["time"]));
            let (name, procedure) = (word(&said["patient_name"]), word(&said["procedure"]));
            format!("{date} {time}  {name}  {procedure}")
        };
        let priority = word(&order["priority"]);
        text.push_str(&format!("{study}  {priority}  {state}  {what}\n"));
    }
    say(&text)
}

/// `order cancel`
pub(crate) fn cancel(folder: &Path, study: &StudyUid) -> Result<(), Failure> {
    let study = study.clone();
    ask(folder, &Request::Order(OrderRequest::Cancel { study })).map(drop)
}

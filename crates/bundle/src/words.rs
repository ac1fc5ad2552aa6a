//! What people read: the same at both ends, made from the JSON that scripts read.

use serde_json::{Value, json};

use crate::carry::{Line, WrittenLine};
use crate::progress::Progress;
use crate::stick::Stick;

/// The document of an export that has succeeded: everything in it is synced and was read back.
pub fn exported(stick: &Stick, is_own_disk: bool, bundles: &[WrittenLine]) -> Value {
    json!({
        "mountpoint": stick.path(),
        "own_disk": is_own_disk,
        "bundles": bundles,
        "safe_to_remove": true,
    })
}

/// The document of an import.
pub fn imported(stick: &Stick, lines: &[Line]) -> Value {
    json!({
        "mountpoint": stick.path(),
        "bundles": lines,
        "failed": lines.iter().filter(|line| line.is_trouble()).count(),
    })
}

/// The document of a look at the work.
pub fn at_work(progress: &Progress) -> Value {
    let (bundles, bytes, bytes_total) = progress.read();
    json!({ "bundles": bundles, "bytes": bytes, "bytes_total": bytes_total })
}

/// An export in words; the last line is the one to wait for.
pub fn export_text(output: &Value) -> String {
    let mut text = String::new();
    let bundles = output["bundles"].as_array().map_or(&[][..], Vec::as_slice);
    for bundle in bundles {
        text.push_str(&format!(
            "bundle {}: {} revisions, {} records, {} in {} files\n",
            word(&bundle["bundle"]),
            bundle["revisions"],
            bundle["records"],
            amount(&bundle["bytes"]),
            bundle["files"],
        ));
        for left in bundle["left_out"].as_array().into_iter().flatten() {
            text.push_str(&format!(
                "LEFT OUT: study {} revision {} ({}): {}\n",
                word(&left["study_instance_uid"]),
                left["revision"],
                word(&left["priority"]),
                word(&left["reason"]),
            ));
        }
    }
    if bundles.is_empty() {
        text.push_str("nothing to export: the other side has all of it\n");
    }
    text.push_str("safe to remove\n");
    text
}

/// What a person should know of an export beside that.
pub fn export_warning(output: &Value) -> Option<&'static str> {
    (output["own_disk"] == true)
        .then_some("this is the disk that the data folder is on: is the stick mounted there?")
}

/// An import in words.
pub fn import_text(output: &Value) -> String {
    let mut text = String::new();
    let mut others = 0;
    for line in output["bundles"].as_array().into_iter().flatten() {
        let name = word(&line["bundle"]);
        match word(&line["state"]) {
            "not_for_us" => others += 1,
            "known" => text.push_str(&format!("bundle {name}: already imported")),
            "refused" => text.push_str(&format!("bundle {name}: REFUSED")),
            state => text.push_str(&format!(
                "bundle {name}: {state}, {} revisions new, {} known, {} records, {} from {}",
                line["revisions"],
                line["revisions_known"],
                line["records"],
                amount(&line["bytes"]),
                word(&line["sender"]).get(..8).unwrap_or("-"),
            )),
        }
        for reason in line["reasons"].as_array().into_iter().flatten() {
            text.push_str(&format!("; {}", word(reason)));
        }
        if line["removed"] == true {
            text.push_str("; removed from the stick");
        }
        if line["state"] != "not_for_us" {
            text.push('\n');
        }
    }
    if others > 0 {
        text.push_str(&format!(
            "left alone: {others} that are not for this node\n"
        ));
    }
    if text.is_empty() {
        text.push_str("no bundle on it\n");
    }
    text
}

/// A look at the work in words.
fn at_work_text(output: &Value) -> String {
    format!(
        "{} bundles, {} of {}",
        output["bundles"],
        amount(&output["bytes"]),
        amount(&output["bytes_total"]),
    )
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn amount(bytes: &Value) -> String {
    let bytes = bytes.as_u64().unwrap_or(0);
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

/// Waits for the answer of `work` on a thread of its own and has `look` tell of it meanwhile.
pub fn with_progress<T: Send>(
    work: impl FnOnce() -> T + Send,
    look: impl Fn() -> Option<Value>,
    tell: impl Fn(&str),
) -> T {
    std::thread::scope(|scope| {
        let (done, finished) = std::sync::mpsc::channel();
        scope.spawn(move || drop(done.send(work())));
        let mut told = String::new();
        loop {
            match finished.recv_timeout(Progress::LOOK_INTERVAL) {
                Ok(answer) => return answer,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                    unreachable!("the work gives its answer or panics, which the scope passes on")
                }
            }
            let text = look().filter(is_some_work).map(|seen| at_work_text(&seen));
            if let Some(text) = text.filter(|text| *text != told) {
                tell(&text);
                told = text;
            }
        }
    })
}

fn is_some_work(seen: &Value) -> bool {
    seen["bytes"].as_u64().is_some_and(|bytes| bytes > 0)
}

//! Every key of a program's configuration is explained in docs/config.md.

use toml::Table;

use crate::{root, silent};

/// `room.key` of every value in a configuration.
fn keys(table: &Table, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value.as_table() {
            Some(inner) => found.extend(keys(inner, &key)),
            None => found.push(key),
        }
    }
    found
}

/// Keys that the page doesn't name in backticks in the program's own section.
fn undocumented(program: &str, defaults: &Table, page: &str) -> Vec<String> {
    let heading = format!("## chasqui-{program}\n");
    let section = page.split_once(heading.as_str()).map_or("", |(_, rest)| {
        rest.split_once("\n## ")
            .map_or(rest, |(section, _)| section)
    });
    let missing = |key: &String| !section.contains(&format!("`{key}`"));
    let complain = |key| format!("docs/config.md, chasqui-{program}: `{key}` is missing");
    keys(defaults, "")
        .into_iter()
        .filter(missing)
        .map(complain)
        .collect()
}

#[test]
fn every_key_is_documented() {
    let page = std::fs::read_to_string(root().join("docs/config.md")).unwrap_or_default();
    let mut complaints = Vec::new();
    for program in ["agent", "hub"] {
        let file = root().join(program).join(format!("{program}.toml"));
        match std::fs::read_to_string(&file) {
            Ok(text) => complaints.extend(undocumented(program, &text.parse().unwrap(), &page)),
            Err(error) => complaints.push(format!("{program}/{program}.toml: {error}")),
        }
    }
    silent(complaints);
}

#[test]
fn a_silent_key_is_seen() {
    let defaults = "[intake]\nport = 1\nquiet-period = \"15s\"\n"
        .parse()
        .unwrap();
    let page = "## chasqui-agent\n`intake.port`\n\n## chasqui-hub\n`intake.quiet-period`\n";
    let complaints = undocumented("agent", &defaults, page);
    assert_eq!(
        complaints,
        ["docs/config.md, chasqui-agent: `intake.quiet-period` is missing"]
    );
}

//! `walkeep metrics`: the text is OpenMetrics, and the README and the rules speak of metrics that
//! there are.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The samples of an OpenMetrics text by family, strictly read: a family is one block with its help
/// and type, every sample is of it, no series comes twice, and the end is said.
#[track_caller]
fn parse(text: &str) -> BTreeMap<String, Vec<(String, f64)>> {
    let text = text.strip_suffix("# EOF\n").expect("an end");
    let mut families: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
    let (mut family, mut kind, mut helped) = (String::new(), String::new(), String::new());
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help");
            assert!(help.ends_with('.') && !families.contains_key(name), "{line}");
            helped = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').expect("a type");
            assert!(["gauge", "counter"].contains(&of) && helped == name, "{line}");
            (family, kind) = (name.to_owned(), of.to_owned());
            families.insert(family.clone(), Vec::new());
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            assert!(seen.insert(series.to_owned()), "twice: {line}");
            let (name, labels) = series.split_once('{').expect("labels");
            let expected = if kind == "counter" { format!("{family}_total") } else { family.clone() };
            assert!(name == expected && !family.ends_with("_total"), "{line}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
            for label in labels.strip_suffix('}').expect("a brace").split("\",") {
                let (name, value) = label.split_once("=\"").expect("a label");
                assert!(["cluster", "repository", "check"].contains(&name), "{line}");
                assert!(!value.trim_end_matches('"').contains(['"', '\n']), "{line}");
            }
            let value: f64 = value.parse().expect("a number");
            families.get_mut(&family).expect("a type first").push((series.to_owned(), value));
        }
    }
    assert!(families.values().all(|samples| !samples.is_empty()), "a family without samples");
    families
}

fn metrics(archive: &Archive) -> BTreeMap<String, Vec<(String, f64)>> {
    parse(&archive.walkeep(&["metrics"]).ok().stdout)
}

/// The only sample of a family.
#[track_caller]
fn value(families: &BTreeMap<String, Vec<(String, f64)>>, name: &str) -> f64 {
    match families.get(name).map(Vec::as_slice) {
        Some([(_, value)]) => *value,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn the_metrics_are_open_metrics_and_say_what_status_says() {
    let live = healthy();
    let families = metrics(&live.archive);
    let report = status_is(&live.archive, 0, &[]);
    assert_eq!(value(&families, "walkeep_status"), 0.0);
    assert_eq!(value(&families, "walkeep_server_up"), 1.0);
    assert_eq!(value(&families, "walkeep_ready_files"), 0.0);
    assert_eq!(value(&families, "walkeep_backups"), 1.0);
    let stopped: jiff::Timestamp =
        live::text(&report["clusters"][0]["repositories"][0]["last_backup"], "stop_time")
            .parse()
            .expect("a time");
    let said = value(&families, "walkeep_backup_last_success_timestamp_seconds");
    assert!((said - stopped.as_microsecond() as f64 / 1e6).abs() < 1e-3, "{said} and {stopped}");
    let name = "walkeep_backup_last_success_timestamp_seconds{cluster=\"main\",repository=\"first\"}";
    assert_eq!(families["walkeep_backup_last_success_timestamp_seconds"][0].0, name);

    // What is red is said, and is no failure of this.
    std::fs::rename(live.archive.root(), live.archive.scratch().join("away")).expect("take it away");
    let families = metrics(&live.archive);
    assert_eq!(value(&families, "walkeep_status"), 2.0);
    assert_eq!(value(&families, "walkeep_repository_up"), 0.0);
    assert!(!families.contains_key("walkeep_backups"));
}

#[test]
fn the_file_for_a_collector_is_written_whole_and_readable_by_it() {
    let live = healthy();
    let directory = live.archive.scratch().mkdir("collector");
    let file = directory.join("walkeep.prom");
    let path = file.to_str().expect("a path");
    for _ in 0..2 {
        let outcome = live.archive.walkeep(&["metrics", "--output", path]).ok();
        assert_eq!(outcome.stdout, "", "{outcome}");
        parse(&String::from_utf8(read(&file)).expect("text"));
    }
    assert_eq!(repo::files(&directory), std::slice::from_ref(&file));
    assert_eq!(file.metadata().expect("the file").permissions().mode() & 0o777, 0o644);
    live.archive.walkeep(&["metrics", "--output", "/nowhere/walkeep.prom"]).is(1).told();
}

/// Words that look like metrics.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    words.filter(|word| word.starts_with("walkeep_")).map(str::to_owned).collect()
}

/// The rules of `alerts.yml`, read line by line: every rule has each of its keys once, and every
/// value stands in single quotes, which YAML takes as they are.
#[track_caller]
fn rules(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut rules: Vec<BTreeMap<String, String>> = Vec::new();
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    for expected in ["groups:", "  - name: walkeep", "    rules:"] {
        assert_eq!(lines.next(), Some(expected));
    }
    for line in lines {
        if let Some(name) = line.strip_prefix("      - alert: ") {
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric()), "{line}");
            rules.push(BTreeMap::from([("alert".to_owned(), name.to_owned())]));
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let (key, value) = line.trim_start().split_once(':').expect("a key");
        match (key, indent, value.trim()) {
            ("labels" | "annotations", 8, "") => {}
            ("expr" | "for", 8, value) | ("severity" | "summary" | "description", 10, value) => {
                let value =
                    value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).expect("quotes");
                assert!(!value.contains('\''), "{line}");
                let before =
                    rules.last_mut().expect("an alert first").insert(key.to_owned(), value.to_owned());
                assert_eq!(before, None, "{line}");
            }
            _ => panic!("not a line of a rule: {line}"),
        }
    }
    rules
}

#[test]
fn the_alert_rules_and_the_readme_name_metrics_that_there_are() {
    let live = healthy();
    let there: BTreeSet<String> = metrics(&live.archive).into_keys().collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |name: &str| String::from_utf8(read(root.join(name))).expect("text");
    let rules = rules(&text("postgresql-conf-examples/alerts.yml"));
    assert_eq!(rules.len(), 3);
    for rule in rules {
        let keys: Vec<&str> = rule.keys().map(String::as_str).collect();
        assert_eq!(keys, ["alert", "description", "expr", "for", "severity", "summary"], "{rule:?}");
        let expression = &rule["expr"];
        assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{expression}");
        let named = named(expression);
        assert!(!named.is_empty() && named.is_subset(&there), "{named:?} among {there:?}");
        assert!(walkeep::config::parse_duration(&rule["for"]).is_ok(), "{rule:?}");
        for part in [&rule["summary"], &rule["description"]] {
            assert_eq!(part.matches("{{ $labels.").count(), part.matches(" }}").count(), "{part}");
        }
    }
    let listed = named(&text("README.md"));
    let without_total: BTreeSet<String> =
        listed.iter().map(|name| name.trim_end_matches("_total").to_owned()).collect();
    let missing: Vec<&String> = there.difference(&without_total).collect();
    assert!(missing.is_empty(), "not in the README: {missing:?}");
}

//! What the three programs log: on standard error, in a file, as text and as JSON, and never a
//! secret.

use crate::support::s3::{Bucket, server};
use crate::support::*;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A site whose configuration names a log file.
fn logging(lines: &str) -> (Site, PathBuf) {
    let mut site = Site::new();
    let file = site.scratch.mkdir("log").join("walkeep.log");
    site.archive.set_tail(&format!("[log]\nfile = {file:?}\n{lines}\n"));
    (site, file)
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("read {}: {e}", file.display()));
    parsed(&text)
}

/// Each line of a text, which must be a JSON object.
#[track_caller]
fn parsed(text: &str) -> Vec<Value> {
    let object = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(object).collect()
}

#[track_caller]
fn one_with<'a>(lines: &'a [Value], field: &str, value: &str) -> &'a Value {
    let found = lines.iter().find(|line| line[field].as_str().is_some_and(|text| text.contains(value)));
    found.unwrap_or_else(|| panic!("no line whose {field} has {value:?}: {lines:#?}"))
}

#[test]
fn a_failed_push_is_in_the_log_file_as_on_standard_error() {
    let (site, file) = logging("");
    let outcome = site.archive.push(site.data.path.join("pg_wal/000000010000000000000009")).failed();
    let logged = lines(&file);
    let line = one_with(&logged, "level", "error");
    let message = line["message"].as_str().expect("a message");
    assert!(outcome.stderr.contains(&format!("walpush: error: {message}\n")), "{outcome}");
    assert_eq!((line["program"].as_str(), line["kind"].as_str()), (Some("walpush"), Some("absent")));
    let hint = line["hint"].as_str().expect("a hint");
    assert!(outcome.stderr.contains(&format!("walpush: hint: {hint}\n")), "{outcome}");
    let mode = file.metadata().expect("the log file").permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[test]
fn successful_pushes_and_fetches_are_in_the_log_file_and_nowhere_else() {
    let (site, file) = logging("format = \"text\"");
    let outcome = site.push(&site.segment(3)).ok();
    assert_eq!(outcome.stderr, "");
    site.archive.fetched(&site.segment(3).name());
    let text = std::fs::read_to_string(&file).expect("a log file");
    assert!(text.lines().any(|line| line.contains(" INFO  walpush[") && line.contains("archived")), "{text}");
    assert!(
        text.lines().any(|line| line.contains(" INFO  walfetch[") && line.contains("delivered")),
        "{text}"
    );
}

#[test]
fn the_level_of_the_log_file_is_that_of_the_configuration() {
    let (site, file) = logging("level = \"error\"");
    site.push(&site.segment(3)).ok();
    assert!(!file.exists());
    let (site, file) = logging("level = \"debug\"");
    site.push(&site.segment(3)).ok();
    let logged = lines(&file);
    let put = one_with(&logged, "message", "put ");
    assert_eq!((put["op"].as_str(), put["status"].as_str()), (Some("put"), Some("stored")), "{put}");
    assert_eq!(put["attempt"], 1);
    assert_eq!(put["segment"].as_str(), Some(&*site.segment(3).name()));
    assert!(put["bytes"].as_u64().is_some_and(|bytes| bytes > 0) && put["ms"].is_u64(), "{put}");
}

#[test]
fn a_log_that_cannot_be_written_is_one_warning_and_changes_no_status() {
    let mut site = Site::new();
    let file = site.scratch.join("missing/walkeep.log");
    site.archive.set_tail(&format!("[log]\nfile = {file:?}\nlevel = \"debug\"\n"));
    let outcome = site.push(&site.segment(3)).ok();
    let warning = format!("walpush: warning: open the log file {}: ", file.display());
    assert_eq!(outcome.stderr.matches(&warning).count(), 1, "{outcome}");
    assert_eq!(outcome.stderr.matches("warning").count(), 1, "{outcome}");
    let listed = site.archive.run("walkeep").args(["list"]).go().ok();
    assert!(!listed.stdout.is_empty(), "{listed}");
}

#[test]
fn a_log_file_that_is_a_pipe_without_a_reader_holds_nothing_up() {
    let mut site = Site::new();
    let file = site.scratch.join("pipe");
    Run::new("mkfifo").arg(&file).go().ok();
    site.archive.set_tail(&format!("[log]\nfile = {file:?}\n"));
    site.push(&site.segment(3)).ok().says("walpush: warning: open the log file");
}

#[test]
fn requests_are_shown_with_two_v_and_steps_with_one() {
    let site = Site::new();
    site.push(&site.segment(3)).ok();
    let plain = site.archive.run("walkeep").args(["prune"]).go();
    let steps = site.archive.run("walkeep").args(["prune", "-v"]).go();
    let requests = site.archive.run("walkeep").args(["prune", "-vv"]).go();
    assert!(!plain.stderr.contains("reading the state of the repository"), "{plain}");
    assert!(steps.stderr.contains("reading the state of the repository\n"), "{steps}");
    assert!(!steps.stderr.contains("list "), "{steps}");
    assert!(
        requests.stderr.lines().any(|line| line.starts_with("list ") && line.ends_with(" ms")),
        "{requests}"
    );
    assert!(
        requests.stderr.lines().any(|line| line.starts_with("get ") && line.contains(" bytes, ")),
        "{requests}"
    );
}

#[test]
fn the_helpers_take_the_same_options() {
    let site = Site::new();
    let path = site.data.write(&site.segment(3));
    let outcome = site.archive.pushing(&path).arg("-vv").go().ok();
    assert!(
        outcome.stderr.lines().any(|line| line.starts_with("put ") && line.contains("stored")),
        "{outcome}"
    );
    let name = site.segment(9).name();
    let target = site.scratch.join("fetched");
    let outcome =
        site.archive.fetching(&name, &target).arg("--log-format=json").env("WALKEEP_LOG", "debug").go();
    let logged = parsed(&outcome.absent().stderr);
    assert!(logged.iter().any(|line| line["file"] == *name && line["op"] == "get"), "{logged:#?}");
}

#[test]
fn errors_are_json_too_also_before_the_configuration_is_read() {
    let site = Site::new();
    for (program, arguments, code) in
        [("walkeep", vec!["list"], 2), ("walpush", vec!["pg_wal/000000010000000000000001"], 1)]
    {
        let run = Run::of(program).args(["--log-format=json", "--config=/does/not/exist"]).args(arguments);
        let outcome = run.cwd(&site.data.path).go();
        assert_eq!(outcome.code(), Some(code), "{outcome}");
        let logged = parsed(&outcome.stderr);
        assert_eq!(logged.len(), 1, "{outcome}");
        assert_eq!(
            (logged[0]["level"].as_str(), logged[0]["program"].as_str()),
            (Some("error"), Some(program))
        );
    }
}

#[test]
fn an_invalid_filter_is_a_warning_and_a_valid_one_selects() {
    let site = Site::new();
    let outcome = site.archive.run("walkeep").args(["list"]).env("WALKEEP_LOG", "walkeep=loud").go().ok();
    assert!(outcome.stderr.starts_with("walkeep: warning: WALKEEP_LOG is ignored: "), "{outcome}");
    let outcome =
        site.archive.run("walkeep").args(["list"]).env("WALKEEP_LOG", "walkeep::storage=debug").go().ok();
    assert!(outcome.stderr.lines().all(|line| line.ends_with(" ms")), "{outcome}");
    assert!(outcome.stderr.lines().any(|line| line.starts_with("get ")), "{outcome}");
}

#[test]
fn a_backup_and_the_pushes_of_its_server_are_in_one_log_by_id_and_segment() {
    let mut live = Live::new();
    let scratch = Scratch::new();
    let file = scratch.mkdir("log").join("walkeep.log");
    live.archive.set_tail(&format!("[log]\nfile = {file:?}\n"));
    let id = live.backup_id();
    let logged = lines(&file);
    let of_backup: Vec<&Value> = logged.iter().filter(|line| line["id"] == *id).collect();
    assert!(of_backup.iter().any(|line| line["message"] == "copying"), "{logged:#?}");
    assert!(of_backup.iter().all(|line| line["spans"][0] == "backup" && line["program"] == "walkeep"));
    one_with(&logged, "program", "walpush");
}

#[test]
fn no_secret_is_logged_at_any_level() {
    let bucket = Bucket::new();
    let secret_file = bucket.repository("archive");
    let mut site = Site::unregistered(1, |build| build.remote(secret_file));
    let file = site.scratch.mkdir("log").join("walkeep.log");
    site.archive.set_tail(&format!(
        "[log]\nfile = {file:?}\nlevel = \"debug\"\n[notify]\nwebhook = \"http://127.0.0.1:1/very-secret-hook\"\n"
    ));
    let secret = &server().keys.secret;
    let mut all = String::new();
    for filter in ["", "debug", "trace"] {
        for format in ["text", "json"] {
            let options = ["-vv".to_owned(), format!("--log-format={format}")];
            let run = |run: Run| run.args(&options).env("WALKEEP_LOG", filter).go();
            let init = run(site.archive.run("walkeep").args(["init"])).ok();
            let pushed = run(site.archive.pushing(site.data.write(&site.segment(3)))).ok();
            let verified = run(site.archive.run("walkeep").args(["verify"]));
            for outcome in [init, pushed, verified] {
                assert!(outcome.stderr.contains("GET /") || outcome.stderr.contains("PUT /"), "{outcome}");
                all.push_str(&outcome.stderr);
            }
        }
    }
    all.push_str(&std::fs::read_to_string(&file).expect("a log file"));
    for wrong in [secret.as_str(), "AWS4-HMAC-SHA256 Credential", "Signature=", "very-secret-hook"] {
        let line = all.lines().find(|line| line.contains(wrong));
        assert_eq!(line, None, "{wrong}");
    }
}

//! `restore --follow`: started as its user would, and compared with what was asked for.
//! `--dry-run`: what would be done.

use super::live::json;
use super::repo::{Damage, damage};
use super::*;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The copies of one server have its socket, so only one of them can run.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The server that was left running is stopped before the next one may start.
type Left = (Option<Cluster>, MutexGuard<'static, ()>);

/// A restore with `--follow`.
#[track_caller]
fn follow(archive: &Archive, arguments: &[&str]) -> (Outcome, Left) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let outcome = restoring(archive, &data, arguments).args(["--follow", "--json"]).go();
    let server = Cluster::over_if_there(scratch, &data);
    (outcome, (server, turn))
}

#[test]
fn the_end_of_the_archive_is_reached_and_said() {
    let story = Story::get();
    let archive = story.archive();
    let (outcome, (server, _turn)) = follow(&archive, &[]);
    let server = server.expect("a server");
    let outcome = outcome.ok();
    assert!(outcome.stderr.contains("target: the end of the archive"), "{outcome}");
    let report = json(&outcome);
    assert!(report["reached_lsn"].is_string() && report["expected_lsn"].is_string(), "{report:#}");
    assert!(server.is_up());
}

#[test]
fn a_moment_is_reached_with_each_action() {
    let story = Story::get();
    let archive = story.archive();
    let time = &story.marks[1].time;
    for action in ["promote", "pause", "shutdown"] {
        let (outcome, (server, _turn)) = follow(&archive, &["--time", time, "--action", action]);
        let outcome = outcome.ok();
        assert!(outcome.stderr.contains("recovered to 0/"), "{action}: {outcome}");
        assert_eq!(server.expect("a server").is_up(), action != "shutdown", "{action}");
    }
}

#[test]
fn a_copy_is_followed_on_a_port_of_its_own() {
    let story = Story::get();
    let archive = story.archive();
    let (outcome, (server, _turn)) = follow(&archive, &["--port", "5499"]);
    outcome.ok();
    let pid = read(server.expect("a server").data().join("postmaster.pid"));
    assert!(String::from_utf8_lossy(&pid).lines().any(|line| line == "5499"));
}

#[test]
fn a_server_that_ends_before_its_target_is_a_problem() {
    let story = Story::get();
    let archive = story.archive();
    let (outcome, _left) = follow(&archive, &[&story.a, "--quick", "--xid", "4000000000"]);
    let outcome = outcome.is(3).told();
    assert!(outcome.stderr.contains(", before its target"), "{outcome}");
}

#[test]
fn a_dry_run_says_what_would_be_done_and_writes_nothing() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let to = scratch.join("data");
    let before = archive.snapshot();
    let outcome = restoring(&archive, &to, &["--dry-run", "--json"]).go().ok();
    assert!(!to.exists());
    assert_eq!(archive.snapshot(), before);
    let report = json(&outcome);
    assert_eq!(report["backup"], story.b.as_str());
    assert!(report["space"][0]["needed"].as_u64() > Some(1 << 20), "{report:#}");
    assert!(report["reaches"]["lsn"].is_string() && report["reaches"]["time"].is_string(), "{report:#}");
    for words in ["along timeline 1", "leads without a hole", "needed in", "unknown before a `walkeep drill`"]
    {
        assert!(outcome.stderr.contains(words), "{words}: {outcome}");
    }
}

#[test]
fn a_dry_run_refuses_a_hole_and_says_which_moments_are_left() {
    let story = Story::get();
    let archive = story.archive();
    let mut stored = archive.stored();
    stored.retain(|(name, _)| name.len() == 24);
    damage(&stored[stored.len() - 2].1, Damage::Remove);
    let scratch = Scratch::new();
    let outcome = restoring(&archive, &scratch.join("data"), &["--dry-run"]).go().is(1).told();
    assert!(outcome.stderr.contains("recovers as far as possible"), "{outcome}");
    assert!(!scratch.join("data").exists());
}

#[test]
fn a_dry_run_refuses_where_there_is_no_room() {
    let Some(tmpfs) = Tmpfs::mount("10m") else {
        return;
    };
    let story = Story::get();
    let outcome = restoring(&story.archive(), &tmpfs.path().join("data"), &["--dry-run"]).go().is(1).told();
    assert!(outcome.stderr.contains("bytes free"), "{outcome}");
}

/// What a shell would expand, in each kind of quotes.
const EXPANDED: &str = "a$(touch pwned)`touch pwned` \"b' c";

#[test]
fn the_path_of_the_data_directory_is_not_expanded_by_a_shell() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let data = scratch.mkdir(EXPANDED).join("data");
    let outcome = restoring(&archive, &data, &["--follow", "--port", "5498"]).go().ok();
    let pid = String::from_utf8(read(data.join("postmaster.pid"))).expect("text");
    assert_eq!(pid.lines().nth(1).map(Path::new), Some(data.as_path()), "{outcome}");
    let pid: u32 = pid.lines().next().and_then(|pid| pid.parse().ok()).expect("a process id");
    run::signal(pid, "QUIT");
    until("the copy ends", || !data.join("postmaster.pid").exists());
    for place in [Path::new("/"), scratch.path(), &data, data.parent().expect("a parent")] {
        assert!(!place.join("pwned").exists(), "{}", place.display());
    }
}

#[test]
fn the_command_that_starts_the_server_can_be_pasted_into_a_shell() {
    let etc = Scratch::new();
    let live = super::places::debian(&etc);
    live.backup();
    for (name, program) in [("plain", "pg_ctl"), ("a b'c; touch pwned", "pg_ctl"), (EXPANDED, "postgres")] {
        let scratch = Scratch::new();
        let (data, config) = (scratch.mkdir(name).join("data"), scratch.mkdir(name).join("etc"));
        let arguments = ["--quick", "--config-dir", config.to_str().expect("a path")];
        let outcome = restoring(&live.archive, &data, &arguments).go().ok();
        let line = outcome.stderr.lines().find_map(|line| line.strip_prefix("start it with: "));
        let line = line.unwrap_or_else(|| panic!("no line: {outcome}"));
        assert!(line.starts_with(program), "{line}");
        // pg_ctl gives the words behind -o to a shell once more.
        let script = format!(
            "show() {{ printf '%s\\n' \"$@\"; }}; postgres() {{ show \"$@\"; }}\n\
             pg_ctl() {{ show \"$1\" \"$2\"; eval \"show $4\"; }}\n{line}"
        );
        let words = Run::new("/bin/sh").arg("-c").arg(script).cwd(scratch.path()).go().ok();
        let file = format!("config_file={}", config.join("postgresql.conf").display());
        for wanted in [data.display().to_string(), file, format!("data_directory={}", data.display())] {
            assert!(words.stdout.lines().any(|word| word == wanted), "{wanted}: {words}");
        }
        assert!(!scratch.join("pwned").exists(), "{line}");
    }
}

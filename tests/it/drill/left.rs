//! Nothing is left behind, whatever happens, and only what a drill started is ever stopped.

use super::*;
use crate::support::run::signal;
use crate::support::strace::Call;
use crate::support::wait::is_running;

/// The server of a drill that is under way.
fn server_of(directory: &Path) -> Option<u32> {
    let place = std::fs::read_dir(directory).ok()?.flatten().next()?.path();
    let text = std::fs::read_to_string(place.join("data/postmaster.pid")).ok()?;
    let pid = text.lines().next()?.parse().ok()?;
    text.lines().nth(7).is_some_and(|line| line.trim() == "ready").then_some(pid)
}

/// A drill that does not end by itself: an assertion sleeps.
fn sleeping(story: &Story) -> Archive {
    let mut archive = story.archive();
    archive.set_tail(&rows_are("1").replace("select count(*) from t", "select pg_sleep(600)"));
    archive
}

#[test]
fn a_killed_drill_is_cleaned_up_by_the_next_one() {
    let story = Story::get();
    let archive = sleeping(&story);
    let scratch = Scratch::new();
    let directory = scratch.mkdir("drills");
    let run = drilling(&archive, &directory, &[]);
    let mut child = run.spawn();
    until("the server of the drill runs", || server_of(&directory).is_some());
    let server = server_of(&directory).expect("a server");
    signal(child.id(), "KILL");
    child.wait().expect("its end");
    assert!(is_running(server), "the server ended by itself: nothing is to be cleaned up");
    let outcome = drilling(&story.archive(), &directory, &[]).go().ok();
    assert!(outcome.stderr.contains("which an earlier drill left"), "{outcome}");
    assert!(!is_running(server));
    assert_empty(&directory);
}

#[test]
fn a_signal_ends_a_drill_at_once_and_cleans_up() {
    let story = Story::get();
    for name in ["TERM", "INT", "HUP"] {
        let archive = sleeping(&story);
        let scratch = Scratch::new();
        let directory = scratch.mkdir("drills");
        let run = drilling(&archive, &directory, &[]);
        let child = run.spawn();
        until("the server of the drill runs", || server_of(&directory).is_some());
        let server = server_of(&directory).expect("a server");
        signal(child.id(), name);
        let outcome = run.finish(child).is(1).told();
        assert!(outcome.stderr.contains("interrupted"), "{outcome}");
        assert!(!is_running(server));
        assert_empty(&directory);
        assert!(repo::files(archive.root()).iter().all(|path| !path.ends_with("drill/history")));
    }
}

#[test]
fn two_drills_of_a_cluster_at_once_are_refused() {
    let story = Story::get();
    let archive = sleeping(&story);
    let scratch = Scratch::new();
    let directory = scratch.mkdir("drills");
    let run = drilling(&archive, &directory, &[]);
    let child = run.spawn();
    until("the server of the drill runs", || server_of(&directory).is_some());
    drilling(&story.archive(), &directory, &[]).go().is(4).told();
    assert!(server_of(&directory).is_some());
    signal(child.id(), "TERM");
    run.finish(child).is(1);
    assert_empty(&directory);
}

#[test]
fn a_foreign_process_or_directory_is_left_alone() {
    let live = Live::new();
    live.backup();
    live.flush_wal();
    let scratch = Scratch::new();
    let directory = scratch.mkdir("drills");
    // What an earlier drill left, whose server's number belongs to another server now.
    let left = scratch.mkdir("drills/walkeep-drill-main-0123456789ab");
    scratch.mkdir("drills/walkeep-drill-main-0123456789ab/data");
    scratch.write("drills/walkeep-drill-main-0123456789ab/walkeep.drill", "");
    let pid = live.server.pid().expect("a server");
    scratch.write("drills/walkeep-drill-main-0123456789ab/data/postmaster.pid", format!("{pid}\n"));
    // Not of a drill, of another cluster, and one that somebody kept.
    let foreign = scratch.mkdir("drills/walkeep-drill-main-abcdef");
    scratch.write("drills/walkeep-drill-main-abcdef/precious", "");
    let other = scratch.mkdir("drills/walkeep-drill-other-abcdef");
    let kept = scratch.mkdir("drills/walkeep-drill-main-aaaaaa");
    scratch.write("drills/walkeep-drill-main-aaaaaa/walkeep.drill", "");
    scratch.write("drills/walkeep-drill-main-aaaaaa/walkeep.kept", "");
    drilling(&live.archive, &directory, &[]).go().ok();
    assert!(live.server.is_up() && live.server.psql("select 1") == "1");
    assert!(!left.exists());
    assert!(foreign.exists() && other.exists() && kept.exists());
}

#[test]
fn a_directory_that_may_have_been_kept_is_not_removed() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let directory = scratch.mkdir("drills");
    let place = scratch.mkdir("drills/walkeep-drill-main-aaaaaa");
    scratch.mkdir("drills/walkeep-drill-main-aaaaaa/data");
    scratch.write("drills/walkeep-drill-main-aaaaaa/walkeep.drill", "");
    let kept = scratch.write("drills/walkeep-drill-main-aaaaaa/walkeep.kept", "");
    let server = scratch.write("drills/walkeep-drill-main-aaaaaa/data/postmaster.pid", "1\n");
    let sweep = drilling(&archive, &directory, &["--timeout", "1ms"]);
    // The first is looked at by the descriptor of its directory.
    for (path, fault) in
        [(place.clone(), "statx,newfstatat:error=EIO"), (server, "?open,openat,openat2:error=EIO")]
    {
        let Some(strace) = Strace::new() else {
            return;
        };
        let traced = strace.only(&path).inject(fault).go(&sweep);
        assert!(traced.was_hit(), "{fault} hit nothing\n{}", traced.story());
        traced.outcome.is(1).told().says("remove what an earlier drill left");
        assert!(place.exists(), "{fault}");
        // Nobody kept it, and a server may run in it.
        let _ = std::fs::remove_file(&kept);
    }
    sweep.go().is(1);
    assert!(!place.exists());
}

/// Number of the last removal in the scratch directory, as strace counts those of the thread that
/// makes it.
fn last_removal(story: &Story, directory: &Path) -> usize {
    let Some(strace) = Strace::new() else {
        return 0;
    };
    let archive = story.archive();
    let traced = strace.trace("unlinkat").go(&drilling(&archive, directory, &[]));
    let is_in_it = |call: &&Call| call.arguments.contains("walkeep-drill-");
    let Some(last) = traced.calls.iter().rfind(is_in_it) else {
        return 0;
    };
    traced.calls.iter().filter(|call| call.pid == last.pid && call.began <= last.began).count()
}

#[test]
fn a_drill_that_is_killed_while_it_removes_is_cleaned_up_by_the_next_one() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let directory = scratch.mkdir("drills");
    let all = last_removal(&story, &directory);
    assert!(all > 100 || all == 0, "{all} removals");
    // The last three are a file, the marker and the directory itself.
    for number in [all / 10, all / 2, all.saturating_sub(2), all.saturating_sub(1), all] {
        let Some(strace) = Strace::new().filter(|_| number > 0) else {
            return;
        };
        let fault = format!("unlinkat:signal=KILL:when={number}");
        let traced = strace.trace("unlinkat").inject(&fault).go(&drilling(&archive, &directory, &[]));
        assert_eq!(traced.outcome.code(), None, "{fault}\n{}", traced.outcome);
        drilling(&archive, &directory, &["--timeout", "1ms"]).go().is(1);
        assert_empty(&directory);
    }
}

#[test]
fn a_kept_directory_can_be_started() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let directory = scratch.mkdir("drills");
    let outcome = drilling(&archive, &directory, &["--keep"]).go().ok();
    assert!(outcome.stderr.contains("kept: "), "{outcome}");
    let place = std::fs::read_dir(&directory).expect("list").flatten().next().expect("a directory").path();
    assert!(place.join("server.log").exists());
    let run = pg::tool("postgres").arg("-D").arg(place.join("data"));
    run.args(["-C", "config_file"])
        .arg("-c")
        .arg(format!("config_file={}", place.join("etc/postgresql.conf").display()))
        .go()
        .ok();
    drilling(&archive, &directory, &[]).go().ok();
    assert!(place.exists(), "what was kept is gone");
}

#[test]
fn root_drills_as_the_owner_of_the_files() {
    if !account::account().root {
        skipped("root", "only root can drill as root");
        return;
    }
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let directory = scratch.mkdir("drills");
    let output = std::process::Command::new(run::program("walkeep"))
        .arg("--config")
        .arg(archive.config())
        .args(["drill", "--json", "--directory"])
        .arg(&directory)
        .output()
        .expect("start walkeep");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_empty(&directory);
}

#[test]
fn clusters_of_one_name_in_two_configurations_do_not_keep_each_other_from_drilling() {
    let story = Story::get();
    let archive = sleeping(&story);
    let other = Live::new();
    other.backup();
    other.flush_wal();
    let scratch = Scratch::new();
    let directory = scratch.mkdir("drills");
    let run = drilling(&archive, &directory, &[]);
    let child = run.spawn();
    until("the server of the drill runs", || server_of(&directory).is_some());
    drilling(&other.archive, &directory, &[]).go().ok();
    assert!(server_of(&directory).is_some());
    signal(child.id(), "KILL");
    run.finish(child);
    // What a killed drill left is removed whatever cluster it was of.
    drilling(&other.archive, &directory, &[]).go().ok();
    assert_empty(&directory);
}

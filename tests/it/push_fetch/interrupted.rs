//! Programs that are killed, stopped or held up in the middle, and what the next one finds.

use super::*;
use crate::support::run::signal;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

const STEPS: &str = "write,pwrite64,writev,copy_file_range,ftruncate,fsync,fdatasync,syncfs,rename,renameat,renameat2,\
                     link,linkat,mkdir,mkdirat,unlink,unlinkat";

#[test]
fn a_killed_push_never_blocks_the_next_one() {
    for nth in 1..100 {
        let site = Site::new();
        let segment = site.segment(2).noise();
        let file = site.data.write(&segment);
        let Some(strace) = Strace::new() else {
            return;
        };
        let strace = strace.inject(&format!("{STEPS}:signal=KILL:when={nth}"));
        let traced = strace.go(&site.archive.pushing(&file));
        if traced.outcome.code() == Some(0) {
            assert!(nth > 3, "nothing was killed\n{}", traced.story());
            return;
        }
        // What is visible already is whole.
        if site.archive.find(&segment.name()).is_some() {
            site.holds(&segment.name(), &segment.bytes());
        }
        let again = site.archive.push(&file);
        assert_eq!(again.code(), Some(0), "{again}\n--- after\n{}", traced.story());
        site.holds(&segment.name(), &segment.bytes());
        assert_eq!(site.archive.stored().len(), 1);
    }
    panic!("no end to the steps of a push");
}

#[test]
fn killing_pushes_at_any_moment_leaves_nothing_half() {
    let site = Site::with(15, SYSTEM, 16);
    let segment = site.segment(2).noise();
    let file = site.data.write(&segment);
    for round in 0..60 {
        let child = site.archive.pushing(&file).spawn();
        let moment = Instant::now() + Duration::from_micros(1000 * round);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        signal(child.id(), "KILL");
        let outcome = site.archive.pushing(&file).finish(child);
        if outcome.code() == Some(0) || round % 6 == 5 {
            site.archive.push(&file).ok();
            site.holds(&segment.name(), &segment.bytes());
            std::fs::remove_file(site.archive.object(&segment.name())).expect("remove the object");
        }
    }
}

#[test]
fn a_terminated_push_ends_at_once_and_leaves_nothing_visible() {
    let site = Site::with(15, SYSTEM, 64);
    let segment = site.segment(2).noise();
    let file = site.data.write(&segment);
    let mut hits = 0;
    for _ in 0..20 {
        let mut child = site.archive.pushing(&file).spawn();
        until("the push has begun to write or ended", || {
            !site.archive.temporaries().is_empty() || !matches!(child.try_wait(), Ok(None))
        });
        signal(child.id(), "TERM");
        let run = site.archive.pushing(&file).deadline(Duration::from_secs(10));
        let outcome = run.finish(child);
        if outcome.code() == Some(0) {
            site.holds(&segment.name(), &segment.bytes());
            std::fs::remove_file(site.archive.object(&segment.name())).expect("remove the object");
            continue;
        }
        assert!(matches!(outcome.code(), Some(1..=125)) || outcome.status.signal() == Some(15), "{outcome}");
        assert_eq!(site.archive.find(&segment.name()), None, "{outcome}");
        hits += 1;
        if hits == 3 {
            break;
        }
    }
    assert!(hits > 0, "no push was caught in the middle");
    site.archive.push(&file).ok();
    site.holds(&segment.name(), &segment.bytes());
}

#[test]
fn a_stuck_disk_does_not_hold_the_server_past_the_deadline() {
    let site = Site::build(|build| build.wal("timeout = \"2s\""));
    let name = site.pushed(&[2]).remove(0);
    let file = site.data.write(&site.segment(3));
    let soon = Duration::from_secs(20);
    stuck::around(&site.archive.fetching(&name, "pg_wal/RECOVERYXLOG")).deadline(soon).go().fatal();
    assert!(!site.archive.destination().exists());
    stuck::around(&site.archive.pushing(&file)).deadline(soon).go().refused();
    site.archive.push(&file).ok();
    site.holds(&name, &site.segment(2).bytes());
}

#[test]
fn a_killed_fetch_never_leaves_half_a_file_under_the_name() {
    let site = Site::new();
    let segment = site.segment(2).noise();
    site.push(&segment).ok();
    let before: Vec<_> = repo::files(&site.data.path.join("pg_wal"));
    for nth in 1..100 {
        let _ = std::fs::remove_file(site.archive.destination());
        let Some(strace) = Strace::new() else {
            return;
        };
        let strace = strace.inject(&format!("{STEPS}:signal=KILL:when={nth}"));
        let traced = strace.go(&site.archive.fetching(&segment.name(), "pg_wal/RECOVERYXLOG"));
        if traced.outcome.code() == Some(0) {
            assert!(nth > 1, "nothing was killed\n{}", traced.story());
            break;
        }
        if let Ok(bytes) = std::fs::read(site.archive.destination()) {
            assert!(bytes == segment.bytes(), "half a file\n{}", traced.story());
        }
        assert!(nth < 99, "no end to the steps of a fetch");
    }
    // The next one cleans up what the killed ones left.
    site.holds(&segment.name(), &segment.bytes());
    assert_eq!(repo::files(&site.data.path.join("pg_wal")), before);
}

#[test]
fn a_terminated_fetch_ends_at_once_and_delivers_nothing() {
    let site = Site::new();
    let segment = site.segment(2).noise();
    site.push(&segment).ok();
    for name in ["TERM", "INT", "QUIT"] {
        let Some(strace) = Strace::new() else {
            return;
        };
        let strace = strace.detached().only(&site.archive.object(&segment.name()));
        let strace = strace.inject("all:delay_enter=1500000");
        let run = site.archive.fetching(&segment.name(), "pg_wal/RECOVERYXLOG");
        let child = strace.spawn(&run);
        strace.await_call();
        signal(child.id(), name);
        let outcome = run.deadline(Duration::from_secs(20)).finish(child);
        assert_ne!(outcome.code(), Some(0), "{outcome}");
        assert_ne!(outcome.code(), Some(1), "{outcome}");
        assert!(!site.archive.destination().exists(), "{outcome}");
    }
}

#[test]
fn a_fetch_whose_server_is_gone_delivers_nothing() {
    let site = Site::new();
    let segment = site.segment(2).noise();
    site.push(&segment).ok();
    let Some(strace) = Strace::new() else {
        return;
    };
    let strace = strace.detached().only(&site.archive.object(&segment.name()));
    let strace = strace.inject("all:delay_enter=1500000");
    let run = strace.around(&site.archive.fetching(&segment.name(), "pg_wal/RECOVERYXLOG"));
    // A shell that stays, as a stand-in for the start-up process of the server.
    let run = run.under(["sh", "-c", r#""$@"; exit $?"#, "sh"]);
    let mut shell = run.spawn();
    let fetch = strace.await_call();
    assert_ne!(fetch, shell.id());
    signal(shell.id(), "KILL");
    shell.wait().expect("wait for the shell");
    until("the fetch is gone", || !wait::is_running(fetch));
    assert!(!site.archive.destination().exists(), "{}", strace.text());
}

#[test]
fn the_lock_of_a_dead_process_blocks_nobody() {
    let site = Site::new();
    let segment = site.segment(2);
    let file = site.data.write(&segment);
    // Whatever files a killed push left behind, the next runs go on.
    let Some(strace) = Strace::new() else {
        return;
    };
    let strace = strace.inject("fsync,fdatasync,syncfs:signal=KILL:when=1");
    let killed = strace.go(&site.archive.pushing(&file));
    assert_ne!(killed.outcome.code(), Some(0), "{}", killed.story());
    let soon = Duration::from_secs(20);
    site.archive.pushing(&file).deadline(soon).go().ok();
    site.archive.fetching(&segment.name(), "pg_wal/RECOVERYXLOG").deadline(soon).go().ok();
    site.archive.run("walkeep").arg("init").deadline(soon).go().ok();
}

#[test]
fn two_fetches_to_one_place_never_mix() {
    let site = Site::with(15, SYSTEM, 4);
    let segments = [site.segment(2).noise(), site.segment(3).noise()];
    for segment in &segments {
        site.push(segment).ok();
    }
    let [first, second] = segments.each_ref().map(Segment::bytes);
    for round in 0..20 {
        let fetch = |segment: &Segment| site.archive.fetching(&segment.name(), "pg_wal/RECOVERYXLOG");
        let runs = segments.each_ref().map(fetch);
        let children = runs.each_ref().map(Run::spawn);
        let ends: Vec<_> = runs.iter().zip(children).map(|(run, child)| run.finish(child)).collect();
        for end in &ends {
            assert!(matches!(end.code(), Some(0 | 200)), "round {round}\n{end}");
        }
        let delivered = std::fs::read(site.archive.destination()).unwrap_or_default();
        let whole = delivered == first || delivered == second;
        assert!(whole || ends.iter().all(|end| end.code() == Some(200)), "round {round}: a mixture");
        let _ = std::fs::remove_file(site.archive.destination());
    }
    site.holds(&segments[0].name(), &first);
}

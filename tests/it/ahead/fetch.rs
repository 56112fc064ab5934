//! `walfetch` and its worker, called as recovery calls them.

use super::*;
use crate::support::repo::{Damage, damage};
use crate::support::run::signal;
use std::os::unix::fs::{FileExt, MetadataExt};

fn site() -> Site {
    Site::build(|build| build.wal("fetch_ahead = 4"))
}

/// Fetches a segment, which has to bring the right bytes.
#[track_caller]
fn fetches(site: &Site, number: u64) {
    let segment = site.segment(number);
    site.holds(&segment.name(), &segment.bytes());
}

/// Awaits that these segments, and no others, are kept.
#[track_caller]
fn await_kept(site: &Site, numbers: std::ops::RangeInclusive<u64>) {
    let mut expected: Vec<String> = numbers
        .flat_map(|number| {
            let name = site.segment(number).name();
            [name.clone(), format!("{name}.mark")]
        })
        .collect();
    expected.sort();
    let kept = || {
        let mut kept = spooled_names(&site.archive);
        kept.sort();
        kept
    };
    let there = wait::within(wait::LONG, || kept() == expected);
    assert!(there, "expected {expected:?}, there is {:?}", kept());
}

fn end_worker(site: &Site) {
    end_workers(&site.archive);
}

fn hide(site: &Site) -> PathBuf {
    let away = site.archive.root().with_extension("away");
    std::fs::rename(site.archive.root(), &away).expect("move the repository away");
    away
}

fn show(site: &Site, away: &Path) {
    std::fs::rename(away, site.archive.root()).expect("bring the repository back");
}

#[test]
fn the_next_segments_are_there_before_they_are_asked_for() {
    let site = site();
    site.pushed(&[1, 2, 3, 4, 5, 6, 7, 8]);
    fetches(&site, 1);
    await_kept(&site, 2..=5);
    fetches(&site, 2);
    await_kept(&site, 3..=6);
    let away = hide(&site);
    for number in 3..=6 {
        fetches(&site, number);
    }
    site.archive.fetch_fails(&site.segment(7).name());
    show(&site, &away);
    fetches(&site, 7);
    fetches(&site, 8);
    until("the worker ends at the end of the archive", || workers(&site.archive).is_empty());
    assert_eq!(spooled_names(&site.archive), Vec::<String>::new());
}

#[test]
fn segments_may_be_asked_for_again_and_backwards() {
    let site = site();
    site.pushed(&[1, 2, 3, 4, 5, 6, 7, 8]);
    for number in [6, 2, 2, 3, 7, 1, 1, 8, 8] {
        fetches(&site, number);
    }
    until("the worker ends at the end of the archive", || workers(&site.archive).is_empty());
    fetches(&site, 2);
    await_kept(&site, 3..=6);
    assert_eq!(workers(&site.archive).len(), 1);
    end_worker(&site);
}

#[test]
fn what_was_absent_a_moment_ago_is_asked_for_again() {
    let site = site();
    site.pushed(&[1, 2]);
    fetches(&site, 1);
    await_kept(&site, 2..=2);
    for number in 3..=6 {
        site.archive.fetch_ends(&site.segment(number).name());
        site.pushed(&[number]);
        fetches(&site, number);
    }
}

#[test]
fn at_the_end_of_the_archive_no_worker_is_started() {
    let site = site();
    site.pushed(&[1]);
    for _ in 0..5 {
        site.archive.fetch_ends(&site.segment(2).name());
    }
    assert_eq!(workers(&site.archive), Vec::<u32>::new());
    assert_eq!(repo::files(&spool(&site.archive)), Vec::<PathBuf>::new());
}

#[test]
fn what_is_kept_and_does_not_fit_its_mark_is_fetched_anew() {
    let harms: [&dyn Fn(&Path); 6] = [
        &|kept| damage(kept, Damage::ZeroTail(5000)),
        &|kept| {
            let file = std::fs::File::options().write(true).open(kept).expect("open it");
            let old = file.metadata().and_then(|meta| meta.modified()).expect("its time");
            file.write_all_at(b"something else", 5000).expect("write to it");
            file.set_modified(old).expect("set its time back");
        },
        &|kept| damage(kept, Damage::Empty),
        &|kept| {
            // The same bytes, but who knows where they come from.
            let bytes = read(kept);
            std::fs::remove_file(kept).expect("remove it");
            scratch::write(kept, bytes);
        },
        &|kept| damage(&kept.with_extension("mark"), Damage::Flip(40)),
        &|kept| damage(&kept.with_extension("mark"), Damage::Empty),
    ];
    for harm in harms {
        let site = site();
        site.pushed(&[1, 2, 3, 4]);
        fetches(&site, 1);
        await_kept(&site, 2..=4);
        end_worker(&site);
        let name = site.segment(2).name();
        let kept = spooled(&site.archive).into_iter().find(|path| path.ends_with(&name)).expect("it is kept");
        harm(&kept);
        fetches(&site, 2);
        let away = hide(&site);
        site.archive.fetch_fails(&name);
        show(&site, &away);
        end_worker(&site);
    }
}

#[test]
fn a_file_planted_under_the_mark_of_another_is_not_handed_over() {
    let site = site();
    site.pushed(&[1, 2, 3, 4]);
    fetches(&site, 1);
    await_kept(&site, 2..=4);
    end_worker(&site);
    let find =
        |name: String| spooled(&site.archive).into_iter().find(|path| path.ends_with(&name)).expect(&name);
    let (two, three) = (site.segment(2).name(), site.segment(3).name());
    for suffix in ["", ".mark"] {
        let (from, to) = (find(format!("{three}{suffix}")), find(format!("{two}{suffix}")));
        std::fs::rename(from, to).expect("mix them up");
    }
    fetches(&site, 2);
    fetches(&site, 3);
    end_worker(&site);
}

#[test]
fn damage_that_left_no_trace_on_the_file_is_found_by_its_hash() {
    let site = site();
    site.pushed(&[1, 2, 3, 4]);
    fetches(&site, 1);
    await_kept(&site, 2..=4);
    end_worker(&site);
    let name = site.segment(2).name();
    let kept = spooled(&site.archive).into_iter().find(|path| path.ends_with(&name)).expect("it is kept");
    damage(&kept, Damage::Flip(700_000));
    // The disk has changed it behind the file system's back: for the mark it is still the same
    // file.
    let mark = kept.with_extension("mark");
    let mut value: serde_json::Value = serde_json::from_slice(&read(&mark)).expect("a mark");
    let meta = std::fs::metadata(&kept).expect("look at it");
    value["stamp"]["mtime"] = serde_json::json!([meta.mtime(), meta.mtime_nsec()]);
    value["stamp"]["ctime"] = serde_json::json!([meta.ctime(), meta.ctime_nsec()]);
    scratch::write(&mark, value.to_string());
    fetches(&site, 2);
    end_worker(&site);
}

#[test]
fn what_another_repository_at_the_same_place_had_is_not_handed_over() {
    let site = site();
    site.pushed(&[1, 2, 3]);
    fetches(&site, 1);
    await_kept(&site, 2..=3);
    end_worker(&site);
    std::fs::remove_dir_all(site.archive.root()).expect("remove the repository");
    site.archive.init().ok();
    site.archive.fetch_ends(&site.segment(2).name());
}

#[test]
fn a_worker_whose_configuration_has_changed_ends() {
    let mut site = site();
    site.pushed(&[1, 2, 3]);
    fetches(&site, 1);
    await_kept(&site, 2..=3);
    site.archive.set_wal("fetch_ahead = 1");
    site.archive.write_config();
    // Long before it would have nothing to do.
    let has_ended = wait::within(Duration::from_secs(20), || workers(&site.archive).is_empty());
    assert!(has_ended, "the worker goes on with the old configuration");
    fetches(&site, 2);
    await_kept(&site, 3..=3);
    end_worker(&site);
}

#[test]
fn a_worker_that_is_killed_at_any_step_leaves_nothing_that_is_believed() {
    let steps = "openat,write,pwrite64,rename,unlink,mknodat,flock";
    // Some steps of each kind come long before there is anything to keep.
    for nth in (1..100).step_by(2) {
        let site = site();
        site.pushed(&[1, 2, 3, 4]);
        let Some(strace) = Strace::new() else {
            return;
        };
        let strace = strace.inject(&format!("{steps}:signal=KILL:when={nth}"));
        let run = site.archive.run("walfetch").arg(format!("--ahead={}", 1 << 20));
        let run = run.arg(site.segment(1).name()).arg(&site.data.path);
        let child = strace.spawn(&run);
        let all = || spooled_names(&site.archive).iter().filter(|name| name.ends_with(".mark")).count() == 3;
        until("it has kept everything or was killed", || all() || !wait::is_running(child.id()));
        let is_killed = !all();
        end_worker(&site);
        strace.around(&run).finish(child);
        for number in [2, 3, 4, 2] {
            fetches(&site, number);
        }
        end_worker(&site);
        if !is_killed {
            return;
        }
    }
}

#[test]
fn a_changed_repository_is_fetched_from() {
    let mut site = site();
    site.pushed(&[1, 2, 3]);
    fetches(&site, 1);
    await_kept(&site, 2..=3);
    end_worker(&site);
    let spool = spool(&site.archive).display().to_string();
    let build = Archive::build(&site.data.path).root(site.scratch.mkdir("other-repository"));
    let archive = build.wal("fetch_ahead = 4").wal(&format!("spool = {spool:?}")).create();
    let _before = std::mem::replace(&mut site.archive, archive);
    site.archive.fetch_ends(&site.segment(2).name());
}

#[test]
fn a_stopped_worker_holds_nothing_up() {
    let site = site();
    site.pushed(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    fetches(&site, 1);
    await_kept(&site, 2..=5);
    let worker = workers(&site.archive)[0];
    signal(worker, "STOP");
    for number in 2..=9 {
        let run = site.archive.fetching(&site.segment(number).name(), "pg_wal/RECOVERYXLOG");
        run.deadline(Duration::from_secs(2)).go().ok();
        assert!(read(site.archive.destination()) == site.segment(number).bytes());
    }
    signal(worker, "CONT");
    until("it sees the end", || !wait::is_running(worker));
}

#[test]
fn a_worker_that_is_killed_at_any_moment_does_no_harm() {
    let site = site();
    site.pushed(&(1..=20).collect::<Vec<_>>());
    for round in 0..30 {
        let number = 1 + round % 15;
        fetches(&site, number);
        until("a worker is there", || !workers(&site.archive).is_empty());
        // The spool fills up to four segments with their marks: the worker is killed at each step
        // of that.
        let files = (round % 9) as usize;
        until("the worker has come so far", || spooled(&site.archive).len() >= files);
        end_worker(&site);
        fetches(&site, number + 1);
        fetches(&site, number + 3);
        end_worker(&site);
    }
}

#[test]
fn calls_at_once_start_one_worker() {
    let site = site();
    site.pushed(&(1..=9).collect::<Vec<_>>());
    let run =
        |number: u64| site.archive.fetching(&site.segment(number).name(), format!("pg_wal/copy{number}"));
    let runs: Vec<Run> = (1..=4).map(run).collect();
    let children: Vec<_> = runs.iter().map(Run::spawn).collect();
    for (run, child) in runs.iter().zip(children) {
        run.finish(child).ok();
    }
    until("one worker is left", || workers(&site.archive).len() == 1);
    until("something is kept", || !spooled(&site.archive).is_empty());
    assert_eq!(workers(&site.archive).len(), 1);
    end_worker(&site);
}

#[test]
fn the_worker_holds_nothing_of_the_server() {
    let site = site();
    site.pushed(&[1, 2, 3]);
    let log = site.scratch.write("server.log", "");
    // As PostgreSQL leaves open what is its own.
    let shell = format!("exec 7<>{0} 11>>{0} 12</; exec \"$@\"", log.display());
    let run = site.archive.fetching(&site.segment(1).name(), "pg_wal/RECOVERYXLOG");
    run.under(["/bin/bash", "-c", &shell, "bash"]).go().ok();
    await_kept(&site, 2..=3);
    let worker = workers(&site.archive)[0];
    let proc = PathBuf::from(format!("/proc/{worker}"));
    let link = |name: &str| std::fs::read_link(proc.join(name)).expect("read a link of the process");
    assert_eq!(link("cwd"), Path::new("/"));
    for entry in std::fs::read_dir(proc.join("fd")).expect("list what it has open").flatten() {
        let open = std::fs::read_link(entry.path()).unwrap_or_default();
        let mine = open == Path::new("/dev/null") || open.starts_with(spool(&site.archive));
        assert!(mine, "{} is open", open.display());
    }
    let stat = std::fs::read_to_string(proc.join("stat")).expect("look at the process");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(fields[3], worker.to_string(), "the leader of a session of its own");
    end_worker(&site);
}

#[test]
fn the_worker_ends_with_the_data_directory_and_leaves_nothing() {
    let site = site();
    site.pushed(&[1, 2, 3]);
    fetches(&site, 1);
    await_kept(&site, 2..=3);
    std::fs::remove_dir_all(&site.data.path).expect("remove the data directory");
    until("the worker ends", || workers(&site.archive).is_empty());
    assert_eq!(spooled(&site.archive), Vec::<PathBuf>::new());
}

#[test]
fn a_spool_on_another_file_system_is_copied_from() {
    let Some(tmpfs) = Tmpfs::mount("64m") else {
        return;
    };
    let line = format!("spool = {:?}", tmpfs.path());
    let site = Site::build(|build| build.wal("fetch_ahead = 4").wal(&line));
    site.pushed(&[1, 2, 3, 4]);
    fetches(&site, 1);
    let kept = || {
        repo::files(tmpfs.path())
            .iter()
            .filter(|path| path.extension().is_some_and(|word| word == "mark"))
            .count()
    };
    until("three are kept", || kept() == 3);
    let away = hide(&site);
    for number in 2..=4 {
        fetches(&site, number);
    }
    show(&site, &away);
    end_worker(&site);
}

#[test]
fn a_spool_that_is_full_closed_or_gone_changes_no_answer() {
    let Some(tmpfs) = Tmpfs::mount("3m") else {
        return;
    };
    let line = format!("spool = {:?}", tmpfs.path());
    let site = Site::build(|build| build.wal("fetch_ahead = 4").wal(&line));
    site.pushed(&[1, 2, 3, 4, 5]);
    for number in 1..=5 {
        fetches(&site, number);
    }
    end_worker(&site);
    tmpfs.remount("ro");
    for number in 1..=5 {
        fetches(&site, number);
    }
    site.archive.fetch_ends(&site.segment(6).name());
    end_worker(&site);
}

#[test]
fn two_servers_share_a_spool_and_nothing_in_it() {
    let site = site();
    site.pushed(&[1, 2, 3]);
    // A copy of the cluster, and another cluster, both with segments of the same names.
    let copy = DataDir::create(&site.scratch, "copy", 15, SYSTEM, 1);
    let other = site.other(15, SYSTEM + 1);
    let line = format!("spool = {:?}", spool(&site.archive));
    let archives = [&copy, &other].map(|data| {
        let archive =
            Archive::build(&data.path).wal("fetch_ahead = 4").wal("push_ahead = 4").wal(&line).create();
        for number in 1..=3 {
            archive.push(data.write(&data.segment(number).mark("theirs"))).ok();
        }
        archive
    });
    fetches(&site, 1);
    await_kept(&site, 2..=3);
    for (archive, data) in archives.iter().zip([&copy, &other]) {
        for number in 1..=3 {
            let segment = data.segment(number).mark("theirs");
            assert!(archive.fetched(&segment.name()) == segment.bytes());
        }
    }
    fetches(&site, 2);
    fetches(&site, 3);
    end_worker(&site);
}

#[test]
fn another_timeline_is_fetched_by_its_own_names() {
    let site = site();
    site.pushed(&[1, 2, 3, 4, 5]);
    let new = |number| site.segment(number).at(2, number).mark(format!("timeline 2, {number}"));
    for number in 3..=5 {
        site.push(&new(number)).ok();
    }
    fetches(&site, 1);
    await_kept(&site, 2..=5);
    fetches(&site, 2);
    // What is kept of the old timeline is no answer for the new one.
    for number in 3..=5 {
        site.holds(&new(number).name(), &new(number).bytes());
    }
    site.archive.fetch_ends(&new(6).name());
    end_worker(&site);
}

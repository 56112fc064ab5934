//! `walpush` called as the archiver calls it, with more segments ready.

use super::*;
use crate::support::repo::{Damage, damage};

fn site() -> Site {
    Site::build(|build| build.wal("push_ahead = 4"))
}

/// Writes these segments and declares them ready; returns their paths as PostgreSQL gives them.
fn ready(site: &Site, numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    let paths = numbers.into_iter().map(|number| {
        let segment = site.segment(number);
        site.data.write_other(&format!("archive_status/{}.ready", segment.name()), "");
        site.data.write(&segment)
    });
    let paths: Vec<String> = paths.collect();
    settle(site, &paths);
    paths
}

fn names(archive: &Archive) -> Vec<String> {
    archive.stored().into_iter().map(|(name, _)| name).collect()
}

fn name_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

#[test]
fn ready_segments_are_archived_in_the_call_of_the_first_and_archive_status_is_only_read() {
    let site = site();
    let files = ready(&site, 2..=9);
    let status = site.data.path.join("pg_wal/archive_status");
    let before = repo::Snapshot::of(&status);
    site.archive.push(&files[0]).ok();
    assert_eq!(names(&site.archive), files[..5].iter().map(|file| name_of(file)).collect::<Vec<_>>());
    assert_eq!(spooled(&site.archive).len(), 4);
    for file in &files {
        site.archive.push(file).ok();
    }
    assert_eq!(repo::Snapshot::of(&status), before);
    assert_eq!(spooled_names(&site.archive), Vec::<String>::new());
    for number in 2..=9 {
        let segment = site.segment(number);
        site.holds(&segment.name(), &segment.bytes());
    }
}

#[test]
fn a_call_for_an_archived_segment_does_not_read_it_again() {
    let site = site();
    let files = ready(&site, 2..=3);
    site.archive.push(&files[0]).ok();
    let Some(strace) = Strace::new() else {
        return;
    };
    let traced = strace.trace("?open,openat,openat2").go(&site.archive.pushing(&files[1]));
    traced.outcome.clone().ok();
    // With `O_PATH` the size is looked at, and nothing can be read.
    let reading = || traced.calls.iter().filter(|call| !call.arguments.contains("O_PATH"));
    let touched = |path: &Path| reading().any(|call| call.paths().iter().any(|other| other == path));
    assert!(touched(&site.data.path.join("global/pg_control")), "{}", traced.story());
    assert!(!touched(&site.data.path.join(&files[1])), "{}", traced.story());
    assert!(!touched(&site.archive.object(&name_of(&files[1]))), "{}", traced.story());
}

#[test]
fn only_what_the_server_has_declared_ready_is_pushed() {
    let site = site();
    let files = ready(&site, 2..=3);
    site.data.write(&site.segment(4));
    site.data.write_other(&format!("archive_status/{}.done", site.segment(4).name()), "");
    site.data.write_other("archive_status/00000002.history.ready", "");
    site.data.write_other("archive_status/000000010000000000000005.partial.ready", "");
    site.data.write_other("archive_status/000000010000000000000006.ready", "");
    site.archive.push(&files[0]).ok();
    assert_eq!(names(&site.archive), [name_of(&files[0]), name_of(&files[1])]);
}

#[test]
fn a_call_by_hand_pushes_one_file() {
    let site = site();
    ready(&site, 3..=5);
    let own = site.data.write(&site.segment(2));
    site.archive.push(&own).ok();
    assert_eq!(names(&site.archive), [name_of(&own)]);
    assert_eq!(spooled(&site.archive), Vec::<PathBuf>::new());
}

#[test]
fn push_ahead_of_zero_pushes_one_file() {
    let site = Site::build(|build| build.wal("push_ahead = 0"));
    let files = ready(&site, 2..=5);
    site.archive.push(&files[0]).ok();
    assert_eq!(names(&site.archive), [name_of(&files[0])]);
}

#[test]
fn other_content_under_a_marked_name_is_never_acknowledged() {
    let site = site();
    let files = ready(&site, 2..=4);
    site.archive.push(&files[0]).ok();
    // In the same file, with the old times; and another file in its place.
    let path = site.data.path.join(&files[1]);
    let old = std::fs::metadata(&path).expect("look at it").modified().expect("its time");
    site.data.segment(3).mark("something else").write_to(&path);
    let file = std::fs::File::options().write(true).open(&path).expect("open it");
    file.set_modified(old).expect("set its time back");
    drop(file);
    site.archive.push(&files[1]).refused();
    let path = site.data.path.join(&files[2]);
    std::fs::remove_file(&path).expect("remove it");
    site.data.segment(4).mark("something else").write_to(&path);
    site.archive.push(&files[2]).refused();
    site.holds(&name_of(&files[2]), &site.segment(4).bytes());
}

#[test]
fn a_mark_counts_only_while_the_repository_has_the_file() {
    let site = site();
    let files = ready(&site, 2..=4);
    site.archive.push(&files[0]).ok();
    std::fs::remove_file(site.archive.object(&name_of(&files[1]))).expect("lose an object");
    site.archive.push(&files[1]).ok();
    site.holds(&name_of(&files[1]), &site.segment(3).bytes());
    let away = site.archive.root().with_extension("away");
    std::fs::rename(site.archive.root(), &away).expect("move the repository away");
    site.archive.push(&files[2]).refused();
}

#[test]
fn another_repository_is_not_answered_for() {
    let mut site = site();
    let files = ready(&site, 2..=3);
    site.archive.push(&files[0]).ok();
    // Another one at the same place: only its identity tells.
    std::fs::remove_dir_all(site.archive.root()).expect("remove the repository");
    site.archive.init().ok();
    site.archive.push(&files[1]).ok();
    site.holds(&name_of(&files[1]), &site.segment(3).bytes());
    // And one more in the configuration.
    let files = ready(&site, 4..=5);
    site.archive.push(&files[0]).ok();
    let second = site.scratch.mkdir("second");
    let first = site.archive.root().to_owned();
    let spool = spool(&site.archive).display().to_string();
    let archive = Archive::build(&site.data.path).root(first).root(&second);
    let archive = archive.wal("push_ahead = 4").wal(&format!("spool = {spool:?}")).create();
    let _before = std::mem::replace(&mut site.archive, archive);
    site.archive.push(&files[1]).ok();
    let stored = repo::stored_in(&second);
    assert!(stored.iter().any(|(name, _)| *name == name_of(&files[1])), "{stored:?}");
}

#[test]
fn a_mark_of_another_cluster_does_not_count() {
    let site = site();
    let files = ready(&site, 2..=3);
    site.archive.push(&files[0]).ok();
    // The same directory, and another cluster in it.
    let control = segment::pg_control(15, SYSTEM + 1, 1 << 20);
    scratch::write(&site.data.path.join("global/pg_control"), control);
    site.archive.push(&files[1]).refused();
}

#[test]
fn a_spool_that_is_damaged_deleted_or_closed_changes_no_answer() {
    let site = site();
    let mut next = 2;
    let mut round = |harm: &dyn Fn(&Path)| {
        let files = ready(&site, next..next + 3);
        site.archive.push(&files[0]).ok();
        harm(&spool(&site.archive));
        for (file, number) in files.iter().zip(next..) {
            site.archive.push(file).ok();
            site.holds(&name_of(file), &site.segment(number).bytes());
        }
        next += 3;
    };
    let each = |spool: &Path, change: &dyn Fn(&Path)| {
        let files = repo::files(spool);
        files.iter().filter(|file| !file.ends_with("lock")).for_each(|file| change(file));
    };
    round(&|_| {});
    round(&|spool| each(spool, &|file| damage(file, Damage::Empty)));
    round(&|spool| each(spool, &|file| damage(file, Damage::Flip(20))));
    round(&|spool| each(spool, &|file| damage(file, Damage::Truncate(30))));
    round(&|spool| std::fs::remove_dir_all(spool).expect("remove the spool"));
    round(&|spool| {
        std::fs::remove_dir_all(spool).expect("remove the spool");
        scratch::write(spool, "a file where the spool was");
    });
}

#[test]
fn a_further_segment_that_fails_fails_in_its_own_call() {
    let site = site();
    let files = ready(&site, 2..=5);
    let bad = site.data.path.join(&files[1]);
    std::fs::write(&bad, vec![7; 1 << 20]).expect("spoil a segment");
    site.archive.push(&files[0]).ok();
    for _ in 0..3 {
        site.archive.push(&files[1]).refused();
    }
    site.segment(3).write_to(&bad);
    for (file, number) in files.iter().zip(2..) {
        site.archive.push(file).ok();
        site.holds(&name_of(file), &site.segment(number).bytes());
    }
}

#[test]
fn a_segment_that_is_refused_for_ever_does_not_draw_all_others_after_it() {
    let site = site();
    let files = ready(&site, 2..=20);
    std::fs::write(site.data.path.join(&files[0]), vec![7; 1 << 20]).expect("spoil a segment");
    for _ in 0..6 {
        site.archive.push(&files[0]).refused();
    }
    assert!(names(&site.archive).len() <= 4, "{:?}", names(&site.archive));
}

#[test]
fn an_optional_repository_that_went_without_is_told_of_and_is_no_success_once_it_is_required() {
    let mut site = site();
    let second = site.scratch.mkdir("second");
    let first = site.archive.root().to_owned();
    let spool = format!("spool = {:?}", spool(&site.archive));
    let build = |site: &Site| {
        let build = Archive::build(&site.data.path).root(&first).root(&second);
        build.wal("push_ahead = 4").wal(&spool)
    };
    let optional = build(&site).optional(1).create();
    let required = build(&site).unregistered();
    let away = second.with_extension("away");
    let files = ready(&site, 2..=5);
    std::fs::rename(&second, &away).expect("move the optional repository away");
    optional.push(&files[0]).ok().says("optional repository second");
    // Answered from a mark, and still no secret.
    optional.push(&files[1]).ok().says("optional repository second").says("ahead");
    std::fs::rename(&away, &second).expect("bring it back");
    required.push(&files[2]).ok();
    optional.push(&files[3]).ok();
    let stored: Vec<String> = repo::stored_in(&second).into_iter().map(|(name, _)| name).collect();
    assert_eq!(stored, [name_of(&files[2]), name_of(&files[3])]);
    let _before = std::mem::replace(&mut site.archive, required);
    for (file, number) in files.iter().zip(2..) {
        site.holds(&name_of(file), &site.segment(number).bytes());
    }
}

#[test]
fn a_segment_that_is_recycled_after_it_was_pushed_ahead_is_not_answered_for() {
    let site = site();
    let files = ready(&site, 2..=4);
    site.archive.push(&files[0]).ok();
    // As PostgreSQL does it: the file gets a later name and, in time, other content.
    let old = site.data.path.join(&files[1]);
    let new = site.data.path.join(format!("pg_wal/{}", site.segment(9).name()));
    std::fs::rename(&old, &new).expect("recycle a segment");
    site.data.write_other(&format!("archive_status/{}.ready", site.segment(9).name()), "");
    let marks = spooled(&site.archive);
    let mark = marks.iter().find(|mark| mark.ends_with(name_of(&files[1]))).expect("there is a mark");
    std::fs::copy(mark, mark.with_file_name(site.segment(9).name())).expect("copy the mark");
    site.archive.push(&files[1]).refused();
    site.archive.push(format!("pg_wal/{}", site.segment(9).name())).refused();
    assert_eq!(site.archive.find(&site.segment(9).name()), None);
}

#[test]
fn eight_segments_ahead_take_no_more_than_64_megabytes() {
    if !Path::new("/usr/bin/python3").exists() {
        return skipped("python3", "python3 measures the memory of a process");
    }
    let site = Site::unregistered(16, |build| build.wal("push_ahead = 8"));
    site.archive.init().ok();
    // It cannot be compressed, so nothing gets smaller before it is stored.
    let files: Vec<String> = (2..=10)
        .map(|number| {
            let segment = site.segment(number).noise();
            site.data.write_other(&format!("archive_status/{}.ready", segment.name()), "");
            site.data.write(&segment)
        })
        .collect();
    settle(&site, &files);
    let measure = "import resource, subprocess, sys; status = subprocess.call(sys.argv[1:]); \
                   print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(status)";
    let run = site.archive.pushing(&files[0]).under(["/usr/bin/python3", "-c", measure]);
    let outcome = run.go().ok();
    assert_eq!(names(&site.archive).len(), 9);
    let kilobytes: u64 = outcome.stdout.trim().parse().expect("a number");
    assert!(kilobytes <= 64 << 10, "{kilobytes} KiB");
}

#[test]
fn two_calls_at_once_archive_everything_once() {
    let site = site();
    let files = ready(&site, 2..=6);
    let runs = [site.archive.pushing(&files[0]), site.archive.pushing(&files[1])];
    let children = runs.each_ref().map(Run::spawn);
    for (run, child) in runs.iter().zip(children) {
        run.finish(child).ok();
    }
    for (file, number) in files.iter().zip(2..) {
        site.archive.push(file).ok();
        site.holds(&name_of(file), &site.segment(number).bytes());
    }
}

#[test]
fn a_push_ahead_that_is_killed_anywhere_leaves_nothing_that_is_believed() {
    let steps = "write,fsync,rename,renameat2,mkdir,unlink,flock";
    for nth in 1..100 {
        let site = site();
        let files = ready(&site, 2..=5);
        let Some(strace) = Strace::new() else {
            return;
        };
        let strace = strace.inject(&format!("{steps}:signal=KILL:when={nth}"));
        let has_ended = strace.go(&site.archive.pushing(&files[0])).outcome.code() == Some(0);
        // Whatever was acknowledged by a mark is there, and the same.
        for (file, number) in files.iter().zip(2..) {
            site.archive.push(file).ok();
            site.holds(&name_of(file), &site.segment(number).bytes());
        }
        assert_eq!(site.archive.stored().len(), 4);
        if has_ended {
            return;
        }
    }
    panic!("no end to the steps of a push");
}

#[test]
fn further_segments_that_take_too_long_do_not_fail_the_call() {
    let site = Site::build(|build| build.wal("push_ahead = 4").wal("timeout = \"3s\""));
    let files = ready(&site, 2..=4);
    let Some(strace) = Strace::new() else {
        return;
    };
    // Each read of a further segment takes far longer than the call may take.
    let slow = site.data.path.join(&files[1]);
    let strace = strace.only(&slow).inject("pread64:delay_enter=4000000");
    strace.go(&site.archive.pushing(&files[0])).outcome.ok();
    assert!(site.archive.find(&name_of(&files[0])).is_some());
    assert_eq!(site.archive.find(&name_of(&files[1])), None);
}

/// Stores another server's segment with this number.
fn store_foreign(site: &Site, number: u64) {
    let own = site.data.write(&site.segment(number).mark("another server"));
    site.archive.push(&own).ok();
    std::fs::remove_file(site.data.path.join(own)).expect("remove the other server's file");
}

#[test]
fn nothing_is_archived_behind_a_segment_whose_name_another_server_has_taken() {
    // At the tip, right behind it, and further on.
    for taken in [2, 3, 5] {
        let site = site();
        store_foreign(&site, taken);
        let files = ready(&site, 2..=8);
        for (file, number) in files.iter().zip(2..=taken) {
            let outcome = site.archive.push(file);
            match number == taken {
                true => outcome.refused(),
                false => outcome.ok(),
            };
        }
        site.archive.push(&files[taken as usize - 2]).refused();
        let stored: Vec<String> = (2..=taken).map(|number| site.segment(number).name()).collect();
        assert_eq!(names(&site.archive), stored);
        // By hand a later one is archived, and none behind it while the refused one waits.
        site.archive.push(&files[5]).ok();
        assert_eq!(names(&site.archive), [&stored[..], &[name_of(&files[5])]].concat());
    }
}

#[test]
fn nothing_is_archived_beside_a_history_file() {
    let site = site();
    let history = |reason: &str| {
        let text = format!("1\t0/{:X}\t{reason}\n", 3u64 << 20);
        site.data.write_other("00000002.history", text)
    };
    site.archive.push(history("another server")).ok();
    let own = history("this server");
    site.data.write_other("archive_status/00000002.history.ready", "");
    let on_two = |number| {
        let segment = site.segment(number).at(2, number);
        site.data.write_other(&format!("archive_status/{}.ready", segment.name()), "");
        site.data.write(&segment)
    };
    let files: Vec<String> = (3..=6).map(on_two).collect();
    settle(&site, &files);
    site.archive.push(&own).refused();
    assert_eq!(names(&site.archive), ["00000002.history"]);
    // Nor beside a segment of the timeline, while its history waits.
    site.archive.push(&files[0]).ok();
    assert_eq!(names(&site.archive).len(), 2);
}

#[test]
fn nothing_is_archived_behind_a_damaged_segment() {
    let site = site();
    let files = ready(&site, 2..=6);
    std::fs::write(site.data.path.join(&files[2]), vec![7; 1 << 20]).expect("spoil a segment");
    site.archive.push(&files[0]).ok();
    site.archive.push(&files[1]).ok();
    site.archive.push(&files[2]).refused();
    assert_eq!(names(&site.archive), [name_of(&files[0]), name_of(&files[1])]);
    std::fs::write(site.data.path.join(&files[0]), vec![7; 1 << 20]).expect("spoil the first segment");
    site.archive.push(&files[0]).refused();
    assert_eq!(names(&site.archive).len(), 2);
}

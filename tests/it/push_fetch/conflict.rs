//! Two files of one name: equal ones are welcome again, different ones never replace each other.

use super::*;
use std::sync::Barrier;

/// Runs several starts at the same moment.
fn together(runs: Vec<Run>) -> Vec<Outcome> {
    let barrier = Barrier::new(runs.len());
    std::thread::scope(|scope| {
        let start = |run: Run| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                run.go()
            })
        };
        let threads: Vec<_> = runs.into_iter().map(start).collect();
        let ends = threads.into_iter().map(|thread| thread.join().expect("a run"));
        ends.collect()
    })
}

#[test]
fn pushing_the_same_file_again_succeeds() {
    let site = Site::new();
    let segment = site.segment(2);
    site.push(&segment).ok();
    let before = site.archive.snapshot();
    for _ in 0..3 {
        site.push(&segment).ok();
    }
    assert_eq!(site.archive.snapshot(), before);
}

#[test]
fn a_different_segment_of_the_same_name_is_refused_with_both_hashes() {
    let site = Site::new();
    let (first, second) = (site.segment(2), site.segment(2).mark("another history"));
    site.push(&first).ok();
    let before = site.archive.snapshot();
    for _ in 0..3 {
        let outcome = site.push(&second).refused();
        outcome.says(&sha256(&first.bytes())).says(&sha256(&second.bytes()));
    }
    assert_eq!(site.archive.snapshot(), before);
    site.holds(&first.name(), &first.bytes());
    assert!(site.data.path.join("pg_wal").join(second.name()).exists());
}

#[test]
fn a_different_history_file_or_label_is_refused_and_the_first_stays() {
    let site = Site::new();
    for (name, first) in [("00000002.history", HISTORY), ("000000010000000000000002.00000028.backup", LABEL)]
    {
        let second = first.replace("0/", "1/");
        site.archive.push(site.data.write_other(name, first)).ok();
        let outcome = site.archive.push(site.data.write_other(name, &second)).refused();
        outcome.says(&sha256(first.as_bytes())).says(&sha256(second.as_bytes()));
        site.holds(name, first.as_bytes());
    }
}

#[test]
fn a_partial_segment_is_neither_its_segment_nor_in_its_way() {
    let site = Site::new();
    let (partial, whole) = (site.segment(2).mark("half"), site.segment(2).mark("whole"));
    let name = format!("{}.partial", whole.name());
    site.archive.push(site.data.write_other(&name, partial.bytes())).ok();
    site.archive.fetch_ends(&whole.name());
    site.push(&whole).ok();
    site.holds(&whole.name(), &whole.bytes());
    site.holds(&name, &partial.bytes());
    let other = site.segment(2).mark("another half");
    let refused = site.archive.push(site.data.write_other(&name, other.bytes())).refused();
    refused.says(&sha256(&partial.bytes())).says(&sha256(&other.bytes()));
    site.holds(&name, &partial.bytes());
}

#[test]
fn of_two_pushes_at_the_same_moment_exactly_one_wins() {
    let site = Site::new();
    let place = site.scratch.mkdir("rival");
    for round in 0..50 {
        let (one, other) = (site.segment(round).mark("one"), site.segment(round).mark("other"));
        let files = [site.data.path.join(site.data.write(&one)), other.write_into(&place)];
        let ends = together(files.iter().map(|file| site.archive.pushing(file)).collect());
        let winners: Vec<usize> = (0..2).filter(|i| ends[*i].code() == Some(0)).collect();
        assert_eq!(winners.len(), 1, "round {round}\n{}\n{}", ends[0], ends[1]);
        ends[1 - winners[0]].clone().refused();
        site.holds(&one.name(), &[one, other][winners[0]].bytes());
    }
    assert_eq!(site.archive.temporaries(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn twenty_pushes_of_one_file_all_succeed_and_store_it_once() {
    let site = Site::new();
    let segment = site.segment(2).noise();
    let file = site.data.write(&segment);
    for outcome in together(vec![site.archive.pushing(&file); 20]) {
        outcome.ok();
    }
    assert_eq!(site.archive.stored().len(), 1);
    site.holds(&segment.name(), &segment.bytes());
    assert_eq!(site.archive.temporaries(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn files_may_come_in_any_order_and_at_once() {
    let site = Site::new();
    let mut files = vec![site.data.write_other("00000003.history", "1\t0/3000000\tx\n")];
    files.extend([5, 3, 9, 4].map(|number| site.data.write(&site.segment(number))));
    for outcome in together(files.iter().map(|file| site.archive.pushing(file)).collect()) {
        outcome.ok();
    }
    for number in [3, 4, 5, 9] {
        site.holds(&site.segment(number).name(), &site.segment(number).bytes());
    }
    site.holds("00000003.history", b"1\t0/3000000\tx\n");
}

#[test]
fn changing_compression_makes_no_conflict_and_hides_none() {
    let mut site = Site::new();
    let segment = site.segment(2);
    site.push(&segment).ok();
    for line in ["compression = \"none\"", "compression = \"zstd\"", "level = 19"] {
        site.archive.set_wal(line);
        site.archive.write_config();
        site.push(&segment).ok();
        site.push(&site.segment(2).mark("different")).refused();
        assert_eq!(site.archive.stored().len(), 1);
        site.holds(&segment.name(), &segment.bytes());
    }
    site.archive.set_wal("compression = \"none\"");
    site.archive.write_config();
    let plain = site.segment(3);
    site.push(&plain).ok();
    site.archive.set_wal("compression = \"zstd\"");
    site.archive.write_config();
    site.push(&plain).ok();
    site.push(&site.segment(3).mark("different")).refused();
    site.holds(&plain.name(), &plain.bytes());
    assert_eq!(site.archive.stored().len(), 2);
}

#[test]
fn leftovers_of_other_programs_are_no_wal() {
    let site = Site::new();
    let names = site.pushed(&[2]);
    let object = site.archive.object(&names[0]);
    let beside = object.parent().expect("a directory");
    scratch::write(&beside.join("000000010000000000000003.tmp.999"), "x");
    scratch::write(&beside.join(".nfs00000001"), "x");
    let missing = site.segment(3);
    site.archive.fetch_ends(&missing.name());
    site.push(&missing).ok();
    site.holds(&missing.name(), &missing.bytes());
}

#[test]
fn a_damaged_object_is_not_taken_for_an_equal_one() {
    let site = Site::new();
    for kind in [repo::Damage::Flip(-20), repo::Damage::Truncate(-30), repo::Damage::Empty] {
        let segment = site.segment(2).noise();
        site.push(&segment).ok();
        let object = site.archive.object(&segment.name());
        repo::damage(&object, kind);
        // Answering 0 here would let the server recycle the only good copy.
        let outcome = site.push(&segment);
        if outcome.code() == Some(0) {
            site.holds(&segment.name(), &segment.bytes());
        } else {
            outcome.refused();
        }
        let _ = std::fs::remove_file(&object);
    }
}

#[test]
fn a_slow_push_never_replaces_what_came_before_it_ended() {
    // The second one looks for the name before the first has taken it, and gives its file the name
    // afterwards; also on a file system that cannot rename without replacing.
    for fault in [None, Some("renameat2:error=EINVAL"), Some("renameat2:error=ENOSYS")] {
        let site = Site::new();
        let (slow, quick) = (site.segment(2).mark("slow"), site.segment(2).mark("quick"));
        let place = site.scratch.mkdir("rival");
        let Some(strace) = Strace::new() else {
            return;
        };
        let strace = strace.inject("fsync,fdatasync,syncfs:delay_enter=1000000");
        let strace = fault.into_iter().fold(strace, Strace::inject);
        let run = strace.around(&site.archive.pushing(slow.write_into(&place)));
        let child = run.spawn();
        until("the slow push has begun", || !site.archive.temporaries().is_empty());
        site.push(&quick).ok();
        run.finish(child).refused();
        site.holds(&quick.name(), &quick.bytes());
        assert_eq!(site.archive.stored().len(), 1);
    }
}

/// Two servers were promoted in one segment: the unfinished one of the first must not stop the
/// archiver of the second for ever.
#[test]
fn a_partial_segment_of_another_server_can_be_moved_out_of_the_way() {
    let site = Site::new();
    let (theirs, ours) = (site.segment(2).mark("theirs"), site.segment(2).mark("ours"));
    let name = format!("{}.partial", ours.name());
    site.archive.push(site.data.write_other(&name, theirs.bytes())).ok();
    let original = read(site.archive.object(&name));
    let file = site.data.write_other(&name, ours.bytes());
    let refused = site.archive.push(&file).refused();
    refused.says("no recovery reads either").says("walkeep check --wal --move-aside");
    std::fs::create_dir_all(site.data.path.join("pg_wal/archive_status")).expect("make a directory");
    site.data.write_other(&format!("archive_status/{name}.ready"), "");
    let outcome = site.archive.walkeep(&["check", "--wal"]).is(3);
    assert!(outcome.stdout.contains(&format!("FOREIGN {name}")), "{outcome}");
    site.archive.push(&file).refused();
    site.archive.walkeep(&["check", "--wal", "--move-aside"]).ok();
    site.archive.push(&file).ok();
    site.holds(&name, &ours.bytes());
    let aside = repo::files(&site.archive.root().join("main"))
        .into_iter()
        .find(|path| path.to_string_lossy().contains("/aside/"));
    assert_eq!(read(aside.expect("it is kept")), original);
    site.archive.walkeep(&["check", "--wal"]).ok();
}

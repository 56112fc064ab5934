//! Verbs that need a server, or start one.

use super::*;
use std::time::Duration;

#[test]
fn a_backup_is_whole_or_absent_after_every_fault() {
    let prepare = |live: &mut Live| live.backing_up().args(["--archive-timeout", "10s"]);
    let check = |live: &mut Live, fault: &Fault, outcome: &Outcome| {
        let known = live.records();
        if outcome.code() == Some(0) {
            let id = live::text(&live::json(outcome), "id");
            assert!(known.contains(&id), "{fault}: 0 without a record");
        }
        let verified = live.archive.walkeep(&["verify", "--quick"]);
        let expected = if known.is_empty() { 3 } else { 0 };
        assert_eq!(verified.code(), Some(expected), "after {fault}\n{verified}");
        let again = live.backing_up().go();
        assert_eq!(again.code(), Some(0), "after {fault}\n{again}");
        let pruned = live.archive.walkeep(&["prune"]);
        assert_eq!(pruned.code(), Some(0), "after {fault}\n{pruned}");
        assert!(files(&lineage(&live.archive).join("active")).is_empty(), "{fault}");
        live.archive.walkeep(&["verify"]).ok();
    };
    Sweep::new("backup", WALKEEP, Live::new, prepare, check).go();
}

#[test]
fn a_check_ends_after_every_fault_and_the_next_is_good() {
    let make = || {
        let live = Live::new();
        live.backup();
        live
    };
    let run = |live: &Live| live.archive.run("walkeep").arg("check").deadline(Duration::from_secs(120));
    let check = |live: &mut Live, fault: &Fault, _: &Outcome| {
        is_clean(&live.archive, fault);
        let again = run(live).go();
        assert_eq!(again.code(), Some(0), "after {fault}\n{again}");
    };
    Sweep::new("check", WALKEEP, make, |live: &mut Live| run(live), check).go();
}

#[test]
fn a_drill_leaves_nothing_after_every_fault() {
    let story = live::Story::get();
    let make = || {
        let scratch = Scratch::new();
        scratch.mkdir("drills");
        (story.archive(), scratch)
    };
    let run = |(archive, scratch): &(Archive, Scratch)| {
        let run = Run::of("walkeep").arg("--config").arg(archive.config()).args(["drill", "--directory"]);
        run.arg(scratch.join("drills")).deadline(Duration::from_secs(180))
    };
    let check = |fixture: &mut (Archive, Scratch), fault: &Fault, outcome: &Outcome| {
        let drills = fixture.1.join("drills");
        let left = || std::fs::read_dir(&drills).expect("list").count();
        if !fault.is_kill() {
            assert_eq!(left(), 0, "{fault}\n{outcome}");
        }
        let again = run(fixture).go();
        assert_eq!(again.code(), Some(0), "after {fault}\n{again}");
        assert_eq!(left(), 0, "{fault}");
    };
    Sweep::new("drill", WALKEEP, make, |fixture: &mut (Archive, Scratch)| run(fixture), check).go();
}

//! Verbs that change nothing but notes.

use super::*;

/// Runs a verb with every fault. With 0 and `is_same` it prints what it prints without a fault.
fn reads(name: &'static str, words: &[&str], is_same: bool) {
    let saga = Saga::get();
    let words: Vec<&str> = words.iter().map(|word| if *word == "BACKUP" { &saga.c } else { *word }).collect();
    let shown = saga.archive().walkeep(&words);
    let (clean, status) = (shown.stdout, shown.status.code());
    let make = || {
        let archive = saga.archive();
        let before = keys(&archive);
        (archive, before)
    };
    let prepare = |fixture: &mut (Archive, BTreeSet<String>)| fixture.0.run("walkeep").args(&words);
    let check = |fixture: &mut (Archive, BTreeSet<String>), fault: &Fault, outcome: &Outcome| {
        let (archive, before) = fixture;
        is_clean(archive, fault);
        assert_eq!(keys(archive), *before, "{fault}");
        if is_same && outcome.code() == Some(0) {
            assert_eq!(without_paths(&outcome.stdout), without_paths(&clean), "{fault}\n{outcome}");
        }
        let again = archive.walkeep(&words);
        assert_eq!(again.code(), status, "after {fault}\n{again}");
    };
    Sweep::new(name, WALKEEP, make, prepare, check).go();
}

/// What was printed, without the lines that name a place: each copy has its own.
fn without_paths(text: &str) -> String {
    text.lines().filter(|line| !line.contains("/tmp/")).collect()
}

#[test]
fn list_shows_all_or_fails_at_every_call() {
    reads("list", &["list"], true);
}

#[test]
fn show_shows_all_or_fails_at_every_call() {
    reads("show", &["show", "BACKUP"], true);
}

#[test]
fn timelines_shows_all_or_fails_at_every_call() {
    reads("timelines", &["timelines"], false);
}

#[test]
fn status_metrics_and_report_end_at_every_fault() {
    reads("status", &["status", "--timeout", "5s"], false);
    reads("metrics", &["metrics"], false);
}

#[test]
fn report_writes_a_whole_page_or_none_at_every_call() {
    let saga = Saga::get();
    let make = || (saga.archive(), Scratch::new());
    let prepare = |(archive, scratch): &mut (Archive, Scratch)| {
        let _ = std::fs::remove_file(scratch.join("page.html"));
        archive.run("walkeep").args(["report", "--html"]).arg(scratch.join("page.html"))
    };
    let check = |(archive, scratch): &mut (Archive, Scratch), fault: &Fault, outcome: &Outcome| {
        is_clean(archive, fault);
        let left = files(scratch.path());
        match std::fs::read_to_string(scratch.join("page.html")) {
            Ok(page) => assert!(page.trim_end().ends_with("</html>"), "{fault}: half a page"),
            Err(_) => assert!(!matches!(outcome.code(), Some(0 | 3)), "{fault}: no page\n{outcome}"),
        }
        let others = left.iter().filter(|path| !path.ends_with("page.html")).count();
        assert!(others <= usize::from(fault.is_kill()), "{fault} left {left:?}");
        for path in left {
            std::fs::remove_file(path).expect("remove it");
        }
    };
    Sweep::new("report", WALKEEP, make, prepare, check).go();
}

#[test]
fn verify_says_the_truth_at_every_call() {
    reads("verify", &["verify"], false);
}

#[test]
fn a_quick_verification_says_the_truth_at_every_call() {
    reads("verify --quick", &["verify", "--quick"], false);
}

#[test]
fn a_verification_of_the_wal_says_the_truth_at_every_call() {
    reads("verify --wal", &["verify", "--wal"], false);
}

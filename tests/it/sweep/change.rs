//! Verbs that change a repository or a data directory, without a server.

use super::*;
use walkeep::repo::RESTORING;

#[test]
fn a_pin_is_whole_or_absent_at_every_call() {
    let saga = Saga::get();
    let prepare = |archive: &mut Archive| archive.run("walkeep").args(["pin", &saga.a]);
    let check = |archive: &mut Archive, fault: &Fault, outcome: &Outcome| {
        is_clean(archive, fault);
        if outcome.code() == Some(0) {
            assert!(lineage(archive).join("pin").join(&saga.a).exists(), "{fault}: 0 without a pin");
        }
        let again = archive.walkeep(&["pin", &saga.a]);
        assert_eq!(again.code(), Some(0), "after {fault}\n{again}");
        archive.walkeep(&["unpin", &saga.a]).ok();
    };
    Sweep::new("pin", WALKEEP, || saga.archive(), prepare, check).go();
}

#[test]
fn a_pin_is_removed_or_stays_at_every_call() {
    let saga = Saga::get();
    let place = |archive: &Archive| lineage(archive).join("pin").join(&saga.b);
    let pin = read(place(&saga.archive()));
    let prepare = |archive: &mut Archive| archive.run("walkeep").args(["unpin", &saga.b]);
    let check = |archive: &mut Archive, fault: &Fault, outcome: &Outcome| {
        is_clean(archive, fault);
        if outcome.code() != Some(0) {
            archive.walkeep(&["unpin", &saga.b]).ok();
        }
        assert!(!place(archive).exists(), "{fault}: 0 with a pin");
        std::fs::create_dir_all(lineage(archive).join("pin")).expect("its folder");
        std::fs::write(place(archive), &pin).expect("pin it again");
        account::give_all(&lineage(archive).join("pin"));
    };
    Sweep::new("unpin", WALKEEP, || saga.archive(), prepare, check).go();
}

#[test]
fn a_prune_is_finished_by_the_next_after_every_fault() {
    let saga = Saga::get();
    let doomed = || {
        let mut archive = saga.archive();
        archive.set_retention(0, &["keep_last = 1"]);
        std::fs::remove_file(lineage(&archive).join("pin").join(&saga.b)).expect("unpin it");
        archive
    };
    let clean = doomed();
    clean.walkeep(&["prune"]).ok();
    let pruned = keys(&clean);
    let prepare = |fixture: &mut Option<Archive>| fixture.insert(doomed()).run("walkeep").arg("prune");
    let check = |fixture: &mut Option<Archive>, fault: &Fault, outcome: &Outcome| {
        let archive = fixture.take().expect("made before");
        is_clean(&archive, fault);
        if outcome.code() == Some(0) {
            assert_eq!(keys(&archive), pruned, "{fault}: 0 with something left");
        }
        let verified = archive.walkeep(&["verify", "--quick"]);
        assert_eq!(verified.code(), Some(0), "after {fault}\n{verified}");
        let again = archive.walkeep(&["prune"]);
        assert_eq!(again.code(), Some(0), "after {fault}\n{again}");
        assert_eq!(keys(&archive), pruned, "{fault}");
        assert!(files(&lineage(&archive).join("active")).is_empty(), "{fault}");
        archive.walkeep(&["verify"]).ok();
    };
    Sweep::new("prune", WALKEEP, || None, prepare, check).go();
}

#[test]
fn a_sync_is_finished_by_the_next_after_every_fault() {
    let saga = Saga::get();
    let empty = || {
        let twins = saga.twins();
        let identity = lineage(&twins).file_name().expect("a name").to_owned();
        let second = twins.roots()[1].join("main").join(identity);
        std::fs::remove_dir_all(second).expect("empty the second");
        twins
    };
    let prepare = |fixture: &mut Option<Archive>| {
        fixture.insert(empty()).run("walkeep").args(["sync", "--from", "first", "--to", "second"])
    };
    let objects = |root: &Path| -> BTreeSet<String> {
        let paths = files(&root.join("main")).into_iter();
        let relative = paths.filter_map(|path| Some(path.strip_prefix(root).ok()?.display().to_string()));
        relative.filter(|path| !path.contains("/verify/") && !path.contains("/active/")).collect()
    };
    let twins = empty();
    twins.walkeep(&["sync", "--from", "first", "--to", "second"]).ok();
    let synced = objects(&twins.roots()[1]);
    let check = |fixture: &mut Option<Archive>, fault: &Fault, outcome: &Outcome| {
        let archive = fixture.take().expect("made before");
        is_clean(&archive, fault);
        if outcome.code() == Some(0) {
            assert_eq!(objects(&archive.roots()[1]), synced, "{fault}: 0 with something missing");
        }
        let again = archive.walkeep(&["sync", "--from", "first", "--to", "second"]);
        assert_eq!(again.code(), Some(0), "after {fault}\n{again}");
        assert_eq!(objects(&archive.roots()[1]), synced, "{fault}");
        archive.walkeep(&["verify"]).ok();
    };
    Sweep::new("sync", WALKEEP, || None, prepare, check).go();
}

/// An archive, and a directory to restore into.
struct Target {
    archive: Archive,
    scratch: Option<Scratch>,
}

impl Target {
    fn run(&mut self, id: &str, arguments: &[&str], fill: impl FnOnce(&Path)) -> Run {
        let scratch = self.scratch.insert(Scratch::new());
        fill(&scratch.join("data"));
        let arguments: Vec<&str> = [id, "--immediate"].iter().chain(arguments).copied().collect();
        restoring(&self.archive, &scratch.join("data"), &arguments)
    }

    /// It is whole with 0; after anything else the same command makes it so.
    fn check(&mut self, id: &str, arguments: &[&str], fault: &Fault, outcome: &Outcome) {
        let scratch = self.scratch.take().expect("made before");
        is_clean(&self.archive, fault);
        let data = scratch.join("data");
        // A restore that is killed at its last words is complete.
        let is_complete = data.join("PG_VERSION").exists() && !data.join(RESTORING).exists();
        if outcome.code() != Some(0) && (!is_complete || arguments.contains(&"--delta")) {
            let arguments: Vec<&str> = [id, "--immediate"].iter().chain(arguments).copied().collect();
            let again = restoring(&self.archive, &data, &arguments).go();
            assert_eq!(again.code(), Some(0), "after {fault}\n{outcome}\n{again}");
        }
        let verified = pg::tool("pg_verifybackup").arg(&data).go();
        assert_eq!(verified.code(), Some(0), "after {fault}\n{outcome}\n{verified}");
        let mut left = files(scratch.path());
        left.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("walkeep")));
        assert!(left.is_empty(), "{fault} left {left:?}");
        // The leases of the restores.
        for lease in files(&lineage(&self.archive).join("active")) {
            std::fs::remove_file(lease).expect("end a lease");
        }
    }
}

#[test]
fn a_restore_is_whole_or_is_repeated_after_every_fault() {
    let saga = Saga::get();
    let prepare = |target: &mut Target| target.run(&saga.a, &[], |_| {});
    let check = |target: &mut Target, fault: &Fault, outcome: &Outcome| {
        target.check(&saga.a, &[], fault, outcome);
    };
    let make = || Target { archive: saga.archive(), scratch: None };
    Sweep::new("restore", WALKEEP, make, prepare, check).go();
}

#[test]
fn a_delta_restore_is_whole_or_is_repeated_after_every_fault() {
    let saga = Saga::get();
    let archive = saga.archive();
    let other = live::restore(&archive, &[&saga.b, "--immediate"]);
    let prepare =
        |target: &mut Target| target.run(&saga.a, &["--delta"], |data| scratch::copy_tree(&other.data, data));
    let check = |target: &mut Target, fault: &Fault, outcome: &Outcome| {
        target.check(&saga.a, &["--delta"], fault, outcome);
    };
    let make = || Target { archive: saga.archive(), scratch: None };
    Sweep::new("restore --delta", WALKEEP, make, prepare, check).go();
}

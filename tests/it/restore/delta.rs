//! `walkeep restore --delta`: over what is there, by content; never over a running server or
//! another cluster.

use super::repo::Damage;
use super::*;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A copy of the story's data directory, as it was when its server was stopped.
fn old(story: &Story, scratch: &Scratch) -> PathBuf {
    let data = scratch.join("data");
    scratch::copy_tree(story.server.data(), &data);
    account::give_all(&data);
    data
}

fn delta(archive: &Archive, data: &Path) -> Outcome {
    restoring(archive, data, &["--delta", "--immediate", "--json"]).go()
}

/// What a restore into an empty directory gives.
fn fresh(archive: &Archive) -> Snapshot {
    let restored = restore(archive, &["--immediate"]);
    Snapshot::of(&restored.data).below(&restored.data)
}

#[track_caller]
fn assert_same(archive: &Archive, data: &Path) {
    pg::tool("pg_verifybackup").arg(data).go().ok();
    let (ours, theirs) = (Snapshot::of(data).below(data), fresh(archive));
    assert_eq!(ours.paths(), theirs.paths());
    assert!(ours == theirs, "same names, other contents or modes");
}

#[test]
fn only_blocks_that_differ_are_written_and_the_result_is_that_of_a_fresh_restore() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let data = old(&story, &scratch);
    // A bit that flipped under an unchanged time.
    let path = data.join("base/1/1259");
    let before = path.metadata().expect("look");
    repo::damage(&path, Damage::Flip(9000));
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("open");
    file.set_modified(before.modified().expect("a time")).expect("set the time");
    repo::damage(&data.join("base/1/1249"), Damage::Truncate(8192));
    repo::damage(&data.join("base/1/1247"), Damage::Grow);
    repo::damage(&data.join("base/1/2610"), Damage::Remove);
    // What does not belong there.
    scratch::write(&data.join("base/1/99999"), "stray");
    scratch::write(&data.join("standby.signal"), "");
    scratch::write(&data.join("recovery.signal"), "");
    scratch::write(&data.join("backup_label.old"), "stray");
    std::fs::create_dir_all(data.join("base/77/deep")).expect("make a directory");
    scratch::write(&data.join("base/77/deep/1"), "stray");
    std::os::unix::fs::symlink("/etc", data.join("link")).expect("make a link");
    // What is not what it should be.
    let victim = scratch.write("victim", "of another");
    std::fs::remove_file(data.join("base/1/2601")).ok();
    std::fs::remove_file(data.join("base/1/2602")).expect("remove");
    std::os::unix::fs::symlink(&victim, data.join("base/1/2602")).expect("make a link");
    std::fs::remove_file(data.join("base/1/2603")).expect("remove");
    std::fs::hard_link(&victim, data.join("base/1/2603")).expect("make a link");
    std::fs::remove_file(data.join("base/1/2605")).expect("remove");
    std::fs::create_dir(data.join("base/1/2605")).expect("make a directory");
    std::fs::remove_dir_all(data.join("pg_twophase")).expect("remove");
    scratch::write(&data.join("pg_twophase"), "a file");
    account::give_all(&data);

    let report = live::json(&delta(&archive, &data).ok());
    let number = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}"));
    assert!(number("kept") * 10 > number("bytes") * 8, "{report}");
    assert!(number("kept") < number("bytes"), "{report}");
    assert_eq!(read(&victim), b"of another");
    assert_same(&archive, &data);
    // Again: everything is there but what a restore writes itself.
    let report = live::json(&delta(&archive, &data).ok());
    assert!(report["kept"].as_u64() > Some(number("bytes") * 95 / 100), "{report}");
    assert_same(&archive, &data);
    let server = Cluster::over(scratch, data);
    assert!(recovers(&server), "{}", server.log_text());
    assert_eq!(rows(&server), "4000");
}

#[test]
fn a_running_server_is_never_restored_over() {
    let story = Story::get();
    let archive = story.archive();
    let restored = restore(&archive, &[]);
    let server = restored.recovered();
    let before = server.psql("select count(*) from t");
    let outcome = delta(&archive, server.data()).is(1).told();
    assert!(outcome.stderr.contains("postmaster.pid"), "{outcome}");
    assert_eq!(server.psql("select count(*) from t"), before);
    assert!(server.data().join("global/pg_control").exists());
    // Killed: whether all of its processes are gone is not known.
    server.stop(Stop::Immediate);
    scratch::write(&server.data().join("postmaster.pid"), "999999999\n");
    let snapshot = Snapshot::of(server.data());
    delta(&archive, server.data()).is(1).told();
    assert!(Snapshot::of(server.data()) == snapshot);
    std::fs::remove_file(server.data().join("postmaster.pid")).expect("remove it");
    delta(&archive, server.data()).ok();
}

#[test]
fn other_directories_are_refused_and_stay_as_they_are() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let other = DataDir::create(&scratch, "other", 15, 7_300_000_000_000_000_001, 1).path;
    let later = old(&story, &scratch);
    scratch::write(&later.join("PG_VERSION"), "17\n");
    let plain = scratch.mkdir("plain");
    scratch::write(&plain.join("letter"), "to a friend");
    for data in [&other, &later, &plain] {
        let before = Snapshot::of(data);
        let outcome = delta(&archive, data).is(1).told();
        assert!(outcome.stderr.contains("is not a data directory of"), "{outcome}");
        assert!(Snapshot::of(data) == before);
    }
    // An empty one, and one that is not there, are filled.
    for data in [scratch.mkdir("empty"), scratch.join("none")] {
        delta(&archive, &data).ok();
        assert_same(&archive, &data);
    }
}

/// A data directory, and the repository that lies in it.
fn with_repository(story: &Story, scratch: &Scratch) -> (PathBuf, PathBuf) {
    let data = old(story, scratch);
    let root = data.join("repository");
    scratch::copy_tree(story.archive().root(), &root);
    account::give_all(&data);
    (data, root)
}

#[test]
fn a_repository_inside_the_data_directory_is_no_stray() {
    let story = Story::get();
    let scratch = Scratch::new();
    let (data, root) = with_repository(&story, &scratch);
    let archive = Archive::build(story.server.data()).root(root).unregistered();
    let before = Snapshot::of(&data);
    let outcome = delta(&archive, &data).is(1).told();
    assert!(outcome.stderr.contains("where files that the backup does not have are removed"), "{outcome}");
    assert!(Snapshot::of(&data) == before);
}

#[test]
fn a_repository_behind_a_link_that_cannot_be_followed_is_no_stray() {
    let story = Story::get();
    let scratch = Scratch::new();
    let (data, root) = with_repository(&story, &scratch);
    let link = scratch.join("link");
    std::os::unix::fs::symlink(&root, &link).expect("make a link");
    let archive = Archive::build(story.server.data()).root(&link).unregistered();
    let before = Snapshot::of(&data);
    let Some(strace) = Strace::new() else {
        return;
    };
    let strace = strace.trace("readlink,readlinkat").only(&link).inject("readlink,readlinkat:error=EIO");
    let traced = strace.go(&restoring(&archive, &data, &["--delta"]));
    assert!(traced.was_hit(), "{}", traced.story());
    traced.outcome.is(1).told().says("link");
    assert!(Snapshot::of(&data) == before);
}

#[test]
fn a_killed_delta_restore_cannot_be_started_and_is_completed_by_the_next() {
    let steps = "write,pwrite64,mkdir,mkdirat,ftruncate,fallocate,fsync,fdatasync,syncfs,rename,renameat,renameat2,\
                 unlink,unlinkat,fchmod,fchmodat,chmod";
    let story = Story::get();
    let archive = story.archive();
    let mut killed = 0;
    let mut nth = 3;
    loop {
        let Some(strace) = Strace::new() else {
            return;
        };
        let scratch = Scratch::new();
        let data = old(&story, &scratch);
        repo::damage(&data.join("base/1/1259"), Damage::Flip(9000));
        let strace = strace.trace(steps).inject(&format!("{steps}:signal=KILL:when={nth}"));
        let run = restoring(&archive, &data, &["--jobs", "1", "--delta", "--immediate"]);
        if strace.go(&run).outcome.code() == Some(0) {
            break;
        }
        killed += 1;
        if !data.join("global/pg_control").exists() {
            let copy = scratch.join("copy");
            scratch::copy_tree(&data, &copy);
            assert_not_startable(Scratch::new(), &copy);
            // What was there is not taken for the rest of a restore into an empty directory.
            let before = Snapshot::of(&data);
            restoring(&archive, &data, &["--immediate"]).go().is(1).told().says("--delta");
            assert!(Snapshot::of(&data) == before);
        }
        delta(&archive, &data).ok();
        assert_same(&archive, &data);
        nth = nth * 2 + 1;
        assert!(nth < 100_000, "no end to the steps of a restore");
    }
    assert!(killed >= 4, "only {killed} restores were killed");
}

#[test]
fn tablespaces_are_compared_and_what_is_of_others_stays() {
    let live = Live::new();
    let place = live.server.scratch().mkdir("space");
    live.server.psql(&format!("create tablespace space location '{}'", place.display()));
    live.server.psql("create table s (i int) tablespace space");
    live.server.psql("insert into s select generate_series(1, 100000)");
    live.backup();
    live.flush_wal();
    live.server.stop(Stop::Fast);
    let version = std::fs::read_dir(&place).expect("list").next().expect("one").expect("one").path();
    let files = repo::files(&version);
    let table = files.iter().max_by_key(|path| path.metadata().expect("look").len()).expect("a table");
    let file = std::fs::OpenOptions::new().write(true).open(table).expect("open");
    file.write_all_at(b"spoiled", 50_000).expect("spoil");
    scratch::write(&version.join("99999"), "stray");
    scratch::write(&place.join("PG_14_202107181"), "of another server");
    let to = live.server.data();
    let run = restoring(&live.archive, to, &["--delta", "--json"]);
    let report = live::json(&run.clone().go().ok());
    assert!(report["kept"].as_u64() > Some(1 << 20), "{report}");
    assert!(!version.join("99999").exists());
    // PostgreSQL's tool knows nothing of other servers in the same place.
    assert_eq!(read(place.join("PG_14_202107181")), b"of another server");
    std::fs::remove_file(place.join("PG_14_202107181")).expect("remove it");
    pg::tool("pg_verifybackup").arg(to).go().ok();
    assert!(recovers(&live.server), "{}", live.server.log_text());
    assert_eq!(live.server.psql("select sum(i) from s"), "5000050000");
    live.server.stop(Stop::Fast);
    // A directory that holds something else is not one of a tablespace.
    scratch::write(&place.join("letter"), "to a friend");
    let before = Snapshot::of(to);
    run.go().is(1).told().says("letter");
    assert!(Snapshot::of(to) == before);
}

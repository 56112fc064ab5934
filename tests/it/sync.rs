//! `walkeep sync`: one repository brought up to what another one holds.

use crate::support::live::{self, json};
use crate::support::repo::{self, Remote};
use crate::support::s3::Bucket;
use crate::support::{Archive, Cluster, Outcome, Scratch, Strace, site, skipped};
use std::path::{Path, PathBuf};

/// A server that archives into `first`; `second` is optional and away.
struct Site {
    server: Cluster,
    archive: Archive,
    first: PathBuf,
    second: PathBuf,
    place: Scratch,
}

impl Site {
    /// With one backup, and WAL behind it.
    fn new() -> Site {
        let place = Scratch::new();
        let (first, second) = (place.mkdir("first"), place.mkdir("second"));
        let server = Cluster::build().wal_segsize(1).checksums().create();
        let archive = Archive::build(server.data()).root(&first).root(&second).optional(1);
        let archive = archive.for_server(&server);
        server.start();
        std::fs::remove_dir_all(&second).expect("take the second repository away");
        server.psql("create table t as select generate_series(1, 1000) i");
        let outcome = live::backing_up(&archive).go().ok();
        assert!(outcome.stderr.contains("second"), "nobody was told\n{outcome}");
        let site = Site { server, archive, first, second, place };
        site.more();
        site.place.mkdir("second");
        site
    }

    fn more(&self) {
        self.server.psql("insert into t select generate_series(1, 1000)");
        let last = self.server.switch_wal();
        self.server.await_archived(&last);
    }

    fn sync(&self) -> Outcome {
        self.archive.walkeep(&["sync", "--from", "first", "--to", "second", "--json"])
    }
}

/// How many rows a restore from this repository alone brings back.
fn rows(site: &Site, root: &Path) -> String {
    let alone = Archive::build(site.server.data()).root(root).unregistered();
    live::restore(&alone, &[]).verified().recovered().psql("select count(*) from t")
}

#[test]
fn a_copy_restores_without_the_original() {
    let site = Site::new();
    let copied = json(&site.sync().ok())["copied"].clone();
    assert_eq!(copied["backups"].as_array().map(Vec::len), Some(1), "{copied}");
    assert!(copied["segments"].as_u64() > Some(2), "{copied}");
    // Every object but the identity is the same, byte for byte.
    for (name, object) in repo::stored_in(&site.first) {
        let copy = site.second.join(object.strip_prefix(&site.first).expect("a path in the repository"));
        let same = std::fs::read(&copy).expect("the copy") == std::fs::read(&object).expect("the original");
        assert!(same, "{name}");
    }
    let again = json(&site.sync().ok())["copied"].clone();
    assert_eq!(again["objects"], 0, "{again}");
    // What is new alone is copied.
    let away = site.second.with_extension("away");
    std::fs::rename(&site.second, &away).expect("take it away");
    site.more();
    live::backing_up(&site.archive).go().ok();
    std::fs::rename(&away, &site.second).expect("bring it back");
    let more = json(&site.sync().ok())["copied"].clone();
    assert_eq!(more["backups"].as_array().map(Vec::len), Some(1), "{more}");
    std::fs::remove_dir_all(&site.first).expect("lose the original");
    assert_eq!(rows(&site, &site.second), "3000");
}

#[test]
fn damage_is_not_copied_and_the_rest_is() {
    let site = Site::new();
    let pack = live::parts_of(&site.first, &live::records(&site.first)[0], "pack").remove(0);
    let intact = std::fs::read(&pack).expect("the pack");
    repo::damage(&pack, repo::Damage::Flip(intact.len() as i64 / 2));
    let report = json(&site.sync().is(3));
    assert!(report["problems"].to_string().contains("pack/000001"), "{report}");
    assert!(live::records(&site.second).is_empty(), "a backup is listed that cannot be restored");
    assert!(report["copied"]["segments"].as_u64() > Some(2), "{report}");
    std::fs::write(&pack, &intact).expect("mend it");
    site.sync().ok();
    assert_eq!(rows(&site, &site.second), "2000");
}

#[test]
fn other_content_under_the_same_name_is_told_and_left() {
    let site = Site::new();
    site.sync().ok();
    let (name, object) = repo::stored_in(&site.first).remove(0);
    let copy = site.second.join(object.strip_prefix(&site.first).expect("a path in the repository"));
    // The first segment went missing there, and another server's came in its place.
    let mut other = crate::support::Segment::new(site.server.system_identifier(), 15).megabytes(1);
    other = other.at(1, u64::from_str_radix(&name[16..24], 16).expect("a number")).noise();
    std::fs::remove_file(&copy).expect("remove the copy");
    let foreign = Archive::build(site.server.data()).root(&site.second).unregistered();
    let file = site.place.join(&name);
    std::fs::write(&file, other.bytes()).expect("write the other segment");
    foreign.push(&file).ok();
    let before = std::fs::read(&copy).expect("the other one");
    // Nothing is missing, so nothing is copied; nothing is replaced either way.
    site.sync().ok();
    site.archive.walkeep(&["sync", "--from", "second", "--to", "first"]).ok();
    assert_eq!(std::fs::read(&copy).expect("the other one"), before);
}

#[test]
fn killed_at_any_step_it_lists_nothing_half_and_goes_on_the_next_time() {
    let site = Site::new();
    let sync = site.archive.run("walkeep").args(["sync", "--from", "first", "--to", "second", "--quiet"]);
    // Every step that gives something its name: too many to kill all, so ever more of them are let
    // through.
    let mut nth = 1_u32;
    loop {
        let Some(strace) = Strace::new() else {
            return;
        };
        let traced = strace.inject(&format!("renameat2:signal=KILL:when={nth}")).go(&sync);
        let done = traced.outcome.code() == Some(0);
        for id in live::records(&site.second) {
            assert!(done || nth > 3, "{id} is listed after {nth} steps\n{}", traced.story());
        }
        if done {
            assert!(nth > 1, "nothing was killed\n{}", traced.story());
            break;
        }
        nth += nth.div_ceil(2);
        assert!(nth < 10_000, "no end");
    }
    assert_eq!(rows(&site, &site.second), "2000");
}

#[test]
fn an_off_site_copy_in_a_bucket_is_made_and_brings_a_lost_directory_back() {
    let bucket = Bucket::new();
    let place = Scratch::new();
    let first = place.mkdir("first");
    let server = Cluster::build().wal_segsize(1).checksums().create();
    let remote: Remote = bucket.repository("copy");
    let archive = Archive::build(server.data()).root(&first).remote(remote).optional(1).for_server(&server);
    server.start();
    server.psql("create table t as select generate_series(1, 1000) i");
    live::backing_up(&archive).go().ok();
    let last = server.switch_wal();
    server.await_archived(&last);
    archive.walkeep(&["sync", "--from", "first", "--to", "second"]).ok();
    std::fs::remove_dir_all(&first).expect("lose the directory");
    place.mkdir("first");
    archive.walkeep(&["sync", "--from", "second", "--to", "first"]).ok();
    let alone = Archive::build(server.data()).root(&first).unregistered();
    let restored = live::restore(&alone, &[]).verified().recovered();
    assert_eq!(restored.psql("select count(*) from t"), "1000");
}

#[test]
fn a_repository_of_another_cluster_is_refused() {
    let site = Site::new();
    let stranger = Cluster::build().wal_segsize(1).create();
    Archive::build(stranger.data()).root(&site.second).create();
    let outcome = site.sync().is(1);
    assert!(outcome.stderr.contains("second") && outcome.stderr.contains("hint:"), "{outcome}");
    assert!(repo::stored_in(&site.second).is_empty());
    for arguments in [["first", "first"], ["first", "nowhere"]] {
        site.archive.walkeep(&["sync", "--from", arguments[0], "--to", arguments[1]]).is(2);
    }
}

#[test]
fn a_backup_that_is_not_whole_is_not_listed_however_much_else_is_wrong() {
    let site = Site::new();
    let (_, object) =
        repo::stored_in(&site.first).into_iter().find(|(name, _)| name.len() == 24).expect("WAL");
    let folder = object.parent().expect("a folder");
    let name = object.file_name().and_then(|name| name.to_str()).expect("a name");
    // More than are told one by one.
    for number in 0..1100 {
        std::fs::write(folder.join(format!("{}.{number:08X}.backup", &name[..24])), "garbage")
            .expect("write");
    }
    let pack = live::parts_of(&site.first, &live::records(&site.first)[0], "pack").remove(0);
    repo::damage(&pack, repo::Damage::Flip(700));
    site.sync().is(3);
    assert!(live::records(&site.second).is_empty(), "a backup is listed that cannot be restored");
}

#[test]
fn segments_of_64_megabytes_are_copied_in_less_than_100_megabytes_of_memory_and_checked() {
    if !Path::new("/usr/bin/python3").exists() {
        return skipped("python3", "python3 measures the memory of a process");
    }
    let place = Scratch::new();
    let (first, second) = (place.mkdir("first"), place.mkdir("second"));
    let site = site::Site::unregistered(64, |build| build.root(&first).root(&second));
    site.archive.init().ok();
    // They cannot be compressed, so no object is smaller than its file.
    let segments: Vec<_> = (1..=3).map(|number| site.segment(number).noise()).collect();
    for segment in &segments {
        site.push(segment).ok();
    }
    let copies = repo::stored_in(&second);
    for (_, copy) in &copies {
        std::fs::remove_file(copy).expect("remove a copy");
    }
    // One of them is damaged at its end, when all of it but that is under way.
    let (_, damaged) = repo::stored_in(&first).into_iter().next_back().expect("a segment");
    repo::damage(&damaged, repo::Damage::Flip(-9));
    let measure = "import resource, subprocess, sys; status = subprocess.call(sys.argv[1:]); \
                   print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(status)";
    let sync = site.archive.run("walkeep").args(["sync", "--from", "first", "--to", "second"]);
    let outcome = sync.under(["/usr/bin/python3", "-c", measure]).go().is(3);
    let copied = repo::stored_in(&second);
    assert_eq!(copied.len(), 2, "{copied:?}");
    for (name, copy) in &copied {
        let original = first.join(copy.strip_prefix(&second).expect("a path in the repository"));
        assert!(std::fs::read(copy).ok() == std::fs::read(original).ok(), "{name}");
    }
    let kilobytes = outcome.stdout.lines().filter_map(|line| line.trim().parse::<u64>().ok()).next_back();
    assert!(kilobytes.is_some_and(|kilobytes| kilobytes <= 100 << 10), "{kilobytes:?} KiB");
}

//! Where things come from and go to: tablespaces, configuration, a repository that is read-only, a
//! cluster that is gone.

use super::*;
use std::path::PathBuf;

/// A server with a table in a tablespace.
struct Spaced {
    live: Live,
    location: PathBuf,
    oid: String,
}

impl Spaced {
    fn new() -> Spaced {
        let live = Live::new();
        let location = live.server.scratch().mkdir("space");
        live.server.psql(&format!("create tablespace space location '{}'", location.display()));
        live.server.psql("create table t (i serial primary key) tablespace space");
        live.server.psql("insert into t select from generate_series(1, 1000)");
        let oid = live.server.psql("select oid from pg_tablespace where spcname = 'space'");
        live.backup();
        live.server.psql("insert into t select from generate_series(1, 1000)");
        live.flush_wal();
        Spaced { live, location, oid }
    }
}

#[test]
fn a_moved_tablespace_never_leads_into_production() {
    let spaced = Spaced::new();
    let scratch = Scratch::new();
    let by_place = format!("{}={}", spaced.location.display(), scratch.join("by place").display());
    let by_oid = format!("{}={}", spaced.oid, scratch.join("by oid").display());
    // The running server writes there in between: only what a copy does must not show.
    spaced.live.server.stop(Stop::Fast);
    let before = Snapshot::of(&spaced.location);
    for (mapping, at) in [(by_place, "by place"), (by_oid, "by oid")] {
        let restored = spaced.live.restore(&["--tablespace", &mapping]).verified();
        let map = String::from_utf8(read(restored.data.join("tablespace_map"))).expect("text");
        assert_eq!(map, format!("{} {}\n", spaced.oid, scratch.join(at).display()));
        let away = spaced.location.with_extension("away");
        std::fs::rename(&spaced.location, &away).expect("move the original away");
        let server = restored.recovered();
        assert_eq!(rows(&server), "2000");
        server.psql("insert into t select from generate_series(1, 1000)");
        server.psql("checkpoint");
        server.stop(Stop::Fast);
        server.start();
        assert_eq!(rows(&server), "3000");
        assert!(!spaced.location.exists(), "somebody made the original anew");
        std::fs::rename(&away, &spaced.location).expect("bring the original back");
        assert!(Snapshot::of(&spaced.location) == before);
    }
}

#[test]
fn tablespaces_that_cannot_be_placed_are_refused_before_anything_is_written() {
    let spaced = Spaced::new();
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let full = scratch.mkdir("full");
    scratch::write(&full.join("mine"), "mine");
    let before = Snapshot::of(&full);
    let cases: Vec<(&str, Vec<String>)> = vec![
        ("the old place is in use", vec![]),
        ("an unknown OID", vec![format!("99999={}", scratch.join("new").display())]),
        ("an unknown place", vec![format!("/nowhere={}", scratch.join("new").display())]),
        ("a directory that is not empty", vec![format!("{}={}", spaced.oid, full.display())]),
        ("inside the data directory", vec![format!("{}={}", spaced.oid, data.join("space").display())]),
        ("around the data directory", vec![format!("{}={}", spaced.oid, scratch.path().display())]),
        ("the data directory", vec![format!("{}={}", spaced.oid, data.display())]),
    ];
    for (what, mappings) in cases {
        let arguments: Vec<&str> =
            mappings.iter().flat_map(|mapping| ["--tablespace", mapping.as_str()]).collect();
        let outcome = restoring(&spaced.live.archive, &data, &arguments).go();
        assert!(matches!(outcome.code(), Some(1 | 2)), "{what}\n{outcome}");
        assert!(outcome.clone().told().stderr.contains("hint:"), "{what}: no hint\n{outcome}");
        assert!(!data.exists(), "{what}");
        assert_eq!(Snapshot::of(&full), before, "{what}");
    }
    assert_eq!(spaced.live.server.psql("select count(*) from t"), "2000");
}

#[test]
fn a_place_inside_of_the_data_directory_is_refused_however_it_is_written() {
    let spaced = Spaced::new();
    let scratch = Scratch::new();
    let data = scratch.mkdir("data");
    std::os::unix::fs::symlink(&data, scratch.join("link")).expect("make a link");
    for place in ["x/../data/y", "./data//y", "link/y"] {
        let mapping = format!("{}={}/{place}", spaced.oid, scratch.path().display());
        let outcome = restoring(&spaced.live.archive, &data, &["--tablespace", &mapping]).go();
        assert!(matches!(outcome.code(), Some(1 | 2)), "{place}\n{outcome}");
        assert_eq!(repo::files(&data), Vec::<PathBuf>::new(), "{place}");
    }
}

#[test]
fn one_tablespace_cannot_go_to_two_places() {
    let spaced = Spaced::new();
    let scratch = Scratch::new();
    let by_oid = format!("{}={}", spaced.oid, scratch.join("one").display());
    let by_place = format!("{}={}", spaced.location.display(), scratch.join("two").display());
    let arguments = ["--tablespace", &by_oid, "--tablespace", &by_place];
    let outcome = restoring(&spaced.live.archive, &scratch.join("data"), &arguments).go();
    assert!(matches!(outcome.code(), Some(1 | 2)), "{outcome}");
    assert!(!scratch.join("data").exists());
}

#[test]
fn two_tablespaces_cannot_share_a_place() {
    let live = Live::new();
    let mut oids = Vec::new();
    for name in ["one", "one_more"] {
        let location = live.server.scratch().mkdir(name);
        live.server.psql(&format!("create tablespace {name} location '{}'", location.display()));
        oids.push(live.server.psql(&format!("select oid from pg_tablespace where spcname = '{name}'")));
    }
    live.backup();
    let scratch = Scratch::new();
    let mappings: Vec<String> =
        oids.iter().map(|oid| format!("{oid}={}", scratch.join("same").display())).collect();
    let run = restoring(
        &live.archive,
        &scratch.join("data"),
        &["--tablespace", &mappings[0], "--tablespace", &mappings[1]],
    );
    run.go().is(1).told().says("hint:");
    assert_eq!(repo::files(scratch.path()), Vec::<PathBuf>::new());
    assert!(!scratch.join("same").exists() && !scratch.join("data").exists());
}

#[test]
fn a_cluster_whose_disks_are_gone_is_restored_in_its_old_place() {
    let spaced = Spaced::new();
    let Spaced { live, location, .. } = spaced;
    live.server.stop(Stop::Immediate);
    let data = live.server.data().to_owned();
    std::fs::remove_dir_all(&data).expect("lose the data directory");
    std::fs::remove_dir_all(&location).expect("lose the tablespace");
    restoring(&live.archive, &data, &[]).go().ok();
    pg::tool("pg_verifybackup").arg(&data).go().ok();
    assert!(recovers(&live.server), "{}", live.server.log_text());
    assert_eq!(rows(&live.server), "2000");
}

#[test]
fn a_read_only_repository_is_enough_to_restore() {
    let story = Story::get();
    let Some(tmpfs) = Tmpfs::mount("200m") else {
        return;
    };
    let source = story.archive();
    let root = tmpfs.path().join("repository");
    scratch::copy_tree(source.root(), &root);
    tmpfs.remount("ro");
    let archive = Archive::build(story.server.data()).root(&root).unregistered();
    let server = restore(&archive, &[]).verified().recovered();
    assert_eq!(rows(&server), ALL);
    tmpfs.remount("rw");
}

#[test]
fn configuration_outside_of_the_data_directory_comes_back_where_it_is_wanted() {
    let etc = Scratch::new();
    let live = debian(&etc);
    live.backup();
    let scratch = Scratch::new();
    let config = scratch.join("etc");
    let data = scratch.join("data");
    let before = Snapshot::of(etc.path());
    let outcome = restoring(&live.archive, &data, &[]).go().ok();
    assert!(outcome.stderr.contains("--config-dir"), "{outcome}");
    std::fs::remove_dir_all(&data).expect("remove it");
    restoring(&live.archive, &data, &["--config-dir", config.to_str().expect("a path")]).go().ok();
    assert_eq!(Snapshot::of(etc.path()), before);
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "conf.d/more.conf"] {
        assert_eq!(read(config.join(name)), read(etc.join(name)), "{name}");
    }
    pg::tool("pg_verifybackup").arg(&data).go().ok();
}

#[test]
fn the_hosts_file_of_postgresql_19_comes_back_with_the_configuration() {
    let Some(programs) = pg::version(19) else {
        return;
    };
    let etc = Scratch::new();
    let hosts = etc.join("pg_hosts.conf");
    scratch::write(&hosts, "# hosts\n");
    let live = Live::with(Cluster::build().programs(programs).wal_segsize(1), |server| {
        server.set("hosts_file", &hosts.display().to_string());
    });
    live.backup();
    let scratch = Scratch::new();
    let config = scratch.join("etc");
    let arguments = ["--config-dir", config.to_str().expect("a path")];
    restoring(&live.archive, &scratch.join("data"), &arguments).go().ok();
    let place = config.join(hosts.strip_prefix("/").expect("an absolute path"));
    assert_eq!(read(place), b"# hosts\n");
    // The server does not need the file.
    std::fs::remove_file(&hosts).expect("remove it");
    let outcome = live.backing_up().go().ok();
    assert!(!outcome.stderr.contains("pg_hosts.conf"), "{outcome}");
}

/// A server as Debian sets it up: the configuration in another place, with an included directory.
pub(super) fn debian(etc: &Scratch) -> Live {
    let server = Cluster::build().wal_segsize(1).create();
    let archive = Archive::of_server(&server);
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        etc.write(name, read(server.data().join(name)));
        std::fs::remove_file(server.data().join(name)).expect("move the configuration");
    }
    etc.mkdir("conf.d");
    etc.write("conf.d/more.conf", "work_mem = '5MB'\n");
    let place = etc.path().display();
    let more = format!(
        "data_directory = '{}'\nhba_file = '{place}/pg_hba.conf'\nident_file = '{place}/pg_ident.conf'\ninclude_dir = 'conf.d'\n",
        server.data().display()
    );
    let text = [read(etc.join("postgresql.conf")), more.into_bytes()].concat();
    etc.write("postgresql.conf", text);
    // pg_ctl finds the configuration, and that the data directory.
    let ctl =
        pg::tool("pg_ctl").arg("-D").arg(etc.path()).args(["-w", "-l"]).arg(etc.join("log")).arg("start");
    ctl.go().ok();
    let live = Live { server, archive };
    assert_eq!(live.server.psql("show work_mem"), "5MB");
    live
}

#[test]
fn a_tablespace_created_after_the_backup_keeps_a_copy_from_writing_into_the_original() {
    let live = Live::new();
    live.backup();
    let location = live.server.scratch().mkdir("later");
    live.server.psql(&format!("create tablespace later location '{}'", location.display()));
    let scratch = Scratch::new();
    let to = scratch.join("data");
    let outcome = restoring(&live.archive, &to, &[]).go();
    outcome.is(1).told().says("later").says("--allow-new-tablespaces");
    assert!(!to.exists());
    restoring(&live.archive, &to, &["--immediate", "--allow-new-tablespaces"]).go().ok();
}

#[test]
fn tablespaces_that_cannot_be_looked_for_are_not_taken_for_none() {
    let live = Live::new();
    live.backup();
    let location = live.server.scratch().mkdir("later");
    live.server.psql(&format!("create tablespace later location '{}'", location.display()));
    let directory = live.server.data().join("pg_tblspc");
    let oid = live.server.psql("select oid from pg_tablespace where spcname = 'later'");
    let scratch = Scratch::new();
    let to = scratch.join("data");
    let faults = [
        (directory.clone(), "openat:error=EIO"),
        (directory.clone(), "getdents64:error=EIO"),
        (directory.join(oid), "readlink,readlinkat:error=EIO"),
    ];
    for (path, fault) in faults {
        let Some(strace) = Strace::new() else {
            return;
        };
        let traced = strace.only(&path).inject(fault).go(&restoring(&live.archive, &to, &[]));
        assert!(traced.was_hit(), "{fault} hit nothing\n{}", traced.story());
        traced.outcome.is(1).told().says("--allow-new-tablespaces");
        assert!(!to.exists());
    }
}

#[test]
fn files_that_pg_hba_conf_includes_come_back_with_the_configuration() {
    let Some(programs) = pg::version(16) else {
        return;
    };
    let etc = Scratch::new();
    let rules = etc.write("more_hba.conf", "local all nobody_at_all reject\n");
    let live = Live::with(Cluster::build().programs(programs).wal_segsize(1), |server| {
        let hba = server.data().join("pg_hba.conf");
        let text = format!("include {}\n{}", rules.display(), String::from_utf8_lossy(&read(&hba)));
        scratch::write(&hba, text);
    });
    live.backup();
    let scratch = Scratch::new();
    let config = scratch.join("etc");
    let arguments = ["--config-dir", config.to_str().expect("a path")];
    restoring(&live.archive, &scratch.join("data"), &arguments).go().ok();
    let place = config.join(rules.strip_prefix("/").expect("an absolute path"));
    assert_eq!(read(place), read(&rules));
}

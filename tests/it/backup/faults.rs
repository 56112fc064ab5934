//! Faults of the server, the disk and the archive while a backup runs: nothing is listed, and the
//! next one works.

use super::repo::{Damage, damage};
use super::*;
use crate::support::live::backing_up;
use std::path::PathBuf;

#[test]
fn a_session_that_is_killed_while_copying_ends_the_backup_at_once() {
    let live = Live::new();
    live.backup();
    let before = live.records();
    let Some(slow) = Slow::begin(&live, &[]) else {
        return;
    };
    live.server.psql(
        "select pg_terminate_backend(pid) from pg_stat_activity \
         where backend_type = 'client backend' and pid <> pg_backend_pid()",
    );
    let outcome = slow.finish();
    assert!(outcome.stderr.contains("hint:"), "{outcome}");
    assert_failed_once(&live, &before, outcome);
}

#[test]
fn a_server_that_restarts_while_copying_ends_the_backup() {
    for how in [Stop::Fast, Stop::Immediate] {
        let live = Live::new();
        let before = live.records();
        let Some(slow) = Slow::begin(&live, &[]) else {
            return;
        };
        live.server.stop(how);
        live.server.start();
        let outcome = slow.finish();
        assert_failed_once(&live, &before, outcome);
    }
}

#[test]
fn a_segment_that_is_missing_or_damaged_in_the_repository_fails_the_backup() {
    for harm in [Some(Damage::Remove), Some(Damage::Flip(600)), Some(Damage::Truncate(-20)), None] {
        let live = Live::new();
        let Some(slow) = Slow::begin(&live, &[]) else {
            return;
        };
        let mut names = Vec::new();
        for _ in 0..4 {
            live.server.psql("create table if not exists t (i int); insert into t values (1)");
            names.push(live.server.switch_wal());
        }
        live.server.await_archived(&names[3]);
        if let Some(harm) = harm {
            damage(&live.archive.object(&names[1]), harm);
        }
        let outcome = slow.finish();
        match harm {
            Some(harm) => {
                let outcome = assert_failed_once(&live, &[], outcome);
                assert!(outcome.stderr.contains(&names[1]), "{harm:?}\n{outcome}");
            }
            None => {
                outcome.ok();
                assert_eq!(live.records().len(), 1);
            }
        }
    }
}

#[test]
fn a_segment_that_the_server_takes_for_archived_is_not_waited_for() {
    let live = Live::new();
    // The default of half an hour, and a deadline of a minute.
    let Some(slow) = Slow::of(backing_up(&live.archive).deadline(wait::LONG)) else {
        return;
    };
    let names = [live.flush_wal(), live.flush_wal(), live.flush_wal()];
    damage(&live.archive.object(&names[1]), Damage::Remove);
    let outcome = assert_failed(&live, &[], slow.finish());
    assert!(outcome.stderr.contains(&names[1]), "{outcome}");
}

#[test]
fn an_archive_that_breaks_while_copying_fails_the_backup_at_its_deadline() {
    let live = Live::new();
    live.backup();
    let before = live.records();
    let Some(slow) = Slow::begin(&live, &["--archive-timeout", "2s"]) else {
        return;
    };
    let good = live.server.psql("show archive_command");
    let bad = good.replace("walkeep.toml", "gone.toml");
    assert_ne!(good, bad);
    let set = |command: &str| {
        live.server.psql(&format!("alter system set archive_command = '{}'", command.replace('\'', "''")));
        live.server.psql("select pg_reload_conf()");
    };
    set(&bad);
    let outcome = assert_failed(&live, &before, slow.finish());
    assert!(outcome.stderr.contains("hint:"), "{outcome}");
    // The server is out of backup mode: the session that was in it is gone.
    live.server.await_sql("select count(*) from pg_stat_activity where backend_type = 'client backend'", "1");
    set(&good);
    live.backup();
}

#[test]
fn a_disk_that_cannot_be_read_fails_the_backup_and_names_the_file() {
    let live = Live::new();
    // Relative to the data directory, in which the backup is started.
    let path = PathBuf::from(live.server.psql("select pg_relation_filepath('pg_class')"));
    for call in ["pread64,read,readv,preadv,preadv2:error=EIO", "openat2:error=EIO", "openat2:error=EACCES"] {
        let Some(strace) = Strace::new() else {
            return;
        };
        let traced = strace.only(&path).inject(call).go(&live.backing_up());
        assert!(traced.was_hit(), "{call} hit nothing\n{}", traced.story());
        let outcome = assert_failed(&live, &[], traced.outcome);
        assert!(
            outcome.stderr.contains(path.file_name().and_then(|n| n.to_str()).expect("a name")),
            "{outcome}"
        );
    }
    live.backup();
}

#[test]
fn a_file_that_a_server_always_has_may_not_vanish() {
    let live = Live::new();
    for name in ["global/pg_filenode.map", "PG_VERSION", "global/pg_control"] {
        let Some(strace) = Strace::new() else {
            return;
        };
        // Relative to the data directory, by whose descriptor a backup opens the files in it.
        let is_read_last = name == "global/pg_control";
        let path = if is_read_last { live.server.data().join(name) } else { PathBuf::from(name) };
        let traced = strace.only(&path).inject("?open,openat,openat2:error=ENOENT").go(&live.backing_up());
        assert!(traced.was_hit(), "{name}: nothing was hit");
        assert_failed(&live, &[], traced.outcome);
    }
}

#[test]
fn a_full_repository_fails_the_backup_and_one_with_room_takes_the_next() {
    let Some(tmpfs) = Tmpfs::mount("9m") else {
        return;
    };
    let server = Cluster::build().wal_segsize(1).create();
    server.set("max_wal_size", "4MB");
    server.start();
    // Random bytes that do not compress.
    server.psql(
        "create table noise as select string_agg(md5(random()::text), '') as t \
         from generate_series(1, 700000) i group by i / 60",
    );
    server.psql("checkpoint");
    server.stop(Stop::Fast);
    let root = tmpfs.path().join("repository");
    std::fs::create_dir(&root).expect("make the repository");
    account::give(&root);
    let archive = Archive::build(server.data()).connection(server.connection()).root(&root).create();
    server.set("archive_mode", "on");
    server.set("archive_command", &archive.archive_command());
    server.start();
    let live = Live { server, archive };
    let outcome = assert_failed(&live, &[], live.backing_up().args(["--archive-timeout", "5s"]).go());
    assert!(outcome.stderr.to_lowercase().contains("space"), "{outcome}");
    tmpfs.remount("size=200m");
    assert_failed_once(&live, &[], outcome);
}

#[test]
fn an_error_on_any_object_of_the_backup_fails_it() {
    let live = Live::new();
    for nth in 1..20 {
        let Some(strace) = Strace::new() else {
            return;
        };
        // Slowly, so that the other threads are done by then.
        let fault = format!("renameat2,renameat,rename,link,linkat:error=EIO:delay_enter=300000:when={nth}");
        let before = live.records();
        let traced =
            strace.trace("renameat2,renameat,rename,link,linkat").inject(&fault).go(&live.backing_up());
        if !traced.was_hit() {
            assert!(nth > 1, "nothing was hit");
            traced.outcome.ok();
            return;
        }
        assert_failed(&live, &before, traced.outcome);
    }
}

#[test]
fn a_write_error_in_the_repository_fails_the_backup() {
    let live = Live::new();
    for fault in [
        "fsync,fdatasync,syncfs:error=EIO:when=1",
        "renameat2,renameat,rename,link,linkat:error=EIO:when=1",
        "renameat2,renameat,rename,link,linkat:error=EROFS",
    ] {
        let Some(strace) = Strace::new() else {
            return;
        };
        let traced = strace.inject(fault).go(&live.backing_up());
        if traced.outcome.code() == Some(0) {
            assert!(!traced.was_hit(), "{fault} was not noticed\n{}", traced.outcome);
            panic!("{fault} hit nothing");
        }
        assert_failed(&live, &[], traced.outcome);
    }
    live.backup();
}

#[test]
fn a_read_only_repository_fails_the_backup_with_the_reason() {
    let Some(tmpfs) = Tmpfs::mount("100m") else {
        return;
    };
    let server = Cluster::build().wal_segsize(1).create();
    let root = tmpfs.path().join("repository");
    std::fs::create_dir(&root).expect("make the repository");
    account::give(&root);
    let archive = Archive::build(server.data()).connection(server.connection()).root(&root).create();
    server.set("archive_mode", "on");
    server.set("archive_command", &archive.archive_command());
    server.start();
    let live = Live { server, archive };
    tmpfs.remount("ro");
    let outcome = assert_failed(&live, &[], live.backing_up().args(["--archive-timeout", "3s"]).go());
    assert!(outcome.stderr.contains("hint:"), "{outcome}");
    tmpfs.remount("rw");
    live.backup();
}

/// A tablespace with a table: where it lies, and the way of the server to its files.
fn with_tablespace(live: &Live) -> (PathBuf, PathBuf) {
    let place = live.server.scratch().mkdir("space");
    live.server.psql(&format!("create tablespace space location '{}'", place.display()));
    live.server.psql("create table there (i int) tablespace space");
    let oid = live.server.psql("select oid from pg_tablespace where spcname = 'space'");
    let version = std::fs::read_dir(&place).expect("list").next().expect("a directory").expect("list");
    (place, live.server.data().join("pg_tblspc").join(oid).join(version.file_name()))
}

#[test]
fn a_tablespace_that_cannot_be_looked_at_is_not_left_out() {
    let live = Live::new();
    let (_, version) = with_tablespace(&live);
    for error in ["EIO", "EACCES", "ESTALE"] {
        let Some(strace) = Strace::new() else {
            return;
        };
        let fault = format!("statx,stat,newfstatat:error={error}:when=1");
        let traced = strace.only(&version).inject(&fault).go(&live.backing_up());
        assert!(traced.was_hit(), "{fault} hit nothing\n{}", traced.story());
        let outcome = assert_failed(&live, &[], traced.outcome);
        assert!(outcome.stderr.contains(&version.display().to_string()), "{outcome}");
    }
    live.backup();
}

#[test]
fn a_tablespace_that_the_server_has_and_that_is_not_there_fails_the_backup() {
    let live = Live::new();
    let (place, _) = with_tablespace(&live);
    let away = place.with_extension("away");
    // As where a file system is not mounted: before the backup, and while it reads.
    std::fs::rename(&place, &away).expect("move it away");
    let outcome = assert_failed(&live, &[], live.backing_up().go());
    assert!(outcome.stderr.contains("of tablespace"), "{outcome}");
    std::fs::rename(&away, &place).expect("bring it back");
    let Some(slow) = Slow::begin(&live, &[]) else {
        return;
    };
    std::fs::rename(&place, &away).expect("move it away");
    assert_failed(&live, &[], slow.finish());
    std::fs::rename(&away, &place).expect("bring it back");
    live.backup();
}

#[test]
fn a_tablespace_that_is_dropped_while_it_is_backed_up_is_no_failure() {
    let live = Live::new();
    with_tablespace(&live);
    let Some(slow) = Slow::begin(&live, &[]) else {
        return;
    };
    live.server.psql("drop table there");
    live.server.psql("drop tablespace space");
    slow.finish().ok();
    live.restore(&["--immediate"]).verified();
}

#[test]
fn a_link_of_a_tablespace_that_the_server_does_not_have_is_told_and_no_failure() {
    let live = Live::new();
    let link = live.server.data().join("pg_tblspc/99999");
    std::os::unix::fs::symlink(live.server.scratch().mkdir("nothing"), &link).expect("a link that was left");
    live.backing_up().go().ok().says("nothing of tablespace 99999");
}

#[test]
fn a_damaged_record_of_the_newest_backup_does_not_keep_the_next_from_being_taken() {
    let live = Live::new();
    let first = live.backup_id();
    let newest = live.backup_id();
    damage(&live::record_of(live.archive.root(), &newest), Damage::Flip(-20));
    assert_eq!(live::text(&live.backup(), "parent"), first);
}

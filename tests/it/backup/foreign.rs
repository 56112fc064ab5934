//! A backup on WAL that is not the server's own: it is never listed.

use super::*;

/// A server under whose names, from the next segment on, a copy of it has archived.
fn with_foreign_wal() -> Live {
    let live = Live::new();
    live.server.psql("create table t as select generate_series(1, 100) i");
    live.flush_wal();
    live.server.stop(Stop::Fast);
    let copy = live.server.copied();
    let archive = Archive::build(copy.data()).root(live.archive.root()).for_server(&copy);
    copy.start();
    for _ in 0..6 {
        copy.psql("insert into t values (1)");
        let name = copy.switch_wal();
        copy.await_archived(&name);
    }
    copy.stop(Stop::Immediate);
    drop(archive);
    live
}

#[test]
fn a_server_whose_names_another_one_has_taken_is_refused_before_anything_is_copied() {
    let live = with_foreign_wal();
    live.server.start();
    live.server.psql("insert into t values (2)");
    let outcome = assert_failed(&live, &[], live.backing_up().go());
    outcome.says("is not this server's").says("walkeep check --wal");
    let packs = repo::files(live.archive.root());
    assert!(!packs.iter().any(|path| path.to_string_lossy().contains("/pack/")), "{packs:?}");
}

#[test]
fn a_server_that_counts_a_refused_segment_as_archived_gets_no_backup_from_it() {
    let live = with_foreign_wal();
    // A wrapper of that name that hides every failure.
    let command = live.archive.archive_command();
    let program = command.split('\'').nth(1).expect("the path of walpush");
    let wrapper = live.archive.scratch().mkdir("wrapper").join("walpush");
    scratch::write(&wrapper, format!("#!/bin/sh\n'{program}' \"$@\" || true\n"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&wrapper, mode).expect("make it executable");
    live.server.set("archive_command", &command.replace(program, &wrapper.display().to_string()));
    live.server.start();
    live.server.psql("insert into t values (2)");
    let outcome = assert_failed(&live, &[], live.backing_up().go());
    outcome.says("another server");
}

//! Settings and grants.

use super::*;

#[test]
fn each_wrong_setting_of_a_primary_is_named_with_the_line_to_type() {
    let live = healthy();
    let server = &live.server;
    all_is_ok(&check(&live.archive, 0));
    let command = |shell: &str| live.archive.archive_command() + shell;
    // Behind those that fail the archiver waits for a minute.
    let cases = [
        ("archive_timeout", "0".to_owned(), "warning", "archive_timeout = '1min'"),
        ("full_page_writes", "off".to_owned(), "warning", "full_page_writes = on"),
        ("archive_command", "true".to_owned(), "failed", "archive_command = 'walpush %p'"),
        ("archive_command", String::new(), "failed", "archive_command = 'walpush %p'"),
        ("archive_command", command(" || true"), "failed", "walpush alone"),
        ("archive_command", command("; true"), "failed", "walpush alone"),
        ("archive_command", "walpush pg_wal/1".to_owned(), "failed", "archive_command = 'walpush %p'"),
        ("archive_library", "basic_archive".to_owned(), "failed", "archive_library = ''"),
    ];
    for (name, value, result, line) in cases {
        alter(server, name, &value);
        let report = check(&live.archive, if result == "failed" { 3 } else { 0 });
        let found = shows(&report, "settings", result, name);
        assert!(live::text(found, "hint").contains(line), "{found:#}");
        server.psql(&format!("alter system reset {name}"));
        server.psql("select pg_reload_conf()");
        server.await_sql(
            &format!("select source <> 'configuration file' or sourcefile not like '%auto.conf' from pg_settings where name = '{name}'"),
            "t",
        );
    }
}

#[test]
fn what_counts_after_a_restart_only_is_said_before_and_after_it() {
    let live = healthy();
    let server = &live.server;
    server.psql("alter system set archive_mode = off");
    server.psql("select pg_reload_conf()");
    server.await_sql("select pending_restart from pg_settings where name = 'archive_mode'", "t");
    let report = check(&live.archive, 0);
    shows(&report, "settings", "warning", "archive_mode was changed");
    server.psql("alter system set wal_level = minimal");
    server.psql("alter system set max_wal_senders = 0");
    server.stop(Stop::Fast);
    server.start();
    let report = check(&live.archive, 3);
    for (name, line) in [("archive_mode", "archive_mode = on"), ("wal_level", "wal_level = replica")] {
        let found = shows(&report, "settings", "failed", name);
        assert!(live::text(found, "hint").contains(line), "{found:#}");
    }
}

#[test]
fn a_server_that_could_summarize_its_wal_gets_the_advice() {
    let Some(programs) = pg::version(18).or_else(|| pg::version(17)) else {
        return;
    };
    let live = Live::with(Cluster::build().programs(programs).wal_segsize(1), |_| {});
    let report = check(&live.archive, 0);
    let found = shows(&report, "settings", "ok", "summarize_wal is off");
    assert!(live::text(found, "hint").contains("summarize_wal = on"), "{found:#}");
    alter(&live.server, "summarize_wal", "on");
    let report = check(&live.archive, 0);
    assert!(!report.to_string().contains("summarize_wal"), "{report:#}");
}

#[test]
fn a_role_without_grants_is_told_the_lines_that_help() {
    let live = healthy();
    live.server.psql("create role watcher login");
    let connection = live.server.connection().replace("user=postgres", "user=watcher");
    let archive =
        Archive::build(live.server.data()).connection(connection).root(live.archive.root()).unregistered();
    let report = check(&archive, 3);
    let hint = live::text(shows(&report, "server", "failed", "grants"), "hint");
    // What does not need the server is looked at all the same.
    shows(&report, "repository first", "ok", "");
    let grants: Vec<&str> = hint.lines().filter(|line| line.starts_with("GRANT ")).collect();
    assert!(grants.len() >= 4, "{hint}");
    grants.iter().for_each(|grant| drop(live.server.psql(grant)));
    all_is_ok(&check(&archive, 0));
}

#[test]
fn another_server_behind_the_connection_is_found_out() {
    let (live, other) = (healthy(), healthy());
    let crossed = Archive::build(live.server.data()).connection(other.server.connection());
    let crossed = crossed.root(live.archive.root()).unregistered();
    shows(&check(&crossed, 3), "data directory", "failed", "system identifier");
}

#[test]
fn a_server_that_is_down_leaves_it_open_and_the_repository_is_tried_all_the_same() {
    let live = healthy();
    live.server.stop(Stop::Fast);
    let report = check(&live.archive, 1);
    shows(&report, "server", "failed", "");
    shows(&report, "backups in first", "ok", &live.records()[0]);
}

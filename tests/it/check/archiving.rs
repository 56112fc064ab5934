//! A fresh segment on its way into every repository and back.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A server with a required repository and an optional one.
fn with_two() -> Live {
    Live::with_two(|server| server.set("archive_timeout", "1min")).0
}

#[test]
fn each_repository_gets_a_fresh_segment_and_gives_it_back() {
    let live = with_two();
    let before = live.archive.stored().len();
    let report = check(&live.archive, 0);
    for name in ["archiving into first", "archiving into second"] {
        shows(&report, name, "ok", "is the same as the server's");
    }
    assert!(live.archive.stored().len() > before, "nothing was archived");
    // Again, though nothing happened meanwhile.
    let stored = live.archive.stored().len();
    check(&live.archive, 0);
    assert!(live.archive.stored().len() > stored, "nothing was archived");
}

#[test]
fn a_repository_that_is_away_fails_unless_it_is_optional() {
    let live = with_two();
    let roots = live.archive.roots();
    let away = roots[1].with_extension("away");
    std::fs::rename(&roots[1], &away).expect("take it away");
    let report = check(&live.archive, 0);
    shows(&report, "repository second", "warning", "");
    shows(&report, "archiving into first", "ok", "");
    std::fs::rename(&away, &roots[1]).expect("bring it back");
    std::fs::rename(&roots[0], &away).expect("take it away");
    let report = check(&live.archive, 3);
    shows(&report, "repository first", "failed", "");
    std::fs::rename(&away, &roots[0]).expect("bring it back");
}

#[test]
fn an_archive_command_for_another_repository_is_found_out() {
    let live = healthy();
    let other = Archive::build(live.server.data()).connection(live.server.connection()).create();
    alter(&live.server, "archive_command", &other.archive_command());
    let report = check(&live.archive, 3);
    let found = shows(&report, "archiving into first", "failed", "the repository does not have it");
    assert!(live::text(found, "hint").contains("archive_command leads somewhere else"), "{found:#}");
}

#[test]
fn a_segment_that_does_not_arrive_in_time_fails_with_where_to_look() {
    let live = healthy();
    let command = live.archive.archive_command().replace("--cluster main", "--cluster missing");
    alter(&live.server, "archive_command", &command);
    let outcome = live.archive.walkeep(&["check", "--json", "--timeout", "2s"]).is(3);
    let report = live::json(&outcome);
    let found = shows(&report, "archiving into first", "failed", "did not arrive within 2s");
    assert!(live::text(found, "hint").contains("the server's log"), "{found:#}");
}

/// What comes back is no proof by itself: it has to be what the server wrote.
#[test]
fn other_bytes_than_the_server_s_are_found_out() {
    let live = healthy();
    let place = live.archive.scratch().mkdir("changed").display().to_string();
    // The last byte of the zeros at the end.
    let script = format!(
        "for file; do :; done\nname={place}/$(basename \"$file\")\ncp \"$file\" \"$name\"\n\
         printf x | dd of=\"$name\" bs=1 seek=1048575 conv=notrunc status=none\n\
         exec {} --config {} --cluster main \"$name\"\n",
        run::program("walpush").display(),
        live.archive.config().display()
    );
    alter(&live.server, "archive_command", &instead(&live.archive, &script));
    let report = check(&live.archive, 3);
    shows(&report, "archiving into first", "failed", "the server's own file");
}

/// Delivered is not archived: what was stored has to come back.
#[test]
fn an_object_that_does_not_come_back_fails_in_the_words_of_walfetch() {
    let live = healthy();
    let other = Archive::build(live.server.data()).connection(live.server.connection()).create();
    // Stores elsewhere, and then the half of it here.
    let script = format!(
        "{} --config {} --cluster main \"$5\"\nfrom=$(find {here} -name \"$(basename \"$5\")\")\nto={there}${{from#{here}}}\n\
         mkdir -p \"$(dirname \"$to\")\"\nhead -c 600 \"$from\" > {there}/.tmp/half\nmv {there}/.tmp/half \"$to\"\n",
        run::program("walpush").display(),
        other.config().display(),
        here = other.root().display(),
        there = live.archive.root().display()
    );
    alter(&live.server, "archive_command", &instead(&live.archive, &script));
    let report = check(&live.archive, 3);
    let found = shows(&report, "archiving into first", "failed", "as the server does");
    assert!(live::text(found, "detail").contains("walfetch: error:"), "{found:#}");
}

/// An archive_command whose walpush is this script.
fn instead(archive: &Archive, script: &str) -> String {
    let script = archive.scratch().write("walpush", format!("#!/bin/sh\nset -e\n{script}"));
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("make it a program");
    archive.archive_command().replace(&repo::quoted(&run::program("walpush")), &repo::quoted(&script))
}

#[test]
fn a_spool_that_cannot_be_used_or_is_too_small_is_a_warning() {
    let Some(tmpfs) = Tmpfs::mount("20m") else {
        return;
    };
    let live = healthy();
    let mut archive = live.archive;
    archive.set_wal("fetch_ahead = 64");
    let mut with_spool = |path: &Path| {
        archive.set_wal(&format!("spool = {:?}", path.display().to_string()));
        archive.write_config();
        check(&archive, 0)
    };
    let report = with_spool(tmpfs.path());
    let found = shows(&report, "spool", "warning", "too little space");
    assert!(live::text(found, "hint").contains("fetch_ahead"), "{found:#}");
    let report = with_spool(Path::new("/proc/spool"));
    let found = shows(&report, "spool", "warning", "cannot be used");
    assert!(live::text(found, "hint").contains("install -d"), "{found:#}");
}

/// The archiver fails at an earlier file, and a push ahead has stored the fresh segment.
#[test]
fn a_segment_that_arrives_past_a_failing_file_does_not_pass_for_archived() {
    let live = healthy();
    live.server.psql("create table t ()");
    let refused = live.server.psql("select pg_walfile_name(pg_current_wal_lsn())");
    let script = format!(
        "case $5 in *{refused})\n\
         for ready in pg_wal/archive_status/*.ready; do\n\
         file=pg_wal/$(basename $ready .ready)\n\
         [ $file = $5 ] || {push} $file\n\
         done\n\
         exit 1;;\n\
         esac\n\
         exec {push} $5\n",
        push = format_args!(
            "{} --config {} --cluster main",
            run::program("walpush").display(),
            live.archive.config().display()
        )
    );
    alter(&live.server, "archive_command", &instead(&live.archive, &script));
    live.server.switch_wal();
    let report = check(&live.archive, 3);
    shows(&report, "archiving into first", "ok", "arrived");
    let found = shows(&report, "archiver", "failed", &refused);
    assert!(live::text(found, "detail").contains("archive_command has failed"), "{found:#}");
    assert!(live::text(found, "hint").contains("walpush: error:"), "{found:#}");
    // The same archive, when the file is archived at last.
    alter(&live.server, "archive_command", &live.archive.archive_command());
    live.server.switch_wal();
    live.server.await_archived(&refused);
    let report = check(&live.archive, 0);
    shows(&report, "archiver", "ok", "no older file waits");
}

#[test]
fn a_walpush_that_is_missing_or_not_executable_is_named_by_its_path() {
    let live = healthy();
    let place = live.archive.scratch().mkdir("bin");
    let program = place.join("walpush");
    let command = live.archive.archive_command();
    let usual = repo::quoted(&run::program("walpush"));
    alter(&live.server, "archive_command", &command.replace(&usual, &repo::quoted(&program)));
    let report = check(&live.archive, 3);
    shows(&report, "settings", "failed", &format!("{} does not exist", program.display()));
    std::fs::copy(run::program("walpush"), &program).expect("copy walpush");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o644)).expect("take the permission");
    let report = check(&live.archive, 3);
    shows(&report, "settings", "failed", &format!("{} is not executable", program.display()));
    assert!(!report.to_string().contains("archiving into first"), "{report:#}");
    alter(&live.server, "archive_command", &command.replace(&usual, "walpush-of-nobody"));
    shows(&check(&live.archive, 3), "settings", "failed", "walpush-of-nobody does not exist");
}

/// What is an operator outside of quotes is a character of a name inside.
#[test]
fn a_path_with_signs_of_the_shell_is_accepted_when_it_is_quoted() {
    let live = healthy();
    let place = live.archive.scratch().mkdir(r"a & b; c\d | 'e' (f)");
    std::os::unix::fs::symlink(run::program("walpush"), place.join("walpush")).expect("a link");
    let usual = repo::quoted(&run::program("walpush"));
    let single = repo::quoted(&place.join("walpush"));
    let escaped: String =
        place.join("walpush").display().to_string().chars().fold(String::new(), |text, char| {
            if char.is_ascii_alphanumeric() || "/.-_".contains(char) {
                text + &char.to_string()
            } else {
                format!("{text}\\{char}")
            }
        });
    for program in [single, escaped] {
        let command = live.archive.archive_command().replace(&usual, &program) + " 2>&1";
        live.server.psql(&format!("alter system set archive_command = '{}'", command.replace('\'', "''")));
        live.server.psql("select pg_reload_conf()");
        live.server.await_sql(
            "select pending_restart or setting like '%2>&1' from pg_settings where name = 'archive_command'",
            "t",
        );
        let report = check(&live.archive, 0);
        shows(&report, "archiver", "ok", "no older file waits");
        live.backup();
    }
}

//! A dead branch that is retired, and the retirement undone.

use super::*;

#[test]
fn a_retired_branch_is_followed_only_by_its_number_and_the_number_stays_taken() {
    let accident = Accident::happens();
    accident.ends();
    accident.goes_on();
    let Accident { live, .. } = &accident;
    let archive = &live.archive;
    let expected = rows(&live.server);
    let history = "00000002.history";

    // A standby would follow the dead branch.
    let to = archive.scratch().join("standby");
    let refused = restoring(archive, &to, &["--standby", "--dry-run"]).go().is(1).told();
    refused.says("walkeep timelines --retire 2");
    archive.walkeep(&["timelines", "--retire", "1"]).is(1).told().says("timeline 1 is alive");
    archive.walkeep(&["timelines", "--retire", "7"]).is(1).told();
    archive.walkeep(&["timelines", "--retire", "2"]).ok();
    archive.walkeep(&["timelines", "--retire", "2"]).ok();
    assert_eq!(shown(archive, 2)["retired"], true);
    assert!(checks(archive, 0, "timelines").is_empty(), "it was dealt with");
    archive.fetch_ends(history);
    for verb in [&["list"][..], &["verify"], &["check"]] {
        archive.walkeep(verb).ok();
    }

    // PostgreSQL's own `latest`: a standby that streams, and is promoted later.
    let standby = live.restore(&["--standby"]).server();
    standby.set("primary_conninfo", &live.server.connection().replace(" dbname=postgres", ""));
    standby.set("wal_retrieve_retry_interval", "200ms");
    standby.start();
    add(&live.server, 1);
    standby.await_sql("select count(*) from t", &(expected + 1).to_string());
    standby.await_sql("select count(*) from pg_stat_wal_receiver", "1");
    live.server.stop(Stop::Fast);
    standby.promote();
    assert_eq!(own_timeline(standby.data()), 3, "{}", standby.log_text());
    standby.stop(Stop::Fast);

    // A restored server does not take the number either, and archives.
    let restored = live.restore(&["--as-primary"]);
    let conf = std::fs::read_to_string(restored.data.join("postgresql.auto.conf")).expect("settings");
    assert!(conf.contains("recovery_target_timeline = '1'") && conf.contains("--retired"), "{conf}");
    let server = restored.recovered();
    assert_eq!(rows(&server), expected + 1);
    assert_eq!(own_timeline(server.data()), 3);
    add(&server, 1);
    flush(&server);
    archive.object("00000003.history");
    server.stop(Stop::Fast);
    // The history of a higher timeline that is not retired could not be found without it.
    archive.fetched(history);
    assert_eq!(plan(archive, &[])["timeline"], 3);

    // By its number, and after the retirement is undone.
    let copy = live.restore(&["--timeline", "2"]).recovered();
    assert_eq!(rows(&copy), 22);
    archive.walkeep(&["timelines", "--unretire", "2"]).ok();
    assert_eq!(shown(archive, 2)["retired"], false);
    archive.fetched(history);
}

#[test]
fn a_mark_is_in_every_repository_or_the_command_says_in_which_it_is_not() {
    let (live, roots) = Live::with_two(|_| {});
    let archive = &live.archive;
    live.server.psql("create table t (i serial primary key)");
    live.backup();
    let history = b"1\t0/9000000\tno recovery target\n";
    let file = archive.scratch().join("00000002.history");
    std::fs::write(&file, history).expect("write a history");
    archive.push(&file).ok();
    live.flush_wal();
    let marks = || {
        let all = roots.iter().map(|root| repo::files(&root.join("main")));
        let is_mark = |path: &std::path::PathBuf| path.ends_with("wal/history/00000002.retired");
        all.map(|files| files.iter().filter(|path| is_mark(path)).count()).collect::<Vec<_>>()
    };
    let away = archive.scratch().join("away");
    std::fs::rename(roots[1].join("main"), &away).expect("move a repository away");
    archive.walkeep(&["timelines", "--retire", "2"]).is(1).told().says("second");
    assert_eq!(marks(), [1, 0]);
    // The second repository would still hand it over: the command is to be repeated, or synced.
    std::fs::rename(&away, roots[1].join("main")).expect("bring it back");
    archive.fetched("00000002.history");
    archive.walkeep(&["sync", "--from", "first", "--to", "second"]).ok();
    assert_eq!(marks(), [1, 1]);
    archive.fetch_ends("00000002.history");
    archive.walkeep(&["timelines", "--unretire", "2"]).ok();
    assert_eq!(marks(), [0, 0]);
    archive.fetched("00000002.history");
}

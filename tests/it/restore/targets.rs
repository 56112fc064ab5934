//! Every target, and the backup that is chosen for it.

use super::*;

#[test]
fn restoring_without_a_target_gives_everything_that_was_archived() {
    let story = Story::get();
    let archive = story.archive();
    let restored = restore(&archive, &[]).verified();
    assert!(restored.data.join("backup_label").exists());
    assert!(restored.data.join("recovery.signal").exists());
    let server = restored.recovered();
    assert_eq!(rows(&server), ALL);
    server.psql("insert into t select from generate_series(1, 10)");
    server.psql("create extension amcheck");
    let check = "select bt_index_check(indexrelid, true) from pg_index join pg_class on oid = indexrelid \
                 where relam = 403 and relpersistence = 'p'";
    server.psql(check);
    let wrong = "select count(*) from pg_class, lateral verify_heapam(oid) where relkind in ('r', 't')";
    assert_eq!(server.psql(wrong), "0");
    // What recovery was told does not come back at the next start.
    server.stop(Stop::Fast);
    server.start();
    assert_eq!(rows(&server), "6010");
}

#[test]
fn each_moment_of_a_time_target_shows_the_rows_of_that_moment() {
    let story = Story::get();
    let archive = story.archive();
    for mark in &story.marks {
        let restored = restore(&archive, &["--time", &mark.time]);
        let id = if mark.rows > 4000 { &story.b } else { &story.a };
        assert!(restored.outcome.stderr.contains(id.as_str()), "{}", restored.outcome);
        let server = restored.recovered();
        assert_eq!(rows(&server), mark.rows.to_string(), "{mark:?}");
    }
}

#[test]
fn a_time_without_offset_is_read_in_the_time_zone_of_the_server() {
    let story = Story::get();
    let archive = story.archive();
    let mark = &story.marks[0];
    let utc = mark.time.trim_end_matches("+00").replace(' ', "T") + "Z";
    let date = |zone: &str| {
        let run = Run::new("date").args(["-d", &utc, "+%Y-%m-%d %H:%M:%S.%N"]).env("TZ", zone);
        run.go().ok().stdout.trim()[..26].to_owned()
    };
    let naive = date("America/New_York");
    assert_ne!(naive, date("UTC"));
    // Wherever the administrator sits.
    let to = Scratch::new();
    let run = restoring(&archive, &to.join("x"), &["--time", &naive, "--dry-run", "--json"]);
    let plan = live::json(&run.env("TZ", "Asia/Tokyo").go().ok());
    assert_eq!(plan["target"]["time"].as_str(), Some(utc.as_str()), "{plan}");
    let server = restore(&archive, &["--time", &naive]).recovered();
    assert_eq!(rows(&server), "2000");
}

#[test]
fn a_time_that_may_mean_two_moments_is_refused_with_both() {
    let story = Story::get();
    let archive = story.archive();
    let to = Scratch::new();
    let run = restoring(&archive, &to.join("x"), &["--time", "2026-11-01 01:30:00"]);
    let outcome = run.go().is(2).told();
    for reading in ["-04", "-05", "hint:"] {
        assert!(outcome.stderr.contains(reading), "no {reading}\n{outcome}");
    }
    restoring(&archive, &to.join("x"), &["--time", "2026-03-08 02:30:00"]).go().is(2).told();
    restoring(&archive, &to.join("x"), &["--time", "yesterday"]).go().is(2).told().says("hint:");
    assert!(!to.join("x").exists());
}

#[test]
fn a_time_with_the_name_of_a_zone_is_read_there() {
    let story = Story::get();
    let archive = story.archive();
    let utc = story.marks[0].time.trim_end_matches("+00").replace(' ', "T") + "Z";
    let date = |format: &str| {
        Run::new("date").args(["-d", &utc, format]).env("TZ", "Asia/Tokyo").go().ok().stdout.trim().to_owned()
    };
    let naive = date("+%Y-%m-%d %H:%M:%S.%N")[..26].to_owned();
    let to = Scratch::new();
    for text in [
        format!("{naive} Asia/Tokyo"),
        format!("{naive}[Asia/Tokyo]"),
        format!("{naive}+09 Asia/Tokyo"),
        format!("{naive} +09:00[Asia/Tokyo]"),
        format!("{utc}[Asia/Tokyo]"),
        format!("{} Etc/UTC", utc.trim_end_matches('Z')),
    ] {
        let run = restoring(&archive, &to.join("x"), &["--time", &text, "--dry-run", "--json"]);
        let plan = live::json(&run.go().ok());
        assert_eq!(plan["target"]["time"].as_str(), Some(utc.as_str()), "{text}: {plan}");
    }
    for (text, reason) in [
        (format!("{naive}+05[Asia/Tokyo]"), "contradicts itself"),
        (format!("{naive}+00 Asia/Tokyo"), "contradicts itself"),
        (format!("{naive} Mars/Olympus"), "unknown time zone"),
        (format!("{naive}[Asia/Tokyo] Europe/Paris"), "two time zones"),
        (format!("{naive} CET"), "hint:"),
        // The clocks were set forward, and back.
        ("2026-03-29 02:30 Europe/Paris".to_owned(), "does not exist"),
        ("2026-10-25 02:30 Europe/Paris".to_owned(), "+02"),
    ] {
        let outcome = restoring(&archive, &to.join("x"), &["--time", &text]).go().is(2).told();
        assert!(outcome.stderr.contains(reason), "{text}: {outcome}");
    }
    assert!(!to.join("x").exists());
}

/// A server whose edges are tested: each commit adds a row, and nothing else commits.
struct Edge {
    live: Live,
    to: Scratch,
}

impl Edge {
    /// A backup with one row.
    fn new() -> (Edge, String) {
        let live = Live::with(Cluster::build().wal_segsize(1), |server| {
            server.set("track_commit_timestamp", "on");
            server.set("autovacuum", "off");
        });
        live.server.psql("create table t (i serial primary key)");
        live.server.psql("insert into t default values");
        let stop = live::text(&live.backup(), "id");
        let record = live::content(&live::record_of(live.archive.root(), &stop));
        let record: serde_json::Value = serde_json::from_str(&record).expect("a record");
        let stop = live::text(&record, "stop_time");
        let edge = Edge { live, to: Scratch::new() };
        let stop = edge.shifted(&stop, 0);
        (edge, stop)
    }

    /// A time some microseconds later.
    fn shifted(&self, time: &str, microseconds: i32) -> String {
        self.utc(&format!("'{time}'::timestamptz + {microseconds} * interval '1 microsecond'"))
    }

    fn utc(&self, time: &str) -> String {
        let format = "'YYYY-MM-DD HH24:MI:SS.US'";
        self.live.server.psql(&format!("select to_char(({time}) at time zone 'UTC', {format}) || '+00'"))
    }

    /// Commits one more row. Returns the time of the commit.
    fn commit(&self) -> String {
        let add = "begin; insert into t default values; select pg_current_xact_id(); commit";
        let xid = self.live.server.psql(add);
        self.utc(&format!("pg_xact_commit_timestamp('{xid}'::xid)"))
    }

    /// The plan of a restore that is accepted.
    #[track_caller]
    fn plan(&self, arguments: &[&str]) -> serde_json::Value {
        let run = restoring(&self.live.archive, &self.to.join("x"), arguments);
        live::json(&run.args(["--dry-run", "--json"]).go().ok())
    }

    /// Restores, recovers and compares the rows. The dry run accepts the same, with this target of
    /// the server.
    #[track_caller]
    fn gives(&self, arguments: &[&str], stop: &str, expected: &str) {
        let plan = self.plan(arguments);
        assert_eq!(plan["stop"]["type"], stop, "{arguments:?}: {plan:#}");
        let restored = self.live.restore(arguments);
        let said = restored.outcome.stderr.contains("recovery ends with the last of them");
        assert_eq!(said, plan["stop"] != plan["target"], "{}", restored.outcome);
        let server = restored.recovered();
        assert_eq!(rows(&server), expected, "{arguments:?}\n{}", server.log_text());
    }

    /// Both the restore and the dry run refuse, with these words.
    #[track_caller]
    fn refuses(&self, arguments: &[&str], words: &[&str]) -> String {
        let run = restoring(&self.live.archive, &self.to.join("x"), arguments);
        let real = run.go().is(1).told().says("hint:");
        let run = restoring(&self.live.archive, &self.to.join("x"), arguments);
        let dry = run.arg("--dry-run").go().is(1).told();
        for words in words {
            assert!(real.stderr.contains(words), "no {words}\n{real}");
            assert!(dry.stderr.contains(words), "no {words}\n{dry}");
        }
        assert!(!self.to.join("x").exists());
        real.stderr
    }

    /// Both ends of the window that `list` prints.
    fn window(&self) -> [String; 2] {
        let list = live::json(&self.live.archive.walkeep(&["list", "--json"]).ok());
        let window = &list["repositories"][0]["window"];
        ["from", "to"].map(|bound| self.shifted(&live::text(window, bound), 0))
    }
}

#[test]
fn the_end_of_a_backup_without_a_later_transaction_is_a_target() {
    let (edge, stop) = Edge::new();
    assert_eq!(edge.window(), [stop.clone(), stop.clone()]);
    edge.gives(&["--time", &stop], "lsn", "1");
    let after = edge.shifted(&stop, 1);
    edge.gives(&["--time", &after, "--exclusive"], "lsn", "1");
    edge.refuses(&["--time", &stop, "--exclusive"], &["the target before", "lies before the end of backup"]);
    edge.refuses(&["--time", &edge.shifted(&stop, -1)], &["lies before the end of backup"]);
    edge.refuses(&["--time", &after], &["no transaction ended in the archived WAL since backup"]);
}

#[test]
fn the_stop_time_of_a_backup_chooses_this_backup_and_exclusive_the_one_before() {
    let story = Story::get();
    let archive = story.archive();
    let record = live::content(&live::record_of(archive.root(), &story.b));
    let record: serde_json::Value = serde_json::from_str(&record).expect("a record");
    let stop = live::text(&record, "stop_time");
    let to = Scratch::new();
    for (exclusive, id) in [(None, &story.b), (Some("--exclusive"), &story.a)] {
        let run = restoring(&archive, &to.join("x"), &["--time", &stop, "--dry-run", "--json"]);
        let plan = live::json(&run.args(exclusive).go().ok());
        assert_eq!(live::text(&plan, "backup"), *id, "{plan}");
    }
}

#[test]
fn both_ends_of_the_window_are_targets() {
    let (edge, stop) = Edge::new();
    let first = edge.commit();
    let last = edge.commit();
    edge.live.flush_wal();
    let before = edge.shifted(&last, -1);
    assert_eq!(edge.window(), [stop.clone(), before.clone()]);
    edge.gives(&["--time", &stop], "time", "1");
    edge.gives(&["--time", &edge.shifted(&stop, 1), "--exclusive"], "time", "1");
    edge.gives(&["--time", &first], "time", "2");
    edge.gives(&["--time", &first, "--exclusive"], "time", "1");
    edge.gives(&["--time", &before], "time", "2");
    edge.gives(&["--time", &last, "--exclusive"], "time", "2");
    let shown = last.trim_end_matches("+00").trim_end_matches('0').replace(' ', "T");
    edge.refuses(&["--time", &last], &["is the time of the last transaction", &shown, "--exclusive"]);
    let after = edge.shifted(&last, 1);
    for arguments in [vec!["--time", &after], vec!["--time", &after, "--exclusive"]] {
        edge.refuses(&arguments, &["lies behind the last transaction", &shown]);
    }
}

#[test]
fn an_lsn_that_pg_switch_wal_prints_is_the_end_of_the_archive() {
    let (edge, _) = Edge::new();
    edge.commit();
    let server = &edge.live.server;
    let name = server.psql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    let switched = server.psql("select pg_switch_wal()");
    server.await_archived(&name);
    let shift = |lsn: &str, bytes: i32| server.psql(&format!("select '{lsn}'::pg_lsn + ({bytes})"));
    // What pg_current_wal_lsn() and pg_current_wal_insert_lsn() print then.
    let next = server.psql(&format!(
        "select '0/0'::pg_lsn + ((('{switched}'::pg_lsn - '0/0'::pg_lsn)::bigint / 1048576 + 1) * 1048576)"
    ));
    let last = live::text(&edge.plan(&[])["reaches"], "lsn");
    assert_ne!(last, switched);
    for exclusive in [false, true] {
        for lsn in [&shift(&last, 1), &switched, &shift(&switched, 1), &next, &shift(&next, 40)] {
            let arguments = [vec!["--lsn", lsn], exclusive.then_some("--exclusive").into_iter().collect()];
            let plan = edge.plan(&arguments.concat());
            assert_eq!(plan["stop"], serde_json::json!({"type": "lsn", "lsn": last}), "{lsn}");
            if [&switched, &next].contains(&lsn) {
                edge.gives(&arguments.concat(), "lsn", "2");
            }
        }
    }
    edge.gives(&["--lsn", &last], "lsn", "2");
    edge.gives(&["--lsn", &last, "--exclusive"], "lsn", "2");
    for arguments in
        [vec!["--lsn", "7/0"], vec!["--lsn", &shift(&next, 41)], vec!["--lsn", "7/0", "--exclusive"]]
    {
        let told = edge.refuses(&arguments, &["the archive ends with", &last, "pg_switch_wal()"]);
        assert!(!told.contains("gap") && !told.contains("missing"), "{told}");
    }
}

#[test]
fn a_time_in_front_of_a_gap_is_a_target() {
    let (edge, stop) = Edge::new();
    let first = edge.commit();
    edge.live.flush_wal();
    let last = edge.commit();
    edge.live.flush_wal();
    edge.commit();
    let missing = edge.live.flush_wal();
    edge.commit();
    edge.live.flush_wal();
    repo::damage(&edge.live.archive.object(&missing), repo::Damage::Remove);
    edge.gives(&["--time", &stop], "time", "1");
    edge.gives(&["--time", &first], "time", "2");
    edge.gives(&["--time", &last, "--exclusive"], "time", "2");
    let told =
        edge.refuses(&["--time", &last], &[&missing, "the last transaction ended at", "behind the gap"]);
    let (_, lsn) = told.split_once("--lsn ").expect("the last position");
    let (lsn, _) = lsn.split_once(' ').expect("words behind it");
    edge.gives(&["--lsn", lsn], "lsn", "3");
}

#[test]
fn an_lsn_target_stops_there() {
    let story = Story::get();
    let archive = story.archive();
    let mark = &story.marks[1];
    let server = restore(&archive, &["--lsn", &mark.lsn]).recovered();
    assert_eq!(rows(&server), "3000");
}

#[test]
fn a_transaction_is_there_or_left_out_as_asked() {
    let story = Story::get();
    let archive = story.archive();
    for (exclusive, expected) in [(false, "3000"), (true, "2000")] {
        let mut arguments = vec![story.a.as_str(), "--xid", &story.xid];
        arguments.extend(exclusive.then_some("--exclusive"));
        let server = restore(&archive, &arguments).recovered();
        assert_eq!(rows(&server), expected, "exclusive: {exclusive}");
    }
    // The backup is found too.
    let server = restore(&archive, &["--xid", &story.xid]).recovered();
    assert_eq!(rows(&server), "3000");
}

#[test]
fn a_restore_point_is_reached_and_its_backup_found() {
    let story = Story::get();
    let archive = story.archive();
    let server = restore(&archive, &[&story.a, "--name", story.point]).recovered();
    assert_eq!(rows(&server), "3000");
    let restored = restore(&archive, &["--name", story.point]);
    assert!(restored.outcome.stderr.contains(&story.a), "{}", restored.outcome);
    assert_eq!(rows(&restored.recovered()), "3000");
}

#[test]
fn a_restore_point_or_transaction_that_the_wal_does_not_have_is_refused_with_those_it_has() {
    let story = Story::get();
    let archive = story.archive();
    let to = Scratch::new();
    let cases: [(&[&str], &str); 5] = [
        (&[&story.a, "--name", "misspelt"], story.point),
        (&["--name", "misspelt"], story.point),
        (&[&story.a, "--xid", "4000000000"], "subtransaction"),
        (&["--xid", "4000000000"], "subtransaction"),
        // It lies before this backup.
        (&[&story.b, "--name", story.point], "older backup"),
    ];
    for (arguments, says) in cases {
        for dry_run in [false, true] {
            let run = restoring(&archive, &to.join("x"), arguments);
            let run = if dry_run { run.arg("--dry-run") } else { run };
            let outcome = run.go().is(1).told();
            assert!(outcome.stderr.contains("hint:") && outcome.stderr.contains(says), "{outcome}");
            assert!(!to.join("x").exists());
        }
    }
}

#[test]
fn immediate_stops_where_the_backup_is_consistent() {
    let story = Story::get();
    let archive = story.archive();
    let server = restore(&archive, &[&story.b, "--immediate"]).recovered();
    assert_eq!(rows(&server), "4000");
    let server = restore(&archive, &[&story.a, "--immediate"]).recovered();
    assert_eq!(rows(&server), "1000");
}

#[test]
fn pausing_at_the_target_shows_it_read_only_until_resumed() {
    let story = Story::get();
    let archive = story.archive();
    let restored = restore(&archive, &["--time", &story.marks[0].time, "--action", "pause"]);
    let server = restored.server();
    server.start();
    server.await_sql("select count(*) from t", "2000");
    server.await_sql("select pg_get_wal_replay_pause_state()", "paused");
    assert_eq!(server.psql("select pg_is_in_recovery()"), "t");
    assert_ne!(server.try_psql("create table x (i int)").code(), Some(0));
    server.psql("select pg_wal_replay_resume()");
    server.await_sql("select pg_is_in_recovery()", "f");
    assert_eq!(rows(&server), "2000");
}

#[test]
fn shutting_down_at_the_target_leaves_a_stopped_server() {
    let story = Story::get();
    let archive = story.archive();
    let restored = restore(&archive, &["--time", &story.marks[0].time, "--action", "shutdown"]);
    let server = restored.server();
    server.try_start();
    until("the server is down", || !server.is_up());
    let log = server.log_text();
    assert!(log.contains("recovery stopping before commit"), "{log}");
}

#[test]
fn a_standby_follows_the_archive() {
    let live = Live::new();
    live.server.psql("create table t (i serial primary key)");
    live.server.psql("insert into t select from generate_series(1, 1000)");
    live.backup();
    let restored = live.restore(&["--standby"]);
    assert!(restored.data.join("standby.signal").exists());
    assert!(!restored.data.join("recovery.signal").exists());
    let standby = restored.server();
    standby.set("wal_retrieve_retry_interval", "200ms");
    standby.start();
    live.server.psql("insert into t select from generate_series(1, 1000)");
    live.flush_wal();
    standby.await_sql("select count(*) from t", "2000");
    assert_eq!(standby.psql("select pg_is_in_recovery()"), "t");
}

#[test]
fn after_a_promotion_each_timeline_can_be_chosen() {
    let live = Live::new();
    let server = &live.server;
    server.psql("create table t (i serial primary key)");
    let add = "insert into t select from generate_series(1, 1000)";
    server.psql(add);
    let first = live.backup_id();
    server.psql(add);
    let fork = server.psql("select pg_current_wal_insert_lsn()");
    server.psql("insert into t select from generate_series(1, 500)");
    live.flush_wal();
    server.stop(Stop::Fast);

    // The new primary goes on from the fork, into the same archive.
    let restored = live.restore(&["--lsn", &fork, "--as-primary"]);
    let primary = restored.recovered();
    assert_eq!(rows(&primary), "2000");
    assert_eq!(primary.psql("show archive_mode"), "on");
    primary.psql("insert into t select from generate_series(1, 3000)");
    primary.psql("select pg_create_restore_point('flush')");
    let name = primary.switch_wal();
    assert!(name.starts_with("00000002"), "{name}");
    primary.await_archived(&name);
    primary.stop(Stop::Fast);

    for (timeline, expected) in [
        (None, "5000"),
        (Some("latest"), "5000"),
        (Some("2"), "5000"),
        (Some("1"), "2500"),
        (Some("current"), "2500"),
    ] {
        let mut arguments = vec![first.as_str()];
        arguments.extend(timeline.iter().flat_map(|timeline| ["--timeline", timeline]));
        let copy = live.restore(&arguments).recovered();
        assert_eq!(rows(&copy), expected, "{timeline:?}");
    }
    let to = Scratch::new();
    let run = restoring(&live.archive, &to.join("x"), &["--timeline", "7"]);
    run.go().is(1).told().says("hint:");
    restoring(&live.archive, &to.join("x"), &["--timeline", "soon"]).go().is(2);
    assert!(!to.join("x").exists());
}

#[test]
fn a_dry_run_tells_the_plan_and_writes_nothing() {
    let story = Story::get();
    let archive = story.archive();
    let before = archive.snapshot();
    let to = Scratch::new();
    let run = restoring(&archive, &to.join("x"), &["--time", &story.marks[0].time, "--dry-run", "--json"]);
    let plan = live::json(&run.go().ok());
    assert_eq!(live::text(&plan, "backup"), story.a);
    assert_eq!(plan["target"]["type"], "time");
    for name in ["first", "last"] {
        assert_eq!(live::text(&plan["wal"], name).len(), 24);
    }
    assert!(plan["wal"]["segments"].as_u64().is_some_and(|n| n > 1), "{plan}");
    assert_eq!(plan["gaps"], serde_json::json!([]));
    assert!(plan["bytes"].as_u64().is_some_and(|n| n > 1_000_000), "{plan}");
    assert!(plan.get("estimate").is_some(), "{plan}");
    assert!(!to.join("x").exists());
    assert_eq!(archive.snapshot(), before);
}

//! The judgement, on facts that were made up.

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;
use walkeep::observe::{
    ArchiveQueue, ArchiverStats, Disk, Facts, Finding, Health, LastDrill, Light, Limits, ObservedBackup,
    ObservedServer, Rates, Ready, RepositoryFacts, RepositoryStock, Trouble,
};
use walkeep::pg::lsn::Lsn;
use walkeep::pg::segment::TimelineId;
use walkeep::repo::branches::ServerTimeline;
use walkeep::repo::window::Window;

const HOUR: i64 = 3600;

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().expect("a time")
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn limits() -> Limits {
    Limits {
        backup_age: Duration::from_secs(26 * 3600),
        drill_age: None,
        ready: 64,
        ready_age: Duration::from_secs(600),
        time_to_full: Duration::from_secs(12 * 3600),
    }
}

fn backup(ended: Timestamp) -> ObservedBackup {
    ObservedBackup {
        id: "a".into(),
        ended,
        since: Some(ended),
        leads: true,
        size: 1 << 30,
        stored: 1 << 28,
        is_complete: true,
        is_found_bad: false,
    }
}

fn stock() -> RepositoryStock {
    let newest = "00000001000000000000000A".parse().expect("a segment");
    let window = Window {
        timeline: TimelineId(1),
        from_lsn: Lsn(2 << 20),
        to_lsn: Lsn(11 << 20),
        from: ago(9 * HOUR),
        to: ago(60),
    };
    RepositoryStock {
        backups: vec![backup(ago(9 * HOUR))],
        window: Some(window.clone()),
        windows: vec![window],
        newest: Some((newest, ago(60))),
        behind: Some(0),
        ..RepositoryStock::default()
    }
}

/// All is well.
fn good() -> Facts {
    let last_archived = Some(("00000001000000000000000A".to_owned(), ago(60)));
    Facts {
        cluster: "main".into(),
        now: now(),
        is_running: true,
        timeline: ServerTimeline::Unknown,
        server: Ok(ObservedServer {
            version: "15.4".into(),
            archives: true,
            archiver: ArchiverStats {
                archived: 10,
                last_archived,
                failed: 3,
                last_failed: Some(("x".into(), ago(HOUR))),
            },
            ..ObservedServer::default()
        }),
        queue: Ok(ArchiveQueue::default()),
        disk: Ok(Disk { size: 100 << 30, free: 36 << 30 }),
        repositories: vec![RepositoryFacts {
            name: "local".into(),
            url: "file:///r".into(),
            is_required: true,
            stock: Ok(stock()),
        }],
    }
}

/// What a change of the facts does to the check of this name.
#[track_caller]
fn judged(name: &str, change: impl FnOnce(&mut Facts)) -> Finding {
    judged_by(name, &limits(), change)
}

#[track_caller]
fn judged_by(name: &str, limits: &Limits, change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = good();
    change(&mut facts);
    let health = Health::of(facts, limits);
    let found = health.findings.iter().find(|finding| finding.name == name);
    let found = found.unwrap_or_else(|| panic!("no {name} in {:#?}", health.findings)).clone();
    assert!(health.light() >= found.light);
    if found.light > Light::Green {
        assert!(found.hint.is_some() || name == "server" || name == "repository", "no hint: {found:?}");
    }
    found
}

fn light(name: &str, change: impl FnOnce(&mut Facts)) -> Light {
    judged(name, change).light
}

fn with_stock(change: impl FnOnce(&mut RepositoryStock)) -> impl FnOnce(&mut Facts) {
    |facts| change(facts.repositories[0].stock.as_mut().expect("a stock"))
}

fn with_server(change: impl FnOnce(&mut ObservedServer)) -> impl FnOnce(&mut Facts) {
    |facts| change(facts.server.as_mut().expect("a server"))
}

fn waiting(files: u64, seconds: i64, rates: Option<Rates>) -> impl FnOnce(&mut Facts) {
    move |facts| {
        let oldest = Some(Ready { name: "00000001000000000000000B".into(), since: ago(seconds) });
        facts.queue = Ok(ArchiveQueue { ready: files, bytes: files << 24, oldest, rates });
    }
}

#[test]
fn everything_as_it_should_be_is_green() {
    let health = Health::of(good(), &limits());
    assert_eq!(health.light(), Light::Green, "{:#?}", health.findings);
    let names: Vec<&str> = health.findings.iter().map(|finding| finding.name).collect();
    assert_eq!(names, ["server", "archiving", "backlog", "disk", "repository", "backup", "wal", "gaps"]);
}

#[test]
fn the_age_of_the_last_good_backup_is_judged_and_bad_ones_do_not_count() {
    for (hours, expected) in [(26, Light::Green), (27, Light::Yellow), (52, Light::Yellow), (53, Light::Red)]
    {
        let age = with_stock(move |stock| stock.backups = vec![backup(ago(hours * HOUR))]);
        assert_eq!(light("backup", age), expected, "{hours} hours");
    }
    assert_eq!(light("backup", with_stock(|stock| stock.backups.clear())), Light::Red);
    let newer = |is_complete, is_found_bad| {
        with_stock(move |stock| {
            stock.backups = vec![
                backup(ago(30 * HOUR)),
                ObservedBackup { is_complete, is_found_bad, ..backup(ago(HOUR)) },
            ];
        })
    };
    assert_eq!(light("backup", newer(true, false)), Light::Green);
    for (is_complete, is_found_bad) in [(false, false), (true, true)] {
        assert_eq!(light("backup", newer(is_complete, is_found_bad)), Light::Yellow);
        assert_eq!(light("damage", newer(is_complete, is_found_bad)), Light::Red);
    }
    assert_eq!(light("damage", with_stock(|stock| stock.unreadable = vec!["b".into()])), Light::Red);
}

#[test]
fn archiving_that_fails_now_is_red_and_what_failed_once_is_not() {
    let failed = |at| with_server(move |server| server.archiver.last_failed = Some(("0B".into(), at)));
    assert_eq!(light("archiving", failed(ago(61))), Light::Green);
    let found = judged("archiving", failed(ago(59)));
    assert_eq!(found.light, Light::Red);
    assert!(found.detail.contains("0B") && found.detail.contains("2026-11-21 11:59:01Z"), "{found:?}");
    assert_eq!(light("archiving", with_server(|server| server.archives = false)), Light::Red);
    let mut standby = good();
    with_server(|server| (server.in_recovery, server.archives) = (true, false))(&mut standby);
    assert_eq!(Health::of(standby, &limits()).light(), Light::Green);
}

#[test]
fn a_backlog_is_judged_by_its_length_and_by_its_age() {
    for (files, seconds, expected) in [
        (64, 600, Light::Green),
        (65, 1, Light::Yellow),
        (129, 1, Light::Red),
        (1, 601, Light::Yellow),
        (1, 1201, Light::Red),
    ] {
        assert_eq!(light("backlog", waiting(files, seconds, None)), expected, "{files} for {seconds} s");
    }
    assert_eq!(
        light("backlog", |facts| facts.queue = Err(Trouble { hint: Some("h".into()), ..Trouble::new("w") })),
        Light::Yellow
    );
}

#[test]
fn the_time_until_the_disk_is_full_is_what_is_written_faster_than_archived() {
    let rates =
        |written: f64, archived: f64| Some(Rates { written, archived, over: Duration::from_secs(3600) });
    let gib = f64::from(1 << 30);
    // 36 GiB are free.
    for (written, archived, expected, text) in [
        (3.0, 0.0, Light::Green, "full in 12.0 h"),
        (4.0, 0.0, Light::Yellow, "full in 9.0 h"),
        (9.0, 1.0, Light::Red, "full in 4.5 h"),
        (9.0, 9.0, Light::Green, "does not fill"),
    ] {
        let found = judged("disk", waiting(2, 1, rates(written * gib / 3600.0, archived * gib / 3600.0)));
        assert_eq!(found.light, expected, "{found:?}");
        assert!(found.detail.contains(text), "{found:?}");
    }
    let unknown = judged("disk", waiting(2, 1, None));
    assert!(unknown.detail.contains("is not known"), "{unknown:?}");
    let idle = judged("disk", |facts| facts.queue.as_mut().expect("a queue").rates = rates(gib, 0.0));
    assert!(idle.light == Light::Green && idle.detail.contains("nothing waits"), "{idle:?}");
}

#[test]
fn a_server_that_is_gone_is_red_when_it_should_run_and_of_another_cluster_always() {
    let gone = |facts: &mut Facts| facts.server = Err(Trouble::new("connection refused"));
    assert_eq!(light("server", gone), Light::Red);
    let stopped = |facts: &mut Facts| {
        gone(facts);
        facts.is_running = false;
    };
    assert_eq!(light("server", stopped), Light::Yellow);
    let blind = |facts: &mut Facts| {
        stopped(facts);
        facts.queue = Err(Trouble::new("permission denied"));
    };
    assert_eq!(light("server", blind), Light::Red);
    let other = |server: &mut ObservedServer| {
        (server.system_identifier, server.expected_identifier) = (Some(1), Some(2))
    };
    assert_eq!(light("server", with_server(other)), Light::Red);
}

#[test]
fn a_repository_is_compared_with_the_server_and_an_optional_one_is_never_red() {
    let behind = |segments| with_stock(move |stock| stock.behind = Some(segments));
    assert_eq!(light("wal", behind(64)), Light::Green);
    assert_eq!(light("wal", behind(65)), Light::Yellow);
    assert_eq!(light("wal", behind(129)), Light::Red);
    assert_eq!(light("wal", with_stock(|stock| stock.lacks_archived = Some("0A".into()))), Light::Red);
    let away = |facts: &mut Facts| facts.repositories[0].stock = Err(Trouble::new("no answer"));
    assert_eq!(light("repository", away), Light::Red);
    let optional = |facts: &mut Facts| {
        away(facts);
        facts.repositories[0].is_required = false;
    };
    assert_eq!(light("repository", optional), Light::Yellow);
    let mut without = good();
    optional(&mut without);
    assert_eq!(Health::of(without, &limits()).light(), Light::Yellow);
}

#[test]
fn drills_count_when_they_are_asked_for_and_one_that_refutes_always() {
    let asked = Limits { drill_age: Some(Duration::from_secs(8 * 24 * 3600)), ..limits() };
    assert_eq!(judged_by("drill", &asked, |_| {}).light, Light::Red);
    let drill = |is_refuted, days: Option<i64>| {
        with_stock(move |stock| {
            let last_proved = days.map(|days| ago(days * 24 * HOUR));
            stock.drill = Some(LastDrill { ended: ago(HOUR), outcome: "x".into(), is_refuted, last_proved });
        })
    };
    for (days, expected) in
        [(Some(8), Light::Green), (Some(9), Light::Yellow), (Some(17), Light::Red), (None, Light::Yellow)]
    {
        assert_eq!(judged_by("drill", &asked, drill(false, days)).light, expected, "{days:?}");
    }
    assert_eq!(light("drill", drill(false, Some(100))), Light::Green);
    assert_eq!(light("drill", drill(true, Some(1))), Light::Red);
}

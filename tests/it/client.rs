//! SQL sessions against a real server: ways in, ways to be refused, and how the end of one is
//! noticed.

use crate::support::wait::until;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};
use walkeep::error::{Error, Kind, Result};
use walkeep::pg::client::{Expect, KeepAlive, Session, SessionOptions, column};
use walkeep::pg::conninfo::{ConnInfo, Environment};

mod server;
mod tls;

use server::{BIN, Server, run};

fn environment(home: Option<&Path>) -> Environment<'static> {
    Environment { variable: &|_| None, home: home.map(Into::into), user: Some("nobody".into()) }
}

fn info(text: &str) -> ConnInfo {
    ConnInfo::parse(text, &environment(None)).unwrap()
}

fn connect(text: &str) -> Result<Session> {
    Session::connect(&info(text), &SessionOptions::default())
}

fn refused(text: &str) -> Error {
    connect(text).expect_err(text)
}

fn text(session: &Session, sql: &str) -> String {
    column(&session.query_one(sql, &[], Some(Duration::from_secs(30))).unwrap(), 0).unwrap()
}

fn fails_within(session: &Session, bound: Duration) -> Option<Error> {
    let until = Instant::now() + bound;
    while Instant::now() < until {
        if let Err(error) = session.check() {
            return Some(error);
        }
        sleep(Duration::from_millis(50));
    }
    None
}

#[test]
fn a_session_by_socket_answers_and_leaves_no_transaction_open() {
    let server = Server::start("", "");
    let session = server.boss();
    assert_eq!(session.server_version_num() / 10000, 15);
    assert!(!session.is_encrypted());
    let row = session
        .query_one("SELECT pg_backend_pid(), $1::int8 + 1, $2::text", &[&41_i64, &"o'hara"], None)
        .unwrap();
    assert_eq!(column::<i32>(&row, 0).unwrap(), session.backend_pid());
    assert_eq!(column::<i64>(&row, 1).unwrap(), 42);
    assert_eq!(column::<&str>(&row, 2).unwrap(), "o'hara");
    assert_eq!(column::<i64>(&row, 2).unwrap_err().kind(), Kind::Failed);
    assert_eq!(column::<i64>(&row, 9).unwrap_err().kind(), Kind::Failed);
    assert_eq!(session.query("SELECT FROM generate_series(1, 3)", &[], None).unwrap().len(), 3);
    assert_eq!(session.query_one("SELECT 1 WHERE false", &[], None).unwrap_err().kind(), Kind::Failed);
    session.batch("CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1), (2)", None).unwrap();
    assert_eq!(session.execute("DELETE FROM t", &[], None).unwrap(), 2);
    assert_eq!(text(&session, "SHOW application_name"), "walkeep");

    let sql = format!(
        "SELECT state || coalesce(xact_start::text, '') FROM pg_stat_activity WHERE pid = {}",
        session.backend_pid()
    );
    let other = server.boss();
    assert_eq!(text(&other, &sql), "idle");
    assert!(session.notices().is_empty());
    session.batch("DO $$ BEGIN RAISE NOTICE 'hello' USING DETAIL = 'there'; END $$", None).unwrap();
    let notices = session.notices();
    assert_eq!((notices[0].message.as_str(), notices[0].detail.as_deref()), ("hello", Some("there")));
    assert!(session.notices().is_empty());
}

#[test]
fn a_dropped_session_is_gone_from_the_server() {
    let server = Server::start("", "");
    let session = server.boss();
    let pid = session.backend_pid();
    drop(session);
    let other = server.boss();
    let sql = format!("SELECT count(*)::text FROM pg_stat_activity WHERE pid = {pid}");
    let until = Instant::now() + Duration::from_secs(30);
    while text(&other, &sql) != "0" {
        assert!(Instant::now() < until, "still there");
    }
}

#[test]
fn a_wrong_or_missing_password_is_told_without_showing_it() {
    let server = Server::start("host all bk 127.0.0.1/32 scram-sha-256", "");
    server.boss().batch("CREATE ROLE bk LOGIN PASSWORD 'can:ary'", None).unwrap();
    let tcp = server.tcp("127.0.0.1");
    let session = connect(&format!("{tcp} user=bk password=can:ary")).unwrap();
    assert_eq!(text(&session, "SELECT current_user::text"), "bk");

    let error = refused(&format!("{tcp} user=bk password=canary"));
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(error.to_string().contains("password authentication failed"), "{error}");
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    let error = refused(&format!("{tcp} user=bk"));
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(error.advice().unwrap().contains(".pgpass"), "{error:?}");
    let error = refused(&format!("{tcp} user=stranger"));
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(error.advice().unwrap().contains("pg_hba.conf"), "{error:?}");

    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    fs::write(&file, format!("127.0.0.1:{}:*:bk:can\\:ary\n", server.port)).unwrap();
    for (mode, works) in [(0o600, true), (0o644, false)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let info = ConnInfo::parse(&format!("{tcp} user=bk"), &environment(Some(home.path()))).unwrap();
        assert_eq!(Session::connect(&info, &SessionOptions::default()).is_ok(), works, "mode {mode:o}");
        assert_eq!(info.warnings.is_empty(), works);
    }
}

#[test]
fn timeouts_and_paths_of_the_role_do_not_reach_the_session() {
    let server = Server::start("local all bk trust", "");
    let boss = server.boss();
    boss.batch(
        "CREATE ROLE bk LOGIN; ALTER ROLE bk SET statement_timeout = '1s'; ALTER ROLE bk SET idle_session_timeout = '1s';
         ALTER ROLE bk SET lock_timeout = '1s'; ALTER ROLE bk SET idle_in_transaction_session_timeout = '1s';
         CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO bk;
         CREATE FUNCTION evil.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT (1/0)::text';
         ALTER ROLE bk SET search_path = evil, pg_catalog; ALTER ROLE bk SET client_encoding = 'LATIN1'",
        None,
    )
    .unwrap();
    let quiet = SessionOptions {
        keep_alive: KeepAlive { every: Duration::from_secs(600), ..KeepAlive::default() },
        ..SessionOptions::default()
    };
    let session =
        Session::connect(&info(&format!("{} user=bk dbname=postgres", server.socket())), &quiet).unwrap();
    assert_eq!(text(&session, "SELECT pg_is_in_recovery()::text"), "false");
    assert_eq!(text(&session, "SHOW search_path"), "pg_catalog");
    assert_eq!(text(&session, "SHOW client_encoding"), "UTF8");
    sleep(Duration::from_millis(3500));
    session.check().unwrap();
    session.batch("SELECT pg_sleep(2.5)", None).unwrap();
    session.check().unwrap();
}

#[test]
fn a_terminated_session_is_noticed_within_seconds_idle_or_not() {
    let server = Server::start("", "");
    let boss = server.boss();
    let session = server.boss();
    let kill = |session: &Session| {
        let sql = format!("SELECT pg_terminate_backend({})::text", session.backend_pid());
        assert_eq!(text(&boss, &sql), "true");
    };
    session.check().unwrap();
    kill(&session);
    let error = fails_within(&session, Duration::from_secs(10)).expect("nothing was noticed");
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("administrator command"), "{error}");
    assert_eq!(session.query("SELECT 1", &[], None).unwrap_err().kind(), Kind::Unavailable);

    let session = server.boss();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| session.batch("SELECT pg_sleep(600)", None));
        sleep(Duration::from_millis(300));
        kill(&session);
        let error = sleeper.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(error.to_string().contains("administrator command"), "{error}");
    });
    assert!(session.check().is_err());

    let session = server.boss();
    run(&format!("{BIN}/pg_ctl -D {} -m immediate stop", server.path("data").display()));
    let error = fails_within(&session, Duration::from_secs(10)).expect("nothing was noticed");
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
}

#[test]
fn a_keep_alive_keeps_the_server_awake_and_tells_when_its_answer_changes() {
    let server = Server::start("", "");
    let boss = server.boss();
    boss.batch("CREATE TABLE public.role (standby boolean); INSERT INTO public.role VALUES (true)", None)
        .unwrap();
    let options = SessionOptions {
        keep_alive: KeepAlive {
            every: Duration::from_millis(100),
            statement: "SELECT standby FROM public.role".into(),
            expect: Some(Expect { answer: "t".into(), otherwise: "the standby was promoted".into() }),
        },
        ..SessionOptions::default()
    };
    let text = format!("{} user=boss dbname=postgres", server.socket());
    let session = Session::connect(&info(&text), &options).unwrap();
    sleep(Duration::from_millis(500));
    session.check().unwrap();
    boss.batch("UPDATE public.role SET standby = false", None).unwrap();
    let error = fails_within(&session, Duration::from_secs(10)).expect("nothing was noticed");
    assert_eq!(error.kind(), Kind::Failed);
    assert!(error.to_string().ends_with("the standby was promoted"), "{error}");
}

#[test]
fn a_statement_that_takes_too_long_is_cancelled_at_the_server() {
    let server = tls::tls_server("hostssl all bk 127.0.0.1/32 trust", "server");
    let boss = server.boss();
    boss.batch("CREATE ROLE bk LOGIN", None).unwrap();
    let encrypted = connect(&format!("{} user=bk sslmode=require", server.tcp("db.test"))).unwrap();
    for session in [server.boss(), encrypted] {
        let error = session.query("SELECT pg_sleep(600)", &[], Some(Duration::from_secs(1))).unwrap_err();
        assert_eq!(error.kind(), Kind::Timeout, "{error}");
        let sql = format!("SELECT state FROM pg_stat_activity WHERE pid = {}", session.backend_pid());
        until("the statement has ended", || text(&boss, &sql) == "idle");
        for _ in 0..20 {
            assert_eq!(text(&session, "SELECT 'still here'"), "still here");
        }
        session.check().unwrap();
    }
}

#[test]
fn a_server_that_hangs_costs_the_session_and_not_the_run() {
    let server = Server::start("", "");
    let session = server.boss();
    run(&format!("kill -STOP {}", session.backend_pid()));
    let error = session.query("SELECT 1", &[], Some(Duration::from_secs(1))).unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    assert_eq!(session.check().unwrap_err().kind(), Kind::Timeout);
    run(&format!("kill -CONT {}", session.backend_pid()));
    // An answer that comes late is for nobody.
    assert!(session.query("SELECT 2", &[], None).is_err());
}

#[test]
fn an_error_says_where_the_server_was_expected_and_what_to_do() {
    let server = Server::start("local all bk trust", "");
    let boss = server.boss();
    boss.batch("CREATE ROLE bk LOGIN", None).unwrap();
    let nowhere = tempfile::tempdir().unwrap();
    let error = refused(&format!("host={} port=5444", nowhere.path().display()));
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains(".s.PGSQL.5444"), "{error}");
    assert!(error.advice().unwrap().contains("unix_socket_directories"), "{error:?}");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refused(&format!("host=127.0.0.1 port={free}"));
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains(&format!("host 127.0.0.1 port {free}")), "{error}");
    assert!(error.advice().unwrap().contains("listen_addresses"), "{error:?}");
    let error = refused("host=no-such-host.invalid");
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");

    // A listener that never answers, and one that is something else.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let error = refused(&format!("host=127.0.0.1 port={} connect_timeout=1", address.port()));
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    let error = refused(&format!("host=127.0.0.1 port={} connect_timeout=1 sslmode=disable", address.port()));
    assert!(error.to_string().contains("no answer within 1 s"), "{error}");

    let bk = connect(&format!("{} user=bk dbname=postgres", server.socket())).unwrap();
    let error = bk.query("SELECT pg_backup_start('x', true)", &[], None).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(error.to_string().contains("permission denied for function pg_backup_start"), "{error}");
    let error = bk.query("SELECT FROM pg_nothing", &[], None).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::Failed, "relation \"pg_nothing\" does not exist")
    );
    let raise = "DO $$ BEGIN RAISE 'no' USING DETAIL = 'Why not.', HINT = 'Try.'; END $$";
    let error = bk.batch(raise, None).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.advice()), ("no: Why not", Some("Try")));
    bk.check().unwrap();
    let error = refused(&format!("{} user=bk dbname=gone", server.socket()));
    assert!(error.to_string().contains("database \"gone\" does not exist"), "{error}");
}

#[test]
fn the_next_host_is_tried_and_the_wanted_one_is_found() {
    let server = Server::start("", "");
    let nowhere = tempfile::tempdir().unwrap();
    let hosts = format!("host={},{}", nowhere.path().display(), server.directory.path().display());
    let way = format!("{hosts} port={} user=boss dbname=postgres", server.port);
    for wanted in ["any", "primary", "read-write", "prefer-standby"] {
        let session = connect(&format!("{way} target_session_attrs={wanted}")).unwrap();
        assert!(session.place().contains(server.directory.path().to_str().unwrap()));
    }
    for wanted in ["standby", "read-only"] {
        let error = refused(&format!("{way} target_session_attrs={wanted}"));
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(error.advice().unwrap().contains("target_session_attrs"), "{error:?}");
    }
}

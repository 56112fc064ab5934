//! Clusters that are unusual but healthy are proved: what the drill cannot look at is named, and
//! nothing of it is red.

use super::*;

/// Runs a script of psql, whose bytes need not be UTF-8, as a user in a database.
pub fn script(server: &Cluster, user: &str, database: &str, text: impl AsRef<[u8]>) -> Outcome {
    let scratch = Scratch::new();
    let file = scratch.write("script.sql", text);
    let run = pg::tool("psql").env("PGCLIENTENCODING", "SQL_ASCII");
    let run = run.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", user, "-d", database, "-h"]);
    run.arg(server.socket()).arg("-f").arg(&file).deadline(PATIENCE).go()
}

/// A copy of a library of PostgreSQL, for functions whose library the host of a drill lacks.
pub fn library(scratch: &Scratch, name: &str) -> std::path::PathBuf {
    let directory = pg::tool("pg_config").arg("--pkglibdir").go().ok().stdout;
    scratch.write(name, read(Path::new(directory.trim_end()).join(name)))
}

/// Takes a backup, stops the server, and removes libraries that its functions need.
pub fn back_up_without(live: &Live, libraries: [std::path::PathBuf; 2]) {
    live.backup();
    live.flush_wal();
    live.server.stop(Stop::Fast);
    for library in libraries {
        std::fs::remove_file(library).expect("remove a library");
    }
}

/// The detail of all checks with this name.
fn details(report: &Value, name: &str) -> String {
    let checks = report["checks"].as_array().expect("checks");
    let found = checks.iter().filter(|check| check["name"] == name);
    found.map(|check| text(check, "detail")).collect::<Vec<_>>().join("\n")
}

/// Everything is proved, and these are named.
#[track_caller]
fn assert_proved(report: &Value, named: &[(&str, &str)]) {
    for name in ["recovery", "log of recovery", "read", "amcheck", "log"] {
        assert_eq!(check(report, name).0, Some(true), "{name}: {report:#}");
    }
    for (name, words) in named {
        assert!(details(report, name).contains(words), "{name} {words}: {report:#}");
    }
}

/// Code of users that fails, or that fails without the search path of the database.
const CODE: &str = r#"
create database code;
\connect code
create extension unaccent;
create function f_unaccent(text) returns text language sql immutable strict as 'select unaccent($1)';
create table people (id int primary key, name text);
insert into people select g, 'Zoé ' || g from generate_series(1, 300) g;
create index people_name on people (f_unaccent(name));
create statistics people_statistics on (f_unaccent(name)), id from people;
analyze people;
create materialized view people_view as select * from people;
create index on people_view (f_unaccent(name));
create materialized view people_empty as select * from people with no data;
create function f_breaks(int) returns int language plpgsql immutable as 'begin return $1; end';
create function f_divides(int) returns int language sql immutable as 'select $1';
create function f_holds(int) returns bool language plpgsql immutable as 'begin return true; end';
create table broken (i int, g int generated always as (f_breaks(i)) stored);
insert into broken (i) select generate_series(1, 300);
create index broken_raises on broken (f_breaks(i));
create index broken_divides on broken (f_divides(i));
create index broken_partial on broken (i) where f_holds(i);
create statistics broken_statistics on (f_divides(7)), i from broken;
create domain positive as int check (f_holds(value));
create table of_domain (i positive);
insert into of_domain values (1);
alter table of_domain add check (f_holds(i));
create or replace function f_breaks(int) returns int language plpgsql immutable
  as 'begin raise exception ''broken''; end';
create or replace function f_divides(int) returns int language sql immutable as 'select $1 / 0';
create or replace function f_holds(int) returns bool language plpgsql immutable
  as 'begin return missing($1); end';
create table secret (i int);
insert into secret values (1);
create policy nobody on secret using (f_holds(i));
alter table secret enable row level security;
alter table secret force row level security;
create view broken_view as select f_divides(1), 1 / i as fails from broken;
create function raises() returns trigger language plpgsql as 'begin raise exception ''no''; end';
create constraint trigger later after insert on secret deferrable initially deferred
  for each row execute function raises();
alter table secret enable always trigger later;
create rule instead as on insert to secret do instead nothing;
create function backwards(int, int) returns int language sql immutable as 'select $2 - $1';
create operator class backwards_ops for type int using btree as operator 1 >, operator 2 >=,
  operator 3 =, operator 4 <=, operator 5 <, function 1 backwards(int, int);
create table ordered (i int);
insert into ordered select generate_series(1, 500);
create index ordered_backwards on ordered (i backwards_ops);
create function shout() returns event_trigger language plpgsql as 'begin raise exception ''no''; end';
create event trigger shout on ddl_command_end execute function shout();
"#;

/// Tables, indexes and names of all kinds.
const SHAPES: &str = r#"
create database "sha""pes 'of' 100%";
\connect "sha""pes 'of' 100%"
create extension btree_gist;
create extension hstore;
create extension file_fdw;
create server files foreign data wrapper file_fdw;
create foreign table far (i int) server files options (filename '/nonexistent/file');
create table halves (i int) partition by range (i);
create foreign table far_half partition of halves for values from (0) to (10) server files
  options (filename '/nonexistent/file');
create table near_half partition of halves for values from (10) to (20);
insert into near_half values (11);
create table no_half (i int) partition by list (i);
create table parent (i int);
create table child (j int) inherits (parent);
insert into child values (1, 2);
create table no_columns ();
insert into no_columns default values;
create table "quoted "" 'name
of two lines % \ ;" ("colu""mn %s" text);
insert into "quoted "" 'name
of two lines % \ ;" values ('a');
select format('create table wide (%s)', string_agg(format('c%s int', i), ', ')) from generate_series(1, 1600) i
\gexec
insert into wide (c1600) values (1);
create table dropped (a int, b text, c hstore);
insert into dropped select g, repeat('x', 3000), 'a=>1' from generate_series(1, 50) g;
alter table dropped drop column b;
create table huge (t text, b bytea);
alter table huge alter t set storage external;
insert into huge select string_agg(md5(i::text), ''), '\x00ff' from generate_series(1, 65536) i;
create sequence nearly_over as smallint maxvalue 10 start 10;
select nextval('nearly_over');
create unlogged sequence unlogged_sequence;
select nextval('unlogged_sequence');
create unlogged table unlogged as select generate_series(1, 100) i;
create index on unlogged (i);
create table kinds (i int, p point, a int[], r int4range, d date, x xml, j jsonb, h hstore);
insert into kinds select g, point(g, g), array[g, 1], int4range(g, g + 1), '4713-01-01 BC', '<a/>', '{"a": 1}', 'a=>1'
  from generate_series(1, 300) g;
insert into kinds (d) values ('infinity');
create index on kinds using hash (i);
create index on kinds using gin (a);
create index on kinds using gist (r);
create index on kinds using spgist (p);
create index on kinds using brin (d);
create index on kinds using gist (h);
create table excluded (r int4range, exclude using gist (r with &&));
insert into excluded values ('[1,2)'), ('[3,4)');
create type mood as enum ('sad', 'happy');
create type pair as (a mood, b int);
create table typed (m mood, p pair, ps pair[]);
insert into typed values ('sad', ('happy', 1), array[row('sad', 2)::pair]);
create table twice (i int);
insert into twice values (1), (1);
select lo_from_bytea(0, decode(repeat('00ff', 5000), 'hex'));
create publication p for table parent;
create subscription s connection 'host=/nonexistent' publication p with (connect = false);
create collation german (provider = icu, locale = 'de');
create collation turned (provider = icu, locale = 'de');
create table words (w text collate german, v text collate turned);
insert into words select chr(97 + g % 26) || g, case g % 2 when 0 then 'a' else 'A' end || g / 2 from generate_series(1, 600) g;
create index words_german on words (w);
create index words_turned on words (v);
update pg_collation set collversion = '0.0' where collname = 'german';
update pg_collation set collversion = '0.0', colliculocale = 'de-u-kf-upper' where collname = 'turned';
"#;

/// Settings of databases that keep a session from reading, if they take effect.
const SETTINGS: &str = "
create role weak;
create database settings;
create database closed allow_connections false;
create database limited connection limit 0;
create database invalid;
update pg_database set datconnlimit = -2 where datname = 'invalid';
update pg_database set datcollversion = '0.0' where datname = 'limited';
alter database settings set role = weak;
alter database settings set default_tablespace = unknown;
alter database settings set temp_tablespaces = unknown;
alter database settings set session_preload_libraries = missing;
alter database settings set local_preload_libraries = missing;
alter database settings set statement_timeout = 1;
alter database settings set lock_timeout = 1;
alter database settings set idle_in_transaction_session_timeout = 1;
alter database settings set idle_session_timeout = 1;
alter database settings set default_transaction_read_only = on;
alter database settings set default_transaction_isolation = serializable;
alter database settings set default_transaction_deferrable = on;
alter database settings set client_min_messages = error;
alter database settings set client_encoding = latin1;
alter database settings set row_security = off;
alter database settings set exit_on_error = on;
alter database settings set search_path = unknown, pg_temp;
alter database settings set transform_null_equals = on;
alter database settings set bytea_output = escape;
alter database settings set lc_messages = 'C.UTF-8';
alter database settings set datestyle = 'German';
alter database settings set quote_all_identifiers = on;
alter database settings set dynamic_library_path = '/nonexistent';
alter database settings set work_mem = '64kB';
alter database settings set standard_conforming_strings = off;
alter database template1 set default_transaction_read_only = on;
alter database template1 set search_path = unknown;
alter system set max_worker_processes = 20;
";

/// A relation of a library that the host of the drill lacks: a type, an operator class, and the
/// function of an index.
pub fn of_libraries(citext: &Path, seg: &Path) -> String {
    let (citext, seg) = (citext.display(), seg.display());
    format!(
        "create database libraries;
\\connect libraries
create function far_cmp(text, text) returns int language c immutable strict as '{citext}', 'citext_cmp';
create operator class far_ops for type text using btree as operator 1 <, operator 2 <=, operator 3 =,
  operator 4 >=, operator 5 >, function 1 far_cmp(text, text);
create function far_hash(text) returns int language c immutable strict as '{citext}', 'citext_hash';
create table compared (t text);
insert into compared select md5(g::text) from generate_series(1, 300) g;
create index compared_far on compared (t far_ops);
create index compared_hash on compared (far_hash(t));
create type segment;
create function segment_in(cstring) returns segment language c immutable strict as '{seg}', 'seg_in';
create function segment_out(segment) returns cstring language c immutable strict as '{seg}', 'seg_out';
create type segment (input = segment_in, output = segment_out, internallength = 12);
create table measured (i int, s segment);
insert into measured select g, '1..2' from generate_series(1, 300) g;
create table only_measured (s segment);
insert into only_measured values ('1..2');
"
    )
}

/// Names and values that are not UTF-8.
const ENCODINGS: &[u8] = b"
create database ascii encoding 'SQL_ASCII' template template0;
create database latin encoding 'LATIN1' template template0;
\\connect ascii
create table \"caf\xe9\" (\"\xe9t\xe9\" text);
create index on \"caf\xe9\" (\"\xe9t\xe9\");
insert into \"caf\xe9\" select '\xe9' || g from generate_series(1, 300) g;
create schema \"\xe9cole\";
create table \"\xe9cole\".plain (t text);
insert into \"\xe9cole\".plain values ('\xff\xe9');
create database \"base \xe9\";
begin;
lock table \"caf\xe9\";
prepare transaction 'gid \xe9''\\';
\\connect latin
create table \"caf\xe9\" (\"\xe9t\xe9\" text);
create index on \"caf\xe9\" (\"\xe9t\xe9\");
insert into \"caf\xe9\" select '\xe9' || g from generate_series(1, 300) g;
";

/// Prepared transactions with locks: the whole cluster of a distributed application.
const PREPARED: &str = "
create database prepared;
\\connect prepared
create table locked as select generate_series(1, 1000) i;
create table other as select generate_series(1, 1000) i;
create index on locked (i);
begin;
lock table locked;
insert into locked values (0);
prepare transaction 'locks 100%';
begin;
insert into other values (0);
create table new as select 1;
prepare transaction 'writes';
";

/// A session that is killed, which leaves its temporary table.
const CRASH: &str = r"
create temporary table leftover as select generate_series(1, 1000) i;
create index on leftover (i);
select pg_backend_pid() as pid
\gset
\setenv PID :pid
\! kill -9 $PID
select 1;
";

#[test]
fn an_unusual_cluster_is_proved_and_what_was_not_looked_at_is_named() {
    let libraries = Scratch::new();
    let (citext, seg) = (library(&libraries, "citext.so"), library(&libraries, "seg.so"));
    let live = Live::with(Cluster::build().wal_segsize(1).checksums(), |server| {
        server.set("max_prepared_transactions", "10");
        server.set("wal_level", "logical");
        server.set("autovacuum", "off");
        // What a setting that is unknown to the drill's server would do.
        server.set("custom.setting", "on");
    });
    let server = &live.server;
    server.psql("select pg_create_logical_replication_slot('logical', 'pgoutput')");
    for text in [CODE, SHAPES, SETTINGS, PREPARED, &of_libraries(&citext, &seg)] {
        script(server, "postgres", "postgres", text).ok();
    }
    script(server, "postgres", "postgres", ENCODINGS).ok();
    // An index that is invalid since it was never finished, and a table of a session that crashed.
    server.try_psql("create table duplicates as select 1 as i from generate_series(1, 2)");
    assert_ne!(server.try_psql("create unique index concurrently on duplicates (i)").code(), Some(0));
    script(server, "postgres", "postgres", CRASH);
    server.stop(Stop::Immediate);
    server.start();
    back_up_without(&live, [citext, seg]);
    let report = drill(&live.archive, &[], 0);
    assert_proved(
        &report,
        &[
            ("read in part", "prepared transaction locks 100% of database prepared locked public.locked"),
            ("read in part", "gid \\351"),
            ("read in part", "public.measured of database libraries"),
            ("read in part", "public.only_measured of database libraries"),
            ("amcheck in part", "broken_raises of database code: broken"),
            ("amcheck in part", "broken_divides"),
            ("amcheck in part", "broken_partial"),
            ("amcheck in part", "compared_far"),
            ("amcheck in part", "compared_hash"),
            ("amcheck in part", "words_turned"),
        ],
    );
    // With the search path of the database nothing is left out.
    let left_out = format!("{}{}", details(&report, "read in part"), details(&report, "amcheck in part"));
    for name in ["people", "plain", "writes", "words_german", "ordered", "latin"] {
        assert!(!left_out.contains(name), "{name}: {left_out}");
    }
    assert!(!details(&report, "amcheck in part").contains("caf"), "{report:#}");
}

#[test]
fn settings_that_were_raised_after_the_backup_are_followed() {
    let live = Live::with(Cluster::build().wal_segsize(1).checksums(), |server| {
        server.set("shared_buffers", "16MB");
    });
    let server = &live.server;
    server.psql("create table t (i int)");
    live.backup();
    let raise = |prepared: u32| {
        let settings = [
            ("max_connections", 150),
            ("max_worker_processes", 20),
            ("max_wal_senders", 20),
            ("max_prepared_transactions", prepared),
            ("max_locks_per_transaction", 400),
        ];
        for (name, value) in settings {
            server.psql(&format!("alter system set {name} = {value}"));
        }
        server.stop(Stop::Fast);
        server.start();
    };
    let prepare = |names: std::ops::Range<u32>| {
        for name in names {
            server.psql(&format!("begin; insert into t values ({name}); prepare transaction 'p{name}'"));
        }
    };
    raise(20);
    prepare(0..19);
    // More locks than the settings of the backup have room for.
    let locks = "select count(pg_advisory_xact_lock(g)) from generate_series(1, 40000) g";
    server.psql(&format!("begin; {locks}; prepare transaction 'locks'"));
    live.flush_wal();
    let report = drill(&live.archive, &[], 0);
    assert_proved(&report, &[]);
    // And those that only the WAL has that the primary streams.
    server.psql("alter system set archive_command = ''");
    raise(40);
    prepare(20..40);
    drill(&live.archive, &["--compare"], 0);
}

#[test]
fn a_cluster_without_the_usual_role_and_databases_is_proved() {
    let live = Live::new();
    let server = &live.server;
    server.psql("create table t as select generate_series(1, 1000) i");
    live.backup();
    script(
        server,
        "postgres",
        "postgres",
        "create role boss superuser login connection limit 0; create database app;",
    )
    .ok();
    let text = "
        alter database template1 allow_connections false;
        drop database postgres;
        alter role postgres rename to somebody;
        create table e as select 1;
        alter role boss set role = none;
        alter role boss set search_path = unknown;
        alter role boss set statement_timeout = 1;
        alter role boss set session_preload_libraries = missing;
        alter role boss set exit_on_error = on;
        alter role boss set client_encoding = sjis;
        alter role boss set default_transaction_read_only = on;
        alter role boss set zero_damaged_pages = on;
        alter role boss valid until '2000-01-01';
        select pg_switch_wal();
        select pg_sleep(0.1) from generate_series(1, 300) where not exists
          (select from pg_stat_archiver where last_archived_wal is not null);
    ";
    script(server, "boss", "app", text).ok();
    server.stop(Stop::Fast);
    let connection = format!("host={} user=boss dbname=app", server.socket().display());
    let archive = Archive::build(server.data()).connection(connection).root(live.archive.root());
    let mut archive = archive.unregistered();
    archive.set_tail(&rows_are("1").replace("\"postgres\"", "\"app\"").replace("from t", "from e"));
    let report = drill(&archive, &[], 0);
    assert!(check(&report, "read").1.contains("of 3 databases"), "{report:#}");
    let (ok, detail) = check(&report, "recovery");
    assert_eq!(ok, Some(true), "{detail}");
}

//! The records of real WAL of every version that is installed: the chain has no seam where a server
//! wrote it, and the meanings are those that the server was asked for.

use crate::support::*;
use std::path::{Path, PathBuf};
use walkeep::pg::lsn::Lsn;
use walkeep::pg::record::{Edges, FoundRecord, Meaning, RecordScan, Seam};
use walkeep::pg::segment::TimelineId;
use walkeep::pg::version::VERSIONS;

/// Runs `test` on a server of every version, with segments of 1 MB that are all kept in a directory.
fn on_every_version(test: impl Fn(&Cluster, &Path)) {
    for version in VERSIONS {
        let Some(programs) = pg::version(version.major) else {
            continue;
        };
        let server = Cluster::build().wal_segsize(1).programs(programs).create();
        let kept = server.scratch().mkdir("kept");
        server.set("archive_mode", "on");
        server.set("archive_command", &format!("cp %p {}/%f", kept.display()));
        server.set("max_prepared_transactions", "7");
        server.set("autovacuum", "off");
        server.start();
        test(&server, &kept);
    }
}

/// The kept segments of a timeline, in order.
fn segments(kept: &Path, timeline: u32) -> Vec<PathBuf> {
    let prefix = format!("{timeline:08X}");
    let mut found: Vec<PathBuf> = std::fs::read_dir(kept)
        .expect("list")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.len() == 24))
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with(&prefix))
        })
        .collect();
    found.sort();
    found
}

/// Reads segments in their order; the records and the seams.
fn scan(segments: &[PathBuf]) -> (Vec<FoundRecord>, Vec<Seam>) {
    let (mut records, mut seams) = (Vec::new(), Vec::new());
    let mut scan = RecordScan::default();
    for segment in segments {
        seams.extend(scan.segment(&read(segment), |found| records.push(found)));
    }
    (records, seams)
}

/// The seams between neighbours, each read alone.
fn seams_of_edges(segments: &[PathBuf]) -> Vec<Seam> {
    let edges: Vec<Edges> = segments.iter().map(|path| Edges::of(&read(path)).expect("records")).collect();
    edges.windows(2).filter_map(|pair| pair[0].seam_before(&pair[1])).collect()
}

/// Awaits that everything is kept.
fn flush(server: &Cluster) {
    server.psql("select pg_create_restore_point('flush')");
    server.await_archived(&server.switch_wal());
}

/// Begins and previous records by PostgreSQL's own program, where the version has it.
fn by_waldump(server: &Cluster, segments: &[PathBuf]) -> Option<Vec<(String, String)>> {
    let dump = pg::tool_for(server.data(), "pg_waldump")?;
    let outcome = dump.arg(&segments[0]).arg(&segments[segments.len() - 1]).go();
    let field = |line: &str, name: &str| {
        let rest = &line[line.find(name)? + name.len()..];
        Some(rest.trim_start().split([',', ' ']).next()?.to_owned())
    };
    let lines = outcome.stdout.lines();
    Some(lines.filter_map(|line| Some((field(line, "lsn: ")?, field(line, "prev ")?))).collect())
}

#[test]
fn records_mean_what_the_server_was_asked_for() {
    on_every_version(|server, kept| {
        let place = server.scratch().mkdir("tablespace");
        server.psql("create table t (i int)");
        server.psql("create database copied strategy file_copy");
        server.psql("create database logged strategy wal_log");
        let copied: u32 =
            server.psql("select oid from pg_database where datname = 'copied'").parse().unwrap();
        let logged: u32 =
            server.psql("select oid from pg_database where datname = 'logged'").parse().unwrap();
        server.psql("drop database copied");
        server.psql(&format!("create tablespace outside location '{}'", place.display()));
        let outside: u32 =
            server.psql("select oid from pg_tablespace where spcname = 'outside'").parse().unwrap();
        server.psql("drop tablespace outside");
        let point = Lsn(0).max(server.psql("select pg_create_restore_point('a point')").parse().unwrap());
        // A prepared transaction with everything that may stand before its id.
        let prepared: u32 = server
            .psql(
                "begin; drop table t; savepoint a; create table u (i int primary key); savepoint b; \
                 insert into u values (1); select pg_current_xact_id(); prepare transaction 'p'",
            )
            .parse()
            .unwrap();
        server.psql("commit prepared 'p'");
        let aborted: u32 = server
            .psql("begin; create table v (i int); savepoint a; drop table u; select pg_current_xact_id(); prepare transaction 'q'")
            .parse()
            .unwrap();
        server.psql("rollback prepared 'q'");
        let plain: u32 = server
            .psql("begin; insert into u values (2); select pg_current_xact_id(); commit")
            .parse()
            .unwrap();
        server.psql("checkpoint");
        let control = server.psql("select checkpoint_lsn, redo_lsn from pg_control_checkpoint()");
        let (checkpoint, redo) = control.split_once('|').unwrap();
        let (checkpoint, redo): (Lsn, Lsn) = (checkpoint.parse().unwrap(), redo.parse().unwrap());
        server.set("max_connections", "77");
        server.set("max_worker_processes", "9");
        server.set("max_wal_senders", "5");
        server.set("max_locks_per_transaction", "111");
        server.set("wal_log_hints", "on");
        server.set("track_commit_timestamp", "on");
        server.stop(Stop::Fast);
        server.start();
        let both = server.psql("select pg_backup_start('x', true); select lsn from pg_backup_stop(false)");
        let start: Lsn = both.lines().next().unwrap().parse().unwrap();
        flush(server);

        let segments = segments(kept, 1);
        let (records, seams) = scan(&segments);
        assert_eq!(seams, []);
        assert_eq!(seams_of_edges(&segments), []);
        if let Some(lines) = by_waldump(server, &segments) {
            let found: Vec<(Lsn, Lsn)> = records.iter().map(|found| (found.begin, found.previous)).collect();
            let shown: Vec<(Lsn, Lsn)> =
                lines.iter().map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).collect();
            // pg_waldump also shows a record that begins in the last segment and ends nowhere.
            assert_eq!(found, shown[..found.len()], "{} against {}", found.len(), shown.len());
        }
        let has = |what: &dyn Fn(&Meaning) -> bool| records.iter().find(|found| what(&found.meaning));
        let is = |meaning: Meaning| has(&|other| *other == meaning).is_some();
        assert!(is(Meaning::DatabaseDrop { oid: copied }));
        for oid in [copied, logged] {
            assert!(
                has(&|m| matches!(m, Meaning::Database { oid: o, tablespace: 1663, .. } if *o == oid))
                    .is_some()
            );
        }
        let location = place.display().to_string().into_bytes();
        assert!(is(Meaning::Tablespace { oid: outside, location }));
        assert!(is(Meaning::TablespaceDrop { oid: outside }));
        let found = has(&|m| matches!(m, Meaning::RestorePoint { name, .. } if name == b"a point")).unwrap();
        assert_eq!(found.end, point);
        let ended = |xid: u32, commit: bool| {
            has(&|m| matches!(m, Meaning::TransactionEnd(e) if e.xid == xid && e.is_commit == commit))
                .is_some()
        };
        assert!(ended(prepared, true) && ended(aborted, false) && ended(plain, true));
        assert!(!ended(aborted, true));
        let is_shutdown = false;
        let found =
            has(&|m| *m == Meaning::Checkpoint { redo, timeline: TimelineId(1), is_shutdown }).unwrap();
        assert_eq!(found.begin, checkpoint);
        assert!(has(&|m| matches!(m, Meaning::Checkpoint { is_shutdown: true, .. })).is_some());
        let found = has(&|m| matches!(m, Meaning::Parameters(p) if p.max_connections == 77)).unwrap();
        let Meaning::Parameters(parameters) = found.meaning else { unreachable!() };
        assert_eq!(parameters.least_settings().map(|(_, value)| value), [77, 9, 5, 7, 111]);
        assert!(parameters.wal_log_hints && parameters.track_commit_timestamp && parameters.wal_level == 1);
        assert!(is(Meaning::BackupEnd { start }));
    });
}

#[test]
fn a_server_that_was_killed_within_a_record_leaves_no_seam() {
    on_every_version(|server, kept| {
        // Twice: the record ends in the segment, and it spans segments. The end of it never reached
        // the disk.
        for length in [60_000, 1_500_000] {
            flush(server);
            server.set("archive_command", "false");
            server.psql("select pg_reload_conf()");
            let begin: Lsn = server.psql("select pg_current_wal_insert_lsn()").parse().unwrap();
            server.psql(&format!("select pg_logical_emit_message(true, 'x', repeat('x', {length}))"));
            server.psql("select pg_switch_wal()");
            server.kill();
            let cut = begin.0 + 40_000;
            let mut files: Vec<PathBuf> =
                std::fs::read_dir(server.wal()).unwrap().flatten().map(|e| e.path()).collect();
            files.retain(|path| path.file_name().is_some_and(|name| name.len() == 24));
            files.sort();
            let number = |path: &PathBuf| {
                let name = path.file_name().unwrap().to_str().unwrap();
                u64::from_str_radix(&name[16..], 16).unwrap()
            };
            for path in files {
                let start = number(&path) << 20;
                if start > cut {
                    std::fs::remove_file(&path).unwrap();
                } else if cut < start + (1 << 20) {
                    let mut bytes = read(&path);
                    let at = (cut - start) as usize;
                    if length < 1 << 20 {
                        bytes[at..].fill(0);
                        scratch::write(&path, bytes);
                    }
                }
            }
            server.set("archive_command", &format!("cp %p {}/%f", kept.display()));
            server.start();
            server.psql("create table if not exists after (i int)");
        }
        flush(server);
        let segments = segments(kept, 1);
        let (records, seams) = scan(&segments);
        assert_eq!(seams, []);
        assert_eq!(seams_of_edges(&segments), []);
        let overwritten =
            records.iter().filter(|r| matches!(r.meaning, Meaning::OverwriteContrecord { .. })).count();
        assert_eq!(overwritten, 2);
        if let Some(lines) = by_waldump(server, &segments) {
            let last = lines.last().unwrap().0.parse::<Lsn>().unwrap();
            assert!(records.iter().any(|found| found.begin == last), "pg_waldump ends at {last}");
        }
    });
}

#[test]
fn a_promotion_within_a_segment_leaves_no_seam_and_a_foreign_segment_does() {
    on_every_version(|server, kept| {
        server.psql("create table t as select generate_series(1, 20000) i");
        flush(server);
        let copy = Scratch::new();
        let data = copy.join("data");
        server.stop(Stop::Fast);
        scratch::copy_tree(server.data(), &data);
        server.start();
        let foreign = copy.mkdir("kept");
        let other = Cluster::over(copy, data);
        other.set("restore_command", &format!("cp {}/%f %p", kept.display()));
        other.set("primary_conninfo", &server.connection().replace(" dbname=postgres", ""));
        other.set("archive_command", &format!("cp %p {}/%f", foreign.display()));
        other.touch("standby.signal");
        other.start();
        let lsn = server.psql("select pg_current_wal_flush_lsn()");
        other.await_sql(&format!("select pg_last_wal_replay_lsn() >= '{lsn}'"), "t");
        server.psql("insert into t select generate_series(1, 30000)");
        flush(server);
        other.promote();
        other.psql("insert into t select generate_series(1, 30000)");
        flush(&other);
        let promoted = segments(&foreign, 2);
        let parents: Vec<PathBuf> = segments(kept, 1)
            .into_iter()
            .filter(|p| {
                p.file_name().unwrap().to_str().unwrap()[8..]
                    < promoted[0].file_name().unwrap().to_str().unwrap()[8..]
            })
            .collect();
        let line: Vec<PathBuf> = [parents, promoted.clone()].concat();
        let (records, seams) = scan(&line);
        assert_eq!(seams, []);
        assert_eq!(seams_of_edges(&line), []);
        let begins = |m: &Meaning| {
            matches!(m, Meaning::EndOfRecovery { timeline: TimelineId(2), previous: TimelineId(1), .. })
        };
        assert!(records.iter().any(|found| begins(&found.meaning)));
        // The segment of the old primary with the same number as one of the new timeline.
        let mixed: Vec<PathBuf> = line
            .iter()
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                let last = promoted.last().unwrap().file_name().unwrap().to_str().unwrap();
                let of_old = kept.join(format!("00000001{}", &name[8..]));
                if name == last && promoted.len() > 1 && of_old.exists() { of_old } else { path.clone() }
            })
            .collect();
        if mixed != line {
            assert_eq!(scan(&mixed).1.len(), 1);
            assert_eq!(seams_of_edges(&mixed).len(), 1);
        }
    });
}

//! Very many tables: everything is there, with few objects, few open files and memory that does not
//! grow with them.

use super::*;
use std::collections::BTreeSet;

/// With `WALKEEP_TEST_SLOW` as many as make a large cluster: the test takes half a minute then.
fn tables() -> usize {
    if std::env::var_os("WALKEEP_TEST_SLOW").is_some() { 50_000 } else { 4_000 }
}

/// Bytes of memory that a backup or a restore has at most, on two threads: the 80 MB of README, and
/// some more for the code of programs that are not optimized.
const MEMORY: u64 = 96 << 20;

/// Runs it with few files that may be open at once, on two threads. What it said, and its memory at
/// its highest.
#[track_caller]
fn frugally(run: Run) -> Outcome {
    let run =
        run.args(["--jobs", "2"]).under(["prlimit", "--nofile=1024"]).deadline(Duration::from_secs(300));
    let child = run.spawn();
    let status = format!("/proc/{}/status", child.id());
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        // The kernel keeps the peak, so the last look before the end tells it.
        let watching = scope.spawn(move || {
            let mut peak = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let text = std::fs::read_to_string(&status).unwrap_or_default();
                let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let size =
                    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
                peak = peak.max(size.unwrap_or_default() << 10);
                std::thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        let outcome = run.finish(child).ok();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let peak = watching.join().expect("watch the memory");
        assert!(peak > 1 << 20 && peak < MEMORY, "{peak} bytes of memory\n{outcome}");
        outcome
    })
}

#[test]
fn tens_of_thousands_of_tables_are_backed_up_and_restored_within_bounds() {
    let tables = tables();
    let server = Cluster::build().checksums().create();
    for (name, value) in [("autovacuum", "off"), ("max_wal_size", "4GB"), ("synchronous_commit", "off")] {
        server.set(name, value);
    }
    server.start();
    server.psql(&format!(
        "do $$ begin for i in 1..{tables} loop execute format('create table t%s as select %s as i', i, i); \
         if i % 1000 = 0 then commit; end if; end loop; end $$"
    ));
    let archive = Archive::of_server(&server);
    let live = Live { server, archive };
    let backup = live::json(&frugally(live.backing_up()));

    // All of them are in the manifest, each once, and its end counts what it has.
    let id = live::text(&backup, "id");
    let manifest = live::manifest(live.archive.root(), &id);
    let files = live::paths(&manifest, "file");
    let distinct: BTreeSet<&String> = files.iter().collect();
    assert_eq!(
        (distinct.len() as u64, files.len() as u64),
        (files.len() as u64, backup["files"].as_u64().expect("files"))
    );
    let paths =
        "select pg_relation_filepath(oid) from pg_class where relkind = 'r' and relname ~ '^t[0-9]+$'";
    let paths = live.server.psql(paths);
    assert_eq!(paths.lines().count(), tables);
    let missing = paths.lines().filter(|path| !distinct.contains(&(*path).to_owned())).count();
    assert_eq!(missing, 0);
    let objects = repo::files(&saga::lineage(&live.archive).join("data")).len();
    assert!(objects <= 40, "{objects} objects");

    // A second one costs next to nothing.
    live.server.psql("update t7 set i = -7");
    let second = live::json(&frugally(live.backing_up()));
    assert_eq!(second["parent"], backup["id"]);
    let (first, added) =
        (backup["new_bytes"].as_u64().expect("bytes"), second["new_bytes"].as_u64().expect("bytes"));
    assert!(added < first / 3, "{added} bytes after {first}");

    live.flush_wal();
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let outcome = frugally(live::restoring(&live.archive, &data, &[]));
    let copy = live::Restored { data, outcome, scratch }.verified().recovered();
    let sum = format!(
        "do $$ declare n bigint; s bigint := 0; begin for i in 1..{tables} loop execute format('select i from t%s', i) \
         into n; s := s + n; if i % 1000 = 0 then commit; end if; end loop; raise notice 'sum %', s; end $$"
    );
    let expected = tables * (tables + 1) / 2 - 14;
    copy.try_psql(&sum).ok().says(&format!("sum {expected}"));
}

//! Data checksums whose state changes while a backup runs. Releases up to 19 change it only while
//! the server is down, so the words that the server reports are replaced.

use super::shared::{number, with_table};
use super::*;
use serde_json::{Value, json};
use std::os::unix::fs::FileExt;

/// A server with data checksums and WAL summaries that reports the words of a table as its state:
/// one when a session asks first, which is before the backup starts, and the other from then on.
fn pretending() -> Option<Live> {
    let build = Cluster::build().programs(pg::version(18)?).wal_segsize(1).checksums();
    let live = Live::with(build, |server| {
        server.set("summarize_wal", "on");
        server.set("allow_system_table_mods", "on");
    });
    live.server.psql("create table words as select 'on'::text as at_start, 'on'::text as at_end");
    live.server.psql(
        "create function word() returns text language plpgsql as $$ \
         declare asked text := coalesce(current_setting('words.asked', true), ''); \
         begin perform set_config('words.asked', 'yes', false); \
         return (select case asked when '' then at_start else at_end end from public.words); end $$",
    );
    let view = live.server.psql("select pg_get_viewdef('pg_settings'::regclass)");
    let columns = live.server.psql(
        "select string_agg(case when attname = 'setting' then \
         'case name when ''data_checksums'' then public.word() else setting end as setting' \
         else quote_ident(attname) end, ', ' order by attnum) \
         from pg_attribute where attrelid = 'pg_settings'::regclass and attnum > 0",
    );
    let view = view.trim_end_matches(';');
    live.server.psql(&format!(
        "create or replace view pg_catalog.pg_settings as select {columns} from ({view}) as s"
    ));
    with_table(&live);
    Some(live)
}

fn pretend(live: &Live, start: &str, end: &str) {
    live.server.psql(&format!("update words set at_start = '{start}', at_end = '{end}'"));
}

fn record(live: &Live, backup: &Value) -> Value {
    let record = live::record_of(live.archive.root(), &live::text(backup, "id"));
    serde_json::from_str(&live::content(&record)).expect("JSON")
}

/// Flips a bit in a page of the table, while the server is down.
fn flip(live: &Live) {
    let path = live.server.psql("select pg_relation_filepath('t')");
    live.server.stop(Stop::Fast);
    let file = std::fs::OpenOptions::new().write(true).open(live.server.data().join(path));
    file.and_then(|file| file.write_all_at(b"\x01", 7 * 8192 + 5000)).expect("spoil a page");
    live.server.start();
}

#[test]
fn pages_are_judged_only_when_checksums_were_on_at_the_start_and_at_the_end() {
    let Some(live) = pretending() else {
        return;
    };
    flip(&live);
    for (start, end) in
        [("on", "off"), ("on", "inprogress-off"), ("off", "on"), ("inprogress-on", "on"), ("off", "off")]
    {
        pretend(&live, start, end);
        let outcome = live.backing_up().go().ok();
        let backup = live::json(&outcome);
        assert_eq!(backup["state"], "complete", "{start} {end}");
        let settings = record(&live, &backup)["settings"].clone();
        assert_eq!(settings["data_checksums"], false);
        assert_eq!(settings["checksum_states"], json!({"start": start, "end": end}));
        let shown = live.archive.walkeep(&["show", &live::text(&backup, "id")]).ok();
        if start != end {
            assert!(outcome.stderr.contains("are not verified"), "{outcome}");
            let words = format!("{start} at the start, {end} at the end");
            assert!(shown.stdout.contains(&words), "{shown}");
        }
    }
    pretend(&live, "on", "on");
    let outcome = live.backing_up().go().is(3);
    let settings = record(&live, &live::json(&outcome))["settings"].clone();
    assert_eq!(settings["data_checksums"], true);
    pretend(&live, "sideways", "on");
    live.backing_up().go().told().says("`sideways` is not a known state of data_checksums");
}

#[test]
fn a_parent_during_which_checksums_changed_lets_everything_be_read() {
    let Some(live) = pretending() else {
        return;
    };
    live.backup();
    let read = |start: &str, end: &str| {
        pretend(&live, start, end);
        let outcome = live.backing_up().go().ok();
        let backup = live::json(&outcome);
        let is_all = number(&backup, "read_bytes") > number(&backup, "size") / 10 * 9;
        assert_eq!(is_all, outcome.stderr.contains("data checksums were turned on or off"), "{outcome}");
        is_all
    };
    assert!(!read("on", "on"));
    // The state at its end is known only when the files have been read.
    assert!(!read("on", "inprogress-off"));
    assert!(read("inprogress-off", "off"));
    assert!(read("off", "off"));
    assert!(!read("off", "off"));
    assert!(read("on", "on"));
    assert!(!read("on", "on"));
}

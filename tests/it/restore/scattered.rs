//! Blocks of one file that lie in many backups: they come back right, and the file is not written
//! in more pieces for it.

use super::*;
use crate::support::live::Restored;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Backups, each after some pages were changed all over a table.
const GENERATIONS: u32 = 12;

struct Scattered {
    live: Live,
    /// The first and the last backup.
    ids: [String; 2],
    /// The file of the table, below the data directory.
    file: PathBuf,
}

fn scattered() -> Scattered {
    let live = Live::new();
    // Four rows a page, 32 MiB, and room for new versions in each page.
    live.server.psql(
        "create table s (i int, n int, filler text) with (fillfactor = 70, autovacuum_enabled = off); \
         alter table s alter filler set storage plain; \
         insert into s select i, 0, repeat(md5(i::text), 40) from generate_series(1, 16000) i",
    );
    let file = PathBuf::from(live.server.psql("select pg_relation_filepath('s')"));
    let first = live.backup_id();
    let mut last = first.clone();
    for generation in 1..=GENERATIONS {
        live.server.psql(&format!("update s set n = {generation} where i % 997 = {}", generation * 83));
        last = live.backup_id();
    }
    Scattered { live, ids: [first, last], file }
}

/// How many packs the table's blocks lie in, and in how many runs.
fn spread(scattered: &Scattered, id: &str) -> (usize, usize) {
    let manifest = live::manifest(scattered.live.archive.root(), id);
    let name = scattered.file.to_str();
    let file = manifest.iter().map(|line| &line["file"]).find(|file| file["path"].as_str() == name);
    let runs = file.and_then(|file| file["at"].as_array()).cloned().unwrap_or_default();
    let packs: BTreeSet<Option<u64>> = runs.iter().map(|run| run[0].as_u64()).collect();
    (packs.len(), runs.len())
}

#[test]
fn a_file_in_the_packs_of_many_backups_comes_back_in_as_few_writes_as_from_one() {
    let scattered = scattered();
    let Scattered { live, ids: [first, last], file } = &scattered;
    let (packs, runs) = spread(&scattered, last);
    assert!(
        packs > GENERATIONS as usize / 2 && runs > 150,
        "{packs} packs, {runs} runs: nothing is scattered"
    );
    let Some(strace) = Strace::new() else {
        return;
    };
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let strace = strace.trace("openat,pwrite64");
    let traced = strace.go(&restoring(&live.archive, &data, &[last, "--immediate"]));
    traced.outcome.clone().ok();
    let path = data.join(file);
    let writes =
        |call: &&strace::Call| call.name == "pwrite64" && call.descriptor_path() == Some(path.as_path());
    let opens = |call: &&strace::Call| call.name == "openat" && call.paths().contains(&path);
    let writes = traced.calls.iter().filter(writes).count();
    let opens = traced.calls.iter().filter(opens).count();
    let size = path.metadata().expect("look at the table").len();
    let frames = size.div_ceil(1 << 20) as usize;
    assert!((frames..frames * 2).contains(&writes), "{writes} writes for {size} bytes in {runs} runs");
    assert!(opens < frames, "opened {opens} times for {writes} writes");
    let restored = Restored { data, outcome: traced.outcome, scratch };
    let server = restored.verified().recovered();
    let sums = "select sum(i), sum(n), sum(hashtext(filler)) from s";
    assert_eq!(server.psql(sums), live.server.psql(sums));
    drop(server);

    // And over the state of the first backup.
    let restored = live.restore(&[first, "--immediate"]).verified();
    let report =
        restoring(&live.archive, &restored.data, &[last, "--immediate", "--delta", "--json"]).go().ok();
    let report: Value = live::json(&report);
    let number = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}"));
    assert!(number("kept") < number("bytes") && number("kept") > number("bytes") / 4, "{report}");
    assert_eq!(restored.verified().recovered().psql(sums), live.server.psql(sums));
}

#[test]
fn few_files_may_be_open_at_once_and_all_are_restored() {
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let data = scratch.join("data");
    let limited = ["sh", "-c", "ulimit -n 48; exec \"$@\"", "sh"];
    for arguments in [&["--jobs", "4", "--immediate"][..], &["--jobs", "4", "--immediate", "--delta"]] {
        restoring(&archive, &data, arguments).under(limited).go().ok();
        pg::tool("pg_verifybackup").arg(&data).go().ok();
    }
}

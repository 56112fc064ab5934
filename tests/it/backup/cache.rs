//! The page cache of the server's machine: what the server does not use is not brought into it, and
//! what it uses stays.

use super::*;
use rustix::fs::Advice;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Bytes of these files, and how many of them are in the page cache.
#[track_caller]
fn cached(files: &[PathBuf]) -> (u64, u64) {
    let outcome =
        Run::new("fincore").args(["--bytes", "--noheadings", "--output", "SIZE,RES"]).args(files).go().ok();
    let number =
        |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok()).expect("a number of fincore");
    let rows = outcome.stdout.lines().map(|line| {
        let mut words = line.split_whitespace();
        (number(words.next()), number(words.next()))
    });
    rows.fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1))
}

/// Empties the page cache of these files.
fn evict(files: &[PathBuf]) {
    for path in files {
        let file = File::open(path).expect("open a table");
        file.sync_all().expect("sync a table");
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).expect("empty the page cache");
    }
}

#[test]
fn a_backup_leaves_the_page_cache_as_it_was() {
    let Some(disk) = Scratch::on_disk() else {
        return;
    };
    let live = Live::with(Cluster::build().checksums(), |server| server.set("autovacuum", "off"));
    let server = &live.server;
    server.psql(&format!("create tablespace disk location '{}'", disk.mkdir("space").display()));
    let tables = |names: &[String], rows: u32| -> Vec<PathBuf> {
        let make = |name: &String| {
            let rows = format!("select i, repeat(md5(i::text), 30) from generate_series(1, {rows}) i");
            server.psql(&format!("create table {name} tablespace disk as {rows}"));
            server.data().join(server.psql(&format!("select pg_relation_filepath('{name}')")))
        };
        names.iter().map(make).collect()
    };
    let [cold, warm, half] = ["cold", "warm", "half"].map(|name| tables(&[name.to_owned()], 16_000));
    let small: Vec<String> = (0..20).map(|number| format!("small_{number}")).collect();
    let small = tables(&small, 300);
    server.psql("checkpoint");

    let all = [cold.clone(), warm.clone(), half.clone(), small.clone()];
    all.iter().for_each(|files| evict(files));
    drop(read(&warm[0]));
    let file = File::open(&half[0]).expect("open a table");
    rustix::fs::fadvise(&file, 0, None, Advice::Random).expect("read nothing ahead");
    let mut piece = vec![0; half[0].metadata().expect("look at a table").len() as usize / 2];
    file.read_exact_at(&mut piece, 0).expect("read a half");
    let before = all.clone().map(|files| cached(&files));
    let [(_, none), (size, whole), (_, part), (_, none_small)] = before;
    // A kernel may let go of some pages by itself, which is not what is asked here.
    let most = size / 3 * 2;
    assert!(size > 12 << 20 && none == 0 && none_small == 0 && whole > most, "{before:?}");
    assert!(part > size / 3 && part < size * 2 / 3, "{before:?}");

    for arguments in [vec![], vec!["--full"]] {
        live.backing_up().args(&arguments).go().ok();
        let after = all.clone().map(|files| cached(&files));
        for ((size, before), (_, after)) in before.into_iter().zip(after) {
            assert!(
                before.abs_diff(after) < size / 3,
                "{arguments:?}: {before} of {size} bytes were cached, {after} are"
            );
        }
    }
    // Whoever reads it in the ordinary way does fill the cache.
    drop(read(&cold[0]));
    let (size, now) = cached(&cold);
    assert!(now > size / 3 * 2, "{now} of {size}");
}

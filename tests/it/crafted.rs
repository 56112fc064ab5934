//! Repositories that were crafted: right hashes and headers, and content that no backup writes. For
//! each of them every verb ends in bounded time and memory with a status of the contract, writes
//! nothing but its target, and shows no control characters; and what a restore, a list or a
//! walfetch refuses, `verify` does not call good.

mod cases;
mod world;

use crate::support::live::restoring;
use crate::support::repo::Snapshot;
use crate::support::*;
use cases::Case;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use walkeep::pg::segment::WalName;
use world::{Crafted, World};

/// Copies that are worked on at once.
const AT_ONCE: usize = 2;

/// Bytes of writable memory that no verb may exceed, thread stacks included.
const MEMORY: u64 = 256 << 20;

/// Time that no verb may exceed.
const LIMIT: Duration = Duration::from_secs(20);

/// Minimum number of cases, of all tests together.
const LEAST: usize = 300;

/// Number of members with hostile values that are tried, of about 6000; with
/// `WALKEEP_TEST_SWEEP=all` all.
const SAMPLE: usize = 160;

/// Verbs that only read, of which each case runs two besides those that are compared.
const READING: [&[&str]; 11] = [
    &["show", "ID"],
    &["status"],
    &["metrics"],
    &["report", "--html", "HTML"],
    &["timelines"],
    &["prune", "--dry-run"],
    &["sync", "--from", "first", "--to", "second"],
    &["restore", "--to", "NEW", "--dry-run"],
    &["list", "--json"],
    &["verify", "--since-last", "--json"],
    &["restore", "--to", "NEW", "--immediate", "ID"],
];

/// Overwrites with bytes that have no meaning: always the same.
fn noise(bytes: &mut [u8]) {
    segment::noise(bytes, 77);
}

/// One case that runs.
struct Trial<'a> {
    world: &'a World,
    case: &'a Case,
    crafted: Crafted,
    archive: Archive,
    wrong: Vec<String>,
}

impl<'a> Trial<'a> {
    fn new(world: &'a World, case: &'a Case) -> Trial<'a> {
        let crafted = world.copy();
        let second = crafted.scratch.join("second");
        let identity = crafted.scratch.mkdir("second/main/identity");
        crafted.scratch.mkdir("second/main");
        crafted.scratch.mkdir("second");
        crafted.scratch.mkdir("outside");
        let name = format!("{}-15", crafted.system);
        scratch::write(&identity.join(&name), read(crafted.path(&format!("identity/{name}"))));
        (case.change)(&crafted);
        let archive = Archive::build(world.server.data()).root(&crafted.root).root(second).optional(1);
        let archive = archive.connection(world.server.connection()).unregistered();
        Trial { world, case, crafted, archive, wrong: Vec::new() }
    }

    /// Runs a program below the limits. Returns its status; `None` when it did not end by itself.
    fn run(&mut self, run: Run, name: &str, statuses: &[i32]) -> Option<i32> {
        let limit = format!("--data={MEMORY}");
        let seconds = LIMIT.as_secs().to_string();
        let outcome =
            run.under(["timeout", "-s", "KILL", &seconds, "prlimit", &limit]).deadline(3 * LIMIT).go();
        let status = outcome.code().filter(|status| statuses.contains(status));
        let tail = |text: &str| {
            text.chars().rev().take(600).collect::<Vec<_>>().into_iter().rev().collect::<String>()
        };
        let said = format!("{}\n{}", tail(&outcome.stdout), tail(&outcome.stderr));
        if status.is_none() {
            self.wrong(format!("{name} ended with {:?}\n{said}", outcome.status));
        }
        if outcome.stderr.contains("panicked at") || outcome.stderr.contains("internal error") {
            self.wrong(format!("{name} has a defect\n{said}"));
        }
        let text = if name.contains("--json") {
            &outcome.stderr
        } else {
            &format!("{}{}", outcome.stdout, outcome.stderr)
        };
        if let Some(control) = text.chars().find(|found| is_control(*found)) {
            self.wrong(format!("{name} shows {control:?}\n{}", said.escape_debug()));
        }
        if status.is_some_and(|status| status != 0)
            && outcome.stderr.trim().is_empty()
            && outcome.stdout.trim().is_empty()
        {
            self.wrong(format!("{name} does not say what is wrong"));
        }
        status
    }

    fn walkeep(&mut self, arguments: &[&str]) -> Option<i32> {
        let run = self.archive.run("walkeep").args(arguments).cwd("/");
        self.run(run, &arguments.join(" "), &[0, 1, 2, 3, 4])
    }

    fn wrong(&mut self, what: String) {
        self.wrong.push(format!("{}: {what}", self.case.name));
    }

    /// Restores into a new directory, and looks at everything else.
    fn restore(&mut self) -> Option<i32> {
        let before = self.surroundings();
        let to = self.crafted.scratch.join("restored");
        let status = self.run(restoring(&self.archive, &to, &[]), "restore", &[0, 1, 2, 3, 4]);
        if self.surroundings() != before {
            self.wrong("restore changed something outside of its target".to_owned());
        }
        status
    }

    /// Everything beside the repository and the target.
    fn surroundings(&self) -> Snapshot {
        let names = self.crafted.scratch.join("outside");
        let mut entries: Vec<_> = std::fs::read_dir(self.crafted.scratch.path())
            .expect("list")
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| name != "restored")
            .collect();
        entries.sort();
        assert!(!entries.is_empty());
        scratch::write(&names.join("names"), format!("{entries:?}"));
        Snapshot::of(&names)
    }

    /// Runs everything, `number` decides which of the other verbs.
    fn go(mut self, number: usize, all: bool) -> (Vec<String>, bool) {
        let list = self.walkeep(&["list"]);
        let quick = self.walkeep(&["verify", "--quick", "--repository", "first"]);
        let verify = self.walkeep(&["verify", "--repository", "first"]);
        let restore = self.restore();
        let restored = self.crafted.scratch.join("restored");
        if verify == Some(0) {
            if restore != Some(0) {
                self.wrong(format!("verify says good, restore ends with {restore:?}"));
            } else {
                self.check_content(&restored);
            }
            if list != Some(0) {
                self.wrong(format!("verify says good, list ends with {list:?}"));
            }
            self.fetch_all();
        }
        if quick == Some(1) && verify == Some(0) {
            self.wrong("verify --quick fails, verify does not".to_owned());
        }
        let count = READING.len();
        let chosen: Vec<usize> =
            if all { (0..count).collect() } else { vec![number % count, (number + 5) % count] };
        for index in chosen {
            let (html, new) =
                (self.crafted.scratch.join("page"), self.crafted.scratch.join(format!("new{index}")));
            let (html, new) = (html.display().to_string(), new.display().to_string());
            let id = self.crafted.full.clone();
            let words: Vec<&str> = READING[index]
                .iter()
                .map(|word| match *word {
                    "ID" => &id[..],
                    "HTML" => &html,
                    "NEW" => &new,
                    other => other,
                })
                .collect();
            self.walkeep(&words);
        }
        (self.wrong, verify == Some(0))
    }

    /// Checks a restored directory by PostgreSQL's own program.
    fn check_content(&mut self, data: &Path) {
        let verify = pg::tool_for(data, "pg_verifybackup").expect("pg_verifybackup");
        let outcome = verify.arg(data).go();
        if outcome.code() != Some(0) {
            self.wrong(format!("verify says good, pg_verifybackup does not: {outcome}"));
        }
    }

    /// Fetches every WAL file that is there: where verify says good, none may be damaged or a hole.
    fn fetch_all(&mut self) {
        let mut names = self.crafted.segments();
        names.retain(|name| !self.world.segments.contains(name));
        let histories = self.crafted.keys("wal/history/");
        names.extend(
            histories
                .iter()
                .filter_map(|key| key.rsplit('/').next())
                .filter(|name| name.ends_with(".history"))
                .map(str::to_owned),
        );
        // An object under another name is none.
        names.retain(|name| name.parse::<WalName>().is_ok());
        for name in names {
            let to = self.crafted.scratch.join("fetched");
            let run = self.archive.fetching(&name, &to);
            if self.run(run, &format!("walfetch {name}"), &[0, 1, 200]) != Some(0) {
                self.wrong(format!("verify says good, walfetch does not deliver {name}"));
            }
        }
    }
}

/// Whether a terminal obeys a character.
fn is_control(found: char) -> bool {
    (found.is_control() && !matches!(found, '\n' | '\t'))
        || matches!(found, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// Runs cases, and fails with everything that is wrong.
#[track_caller]
fn check(world: &World, cases: &[Case]) {
    let all = is_whole_sweep();
    let only = std::env::var("WALKEEP_TEST_CRAFTED").unwrap_or_default();
    let (next, good) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(number) else {
                        break;
                    };
                    if !only.split('|').any(|only| case.name.contains(only)) {
                        continue;
                    }
                    let begun = std::time::Instant::now();
                    let (found, is_good) = Trial::new(world, case).go(number, all);
                    good.fetch_add(usize::from(is_good), Ordering::Relaxed);
                    if begun.elapsed() > Duration::from_secs(4) {
                        println!("{}: {:?}", case.name, begun.elapsed());
                    }
                    wrong.lock().expect("no panic").extend(found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic");
    println!("{} cases, {} of them good", cases.len(), good.into_inner());
    assert!(wrong.is_empty(), "{} are wrong:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn whatever_members_of_objects_say_nothing_hangs_and_verify_agrees_with_restore() {
    let world = World::get();
    let crafted = world.copy();
    let mut cases = cases::of_members(&crafted);
    if !is_whole_sweep() {
        let step = cases.len() / SAMPLE;
        let mut number = 0;
        cases.retain(|_| {
            number += 1;
            number % step == 0
        });
    }
    let others =
        [cases::of_paths(), cases::of_wal(&crafted), cases::of_objects(&crafted), cases::of_size(&crafted)];
    assert!(cases.len() + others.iter().map(Vec::len).sum::<usize>() >= LEAST);
    check(&world, &cases);
}

#[test]
fn whatever_a_manifest_describes_a_restore_writes_what_it_may_and_verify_agrees() {
    check(&World::get(), &cases::of_paths());
}

#[test]
fn whatever_the_wal_is_verify_agrees_with_restore_and_walfetch() {
    let world = World::get();
    check(&world, &cases::of_wal(&world.copy()));
}

#[test]
fn whatever_is_in_the_place_of_an_object_nothing_hangs_and_verify_agrees() {
    let world = World::get();
    check(&world, &cases::of_objects(&world.copy()));
}

#[test]
fn whatever_sizes_are_claimed_memory_and_time_are_bounded() {
    let world = World::get();
    check(&world, &cases::of_size(&world.copy()));
}

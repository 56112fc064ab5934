//! The oracle: whatever happens to the archive, a recovered server shows all 6 000 rows, or it does
//! not come up. Never another number.

use super::repo::{Damage, damage, swap};
use super::*;
use crate::support::oracle::{ALL, Oracle, rows};
use std::path::Path;
use std::sync::Mutex;

/// What a case does to the archive; the path is the object of the segment in the middle.
type Harm = Box<dyn Fn(&Archive, &Path) + Sync + Send>;

fn harm(kind: Damage) -> Harm {
    Box::new(move |_, object| damage(object, kind))
}

#[test]
fn damaged_wal_gives_all_rows_or_no_server() {
    let oracle = Oracle::new(5);
    let middle = oracle.segments[2].clone();
    let neighbour = oracle.segments[3].clone();
    let cases: Vec<(&str, Harm)> = vec![
        ("nothing", Box::new(|_, _| {})),
        ("a byte of the header", harm(Damage::Flip(30))),
        ("a byte in front of the middle", harm(Damage::Flip(600))),
        ("a byte at the end", harm(Damage::Flip(-9))),
        ("cut in the header", harm(Damage::Truncate(200))),
        ("cut before the end", harm(Damage::Truncate(-50))),
        ("a tail of zeros", harm(Damage::ZeroTail(2000))),
        ("removed", harm(Damage::Remove)),
        ("emptied", harm(Damage::Empty)),
        (
            "swapped with its neighbour",
            Box::new(move |archive, object| swap(object, &archive.object(&neighbour))),
        ),
        (
            "the repository gone",
            Box::new(|archive, _| {
                let root = archive.root();
                std::fs::rename(root, root.with_extension("away")).expect("move the repository away");
            }),
        ),
        (
            "an empty directory instead of the repository",
            Box::new(|archive, _| {
                let root = archive.root();
                std::fs::rename(root, root.with_extension("away")).expect("move the repository away");
                std::fs::create_dir(root).expect("make a mount point");
                account::give(root);
            }),
        ),
    ];
    let wrong = Mutex::new(Vec::new());
    let cases = Mutex::new(cases.into_iter());
    let work = || {
        loop {
            let next = cases.lock().expect("the cases").next();
            let Some((what, harm)) = next else {
                return;
            };
            if let Err(story) = one_case(&oracle, &middle, what == "nothing", &harm) {
                wrong.lock().expect("the failures").push(format!("{what}: {story}"));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    let wrong = wrong.into_inner().expect("the failures");
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}

fn one_case(oracle: &Oracle, middle: &str, harmless: bool, harm: &Harm) -> Result<(), String> {
    let (server, archive) = oracle.copy("recovery.signal", |build| build);
    harm(&archive, &archive.object(middle));
    let story = |what: String| Err(format!("{what}\n{}", server.log_text()));
    match rows(&server) {
        Some(count) if count == ALL => return Ok(()),
        Some(count) => return story(format!("{count} rows")),
        None if harmless => return story("an intact archive did not recover".into()),
        None => {}
    }
    if !server.log_text().contains("exit code 200") {
        return story("it went down for another reason".into());
    }
    // Repaired, the same directory recovers everything, on the first new timeline.
    let _ = std::fs::remove_dir_all(archive.root());
    scratch::copy_tree(&oracle.repository, archive.root());
    match rows(&server) {
        Some(count) if count == ALL => {}
        other => return story(format!("repaired: {other:?}")),
    }
    let timeline = server.psql("select timeline_id from pg_control_checkpoint()");
    if timeline != "2" {
        return story(format!("repaired: timeline {timeline}"));
    }
    Ok(())
}

#[test]
fn a_repository_that_goes_away_in_the_middle_gives_all_rows_or_no_server() {
    let oracle = Oracle::new(5);
    // A quote, a space and a percent sign in the path of the configuration have to survive two
    // layers of quoting.
    let (server, archive) =
        oracle.copy("recovery.signal", |build| build.config_name("it's 100% walkeep.toml"));
    let (root, away) = (archive.root().to_owned(), archive.root().with_extension("away"));
    let vanish = format!(
        "if test %f = {}; then mv {} {}; fi; {}",
        oracle.segments[2],
        repo::quoted(&root),
        repo::quoted(&away),
        archive.restore_command()
    );
    server.set("restore_command", &vanish);
    assert_eq!(rows(&server), None, "{}", server.log_text());
    assert!(server.log_text().contains("exit code 200"), "{}", server.log_text());
    std::fs::rename(&away, &root).expect("bring the repository back");
    server.set("restore_command", &archive.restore_command());
    assert_eq!(rows(&server).as_deref(), Some(ALL), "{}", server.log_text());
}

#[test]
fn an_outage_of_history_files_alone_starts_no_wrong_timeline() {
    let oracle = Oracle::new(5);
    let (server, archive) = oracle.copy("recovery.signal", |build| build);
    // Everything else is served; a history file never.
    let nowhere = archive.scratch().join("nowhere.toml");
    let text = std::fs::read_to_string(archive.config()).expect("read the configuration");
    let root = archive.root().display().to_string();
    scratch::write(&nowhere, text.replace(&root, &format!("{root}-away")));
    let usual = archive.restore_command();
    let failing = usual.replace("walkeep.toml", "nowhere.toml");
    server.set("restore_command", &format!("case %f in *.history) {failing};; *) {usual};; esac"));
    assert_eq!(rows(&server), None, "{}", server.log_text());
    server.set("restore_command", &usual);
    assert_eq!(rows(&server).as_deref(), Some(ALL), "{}", server.log_text());
}

#[test]
fn the_restore_command_needs_no_environment() {
    let oracle = Oracle::new(5);
    let (server, archive) =
        oracle.copy("recovery.signal", |build| build.config_name("it's 100% walkeep.toml"));
    let command = archive
        .restore_command()
        .replace("%f", &oracle.segments[0])
        .replace("%p", "pg_wal/RECOVERYXLOG")
        .replace("%%", "%");
    let run = Run::new("/usr/bin/env").args(["-i", "/bin/sh", "-c", &command]);
    run.cwd(server.data()).go().ok();
    assert!(archive.destination().exists());
}

#[test]
fn a_standby_survives_an_outage_and_damage_and_catches_up() {
    let oracle = Oracle::new(5);
    let (server, archive) = oracle.copy("standby.signal", |build| build);
    // It needs the first segments to become consistent; what comes behind them is away at first.
    let object = archive.object(&oracle.segments[1]);
    let intact = read(&object);
    damage(&object, Damage::Flip(-9));
    server.start();
    server.await_sql("select count(*) from t", "2000");
    until("the damage is in the log", || server.log_text().contains("walfetch: "));
    assert!(server.is_up());

    let (root, away) = (archive.root().to_owned(), archive.root().with_extension("away"));
    std::fs::rename(&root, &away).expect("move the repository away");
    let seen = server.log_text().matches("walfetch: ").count();
    until("the outage is in the log", || server.log_text().matches("walfetch: ").count() > seen + 2);
    assert_eq!(server.psql("select count(*) from t"), "2000");

    let object = away.join(object.strip_prefix(&root).expect("a path in the repository"));
    std::fs::remove_file(&object).expect("remove the object");
    scratch::write(&object, intact);
    std::fs::rename(&away, &root).expect("bring the repository back");
    server.await_sql("select count(*) from t", ALL);
    assert_eq!(server.psql("select pg_is_in_recovery()"), "t");
}

#[test]
fn promoting_a_standby_during_an_outage_gives_all_rows_or_no_server() {
    let oracle = Oracle::new(5);
    let (server, archive) = oracle.copy("standby.signal", |build| build);
    // Long pauses between the attempts: the promotion falls into one of them.
    server.set("wal_retrieve_retry_interval", "3s");
    let object = archive.object(&oracle.segments[2]);
    let intact = read(&object);
    damage(&object, Damage::Flip(-9));
    server.start();
    server.await_sql("select count(*) from t", "3000");
    let seen = server.log_text().matches("walfetch: ").count();
    until("an attempt has just failed", || server.log_text().matches("walfetch: ").count() > seen);
    let promote = pg::tool("pg_ctl").arg("-D").arg(server.data());
    promote.args(["-w", "-t", "20", "promote"]).go();
    until("the server is down or promoted", || {
        let recovered = server.try_psql("select pg_is_in_recovery()");
        !server.is_up() || recovered.stdout.trim() == "f"
    });
    assert!(!server.is_up(), "{} rows", server.psql("select count(*) from t"));

    std::fs::remove_file(&object).expect("remove the object");
    scratch::write(&object, intact);
    let _ = std::fs::remove_file(server.data().join("promote"));
    server.start();
    server.await_sql("select count(*) from t", ALL);
}

#[test]
fn a_stopped_server_leaves_no_fetch_behind_that_writes_later() {
    let oracle = Oracle::new(5);
    let (server, archive) = oracle.copy("standby.signal", |build| build);
    let Some(strace) = Strace::new() else {
        return;
    };
    // The third segment comes slowly: each call on its object takes a second and a half.
    let strace =
        strace.detached().only(&archive.object(&oracle.segments[2])).inject("all:delay_enter=1500000");
    let words: Vec<String> = strace.prefix().iter().map(|word| repo::quoted(Path::new(word))).collect();
    let usual = archive.restore_command();
    server.set(
        "restore_command",
        &format!(
            "if test %f = {}; then exec {} {usual}; else exec {usual}; fi",
            oracle.segments[2],
            words.join(" ")
        ),
    );
    server.start();
    let fetch = strace.await_call();
    server.stop(Stop::Fast);
    let copy = archive.destination();
    until("the fetch is gone", || !wait::is_running(fetch));
    assert!(!copy.exists(), "a file appeared after the stop\n{}", strace.text());
    assert!(oracle.scratch.path().exists());
}

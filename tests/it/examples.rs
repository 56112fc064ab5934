//! The files of `postgresql-conf-examples`: PostgreSQL, cron, systemd and walkeep read what people
//! copy.

use crate::support::pg::tool;
use crate::support::repo::{self, Archive};
use crate::support::{Cluster, Run, Stop, read, run, skipped};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Each has a service and a timer.
const UNITS: [&str; 5] = ["backup", "verify", "drill", "status", "report"];

/// How long a drill may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(180);

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("postgresql-conf-examples")
}

fn example(name: &str) -> String {
    String::from_utf8(read(directory().join(name))).expect("an example in UTF-8")
}

/// An example for these programs and this configuration instead of the installed ones.
fn here(name: &str, archive: &Archive) -> String {
    let installed = |program: &str| format!("/usr/local/bin/{program} ");
    let ours = |program: &str| {
        format!("{} --config {} ", run::program(program).display(), archive.config().display())
    };
    example(name)
        .replace(&installed("walpush"), &ours("walpush"))
        .replace(&installed("walfetch"), &ours("walfetch"))
        .replace(&installed("walkeep"), &ours("walkeep"))
        .replace("/var/lib/postgresql/", &format!("{}/", archive.scratch().path().display()))
}

/// The settings of a fragment, also those that a `#` right before the name turns off.
fn settings(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
    lines
        .filter_map(|line| line.split_once(" = "))
        .filter(|(name, _)| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
        .collect()
}

/// Puts a fragment beside the data directory and includes it.
fn include(server: &Cluster, name: &str, text: &str) {
    server.set("include", &server.scratch().write(name, text).display().to_string());
}

#[test]
fn each_example_has_a_test_here() {
    let mut names: Vec<String> = repo::files(&directory())
        .iter()
        .map(|path| path.strip_prefix(directory()).expect("a file of it").display().to_string())
        .collect();
    names.sort();
    let tested = [
        "alerts.yml",
        "archive.conf",
        "crontab",
        "restore.conf",
        "standby.conf",
        "systemd/walkeep-backup.service",
        "systemd/walkeep-backup.timer",
        "systemd/walkeep-drill.service",
        "systemd/walkeep-drill.timer",
        "systemd/walkeep-report.service",
        "systemd/walkeep-report.timer",
        "systemd/walkeep-status.service",
        "systemd/walkeep-status.timer",
        "systemd/walkeep-verify.service",
        "systemd/walkeep-verify.timer",
        "walkeep.toml",
    ];
    assert_eq!(names, tested);
}

#[test]
fn postgres_understands_each_setting_of_each_fragment() {
    let server = Cluster::build().create();
    let conf = server.data().join("postgresql.conf");
    let before = read(&conf);
    for fragment in ["archive.conf", "restore.conf", "standby.conf"] {
        let text = example(fragment);
        let all = settings(&text);
        assert!(all.len() > 3, "{fragment}: {all:?}");
        for (name, value) in all {
            // Alone, since only one recovery target may be set.
            std::fs::write(&conf, &before).expect("write postgresql.conf");
            let alone = server.scratch().write("alone.conf", format!("{name} = '{value}'\n"));
            server.set("include", &alone.display().to_string());
            let shown = tool("postgres").arg("-D").arg(server.data()).args(["-C", &name]).go().ok();
            let number = value.trim_end_matches('s');
            assert!([value.as_str(), number].contains(&shown.stdout.trim()), "{fragment}: {name}\n{shown}");
        }
        // And together, as they stand there.
        std::fs::write(&conf, &before).expect("write postgresql.conf");
        include(&server, fragment, &text);
        tool("postgres").arg("-D").arg(server.data()).args(["-C", "archive_mode"]).go().ok();
    }
}

#[test]
fn archive_conf_archives_and_cron_and_systemd_back_up() {
    let server = Cluster::build().create();
    let archive = Archive::build(server.data()).connection(server.connection()).create();
    include(&server, "archive.conf", &here("archive.conf", &archive));
    server.start();
    assert_eq!(server.psql("show archive_timeout"), "1min");
    let segment = server.switch_wal();
    server.await_archived(&segment);
    assert!(archive.find(&segment).is_some(), "{segment} is not there");

    let commands = crontab(&here("crontab", &archive));
    for verb in ["backup --prune", "verify", "drill", "check", "status", "report"] {
        assert!(commands.iter().any(|command| command.contains(&format!(" {verb} "))), "{commands:?}");
    }
    for command in commands {
        let outcome = Run::new("/bin/sh").args(["-c", &command]).deadline(PATIENCE).go().ok();
        assert_eq!(outcome.stdout + &outcome.stderr, "", "cron would send a mail about {command}");
    }

    for unit in UNITS {
        let text = here(&format!("systemd/walkeep-{unit}.service"), &archive);
        let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("an ExecStart");
        let run = Run::new(start.split(' ').next().expect("a program")).args(start.split(' ').skip(1));
        run.deadline(PATIENCE).go().ok();
    }
    let list = archive.walkeep(&["list", "--json"]).ok();
    let list: serde_json::Value = serde_json::from_str(&list.stdout).expect("JSON of walkeep list");
    let backups = list["repositories"][0]["backups"].as_array().expect("its backups");
    assert_eq!(backups.len(), 2, "{list}");
}

/// The commands of a crontab, whose times are checked.
fn crontab(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let first = line.split(['=', ' ']).next().unwrap_or(line);
        if first.bytes().all(|b| b.is_ascii_uppercase()) && line[first.len()..].starts_with('=') {
            continue;
        }
        let mut rest = line;
        for (field, last) in [("minute", 59), ("hour", 23), ("day", 31), ("month", 12), ("weekday", 7)] {
            let (value, behind) = rest.split_once(' ').unwrap_or_else(|| panic!("no {field} in {line:?}"));
            let fine = value == "*" || value.parse::<u32>().is_ok_and(|number| number <= last);
            assert!(fine, "{field} {value:?} in {line:?}");
            rest = behind.trim_start();
        }
        // cron turns it into a line break.
        assert!(!rest.contains('%'), "{line:?}");
        commands.push(rest.to_owned());
    }
    commands
}

#[test]
fn restore_conf_recovers_all_that_was_archived() {
    let (server, archive, copy) = copied();
    server.psql("insert into t select generate_series(1001, 3000)");
    server.await_archived(&server.switch_wal());
    include(&copy, "restore.conf", &here("restore.conf", &archive));
    copy.touch("recovery.signal");
    copy.start();
    copy.await_sql("select not pg_is_in_recovery()", "t");
    assert_eq!(copy.psql("select count(*) from t"), "3000");
    assert_eq!(copy.psql("show archive_mode"), "off");
}

#[test]
fn standby_conf_follows_the_archive_and_the_primary_and_archives_when_promoted() {
    let (server, archive, copy) = copied();
    server.psql("insert into t select generate_series(1001, 3000)");
    server.await_archived(&server.switch_wal());
    server.stop(Stop::Fast);
    let text = here("standby.conf", &archive);
    let primary = format!("host={} user=postgres", server.socket().display());
    let text = text.replace("host=primary.example.com port=5432 user=replicator", &primary);
    assert!(text.contains(&primary), "standby.conf names another primary now");
    include(&copy, "standby.conf", &text);
    copy.touch("standby.signal");
    copy.start();
    // By the archive, while there is no primary.
    copy.await_sql("select count(*) from t", "3000");
    server.start();
    copy.await_sql("select status from pg_stat_wal_receiver", "streaming");
    server.psql("insert into t values (0)");
    copy.await_sql("select count(*) from t", "3001");
    server.stop(Stop::Fast);
    copy.promote();
    copy.psql("insert into t values (0)");
    let segment = copy.switch_wal();
    copy.await_archived(&segment);
    assert!(segment.starts_with("00000002"), "{segment}");
    assert!(archive.find(&segment).is_some() && archive.find("00000002.history").is_some());
}

/// A server that archives, with a table `t` of 1000 rows, and a copy of it.
fn copied() -> (Cluster, Archive, Cluster) {
    let server = Cluster::build().create();
    let archive = Archive::build(server.data()).connection(server.connection()).create();
    include(&server, "archive.conf", &here("archive.conf", &archive));
    server.start();
    server.psql("create table t as select generate_series(1, 1000) n");
    let scratch = crate::support::Scratch::new();
    let data = scratch.join("copy");
    server.base_backup(&data);
    (server, archive, Cluster::over(scratch, data))
}

#[test]
fn walkeep_toml_is_valid_and_complete() {
    let scratch = crate::support::Scratch::new();
    let config = |text: &str| {
        let path = scratch.write("walkeep.toml", text);
        let shown = Run::of("walkeep").arg("--config").arg(path).args(["config", "--json"]).go().ok();
        serde_json::from_str::<serde_json::Value>(&shown.stdout).expect("JSON of walkeep config")
    };
    let text = example("walkeep.toml");
    for setting in config(&text)["settings"].as_array().expect("settings") {
        let shown = setting["value"].is_null() || setting["source"] != "default";
        assert!(shown, "the example says nothing of {setting}");
    }
    // What is commented out is right too.
    let off = |line: &str| line.starts_with('#') && line.contains(" = ");
    let all: String =
        text.lines().map(|line| format!("{}\n", if off(line) { &line[1..] } else { line })).collect();
    for setting in config(&all)["settings"].as_array().expect("settings") {
        assert!(!setting["value"].is_null(), "the example says nothing of {setting}");
    }
}

#[test]
fn systemd_accepts_the_units() {
    let scratch = crate::support::Scratch::new();
    let names = UNITS.map(|unit| [format!("walkeep-{unit}.service"), format!("walkeep-{unit}.timer")]);
    let names: Vec<String> = names.into_iter().flatten().collect();
    let units = names.iter().map(|name| {
        let program = format!("{} ", run::program("walkeep").display());
        let text = example(&format!("systemd/{name}")).replace("/usr/local/bin/walkeep ", &program);
        scratch.write(name, text)
    });
    let units: Vec<PathBuf> = units.collect();
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        return skipped("systemd", "systemd-analyze is not installed");
    }
    let outcome = Run::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).go();
    if outcome.stderr.contains("Failed to initialize manager") {
        return skipped("systemd", "systemd-analyze does not work here");
    }
    let complaints: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("walkeep")).collect();
    assert_eq!(complaints, [""; 0], "{outcome}");
    // It has to see a mistake, or it proves nothing.
    let wrong = scratch.write("walkeep-wrong.timer", "[Timer]\nOnCalendar=never\n");
    let outcome = Run::new("systemd-analyze").args(["verify", "--man=no"]).arg(wrong).go();
    assert!(outcome.stderr.contains("calendar specification"), "{outcome}");
}

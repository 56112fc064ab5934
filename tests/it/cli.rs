//! The command line of `walkeep`: help that helps, statuses that mean something, bad input that
//! changes nothing.

use crate::support::repo::{self, Snapshot};
use crate::support::*;

const SYSTEM: u64 = 7_300_000_000_000_000_001;

/// A cluster whose server is down, registered.
fn site() -> (Scratch, DataDir, Archive) {
    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 15, SYSTEM, 1);
    let archive = Archive::build(&data.path).connection("host=/nowhere user=postgres").create();
    (scratch, data, archive)
}

fn verbs() -> Vec<String> {
    let help = Run::of("walkeep").arg("--help").go().ok().stdout;
    let (_, commands) = help.split_once("Commands:").expect("a list of verbs");
    let commands = commands.split("\n\n").next().expect("a list of verbs").to_owned();
    // Further lines of a description are indented deeper.
    let verbs = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let verbs = verbs.filter_map(|line| line.split_whitespace().next().map(str::to_owned));
    verbs.filter(|verb| verb != "help").collect()
}

#[test]
fn every_verb_has_help_with_a_text() {
    let verbs = verbs();
    for verb in ["init", "check", "backup", "list", "show", "restore", "config", "completions", "man"] {
        assert!(verbs.iter().any(|known| known == verb), "{verb} is not among {verbs:?}");
    }
    for verb in verbs {
        let outcome = Run::of("walkeep").args([&verb, "--help"]).go().ok();
        let first = outcome.stdout.lines().next().unwrap_or_default();
        assert!(
            first.len() > 15 && !first.starts_with("Usage"),
            "{verb} does not say what it does\n{outcome}"
        );
        assert!(outcome.stdout.contains("Usage: walkeep"), "{outcome}");
        assert_eq!(outcome.stderr, "", "{outcome}");
        // Each option says what it is.
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.trim_start().starts_with("--"))
        {
            let said =
                line.trim().split("  ").count() > 1 || lines.get(number + 1).is_some_and(|l| l.len() > 10);
            assert!(said, "{verb}: {line:?} says nothing\n{outcome}");
        }
    }
    for program in ["walpush", "walfetch", "walkeep"] {
        let help = Run::of(program).arg("--help").go().ok();
        assert!(help.stdout.lines().count() > 5, "{help}");
        let version = Run::of(program).arg("--version").go().ok();
        assert!(version.stdout.starts_with(&format!("{program} ")), "{version}");
    }
}

#[test]
fn the_statuses_stand_in_the_help() {
    let help = Run::of("walkeep").arg("--help").go().ok().stdout;
    for word in ["Exit status", "0 done", "1 ", "2 ", "3 ", "4 "] {
        assert!(help.contains(word), "no {word:?} in\n{help}");
    }
    for program in ["walpush", "walfetch"] {
        let help = Run::of(program).arg("--help").go().ok().stdout;
        assert!(help.to_lowercase().contains("exit status"), "{help}");
    }
}

#[test]
fn no_option_takes_a_secret() {
    for verb in verbs() {
        let help = Run::of("walkeep").args([&verb, "--help"]).go().ok().stdout.to_lowercase();
        for word in ["--password", "--secret", "--key", "--token"] {
            assert!(!help.contains(word), "{verb} {word}");
        }
    }
}

#[test]
fn wrong_usage_has_status_2_and_changes_nothing() {
    let (_scratch, data, archive) = site();
    let before = (archive.snapshot(), Snapshot::of(&data.path));
    for arguments in [
        vec![],
        vec!["frobnicate"],
        vec!["backup", "--frobnicate"],
        vec!["backup", "--jobs", "0"],
        vec!["backup", "--jobs", "many"],
        vec!["backup", "--checkpoint", "slow"],
        vec!["backup", "--archive-timeout", "5"],
        vec!["backup", "--wait=soon"],
        vec!["backup", "extra"],
        vec!["restore"],
        vec!["restore", "--to"],
        vec!["show"],
        vec!["list", "--repository"],
        vec!["list", "--quiet", "--verbose"],
        vec!["completions", "klingon"],
        vec!["check", "--timeout", "-3s"],
    ] {
        let outcome = archive.run("walkeep").args(&arguments).go().is(2);
        assert_ne!(outcome.stderr.trim(), "", "{outcome}");
        assert_eq!(outcome.stdout, "", "{outcome}");
    }
    assert!((archive.snapshot(), Snapshot::of(&data.path)) == before);
}

#[test]
fn a_wrong_configuration_has_status_2_and_a_hint_for_every_verb() {
    let (scratch, data, archive) = site();
    let good = String::from_utf8(read(archive.config())).expect("text");
    let cases = [
        ("unknown key", format!("{good}\n[backup]\njobz = 2\n"), "jobs"),
        ("no cluster", "[[repository]]\nname = \"a\"\nurl = \"file:///tmp\"\n".to_owned(), "cluster"),
        ("no repository", "[cluster.main]\npgdata = \"/nowhere\"\n".to_owned(), "repository"),
        ("no TOML", "this is no TOML".to_owned(), "line"),
        ("relative", good.replace("file:///", "file://relative/"), "absolute"),
    ];
    let before = (archive.snapshot(), Snapshot::of(&data.path));
    for (what, text, word) in cases {
        let config = scratch.write("bad.toml", text);
        for verb in [
            vec!["init"],
            vec!["check"],
            vec!["backup"],
            vec!["list"],
            vec!["show", "latest"],
            vec!["restore", "--to", "/tmp/walkeep-never"],
            vec!["config"],
        ] {
            let outcome = Run::of("walkeep").arg("--config").arg(&config).args(&verb).cwd(&data.path).go();
            let outcome = outcome.is(2).told();
            assert!(outcome.stderr.contains(word), "{what}, {verb:?}: no {word:?}\n{outcome}");
            assert_eq!(outcome.stdout, "", "{outcome}");
        }
    }
    let outcome = Run::of("walkeep").args(["--config", "/nowhere/walkeep.toml", "list"]).go().is(2).told();
    assert!(
        outcome.stderr.contains("/nowhere/walkeep.toml") && outcome.stderr.contains("hint:"),
        "{outcome}"
    );
    archive.run("walkeep").args(["--cluster", "other", "list"]).go().is(2).told().says("main");
    archive.run("walkeep").args(["list", "--repository", "other"]).go().is(2).told().says("first");
    assert!((archive.snapshot(), Snapshot::of(&data.path)) == before);
    assert!(!std::path::Path::new("/tmp/walkeep-never").exists());
}

#[test]
fn bad_places_are_named_with_a_hint_and_nothing_changes() {
    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 15, SYSTEM, 1);
    let empty = scratch.mkdir("empty");
    let file = scratch.write("file", "x");
    let cases = [("no directory", scratch.join("nothing")), ("no PGDATA", empty), ("a file", file)];
    for (what, pgdata) in cases {
        let archive = Archive::build(&pgdata).unregistered();
        let run = Run::of("walkeep").arg("--config").arg(archive.config()).arg("init");
        let outcome = run.go().failed();
        assert!(outcome.stderr.contains("hint:"), "{what}\n{outcome}");
        assert!(outcome.stderr.contains(&pgdata.display().to_string()), "{what}\n{outcome}");
        assert_eq!(repo::files(archive.root()), Vec::<std::path::PathBuf>::new(), "{what}");
    }
    // Another cluster in a repository that is registered already.
    let archive = Archive::of(&data.path);
    let other = DataDir::create(&scratch, "other", 15, SYSTEM + 1, 1);
    let before = archive.snapshot();
    let second = Archive::build(&other.path).root(archive.root()).unregistered();
    second.init().failed().says("hint:");
    second.push(other.write(&other.segment(3))).refused().says("hint:");
    assert!(archive.snapshot() == before);
    // Again on the same one: nothing changes.
    archive.init().ok();
    assert!(archive.snapshot() == before);
}

#[test]
fn a_server_that_cannot_be_reached_is_reported_by_backup_and_check() {
    let (_scratch, data, archive) = site();
    let before = (archive.snapshot(), Snapshot::of(&data.path));
    let outcome = archive.walkeep(&["backup"]).is(1).told();
    assert!(outcome.stderr.contains("/nowhere") && outcome.stderr.contains("hint:"), "{outcome}");
    let outcome = archive.walkeep(&["check"]);
    assert!(matches!(outcome.code(), Some(1 | 3)), "{outcome}");
    assert!((archive.snapshot(), Snapshot::of(&data.path)) == before);
}

#[test]
fn a_repository_of_somebody_else_is_reported_with_the_path() {
    let account = account::account();
    if !account.root {
        skipped("root", "only root can give files to somebody else");
        return;
    }
    let (_scratch, data, archive) = site();
    let file = data.write(&data.segment(3));
    std::os::unix::fs::chown(archive.root(), Some(0), Some(0)).expect("chown");
    std::fs::set_permissions(archive.root(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .expect("chmod");
    for verb in [vec!["list"], vec!["init"], vec!["show", "latest"]] {
        let outcome = archive.walkeep(&verb).failed();
        assert!(outcome.stderr.contains("hint:"), "{outcome}");
        assert!(outcome.stderr.to_lowercase().contains("permission denied"), "{outcome}");
    }
    archive.push(file).refused().says("hint:");
    archive.fetch_fails(&data.segment(3).name());
}

#[test]
fn completions_and_manual_pages_cover_every_verb() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = Run::of("walkeep").args(["completions", shell]).go().ok();
        for verb in verbs() {
            assert!(outcome.stdout.contains(&verb), "{shell}: no {verb}");
        }
        assert_eq!(outcome.stderr, "");
    }
    let bash = Run::of("walkeep").args(["completions", "bash"]).go().ok().stdout;
    let scratch = Scratch::new();
    let file = scratch.write("completions", bash);
    Run::new("bash").arg("-n").arg(file).go().ok();
    let page = Run::of("walkeep").arg("man").go().ok().stdout;
    assert!(page.contains(".TH walkeep") && page.contains("restore"), "{page}");
    let pages = scratch.mkdir("man");
    Run::of("walkeep").args(["man", "--dir"]).arg(&pages).go().ok();
    for verb in verbs() {
        assert!(pages.join(format!("walkeep-{verb}.1")).exists(), "{verb}: {:?}", repo::files(&pages));
    }
    assert!(pages.join("walkeep.1").exists());
}

#[test]
fn completions_and_help_need_no_configuration() {
    for arguments in [vec!["completions", "bash"], vec!["man"], vec!["--help"], vec!["restore", "--help"]] {
        Run::of("walkeep").env("WALKEEP_CONFIG", "/nowhere/x.toml").args(arguments).go().ok();
    }
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let program = run::program("walkeep");
    let script = format!("{} completions bash | head -c 10 > /dev/null", program.display());
    let outcome = Run::new("sh").args(["-c", &script]).go();
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
}

//! Every refusal says what to do about it, in a line that begins with `hint:`.

use super::*;
use std::path::Path;

#[derive(Default)]
struct Missing(Vec<String>);

impl Missing {
    /// Notes an outcome that went wrong as it should but gave no advice, or that did not go wrong.
    fn look(&mut self, what: &str, outcome: Outcome) {
        let line = |text: &str| outcome.stderr.lines().any(|line| line.trim_start().contains(text));
        if outcome.code() == Some(0) {
            self.0.push(format!("{what}: it succeeded\n{outcome}"));
        } else if !line("hint: ") {
            self.0.push(format!("{what}: {}", outcome.stderr.trim()));
        }
    }

    #[track_caller]
    fn none(self) {
        assert!(self.0.is_empty(), "{} without a hint:\n{}", self.0.len(), self.0.join("\n"));
    }
}

fn away(root: &Path, work: impl FnOnce()) {
    let place = root.with_extension("away");
    std::fs::rename(root, &place).expect("move the repository away");
    work();
    std::fs::rename(&place, root).expect("bring the repository back");
}

#[test]
fn every_refused_push_says_what_to_do() {
    let mut missing = Missing::default();
    let site = Site::new();
    site.pushed(&[2]);
    let push = |segment: &Segment| site.push(segment);
    missing.look("another content", push(&site.segment(2).mark("different")));
    let other = |name: &str, bytes: &[u8]| site.archive.push(site.data.write_other(name, bytes));
    missing.look("no WAL file's name", other("nonsense", b""));
    let segment = site.segment(3);
    let bytes = segment.bytes();
    missing.look("an empty segment", other(&segment.name(), b""));
    missing.look("a short segment", other(&segment.name(), &bytes[..1 << 19]));
    missing.look("no WAL page", other(&segment.name(), &vec![0; 1 << 20]));
    missing.look("another position", other(&segment.name(), &site.segment(4).bytes()));
    missing.look("another version", push(&Segment::new(SYSTEM, 17).megabytes(1).at(1, 3)));
    missing.look("another cluster", push(&Segment::new(42, 15).megabytes(1).at(1, 3)));
    missing.look("no such file", site.archive.push("pg_wal/000000010000000000000009"));
    let file = site.data.write(&segment);
    let run = site.archive.run("walpush").arg(&file).cwd("/");
    missing.look("elsewhere", run.go());
    let run = site.archive.run("walpush").args(["--cluster", "nosuch"]).arg(&file);
    missing.look("no such cluster", run.go());
    away(site.archive.root(), || missing.look("no repository", site.archive.push(&file)));
    let fresh = Archive::build(&site.data.path).unregistered();
    missing.look("not registered", fresh.push(&file));
    let newer = site.other(17, SYSTEM);
    let run = site.archive.run("walpush").args(["--cluster", "main"]).cwd(&newer.path);
    missing.look("a newer version", run.arg(newer.write(&newer.segment(2))).go());
    if let Some(disk) = Tmpfs::mount("1m") {
        let full = Archive::build(&site.data.path).root(disk.path()).create();
        missing.look("no space", full.push(site.data.write(&site.segment(5).noise())));
        disk.remount("ro");
        missing.look("read-only", full.push(&file));
    }
    let shut = site.archive.object(&site.segment(2).name());
    let shut = shut.parent().expect("a directory");
    let mode = |mode| std::fs::set_permissions(shut, std::os::unix::fs::PermissionsExt::from_mode(mode));
    mode(0).expect("forbid");
    missing.look("permission denied", site.archive.push(&file));
    mode(0o700).expect("allow");
    scratch::write(&site.data.path.join("global/pg_control"), vec![7; 8192]);
    missing.look("a damaged pg_control", site.archive.push(&file));
    let text = std::fs::read_to_string(site.archive.config()).expect("read the configuration");
    scratch::write(site.archive.config(), text.replace("push_ahead", "push_ahaed"));
    missing.look("an unknown key", site.archive.push(&file));
    std::fs::remove_file(site.archive.config()).expect("remove the configuration");
    missing.look("no configuration", site.archive.push(&file));
    missing.none();
}

#[test]
fn every_fetch_that_fails_says_what_to_do() {
    let mut missing = Missing::default();
    let site = Site::new();
    let names = site.pushed(&[2, 4, 5, 6]);
    missing.look("a hole", site.archive.fetch(&site.segment(3).name()));
    site.archive.push(site.data.write_other("00000003.history", HISTORY)).ok();
    missing.look("a missing history file", site.archive.fetch("00000002.history"));
    missing.look("no WAL file's name", site.archive.fetch("nonsense"));
    missing.look("no directory", site.archive.fetching(&names[0], "nowhere/x").go());
    repo::damage(&site.archive.object(&names[1]), repo::Damage::Flip(-10));
    missing.look("damaged content", site.archive.fetch(&names[1]));
    repo::damage(&site.archive.object(&names[2]), repo::Damage::Flip(10));
    missing.look("a damaged header", site.archive.fetch(&names[2]));
    repo::damage(&site.archive.object(&names[3]), repo::Damage::Empty);
    missing.look("an empty object", site.archive.fetch(&names[3]));
    away(site.archive.root(), || missing.look("no repository", site.archive.fetch(&names[0])));
    let fresh = Archive::build(&site.data.path).unregistered();
    missing.look("not registered", fresh.fetch(&names[0]));
    let other = site.other(15, 42);
    let run = site.archive.run("walfetch").args(["--cluster", "main"]).cwd(&other.path);
    missing.look("another cluster", run.args([&names[0], "pg_wal/x"]).go());
    if let Some(disk) = Tmpfs::mount("64k") {
        missing.look("no space", site.archive.fetching(&names[0], disk.path().join("x")).go());
    }
    let object = site.archive.object(&names[0]);
    let mode = |mode| std::fs::set_permissions(&object, std::os::unix::fs::PermissionsExt::from_mode(mode));
    mode(0).expect("forbid");
    missing.look("permission denied", site.archive.fetch(&names[0]));
    mode(0o600).expect("allow");
    std::fs::remove_file(site.archive.config()).expect("remove the configuration");
    missing.look("no configuration", site.archive.fetch(&names[0]));
    missing.none();
}

//! Root runs, reads and writes nothing that another user chose.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("set a mode");
}

/// A story whose notices and servers are started by scripts that record their user.
fn recorded(story: &Story) -> (Archive, Scratch, std::path::PathBuf) {
    let mut archive = story.archive();
    let scratch = Scratch::new();
    scratch.mkdir("drills");
    let bin = scratch.mkdir("bin");
    for entry in std::fs::read_dir(pg::bin()).expect("list").flatten() {
        if entry.file_name() != "postgres" {
            std::os::unix::fs::symlink(entry.path(), bin.join(entry.file_name())).expect("link");
        }
    }
    let (_, users) =
        tattler(&scratch, "bin/postgres", &format!("exec {}/postgres \"$@\"", pg::bin().display()));
    let (notice, _) = tattler(&scratch, "notice", "cat > /dev/null");
    archive.set_tail(&format!(
        "\n[drill]\nbin = {bin:?}\ndirectory = {:?}\namcheck = false\n[notify]\ncommand = [{notice:?}]\n",
        scratch.join("drills"),
    ));
    (archive, scratch, users)
}

fn ran_as(users: &Path) -> Vec<String> {
    let mut users: Vec<String> =
        std::fs::read_to_string(users).expect("read").lines().map(str::to_owned).collect();
    users.sort();
    users.dedup();
    users
}

#[test]
fn programs_of_a_configuration_run_as_the_user_that_may_change_it() {
    if !may_be_root() {
        return;
    }
    let story = Story::get();
    let (archive, _scratch, users) = recorded(&story);
    by_root(&archive, &["drill"]).go().ok();
    assert_eq!(ran_as(&users), [account().uid.to_string()]);
}

#[test]
fn root_that_stays_root_runs_programs_as_the_user_that_may_change_them() {
    if !may_be_root() {
        return;
    }
    let story = Story::get();
    let (mut archive, scratch, users) = recorded(&story);
    // Repositories of two users: no user can work for both.
    let other = scratch.mkdir("other");
    std::os::unix::fs::chown(&other, Some(65534), Some(65534)).expect("give it away");
    let tail = format!(
        "\n[[repository]]\nname = \"other\"\nurl = \"file://{}\"\nrequired = false\n",
        other.display()
    );
    let text = std::fs::read_to_string(archive.config()).expect("read");
    scratch::write(archive.config(), text.replace("\n[wal]", &format!("{tail}\n[wal]")));
    by_root(&archive, &["notify", "--test"]).go().ok();
    assert_eq!(ran_as(&users), [account().uid.to_string()]);
    let to = scratch.join("restored");
    by_root(&archive, &["restore", "--immediate", "--follow", "--to", to.to_str().expect("UTF-8")]).go();
    assert_eq!(ran_as(&users), [account().uid.to_string()]);
    let _ = pg::tool("pg_ctl").arg("-D").arg(&to).args(["-m", "immediate", "stop"]).go();
    // A program that a third user may change is not run at all.
    let notice = scratch.join("notice");
    std::os::unix::fs::chown(&notice, Some(65534), Some(65534)).expect("give it away");
    let before = std::fs::read_to_string(&users).expect("read");
    by_root(&archive, &["notify", "--test"]).go().is(1).says("root does not run it");
    assert_eq!(std::fs::read_to_string(&users).expect("read"), before);
    archive.set_tail("");
}

#[test]
fn what_every_user_may_change_is_a_warning_and_not_used_by_root() {
    if !may_be_root() {
        return;
    }
    let live = Live::new();
    live.backup();
    let archive = &live.archive;
    let config = archive.config().to_owned();
    let spool = archive.scratch().join("spool");
    for (path, open, closed, status) in
        [(config.as_path(), 0o666, 0o600, 2), (archive.root(), 0o777, 0o700, 1), (&spool, 0o777, 0o700, 1)]
    {
        let shown = path.display().to_string();
        chmod(path, open);
        let refused = by_root(archive, &["list"]).go().is(status).told();
        refused.says(&format!("{shown} can be changed by every user")).says("chmod o-w");
        let report = live::json(&archive.walkeep(&["check", "--json", "--timeout", "20s"]).is(0));
        let checks = report["checks"].as_array().expect("checks");
        let access: Vec<_> = checks.iter().filter(|check| check["name"] == "access").collect();
        assert_eq!(access.len(), 1, "{report:#}");
        assert_eq!((&access[0]["result"], &access[0]["ok"]), (&"warning".into(), &true.into()));
        assert!(live::text(access[0], "detail").contains(&shown), "{report:#}");
        chmod(path, closed);
        by_root(archive, &["list"]).go().ok();
    }
    // Also by exchanging a directory above it.
    let above = archive.scratch().path();
    chmod(above, 0o777);
    by_root(archive, &["list"]).go().is(2).says("since").says("can");
    // In a directory like /tmp only the owner of a file can exchange it.
    chmod(above, 0o1777);
    by_root(archive, &["list"]).go().ok();
}

#[test]
fn a_log_of_root_is_opened_as_the_owner_of_the_repositories() {
    if !may_be_root() {
        return;
    }
    let site = site::Site::unregistered(1, |build| build);
    let mut archive = site.archive;
    let scratch = Scratch::new();
    let log = scratch.mkdir("log").join("walkeep.log");
    let secret = scratch.write("secret", "of root");
    std::os::unix::fs::chown(&secret, Some(0), Some(0)).expect("give it to root");
    std::os::unix::fs::symlink(&secret, &log).expect("link");
    archive.set_tail(&format!("\n[log]\nfile = {log:?}\nlevel = \"debug\"\n"));
    by_root(&archive, &["init"]).go().ok();
    assert_eq!(std::fs::read_to_string(&secret).expect("read"), "of root");
    std::fs::remove_file(&log).expect("remove");
    by_root(&archive, &["init"]).go().ok();
    assert!(log.exists());
    assert_eq!(foreign(scratch.join("log").as_path()), [""; 0]);
}

#[test]
fn a_drill_of_root_overwrites_nothing_of_root() {
    if !may_be_root() {
        return;
    }
    let story = Story::get();
    let archive = story.archive();
    let scratch = Scratch::new();
    let drills = scratch.mkdir("drills");
    let secret = scratch.write("secret", "of root");
    std::os::unix::fs::chown(&secret, Some(0), Some(0)).expect("give it to root");
    let race = format!(
        "while :; do for p in {d}/walkeep-drill-*; do for n in output server.log etc/postgresql.conf \
         data/postgresql.auto.conf data/recovery.signal; do ln -sf {s} $p/$n; done; done; done 2>/dev/null",
        d = drills.display(),
        s = secret.display(),
    );
    let mut racer = Run::new("sh").args(["-c", &race]).spawn();
    by_root(&archive, &["drill", "--directory", drills.to_str().expect("UTF-8")]).go();
    racer.kill().expect("stop it");
    racer.wait().expect("its end");
    assert_eq!(std::fs::read_to_string(&secret).expect("read"), "of root");
}

#[test]
fn root_reads_no_key_for_a_user_that_may_not_read_it() {
    if !may_be_root() {
        return;
    }
    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 15, site::SYSTEM, 1);
    let key = scratch.write("key", "of root");
    std::os::unix::fs::chown(&key, Some(0), Some(0)).expect("give it to root");
    let bucket = repo::Remote::new("s3://bucket/prefix")
        .line("endpoint = \"http://127.0.0.1:1\"")
        .line(&format!("access_key_file = {key:?}"))
        .line(&format!("secret_key_file = {key:?}"));
    let archive = Archive::build(&data.path).remote(bucket).unregistered();
    let init = by_root(&archive, &["init"]).go().is(2).told();
    init.says(&format!("{} is closed to {}", key.display(), account().name));
}

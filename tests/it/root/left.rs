//! Owners and modes of everything that a verb of root leaves.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// A server with two repositories, a spool, a log file, a program for notices and a drill, all of the
/// account.
struct Site {
    live: Live,
    roots: [std::path::PathBuf; 2],
    scratch: Scratch,
}

impl Site {
    fn new() -> Site {
        let (mut live, roots) = Live::with_two(|_| {});
        let scratch = Scratch::new();
        for name in ["drills", "log", "restored", "out"] {
            scratch.mkdir(name);
        }
        let (script, _) = tattler(&scratch, "notice", "cat > /dev/null");
        live.archive.set_tail(&format!(
            "\n[log]\nfile = {:?}\n[notify]\ncommand = [{script:?}]\n[drill]\ndirectory = {:?}\namcheck = false\n",
            scratch.join("log/walkeep.log"),
            scratch.join("drills"),
        ));
        live.backup();
        Site { live, roots, scratch }
    }

    /// Each verb once; restores into a directory of this name.
    fn verbs(&self, restored: &str) -> Vec<Vec<String>> {
        let path = |name: &str| self.scratch.join(name).display().to_string();
        let restored = path(&format!("restored/{restored}"));
        let (prom, page) = (path("out/walkeep.prom"), path("out/walkeep.html"));
        let verbs: [&[&str]; 19] = [
            &["init"],
            &["check", "--timeout", "20s"],
            &["backup"],
            &["list"],
            &["show", "latest"],
            &["pin", "latest"],
            &["unpin", "latest"],
            &["verify"],
            &["verify", "--since-last"],
            &["timelines"],
            &["status", "--notify"],
            &["sync", "--from", "first", "--to", "second"],
            &["restore", "--to", &restored],
            &["drill"],
            &["metrics", "--output", &prom],
            &["report", "--html", &page],
            &["notify", "--test"],
            &["backup", "--prune"],
            &["prune"],
        ];
        verbs.iter().map(|words| words.iter().map(|word| (*word).to_owned()).collect()).collect()
    }

    #[track_caller]
    fn check(&self, what: &str) {
        for root in &self.roots {
            let mut wrong = foreign(root);
            for entry in every(root) {
                let meta = std::fs::symlink_metadata(&entry).expect("look");
                let expected = if meta.is_dir() { 0o700 } else { 0o600 };
                if meta.mode() & 0o7777 != expected {
                    wrong.push(format!("{} {:o}", entry.display(), meta.mode()));
                }
            }
            assert!(wrong.is_empty(), "{what}: {wrong:#?}");
        }
        let spool = self.live.archive.scratch().join("spool");
        let left = [foreign(&spool), foreign(self.scratch.path()), foreign(self.live.server.data())].concat();
        assert!(left.is_empty(), "{what}: {left:#?}");
        let drills = std::fs::read_dir(self.scratch.join("drills")).expect("list").count();
        assert_eq!(drills, 0, "{what}");
    }
}

/// All entries below a directory.
fn every(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("list").flatten() {
        if entry.path().is_dir() && !entry.path().is_symlink() {
            found.append(&mut every(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}

#[test]
fn every_verb_of_root_leaves_everything_to_the_user_of_the_server() {
    if !may_be_root() {
        return;
    }
    let site = Site::new();
    for mask in ["077", "022"] {
        for verb in site.verbs(mask) {
            let words: Vec<&str> = verb.iter().map(String::as_str).collect();
            let umask = format!("umask {mask}; exec \"$@\"");
            by_root(&site.live.archive, &words).under(["sh", "-c", &umask, "sh"]).go().ok();
            site.check(&format!("{verb:?} with umask {mask}"));
        }
    }
    // What failed is remembered in the spool.
    by_root(&site.live.archive, &["drill", "--time", "1999-01-01T00:00:00Z"]).go();
    assert!(site.live.archive.scratch().join("spool/notify").exists());
    site.check("a drill that failed");
    for verb in site.verbs("again") {
        let words: Vec<&str> = verb.iter().map(String::as_str).collect();
        site.live.archive.run("walkeep").args(words).deadline(PATIENCE).go().ok();
    }
    site.live.flush_wal();
}

#[test]
fn init_of_root_gives_new_directories_to_the_user_of_the_server() {
    if !may_be_root() {
        return;
    }
    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 15, site::SYSTEM, 1);
    let above = scratch.join("new");
    let root = above.join("nested/repository");
    let archive = Archive::build(&data.path).root(&root).unregistered();
    let init = by_root(&archive, &["init"]).under(["sh", "-c", "umask 077; exec \"$@\"", "sh"]).go().ok();
    assert!(init.stderr.contains(&format!("created the directory {}", root.display())), "{init}");
    assert!(init.stderr.contains(&account().name), "{init}");
    assert_eq!(foreign(&above), [""; 0]);
    for path in every(&above).iter().chain([&above]) {
        let meta = path.metadata().expect("look");
        let expected = if meta.is_dir() { 0o750 } else { 0o640 };
        assert_eq!(meta.mode() & 0o7777, expected, "{}", path.display());
    }
    let segment = data.segment(1);
    archive.push(data.write(&segment)).ok();
}

#[test]
fn files_that_root_pushes_and_fetches_leave_archiving_to_the_server() {
    if !may_be_root() {
        return;
    }
    let mut site = site::Site::new();
    site.archive.set_wal("push_ahead = 4");
    site.archive.set_wal("fetch_ahead = 4");
    site.archive.write_config();
    let (one, two) = (site.segment(1), site.segment(2));
    let (one_path, two_path) = (site.data.write(&one), site.data.write(&two));
    site.archive.pushing(one_path).by_root().go().ok();
    site.archive.pushing(two_path).go().ok();
    let to = site.data.path.join("pg_wal/RECOVERYXLOG");
    site.archive.fetching(&one.name(), &to).by_root().go().ok();
    assert_eq!(foreign(site.scratch.path()), [""; 0]);
    assert_eq!(foreign(site.archive.scratch().path()), [""; 0]);
    std::fs::remove_file(to).expect("remove");
    assert!(site.archive.fetched(&two.name()) == two.bytes());
}

#[test]
fn root_is_refused_where_it_may_not_give_files_away() {
    if !may_be_root() {
        return;
    }
    let story = Story::get();
    let archive = story.archive();
    let Some(strace) = Strace::new() else {
        return;
    };
    let scratch = Scratch::new();
    let to = scratch.join("data");
    let before = archive.snapshot();
    let restore = by_root(&archive, &["restore", "--to", to.to_str().expect("UTF-8")]);
    // As a file system that is mounted over the network, with root_squash.
    let traced = strace.trace("fchown").inject("fchown:error=EPERM").go(&restore);
    assert!(traced.was_hit(), "{}", traced.story());
    let name = &account().name;
    traced.outcome.is(1).told().says(&format!("sudo -u {name} ")).says("restore --to");
    assert!(archive.snapshot() == before && !to.exists());
}

#[test]
fn a_user_that_is_not_the_owner_is_shown_the_command() {
    if !may_be_root() {
        return;
    }
    let site = site::Site::new();
    std::fs::set_permissions(site.archive.config(), PermissionsExt::from_mode(0o644)).expect("open it");
    let list = site.archive.run("walkeep").arg("list").user(65534, 65534).cwd("/").go().failed();
    let (root, name) = (site.archive.root().display(), &account().name);
    let list = list.says(&format!("{root} belongs to {name}"));
    list.says(&format!("`sudo -u {name} ")).says(" list`");
}

//! A directory in which another user has put links, FIFOs and files of other names: nothing outside
//! is read, written or removed, nothing waits, and nothing of it is an object.

use crate::support::account::{account, give_all};
use crate::support::{Run, Scratch, Site, skipped};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use walkeep::error::{Error, Kind};
use walkeep::storage::{Directory, Key, Mode, Storage};

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

fn body() -> Vec<u8> {
    b"bytes".to_vec()
}

struct Place {
    scratch: Scratch,
    root: PathBuf,
    store: Directory,
}

fn place() -> Place {
    let scratch = Scratch::new();
    let root = scratch.mkdir("store");
    let store = Directory::new(&root);
    Place { scratch, root, store }
}

#[track_caller]
fn names_the_type<T>(result: Result<T, Error>, what: &str) {
    let error = result.err().expect("an error");
    assert_eq!(error.kind(), Kind::Damage, "{error}");
    assert!(error.to_string().contains(what), "{error}");
}

fn make_old(path: &Path) {
    let file = std::fs::File::open(path).expect("open");
    file.set_modified(SystemTime::now() - Duration::from_secs(9 * 86_400)).expect("set its time");
}

#[test]
fn cleaning_removes_nothing_behind_a_link_and_nothing_of_another_name() {
    let Place { scratch, root, store } = place();
    let table = scratch.mkdir("base");
    let name = "0123456789abcdef01234567";
    for name in ["16384", name] {
        std::fs::write(table.join(name), "rows").expect("write");
        make_old(&table.join(name));
    }
    symlink(&table, root.join(".tmp")).expect("link");
    names_the_type(store.clean(jiff::Timestamp::now()), "is a symbolic link");
    names_the_type(store.put(&key("a/b"), &body(), Mode::Create), "is a symbolic link");
    assert_eq!(std::fs::read_dir(&table).expect("list").count(), 2);

    std::fs::remove_file(root.join(".tmp")).expect("remove the link");
    let temporary = root.join(".tmp");
    std::fs::create_dir(&temporary).expect("create");
    for name in ["notes", name] {
        std::fs::write(temporary.join(name), "rows").expect("write");
        make_old(&temporary.join(name));
    }
    symlink(table.join(name), temporary.join("abcdef0123456789abcdef01")).expect("link");
    assert_eq!(store.clean(jiff::Timestamp::now()).expect("clean"), 1);
    assert!(temporary.join("notes").exists());
    assert_eq!(std::fs::read_dir(&table).expect("list").count(), 2);
}

#[test]
fn an_entry_that_is_not_a_file_is_an_error_where_it_is_used_and_keeps_nothing_waiting() {
    let Place { scratch, root, store } = place();
    let _ = store.put(&key("a/object"), &body(), Mode::Create).expect("store");
    let target = scratch.join("target");
    std::fs::write(&target, "elsewhere").expect("write");
    symlink(&target, root.join("a/link")).expect("link");
    symlink("/nonexistent", root.join("a/dangling")).expect("link");
    Run::new("mkfifo").arg(root.join("a/fifo")).go().ok();
    drop(std::os::unix::net::UnixListener::bind(root.join("a/socket")).expect("a socket"));
    for (name, what) in [
        ("link", "is a symbolic link"),
        ("dangling", "is a symbolic link"),
        ("fifo", "is a FIFO"),
        ("socket", "is a socket"),
    ] {
        let key = key(&format!("a/{name}"));
        names_the_type(store.get(&key, None).map(drop), what);
        names_the_type(store.head(&key), what);
        names_the_type(store.put(&key, &body(), Mode::Create), what);
    }
    let page = store.list(&key("a"), None, 10).expect("list");
    assert_eq!(page.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["a/object"]);
    let foreign = store.foreign(&key("a")).expect("look for foreign entries");
    let found: Vec<(&str, &str)> = foreign.iter().map(|found| (found.path.as_str(), found.what)).collect();
    let link = "a symbolic link";
    assert_eq!(
        found,
        [("a/dangling", link), ("a/fifo", "a FIFO"), ("a/link", link), ("a/socket", "a socket")]
    );
    assert_eq!(std::fs::read_to_string(&target).expect("read"), "elsewhere");
    // A folder has no content, as in a bucket.
    names_the_type(store.get(&key("a"), None).map(drop), "is a directory");
}

#[test]
fn nothing_is_stored_read_or_removed_behind_a_linked_folder() {
    let Place { scratch, root, store } = place();
    let other = scratch.mkdir("other");
    std::fs::create_dir(other.join("in")).expect("create");
    std::fs::write(other.join("in/object"), "theirs").expect("write");
    symlink(&other, root.join("a")).expect("link");
    let object = key("a/in/object");
    names_the_type(store.get(&object, None).map(drop), "a is a symbolic link");
    names_the_type(store.head(&object), "a is a symbolic link");
    names_the_type(store.list(&key("a"), None, 10), "a is a symbolic link");
    names_the_type(store.list(&key("a/in"), None, 10), "a is a symbolic link");
    names_the_type(store.put(&key("a/in/new"), &body(), Mode::Create), "a is a symbolic link");
    names_the_type(store.put(&key("a/new"), &body(), Mode::Replace), "a is a symbolic link");
    names_the_type(store.delete(&[object]), "a is a symbolic link");
    assert_eq!(std::fs::read_to_string(other.join("in/object")).expect("read"), "theirs");
    assert_eq!(std::fs::read_dir(&other).expect("list").count(), 1);
    assert_eq!(std::fs::read_dir(other.join("in")).expect("list").count(), 1);
}

#[test]
fn modes_are_those_of_the_directory_whatever_the_umask_is() {
    for (root_mode, folder, file) in [(0o750, 0o750, 0o640), (0o700, 0o700, 0o600)] {
        let site = Site::new();
        std::fs::set_permissions(site.archive.root(), PermissionsExt::from_mode(root_mode))
            .expect("set the mode");
        for (number, mask) in [(1, "000"), (2, "022"), (3, "077")] {
            let segment = site.segment(number);
            let umask = format!("umask {mask}; exec \"$@\"");
            let push = site.archive.pushing(site.data.write(&segment));
            push.under(["sh", "-c", &umask, "sh"]).go().ok();
            let object = site.archive.object(&segment.name());
            let mode = |path: &Path| path.metadata().expect("look").permissions().mode() & 0o7777;
            assert_eq!(mode(&object), file, "umask {mask}");
            let folders = object.ancestors().skip(1).take_while(|path| *path != site.archive.root());
            // The first push makes the folder of the segments; `init` has made those above it.
            folders
                .take(1)
                .for_each(|path| assert_eq!(mode(path), folder, "{} umask {mask}", path.display()));
        }
    }
}

#[test]
fn what_root_stores_belongs_to_the_owner_of_the_directory() {
    let account = account();
    if !account.root {
        skipped("root", "only root can store for another user");
        return;
    }
    let Place { scratch: _scratch, root, store } = place();
    give_all(&root);
    let _ = store.put(&key("a/b/object"), &body(), Mode::Create).expect("store");
    let _ = store.put(&key("a/replaced"), &body(), Mode::Replace).expect("store");
    for path in [".tmp", "a", "a/b", "a/b/object", "a/replaced"] {
        let meta = std::fs::metadata(root.join(path)).expect("look");
        assert_eq!((meta.uid(), meta.gid()), (account.uid, account.gid), "{path}");
    }
    assert_eq!(std::fs::read_dir(root.join("a")).expect("list").count(), 2, "no other name is left");
}

//! A directory whose file system is unmounted while it is in use, part of which lies elsewhere, or
//! whose clock is broken: nothing is called absent or removed, and nothing is written below where
//! it was.

use crate::support::{Scratch, Tmpfs};
use std::time::{Duration, SystemTime};
use walkeep::error::{Kind, Result};
use walkeep::storage::{Directory, Key, Mode, Storage};

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

#[track_caller]
fn is_unknown<T>(result: Result<T>) {
    let error = result.err().expect("an error");
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("unmounted"), "{error}");
}

#[test]
fn nothing_is_absent_removed_or_stored_where_it_was_mounted() {
    let Some(tmpfs) = Tmpfs::mount("1m") else {
        return;
    };
    let store = Directory::new(tmpfs.path());
    let (there, missing) = (key("a/there"), key("a/missing"));
    let _ = store.put(&there, &b"bytes".to_vec(), Mode::Create).expect("store");
    assert!(store.get(&there, None).expect("read").is_some());
    assert!(store.get(&missing, None).expect("read").is_none());
    tmpfs.unmount();
    is_unknown(store.get(&there, None).map(|_| ()));
    is_unknown(store.head(&missing));
    is_unknown(store.list(&key("a"), None, 10));
    is_unknown(store.delete(std::slice::from_ref(&there)));
    is_unknown(store.put(&missing, &b"bytes".to_vec(), Mode::Create));
    let left = std::fs::read_dir(tmpfs.path()).expect("list").count();
    assert_eq!(left, 0, "something was made below the mount point");
}

#[test]
fn a_folder_that_was_moved_elsewhere_and_linked_is_told_and_not_passed_over() {
    let scratch = Scratch::new();
    let root = scratch.mkdir("store");
    let store = Directory::new(&root);
    let _ = store.put(&key("a/b/object"), &b"bytes".to_vec(), Mode::Create).expect("store");
    let elsewhere = scratch.join("elsewhere");
    std::fs::rename(root.join("a/b"), &elsewhere).expect("move it");
    std::os::unix::fs::symlink(&elsewhere, root.join("a/b")).expect("link it");
    let error = store.list(&key("a"), None, 10).expect_err("an error");
    assert!(error.to_string().contains("is a symbolic link"), "{error}");
}

#[test]
fn a_file_whose_time_is_no_date_is_an_error_and_not_one_of_1970() {
    let Some(tmpfs) = Tmpfs::mount("1m") else {
        return;
    };
    let store = Directory::new(tmpfs.path());
    let _ = store.put(&key("a/object"), &b"bytes".to_vec(), Mode::Create).expect("store");
    let file = std::fs::File::open(tmpfs.path().join("a/object")).expect("open");
    // About the year 33000.
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000_000)).expect("set its time");
    for error in [store.head(&key("a/object")).err(), store.list(&key("a"), None, 10).err()] {
        let error = error.expect("an error");
        assert_eq!(error.kind(), Kind::Failed, "{error}");
        assert!(error.to_string().contains("not a valid time"), "{error}");
    }
}

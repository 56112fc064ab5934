//! A directory whose file system is unmounted while it is in use, or part of which lies elsewhere: nothing is called absent
//! or removed, and nothing is written below where it was.

use crate::support::{Scratch, Tmpfs};
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
    store.put(&there, &b"bytes".to_vec(), Mode::Create).expect("store");
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
    store.put(&key("a/b/object"), &b"bytes".to_vec(), Mode::Create).expect("store");
    let elsewhere = scratch.join("elsewhere");
    std::fs::rename(root.join("a/b"), &elsewhere).expect("move it");
    std::os::unix::fs::symlink(&elsewhere, root.join("a/b")).expect("link it");
    let error = store.list(&key("a"), None, 10).expect_err("an error");
    assert!(error.to_string().contains("is a link"), "{error}");
}

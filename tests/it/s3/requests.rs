//! How many requests each thing takes. Every one is a round trip, and on a store far away that is
//! what a push or a fetch consists of: a number that grows is a promise that breaks.

use super::*;

/// Does something, and gives the requests that it took.
fn requests(remote: &Remote, work: impl FnOnce()) -> Vec<String> {
    remote.proxy().forget();
    work();
    let name = format!("/{}/{PREFIX}/main", remote.bucket.name);
    let lines = remote.proxy().lines().into_iter();
    lines.map(|line| line.replace(&name, "").replace(&format!("{}-15", site::SYSTEM), "LINEAGE")).collect()
}

#[test]
fn a_push_takes_the_identity_and_the_data_and_waits_for_the_one_only_the_first_time() {
    let remote = Remote::new();
    for number in [2, 3] {
        let segment = remote.segment(number);
        let mut found = requests(&remote, || drop(remote.push(&segment).ok()));
        // Side by side they arrive in any order.
        if number > 2 {
            found.sort();
        }
        let name = segment.name();
        let expected = [
            "GET /identity/LINEAGE?x-id=GetObject".to_owned(),
            format!("PUT /LINEAGE/wal/00000001/00000000/{name}?x-id=PutObject"),
        ];
        assert_eq!(found, expected);
    }
}

#[test]
fn a_store_that_shows_no_identity_any_more_is_no_success_and_gets_nothing_the_next_time() {
    let remote = Remote::new();
    remote.pushed(&[2]);
    remote.bucket.delete(&remote.bucket.key("/identity/"));
    remote.push(&remote.segment(3)).refused();
    let found = requests(&remote, || drop(remote.push(&remote.segment(4)).refused()));
    assert!(!found.iter().any(|line| line.starts_with("PUT ")), "{found:?}");
}

#[test]
fn a_push_of_what_is_there_takes_one_more_to_compare() {
    let remote = Remote::new();
    let (segment, path) = remote.next();
    remote.archive.push(&path).ok();
    let found = requests(&remote, || drop(remote.archive.push(&path).ok()));
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[2].starts_with("GET ") && found[2].contains(&segment.name()), "{found:?}");
}

#[test]
fn a_fetch_takes_one() {
    let remote = Remote::new();
    let (segment, path) = remote.next();
    remote.archive.push(&path).ok();
    let found = requests(&remote, || drop(remote.archive.fetched(&segment.name())));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("GET ") && found[0].contains(&segment.name()), "{found:?}");
}

#[test]
fn the_proof_that_a_file_is_missing_takes_three() {
    let remote = Remote::new();
    remote.pushed(&[2]);
    for missing in [remote.segment(3).name(), "00000002.history".to_owned()] {
        let mut found = requests(&remote, || drop(remote.archive.fetch_ends(&missing)));
        assert_eq!(found.len(), 3, "{found:?}");
        // Two journeys: the other two are side by side.
        assert!(found[0].contains(&missing), "{found:?}");
        found[1..].sort_by_key(|line| line.contains("list-type=2"));
        assert!(found[1].starts_with("GET /identity/") && found[2].contains("list-type=2"), "{found:?}");
    }
    // Timeline 1 has no history, and nothing else is looked for behind these.
    for missing in ["00000001.history", "000000010000000000000003.00000028.backup"] {
        let found = requests(&remote, || drop(remote.archive.fetch_ends(missing)));
        assert_eq!(found.len(), 2, "{found:?}");
    }
}

#[test]
fn a_prune_lists_a_thousand_keys_at_a_time_and_each_of_them_once() {
    let remote = Remote::new();
    remote.pushed(&[1]);
    let folder = format!("{PREFIX}/main/{}-15/wal/00000001/00000000", site::SYSTEM);
    let keys: Vec<String> =
        (2..2500).map(|number| format!("{folder}/{}", remote.segment(number).name())).collect();
    remote.bucket.fill(&keys, "x");
    let found = requests(&remote, || drop(remote.archive.walkeep(&["prune", "--dry-run"]).ok()));
    let lists = |folder: &str| {
        let is_one = |line: &&String| line.contains("list-type=2") && line.contains(folder);
        found.iter().filter(is_one).count()
    };
    // What there is to list beside WAL, and whose repository it is.
    const FOLDERS: usize = 6;
    assert!((3..=4).contains(&lists("LINEAGE/wal/")), "{found:?}");
    assert!(lists("") <= keys.len().div_ceil(1000) + 1 + FOLDERS, "{found:?}");
}

#[test]
fn connections_are_used_again() {
    let remote = Remote::new();
    let (segment, path) = remote.next();
    let connections = |work: &dyn Fn()| {
        let before = remote.proxy().connections();
        work();
        remote.proxy().connections() - before
    };
    assert_eq!(connections(&|| drop(remote.archive.push(&path).ok())), 1);
    assert_eq!(connections(&|| drop(remote.archive.fetched(&segment.name()))), 1);
    // Two requests side by side take two.
    assert!(connections(&|| drop(remote.archive.fetch_ends("00000002.history"))) <= 2);
}

#[test]
fn a_directory_beside_it_costs_nothing_there() {
    // No request is sent for what another repository has.
    let bucket = Bucket::new();
    let scratch = Scratch::new();
    let near = scratch.mkdir("near");
    let far = bucket.repository(PREFIX);
    let site = Site::build(|build| build.root(near).remote(far));
    let names = site.pushed(&[2]);
    bucket.proxy.forget();
    site.holds(&names[0], &site.segment(2).bytes());
    assert_eq!(bucket.proxy.lines(), Vec::<String>::new());
}

//! What is in a bucket, page by page, and what is somebody else's there.

use super::*;

/// Where the WAL files of the test's cluster are.
fn wal(cluster: &str, number: u64) -> String {
    let name = Segment::new(site::SYSTEM, 15).megabytes(1).at(1, number).name();
    format!("{PREFIX}/{cluster}/{}-15/wal/{}/{}/{name}", site::SYSTEM, &name[..8], &name[8..16])
}

#[test]
fn a_list_counts_every_one_of_thousands_of_segments() {
    let remote = Remote::new();
    remote.pushed(&[1, 2]);
    // Three pages, with two holes, one of them at the end of a page.
    let numbers = (3..2500).filter(|number| *number != 1000 && !(1500..1510).contains(number));
    remote.bucket.fill(&numbers.map(|number| wal("main", number)).collect::<Vec<_>>(), "x");
    let listed = live::json(&remote.archive.walkeep(&["list", "--json"]).is(3));
    let found = &listed["repositories"][0]["wal"];
    let name = |number| remote.data.segment(number).name();
    assert_eq!((&found["first"], &found["last"]), (&name(1).into(), &name(2499).into()), "{found}");
    let gaps = serde_json::json!([
        {"timeline": 1, "first": name(1000), "last": name(1000)},
        {"timeline": 1, "first": name(1500), "last": name(1509)},
    ]);
    assert_eq!(found["gaps"], gaps);
    // Behind a hole of more than a page.
    remote.archive.fetch_fails(&name(1000)).says(&name(1001));
    remote.archive.fetch_ends(&name(2500));
}

#[test]
fn what_follows_a_segment_is_found_behind_thousands_of_other_files() {
    let remote = Remote::new();
    let names = remote.pushed(&[1]);
    let missing = remote.segment(2).name();
    let folder = wal("main", 2);
    let others: Vec<String> = (0..1500).map(|number| format!("{folder}.{number:08X}.backup")).collect();
    remote.bucket.fill(&others, "x");
    remote.archive.fetch_ends(&missing);
    remote.bucket.fill(&[wal("main", 3)], "x");
    remote.archive.fetch_fails(&missing).says(&remote.segment(3).name());
    remote.holds(&names[0], &remote.segment(1).bytes());
}

#[test]
fn neighbours_in_one_bucket_never_meet() {
    // A prefix that is the beginning of another, and so are the names of two clusters.
    let remote = Remote::new();
    let far = remote.bucket.repository("archive2");
    let scratch = Scratch::new();
    let data = DataDir::create(&scratch, "data", 15, 7_300_000_000_000_000_002, 1);
    let neighbour = Archive::build(&data.path).remote(far).create();
    neighbour.push(data.write(&data.segment(5))).ok();
    remote.bucket.put(&wal("main2", 7), b"of another cluster");
    remote.bucket.put("archive/", b"");
    remote.bucket.put("archive/main/a file of somebody's, with +&=%20 and \u{fc}", b"x");
    let before = remote.bucket.snapshot();
    let names = remote.pushed(&[2, 3]);
    let listed = live::json(&remote.archive.walkeep(&["list", "--json"]).ok());
    let found = &listed["repositories"][0]["wal"];
    assert_eq!(
        (&found["first"], &found["last"]),
        (&names[0].as_str().into(), &names[1].as_str().into()),
        "{found}"
    );
    remote.archive.fetch_ends(&remote.segment(4).name());
    neighbour.fetch_ends(&data.segment(6).name());
    let after = remote.bucket.snapshot();
    assert!(
        before.iter().all(|(key, hash)| after.get(key) == Some(hash)),
        "something of somebody else's changed"
    );
    assert_eq!(after.len(), before.len() + 2);
}

#[test]
fn a_list_that_breaks_off_is_no_short_list() {
    use std::time::Duration;
    use walkeep::storage::{Key, Retry, RetryPolicy, S3, list_all};
    let bucket = Bucket::new();
    let keys: Vec<String> = (0..1200).map(|number| format!("{PREFIX}/folder/{number:04}")).collect();
    bucket.fill(&keys, "x");
    let wait = Duration::from_millis(1);
    let patience =
        RetryPolicy { max_attempts: 3, max_attempts_after_answer: 3, first_pause: wait, max_pause: wait };
    let count = || {
        let store = Retry::new(S3::new(bucket.options(PREFIX)), patience);
        let mut count = 0;
        list_all(&store, &Key::new("folder")?, |_| {
            count += 1;
            Ok(())
        })?;
        Ok::<_, walkeep::error::Error>(count)
    };
    let list = || Rule::on("GET", &bucket.name).query("list-type");
    let html = || http::Reply::new(200, "<html>welcome</html>");
    for rule in [list().cut_reply(50), list().error(500, "InternalError"), list().answer(html())] {
        // Once is as good as busy, for ever is an error.
        let fault = bucket.proxy.inject(rule.clone().nth(2));
        assert_eq!(count().unwrap_or_else(|error| panic!("{error}")), 1200);
        assert!(fault.was_hit());
        bucket.proxy.clear();
        bucket.proxy.inject(rule.from(2));
        assert!(count().is_err());
        bucket.proxy.clear();
    }
}

#[test]
fn an_object_without_its_time_is_an_error_and_not_one_of_1970() {
    use walkeep::error::{Error, Kind};
    use walkeep::storage::{Claims, Key, Mode, S3, Storage};
    #[track_caller]
    fn is_refused<T>(result: Result<T, Error>) {
        let error = result.err().expect("an error");
        assert_eq!(error.kind(), Kind::Failed, "{error}");
        assert!(error.to_string().contains("the store listed an object without its time"), "{error}");
    }
    let bucket = Bucket::new();
    let (folder, object) = (Key::new("folder").expect("a key"), Key::new("folder/object").expect("a key"));
    bucket.fill(&[format!("{PREFIX}/{object}")], "x");
    let store = || S3::new(bucket.options(PREFIX));
    assert_eq!(store().list(&folder, None, 10).expect("a list").entries.len(), 1);
    assert!(store().head(&object).expect("it is there").is_some());
    let fault = bucket.proxy.inject(Rule::on("GET", "folder/object").strip_reply("last-modified"));
    is_refused(store().head(&object));
    // A reader has no use for it.
    assert!(store().get(&object, None).expect("it is there").is_some());
    assert_eq!(fault.hits(), 2);
    let answer = |key: &str| {
        let contents = format!("<Contents><Key>{PREFIX}/{key}</Key><Size>1</Size></Contents>");
        let list = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>");
        let rule = Rule::on("GET", &bucket.name).query("list-type").answer(http::Reply::new(200, list));
        bucket.proxy.clear();
        bucket.proxy.inject(rule)
    };
    answer("folder/object");
    is_refused(store().list(&folder, None, 10));
    // A live rival's claim must not look like an orphan.
    let fault = answer("-claim/folder/other/0123");
    let other = Key::new("folder/other").expect("a key");
    is_refused(Claims::new(store()).put(&other, &b"bytes".to_vec(), Mode::Create));
    is_refused(Claims::new(store()).clean(jiff::Timestamp::now()));
    assert_eq!(fault.hits(), 2);
    bucket.proxy.clear();
    assert!(store().head(&other).expect("an answer").is_none(), "it was stored in spite of a rival");
}

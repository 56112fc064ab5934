//! Answers that were lost, answers that contradict themselves, and conflicts that are none.

use super::*;
use crate::support::http::Reply;
use walkeep::error::Kind;
use walkeep::storage::{Body, Key, Mode, OpenBody, Put, Retry, RetryPolicy, S3, Storage};

#[test]
fn a_push_whose_answer_was_lost_is_no_conflict_with_itself() {
    let remote = Remote::new();
    let (segment, path) = remote.next();
    for lost in [1, 2] {
        let fault = remote.proxy().inject(Rule::on("PUT", "/wal/").up_to(lost).lose_reply());
        remote.archive.push(&path).ok();
        assert!(fault.was_hit());
        assert_eq!(remote.stored().len(), 1);
        remote.holds(&segment.name(), &segment.bytes());
        remote.proxy().clear();
        remote.bucket.delete(&remote.bucket.key(&segment.name()));
    }
}

#[test]
fn a_lost_answer_does_not_hide_that_another_file_has_the_name() {
    let remote = Remote::new();
    let (segment, path) = remote.next();
    remote.archive.push(&path).ok();
    let other = remote.segment(2).mark("of another server");
    // The refusal is lost: what is stored under the name is not what was sent.
    let fault = remote.proxy().inject(Rule::on("PUT", "/wal/").nth(1).lose_reply());
    let refused = remote.push(&other).refused();
    assert!(fault.was_hit());
    for bytes in [segment.bytes(), other.bytes()] {
        assert!(refused.stderr.contains(&sha256(&bytes)), "both hashes are told\n{refused}");
    }
    remote.holds(&segment.name(), &segment.bytes());
}

#[test]
fn a_push_that_is_never_answered_is_no_success() {
    let mut remote = Remote::new().within(SOON);
    let (segment, path) = remote.next();
    remote.proxy().inject(Rule::on("PUT", "/wal/").lose_reply());
    remote.proxy().inject(Rule::on("GET", "/wal/").lose_reply());
    remote.archive.push(&path).refused();
    remote.proxy().clear();
    remote.deadline(LATE);
    remote.archive.push(&path).ok();
    remote.holds(&segment.name(), &segment.bytes());
}

#[test]
fn a_request_that_met_another_one_is_sent_again() {
    let remote = Remote::new();
    let (segment, path) = remote.next();
    let conflict = Rule::on("PUT", "/wal/").up_to(2).error(409, "ConditionalRequestConflict");
    let fault = remote.proxy().inject(conflict);
    remote.archive.push(&path).ok();
    assert_eq!(fault.hits(), 2);
    remote.holds(&segment.name(), &segment.bytes());
    remote.proxy().clear();
    // Nothing landed, and nothing ever does.
    let mut remote = remote.within(SOON);
    remote.proxy().inject(Rule::on("PUT", "/wal/").error(409, "ConditionalRequestConflict"));
    remote.push(&remote.segment(3)).refused();
    remote.deadline(LATE);
    remote.archive.fetch_ends(&remote.segment(3).name());
}

#[test]
fn an_exists_without_an_object_is_no_success() {
    let mut remote = Remote::new().within(SOON);
    let (segment, path) = remote.next();
    let fault = remote.proxy().inject(Rule::on("PUT", "/wal/").error(412, "PreconditionFailed"));
    remote.archive.push(&path).refused();
    assert!(fault.was_hit());
    remote.deadline(LATE);
    remote.archive.fetch_ends(&segment.name());
}

#[test]
fn an_error_within_a_200_is_no_success() {
    let mut remote = Remote::new();
    let (segment, path) = remote.next();
    let answers = [
        Reply::error(200, "InternalError"),
        Reply::new(200, ""),
        Reply::new(200, "<html>maintenance</html>"),
        Reply::new(204, ""),
    ];
    for answer in answers {
        remote.deadline(SOON);
        let fault = remote.proxy().inject(Rule::on("PUT", "/wal/").answer(answer));
        remote.archive.push(&path).refused();
        assert!(fault.was_hit());
        remote.proxy().clear();
        remote.deadline(LATE);
        remote.archive.fetch_ends(&segment.name());
    }
    remote.archive.push(&path).ok();
    remote.holds(&segment.name(), &segment.bytes());
}

/// A body that is sent in parts.
struct Large(Vec<u8>);

impl Body for Large {
    fn open(&self) -> walkeep::error::Result<OpenBody<'_>> {
        Ok(OpenBody::Stream(Box::new(self.0.as_slice())))
    }
}

/// A store in a bucket of its own, that waits shortly and not often.
fn store() -> (Bucket, Retry<S3>) {
    let bucket = Bucket::new();
    let wait = std::time::Duration::from_millis(1);
    let patience =
        RetryPolicy { max_attempts: 3, max_attempts_after_answer: 3, first_pause: wait, max_pause: wait };
    let store = Retry::new(S3::new(bucket.options(PREFIX)), patience);
    (bucket, store)
}

#[test]
fn an_upload_in_parts_is_stored_when_its_last_answer_says_so_and_not_before() {
    let (bucket, store) = store();
    let mut body = vec![0; 20 << 20];
    segment::noise(&mut body, 1);
    let body = Large(body);
    let key = Key::new("object").expect("a key");
    let put = || store.put(&key, &body, Mode::Create);
    // Nothing landed.
    let never = bucket
        .proxy
        .inject(Rule::on("POST", "").query("uploadId").answer(Reply::error(200, "InternalError")));
    let error = put().expect_err("an error within a 200");
    assert!(error.kind().is_transient() && error.to_string().contains("InternalError"), "{error}");
    assert!(never.was_hit());
    assert_eq!(bucket.get("archive/object"), None);
    bucket.proxy.clear();
    assert_eq!(bucket.uploads(), Vec::<String>::new(), "given up, and left behind");
    // It landed, and the answer is an error, or none.
    for rule in [
        Rule::on("POST", "").query("uploadId").nth(1).answer_after(Reply::error(200, "InternalError")),
        Rule::on("POST", "").query("uploadId").nth(1).lose_reply(),
    ] {
        let fault = bucket.proxy.inject(rule);
        assert_eq!(put().unwrap_or_else(|error| panic!("{error}")), Put::Stored);
        assert!(fault.was_hit());
        assert!(bucket.get("archive/object").as_deref() == Some(body.0.as_slice()));
        bucket.proxy.clear();
        bucket.delete("archive/object");
    }
    // Once is as good as busy.
    let once = Rule::on("POST", "").query("uploadId").nth(1).answer(Reply::error(200, "SlowDown"));
    bucket.proxy.inject(once);
    assert_eq!(put().unwrap_or_else(|error| panic!("{error}")), Put::Stored);
    assert!(bucket.get("archive/object").as_deref() == Some(body.0.as_slice()));
    assert_eq!(bucket.uploads(), Vec::<String>::new());
}

#[test]
fn an_object_that_was_not_deleted_is_told_by_name() {
    let (bucket, store) = store();
    let keys: Vec<Key> = (0..5).map(|number| Key::new(format!("object/{number}")).expect("a key")).collect();
    bucket.fill(&keys.iter().map(|key| format!("archive/{key}")).collect::<Vec<_>>(), "x");
    let body = "<?xml version=\"1.0\"?><DeleteResult><Error><Key>archive/object/3</Key><Code>AccessDenied</Code>\
                <Message>Access Denied because object protected by object lock.</Message></Error></DeleteResult>";
    let fault = bucket.proxy.inject(Rule::on("POST", "").query("delete").answer(Reply::new(200, body)));
    let error = store.delete(&keys).expect_err("one is locked");
    assert!(fault.was_hit());
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(error.to_string().contains("object/3") && error.to_string().contains("lock"), "{error}");
    assert!(error.advice().is_some_and(|hint| hint.contains("object lock")), "{:?}", error.advice());
    bucket.proxy.clear();
    // A failure that passes is tried again.
    let busy =
        "<DeleteResult><Error><Key>archive/object/2</Key><Code>InternalError</Code></Error></DeleteResult>";
    bucket.proxy.inject(Rule::on("POST", "").query("delete").nth(1).answer(Reply::new(200, busy)));
    store.delete(&keys).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(bucket.keys(), Vec::<String>::new());
    // One alone, refused.
    bucket.put("archive/object/0", b"x");
    bucket.proxy.inject(Rule::on("DELETE", "").error(403, "AccessDenied"));
    assert_eq!(store.delete(&keys[..1]).expect_err("it is locked").kind(), Kind::Denied);
}

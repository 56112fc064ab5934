//! Stores that are busy, networks that break, and how long that is borne.

use super::*;
use std::time::{Duration, Instant};

#[test]
fn a_busy_store_delays_a_push_and_a_fetch_and_that_is_all() {
    let remote = Remote::new();
    let (segment, path) = remote.next();
    for (status, code) in
        [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests"), (502, ""), (504, "")]
    {
        let faults = ["/identity/", "/wal/"].map(|place| Rule::on("", place).up_to(2).error(status, code));
        let hits: Vec<_> = faults.into_iter().map(|rule| remote.proxy().inject(rule)).collect();
        remote.archive.push(&path).ok();
        remote.holds(&segment.name(), &segment.bytes());
        assert!(hits.iter().all(|fault| fault.hits() == 2), "{status} {code}: not tried again");
        remote.proxy().clear();
        remote.bucket.delete(&remote.bucket.key(&segment.name()));
    }
}

#[test]
fn a_store_that_stays_busy_is_neither_a_success_nor_an_end() {
    let mut remote = Remote::new().within(SOON);
    let (segment, path) = remote.next();
    remote.proxy().inject(Rule::on("", "").error(503, "SlowDown"));
    let begun = Instant::now();
    remote.archive.push(&path).refused();
    remote.archive.fetch_fails(&segment.name());
    remote.archive.fetch_fails("00000002.history");
    assert!(begun.elapsed() < Duration::from_secs(20), "the deadline of 1 s does not hold");
    remote.proxy().clear();
    assert_eq!(remote.stored(), Vec::<String>::new());
    remote.deadline(LATE);
    remote.archive.push(&path).ok();
}

#[test]
fn a_connection_that_is_reset_within_a_body_is_tried_again() {
    let remote = Remote::new();
    let segment = remote.segment(2).noise();
    let path = remote.data.write(&segment);
    for after in [0, 1, 100_000, 1_000_000] {
        let fault = remote.proxy().inject(Rule::on("PUT", "/wal/").nth(1).reset_request(after));
        remote.archive.push(&path).ok();
        assert!(fault.was_hit());
        remote.proxy().clear();
        for percent in [0, 1, 50, 99] {
            let rules = [
                Rule::on("GET", "/wal/").nth(1).reset_reply(percent),
                Rule::on("GET", "/wal/").nth(1).cut_reply(percent),
            ];
            for rule in rules {
                let fault = remote.proxy().inject(rule);
                remote.holds(&segment.name(), &segment.bytes());
                assert!(fault.was_hit());
                remote.proxy().clear();
            }
        }
        remote.bucket.delete(&remote.bucket.key(&segment.name()));
    }
}

#[test]
fn a_connection_that_always_breaks_is_neither_a_success_nor_an_end() {
    let mut remote = Remote::new().within(SOON);
    let segment = remote.segment(2).noise();
    let path = remote.data.write(&segment);
    let fault = remote.proxy().inject(Rule::on("PUT", "/wal/").reset_request(500_000));
    remote.archive.push(&path).refused();
    assert!(fault.was_hit());
    assert_eq!(remote.stored(), Vec::<String>::new(), "half of a body is no object");
    remote.proxy().clear();
    remote.deadline(LATE);
    remote.archive.push(&path).ok();
    remote.deadline(SOON);
    // What comes is short each time, and never any further.
    for rule in [Rule::on("GET", "/wal/").cut_reply(0), Rule::on("GET", "/wal/").reset_reply(0)] {
        let fault = remote.proxy().inject(rule);
        remote.archive.fetch_fails(&segment.name());
        assert!(fault.was_hit());
        remote.proxy().clear();
    }
    remote.deadline(LATE);
    remote.holds(&segment.name(), &segment.bytes());
}

#[test]
fn half_of_a_segment_is_never_handed_over() {
    let mut remote = Remote::new();
    let segment = remote.segment(2).noise();
    remote.push(&segment).ok();
    remote.deadline(SOON);
    // A gateway that lost the rest and closes the body as if it were whole.
    let short = remote.bucket.get(&remote.bucket.key(&segment.name())).expect("the object");
    let short = http::Reply::new(200, &short[..short.len() / 2]).header("ETag", "\"0123\"");
    let fault = remote.proxy().inject(Rule::on("GET", "/wal/").answer(short));
    remote.archive.fetch_fails(&segment.name());
    assert!(fault.was_hit());
    remote.proxy().clear();
    // One that does not say how long the body is, and ends it early.
    let fault = remote.proxy().inject(Rule::on("GET", "/wal/").strip_reply("content-length").cut_reply(50));
    remote.archive.fetch_fails(&segment.name());
    assert!(fault.was_hit());
    remote.proxy().clear();
    remote.deadline(LATE);
    remote.holds(&segment.name(), &segment.bytes());
}

#[test]
fn a_store_that_never_answers_is_left_at_the_deadline() {
    let remote = Remote::new().within(SOON);
    let (segment, path) = remote.next();
    for place in ["/identity/", "/wal/"] {
        let fault = remote.proxy().inject(Rule::on("", place).hold());
        let begun = Instant::now();
        remote.archive.push(&path).refused().says("timeout");
        remote.archive.fetch_fails(&segment.name()).says("timeout");
        assert!(begun.elapsed() < Duration::from_secs(15), "the deadline of 1 s does not hold");
        assert!(fault.was_hit());
        remote.proxy().clear();
    }
}

#[test]
fn nobody_behind_the_endpoint_is_neither_a_success_nor_an_end() {
    let mut remote = Remote::new().within(SOON);
    let (segment, path) = remote.next();
    // A port that nobody listens on, and a host that does not exist.
    let free =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    for endpoint in [format!("http://{free}"), "http://nowhere.invalid".to_owned()] {
        remote.archive.set_remote(|repository| repository.line(&format!("endpoint = {endpoint:?}")));
        remote.archive.push(&path).refused();
        remote.archive.fetch_fails(&segment.name());
    }
}

#[test]
fn odd_but_lawful_http_is_understood() {
    let remote = Remote::new();
    // The end of the connection behind each reply, announced in an unusual spelling, or not at all.
    remote.proxy().inject(Rule::on("", "").every(2).reply_header("CONNECTION", "Close").close());
    remote.proxy().inject(Rule::on("", "").close());
    remote
        .proxy()
        .inject(Rule::on("", "").reply_header("X-Twice", "1").reply_header("x-amz-request-id", "0815"));
    let names = remote.pushed(&[2, 3, 4]);
    for (name, number) in names.iter().zip(2..) {
        remote.holds(name, &remote.segment(number).bytes());
    }
    remote.archive.fetch_ends(&remote.segment(5).name());
    remote.push(&remote.segment(2)).ok();
    remote.push(&remote.segment(3).mark("other")).refused();
}

#[test]
fn a_long_run_outlives_connections_that_the_store_closes() {
    use walkeep::storage::{Key, Mode, Put, Retry, RetryPolicy, S3, Storage};
    let bucket = Bucket::new();
    bucket.proxy.inject(Rule::on("", "").close());
    let patience = RetryPolicy { first_pause: Duration::from_millis(1), ..RetryPolicy::default() };
    let store = Retry::new(S3::new(bucket.options(PREFIX)), patience);
    for number in 0..20 {
        let (key, body) = (Key::new(format!("object/{number}")).expect("a key"), vec![b'x'; number]);
        let put = store.put(&key, &body, Mode::Create).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(put, Put::Stored);
        assert_eq!(
            store.head(&key).unwrap_or_else(|error| panic!("{error}")).map(|e| e.size),
            Some(number as u64)
        );
    }
}

//! Clocks that differ. A signature holds for a quarter of an hour.

use super::*;
use crate::support::http::{Reply, service};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const SKEWED: &str = "RequestTimeTooSkewed";

#[test]
fn a_clock_that_was_wrong_for_a_moment_delays_and_that_is_all() {
    let remote = Remote::new();
    let (segment, path) = remote.next();
    for place in ["/identity/", "/wal/"] {
        let fault = remote.proxy().inject(Rule::on("", place).nth(1).error(403, SKEWED));
        remote.archive.push(&path).ok();
        remote.holds(&segment.name(), &segment.bytes());
        assert!(fault.was_hit());
        remote.proxy().clear();
    }
}

#[test]
fn a_clock_that_stays_wrong_is_told_as_what_it_is() {
    let remote = Remote::new();
    let (segment, path) = remote.next();
    let fault = remote.proxy().inject(Rule::on("", "").error(403, SKEWED));
    let outcomes = [remote.archive.push(&path).refused(), remote.archive.fetch_fails(&segment.name())];
    assert!(fault.was_hit());
    for outcome in outcomes {
        assert!(outcome.stderr.contains("clock"), "which clock?\n{outcome}");
        assert!(!outcome.stderr.contains("the key needs"), "no permission is missing\n{outcome}");
    }
}

/// The moment of a request's signature.
fn signed_at(head: &http::Head) -> jiff::Timestamp {
    let date = head.get("x-amz-date").expect("a date");
    let date = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date).expect("a date");
    date.to_zoned(jiff::tz::TimeZone::UTC).expect("UTC").timestamp()
}

#[test]
fn the_clock_of_the_store_is_taken_when_it_says_what_time_it_is() {
    // Its clock is 20 minutes ahead, and it believes nothing that was signed by another one.
    let ahead = std::time::Duration::from_secs(1200);
    let (refused, dates) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (count, seen) = (refused.clone(), dates.clone());
    let store = service(move |head, _| {
        let now = jiff::Timestamp::now() + ahead;
        let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        seen.lock().expect("no panic").push(signed_at(head));
        let reply = if (now - signed_at(head)).get_seconds().abs() > 60 {
            count.fetch_add(1, Ordering::SeqCst);
            Reply::error(403, SKEWED)
        } else {
            Reply::error(404, "NoSuchKey")
        };
        reply.header("Date", date)
    });
    let mut remote = Remote::new();
    remote.archive.set_remote(|repository| repository.line(&format!("endpoint = {:?}", store.url())));
    // It is asked for the identity first, which it has not.
    let outcome = remote.archive.fetch_fails(&remote.segment(2).name());
    let dates = dates.lock().expect("no panic");
    assert!(!outcome.stderr.contains(SKEWED), "{outcome}");
    assert!(refused.load(Ordering::SeqCst) >= 1 && dates.len() >= 2, "{outcome}");
}

//! Ahead to and from a bucket, where every request is a journey.

use super::*;
use crate::support::s3::Bucket;

struct Far {
    site: Site,
    bucket: Bucket,
}

fn far() -> Far {
    let bucket = Bucket::new();
    let remote = bucket.repository("archive");
    let site = Site::build(|build| build.remote(remote).wal("push_ahead = 4").wal("fetch_ahead = 4"));
    bucket.proxy.forget();
    Far { site, bucket }
}

impl Far {
    /// Writes these segments and declares them ready.
    fn ready(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
        let paths = numbers.into_iter().map(|number| {
            let segment = self.site.segment(number);
            self.site.data.write_other(&format!("archive_status/{}.ready", segment.name()), "");
            self.site.data.write(&segment)
        });
        let paths: Vec<String> = paths.collect();
        settle(&self.site, &paths);
        paths
    }

    /// The requests for this segment.
    fn requests(&self, method: &str, number: u64) -> usize {
        self.bucket.proxy.count(method, &self.site.segment(number).name())
    }

    fn is_kept(&self, number: u64) -> bool {
        spooled_names(&self.site.archive).contains(&format!("{}.mark", self.site.segment(number).name()))
    }

    #[track_caller]
    fn fetches(&self, number: u64) {
        let segment = self.site.segment(number);
        self.site.holds(&segment.name(), &segment.bytes());
    }

    fn end_worker(&self) {
        end_workers(&self.site.archive);
    }
}

#[test]
fn a_call_for_what_was_pushed_ahead_sends_nothing() {
    let far = far();
    let files = far.ready(2..=6);
    far.site.archive.push(&files[0]).ok();
    for number in 2..=6 {
        assert_eq!(far.requests("PUT", number), 1);
    }
    far.bucket.proxy.forget();
    for file in &files[1..] {
        far.site.archive.push(file).ok();
    }
    assert_eq!(far.bucket.proxy.lines(), Vec::<String>::new());
    for number in 2..=6 {
        far.fetches(number);
    }
    far.end_worker();
}

#[test]
fn another_bucket_or_prefix_is_not_answered_for() {
    let mut far = far();
    let files = far.ready(2..=3);
    far.site.archive.push(&files[0]).ok();
    let other = far.bucket.repository("other");
    far.site.archive.set_remote(|_| other);
    far.site.archive.init().ok();
    far.site.archive.push(&files[1]).ok();
    far.fetches(3);
    far.end_worker();
}

#[test]
fn a_further_segment_that_the_store_refuses_comes_with_its_own_call() {
    let far = far();
    let files = far.ready(2..=5);
    let fault =
        far.bucket.proxy.inject(Rule::on("PUT", &far.site.segment(4).name()).error(403, "AccessDenied"));
    far.site.archive.push(&files[0]).ok();
    assert!(fault.was_hit());
    far.site.archive.push(&files[1]).ok();
    far.site.archive.push(&files[2]).refused();
    far.bucket.proxy.clear();
    far.site.archive.push(&files[2]).ok();
    far.site.archive.push(&files[3]).ok();
    for number in 2..=5 {
        far.fetches(number);
    }
    far.end_worker();
}

#[test]
fn further_segments_that_hang_hold_nobody_up_for_longer_than_half_the_deadline() {
    let mut far = far();
    far.site.archive.set_wal("timeout = \"4s\"");
    far.site.archive.write_config();
    let files = far.ready(2..=4);
    far.site.archive.push(&files[0]).ok();
    let files = far.ready(12..=14);
    let held = far.bucket.proxy.inject(Rule::on("PUT", &far.site.segment(13).name()).hold());
    far.site.archive.push(&files[0]).ok();
    assert!(held.was_hit());
    far.bucket.proxy.clear();
    for (file, number) in files.iter().zip(12..) {
        far.site.archive.push(file).ok();
        far.fetches(number);
    }
    far.end_worker();
}

#[test]
fn what_was_fetched_ahead_is_fetched_once() {
    let far = far();
    far.site.pushed(&[1, 2, 3, 4, 5, 6, 7, 8]);
    far.bucket.proxy.forget();
    for number in 1..=8 {
        far.fetches(number);
        until("the next one is there", || number == 8 || far.is_kept(number + 1));
    }
    for number in 1..=8 {
        assert_eq!(far.requests("GET", number), 1, "{number}: {:?}", far.bucket.proxy.lines());
    }
    until("the worker ends at the end of the archive", || workers(&far.site.archive).is_empty());
}

#[test]
fn a_call_waits_for_what_is_on_its_way() {
    let far = far();
    far.site.pushed(&[1, 2, 3]);
    far.bucket.proxy.forget();
    let second = far.site.segment(2).name();
    let slow = far.bucket.proxy.inject(Rule::on("GET", &second).delay(Duration::from_millis(300)));
    far.fetches(1);
    slow.await_hit();
    far.fetches(2);
    assert_eq!(far.requests("GET", 2), 1, "{:?}", far.bucket.proxy.lines());
    far.end_worker();
}

#[test]
fn a_worker_that_hangs_holds_neither_this_timeline_nor_another_one_up() {
    let far = far();
    far.site.pushed(&[1, 2, 3]);
    let new = far.site.segment(2).at(2, 2).mark("timeline 2");
    far.site.push(&new).ok();
    let second = far.site.segment(2).name();
    let held = far.bucket.proxy.inject(Rule::on("GET", &second).nth(1).hold());
    far.fetches(1);
    held.await_hit();
    far.site.holds(&new.name(), &new.bytes());
    far.fetches(2);
    far.bucket.proxy.clear();
    far.end_worker();
}

#[test]
fn a_missing_segment_takes_three_requests_each_time_and_no_worker() {
    let far = far();
    far.site.pushed(&[1]);
    far.bucket.proxy.forget();
    for _ in 0..4 {
        far.site.archive.fetch_ends(&far.site.segment(2).name());
    }
    assert_eq!(far.bucket.proxy.lines().len(), 12, "{:?}", far.bucket.proxy.lines());
    assert_eq!(workers(&far.site.archive), Vec::<u32>::new());
}

#[test]
fn at_the_end_of_the_archive_one_segment_is_looked_for_in_vain() {
    let far = far();
    far.site.pushed(&[1]);
    far.bucket.proxy.forget();
    far.fetches(1);
    until("the worker has come and gone", || {
        far.requests("GET", 2) > 0 && workers(&far.site.archive).is_empty()
    });
    // The segment, and the proof that the next one is missing.
    assert_eq!(far.bucket.proxy.lines().len(), 4, "{:?}", far.bucket.proxy.lines());
}

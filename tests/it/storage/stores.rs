//! The stores that the suite is held against.

use crate::support::s3::Bucket;
use crate::support::{Rule, Scratch, scratch};
use std::time::Duration;
use walkeep::storage::{Claims, Directory, Retry, RetryPolicy, S3, Storage};

/// A place for objects, and the means to open it as another process would.
pub struct Site {
    open: Box<Open>,
    fill: Box<Fill>,
}

/// Opens the place of this name.
type Open = dyn Fn(&str) -> Box<dyn Storage> + Send + Sync;

/// Makes small objects under these keys of the place.
type Fill = dyn Fn(&[String]) + Send + Sync;

/// What every place of this suite is called in its store; its neighbour has one letter more.
const PLACE: &str = "place";
const NEIGHBOUR: &str = "place2";

/// Short waits and many attempts: sixteen threads share the failures, and one may meet several in a
/// row.
fn patience(attempts: u32) -> RetryPolicy {
    let (first_pause, max_pause) = (Duration::from_millis(1), Duration::from_millis(50));
    RetryPolicy { max_attempts: attempts, max_attempts_after_answer: attempts, first_pause, max_pause }
}

impl Site {
    /// The store.
    pub fn open(&self) -> Box<dyn Storage> {
        (self.open)(PLACE)
    }

    /// Another place beside it, whose name begins with the same letters.
    pub fn neighbour(&self) -> Box<dyn Storage> {
        (self.open)(NEIGHBOUR)
    }

    /// Makes many small objects, past the store.
    pub fn fill(&self, keys: &[String]) {
        (self.fill)(keys);
    }

    pub fn directory() -> Site {
        let scratch = Scratch::new();
        let place = scratch.mkdir(PLACE);
        scratch.mkdir(NEIGHBOUR);
        let fill = move |keys: &[String]| {
            for key in keys {
                let path = place.join(key);
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
                scratch::write(&path, "filled");
            }
        };
        Site {
            open: Box::new(move |place| Box::new(Directory::new(scratch.join(place)))),
            fill: Box::new(fill),
        }
    }

    /// A bucket: on a network that does nothing wrong, as everywhere else in the suite.
    pub fn s3() -> Site {
        Site::bucket(&[], |store| Box::new(store))
    }

    /// A store that is busy at times, behind a network that breaks connections.
    pub fn s3_with_failures() -> Site {
        let rules = [
            Rule::on("", "").from(2).every(5).error(503, "SlowDown"),
            Rule::on("", "").from(4).every(11).reset_request(0),
            Rule::on("GET", "").from(2).every(7).lose_reply(),
            Rule::on("DELETE", "").from(1).every(2).lose_reply(),
        ];
        Site::bucket(&rules, |store| Box::new(Retry::new(store, patience(12))))
    }

    /// A store that answers a conditional create as if it had no condition.
    pub fn s3_without_conditions() -> Site {
        let rules = [Rule::on("", "").deaf()];
        // Who meets a rival gives way and comes back: with sixteen of them the waits have to become
        // long.
        let patience = RetryPolicy { max_pause: Duration::from_secs(2), ..patience(100) };
        Site::bucket(&rules, move |store| Box::new(Retry::new(Claims::new(store), patience)))
    }

    fn bucket(rules: &[Rule], wrap: impl Fn(S3) -> Box<dyn Storage> + Send + Sync + 'static) -> Site {
        let bucket = std::sync::Arc::new(Bucket::new());
        for rule in rules {
            bucket.proxy.inject(rule.clone());
        }
        let filled = bucket.clone();
        let fill = move |keys: &[String]| {
            let keys: Vec<String> = keys.iter().map(|key| format!("{PLACE}/{key}")).collect();
            filled.fill(&keys, "filled");
        };
        Site { open: Box::new(move |place| wrap(S3::new(bucket.options(place)))), fill: Box::new(fill) }
    }
}

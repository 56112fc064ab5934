//! Notices: a failure is told once and its end once, every drill is told, nobody waits long for it,
//! and no secret is shown.

mod arrives;
mod astray;

use crate::support::http::{Head, Reply, Server, service};
use crate::support::*;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What only who may send there knows.
const SECRET: &str = "T0000-hunter2";

/// Takes notices.
struct Receiver {
    server: Server,
    got: Arc<Mutex<Vec<(Head, Value)>>>,
}

impl Receiver {
    fn new() -> Receiver {
        let got: Arc<Mutex<Vec<(Head, Value)>>> = Arc::default();
        let book = got.clone();
        let server = service(move |head, body| {
            let notice = serde_json::from_slice(body).unwrap_or_default();
            book.lock().unwrap_or_else(PoisonError::into_inner).push((head.clone(), notice));
            Reply::new(200, "ok")
        });
        Receiver { server, got }
    }

    fn url(&self) -> String {
        format!("{}/services/{SECRET}?token={SECRET}", self.server.url())
    }

    /// What came since this was asked last.
    fn came(&self) -> Vec<Value> {
        self.heads().into_iter().map(|(_, notice)| notice).collect()
    }

    fn heads(&self) -> Vec<(Head, Value)> {
        std::mem::take(&mut *self.got.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The events that came since this was asked last.
    fn events(&self) -> Vec<String> {
        self.came().iter().map(|notice| live::text(notice, "event")).collect()
    }
}

/// An archive with these lines of `[notify]`, whose repository can be taken away.
struct Told {
    archive: Archive,
    away: PathBuf,
    _kept: Option<(Scratch, DataDir)>,
}

impl Told {
    /// Of a registered cluster whose server is down.
    fn new(lines: &str) -> Told {
        let scratch = Scratch::new();
        let data = DataDir::create(&scratch, "data", 15, 7_300_000_000_000_000_001, 1);
        let archive = Archive::build(&data.path).connection("host=/nowhere user=postgres").create();
        Told { _kept: Some((scratch, data)), ..Told::over(archive, lines) }
    }

    fn over(mut archive: Archive, lines: &str) -> Told {
        archive.set_tail(&format!("\n[notify]\n{lines}\n"));
        let away = archive.scratch().join("away");
        Told { archive, away, _kept: None }
    }

    fn by_webhook(receiver: &Receiver, lines: &str) -> Told {
        Told::new(&format!("webhook = {:?}\n{lines}", receiver.url()))
    }

    /// A verb that works.
    #[track_caller]
    fn works(&self, verb: &[&str]) -> Outcome {
        shows_no_secret(self.archive.walkeep(verb).ok())
    }

    /// The same while the repository is away.
    #[track_caller]
    fn fails(&self, verb: &[&str]) -> Outcome {
        std::fs::rename(self.archive.root(), &self.away).expect("take the repository away");
        let outcome = self.archive.walkeep(verb).is(1);
        std::fs::rename(&self.away, self.archive.root()).expect("bring it back");
        shows_no_secret(outcome)
    }
}

#[track_caller]
fn shows_no_secret(outcome: Outcome) -> Outcome {
    assert!(!outcome.stderr.contains("hunter2") && !outcome.stdout.contains("hunter2"), "{outcome}");
    outcome
}

/// How many warnings there are.
fn warnings(outcome: &Outcome) -> usize {
    outcome.stderr.matches("walkeep: warning: ").count()
}

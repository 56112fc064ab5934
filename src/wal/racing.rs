//! Work in several repositories at once, each on its own thread; results arrive as they are ready.
//!
//! The threads are detached on purpose. A call of `walpush` or `walfetch` must not wait for a
//! repository that is too slow: the call ends with the result that it has, and the end of the
//! process ends the threads, as a crash would. Their work may be interrupted at any point.

use crate::error::Result;
use crate::repo::Repository;
use crate::runtime::thread;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

/// Work in several repositories, and its results.
pub struct Race<'a, T> {
    sender: mpsc::Sender<(usize, Result<T>)>,
    results: mpsc::Receiver<(usize, Result<T>)>,
    /// Repositories whose results have not arrived, with their numbers.
    running: Vec<(usize, &'a Repository)>,
}

impl<'a, T: Send + 'static> Race<'a, T> {
    pub fn new() -> Race<'a, T> {
        let (sender, results) = mpsc::channel();
        Race { sender, results, running: Vec::new() }
    }

    /// Starts `work` for a repository, on its own thread. `number` identifies the repository: its
    /// position among all.
    pub fn start(
        &mut self,
        number: usize,
        repository: &'a Repository,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) {
        self.running.push((number, repository));
        let sender = self.sender.clone();
        let run = move || {
            let panicked = |_| Err(thread::panicked("repository"));
            let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked);
            // The receiver was dropped if the caller did not wait for this result.
            let _ = sender.send((number, result));
        };
        if let Err(error) = thread::spawn("repository", run) {
            let _ = self.sender.send((number, Err(error)));
        }
    }

    /// Waits for the next result, up to `patience`. `None` when no result arrived in time, or no
    /// work is running.
    pub fn next(&mut self, patience: Duration) -> Option<(usize, &'a Repository, Result<T>)> {
        if self.running.is_empty() {
            return None;
        }
        let (number, result) = self.results.recv_timeout(patience).ok()?;
        let place = self.running.iter().position(|(other, _)| *other == number)?;
        let (_, repository) = self.running.remove(place);
        Some((number, repository, result))
    }

    /// Repositories whose results have not arrived.
    pub fn running(&self) -> impl Iterator<Item = &'a Repository> {
        self.running.iter().map(|(_, repository)| *repository)
    }
}

/// Does `work` while another thread reads the identity of the same repository. Returns both results.
pub fn beside_identity<A: Send, B>(
    identity: impl FnOnce() -> Result<A> + Send,
    work: impl FnOnce() -> B,
) -> (Result<A>, B) {
    thread::scope(|scope| match scope.spawn("identity", identity) {
        Ok(identity) => {
            let done = work();
            (identity.join().flatten(), done)
        }
        Err(error) => (Err(error), work()),
    })
}

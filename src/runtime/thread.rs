//! Threads. The operating system may refuse to start one, which is an error here and never a panic;
//! a panic of a thread is an error of the thread that joins it.

use super::clock::MonotonicTime;
use super::{Scheduler, enter, number_of, scheduler};
use crate::error::{Error, Kind, Result};
use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use std::time::Duration;
use tracing::Span;

/// Suspends the current thread.
pub fn sleep(time: Duration) {
    let Some(scheduler) = scheduler() else {
        return std::thread::sleep(time);
    };
    let end = MonotonicTime::now() + time;
    let nothing = 0_u8;
    loop {
        scheduler.park(number_of(&nothing), Some(end.since_start()));
        if end.left().is_zero() {
            return;
        }
    }
}

/// Number of threads that can run at once.
pub fn processors() -> NonZeroUsize {
    match scheduler() {
        Some(_) => NonZeroUsize::MIN,
        None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    }
}

/// Marks the end of a thread under a scheduler.
#[derive(Default)]
struct End(AtomicBool);

impl End {
    /// Waits for the end.
    fn wait(&self) {
        while !self.0.load(Ordering::Acquire)
            && let Some(scheduler) = scheduler()
        {
            scheduler.park(number_of(self), None);
        }
    }
}

/// The parts of a thread that a scheduler needs, outside of a simulation nothing.
struct ThreadStart(Option<(Arc<dyn Scheduler>, Arc<End>)>);

impl ThreadStart {
    fn of(name: &str) -> ThreadStart {
        ThreadStart(scheduler().map(|scheduler| (scheduler.starts(name), Arc::default())))
    }

    fn end(&self) -> Option<Arc<End>> {
        self.0.as_ref().map(|(_, end)| Arc::clone(end))
    }

    fn run<T>(self, work: impl FnOnce() -> T) -> T {
        struct Ended(Arc<dyn Scheduler>, Arc<End>);
        impl Drop for Ended {
            fn drop(&mut self) {
                self.1.0.store(true, Ordering::Release);
                self.0.wake(number_of(&*self.1));
            }
        }
        let Some((scheduler, end)) = self.0 else {
            return work();
        };
        enter(Arc::clone(&scheduler), || {
            let _ended = Ended(scheduler, end);
            work()
        })
    }

    /// Starts a thread by `spawn`, in the current span. Returns its handle and its end.
    fn spawn<W: FnOnce() -> T, T, H>(
        name: &str,
        work: W,
        spawn: impl FnOnce(Builder, ThreadWork<W>) -> std::io::Result<H>,
    ) -> Result<(H, Option<Arc<End>>)> {
        let start = ThreadStart::of(name);
        let (end, scheduler) = (start.end(), start.0.as_ref().map(|(scheduler, _)| Arc::clone(scheduler)));
        let work = ThreadWork { span: Span::current(), start, work };
        match spawn(Builder::new().name(name.to_owned()), work) {
            Ok(handle) => Ok((handle, end)),
            Err(error) => {
                scheduler.iter().for_each(|scheduler| scheduler.end());
                Err(no_thread(error))
            }
        }
    }
}

/// What a thread does from its start to its end.
struct ThreadWork<W> {
    span: Span,
    start: ThreadStart,
    work: W,
}

impl<W> ThreadWork<W> {
    fn run<T>(self) -> T
    where
        W: FnOnce() -> T,
    {
        let ThreadWork { span, start, work } = self;
        span.in_scope(|| start.run(work))
    }
}

/// A scope that ends after all of its threads.
pub struct ThreadScope<'scope, 'env: 'scope> {
    inner: &'scope std::thread::Scope<'scope, 'env>,
    ends: RefCell<Vec<Arc<End>>>,
}

/// A thread of a scope.
#[must_use = "a panic of the thread is an error of its `join`"]
pub struct ScopedThread<'scope, T> {
    name: &'static str,
    inner: std::thread::ScopedJoinHandle<'scope, T>,
    end: Option<Arc<End>>,
}

/// Runs `work` with a scope, and waits for the threads that it started there.
pub fn scope<'env, T>(work: impl for<'scope> FnOnce(&ThreadScope<'scope, 'env>) -> T) -> T {
    struct Joined<'a, 'scope, 'env>(&'a ThreadScope<'scope, 'env>);
    impl Drop for Joined<'_, '_, '_> {
        fn drop(&mut self) {
            self.0.ends.borrow().iter().for_each(|end| end.wait());
        }
    }
    #[allow(clippy::disallowed_methods)] // the one place
    std::thread::scope(|inner| {
        let scope = ThreadScope { inner, ends: RefCell::default() };
        let _joined = Joined(&scope);
        work(&scope)
    })
}

impl<'scope> ThreadScope<'scope, '_> {
    /// Starts a thread, in the current span.
    ///
    /// # Errors
    ///
    /// `Full` when the operating system starts no further thread.
    pub fn spawn<T: Send + 'scope>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> Result<ScopedThread<'scope, T>> {
        #[allow(clippy::disallowed_methods)] // the one place
        let (inner, end) = ThreadStart::spawn(name, work, |builder, work| {
            builder.spawn_scoped(self.inner, move || work.run())
        })?;
        self.ends.borrow_mut().extend(end.clone());
        Ok(ScopedThread { name, inner, end })
    }

    /// Starts a thread for each element of `works`, fewer when the system has no further thread.
    ///
    /// # Errors
    ///
    /// When the system has not even one.
    pub fn spawn_some<T: Send + 'scope, W: FnOnce() -> T + Send + 'scope>(
        &self,
        name: &'static str,
        works: impl IntoIterator<Item = W>,
    ) -> Result<Vec<ScopedThread<'scope, T>>> {
        let mut threads = Vec::new();
        for work in works {
            match self.spawn(name, work) {
                Ok(thread) => threads.push(thread),
                Err(error) if threads.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(threads)
    }
}

/// Does `work`, which gets the number of its thread, in `count` threads at once, this one among
/// them; in fewer when the system has no further thread.
///
/// # Errors
///
/// The first error of `work` in the order of the numbers; [`Kind::Defect`] after a panic.
pub fn share(count: usize, name: &'static str, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    scope(|scope| {
        let work = &work;
        let others = scope.spawn_some(name, (1..count).map(|number| move || work(number)));
        let own = work(0);
        others.into_iter().flatten().fold(own, |result, thread| result.and(thread.join().flatten()))
    })
}

impl<T> ScopedThread<'_, T> {
    /// Waits for the end of the thread.
    ///
    /// # Errors
    ///
    /// `Defect` after a panic of the thread.
    pub fn join(self) -> Result<T> {
        self.end.iter().for_each(|end| end.wait());
        self.inner.join().map_err(|_| panicked(self.name))
    }
}

/// A thread that may outlive the function that starts it.
#[must_use = "a panic of the thread is an error of its `join`"]
pub struct Thread<T> {
    name: &'static str,
    inner: std::thread::JoinHandle<T>,
    end: Option<Arc<End>>,
}

/// Starts a thread, in the current span.
///
/// # Errors
///
/// `Full` when the operating system starts no further thread.
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Thread<T>> {
    #[allow(clippy::disallowed_methods)] // the one place
    let (inner, end) = ThreadStart::spawn(name, work, |builder, work| builder.spawn(move || work.run()))?;
    Ok(Thread { name, inner, end })
}

impl<T> Thread<T> {
    /// Waits for the end of the thread.
    ///
    /// # Errors
    ///
    /// `Defect` after a panic of the thread.
    pub fn join(self) -> Result<T> {
        self.end.iter().for_each(|end| end.wait());
        self.inner.join().map_err(|_| panicked(self.name))
    }
}

/// Returns the error for a thread that ended with a panic; message and place of the panic are
/// reported already.
pub fn panicked(name: &str) -> Error {
    Error::defect(format!("the thread `{name}` panicked"))
}

fn no_thread(error: std::io::Error) -> Error {
    Error::from_io("start a thread", error).with_kind(Kind::Full).hint(
        "the limit of processes and threads is reached: `ulimit -u`, TasksMax= of the systemd unit, or the pids limit of the container",
    )
}

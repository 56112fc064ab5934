//! Signals that ask the program to end, for verbs that have something to clean up.

use super::output::Console;
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Hears what the console hears, and knows whether a signal came.
pub struct Interruptible<'a> {
    console: &'a Console,
    came: Arc<AtomicBool>,
}

impl<'a> Interruptible<'a> {
    /// From here on SIGINT, SIGTERM and SIGHUP do not end the program; whoever works has to ask.
    pub fn new(console: &'a Console) -> Result<Interruptible<'a>> {
        let failed = |e: std::io::Error| Error::io("listen for signals", &e);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let came = Arc::new(AtomicBool::new(false));
        let heard = Arc::clone(&came);
        let (mut interrupt, mut terminate, mut hang_up) = {
            let _inside = runtime.enter();
            let listen = |kind| signal(kind).map_err(failed);
            (
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
            )
        };
        let wait = move || {
            runtime.block_on(std::future::poll_fn(|context| {
                let polls =
                    [&mut interrupt, &mut terminate, &mut hang_up].map(|signal| signal.poll_recv(context));
                match polls.iter().any(std::task::Poll::is_ready) {
                    true => std::task::Poll::Ready(()),
                    false => std::task::Poll::Pending,
                }
            }));
            heard.store(true, Ordering::Relaxed);
        };
        std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(failed)?;
        Ok(Interruptible { console, came })
    }
}

impl Observer for Interruptible<'_> {
    fn event(&self, event: Event<'_>) {
        self.console.event(event);
    }

    fn is_cancelled(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }
}

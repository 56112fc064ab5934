//! Signals that request the end of the program, for verbs that have to clean up first.

use crate::error::{Doing, Error, Result};
use crate::progress::Cancel;
use crate::runtime::thread;
use tokio::signal::unix::{SignalKind, signal};

/// Returns a token that the first SIGINT, SIGTERM or SIGHUP cancels. From here on these signals do
/// not end the program: the operation has to check the token.
pub fn cancel_on_signal() -> Result<Cancel> {
    let failed = |e: std::io::Error| Error::io("listen for signals", &e);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    let (mut interrupt, mut terminate, mut hang_up) = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).map_err(failed);
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?)
    };
    let cancel = Cancel::default();
    let request = cancel.clone();
    let wait = move || {
        runtime.block_on(std::future::poll_fn(|context| {
            let polls =
                [&mut interrupt, &mut terminate, &mut hang_up].map(|signal| signal.poll_recv(context));
            if polls.iter().any(std::task::Poll::is_ready) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        }));
        request.cancel();
    };
    let _detached = thread::spawn("signals", wait).doing("listen for signals")?;
    Ok(cancel)
}

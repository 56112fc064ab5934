//! Panics: each is reported as one error that names its place, and the program ends with the status
//! of a failure.

use super::log::{self, StandardError, Verbosity};
use crate::config::LogFormat;
use crate::error::{Error, Kind};
use crate::progress;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;

thread_local! {
    static HAS_PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a program. A panic ends it with the status that `failed` returns, whichever thread it is on
/// when the program waits for that thread.
pub fn guard(program: &'static str, failed: fn() -> u8, run: fn() -> ExitCode) -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into()).collect();
    let command = format!("{program} {}", arguments.join(" "));
    std::panic::set_hook(Box::new(move |panic| {
        report(program, &command, panic);
        // A second panic, while the first unwinds, would abort the process.
        if HAS_PANICKED.replace(true) {
            std::process::exit(failed().into());
        }
    }));
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| ExitCode::from(failed()))
}

fn report(program: &'static str, command: &str, panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let why = panic.payload_as_str().unwrap_or("no message");
    // Has no effect once the options were read: a log is installed then.
    let standard_error = StandardError { program, verbosity: Verbosity::Quiet, format: LogFormat::Text };
    log::install_helper(&standard_error, None);
    let message = format!("`{command}` stopped at {place}: {why}");
    progress::error(&Error::new(Kind::Defect, message));
}

//! The first error of several threads that work together.

use crate::error::{Error, Kind, Result};
use parking_lot::Mutex;

/// The first error of any thread; later ones are its consequences.
#[derive(Default)]
pub(super) struct FirstError(Mutex<Option<Error>>);

impl FirstError {
    /// Returns the value of a result. Keeps its error if that is the first one.
    pub fn note<T>(&self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.lock().get_or_insert(error);
                None
            }
        }
    }

    pub fn is_set(&self) -> bool {
        self.0.lock().is_some()
    }

    pub fn take(&self) -> Option<Error> {
        self.0.lock().take()
    }
}

/// Error of a stage whose successor has ended. The successor's error is the cause.
pub(super) fn cancelled() -> Error {
    Error::new(Kind::Failed, "another stage of the backup failed")
}

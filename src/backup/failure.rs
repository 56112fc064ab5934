//! What went wrong when several threads work together.

use crate::error::{Error, Kind, Result};
use std::sync::{Mutex, PoisonError};

/// The first failure of any thread; later ones follow from it.
#[derive(Default)]
pub struct Failure(Mutex<Option<Error>>);

impl Failure {
    pub fn note<T>(&self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                None
            }
        }
    }

    pub fn is_set(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What a stage says when the next one is gone: that one's error is the cause.
pub fn cancelled() -> Error {
    Error::new(Kind::Failed, "the work was given up")
}

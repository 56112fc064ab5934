//! Notices to an administrator: a verb failed, it works again, a drill has ended.
//!
//! A [`Notice`] consists of facts and is sent over one or more [`NoticeChannel`]s, each within a
//! time limit. A failure to deliver it is returned to the caller, and changes nothing else.
//! [`FailureMemory`] records the last report, so that a lasting failure is not reported every time
//! and its end is reported once. The address of a webhook is a secret: no error and no `{:?}` shows
//! it.

mod command;
mod memory;
mod notice;
mod webhook;

pub use memory::{Due, Failing, FailureMemory};
pub use notice::{Notice, NoticeEvent};
pub use webhook::{Webhook, WebhookFormat};

use crate::error::Result;
use std::path::Path;
use std::time::Duration;

/// A means of delivering notices.
#[derive(Debug, Clone)]
pub enum NoticeChannel {
    Webhook(Webhook),
    /// A program and its arguments; not empty.
    Command(Vec<String>),
}

impl NoticeChannel {
    /// Name in messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            NoticeChannel::Webhook(webhook) => format!("the webhook of {}", webhook.host()),
            NoticeChannel::Command(words) => words
                .first()
                .map_or_else(|| "an empty command".to_owned(), |program| format!("the command {program}")),
        }
    }

    /// Path of the program that is run; `None` for a webhook.
    #[must_use]
    pub fn program(&self) -> Option<&Path> {
        match self {
            NoticeChannel::Webhook(_) => None,
            NoticeChannel::Command(words) => words.first().map(Path::new),
        }
    }

    /// Sends a notice; returns after about `limit` at the latest. A program runs as the user and group
    /// of `run_as`, or as those of this process.
    ///
    /// # Errors
    ///
    /// Any kind, when it is not certain that the notice was accepted.
    pub fn send(&self, notice: &Notice, limit: Duration, run_as: Option<(u32, u32)>) -> Result<()> {
        match self {
            NoticeChannel::Webhook(webhook) => webhook.post(notice, limit),
            NoticeChannel::Command(words) => command::run(words, notice, limit, run_as),
        }
    }
}

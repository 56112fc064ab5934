//! Tells somebody who does not look: that a verb failed, that it works again, how a drill ended.
//!
//! A [`Notice`] is facts and goes over one or more [`Way`]s, each within a time; that it did not arrive is the
//! business of whoever sent it, and of nobody else. [`Memory`] is what was said last, so that a failure is not told
//! every time and its end exactly once. The address of a webhook is a secret: no error and no `{:?}` shows it.

mod command;
mod memory;
mod notice;
mod webhook;

pub use memory::{Due, Failing, Memory};
pub use notice::{Event, Notice};
pub use webhook::{Format, Webhook};

use crate::error::Result;
use std::time::Duration;

/// How a notice reaches somebody.
#[derive(Debug, Clone)]
pub enum Way {
    Webhook(Webhook),
    /// A program and its arguments.
    Command(Vec<String>),
}

impl Way {
    /// What it is called in messages.
    pub fn name(&self) -> String {
        match self {
            Way::Webhook(webhook) => format!("the webhook of {}", webhook.host()),
            Way::Command(words) => format!("the command {}", words.first().map_or("", String::as_str)),
        }
    }

    /// Sends a notice, and is back after `limit`, about.
    ///
    /// # Errors
    /// When it is not certain that the notice was taken.
    pub fn send(&self, notice: &Notice, limit: Duration) -> Result<()> {
        match self {
            Way::Webhook(webhook) => webhook.post(notice, limit),
            Way::Command(words) => command::run(words, notice, limit),
        }
    }
}

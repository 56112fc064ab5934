//! Notices: what verbs that cron starts tell somebody who does not look. Whatever becomes of a notice, the verb ends as
//! it would without.

use super::args;
use super::exit::Exit;
use super::log::Lines;
use super::render::Report;
use super::setup::Context;
use crate::error::{Error, Kind, Result};
use crate::notify::{self, Due, Memory, Notice, Way};
use crate::observe::{Health, Light};
use crate::progress;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

/// How a verb ended, and what it said.
#[derive(Default)]
struct Outcome {
    status: u8,
    reason: Option<String>,
    details: Vec<String>,
}

/// Runs a verb, and tells how it ended when that is news. `parts` are what it was asked to work on, so that one thing
/// that works is not taken for the end of another that fails.
pub fn watched(
    global: &args::GlobalArgs,
    verb: &'static str,
    parts: &[Option<&str>],
    work: impl FnOnce(&Context) -> Result<Exit>,
) -> Result<Exit> {
    let context = Context::new(global)?;
    let result = work(&context);
    let Lines { mut wrong, printed } = context.console.lines();
    let status = match &result {
        Ok(exit) => exit.status(),
        Err(error) => {
            let hint = error.advice().map(|hint| format!("hint: {hint}"));
            // Nothing was said of it yet.
            wrong.splice(0..0, std::iter::once(error.to_string()).chain(hint));
            Exit::of(error).status()
        }
    };
    let outcome = Outcome { status, reason: wrong.first().cloned(), details: [wrong, printed].concat() };
    let about: Vec<&str> = std::iter::once(verb).chain(parts.iter().copied().flatten()).collect();
    tell(&context, verb, &about.join("-"), outcome);
    result
}

/// Tells of clusters that have become red, and that are not any more.
pub fn of_status(global: &args::GlobalArgs, all: &[Health]) -> Result<()> {
    for (context, health) in Context::all(global)?.iter().zip(all) {
        let red = health.findings.iter().filter(|finding| finding.light == Light::Red);
        let details: Vec<String> = red
            .map(|finding| match &finding.repository {
                Some(repository) => format!("repository {repository}, {}: {}", finding.name, finding.detail),
                None => format!("{}: {}", finding.name, finding.detail),
            })
            .collect();
        let status = if details.is_empty() { Exit::Done } else { Exit::Problem }.status();
        tell(context, "status", "status", Outcome { status, reason: details.first().cloned(), details });
    }
    Ok(())
}

fn ways(context: &Context) -> Vec<Way> {
    let config = &context.config.notify;
    let webhook = config.webhook.iter().cloned().map(Way::Webhook);
    webhook.chain(config.command.iter().cloned().map(Way::Command)).collect()
}

fn tell(context: &Context, verb: &str, about: &str, outcome: Outcome) {
    let config = &context.config.notify;
    let ways = ways(context);
    if ways.is_empty() {
        return;
    }
    let now = Timestamp::now();
    let memory = Memory::new(&context.config.wal.spool, &context.cluster.name, about);
    let before = memory.read().unwrap_or_else(|error| {
        progress::warn(&error);
        None
    });
    let repeat = SignedDuration::try_from(config.repeat).unwrap_or(SignedDuration::MAX);
    let due = Due::after(before, outcome.status == 0, now, repeat);
    let wanted = |event: &notify::Event| config.on.contains(event);
    let event = match verb {
        "drill" if wanted(&notify::Event::Drill) => Some(notify::Event::Drill),
        _ => due.event.filter(wanted),
    };
    let is_told = match event {
        Some(event) => {
            let notice = notice(context, event, verb, outcome, due.since, now);
            // All of them, and one that takes it is enough.
            ways.iter().filter(|way| send(context, way, &notice)).count() > 0
        }
        // Nobody wants to hear that it is over.
        None => due.event == Some(notify::Event::Recovery),
    };
    let failing = due.remembered(before, is_told, now);
    if failing != before
        && let Err(error) = memory.write(failing)
    {
        let spool = context.config.wal.spool.display();
        progress::warn(&error.hint(format!("make {spool}, for the user that runs the server: without it a failure is told every time, and its end never")));
    }
}

fn notice(
    context: &Context,
    event: notify::Event,
    verb: &str,
    outcome: Outcome,
    since: Option<Timestamp>,
    now: Timestamp,
) -> Notice {
    Notice {
        event,
        cluster: context.cluster.name.clone(),
        verb: verb.to_owned(),
        status: outcome.status,
        reason: outcome.reason,
        details: outcome.details,
        since,
        host: crate::repo::process::host(),
        time: now,
    }
}

/// Sends a notice one way; whether it was taken. A failure is a warning.
fn send(context: &Context, way: &Way, notice: &Notice) -> bool {
    if let Way::Webhook(webhook) = way
        && webhook.is_open()
    {
        let message = format!(
            "the notice goes to {} unencrypted, and so does the secret in its address",
            webhook.host()
        );
        progress::warn(
            &Error::new(Kind::Config, message).hint("`webhook` in [notify] should begin with https://"),
        );
    }
    match way.send(notice, context.config.notify.timeout) {
        Ok(()) => true,
        Err(error) => {
            progress::warn(&error.doing(format!("send a notice by {}", way.name())));
            false
        }
    }
}

/// `walkeep notify --test`.
pub fn test(global: &args::GlobalArgs) -> Result<Exit> {
    let context = Context::all(global)?.into_iter().next();
    let context = context.ok_or_else(|| Error::new(Kind::Config, "there is no cluster"))?;
    let ways = ways(&context);
    if ways.is_empty() {
        return Err(Error::new(Kind::Config, "there is neither a webhook nor a command")
            .hint("set `webhook` or `command` in [notify] of the configuration"));
    }
    let notice = notice(&context, notify::Event::Test, "notify", Outcome::default(), None, Timestamp::now());
    let mut is_ok = true;
    let mut report = Vec::new();
    for way in &ways {
        let is_taken = send(&context, way, &notice);
        if is_taken {
            context.console.say(&format!("{} took a test notice: look whether it arrived", way.name()));
        }
        is_ok &= is_taken;
        report.push(json!({"name": way.name(), "ok": is_taken}));
    }
    context.print(&Tested { is_ok, ways: report })?;
    Ok(if is_ok { Exit::Done } else { Exit::Failed })
}

/// Result of `walkeep notify --test`.
struct Tested {
    is_ok: bool,
    ways: Vec<serde_json::Value>,
}

impl Report for Tested {
    fn json(&self) -> impl serde::Serialize {
        json!({"ok": self.is_ok, "ways": self.ways})
    }
}

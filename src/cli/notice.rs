//! Notices about the verbs that cron and systemd start. A notice that cannot be delivered never
//! changes the exit status of a verb.

use super::exit::Exit;
use super::log::Lines;
use super::render::Report;
use super::setup::Context;
use super::{account, args};
use crate::error::{Error, Kind, Result};
use crate::notify::{Due, FailureMemory, Notice, NoticeChannel, NoticeEvent};
use crate::observe::{Health, Light};
use crate::progress;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

/// Exit status of a verb, and what it printed and logged.
#[derive(Default)]
struct VerbOutcome {
    status: u8,
    reason: Option<String>,
    details: Vec<String>,
}

/// Runs a verb, and sends a notice about its end when one is due. `parts` are the arguments that
/// select the work. Failures are remembered for each combination of them, so that a success in one
/// repository does not end a failure in another.
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
            // The error itself has not been logged yet.
            wrong.splice(0..0, std::iter::once(error.to_string()).chain(hint));
            Exit::of(error).status()
        }
    };
    let outcome = VerbOutcome { status, reason: wrong.first().cloned(), details: [wrong, printed].concat() };
    let about: Vec<&str> = std::iter::once(verb).chain(parts.iter().copied().flatten()).collect();
    report(&context, verb, &about.join("-"), outcome);
    result
}

/// Sends notices about clusters that have become red, and about those that are no longer red.
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
        report(
            context,
            "status",
            "status",
            VerbOutcome { status, reason: details.first().cloned(), details },
        );
    }
    Ok(())
}

fn channels(context: &Context) -> Vec<NoticeChannel> {
    let config = &context.config.notify;
    let webhook = config.webhook.iter().cloned().map(NoticeChannel::Webhook);
    webhook.chain(config.command.iter().cloned().map(NoticeChannel::Command)).collect()
}

/// Sends the notice that is due after a verb has ended. A failure to send it is a warning.
fn report(context: &Context, verb: &str, about: &str, outcome: VerbOutcome) {
    let config = &context.config.notify;
    let channels = channels(context);
    if channels.is_empty() {
        return;
    }
    let now = Timestamp::now();
    let cluster = &context.cluster;
    let memory = FailureMemory::new(&context.config.wal.spool, &cluster.name, &cluster.pgdata, about);
    let before = memory.read().unwrap_or_else(|error| {
        progress::warn(&error);
        None
    });
    let repeat = SignedDuration::try_from(config.repeat).unwrap_or(SignedDuration::MAX);
    let due = Due::after(before, outcome.status == 0, now, repeat);
    let is_wanted = |event: &NoticeEvent| config.on.contains(event);
    let event = match verb {
        "drill" if is_wanted(&NoticeEvent::Drill) => Some(NoticeEvent::Drill),
        _ => due.event.filter(is_wanted),
    };
    let is_delivered = match event {
        Some(event) => {
            let notice = notice(context, event, verb, outcome, due.since, now);
            // Every channel gets the notice; it is delivered when at least one accepts it.
            channels.iter().filter(|channel| send(context, channel, &notice)).count() > 0
        }
        // A recovery that is not wanted counts as reported.
        None => due.event == Some(NoticeEvent::Recovery),
    };
    let failing = due.remembered(before, is_delivered, now);
    if failing != before
        && let Err(error) = memory.write(failing)
    {
        let spool = context.config.wal.spool.display();
        progress::warn(&error.hint(format!("create {spool} for the user that runs the server: without it a failure is reported every time, and its end never")));
    }
}

fn notice(
    context: &Context,
    event: NoticeEvent,
    verb: &str,
    outcome: VerbOutcome,
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

/// Sends a notice over one channel; returns whether it was accepted. A failure is a warning.
fn send(context: &Context, channel: &NoticeChannel, notice: &Notice) -> bool {
    if let NoticeChannel::Webhook(webhook) = channel
        && webhook.is_open()
    {
        let message =
            format!("the notice is sent to {} unencrypted, with the secret in the address", webhook.host());
        progress::warn(
            &Error::new(Kind::Config, message).hint("`webhook` in [notify] should begin with https://"),
        );
    }
    match deliver(context, channel, notice) {
        Ok(()) => true,
        Err(error) => {
            progress::warn(&error.doing(format!("send a notice by {}", channel.name())));
            false
        }
    }
}

fn deliver(context: &Context, channel: &NoticeChannel, notice: &Notice) -> Result<()> {
    let run_as = match channel.program() {
        Some(program) => account::of_program(&context.config.path, program)?,
        None => None,
    };
    let run_as = run_as.map(|owner| (owner.user, owner.group));
    channel.send(notice, context.config.notify.timeout, run_as)
}

/// `walkeep notify --test`.
pub fn test(global: &args::GlobalArgs) -> Result<Exit> {
    let context = Context::all(global)?.into_iter().next();
    let context = context.ok_or_else(|| Error::defect("a configuration without a cluster"))?;
    let channels = channels(&context);
    if channels.is_empty() {
        return Err(Error::new(Kind::Config, "neither a webhook nor a command is configured")
            .hint("set `webhook` or `command` in [notify] of the configuration"));
    }
    let notice =
        notice(&context, NoticeEvent::Test, "notify", VerbOutcome::default(), None, Timestamp::now());
    let mut is_ok = true;
    let mut results = Vec::new();
    for channel in &channels {
        let is_accepted = send(&context, channel, &notice);
        if is_accepted {
            context.console.say(&format!("{} accepted a test notice: check that it arrived", channel.name()));
        }
        is_ok &= is_accepted;
        results.push(json!({"name": channel.name(), "ok": is_accepted}));
    }
    context.print(&Tested { is_ok, ways: results })?;
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

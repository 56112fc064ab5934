//! `walkeep`: dispatches to the verbs.

use super::account::{self, Need};
use super::args::{GlobalArgs, ManArgs, Verb, Walkeep};
use super::exit::Exit;
use super::output;
use super::render::Report;
use super::setup::{self, Context};
use super::verbs::{
    backup, check, drill, init, list, pin, prune, report, restore, status, sync, timelines, verify,
};
use super::{log, metrics, notice, panics, wal};
use crate::config::ShownConfig;
use crate::error::{Error, Result};
use crate::progress;
use clap::{CommandFactory, Parser};
use std::path::Path;
use std::process::ExitCode;

/// Runs `walkeep`, and returns its exit status.
pub fn walkeep() -> ExitCode {
    panics::guard("walkeep", || Exit::Failed.status(), start)
}

fn start() -> ExitCode {
    let args = match Walkeep::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage } else { Exit::Done });
        }
    };
    let standard_error = args.global.standard_error();
    let failed = |error: &Error| {
        // Has no effect once the configuration was read: a log is installed then.
        log::install(&standard_error, None, indicatif::ProgressBar::hidden());
        progress::error(error);
        Exit::of(error).into()
    };
    run(args).unwrap_or_else(|error| failed(&error))
}

/// Has root become the user that the verb should run as.
fn settle(global: &GlobalArgs, verb: &Verb) -> Result<()> {
    if !account::is_root() || matches!(verb, Verb::Config | Verb::Completions(_) | Verb::Man(_)) {
        return Ok(());
    }
    // The verb reports what is wrong with the configuration.
    let Ok(config) = setup::load(global.config.clone()) else {
        return Ok(());
    };
    let output = match verb {
        Verb::Metrics(args) => args.output.as_deref(),
        Verb::Report(args) => Some(args.html.as_path()).filter(|path| *path != Path::new("-")),
        _ => None,
    };
    let need = match (verb, output) {
        (Verb::Init(_) | Verb::Restore(_), _) => Need::Root,
        (Verb::Drill(_), _) => Need::Server,
        (_, Some(output)) => Need::OwnerIn(account::parent(output)),
        _ => Need::Owner,
    };
    account::settle(&config, need)
}

fn run(args: Walkeep) -> Result<ExitCode> {
    let Walkeep { global, verb } = args;
    settle(&global, &verb)?;
    let exit = match verb {
        Verb::Completions(args) => {
            let mut text = Vec::new();
            clap_complete::generate(args.shell, &mut Walkeep::command(), "walkeep", &mut text);
            output::print_text(&String::from_utf8_lossy(&text))?;
            Exit::Done
        }
        Verb::Man(args) => man(&args)?,
        Verb::Config => {
            output::print(global.json, &setup::load(global.config)?.shown())?;
            Exit::Done
        }
        Verb::Init(args) => init::run(&Context::new(&global)?, &args)?,
        Verb::List(args) => list::list(&Context::new(&global)?, &args)?,
        Verb::Show(args) => list::show(&Context::new(&global)?, &args)?,
        Verb::Pin(args) => pin::pin(&Context::new(&global)?, &args)?,
        Verb::Unpin(args) => pin::unpin(&Context::new(&global)?, &args)?,
        Verb::Restore(args) => restore::run(&Context::new(&global)?, &args)?,
        Verb::Timelines(args) => timelines::run(&Context::new(&global)?, &args)?,
        Verb::Status(args) if args.nagios => return status::plugin(&global, &args),
        Verb::Status(args) => status::run(&global, &args)?,
        Verb::Metrics(args) => metrics::run(&global, &args)?,
        Verb::Report(args) => report::run(&global, &args)?,
        Verb::Notify(_) => notice::test(&global)?,
        Verb::Backup(args) => notice::watched(&global, "backup", &[], |context| backup::run(context, &args))?,
        Verb::Check(args) => notice::watched(&global, "check", &[], |context| check::run(context, &args))?,
        Verb::Sync(args) => {
            notice::watched(&global, "sync", &args.parts(), |context| sync::run(context, &args))?
        }
        Verb::Prune(args) => {
            notice::watched(&global, "prune", &args.parts(), |context| prune::run(context, &args))?
        }
        Verb::Verify(args) => {
            notice::watched(&global, "verify", &args.parts(), |context| verify::run(context, &args))?
        }
        Verb::Drill(args) => {
            notice::watched(&global, "drill", &args.parts(), |context| drill::run(context, &args))?
        }
    };
    Ok(exit.into())
}

impl Report for ShownConfig<'_> {
    fn text(&self) -> String {
        self.to_string()
    }

    fn json(&self) -> impl serde::Serialize {
        *self
    }
}

fn man(args: &ManArgs) -> Result<Exit> {
    let failed = |e: &std::io::Error| Error::io("write the manual page", e);
    match &args.dir {
        Some(dir) => {
            for program in [Walkeep::command(), wal::push_command(), wal::fetch_command()] {
                clap_mangen::generate_to(program, dir)
                    .map_err(|e| failed(&e).doing(dir.display().to_string()))?;
            }
        }
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Walkeep::command()).render(&mut text).map_err(|e| failed(&e))?;
            output::print_text(&String::from_utf8_lossy(&text))?;
        }
    }
    Ok(Exit::Done)
}

//! `walkeep`: one function a verb.

use super::args::{self, Verb, Walkeep};
use super::output;
use super::setup::{self, Context};
use super::verbs::{backup, check, drill, init, list, pin, prune, report, restore, status, sync, verify};
use super::{exit, metrics, notice, wal};
use crate::error::{Error, Result};
use crate::progress;
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

pub fn walkeep() -> ExitCode {
    let args = match Walkeep::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match run(args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            progress::error(&error);
            ExitCode::from(exit::of(&error))
        }
    }
}

fn run(args: Walkeep) -> Result<u8> {
    match args.verb {
        Verb::Completions(args) => {
            let mut text = Vec::new();
            clap_complete::generate(args.shell, &mut Walkeep::command(), "walkeep", &mut text);
            output::print(&String::from_utf8_lossy(&text))?;
            Ok(0)
        }
        Verb::Man(args) => man(&args),
        Verb::Config => {
            let config = setup::load(args.global.config)?;
            let shown = config.shown();
            match args.global.json {
                true => output::print_json(&shown)?,
                false => output::print(&shown.to_string())?,
            }
            Ok(0)
        }
        Verb::Init(init_args) => init::run(&Context::new(&args.global)?, &init_args),
        Verb::Backup(backup_args) => {
            notice::watched(&args.global, "backup", &[], |context| backup::run(context, &backup_args))
        }
        Verb::Check(check_args) => {
            notice::watched(&args.global, "check", &[], |context| check::run(context, &check_args))
        }
        Verb::List(list_args) => list::list(&Context::new(&args.global)?, &list_args),
        Verb::Show(show_args) => list::show(&Context::new(&args.global)?, &show_args),
        Verb::Sync(sync_args) => {
            let parts = [Some(sync_args.from.as_str()), Some(sync_args.to.as_str())];
            notice::watched(&args.global, "sync", &parts, |context| sync::run(context, &sync_args))
        }
        Verb::Prune(prune_args) => {
            let parts = [
                prune_args.selection.repository.as_deref(),
                prune_args.dry_run.then_some("dry-run"),
                (!prune_args.remove.is_empty()).then_some("remove"),
            ];
            notice::watched(&args.global, "prune", &parts, |context| prune::run(context, &prune_args))
        }
        Verb::Verify(verify_args) => {
            let parts = [
                verify_args.selection.repository.as_deref(),
                verify_args.quick.then_some("quick"),
                verify_args.wal.then_some("wal"),
                verify_args.backup.as_deref(),
            ];
            notice::watched(&args.global, "verify", &parts, |context| verify::run(context, &verify_args))
        }
        Verb::Status(status_args) => status::run(&args.global, &status_args),
        Verb::Metrics(metrics_args) => metrics::run(&args.global, &metrics_args),
        Verb::Report(report_args) => report::run(&args.global, &report_args),
        Verb::Notify(_) => notice::test(&args.global),
        Verb::Pin(pin_args) => pin::pin(&Context::new(&args.global)?, &pin_args),
        Verb::Unpin(unpin_args) => pin::unpin(&Context::new(&args.global)?, &unpin_args),
        Verb::Drill(drill_args) => {
            let parts = [drill_args.selection.repository.as_deref()];
            notice::watched(&args.global, "drill", &parts, |context| drill::run(context, &drill_args))
        }
        Verb::Restore(restore_args) => restore::run(&Context::new(&args.global)?, &restore_args),
    }
}

fn man(args: &args::ManArgs) -> Result<u8> {
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
            output::print(&String::from_utf8_lossy(&text))?;
        }
    }
    Ok(0)
}

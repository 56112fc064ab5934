//! `walkeep`: one function a verb.

use super::args::{self, Verb, Walkeep};
use super::output::{Console, complain};
use super::{exit, setup};
use crate::config::{Cluster, Config};
use crate::error::{Doing, Error, Kind, Result};
use crate::repo::{Lineage, Registered, Repository};
use crate::storage::Directory;
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
            complain("walkeep", &error);
            ExitCode::from(exit::of(&error))
        }
    }
}

/// What every verb needs.
pub(super) struct Context {
    pub config: Config,
    pub cluster: Cluster,
    pub repositories: Vec<Repository>,
    pub console: Console,
    pub json: bool,
}

impl Context {
    fn new(global: &args::Global) -> Result<Context> {
        let config = setup::load(global.config.clone())?;
        let cluster = config.sole_cluster(global.cluster.as_deref(), &setup::working_directory()?)?.clone();
        let repositories = setup::repositories(&config, &cluster)?;
        let console = Console::new(global.quiet, global.verbose);
        Ok(Context { config, cluster, repositories, console, json: global.json })
    }
}

fn run(args: Walkeep) -> Result<u8> {
    match args.verb {
        Verb::Completions(args) => {
            let mut text = Vec::new();
            clap_complete::generate(args.shell, &mut Walkeep::command(), "walkeep", &mut text);
            super::output::print(&String::from_utf8_lossy(&text))?;
            Ok(0)
        }
        Verb::Man(args) => man(&args),
        Verb::Config => {
            let config = setup::load(args.global.config)?;
            let shown = config.shown();
            match args.global.json {
                true => super::output::print_json(&shown)?,
                false => super::output::print(&shown.to_string())?,
            }
            Ok(0)
        }
        Verb::Init(init_args) => init(&Context::new(&args.global)?, &init_args),
        Verb::Backup(backup_args) => super::backup::run(&Context::new(&args.global)?, &backup_args),
        Verb::Check(check_args) => super::check::run(&Context::new(&args.global)?, &check_args),
        Verb::List(list_args) => super::list::list(&Context::new(&args.global)?, &list_args),
        Verb::Show(show_args) => super::list::show(&Context::new(&args.global)?, &show_args),
        Verb::Restore(restore_args) => super::restore::run(&Context::new(&args.global)?, &restore_args),
    }
}

fn man(args: &args::Man) -> Result<u8> {
    let failed = |e: &std::io::Error| Error::io("write the manual page", e);
    match &args.dir {
        Some(dir) => clap_mangen::generate_to(Walkeep::command(), dir)
            .map_err(|e| failed(&e).doing(dir.display().to_string()))?,
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Walkeep::command()).render(&mut text).map_err(|e| failed(&e))?;
            super::output::print(&String::from_utf8_lossy(&text))?;
        }
    }
    Ok(0)
}

fn init(context: &Context, args: &args::Init) -> Result<u8> {
    let lineage = Lineage::of(&context.cluster.pgdata)
        .doing(|| format!("look at the data directory of cluster {}", context.cluster.name))
        .map_err(|error| error.hint("is `pgdata` the data directory, and may this user read it?"))?;
    let fresh = setup::random_hex::<16>()?;
    let mut registered = Vec::new();
    for (repository, configured) in context.repositories.iter().zip(&context.config.repositories) {
        let doing = || format!("init repository {}", repository.name());
        let directory = setup::directory(configured)?;
        refuse_inside(&directory, context).doing(doing)?;
        directory.create_root().doing(doing)?;
        let done = repository.register(lineage, args.upgrade, jiff::Timestamp::now(), &fresh).doing(doing)?;
        repository.open(lineage)?;
        let what = match done {
            Registered::New => "registered",
            Registered::Already => "was registered already",
            Registered::Upgraded => "registered as an upgrade",
        };
        context.console.say(&format!(
            "cluster {} (system identifier {}, PostgreSQL {}) {what} in repository {} at {}",
            context.cluster.name,
            lineage.system_identifier,
            lineage.major,
            repository.name(),
            repository.url()
        ));
        registered.push(serde_json::json!({
            "name": repository.name(),
            "url": repository.url(),
            "registered": match done {
                Registered::New => "new",
                Registered::Already => "already",
                Registered::Upgraded => "upgraded",
            },
        }));
    }
    if context.json {
        super::output::print_json(&serde_json::json!({
            "cluster": context.cluster.name,
            "system_identifier": lineage.system_identifier.to_string(),
            "pg": lineage.major,
            "repositories": registered,
        }))?;
    }
    Ok(0)
}

/// A repository inside the data directory would be backed up into itself, and lost with it.
fn refuse_inside(directory: &Directory, context: &Context) -> Result<()> {
    let pgdata = std::fs::canonicalize(&context.cluster.pgdata)
        .doing(|| format!("look at {}", context.cluster.pgdata.display()))?;
    let tablespaces = std::fs::read_dir(pgdata.join("pg_tblspc")).into_iter().flatten().flatten();
    let places = tablespaces.filter_map(|link| std::fs::canonicalize(link.path()).ok());
    for place in std::iter::once(pgdata).chain(places) {
        if directory.is_inside(&place) {
            return Err(Error::new(
                Kind::Refused,
                format!("{} lies inside {}", directory.root().display(), place.display()),
            )
            .hint("put the repository on another disk, at least outside of the data directory"));
        }
    }
    Ok(())
}

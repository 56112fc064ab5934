//! The installed programs of PostgreSQL.

use crate::error::{Error, Kind, Result};
use crate::fs::named;
use rustix::fs::FileType;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs of one major version.
#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// Finds the programs of a major version: in the configured directory, or, if none is
    /// configured, in the directories of Debian, Red Hat, SUSE and builds from source. `prepare` sets
    /// the user of a command before it is run; programs for which it fails are passed over.
    ///
    /// # Errors
    ///
    /// `Absent` when no server program of this version is found.
    pub fn find(
        major: u32,
        configured: Option<&Path>,
        prepare: &dyn Fn(&Path, &mut Command) -> Result<()>,
    ) -> Result<Programs> {
        let usual = [
            format!("/usr/lib/postgresql/{major}/bin"),
            format!("/usr/pgsql-{major}/bin"),
            format!("/usr/lib/postgresql{major}/bin"),
            "/usr/local/pgsql/bin".to_owned(),
            "/usr/local/bin".to_owned(),
            "/usr/bin".to_owned(),
        ];
        let places: Vec<PathBuf> = match configured {
            Some(directory) => vec![directory.to_owned()],
            None => usual.iter().map(PathBuf::from).collect(),
        };
        let mut others = Vec::new();
        for directory in &places {
            let postgres = directory.join("postgres");
            let mut command = Command::new(&postgres);
            if let Err(error) = prepare(&postgres, &mut command) {
                others.push(error.to_string());
                continue;
            }
            match version(&mut command) {
                Some(found) if found == major => return Ok(Programs { directory: directory.clone() }),
                Some(found) => others.push(format!("{} has version {found}", postgres.display())),
                None => {}
            }
        }
        let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        let mut message = format!("no server of PostgreSQL {major} found in {}", looked.join(", "));
        others.iter().for_each(|other| message.push_str(&format!("; {other}")));
        Err(Error::new(Kind::Absent, message).hint(format!(
            "install PostgreSQL {major} here, or set `bin` in [drill] of the configuration to its directory"
        )))
    }

    /// Path of a program, if it is installed.
    pub fn get(&self, name: &str) -> Option<PathBuf> {
        Some(self.directory.join(name))
            .filter(|path| matches!(named::kind_at(path), Ok(Some(FileType::RegularFile))))
    }

    /// Path of the server program.
    pub fn postgres(&self) -> PathBuf {
        self.directory.join("postgres")
    }
}

/// Runs a server program to get its major version: `postgres (PostgreSQL) 15.18 (Debian …)`. `None`
/// when the program cannot be run or prints something else.
fn version(postgres: &mut Command) -> Option<u32> {
    let output = postgres.arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text.split_whitespace().nth(2)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

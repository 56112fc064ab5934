//! From a configuration file to the values that operations take.

use crate::codec::compress::Compression;
use crate::config::{self, Cluster, Config, Url};
use crate::error::{Error, Kind, Result};
use crate::repo::Repository;
use crate::storage::Directory;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

/// Reads the configuration: `option` is `--config`.
pub fn load(option: Option<PathBuf>) -> Result<Config> {
    let path = config::locate(option, std::env::var_os("WALKEEP_CONFIG"));
    let cpus = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Config::load(&path, cpus)
}

pub fn working_directory() -> Result<PathBuf> {
    std::env::current_dir().map_err(|e| Error::io("find the working directory", &e))
}

/// The repositories of a cluster, in the order of the configuration.
pub fn repositories(config: &Config, cluster: &Cluster) -> Result<Vec<Repository>> {
    config
        .repositories
        .iter()
        .map(|repository| {
            let store = directory(repository)?;
            Ok(Repository::new(&repository.name, &cluster.name, repository.required, Arc::new(store)))
        })
        .collect()
}

pub fn directory(repository: &config::Repository) -> Result<Directory> {
    match &repository.url {
        Url::File(path) => Ok(Directory::new(path)),
        Url::S3 { .. } => Err(Error::new(
            Kind::Config,
            format!("repository {}: S3 is not yet available in this version", repository.name),
        )
        .hint("use url = \"file:///absolute/path\"")),
    }
}

/// How WAL is to be compressed.
pub fn compression(config: &Config) -> Compression {
    match config.wal.compression {
        config::Compression::Zstd => Compression::Zstd(config.wal.level),
        config::Compression::None => Compression::Stored,
    }
}

//! The identity of a repository: the cluster that it belongs to. Only `init` writes it, and every
//! other command reads it first.

use super::object::{header, misplaced};
use super::{Lineage, Repository, key, parse_json, to_json};
use crate::codec::envelope::{ObjectKind, decimal};
use crate::error::{Doing, Error, Kind, Result};
use crate::storage::{Mode, Put, list_all};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The identity of one lineage of a cluster in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Random digits, which all identities of a cluster share, through all upgrades.
    pub repository_id: String,
    pub cluster: String,
    #[serde(with = "decimal")]
    pub system_identifier: u64,
    pub pg: u32,
    pub created: jiff::Timestamp,
    /// The earlier lineages of the cluster, oldest first.
    pub lineage: Vec<Ancestor>,
}

/// An earlier lineage, as an identity stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    #[serde(with = "decimal")]
    pub system_identifier: u64,
    pub pg: u32,
}

impl Identity {
    pub fn lineage(&self) -> Lineage {
        Lineage { system_identifier: self.system_identifier, major: self.pg }
    }

    fn is(&self, cluster: &str, lineage: Lineage) -> bool {
        self.cluster == cluster && self.lineage() == lineage
    }
}

/// All identities of a cluster in a repository.
pub struct Identities {
    /// Oldest first.
    pub good: Vec<Identity>,
    /// Identities that are damaged or missing, and why.
    pub bad: Vec<(Lineage, Error)>,
}

/// The result of [`Repository::register`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    New,
    Already,
    Upgraded,
}

impl Repository {
    /// Returns the error for a repository without an identity of the cluster.
    pub(super) fn without_identity(&self) -> Error {
        let message = format!("there is no repository of cluster {} at {}", self.cluster(), self.url());
        Error::new(Kind::Identity, message)
            .doing(format!("open repository {}", self.name()))
            .hint("is the disk mounted, is the url right? if this repository is new, run `walkeep init`")
    }

    /// Returns the error for a lineage that is not registered: another lineage of the cluster is,
    /// or none.
    pub(super) fn not_registered(&self, lineage: Lineage) -> Error {
        let doing = format!("open repository {}", self.name());
        match self.identities() {
            Err(error) => error.doing(doing),
            Ok(known) if known.is_empty() => self.without_identity(),
            Ok(known) => {
                let names: Vec<String> = known.iter().map(|known| known.lineage().to_string()).collect();
                Error::new(
                    Kind::Identity,
                    format!(
                        "cluster {} is registered there as {} (system identifier and major version), this one is {lineage}",
                        self.cluster(),
                        names.join(" and ")
                    ),
                )
                .doing(doing)
                .hint("after pg_upgrade run `walkeep init --upgrade`; another cluster needs a [cluster.NAME] of its own")
            }
        }
    }

    pub(super) fn identity(&self, lineage: Lineage) -> Result<Option<Identity>> {
        let key = key::identity(self.cluster(), lineage)?;
        let Some((header, content)) = self.read_small(&key, &lineage.to_string())? else {
            return Ok(None);
        };
        let identity: Identity = parse_json(&content).doing(|| format!("read {key}"))?;
        if header.kind != ObjectKind::Identity || !identity.is(self.cluster(), lineage) {
            return Err(misplaced(&format!("identity {} of {}", identity.lineage(), identity.cluster))
                .doing(format!("read {key}")));
        }
        Ok(Some(identity))
    }

    /// Reads all identities of the cluster, oldest first.
    pub fn identities(&self) -> Result<Vec<Identity>> {
        let mut identities = Vec::new();
        list_all(&*self.store, &key::identities(self.cluster())?, |entry| {
            let (_, content) = self.read_small(&entry.key, entry.key.name())?.ok_or_else(|| {
                Error::new(Kind::Unavailable, format!("{} was removed while it was read", entry.key))
            })?;
            identities.push(parse_json::<Identity>(&content).doing(|| format!("read {}", entry.key))?);
            Ok(())
        })?;
        identities.sort_by_key(|identity| identity.lineage.len());
        Ok(identities)
    }

    /// Reads all identities of the cluster. Reports identities that are damaged, and identities
    /// that are missing although another identity or stored objects show that they existed.
    pub fn check_identities(&self, own: Option<Lineage>) -> Result<Identities> {
        let mut identities = Vec::new();
        let mut problems = Vec::new();
        list_all(&*self.store, &key::identities(self.cluster())?, |entry| {
            let Ok(lineage) = entry.key.name().parse::<Lineage>() else {
                return Ok(());
            };
            match self.identity(lineage) {
                Ok(identity) => identities.extend(identity),
                Err(error) => problems.push((lineage, error)),
            }
            Ok(())
        })?;
        identities.sort_by_key(|identity: &Identity| identity.lineage.len());
        let ancestors = identities.iter().flat_map(|identity| &identity.lineage);
        let ancestors =
            ancestors.map(|old| Lineage { system_identifier: old.system_identifier, major: old.pg });
        let expected: BTreeSet<Lineage> = ancestors.chain(own).collect();
        for lineage in expected {
            let is_known = identities.iter().any(|identity| identity.lineage() == lineage)
                || problems.iter().any(|(other, _)| *other == lineage);
            let is_used = || -> Result<bool> {
                Ok(!self.store.list(&key::lineage(self.cluster(), lineage)?, None, 1)?.entries.is_empty())
            };
            if !is_known && (own != Some(lineage) || is_used()?) {
                let gone = Error::new(
                    Kind::Identity,
                    "it is missing, and without it no object of this lineage is read",
                )
                .hint("restore it from another repository or a copy");
                problems.push((lineage, gone));
            }
        }
        Ok(Identities { good: identities, bad: problems })
    }

    /// Registers a lineage of the cluster. Repeating it changes nothing. Another system identifier
    /// or major version needs `upgrade`, since it may be a mistake. `fresh_id`: 32 random
    /// hexadecimal digits.
    pub fn register(
        &self,
        lineage: Lineage,
        upgrade: bool,
        now: jiff::Timestamp,
        fresh_id: &str,
    ) -> Result<Registered> {
        let known = self.identities()?;
        if known.iter().any(|identity| identity.lineage() == lineage) {
            return Ok(Registered::Already);
        }
        if !known.is_empty() && !upgrade {
            return Err(self.not_registered(lineage));
        }
        let identity = Identity {
            repository_id: known.first().map_or(fresh_id, |first| &first.repository_id).to_owned(),
            cluster: self.cluster().to_owned(),
            system_identifier: lineage.system_identifier,
            pg: lineage.major,
            created: now,
            lineage: known
                .iter()
                .map(|known| Ancestor { system_identifier: known.system_identifier, pg: known.pg })
                .collect(),
        };
        let header = header(lineage, ObjectKind::Identity, lineage.to_string());
        let key = key::identity(self.cluster(), lineage)?;
        match self.put_small(&key, header, &to_json(&identity)?, Mode::Create)? {
            Put::Stored if known.is_empty() => Ok(Registered::New),
            Put::Stored => Ok(Registered::Upgraded),
            Put::Exists => Ok(Registered::Already),
        }
    }
}

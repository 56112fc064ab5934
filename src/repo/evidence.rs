//! What verifications remember. It is evidence and not truth: it says what need not be read again so soon, and
//! what was there once and can be missed. Without it everything is read, and nothing else changes.

use super::name::ObjectName;
use super::{Archive, key};
use crate::error::Result;
use std::collections::BTreeMap;

impl Archive {
    /// The backups that a verification has seen, and whether it found damage in them.
    pub fn remembered(&self) -> Result<BTreeMap<String, bool>> {
        let mut found = BTreeMap::new();
        self.each_named(key::VERIFY, |name, _| {
            match name {
                ObjectName::FoundDamaged(id) => drop(found.insert(id, true)),
                ObjectName::Verified(id) => drop(found.entry(id).or_insert(false)),
                _ => {}
            }
            Ok(())
        })?;
        Ok(found)
    }
}

//! Pins, which keep backups whatever the retention rules are.

use super::name::ObjectName;
use super::{Archive, key};
use crate::codec::envelope::ObjectKind;
use crate::error::{Doing, Error, Kind, Result};
use crate::storage::Mode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The pin of a backup: an object of its own, since records never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Expiry of the pin; `None` when it never expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<jiff::Timestamp>,
    /// True when the pin keeps only the WAL that makes the backup consistent, and not all later
    /// WAL.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standalone: bool,
}

impl Pin {
    /// The value of a pin that cannot be read.
    pub const UNREADABLE: Pin = Pin { until: None, standalone: false };

    /// Whether the pin has not expired.
    pub fn holds(&self, now: jiff::Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl fmt::Display for Pin {
    /// Writes `for ever`, or `until 2027-12-31T00:00:00.000000Z, standalone`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.until {
            Some(until) => write!(f, "until {until:.6}")?,
            None => f.write_str("for ever")?,
        }
        f.write_str(if self.standalone { ", standalone" } else { "" })
    }
}

impl Archive {
    /// Pins a backup, or changes its pin. A prune reads the pins after it has announced what it
    /// removes, and this function reads the announcements after it has stored the pin.
    ///
    /// # Errors
    ///
    /// [`Kind::Refused`] when a prune is removing the backup, or it does not exist.
    pub fn pin(&self, id: &str, pin: &Pin) -> Result<()> {
        let doing = || format!("pin backup {id} in repository {}", self.repository().name());
        let name = ObjectName::Pin(id.to_owned());
        let _ = self.put_small(&name, ObjectKind::Pin, pin, Mode::Replace).doing(doing)?;
        if self.may_need(id).doing(doing)? {
            return Ok(());
        }
        self.remove(&[name]).doing(doing)?;
        Err(Error::new(Kind::Refused, "a prune is removing it, or it does not exist")
            .doing(doing())
            .hint("`walkeep list` names the backups"))
    }

    /// Removes a pin. Returns false when the backup was not pinned.
    pub fn unpin(&self, id: &str) -> Result<bool> {
        let name = ObjectName::Pin(id.to_owned());
        let there = self.stored_at(&name)?.is_some();
        self.remove(&[name]).doing(|| format!("unpin backup {id}"))?;
        Ok(there)
    }

    /// Reads all pins, by backup. A pin that cannot be read still pins, as [`Pin::UNREADABLE`].
    pub fn pins(&self) -> Result<BTreeMap<String, std::result::Result<Pin, Error>>> {
        let mut pins = BTreeMap::new();
        self.each_named(key::PINS, |name, _| {
            if let ObjectName::Pin(id) = &name {
                match self.get_small(&name, ObjectKind::Pin) {
                    Ok(None) => {}
                    Ok(Some(pin)) => drop(pins.insert(id.clone(), Ok(pin))),
                    Err(error) if error.kind() == Kind::Damage => drop(pins.insert(id.clone(), Err(error))),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })?;
        Ok(pins)
    }
}

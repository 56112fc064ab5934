//! The header that every object of a cluster has, with its kind, name and cluster, and the errors
//! for an object whose header does not agree with its key.

use super::Lineage;
use crate::codec::envelope::{Content, FORMAT, Header, ObjectKind};
use crate::error::{Error, Kind, Result};
use crate::storage::Object;

/// Bytes of the largest object that is read whole without its size being known (identity, record,
/// pin).
pub(super) const MAX_SMALL: u64 = 16 << 20;

/// An open WAL file of an archive; see [`Content`] for when its bytes are checked.
pub type StoredWal = Content<Object>;

/// Returns the header of an object of a cluster, without size and hash.
pub fn header(lineage: Lineage, kind: ObjectKind, name: impl Into<String>) -> Header {
    Header {
        walkeep: FORMAT,
        kind,
        name: name.into(),
        system_identifier: lineage.system_identifier,
        pg: lineage.major,
        size: None,
        sha256: None,
        base: None,
        cipher: None,
    }
}

/// Checks that a header agrees with the key of its object.
pub(super) fn check_header(header: &Header, lineage: Lineage, kind: ObjectKind, name: &str) -> Result<()> {
    if header.kind != kind || header.name != name {
        return Err(misplaced(&header.name));
    }
    if header.system_identifier != lineage.system_identifier || header.pg != lineage.major {
        return Err(Error::new(
            Kind::Identity,
            format!("it belongs to the cluster {}-{}, not to {lineage}", header.system_identifier, header.pg),
        ));
    }
    Ok(())
}

/// Returns true when the object itself is damaged or foreign; false when only its access failed.
pub(super) fn is_about_the_object(error: &Error) -> bool {
    matches!(error.kind(), Kind::Damage | Kind::Identity)
}

/// The error for an object whose header has the name of another one.
pub(super) fn misplaced(name: &str) -> Error {
    Error::new(Kind::Damage, format!("its header names it {name}"))
        .hint("objects were moved or mixed up; restore the right one from a copy")
}

/// The error for an object that another one names and that does not exist.
pub(super) fn missing() -> Error {
    Error::new(Kind::Damage, "it is missing").hint("run `walkeep verify`, and restore it from a copy")
}

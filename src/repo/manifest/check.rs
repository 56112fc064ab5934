//! Checks the entries of a manifest before anything relies on them.

use super::accepted::damaged;
use crate::codec::compress::FRAME;
use crate::error::{Error, Kind, Result};
use crate::repo::entry::{Entry, MAX_EXTENTS, StoredPath};
use std::collections::HashMap;

/// Maximum size of a pack in bytes that an extent may refer to: far above any real one, so that
/// offsets can be added up.
const MAX_PACK: u64 = 1 << 40;

/// Refuses paths that leave the target directory, and files whose blocks do not add up.
pub(super) fn check(entry: &Entry, packs: usize) -> Result<()> {
    let (path, file) = match entry {
        Entry::Tablespace(_) => return Ok(()),
        Entry::Dir(dir) => (&dir.path, None),
        Entry::File(file) => (&file.path, Some(file)),
        Entry::Config(file) => (&file.path, Some(file)),
    };
    let inside = match entry {
        Entry::Config(_) => {
            path.0.strip_prefix(b"/").is_some_and(|rest| StoredPath(rest.to_vec()).is_inside())
        }
        // The entry of the data directory itself.
        Entry::Dir(_) if path.0.is_empty() => true,
        _ => path.is_inside(),
    };
    if !inside {
        return damaged(path, "leads outside the target directory");
    }
    let Some(file) = file else {
        return Ok(());
    };
    let blocks: u64 = file.at.iter().map(|extent| u64::from(extent.blocks)).sum();
    let block = u64::from(file.block);
    let fits = block.is_power_of_two()
        && block <= 1 << 20
        && blocks == file.hashes.len() as u64
        && file.size.div_ceil(block) == blocks
        && file.at.iter().all(|extent| {
            let before_last = u64::from(extent.blocks.saturating_sub(1)) * block;
            (extent.pack as usize) < packs
                && extent.blocks > 0
                && (1..=2 * FRAME).contains(&(extent.length as usize))
                && extent.offset <= MAX_PACK
                && u64::from(extent.skip) + before_last < FRAME as u64
        });
    if !fits {
        return damaged(path, "has blocks that do not add up");
    }
    Ok(())
}

/// The frames that the files of a part name: how long each is said to be, by its pack and offset.
#[derive(Default)]
pub(super) struct NamedFrames {
    lengths: HashMap<(u32, u64), u32>,
    extents: usize,
}

impl NamedFrames {
    /// Adds the extents of an entry.
    ///
    /// # Errors
    ///
    /// `Damage` for more than [`MAX_EXTENTS`], and for two lengths of one frame.
    pub fn add(&mut self, entry: &Entry) -> Result<()> {
        let damaged = |what: String| Err(Error::new(Kind::Damage, what));
        for extent in entry.any_file().iter().flat_map(|file| &file.at) {
            self.extents += 1;
            if self.extents > MAX_EXTENTS {
                return damaged(format!("its files are in more than {MAX_EXTENTS} pieces"));
            }
            let known = self.lengths.insert((extent.pack, extent.offset), extent.length);
            if known.is_some_and(|length| length != extent.length) {
                return damaged(format!("the frame at byte {} has two lengths", extent.offset));
            }
        }
        Ok(())
    }
}

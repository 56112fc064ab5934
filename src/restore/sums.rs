//! CRC-32C of whole files, combined from their pieces, which are written in any order.
//! `backup_manifest` needs the sums of files that the backup did not read as a whole.

use super::layout::TargetFile;
use crc32c::{crc32c_append, crc32c_combine};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Sums of the targets; `None` for a file whose sum the backup has.
pub(super) struct FileSums(Vec<Option<PieceSums>>);

/// Lengths and sums of pieces by their offsets.
type PieceSums = Mutex<BTreeMap<u64, (usize, u32)>>;

/// Removes the piece that ends at `end`. Returns its offset, length and sum.
fn take_before(pieces: &mut BTreeMap<u64, (usize, u32)>, end: u64) -> Option<(u64, usize, u32)> {
    let (&begin, &(length, sum)) = pieces.range(..end).next_back()?;
    (begin + length as u64 == end).then(|| pieces.remove(&begin)).map(|_| (begin, length, sum))
}

impl FileSums {
    pub fn new(targets: &[TargetFile<'_>]) -> FileSums {
        let needed = |target: &TargetFile<'_>| target.stored.crc32c.is_none().then(PieceSums::default);
        FileSums(targets.iter().map(needed).collect())
    }

    /// Adds a piece of a file.
    pub fn add(&self, target: usize, offset: u64, bytes: &[u8]) {
        let Some(Some(pieces)) = self.0.get(target) else {
            return;
        };
        // Continuing the sum of the preceding piece costs much less than combining two sums.
        let (begin, length, sum) = take_before(&mut pieces.lock(), offset).unwrap_or((offset, 0, 0));
        let sum = crc32c_append(sum, bytes);
        pieces.lock().insert(begin, (length + bytes.len(), sum));
    }

    /// Returns the sum of each target; `None` when pieces are missing.
    pub fn finish(self, targets: &[TargetFile<'_>]) -> Vec<Option<u32>> {
        let whole = |(target, pieces): (&TargetFile<'_>, Option<PieceSums>)| {
            let Some(pieces) = pieces else {
                return target.stored.crc32c;
            };
            let (mut sum, mut end) = (0, 0);
            for (offset, (length, of_piece)) in pieces.into_inner() {
                if offset != end {
                    return None;
                }
                sum = crc32c_combine(sum, of_piece, length);
                end += length as u64;
            }
            (end == target.stored.size).then_some(sum)
        };
        targets.iter().zip(self.0).map(whole).collect()
    }
}

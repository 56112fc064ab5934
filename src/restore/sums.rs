//! CRC-32C of whole files out of those of their pieces, which are written in whatever order: for `backup_manifest`,
//! where the backup does not have it because it did not read all of the file.

use super::files::Target;
use crc32c::{crc32c_append, crc32c_combine};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The sums of the files that need one.
pub struct Sums(Vec<Option<Pieces>>);

/// By where in the file they begin: their lengths and sums.
type Pieces = Mutex<BTreeMap<u64, (usize, u32)>>;

/// Takes out the piece that ends here: where it begins, its length, its sum.
fn take_before(pieces: &mut BTreeMap<u64, (usize, u32)>, end: u64) -> Option<(u64, usize, u32)> {
    let (&begin, &(length, sum)) = pieces.range(..end).next_back()?;
    (begin + length as u64 == end).then(|| pieces.remove(&begin)).map(|_| (begin, length, sum))
}

impl Sums {
    pub fn new(targets: &[Target<'_>]) -> Sums {
        let needed = |target: &Target<'_>| target.stored.crc32c.is_none().then(Pieces::default);
        Sums(targets.iter().map(needed).collect())
    }

    /// Takes a piece of a file that is in its place.
    pub fn add(&self, target: usize, offset: u64, bytes: &[u8]) {
        let Some(Some(pieces)) = self.0.get(target) else {
            return;
        };
        let pieces = || pieces.lock().unwrap_or_else(PoisonError::into_inner);
        // To go on with the piece in front costs much less than to combine two sums.
        let (begin, length, sum) = take_before(&mut pieces(), offset).unwrap_or((offset, 0, 0));
        let sum = crc32c_append(sum, bytes);
        pieces().insert(begin, (length + bytes.len(), sum));
    }

    /// The sum of each file, in the order of the targets.
    pub fn finish(self, targets: &[Target<'_>]) -> Vec<Option<u32>> {
        let whole = |(target, pieces): (&Target<'_>, Option<Pieces>)| {
            let Some(pieces) = pieces else {
                return target.stored.crc32c;
            };
            let (mut sum, mut end) = (0, 0);
            for (offset, (length, of_piece)) in pieces.into_inner().unwrap_or_else(PoisonError::into_inner) {
                // Without a hole, or there is no sum of the file.
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

//! Checksums of data pages. Source: PostgreSQL's `checksum_impl.h`, `bufpage.h` and `basebackup.c`.

use super::lsn::Lsn;

/// Size of a data page in bytes. Other block sizes are a build option that no packager uses; a
/// cluster with another size is backed up without its pages being verified.
pub const PAGE_SIZE: usize = 8192;

/// Number of checksums that are computed side by side (`N_SUMS`).
const LANES: usize = 32;
const FNV_PRIME: u32 = 16_777_619;

/// Initial values of the lanes (`checksumBaseOffsets`).
const SEEDS: [u32; LANES] = [
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
];

/// Result of the verification of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Correct checksum, or a new page that is all zeros.
    Good,
    /// Wrong checksum, with the LSN in the page: a page that changed after a backup began may have
    /// been read half-written, and is repaired by WAL.
    Bad(Lsn),
}

/// Verifies the checksum of a page. `block` is the number of the page in the whole relation, across
/// all segments of 1 GiB.
pub fn verify(page: &[u8; PAGE_SIZE], block: u32) -> Verdict {
    let upper = u16::from_le_bytes([page[14], page[15]]);
    if upper == 0 && page.iter().all(|&byte| byte == 0) {
        return Verdict::Good;
    }
    if upper != 0 && checksum(page, block) == u16::from_le_bytes([page[8], page[9]]) {
        return Verdict::Good;
    }
    Verdict::Bad(claimed_lsn(page))
}

/// Position in the WAL of the last change of a page, according to the page (`pd_lsn`).
pub fn claimed_lsn(page: &[u8; PAGE_SIZE]) -> Lsn {
    let [a, b, c, d, e, f, g, h, ..] = *page;
    let [high, low] = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
    Lsn(u64::from(high) << 32 | u64::from(low))
}

/// Checksum that PostgreSQL would write into `pd_checksum` of the page (`pg_checksum_page`).
pub fn checksum(page: &[u8; PAGE_SIZE], block: u32) -> u16 {
    #[cfg(target_arch = "x86_64")]
    let sum = if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the function needs nothing but AVX2, which the condition above has found.
        #[allow(unsafe_code, reason = "a call of a function that is compiled for AVX2")]
        unsafe {
            sum_avx2(page)
        }
    } else {
        sum(page)
    };
    #[cfg(not(target_arch = "x86_64"))]
    let sum = sum(page);
    #[allow(clippy::cast_possible_truncation, reason = "from 1 to 65,535")]
    let sum = ((sum ^ block) % 65_535 + 1) as u16;
    sum
}

/// [`sum`], compiled for processors that multiply eight lanes at once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(page: &[u8; PAGE_SIZE]) -> u32 {
    sum(page)
}

#[inline(always)]
fn sum(page: &[u8; PAGE_SIZE]) -> u32 {
    let mut lanes = SEEDS;
    let (words, _) = page.as_chunks::<4>();
    for (index, row) in words.as_chunks::<LANES>().0.iter().enumerate() {
        let mut values = [0u32; LANES];
        for (value, bytes) in values.iter_mut().zip(row) {
            *value = u32::from_le_bytes(*bytes);
        }
        if index == 0 {
            // pd_checksum itself counts as zero; pd_flags, in the same word, counts as it is.
            values[2] &= 0xFFFF_0000;
        }
        mix(&mut lanes, &values);
    }
    mix(&mut lanes, &[0; LANES]);
    mix(&mut lanes, &[0; LANES]);
    lanes.iter().fold(0, |sum, lane| sum ^ lane)
}

#[inline(always)]
fn mix(lanes: &mut [u32; LANES], values: &[u32; LANES]) {
    for (lane, value) in lanes.iter_mut().zip(values) {
        let mixed = *lane ^ *value;
        *lane = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

//! Checksums of data pages. Source: PostgreSQL's `checksum_impl.h`, `bufpage.h` and `basebackup.c`.

use super::{control::array, lsn::Lsn};

/// Bytes of a data page. Other block sizes are a build option that no packager uses; a cluster with
/// another size is backed up without its pages being verified.
pub const PAGE_SIZE: usize = 8192;

/// Checksums that are computed side by side.
const LANES: usize = 32;
const FNV_PRIME: u32 = 16_777_619;

/// Where each lane starts: the seeds that PostgreSQL fixed.
const SEEDS: [u32; LANES] = [
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
];

/// What a page's checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Right, or a new page of nothing but zeros.
    Good,
    /// Wrong. With the LSN that the page claims: a page that changed after a backup began may have
    /// been read half-written and is repaired by WAL.
    Bad(Lsn),
}

/// Judges one page of [`PAGE_SIZE`] bytes; `block` is its number in the whole relation, all segments
/// of 1 GiB counted.
pub fn verify(page: &[u8], block: u32) -> Verdict {
    let upper = u16::from_le_bytes(array(page, 14));
    if upper == 0 && page.iter().all(|&byte| byte == 0) {
        return Verdict::Good;
    }
    if upper != 0 && checksum(page, block) == u16::from_le_bytes(array(page, 8)) {
        return Verdict::Good;
    }
    Verdict::Bad(claimed_lsn(page))
}

/// Where in the WAL a page says that it was changed last (`pd_lsn`).
pub fn claimed_lsn(page: &[u8]) -> Lsn {
    let high = u32::from_le_bytes(array(page, 0));
    let low = u32::from_le_bytes(array(page, 4));
    Lsn(u64::from(high) << 32 | u64::from(low))
}

/// The checksum that PostgreSQL writes into `pd_checksum` of this page.
pub fn checksum(page: &[u8], block: u32) -> u16 {
    #[cfg(target_arch = "x86_64")]
    let sum = if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the function needs nothing but AVX2, and the line above has found it.
        unsafe { sum_avx2(page) }
    } else {
        sum(page)
    };
    #[cfg(not(target_arch = "x86_64"))]
    let sum = sum(page);
    ((sum ^ block) % 65_535 + 1) as u16
}

/// The same code, compiled for a processor that multiplies eight lanes at once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(page: &[u8]) -> u32 {
    sum(page)
}

#[inline(always)]
fn sum(page: &[u8]) -> u32 {
    let mut lanes = SEEDS;
    for (index, row) in page.chunks_exact(LANES * 4).enumerate() {
        let mut values = [0u32; LANES];
        for (value, bytes) in values.iter_mut().zip(row.chunks_exact(4)) {
            *value = u32::from_le_bytes(array(bytes, 0));
        }
        if index == 0 {
            // pd_checksum itself counts as zero; pd_flags beside it does not.
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

//! SHA-256 (FIPS 180-4) of contents that are read in pieces, one alone or several side by side.
//!
//! Each round of a hash needs the result of the previous round, so with a single content the
//! processor's SHA unit mostly waits. The rounds of other contents fit in between: several contents
//! take hardly longer than one. This file implements the rounds for several contents. A single
//! content is hashed by the library (`sha2::block_api`, which is exempt from the library's promise
//! of a stable interface, hence the version `~0.11` in Cargo.toml). On a processor without SHA-NI,
//! and on other architectures than x86-64, the library hashes one content after the other.

#![allow(
    clippy::indexing_slicing,
    reason = "positions inside of a block, and of a piece that has the blocks"
)]

use sha2::block_api::compress256;

/// Maximum number of contents that are hashed side by side: more do not fit into the registers.
pub const LANES: usize = 4;

const BLOCK: usize = 64;

/// Initial state (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Running hash of one content.
#[derive(Clone)]
pub struct Sha256 {
    state: [u32; 8],
    /// Number of bytes so far.
    length: u64,
    /// Bytes that do not fill a block yet; the first `length % BLOCK` are used.
    rest: [u8; BLOCK],
}

impl Default for Sha256 {
    fn default() -> Sha256 {
        Sha256 { state: INITIAL, length: 0, rest: [0; BLOCK] }
    }
}

impl Sha256 {
    /// Number of bytes in `rest`.
    fn filled(&self) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "a remainder below 64")]
        let filled = (self.length % BLOCK as u64) as usize;
        filled
    }

    /// Adds a piece.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let filled = self.filled();
        self.length += bytes.len() as u64;
        if filled > 0 {
            let (first, others) = bytes.split_at(bytes.len().min(BLOCK - filled));
            self.rest[filled..filled + first.len()].copy_from_slice(first);
            if filled + first.len() < BLOCK {
                return;
            }
            compress256(&mut self.state, &[self.rest]);
            bytes = others;
        }
        let (blocks, rest) = bytes.as_chunks();
        compress256(&mut self.state, blocks);
        self.rest[..rest.len()].copy_from_slice(rest);
    }

    /// Adds one piece to each hash.
    pub fn update_together(pieces: &mut [(&mut Sha256, &[u8])]) {
        for group in pieces.chunks_mut(LANES) {
            match group {
                [a, b, c, d] => together([a, b, c, d]),
                [a, b, c] => together([a, b, c]),
                [a, b] => together([a, b]),
                alone => alone.iter_mut().for_each(|(hash, piece)| hash.update(piece)),
            }
        }
    }

    /// Returns the hash of all pieces.
    pub fn finish(mut self) -> [u8; 32] {
        // Padding (FIPS 180-4, 5.1.1): a bit, zeros, and the length in bits, up to the end of a
        // block.
        let bits = self.length.wrapping_mul(8);
        let mut padding = [0; 2 * BLOCK];
        padding[0] = 0x80;
        let zeros_end = if self.filled() < BLOCK - 8 { BLOCK } else { 2 * BLOCK } - 8 - self.filled();
        padding[zeros_end..zeros_end + 8].copy_from_slice(&bits.to_be_bytes());
        self.update(&padding[..zeros_end + 8]);
        let mut hash = [0; 32];
        for (bytes, word) in hash.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        hash
    }
}

/// Hashes as many whole blocks as all pieces have side by side, if the processor supports that, and
/// the rest of the pieces one after the other.
fn together<const N: usize>(mut pieces: [&mut (&mut Sha256, &[u8]); N]) {
    let mut common = 0;
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("sha") && std::arch::is_x86_feature_detected!("sse4.1") {
        let whole_blocks =
            |(hash, piece): &(&mut Sha256, &[u8])| if hash.filled() == 0 { piece.len() / BLOCK } else { 0 };
        let blocks = pieces.iter().map(|piece| whole_blocks(piece)).min().unwrap_or(0); // no pieces, no blocks
        common = blocks * BLOCK;
        let mut states = pieces.each_ref().map(|(hash, _)| hash.state);
        let contents = pieces.each_ref().map(|(_, piece)| piece.as_chunks().0);
        // SAFETY: the function needs nothing but these two features, which the condition above has
        // found.
        #[allow(unsafe_code, reason = "a call of a function that is compiled for SHA-NI")]
        unsafe {
            x86::compress(&mut states, contents, blocks);
        }
        for (piece, state) in pieces.iter_mut().zip(states) {
            (piece.0.state, piece.0.length) = (state, piece.0.length + common as u64);
        }
    }
    for (hash, piece) in pieces {
        hash.update(&piece[common..]);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::BLOCK;
    use std::arch::x86_64::*;

    /// Constants of the rounds (FIPS 180-4, 4.2.2).
    #[rustfmt::skip]
    const K: [u32; 64] = [
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    ];

    /// Words A B E F and C D G H of a state, the first one in the highest lane, as the instructions
    /// require.
    type State = [__m128i; 2];

    #[target_feature(enable = "sha,sse4.1")]
    fn load(state: [u32; 8]) -> State {
        let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
        [_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h)]
    }

    #[target_feature(enable = "sha,sse4.1")]
    fn store([abef, cdgh]: State) -> [u32; 8] {
        let words = |four| {
            [
                _mm_extract_epi32::<3>(four),
                _mm_extract_epi32::<2>(four),
                _mm_extract_epi32::<1>(four),
                _mm_extract_epi32::<0>(four),
            ]
        };
        let ([a, b, e, f], [c, d, g, h]) = (words(abef), words(cdgh));
        [a, b, c, d, e, f, g, h].map(i32::cast_unsigned)
    }

    /// Loads four words of a block, the first one into the lowest lane.
    #[allow(clippy::cast_possible_truncation, reason = "the two halves of 16 bytes")]
    #[target_feature(enable = "sha,sse4.1")]
    fn words(bytes: &[u8; 16]) -> __m128i {
        let bytes = u128::from_le_bytes(*bytes);
        let bytes = _mm_set_epi64x((bytes >> 64) as i64, bytes as i64);
        _mm_shuffle_epi8(bytes, _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203))
    }

    /// Adds the first `count` blocks of each content to its state.
    #[target_feature(enable = "sha,sse4.1")]
    pub fn compress<const N: usize>(states: &mut [[u32; 8]; N], contents: [&[[u8; BLOCK]]; N], count: usize) {
        let mut now = [[_mm_setzero_si128(); 2]; N];
        for (now, state) in now.iter_mut().zip(&*states) {
            *now = load(*state);
        }
        let mut contents = contents.map(|blocks| blocks.iter().take(count));
        'blocks: loop {
            let before = now;
            let mut w = [[_mm_setzero_si128(); 4]; N];
            for (w, content) in w.iter_mut().zip(&mut contents) {
                let Some(block) = content.next() else {
                    break 'blocks;
                };
                for (w, bytes) in w.iter_mut().zip(block.as_chunks().0) {
                    *w = words(bytes);
                }
            }
            for (four, k) in K.as_chunks::<4>().0.iter().enumerate() {
                let [k0, k1, k2, k3] = k.map(u32::cast_signed);
                let k = _mm_set_epi32(k3, k2, k1, k0);
                for ([abef, cdgh], w) in now.iter_mut().zip(&mut w) {
                    // First the words of the block, then those that the schedule computes from the
                    // last sixteen.
                    if four >= 4 {
                        let [w0, w1, w2, w3] = [0, 1, 2, 3].map(|at| w[(four + at) % 4]);
                        let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8::<4>(w3, w2));
                        w[four % 4] = _mm_sha256msg2_epu32(sum, w3);
                    }
                    let x = _mm_add_epi32(w[four % 4], k);
                    // Two rounds each, after which A B E F are C D G H.
                    *cdgh = _mm_sha256rnds2_epu32(*cdgh, *abef, x);
                    *abef = _mm_sha256rnds2_epu32(*abef, *cdgh, _mm_shuffle_epi32::<0x0e>(x));
                }
            }
            for ([abef, cdgh], before) in now.iter_mut().zip(before) {
                *abef = _mm_add_epi32(*abef, before[0]);
                *cdgh = _mm_add_epi32(*cdgh, before[1]);
            }
        }
        for (state, now) in states.iter_mut().zip(now) {
            *state = store(now);
        }
    }
}

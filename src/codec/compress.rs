//! Compression into zstd frames (RFC 8878).

use crate::error::{Error, Kind, Result};
use zstd::zstd_safe;

/// Method of compression. Each variant produces valid zstd frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd at this level, which may be negative.
    Zstd(i32),
    /// Frames of raw, uncompressed blocks, which `zstd -dc` can read as well.
    Stored,
}

/// Maximum number of bytes of content in a frame; large contents are divided into frames.
pub const FRAME: usize = 1 << 20;

/// Maximum size of a raw block, in bytes (RFC 8878, `Block_Maximum_Size`).
const MAX_RAW_BLOCK: usize = 128 << 10;

/// Maximum block size at level 1, in bytes. zstd tries to divide blocks of the full 128 KiB, and
/// never smaller ones; at level 1 that costs a tenth of the time and gains nothing with data pages.
const MAX_UNSPLIT_BLOCK: u32 = 120 << 10;

/// Minimum length of a match at level 1, in bytes; zstd's default is 7. Repetitions in data pages
/// (line pointers, tuple headers) are short: shorter matches save up to a quarter of the bytes in
/// the same time.
const MIN_MATCH: u32 = 5;

/// Binary logarithm of the size of the hash table at level 1: short matches need no larger table.
const HASH_LOG: u32 = 13;

/// Maximum reach of a patch into its base, as a power of two: 128 MiB.
const MAX_PATCH_WINDOW_LOG: u32 = 27;
/// Minimum reach that zstd accepts, as a power of two: 1 KiB.
const MIN_PATCH_WINDOW_LOG: u32 = 10;

/// Reusable compressor: creating one takes longer than compressing a small frame.
pub struct Compressor(Backend);

enum Backend {
    Zstd(zstd_safe::CCtx<'static>),
    Stored,
}

fn failed(code: usize) -> Error {
    Error::new(Kind::Damage, format!("zstd: {}", zstd_safe::get_error_name(code)))
}

impl Compressor {
    /// Creates a compressor.
    ///
    /// # Errors
    ///
    /// Those of zstd, for a level that it does not know.
    pub fn new(compression: Compression) -> Result<Compressor> {
        let Compression::Zstd(level) = compression else {
            return Ok(Compressor(Backend::Stored));
        };
        use zstd_safe::CParameter::{CompressionLevel, HashLog, MaxBlockSize, MinMatch};
        let mut context = zstd_safe::CCtx::create();
        context.set_parameter(CompressionLevel(level)).map_err(failed)?;
        if level == 1 {
            for parameter in [MinMatch(MIN_MATCH), HashLog(HASH_LOG), MaxBlockSize(MAX_UNSPLIT_BLOCK)] {
                context.set_parameter(parameter).map_err(failed)?;
            }
        }
        Ok(Compressor(Backend::Zstd(context)))
    }

    /// Compresses all of `content` into one frame, which replaces what `out` held.
    ///
    /// # Errors
    ///
    /// Those of zstd, which has none for valid parameters.
    pub fn frame(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        match &mut self.0 {
            Backend::Stored => store(content, out)?,
            Backend::Zstd(context) => {
                // zstd writes into spare capacity, which does not have to be zeroed first.
                out.reserve(zstd_safe::compress_bound(content.len()));
                context.compress2(out, content).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Appends one frame of raw blocks to `out`: a frame header with the content's size and no window,
/// then blocks.
fn store(content: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.extend_from_slice(&0xFD2F_B528u32.to_le_bytes());
    out.push(0b1110_0000); // eight bytes of content size, single segment, no checksum
    out.extend_from_slice(&(content.len() as u64).to_le_bytes());
    let mut blocks = content.chunks(MAX_RAW_BLOCK).peekable();
    if blocks.peek().is_none() {
        out.extend_from_slice(&[1, 0, 0]); // an empty last block
    }
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        let length = u32::try_from(block.len()).map_err(|_| Error::defect("a raw block of 4 GiB"))?;
        out.extend_from_slice(&(length << 3 | last).to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
    Ok(())
}

/// Returns the length of the frame at the start of `bytes`; `None` if it is incomplete or not a
/// frame.
pub fn frame_length(bytes: &[u8]) -> Option<usize> {
    zstd_safe::find_frame_compressed_size(bytes).ok()
}

/// Compresses all of `content` into one frame that refers to `base`, like `zstd --patch-from`.
/// `base` is needed to decompress it.
///
/// # Errors
///
/// Those of zstd, which has none for valid parameters.
pub fn patch(base: &[u8], content: &[u8]) -> Result<Vec<u8>> {
    use zstd_safe::CParameter::{CompressionLevel, EnableLongDistanceMatching, WindowLog};
    let reach = (base.len() + content.len()).next_power_of_two().trailing_zeros();
    let reach = reach.clamp(MIN_PATCH_WINDOW_LOG, MAX_PATCH_WINDOW_LOG);
    let mut context = zstd_safe::CCtx::create();
    // Two versions of one text have long matches that are far apart; a higher level hardly finds
    // more of them.
    for parameter in [CompressionLevel(1), EnableLongDistanceMatching(true), WindowLog(reach)] {
        context.set_parameter(parameter).map_err(failed)?;
    }
    context.ref_prefix(base).map_err(failed)?;
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(content.len()));
    context.compress2(&mut out, content).map_err(failed)?;
    Ok(out)
}

/// Decompresses a frame that [`patch`] made and that holds at most `limit` bytes.
///
/// # Errors
///
/// `Damage` for another frame, another base, or more than `limit` bytes.
pub fn unpatch(base: &[u8], frame: &[u8], limit: usize) -> Result<Vec<u8>> {
    let size = content_size(frame, limit)?;
    let mut context = zstd_safe::DCtx::create();
    context.ref_prefix(base).map_err(failed)?;
    let mut out = Vec::with_capacity(size);
    let got = context.decompress(&mut out, frame).map_err(failed)?;
    check_size(got, size)?;
    Ok(out)
}

/// Reusable decompressor of whole frames.
#[derive(Default)]
pub struct Decompressor(zstd_safe::DCtx<'static>);

impl Decompressor {
    /// Decompresses one frame of at most `limit` bytes of content, which replaces what `out` held.
    ///
    /// # Errors
    ///
    /// `Damage` when it is not a valid frame, or holds more than `limit` bytes.
    pub fn frame(&mut self, frame: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<()> {
        let size = content_size(frame, limit)?;
        out.clear();
        out.reserve(size);
        let got = self.0.decompress(out, frame).map_err(failed)?;
        check_size(got, size)
    }

    /// Decompresses one frame into `out`, whose length must be the size of the content: see
    /// [`content_size`].
    ///
    /// # Errors
    ///
    /// `Damage` when it is not a valid frame, or holds another number of bytes.
    pub fn frame_into(&mut self, frame: &[u8], out: &mut [u8]) -> Result<()> {
        let got = self.0.decompress(out, frame).map_err(failed)?;
        check_size(got, out.len())
    }
}

fn check_size(got: usize, size: usize) -> Result<()> {
    if got == size {
        return Ok(());
    }
    Err(Error::new(Kind::Damage, format!("the frame holds {got} bytes instead of {size}")))
}

/// Reads the size of the content from the header of a frame, in bytes.
///
/// # Errors
///
/// `Damage` when the header has no size, or one above `limit`.
pub fn content_size(frame: &[u8], limit: usize) -> Result<usize> {
    let size = zstd_safe::get_frame_content_size(frame).ok().flatten();
    size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= limit).ok_or_else(|| {
        Error::new(Kind::Damage, format!("the frame does not have a content size of at most {limit} bytes"))
    })
}

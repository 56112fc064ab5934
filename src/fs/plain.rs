//! Opens files in directories where another user may have put a link or a FIFO in the place of a
//! file.

use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a file without following a link at the end of `path`, and without waiting for the other
/// end of a FIFO. Does not check that it is a regular file.
///
/// # Errors
///
/// Those of the operating system: `ELOOP` for a link.
pub fn open_plain(path: &Path, options: &mut OpenOptions) -> std::io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.custom_flags(flags.bits().cast_signed()).open(path)
}

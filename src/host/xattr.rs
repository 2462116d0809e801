//! Extended attributes of files, of which the standard library knows nothing.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// All extended attributes of a path; a link is not followed. None where the file
/// system knows none.
pub(super) fn read(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let names = match grown(|buffer| rustix::fs::llistxattr(path, buffer)) {
        Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        names => names?,
    };
    let mut attributes = BTreeMap::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(io::Error::other)?;
        let value = grown(|buffer| rustix::fs::lgetxattr(path, name, buffer))?;
        attributes.insert(name.to_string_lossy().into_owned(), value);
    }
    Ok(attributes)
}

/// Reads into a buffer that is large enough: 64 KiB is Linux' limit for a value
/// and for all names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
fn grown(
    mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 64 << 10];
    let length = read(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

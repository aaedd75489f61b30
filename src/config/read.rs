//! Files that a configuration is written in, or that it names: read whole, if they are not too long.
//!
//! A configuration may come through a pipe, whose other end is waited for. What it names is read again by each reload, so
//! that it must be a regular file, or a link to one: nothing else ends for certain, or begins anew.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const MIB: u64 = 1024 * 1024;
/// More is no configuration, and no secret.
const MOST_TEXT: u64 = MIB;
/// Of TLS: a list of authorities with all that is said of each.
const MOST_PEM: u64 = 16 * MIB;

/// A whole configuration. The errors of these continue "… cannot be read: ".
pub(super) fn configuration(path: &Path) -> Result<String, String> {
    text(&File::open(path).map_err(|error| error.to_string())?)
}

/// What a key with `@/path` stands for.
pub(super) fn secret(path: &Path) -> Result<String, String> {
    text(&regular(path)?)
}

/// A file of TLS.
pub(crate) fn pem(path: &Path) -> Result<Vec<u8>, String> {
    let found = bytes(&regular(path)?, MOST_PEM)?;
    found.ok_or_else(|| "it is longer than 16 MiB; name a file that holds PEM and nothing else".to_owned())
}

fn text(file: &File) -> Result<String, String> {
    let bytes = bytes(file, MOST_TEXT)?.ok_or("it is longer than 1 MiB")?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}

/// Opens nothing that would be waited for.
fn regular(path: &Path) -> Result<File, String> {
    let open = || {
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
        Ok((file.metadata()?.is_file(), file))
    };
    match open().map_err(|error: std::io::Error| error.to_string())? {
        (true, file) => Ok(file),
        (false, _) => Err("it is not a regular file; write it into one".to_owned()),
    }
}

/// `None`: there are more.
fn bytes(file: &File, most: u64) -> Result<Option<Vec<u8>>, String> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

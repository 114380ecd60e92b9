//! Data sets published as files: where they lie here, how they are known to be right, and where the authors have them.

use crate::{Error, Result, error::fail};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A published data set.
pub(crate) struct Published {
    /// The name of the set, as in [`crate::Source::NAMES`].
    pub name: &'static str,
    /// The folder of its files, below the data directory.
    pub folder: &'static str,
    /// Where the authors publish it, for people.
    pub publisher: &'static str,
    /// Addresses, each ending with a slash, to download from, in this order.
    pub bases: &'static [&'static str],
    /// The gzipped tar file that holds the files, where they are not published one by one.
    pub archive: Option<&'static str>,
    /// The files themselves.
    pub files: &'static [File],
}

/// A published file.
pub(crate) struct File {
    pub name: &'static str,
    pub bytes: u64,
    pub sha256: &'static str,
}

impl Published {
    /// The file's path and its verified bytes, from the set's folder in `dir` (or in `STEIN_DATA`) or from `dir`
    /// itself; `FILE.xz` will do and is unpacked.
    pub fn find(&self, file: &File, dir: Option<&Path>) -> Result<(PathBuf, Vec<u8>)> {
        let what = format!("{} needs {} ({} bytes, published at {})", self.name, file.name, file.bytes, self.publisher);
        let Some(dir) = dir.map(Path::to_path_buf).or_else(|| std::env::var_os("STEIN_DATA").map(PathBuf::from)) else {
            fail!("{what}: run `stein data get {}`, then name the data directory or set STEIN_DATA to it", self.name);
        };
        for folder in [dir.join(self.folder), dir.clone()] {
            for ending in ["", ".xz"] {
                let path = folder.join(format!("{}{ending}", file.name));
                if path.is_file() {
                    let bytes = read(&path)?;
                    file.verify(&bytes, &path, self.name)?;
                    return Ok((path, bytes));
                }
            }
        }
        fail!(
            "{what}, but it is not in {} nor in its folder {}: run `stein data get {}`",
            dir.display(),
            self.folder,
            self.name
        )
    }
}

/// The bytes of a file, unpacked where its name ends with `.xz`.
fn read(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |e: &dyn std::fmt::Display| Error::new(format!("{} cannot be read: {e}", path.display()));
    let bytes = fs::read(path).map_err(|e| unreadable(&e))?;
    if path.extension().is_none_or(|ending| ending != "xz") {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    lzma_rs::xz_decompress(&mut &bytes[..], &mut unpacked).map_err(|e| unreadable(&format_args!("{e:?}")))?;
    Ok(unpacked)
}

impl File {
    /// Compares size and SHA-256 with the published ones; `origin` is for the sentence.
    pub fn verify(&self, bytes: &[u8], origin: &Path, set: &str) -> Result<()> {
        if bytes.len() as u64 != self.bytes {
            fail!(
                "{} holds {} bytes where {} has {}: remove it and run `stein data get {set}`",
                origin.display(),
                bytes.len(),
                self.name,
                self.bytes
            );
        }
        let sum: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if sum != self.sha256 {
            fail!(
                "{} is damaged (its SHA-256 is {sum}, not {}): remove it and run `stein data get {set}`",
                origin.display(),
                self.sha256
            );
        }
        Ok(())
    }
}

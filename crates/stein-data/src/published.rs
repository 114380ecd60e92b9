//! Data sets published as files: where they lie here, how they are known to be right, and where the authors have them.

use sha2::{Digest, Sha256};
use std::{
    env, fs,
    path::{Path, PathBuf},
};
use stein_base::{Error, Kind, Result, ensure};

/// The files of a published data set, which [`get`](crate::get()) brings and a [`DataSet`](crate::DataSet) of your own
/// can have too.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    /// The name of the set, as in [`Source::names`](crate::Source::names).
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
    pub files: &'static [PublishedFile],
}

/// A published file.
#[derive(Debug, Clone, Copy)]
pub struct PublishedFile {
    /// Its name, without folders.
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hexadecimal digits.
    pub sha256: &'static str,
}

impl Published {
    /// The file's path and its verified bytes, from the set's folder in `dir` (by default that of [`data_folder`]) or from
    /// `dir` itself; `FILE.xz` will do and is unpacked.
    ///
    /// # Errors
    /// When the file is in neither, cannot be read, or is not what was published.
    pub fn find(&self, file: &PublishedFile, dir: Option<&Path>) -> Result<(PathBuf, Vec<u8>)> {
        let what = format!("{} needs {} ({} bytes, published at {})", self.name, file.name, file.bytes, self.publisher);
        let dir = data_folder(dir);
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
        let (dir, folder, name) = (dir.display(), self.folder, self.name);
        let sentence = format!(
            "{what}, but it is not in {dir} nor in its folder {folder}: run `stein data get {name}`, or name the directory \
             that has it by --data or STEIN_DATA"
        );
        Err(Error::of(Kind::File, sentence))
    }
}

/// The directory with published data sets, where they are put and where they are looked for: the given one, or else what the
/// environment variable `STEIN_DATA` names, or else `data`.
pub fn data_folder(given: Option<&Path>) -> PathBuf {
    let named = || env::var_os("STEIN_DATA").filter(|folder| !folder.is_empty());
    given.map(Path::to_path_buf).or_else(|| named().map(PathBuf::from)).unwrap_or_else(|| "data".into())
}

/// The bytes of a file, unpacked where its name ends with `.xz`.
fn read(path: &Path) -> Result<Vec<u8>> {
    let unreadable =
        |e: &dyn std::fmt::Display| Error::of(Kind::File, format!("{} cannot be read: {e}", path.display()));
    let bytes = fs::read(path).map_err(|e| unreadable(&e))?;
    if path.extension().is_none_or(|ending| ending != "xz") {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    lzma_rs::xz_decompress(&mut &bytes[..], &mut unpacked).map_err(|e| unreadable(&format_args!("{e:?}")))?;
    Ok(unpacked)
}

impl PublishedFile {
    /// Compares size and SHA-256 with the published ones; `origin` is for the sentence.
    pub(crate) fn verify(&self, bytes: &[u8], origin: &Path, set: &str) -> Result<()> {
        let (origin, size) = (origin.display(), bytes.len());
        ensure!(
            Kind::File,
            size as u64 == self.bytes,
            "{origin} holds {size} bytes where {} has {}: remove it and run `stein data get {set}`",
            self.name,
            self.bytes
        );
        let sum: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(
            Kind::File,
            sum == self.sha256,
            "{origin} is damaged (its SHA-256 is {sum}, not {}): remove it and run `stein data get {set}`",
            self.sha256
        );
        Ok(())
    }
}

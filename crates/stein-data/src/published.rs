//! Data sets published as files: where they lie here, how they are known to be right, and where the authors have them.

use sha2::{Digest, Sha256};
use std::{
    env, fs,
    io::{self, BufReader, Read, Write},
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
                    let bytes = read(&path, file.bytes)?;
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

/// The bytes of a file, unpacked where its name ends with `.xz`; of more than `most` only one more, which tells that it is too
/// long.
fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let unreadable =
        |e: &dyn std::fmt::Display| Error::of(Kind::File, format!("{} cannot be read: {e}", path.display()));
    let file = fs::File::open(path).map_err(|e| unreadable(&e))?;
    let mut bytes = Vec::new();
    if path.extension().is_none_or(|ending| ending != "xz") {
        file.take(most + 1).read_to_end(&mut bytes).map_err(|e| unreadable(&e))?;
        return Ok(bytes);
    }
    let mut limited = Limited { bytes, left: most + 1 };
    let unpacked = lzma_rs::xz_decompress(&mut BufReader::new(file), &mut limited);
    if limited.left > 0 {
        unpacked.map_err(|e| unreadable(&format_args!("{e:?}")))?;
    }
    Ok(limited.bytes)
}

/// Bytes that become no more than a limit.
struct Limited {
    bytes: Vec<u8>,
    left: u64,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.bytes.extend_from_slice(&bytes[..taken]);
        self.left -= taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_unpacked_than_was_published() {
        static SET: Published = Published {
            name: "toy",
            folder: "toy",
            publisher: "nobody",
            bases: &[],
            archive: None,
            files: &[PublishedFile { name: "a.bin", bytes: 10, sha256: "" }],
        };
        let dir = tempfile::tempdir().unwrap();
        let mut packed = Vec::new();
        lzma_rs::xz_compress(&mut &vec![0u8; 1 << 20][..], &mut packed).unwrap();
        fs::write(dir.path().join("a.bin.xz"), packed).unwrap();
        let said = SET.find(&SET.files[0], Some(dir.path())).unwrap_err().to_string();
        assert!(said.contains("holds 11 bytes where a.bin has 10"), "{said}");
    }
}

//! A file of decoded samples, so that a picture is decoded once and not once an epoch.
//!
//! The file is a row of records of one size, one a sample: a checksum of 8 bytes, then the values. A record counts as
//! present if its checksum is that of its values, so the checksums are the record of what is there: what was never
//! written is zeros, which no checksum is, and what a killed process or a full disk left half written is decoded again.
//! Two processes that write the same record write the same bytes. Nothing here fails: without a cache, samples are
//! decoded every time. Of the files of one folder, which its changes and other settings leave behind, the last few used are kept.

use crate::positioned::Positioned;
use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const CHECKSUM: usize = 8;

/// Files of a family that are kept.
const KEPT: usize = 4;

/// Records of decoded samples.
#[derive(Debug)]
pub(crate) struct Cache {
    file: Positioned,
    path: PathBuf,
    /// Bytes of the values of a record.
    size: usize,
    writable: AtomicBool,
}

impl Cache {
    /// The file `family` + `name` in `dir` with `count` records of `size` bytes; made if absent, and read only if it cannot
    /// be written. `None` if there can be none. Older files of the family are removed.
    pub fn open(dir: &Path, family: &str, name: &str, count: usize, size: usize) -> Option<Self> {
        let path = dir.join(format!("{family}{name}"));
        let bytes = (count as u64).checked_mul((CHECKSUM + size) as u64)?;
        let (file, writable) = match create(dir, &path, bytes) {
            Ok(file) => (file, true),
            Err(_) => (File::open(&path).ok()?, false),
        };
        if writable {
            // Read files count as used too. What fails here costs room and nothing else.
            let _ = file.set_modified(SystemTime::now()).and_then(|()| remove_old(dir, family));
        }
        Some(Self { file: Positioned::new(file), path, size, writable: AtomicBool::new(writable) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The values of record `i`, if they are there.
    pub fn read(&self, i: usize) -> Option<Vec<u8>> {
        let mut record = vec![0; CHECKSUM + self.size];
        self.file.read_exact_at(&mut record, self.place(i)).ok()?;
        (record[..CHECKSUM] == checksum(i, &record[CHECKSUM..])).then(|| {
            record.drain(..CHECKSUM);
            record
        })
    }

    /// Keeps the values of record `i`. After the first failure, such as a full disk, nothing more is kept.
    ///
    /// # Panics
    /// If there are not as many bytes as a record has.
    pub fn write(&self, i: usize, values: &[u8]) {
        assert_eq!(values.len(), self.size, "records have one size");
        if !self.writable.load(Ordering::Relaxed) {
            return;
        }
        let record = [&checksum(i, values), values].concat();
        if self.file.write_all_at(&record, self.place(i)).is_err() {
            self.writable.store(false, Ordering::Relaxed);
        }
    }

    fn place(&self, i: usize) -> u64 {
        i as u64 * (CHECKSUM + self.size) as u64
    }
}

/// The file at `path`, at least `len` bytes long, most of them holes at first.
fn create(dir: &Path, path: &Path, len: u64) -> io::Result<File> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    // The folder may be in one that all users write to.
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if file.metadata()?.len() < len {
        file.set_len(len)?;
    }
    Ok(file)
}

/// Removes all but the files of the family that were used last.
fn remove_old(dir: &Path, family: &str) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(family.as_bytes()) {
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    files.sort_unstable_by(|a, b| b.cmp(a));
    files.into_iter().skip(KEPT).try_for_each(|(_, path)| fs::remove_file(path))
}

/// The checksum of the values of record `i`, never all zeros; a record that stands at another's place has a wrong one.
fn checksum(i: usize, values: &[u8]) -> [u8; CHECKSUM] {
    xxh3_64_with_seed(values, i as u64).max(1).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Cache {
        Cache::open(dir, "", "rows", 3, 5).unwrap()
    }

    #[test]
    fn what_is_not_whole_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        let cache = open(dir.path());
        assert_eq!(cache.read(1), None, "what was never written");
        cache.write(1, b"hello");
        cache.write(2, &[0; 5]);
        // Another process sees what the first wrote, at once.
        assert_eq!((open(dir.path()).read(1).as_deref(), cache.read(2)), (Some(&b"hello"[..]), Some(vec![0; 5])));

        // Killed in the middle of record 2: its beginning is there, its end is not.
        let whole = fs::read(&path).unwrap();
        let mut torn = whole.clone();
        cache.write(2, b"other");
        torn[26..35].copy_from_slice(&fs::read(&path).unwrap()[26..35]);
        fs::write(&path, &torn).unwrap();
        assert_eq!((open(dir.path()).read(1).as_deref(), open(dir.path()).read(2)), (Some(&b"hello"[..]), None));

        fs::write(&path, &whole[..30]).unwrap();
        assert_eq!(open(dir.path()).read(2), None, "cut short, then made longer again");
        let mut swapped = whole[13..26].to_vec();
        swapped.extend(&whole[13..]);
        fs::write(&path, swapped).unwrap();
        assert_eq!((open(dir.path()).read(0), open(dir.path()).read(1).is_some()), (None, true), "at another's place");
    }

    #[test]
    fn the_last_few_of_a_family_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        for name in ["a", "b", "c", "d", "a", "e", "f"] {
            Cache::open(dir.path(), "set-", name, 1, 1).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(10)); // another time, on systems with coarse ones
        }
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["other", "set-a", "set-d", "set-e", "set-f"]);
    }

    #[test]
    fn without_a_place_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(Cache::open(&dir.path().join("file"), "", "rows", 1, 1).is_none());
    }

    #[test]
    fn what_cannot_be_written_is_not_and_that_is_all() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).write(0, b"hello");
        // Opened for reading only, which fails at the first write as a full disk does.
        let path = dir.path().join("rows");
        let file = Positioned::new(File::open(&path).unwrap());
        let cache = Cache { file, path, size: 5, writable: AtomicBool::new(true) };
        cache.write(1, b"other");
        assert!(!cache.writable.load(Ordering::Relaxed));
        cache.write(2, b"third");
        let read = [0, 1, 2].map(|i| cache.read(i));
        assert_eq!(read, [Some(b"hello".to_vec()), None, None]);
    }
}

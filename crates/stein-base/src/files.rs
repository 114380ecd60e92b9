//! Files that are there whole or not at all.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::{Error, Kind, Result};

/// How the names of half-written files begin and end, so that those of a killed process are known for what they are.
const HALF_WRITTEN: [&str; 2] = [".stein-", ".part"];

/// A file that is written beside its place and takes it when it is whole: until [`commit`](Self::commit) the path holds what it held
/// before, and dropped before that it leaves nothing behind.
#[derive(Debug)]
pub struct PendingFile {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl PendingFile {
    /// Starts writing a file for this path, whose directory must exist.
    ///
    /// # Errors
    /// A directory that does not exist or cannot be written to.
    pub fn new(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !directory.is_dir() {
            let sentence = "the directory to write it in does not exist; create it first";
            return Err(Error::of(Kind::File, sentence).at(path.display()));
        }
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        builder.prefix(HALF_WRITTEN[0]).suffix(HALF_WRITTEN[1]);
        let file = builder.tempfile_in(directory).map_err(|error| unwritable(path, &error))?;
        // Held as long as it is written. Where there are no locks, `remove_abandoned` removes nothing.
        let _ = file.as_file().try_lock();
        Ok(Self { file: BufWriter::with_capacity(1 << 16, file), path: path.to_owned() })
    }

    /// Puts the whole file in its place.
    ///
    /// # Errors
    /// When the disk is full, or the path cannot be replaced.
    pub fn commit(self) -> Result<()> {
        let Self { file, path } = self;
        let place = || {
            let file = file.into_inner().map_err(|error| error.into_error())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            io::Result::Ok(())
        };
        place().map_err(|error| unwritable(&path, &error))
    }

    /// The error of a failed write, as a sentence.
    pub fn failed(&self, error: &io::Error) -> Error {
        unwritable(&self.path, error)
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    Error::of(Kind::File, format!("it cannot be written: {error}")).at(path.display())
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes a whole file through a [`PendingFile`].
///
/// # Errors
/// Those of the file and of `write`; the path then holds what it held before.
pub fn write_atomically(path: impl AsRef<Path>, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut file = PendingFile::new(path)?;
    if let Err(error) = write(&mut file) {
        return Err(file.failed(&error));
    }
    file.commit()
}

/// Removes the half-written files that killed processes left in a directory; those that are being written stay.
pub fn remove_abandoned(directory: impl AsRef<Path>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.starts_with(HALF_WRITTEN[0]) && name.ends_with(HALF_WRITTEN[1]);
        let file = || File::options().read(true).write(true).open(entry.path());
        if ours
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && file().is_ok_and(|file| file.try_lock().is_ok())
        {
            // One that cannot be removed is in nobody's way.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        write_atomically(&path, |file| file.write_all(b"old")).unwrap();
        let broken = write_atomically(&path, |file| {
            file.write_all(b"new")?;
            Err(io::Error::other("full"))
        });
        assert!(broken.unwrap_err().to_string().ends_with("full"));
        let mut dropped = PendingFile::new(&path).unwrap();
        dropped.write_all(b"half").unwrap();
        drop(dropped);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let nowhere = PendingFile::new("/nowhere/at/all").unwrap_err();
        assert!(nowhere.kind() == Kind::File && nowhere.to_string().contains("create it first"));
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in [".stein-AbC123.part", ".stein-mine", "notes.part", ".tmpAbC123"] {
            fs::write(at(name), b"half").unwrap();
        }
        let mut pending = PendingFile::new(at("new")).unwrap();
        remove_abandoned(directory.path());
        assert!(!at(".stein-AbC123.part").exists());
        for name in [".stein-mine", "notes.part", ".tmpAbC123"] {
            assert!(at(name).exists(), "{name}");
        }
        pending.write_all(b"whole").unwrap();
        pending.commit().unwrap();
        assert_eq!(fs::read(at("new")).unwrap(), b"whole", "a file being written was taken away");
        remove_abandoned(at("nowhere"));
    }
}

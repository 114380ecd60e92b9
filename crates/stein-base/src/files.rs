//! Files that are there whole or not at all.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, BufWriter, Stdout, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::{Error, Kind, Result};

/// How the names of half-written files begin and end, so that those of a killed process are known for what they are.
const HALF_WRITTEN: [&str; 2] = [".stein-", ".part"];

/// A file that is written beside its place and takes it when it is whole: until [`commit`](Self::commit) the path holds what it held
/// before, and dropped before that it leaves nothing behind.
///
/// Through a link the file it leads to is replaced. What is no file, such as a pipe or a device, is written to as it comes.
#[derive(Debug)]
pub struct PendingFile {
    to: BufWriter<To>,
    /// As it was given, for sentences.
    path: PathBuf,
}

/// Where the bytes go.
#[derive(Debug)]
enum To {
    /// Beside this place.
    Beside(NamedTempFile, PathBuf),
    /// A pipe or a device.
    Through(File),
    Stdout(Stdout),
}

impl Write for To {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Beside(file, _) => file.write(bytes),
            Self::Through(file) => file.write(bytes),
            Self::Stdout(stdout) => stdout.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Beside(file, _) => file.flush(),
            Self::Through(file) => file.flush(),
            Self::Stdout(stdout) => stdout.flush(),
        }
    }
}

impl PendingFile {
    /// Starts writing a file for this path, whose directory must exist. Whatever keeps the file from being written fails here, as far
    /// as it can be known.
    ///
    /// # Errors
    /// A directory that does not exist or cannot be written to, a name the system does not take, a file that may not be written.
    pub fn new(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let open = || match existing(path)? {
            Some(there) if !there.is_file() => OpenOptions::new().write(true).open(path).map(To::Through),
            there => beside(path, there),
        };
        let to = open().map_err(|error| unwritable(path, &error))?;
        Ok(Self { to: BufWriter::with_capacity(1 << 16, to), path: path.to_owned() })
    }

    /// The standard output, which is written to as the bytes come.
    pub fn stdout() -> Self {
        Self { to: BufWriter::with_capacity(1 << 16, To::Stdout(io::stdout())), path: "the standard output".into() }
    }

    /// Puts the whole file in its place.
    ///
    /// # Errors
    /// When the disk is full, or the path cannot be replaced.
    pub fn commit(self) -> Result<()> {
        let Self { to, path } = self;
        let place = || match to.into_inner().map_err(|error| error.into_error())? {
            To::Beside(file, place) => {
                file.as_file().sync_all()?;
                file.persist(place)?;
                io::Result::Ok(())
            }
            mut through => through.flush(),
        };
        place().map_err(|error| unwritable(&path, &error))
    }

    /// Writes these bytes, which are all of the file, and puts it in its place.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn commit_with(mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(|error| self.failed(&error))?;
        self.commit()
    }

    /// The error of a failed write, as a sentence. A reader that went away is a wish to stop.
    pub fn failed(&self, error: &io::Error) -> Error {
        unwritable(&self.path, error)
    }
}

/// Fails if a file cannot be written there, as far as that is known before it is.
///
/// # Errors
/// Those of [`PendingFile::new`].
pub fn check_place(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let try_out = || match existing(path)? {
        Some(there) if !there.is_file() => Ok(()),
        there => beside(path, there).map(drop),
    };
    try_out().map_err(|error| unwritable(path, &error))
}

/// What is at a path, through links, if anything is.
fn existing(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(there) if there.permissions().readonly() => {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is read-only"))
        }
        Ok(there) => Ok(Some(there)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A temporary file beside the place that a path leads to, with the permissions of the file that is there.
fn beside(path: &Path, there: Option<Metadata>) -> io::Result<To> {
    let place = end_of_links(path)?;
    let directory = match place.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !directory.is_dir() {
        return Err(io::Error::other("the directory to write it in does not exist; create it first"));
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(HALF_WRITTEN[0]).suffix(HALF_WRITTEN[1]);
    if let Some(there) = there {
        builder.permissions(there.permissions());
    } else {
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    }
    let file = builder.tempfile_in(directory)?;
    // Held as long as it is written. Where there are no locks, `remove_abandoned` removes nothing.
    let _ = file.as_file().try_lock();
    Ok(To::Beside(file, place))
}

/// Where the links at a path lead, whether there is something or not.
fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    // As many as Linux follows.
    const MOST: usize = 40;
    let mut place = path.to_owned();
    for _ in 0..MOST {
        match fs::read_link(&place) {
            // An absolute target replaces the whole path.
            Ok(target) => place = place.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(place),
        }
    }
    Err(io::Error::other("its links lead in a circle"))
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Error::stopped();
    }
    Error::of(Kind::File, format!("it cannot be written: {error}")).at(path.display())
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
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

    #[cfg(unix)]
    #[test]
    fn a_link_leads_to_the_file_that_is_written() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("far")).unwrap();
        // One link after the other, relative to where each lies, to a file that is there or not.
        for old in [None, Some("old")] {
            _ = [fs::remove_file(at("near")), fs::remove_file(at("far/link")), fs::remove_file(at("file"))];
            symlink("far/link", at("near")).unwrap();
            symlink("../file", at("far/link")).unwrap();
            if let Some(old) = old {
                fs::write(at("file"), old).unwrap();
            }
            write_atomically(at("near"), |file| file.write_all(b"new")).unwrap();
            assert_eq!(fs::read(at("file")).unwrap(), b"new");
            assert!(at("near").is_symlink() && at("far/link").is_symlink());
        }
        symlink("round", at("round")).unwrap();
        assert!(PendingFile::new(at("round")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_written_through() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_atomically(&pipe, |file| file.write_all(b"through")).unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        write_atomically("/dev/null", |file| file.write_all(b"gone")).unwrap();
        if cfg!(target_os = "linux") {
            let full = write_atomically("/dev/full", |file| file.write_all(b"no room")).unwrap_err();
            assert!(full.kind() == Kind::File && full.to_string().starts_with("/dev/full: "), "{full}");
        }
    }

    #[test]
    fn what_cannot_be_written_fails_before_anything_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "old").unwrap();
        let mut closed = fs::metadata(&file).unwrap().permissions();
        closed.set_readonly(true);
        fs::set_permissions(&file, closed).unwrap();
        let long = directory.path().join("n".repeat(300));
        for path in [&file, &long, directory.path(), &file.join("below")] {
            let error = PendingFile::new(path).unwrap_err();
            assert!(error.kind() == Kind::File && error.to_string().starts_with(&*path.to_string_lossy()), "{error}");
        }
        assert_eq!(fs::read(&file).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_keeps_its_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("private");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        write_atomically(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

//! Which files a command may replace: none that it reads, and none that this program did not write, unless it is told to.
//!
//! What was written is known again by the record beside it, which has the length and the SHA-256 of every file: one that was
//! changed since is the user's.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use stein::{Error, Kind, Result, ensure};
use stein_base::files::PendingFile;

/// The path with something behind its last name: `moons.png.json` for `moons.png`.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// Fails if writing `path` would replace one of the inputs, or a file that is not `ours`, unless it is empty or replacing is wanted.
pub(crate) fn may_replace(path: &Path, inputs: &[PathBuf], force: bool, ours: impl FnOnce() -> bool) -> Result<()> {
    let Some(there) = fs::metadata(path).ok().filter(fs::Metadata::is_file) else { return Ok(()) };
    if let Some(input) = inputs.iter().find(|input| same_file::is_same_file(input, path).unwrap_or(false)) {
        return Err(Error::new(format!(
            "{} would replace {}, which this command reads: give another name",
            path.display(),
            input.display()
        )));
    }
    ensure!(
        Kind::File,
        force || there.len() == 0 || ours(),
        "{} is there already, and not as this command left it: give another name, or --force to replace it",
        path.display()
    );
    Ok(())
}

/// A file as it was written.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Written {
    bytes: u64,
    sha256: String,
}

impl Written {
    fn of(path: &Path) -> io::Result<Self> {
        let (mut file, mut hasher, mut bytes) = (File::open(path)?, Sha256::new(), 0);
        let mut part = vec![0; 1 << 16];
        loop {
            match file.read(&mut part)? {
                0 => break,
                count => {
                    hasher.update(&part[..count]);
                    bytes += count as u64;
                }
            }
        }
        Ok(Self { bytes, sha256: hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect() })
    }

    /// Whether it is still the same.
    fn is(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|there| there.len() == self.bytes) && Self::of(path).is_ok_and(|now| now == *self)
    }
}

/// Files that a command writes together, and the record that says how they were made.
pub(crate) struct Recorded {
    record: PendingFile,
    inputs: Vec<PathBuf>,
    force: bool,
    /// What an earlier call of the command left, by name.
    before: BTreeMap<String, Written>,
}

const WRITTEN_BY: &str = "written_by";
const FILES: &str = "files";

impl Recorded {
    /// Begins a record; `force` lets files be replaced that are not the program's own.
    ///
    /// # Errors
    /// Another file in its place, and a record that cannot be written.
    pub(crate) fn new(record: &Path, inputs: Vec<PathBuf>, force: bool) -> Result<Self> {
        let text = if record.is_file() { fs::read(record).unwrap_or_default() } else { Vec::new() };
        let before: Option<Value> = serde_json::from_slice(&text).ok();
        let before = before.filter(|before| before[WRITTEN_BY].as_str().is_some_and(|by| by.starts_with("stein ")));
        may_replace(record, &inputs, force, || before.is_some())?;
        let before = before.and_then(|mut before| serde_json::from_value(before[FILES].take()).ok());
        Ok(Self { record: PendingFile::new(record)?, inputs, force, before: before.unwrap_or_default() })
    }

    /// Whether the file is as an earlier call left it.
    pub(crate) fn is_ours(&self, path: &Path) -> bool {
        self.before.get(&name(path)).is_some_and(|written| written.is(path))
    }

    /// Fails unless the file may be written.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        may_replace(path, &self.inputs, self.force, || self.is_ours(path))
    }

    /// Starts writing a file.
    ///
    /// # Errors
    /// One that may not be replaced or cannot be written.
    pub(crate) fn start(&self, path: &Path) -> Result<PendingFile> {
        self.check(path)?;
        PendingFile::new(path)
    }

    /// Writes the record of files that are in their places.
    ///
    /// # Errors
    /// Files that cannot be read back, and a record that cannot be written.
    pub(crate) fn write(mut self, files: &[&Path], said: Map<String, Value>) -> Result<()> {
        let written = |path: &&Path| {
            let written = Written::of(path)
                .map_err(|error| Error::of(Kind::File, format!("{} cannot be read back: {error}", path.display())))?;
            Ok((name(path), serde_json::to_value(written).expect("a number and a text are JSON")))
        };
        let files: Map<String, Value> = files.iter().map(written).collect::<Result<_>>()?;
        let ours = [(WRITTEN_BY, format!("stein {}", crate::VERSION).into()), ("commit", crate::COMMIT.into())];
        let ours = ours.into_iter().chain([(FILES, files.into())]).map(|(key, value)| (key.to_owned(), value));
        let all = Value::Object(said.into_iter().chain(ours).collect());
        writeln!(self.record, "{all:#}").map_err(|error| self.record.failed(&error))?;
        self.record.commit()
    }
}

/// What a record says, of anything with named fields.
pub(crate) fn said(of: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(of) {
        Ok(Value::Object(said)) => said,
        other => unreachable!("what has named fields is a JSON object, not {other:?}"),
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

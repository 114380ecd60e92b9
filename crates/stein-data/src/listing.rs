//! The pictures of a folder or a tar file: where each one is, and nothing of what is in it.

use crate::positioned::{Positioned, Section};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Seek},
    path::{Path, PathBuf},
};
use stein_base::{Error, Kind, Result};

/// The endings of the files that are taken for pictures.
pub(crate) const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "tif", "tiff"];

/// Pictures in the order of their paths.
#[derive(Debug)]
pub(crate) struct Listing {
    root: PathBuf,
    /// The path of each below the folder, parts joined by `/`.
    pub names: Vec<String>,
    packed: Option<Packed>,
}

/// Where in a tar file the pictures lie.
#[derive(Debug)]
struct Packed {
    file: Positioned,
    /// Start and length.
    spans: Vec<(u64, u64)>,
}

/// A file that is open for reading.
pub(crate) trait Opened: BufRead + Seek {}
impl<T: BufRead + Seek> Opened for T {}

impl Listing {
    /// What is in the folder or tar file `root`.
    pub fn of(root: &Path) -> Result<Self> {
        if root.is_dir() {
            let mut names = walk(root)?;
            names.par_sort_unstable();
            return Ok(Self { root: root.into(), names, packed: None });
        }
        let unreadable = |e: io::Error| {
            let sentence = format!("{} is neither a folder nor a readable tar file ({e}): name one", root.display());
            Error::of(Kind::File, sentence)
        };
        untar(root).map_err(unreadable)
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Opens picture `i`.
    pub fn open(&self, i: usize) -> io::Result<Box<dyn Opened + '_>> {
        match &self.packed {
            None => Ok(Box::new(BufReader::new(File::open(self.root.join(&self.names[i]))?))),
            Some(Packed { file, spans }) => Ok(Box::new(BufReader::new(Section::new(file, spans[i].0, spans[i].1)))),
        }
    }

    /// All bytes of picture `i`.
    pub fn bytes(&self, i: usize) -> io::Result<Vec<u8>> {
        match &self.packed {
            None => fs::read(self.root.join(&self.names[i])),
            Some(Packed { file, spans }) => {
                let mut bytes = vec![0; spans[i].1 as usize];
                file.read_exact_at(&mut bytes, spans[i].0)?;
                Ok(bytes)
            }
        }
    }

    /// The error for picture `i`.
    pub fn unreadable(&self, i: usize, why: impl std::fmt::Display) -> Error {
        let (root, name) = (self.root.display(), &self.names[i]);
        Error::of(Kind::File, format!("{root}: {name} cannot be read as a picture ({why}): mend or remove it"))
    }

    /// A digest of where the pictures are, and of their names, sizes and times of change.
    pub fn digest(&self) -> io::Result<Sha256> {
        let mut digest = Sha256::new();
        digest.update(self.root.canonicalize()?.to_string_lossy().as_bytes());
        let stamp = |path: &Path| {
            let metadata = fs::metadata(path)?;
            // What has no time has one: then the size alone must tell.
            let changed = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            io::Result::Ok((metadata.len(), changed.unwrap_or_default().as_nanos() as u64))
        };
        let stamps = match &self.packed {
            None => self.names.par_iter().map(|name| stamp(&self.root.join(name))).collect::<io::Result<Vec<_>>>()?,
            Some(packed) => {
                let (size, changed) = stamp(&self.root)?;
                digest.update(size.to_le_bytes());
                digest.update(changed.to_le_bytes());
                packed.spans.clone()
            }
        };
        for (name, (a, b)) in self.names.iter().zip(stamps) {
            digest.update((name.len() as u64).to_le_bytes());
            digest.update(name);
            digest.update(a.to_le_bytes());
            digest.update(b.to_le_bytes());
        }
        Ok(digest)
    }
}

/// Whether a file's name is that of a picture; what begins with a dot is hidden.
fn is_picture(name: &str) -> bool {
    let ending = Path::new(name).extension().map(|e| e.to_string_lossy().to_lowercase());
    !name.split('/').any(|part| part.starts_with('.')) && ending.is_some_and(|e| ENDINGS.contains(&e.as_str()))
}

/// The pictures below `root`.
fn walk(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let unreadable = |e| Error::of(Kind::File, format!("{} cannot be listed: {e}", root.join(&folder).display()));
        for entry in fs::read_dir(root.join(&folder)).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = format!("{folder}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(unreadable)?;
            // Only links need to be looked at by themselves.
            if kind.is_dir() || (kind.is_symlink() && entry.path().is_dir()) {
                folders.push(name + "/");
            } else if is_picture(&name) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// The pictures of a tar file; a folder that holds all of them is left out of the paths.
fn untar(root: &Path) -> io::Result<Listing> {
    let file = File::open(root)?;
    let size = file.metadata()?.len();
    let mut archive = tar::Archive::new(file);
    let mut found = Vec::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_string();
        if entry.header().entry_type().is_file() && is_picture(&name) {
            let (start, len) = (entry.raw_file_position(), entry.size());
            if start.checked_add(len).is_none_or(|end| end > size) {
                return Err(io::Error::other(format!("it ends in the middle of {name}")));
            }
            found.push((name, (start, len)));
        }
    }
    found.sort();
    let top = found.first().and_then(|(name, _)| Some(format!("{}/", name.split_once('/')?.0)));
    if let Some(top) = top.filter(|top| found.iter().all(|(name, _)| name.starts_with(top))) {
        found.iter_mut().for_each(|(name, _)| *name = name[top.len()..].to_string());
    }
    let (names, spans) = found.into_iter().unzip();
    Ok(Listing {
        root: root.into(),
        names,
        packed: Some(Packed { file: Positioned::new(archive.into_inner()), spans }),
    })
}

//! The pictures of a folder or a tar file: where each one is, and nothing of what is in it.

use crate::{
    positioned::{Positioned, Section},
    source::first_ten,
};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek},
    path::{Component, Path, PathBuf},
};
use stein_base::{Error, Kind, Result, memory};

/// The endings of the files that are taken for pictures.
pub(crate) const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "tif", "tiff"];

/// Whether a path is named as a picture is.
pub fn is_picture(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ENDINGS.contains(&text(ending).to_lowercase().as_str()))
}

/// Opens a file for reading. A pipe, a socket or a device, which may never give anything or never end, is refused.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    match fs::metadata(path)? {
        it if it.is_file() => File::open(path),
        it if it.is_dir() => Err(io::Error::other("it is a folder")),
        _ => Err(io::Error::other("it is a pipe, a socket or a device and no file")),
    }
}

/// A name as text; bytes that are no text are escaped, so that different names stay different.
pub(crate) fn text(name: &OsStr) -> String {
    name.to_str().map_or_else(|| format!("{name:?}").trim_matches('"').to_owned(), str::to_owned)
}

/// Pictures in the order of their paths.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The folder or tar file.
    pub root: PathBuf,
    /// The path of each below the folder.
    pub names: Vec<PathBuf>,
    left_out: LeftOut,
    packed: Option<Packed>,
}

/// Where in a tar file the pictures lie.
#[derive(Debug)]
struct Packed {
    file: Positioned,
    /// Start and length.
    spans: Vec<Span>,
    /// The same of the texts beside them.
    texts: BTreeMap<PathBuf, Span>,
}

/// Start and length.
type Span = (u64, u64);

impl Packed {
    fn bytes(&self, (start, len): Span) -> io::Result<Vec<u8>> {
        room(len)?;
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes)
    }
}

/// What was found beside the pictures.
#[derive(Debug, Default)]
struct LeftOut {
    /// Files with other endings, by ending.
    endings: BTreeMap<String, usize>,
    /// What begins with a dot.
    hidden: usize,
    /// Pipes, sockets and devices, and what is no file in a tar file, under names of pictures.
    no_files: usize,
    /// Links to folders that are read already.
    circles: usize,
    /// Pictures that a later one in the tar file replaces.
    replaced: usize,
    /// Folders of the first level without a picture.
    empty: Vec<String>,
}

impl LeftOut {
    /// Takes a name for one of a picture, or notes why not.
    fn takes(&mut self, path: &Path) -> bool {
        if path.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b".")) {
            self.hidden += 1;
            return false;
        }
        let ending = path.extension().map(|ending| text(ending).to_lowercase()).unwrap_or_default();
        let known = ENDINGS.contains(&ending.as_str());
        if !known {
            *self.endings.entry(ending).or_default() += 1;
        }
        known
    }

    /// One sentence, if there is anything to say.
    fn note(&self) -> Option<String> {
        let mut parts: Vec<String> = Vec::new();
        let mut endings: Vec<_> = self.endings.iter().collect();
        endings.sort_by(|a, b| b.1.cmp(a.1));
        parts.extend(endings.iter().take(10).map(|(ending, count)| match ending.as_str() {
            "" => format!("{count} without an ending"),
            ending => format!("{count} .{}", crate::source::short(ending)),
        }));
        let others: usize = endings.iter().skip(10).map(|(_, count)| *count).sum();
        for (count, what) in [
            (others, "with other endings"),
            (self.hidden, "hidden"),
            (self.no_files, "that are no files"),
            (self.circles, "links to folders that are read already"),
            (self.replaced, "replaced by later ones of the same name"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        if !self.empty.is_empty() {
            parts.push(format!("folders without a picture: {}", first_ten(&self.empty)));
        }
        (!parts.is_empty())
            .then(|| format!("left out beside the pictures ({}): {}", ENDINGS.join(", "), parts.join(", ")))
    }
}

/// A file that is open for reading.
pub(crate) trait Opened: BufRead + Seek {}
impl<T: BufRead + Seek> Opened for T {}

impl Listing {
    /// What is in the folder or tar file `root`, or that picture alone.
    pub fn of(root: &Path) -> Result<Self> {
        if let Some(name) = root.file_name().filter(|_| root.is_file() && is_picture(root)) {
            let folder = root.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return Ok(Self {
                root: folder.into(),
                names: vec![name.into()],
                left_out: LeftOut::default(),
                packed: None,
            });
        }
        if root.is_dir() {
            let (mut names, left_out) = walk(root)?;
            names.par_sort_unstable();
            return Ok(Self { root: root.into(), names, left_out, packed: None });
        }
        let unreadable = |e: io::Error| {
            let sentence =
                format!("{} is neither a folder, a picture nor a readable tar file ({e}): name one", root.display());
            Error::of(Kind::File, sentence)
        };
        untar(root).map_err(unreadable)
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// What was left out, in a sentence.
    pub fn note(&self) -> Option<String> {
        self.left_out.note()
    }

    /// The folder of the first level that each picture is in; none where it is in the root itself.
    pub fn folder(&self, i: usize) -> Option<String> {
        let mut parts = self.names[i].components();
        let first = parts.next()?;
        parts.next().map(|_| text(first.as_os_str()))
    }

    /// The name of picture `i` for a sentence.
    pub fn name(&self, i: usize) -> impl std::fmt::Display + '_ {
        self.names[i].display()
    }

    /// Opens picture `i`.
    pub fn open(&self, i: usize) -> io::Result<Box<dyn Opened + '_>> {
        match &self.packed {
            None => Ok(Box::new(BufReader::new(open(&self.root.join(&self.names[i]))?))),
            Some(Packed { file, spans, .. }) => {
                Ok(Box::new(BufReader::new(Section::new(file, spans[i].0, spans[i].1))))
            }
        }
    }

    /// All bytes of picture `i`.
    pub fn bytes(&self, i: usize) -> io::Result<Vec<u8>> {
        match &self.packed {
            None => whole(&self.root.join(&self.names[i])),
            Some(packed) => packed.bytes(packed.spans[i]),
        }
    }

    /// The text of a file beside the pictures, by its path below the folder.
    pub fn text(&self, name: &Path) -> io::Result<String> {
        let bytes = match &self.packed {
            None => whole(&self.root.join(name))?,
            Some(packed) => packed.bytes(*packed.texts.get(name).ok_or(io::ErrorKind::NotFound)?)?,
        };
        let text = String::from_utf8(bytes).map_err(io::Error::other)?;
        // Without the mark that some editors begin a text with.
        Ok(text.trim_start_matches('\u{feff}').to_owned())
    }

    /// Files with an ending that were read beside the pictures, so that none of these is left out.
    pub fn read_beside(&mut self, ending: &str, count: usize) {
        if let Some(left) = self.left_out.endings.get_mut(ending) {
            *left = left.saturating_sub(count);
        }
        self.left_out.endings.retain(|_, left| *left > 0);
    }

    /// The error for picture `i`.
    pub fn unreadable(&self, i: usize, why: impl std::fmt::Display) -> Error {
        let (root, name) = (self.root.display(), self.name(i));
        Error::of(Kind::File, format!("{root}: {name} cannot be read as a picture ({why}): mend or remove it"))
    }

    /// A digest of where the pictures are.
    pub fn place(&self) -> io::Result<Sha256> {
        Ok(Sha256::new().chain_update(self.root.canonicalize()?.as_os_str().as_encoded_bytes()))
    }

    /// A digest of where the pictures are, and of their names, sizes and times of change.
    pub fn digest(&self) -> io::Result<Sha256> {
        let mut digest = self.place()?;
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
            let name = name.as_os_str().as_encoded_bytes();
            digest.update((name.len() as u64).to_le_bytes());
            digest.update(name);
            digest.update(a.to_le_bytes());
            digest.update(b.to_le_bytes());
        }
        Ok(digest)
    }
}

/// All bytes of a file.
fn whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(room(file.metadata()?.len())?)?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The size of a file that is read whole; an error where no memory holds it.
fn room(size: u64) -> io::Result<usize> {
    // Only what is too large for a picture is worth asking the system.
    if size > crate::picture::LARGEST {
        memory::ensure_fits("the file", size.into()).map_err(io::Error::other)?;
    }
    usize::try_from(size).map_err(io::Error::other)
}

/// The pictures below `root`. Links are followed after all that is there itself, and never to a folder that was read.
fn walk(root: &Path) -> Result<(Vec<PathBuf>, LeftOut)> {
    let (mut names, mut left_out, mut read, mut tops) =
        (Vec::new(), LeftOut::default(), HashSet::new(), BTreeSet::new());
    let (mut folders, mut links) = (vec![PathBuf::new()], BTreeSet::new());
    while let Some(folder) = folders.pop().or_else(|| links.pop_first()) {
        let unreadable = |e| Error::of(Kind::File, format!("{} cannot be listed: {e}", root.join(&folder).display()));
        if !read.insert(root.join(&folder).canonicalize().map_err(unreadable)?) {
            left_out.circles += 1;
            continue;
        }
        for entry in fs::read_dir(root.join(&folder)).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let (name, own) = (folder.join(entry.file_name()), entry.file_type().map_err(unreadable)?);
            // Only links need to be looked at by themselves. One that leads nowhere is met as a picture that cannot be read.
            let kind = if own.is_symlink() { fs::metadata(entry.path()).map_or(own, |it| it.file_type()) } else { own };
            if kind.is_dir() && !entry.file_name().as_encoded_bytes().starts_with(b".") {
                if folder.as_os_str().is_empty() {
                    tops.insert(text(&entry.file_name()));
                }
                if own.is_symlink() {
                    links.insert(name);
                } else {
                    folders.push(name);
                }
            } else if left_out.takes(&name) {
                if kind.is_file() || kind.is_symlink() {
                    names.push(name);
                } else {
                    left_out.no_files += 1;
                }
            }
        }
    }
    for name in &names {
        if let Some(Component::Normal(top)) = name.components().next() {
            tops.remove(&text(top));
        }
    }
    left_out.empty = tops.into_iter().collect();
    Ok((names, left_out))
}

/// The pictures of a tar file; a folder that holds all of them is left out of the paths.
fn untar(root: &Path) -> io::Result<Listing> {
    let file = open(root)?;
    let size = file.metadata()?.len();
    let mut archive = tar::Archive::new(file);
    let (mut found, mut texts, mut left_out) = (BTreeMap::new(), BTreeMap::new(), LeftOut::default());
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let kind = entry.header().entry_type();
        let path = entry.path()?;
        let name: PathBuf = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        if kind.is_dir() {
            continue;
        }
        let picture = left_out.takes(&name);
        let text = kind.is_file() && name.extension().is_some_and(|ending| ending == "txt" || ending == "jsonl");
        if !picture && !text {
            continue;
        }
        if !kind.is_file() {
            left_out.no_files += 1;
            continue;
        }
        let (start, len) = (entry.raw_file_position(), entry.size());
        if start.checked_add(len).is_none_or(|end| end > size) {
            return Err(io::Error::other(format!("it ends in the middle of {}", name.display())));
        }
        if picture {
            left_out.replaced += usize::from(found.insert(name, (start, len)).is_some());
        } else {
            texts.insert(name, (start, len));
        }
    }
    let (mut names, spans): (Vec<PathBuf>, Vec<Span>) = found.into_iter().unzip();
    let top = names.first().and_then(|name| Some(name.components().next()?.as_os_str().to_owned()));
    let below = |name: &PathBuf| {
        let rest = name.strip_prefix(top.as_ref()?).ok()?;
        (!rest.as_os_str().is_empty()).then(|| rest.to_owned())
    };
    if let Some(inner) = names.iter().map(below).collect() {
        names = inner;
        texts = texts.into_iter().map(|(name, span)| (below(&name).unwrap_or(name), span)).collect();
    }
    Ok(Listing {
        root: root.into(),
        names,
        left_out,
        packed: Some(Packed { file: Positioned::new(archive.into_inner()), spans, texts }),
    })
}

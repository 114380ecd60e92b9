//! Captions of pictures: a text file beside each, or one file with a line for each.

use crate::listing::Listing;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Component, Path, PathBuf},
};
use stein_base::{Error, Explain, Kind, Result, ensure};

/// Where the captions of pictures stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Captions {
    /// In a text file beside each picture: that of `name.png` is `name.txt`.
    Text,
    /// In `metadata.jsonl` beside the pictures, as Hugging Face's imagefolder has it: on each line
    /// `{"file_name": "name.png", "text": "what it shows"}`, where the name may begin with sub-folders.
    Metadata,
}

/// The file of [`Captions::Metadata`].
const METADATA: &str = "metadata.jsonl";

/// A line of [`METADATA`]; what else it may say is not needed.
#[derive(Deserialize)]
struct Record {
    file_name: PathBuf,
    text: String,
}

impl Captions {
    /// The caption of each picture, without the spaces around it, and perhaps a sentence on those that are of no picture.
    ///
    /// # Errors
    /// When a picture has no caption or an empty one, and when a file or a line cannot be read.
    pub(crate) fn read(self, listing: &mut Listing) -> Result<(Vec<String>, Option<String>)> {
        let root = listing.root.display().to_string();
        let (captions, note, place) = match self {
            Captions::Text => (beside(listing)?, None, "a text file beside each"),
            Captions::Metadata => {
                let mut of = metadata(listing)?;
                let captions: Vec<_> = listing.names.iter().map(|name| of.remove(name).unwrap_or_default()).collect();
                let others = of.len();
                let note =
                    (others > 0).then(|| format!("{METADATA} has captions of {others} pictures that are not here"));
                (captions, note, "a line of metadata.jsonl for each")
            }
        };
        let (n, missing) = (captions.len(), captions.iter().filter(|caption| caption.is_empty()).count());
        if let Some(first) = captions.iter().position(String::is_empty) {
            let first = listing.name(first);
            let sentence =
                format!("{root}: {missing} of {n} pictures have no caption, the first is {first}: write {place}");
            return Err(Error::of(Kind::File, sentence));
        }
        match self {
            Captions::Text => listing.read_beside("txt", n),
            Captions::Metadata => listing.read_beside("jsonl", 1),
        }
        Ok((captions, note))
    }
}

/// The text beside each picture; empty where there is none.
fn beside(listing: &Listing) -> Result<Vec<String>> {
    let text = |picture: &PathBuf| {
        let name = picture.with_extension("txt");
        match listing.text(&name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(e) => {
                let (root, name) = (listing.root.display(), name.display());
                Err(Error::of(Kind::File, format!("{root}: {name} cannot be read as a caption ({e}): mend it")))
            }
            Ok(text) => Ok(text.trim().to_owned()),
        }
    };
    listing.names.par_iter().map(text).collect::<Vec<_>>().into_iter().collect()
}

/// The captions of [`METADATA`] by the path of their picture.
fn metadata(listing: &Listing) -> Result<BTreeMap<PathBuf, String>> {
    let root = listing.root.display();
    let text = listing.text(Path::new(METADATA)).map_err(|e| {
        let line = r#"{"file_name": "name.png", "text": "what it shows"}"#;
        let sentence =
            format!("{root}: {METADATA} cannot be read ({e}): put one there with a line {line} for each picture");
        Error::of(Kind::File, sentence)
    })?;
    let mut captions = BTreeMap::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (file, line) = (format!("{root}: line {} of {METADATA}", i + 1), line);
        let Record { file_name, text } = serde_json::from_str(line).map_err(|e| {
            // The place in a single line says nothing.
            let (why, place) = (e.to_string(), format!(" at line {} column {}", e.line(), e.column()));
            let why = why.strip_suffix(&place).unwrap_or(&why);
            Error::of(Kind::File, format!("{file} is no object with the texts `file_name` and `text` ({why}): mend it"))
        })?;
        let name: PathBuf = file_name.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        ensure!(
            Kind::File,
            captions.insert(name, text.trim().to_owned()).is_none(),
            "{file} has another caption for {}: leave one",
            file_name.display()
        );
    }
    Ok(captions)
}

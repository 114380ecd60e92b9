//! A training state in one safetensors file (<https://huggingface.co/docs/safetensors>), readable by any tool.
//!
//! Weights have keys `raw.NAME`, their average `ema.NAME`, the optimiser `adam.m.NAME`, `adam.v.NAME` and `adam.step`.
//! The file's metadata has the caller's strings, and under `stein.` the format, the step, and the SHA-256 of the
//! tensors of each part. A file is written under another name, flushed to the disk and renamed, so that whatever
//! interrupts it there is a whole checkpoint under its name, the old one or the new.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    fs,
    path::Path,
};

use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use stein::{Error, Result, ensure};

use crate::{
    files::{self, write_atomically},
    state::Tensors,
};

/// The value of `stein.format`; another one is another layout.
const FORMAT: &str = "stein checkpoint 1";
/// What the keys of our own in the metadata start with.
const OWN: &str = "stein.";

/// Everything a run needs to go on, but its config, which is in the metadata by the caller's choice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checkpoint {
    /// The weights, from [`state::tensors`](crate::state::tensors).
    pub weights: Tensors,
    /// Their average, from [`Ema::tensors`](crate::Ema::tensors).
    pub ema: Tensors,
    /// The optimiser, from [`AdamW::tensors`](crate::AdamW::tensors).
    pub optimizer: Tensors,
    /// Training steps taken.
    pub step: u64,
    /// Strings to keep with it; keys that start with `stein.` are taken.
    pub metadata: BTreeMap<String, String>,
}

/// The tensors of a checkpoint that a network can be loaded from or an optimiser restored from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The weights as trained.
    Raw,
    /// The average of the weights.
    Ema,
    /// The state of the optimiser.
    Optimizer,
}

impl Part {
    const ALL: [Self; 3] = [Self::Raw, Self::Ema, Self::Optimizer];

    /// What the keys of this part start with, before a dot.
    fn prefix(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Ema => "ema",
            Self::Optimizer => "adam",
        }
    }

    fn digest_key(self) -> String {
        format!("{OWN}sha256.{}", self.prefix())
    }
}

impl Checkpoint {
    /// Writes the checkpoint to a file, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written, or a tensor or metadata key is one the format has no place for.
    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes = self.bytes().map_err(|error| error.at(path.display()))?;
        write_atomically(path, |file| file.write_all(&bytes))
    }

    /// Reads a checkpoint from a file.
    ///
    /// # Errors
    /// When the file cannot be read, is cut short or damaged, or is not a checkpoint of this format.
    pub fn read(path: &Path) -> Result<Self> {
        let file = Opened::new(path)?;
        let part = |part| file.part(part).map_err(|error| error.at(path.display()));
        let [weights, ema, optimizer] = [part(Part::Raw)?, part(Part::Ema)?, part(Part::Optimizer)?];
        Ok(Self { weights, ema, optimizer, step: file.step, metadata: file.metadata })
    }

    /// Reads one part of a checkpoint and the metadata from a file.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_part(path: &Path, part: Part) -> Result<(Tensors, BTreeMap<String, String>)> {
        let file = Opened::new(path)?;
        Ok((file.part(part).map_err(|error| error.at(path.display()))?, file.metadata))
    }

    fn part(&self, part: Part) -> &Tensors {
        match part {
            Part::Raw => &self.weights,
            Part::Ema => &self.ema,
            Part::Optimizer => &self.optimizer,
        }
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        if let Some(key) = self.metadata.keys().find(|key| key.starts_with(OWN)) {
            let sentence = format!("the metadata key {key} cannot be saved: {OWN} is for the checkpoint's own");
            return Err(Error::new(sentence));
        }
        let mut metadata: HashMap<String, String> = self.metadata.clone().into_iter().collect();
        metadata.insert(format!("{OWN}format"), FORMAT.to_owned());
        metadata.insert(format!("{OWN}step"), self.step.to_string());
        let mut views = Vec::new();
        for part in Part::ALL {
            metadata.insert(part.digest_key(), digest(self.part(part)));
            for (name, data) in self.part(part) {
                let view = files::view(name, data)?;
                views.push((format!("{}.{name}", part.prefix()), view));
            }
        }
        safetensors::serialize(views, Some(metadata)).map_err(sentence)
    }
}

/// A checkpoint file in memory, known to be one.
struct Opened {
    bytes: Vec<u8>,
    step: u64,
    digests: BTreeMap<String, String>,
    metadata: BTreeMap<String, String>,
}

impl Opened {
    fn new(path: &Path) -> Result<Self> {
        Self::parse(path).map_err(|error| error.at(path.display()))
    }

    fn parse(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(sentence)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(unreadable)?;
        let all: BTreeMap<String, String> = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let (mut own, metadata): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|(key, _)| key.starts_with(OWN));
        let format = own.remove("stein.format");
        ensure!(
            format.as_deref() == Some(FORMAT),
            "the metadata key stein.format is {}: it is not a checkpoint this version wrote ({FORMAT:?})",
            format.map_or("missing".to_owned(), |format| format!("{format:?}"))
        );
        let step = own.remove("stein.step").and_then(|step| step.parse().ok());
        let step = step
            .ok_or_else(|| Error::new("the metadata key stein.step is missing or not a number: the file is damaged"))?;
        Ok(Self { bytes, step, digests: own, metadata })
    }

    fn part(&self, part: Part) -> Result<Tensors> {
        let file = SafeTensors::deserialize(&self.bytes).map_err(unreadable)?;
        let mut tensors = Tensors::new();
        for (key, view) in file.iter() {
            let Some((prefix, name)) =
                key.split_once('.').filter(|(prefix, _)| Part::ALL.iter().any(|part| part.prefix() == *prefix))
            else {
                return Err(Error::new(format!(
                    "the key {key} is no part of a checkpoint: the file is damaged or foreign"
                )));
            };
            if prefix != part.prefix() {
                continue;
            }
            tensors.insert(name.to_owned(), files::data(key, &view)?);
        }
        let key = part.digest_key();
        ensure!(
            self.digests.get(&key) == Some(&digest(&tensors)),
            "the tensors {}.* do not have the checksum {key}: the file is damaged, use an earlier checkpoint",
            part.prefix()
        );
        Ok(tensors)
    }
}

/// The SHA-256 of names, shapes and values, in hexadecimal.
fn digest(tensors: &Tensors) -> String {
    let mut hasher = Sha256::new();
    for (name, data) in tensors {
        hasher.update(format!("{name} {:?} {:?}\n", data.dtype(), data.shape().as_slice()));
        hasher.update(data.as_bytes());
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sentence(error: impl Display) -> Error {
    Error::new(error.to_string())
}

fn unreadable(error: impl Display) -> Error {
    Error::new(format!("it is cut short, damaged or not a safetensors file ({error}): use an earlier checkpoint"))
}

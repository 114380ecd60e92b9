//! A training state in one safetensors file (<https://huggingface.co/docs/safetensors>), readable by any tool.
//!
//! The weights of a learner have keys `LEARNER.raw.NAME`, their average `LEARNER.average.NAME`, its optimizer
//! `LEARNER.optimizer.m.NAME`, `LEARNER.optimizer.v.NAME` and `LEARNER.optimizer.step`. The file's metadata has the caller's
//! strings, and under `stein.` the format, the step, the SHA-256 of the tensors of each part of each learner, and that of the
//! metadata themselves, so that a digit changed anywhere in the file is found. A file is
//! written under another name, flushed to the disk and renamed, so that whatever interrupts it there is a whole checkpoint under
//! its name, the old one or the new. Equal states are equal files.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stein::{Error, Kind, Result, ensure};

use crate::{
    files::{self, Opened, fault},
    state::Tensors,
};

/// What the value of `stein.format` begins with, before a number.
const FORMAT: &str = "stein checkpoint ";
/// The number of this layout.
const VERSION: u32 = 3;
/// What the keys of our own in the metadata start with.
const OWN: &str = "stein.";
/// Before the learner and the part in the key of a checksum.
const SHA256: &str = "stein.sha256.";
/// The key of the checksum of all other metadata.
const OF_METADATA: &str = "stein.sha256";

/// Everything a run needs to go on, but its config, which is in the metadata by the caller's choice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checkpoint {
    /// What is learned, by names of lower-case letters, digits and underscores.
    pub learners: BTreeMap<String, LearnerState>,
    /// Training steps taken.
    pub step: u64,
    /// Strings to keep with it; keys that start with `stein.` are taken.
    pub metadata: BTreeMap<String, String>,
}

/// One network of a run, and what trains it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LearnerState {
    /// The weights, from [`state::tensors`](crate::state::tensors).
    pub weights: Tensors,
    /// Their average, from [`Ema::tensors`](crate::Ema::tensors), if it has one.
    pub average: Option<Tensors>,
    /// The optimizer, from [`AdamW::tensors`](crate::AdamW::tensors).
    pub optimizer: Tensors,
}

/// Which weights of a learner are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// Those of the last step.
    Raw,
    /// Their moving average.
    Ema,
}

/// What a checkpoint has for sampling.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedWeights {
    /// The weights by learner.
    pub learners: BTreeMap<String, Tensors>,
    /// Whether any of them are averages.
    pub which: Weights,
    /// Training steps taken.
    pub step: u64,
    /// The caller's strings.
    pub metadata: BTreeMap<String, String>,
}

/// A part of a learner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Raw,
    Average,
    Optimizer,
}

impl Part {
    const ALL: [Self; 3] = [Self::Raw, Self::Average, Self::Optimizer];

    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Average => "average",
            Self::Optimizer => "optimizer",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }
}

impl LearnerState {
    fn parts(&self) -> impl Iterator<Item = (Part, &Tensors)> {
        let all = [Some(&self.weights), self.average.as_ref(), Some(&self.optimizer)];
        Part::ALL.into_iter().zip(all).filter_map(|(part, tensors)| Some((part, tensors?)))
    }
}

impl Checkpoint {
    /// Writes the checkpoint to a file, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written, or a name, a tensor or a metadata key is one the format has no place for.
    pub fn write(&self, path: &Path) -> Result<()> {
        let metadata = self.all_metadata().map_err(|error| error.at(path.display()))?;
        let mut tensors = Vec::new();
        for (learner, state) in &self.learners {
            for (part, own) in state.parts() {
                tensors.extend(own.iter().map(|(name, data)| (format!("{learner}.{}.{name}", part.name()), data)));
            }
        }
        files::write(path, &tensors, &metadata)
    }

    fn all_metadata(&self) -> Result<BTreeMap<String, String>> {
        for key in self.metadata.keys() {
            ensure!(!key.starts_with(OWN), "the metadata key {key} cannot be saved: {OWN} is for the checkpoint's own");
        }
        let mut metadata = self.metadata.clone();
        metadata.insert(format!("{OWN}format"), format!("{FORMAT}{VERSION}"));
        metadata.insert(format!("{OWN}step"), self.step.to_string());
        for (learner, state) in &self.learners {
            ensure!(
                is_name(learner),
                "the learner {learner:?} cannot be saved: give a name of lower-case letters, digits and underscores"
            );
            for (part, tensors) in state.parts() {
                metadata.insert(format!("{SHA256}{learner}.{}", part.name()), digest(tensors));
            }
        }
        metadata.insert(OF_METADATA.to_owned(), digest_of_strings(&metadata));
        Ok(metadata)
    }

    /// Fails if a number of it is not finite: such a state is good for nothing, and must not take the place of one that is.
    ///
    /// # Errors
    /// The first tensor with such a number.
    pub fn check_finite(&self) -> Result<()> {
        for (learner, state) in &self.learners {
            for (part, tensors) in state.parts() {
                let bad = tensors.iter().find(|(_, data)| match data.as_slice::<f32>() {
                    Ok(values) => values.iter().any(|value| !value.is_finite()),
                    Err(_) => data.iter::<f32>().any(|value| !value.is_finite()),
                });
                if let Some((name, _)) = bad {
                    let place = format!("{learner}.{}.{name}", part.name());
                    return Err(Error::of(Kind::NotFinite, format!("{place} has numbers that are not finite")));
                }
            }
        }
        Ok(())
    }

    /// Reads a checkpoint from a file.
    ///
    /// # Errors
    /// When the file cannot be read, is cut short or damaged, or is not a checkpoint of this format.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file = Parts::open(path)?;
        let mut learners = BTreeMap::<String, LearnerState>::new();
        for (learner, part) in file.parts() {
            let tensors = file.read(&learner, part).map_err(|error| error.at(path.display()))?;
            let state = learners.entry(learner).or_default();
            match part {
                Part::Raw => state.weights = tensors,
                Part::Average => state.average = Some(tensors),
                Part::Optimizer => state.optimizer = tensors,
            }
        }
        Ok(Self { learners, step: file.step, metadata: file.metadata })
    }

    /// Reads what there is to sample with from a file: the average of every learner that has one, or else its weights, or the
    /// weights of all. Nothing else of the file is read.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_weights(path: &Path, wanted: Weights) -> Result<SavedWeights> {
        Parts::open(path)?.weights(wanted).map_err(|error| error.at(path.display()))
    }

    /// As [`read_weights`](Self::read_weights), of a file that is in memory, such as one that is part of a program.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn weights_of_bytes(bytes: &'static [u8], wanted: Weights) -> Result<SavedWeights> {
        Parts::parse(Opened::of_bytes(bytes)?)?.weights(wanted)
    }
}

/// A file that is known to be a checkpoint, of which the tensors have not been read.
struct Parts {
    file: Opened,
    step: u64,
    /// The checksums, by learner and part.
    digests: Vec<(String, Part, String)>,
    metadata: BTreeMap<String, String>,
}

impl Parts {
    fn open(path: &Path) -> Result<Self> {
        let file = Opened::new(path)?;
        Self::parse(file).map_err(|error| error.at(path.display()))
    }

    fn parse(file: Opened) -> Result<Self> {
        let (mut own, metadata): (BTreeMap<_, _>, BTreeMap<_, _>) =
            file.metadata().into_iter().partition(|(key, _)| key.starts_with(OWN));
        let format = own.remove("stein.format");
        let version = format.as_deref().and_then(|format| format.strip_prefix(FORMAT)?.parse::<u32>().ok());
        if version != Some(VERSION) {
            return Err(fault(match (format, version) {
                (Some(format), Some(..VERSION)) => format!(
                    "it is a checkpoint of an older version ({format:?}), which this one does not read: make the run anew"
                ),
                (Some(format), _) => format!(
                    "the metadata key stein.format is {format:?}: it is not a checkpoint this version wrote (\"{FORMAT}{VERSION}\")"
                ),
                (None, _) => format!(
                    "the metadata key stein.format is missing: it is not a checkpoint this version wrote (\"{FORMAT}{VERSION}\")"
                ),
            }));
        }
        let said = own.remove(OF_METADATA);
        let step = own.remove("stein.step").and_then(|step| step.parse().ok());
        let step =
            step.ok_or_else(|| fault("the metadata key stein.step is missing or not a number: the file is damaged"))?;
        let mut digests = Vec::new();
        for (key, digest) in own {
            let place = key.strip_prefix(SHA256).and_then(place);
            let (learner, part) = place.ok_or_else(|| {
                fault(format!("the metadata key {key} is no checksum of a checkpoint: the file is damaged or foreign"))
            })?;
            digests.push((learner.to_owned(), part, digest));
        }
        let mut all = file.metadata();
        all.remove(OF_METADATA);
        for key in file.names() {
            let known = place_of(&key).is_some_and(|(learner, part, _)| {
                digests.iter().any(|(known, kind, _)| known == learner && *kind == part)
            });
            if !known {
                return Err(fault(format!(
                    "the key {key} is of no part with a checksum: the file is damaged or foreign"
                )));
            }
        }
        ensure!(
            Kind::File,
            said.as_deref() == Some(digest_of_strings(&all).as_str()),
            "the metadata do not have the checksum {OF_METADATA}: the file is damaged, use an earlier checkpoint"
        );
        Ok(Self { file, step, digests, metadata })
    }

    /// The parts of all learners.
    fn parts(&self) -> Vec<(String, Part)> {
        self.digests.iter().map(|(learner, part, _)| (learner.clone(), *part)).collect()
    }

    fn weights(mut self, wanted: Weights) -> Result<SavedWeights> {
        let parts = self.parts();
        let (mut learners, mut which) = (BTreeMap::new(), Weights::Raw);
        for (learner, _) in parts.iter().filter(|(_, part)| *part == Part::Raw) {
            let averaged = wanted == Weights::Ema && parts.contains(&(learner.clone(), Part::Average));
            let part = if averaged { Part::Average } else { Part::Raw };
            if averaged {
                which = Weights::Ema;
            }
            learners.insert(learner.clone(), self.read(learner, part)?);
        }
        Ok(SavedWeights { learners, which, step: self.step, metadata: self.metadata })
    }

    fn read(&mut self, learner: &str, part: Part) -> Result<Tensors> {
        let mut tensors = Tensors::new();
        for key in self.file.names() {
            if let Some((_, _, name)) = place_of(&key).filter(|(own, kind, _)| *own == learner && *kind == part) {
                tensors.insert(name.to_owned(), self.file.read(&key)?);
            }
        }
        let found = digest(&tensors);
        ensure!(
            Kind::File,
            self.digests.iter().any(|(own, kind, digest)| own == learner && *kind == part && *digest == found),
            "the tensors {learner}.{part}.* do not have the checksum {SHA256}{learner}.{part}: the file is damaged, use an \
             earlier checkpoint",
            part = part.name()
        );
        Ok(tensors)
    }
}

/// The learner and part of `LEARNER.PART`.
fn place(text: &str) -> Option<(&str, Part)> {
    let (learner, part) = text.split_once('.')?;
    Some((learner, Part::named(part)?)).filter(|(learner, _)| is_name(learner))
}

/// The learner, part and name of the key of a tensor.
fn place_of(key: &str) -> Option<(&str, Part, &str)> {
    let (learner, rest) = key.split_once('.')?;
    let (part, name) = rest.split_once('.')?;
    Some((learner, Part::named(part)?, name))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// The SHA-256 of names, shapes and values, in hexadecimal.
fn digest(tensors: &Tensors) -> String {
    let mut hasher = Sha256::new();
    for (name, data) in tensors {
        hasher.update(format!("{name} {:?} {:?}\n", data.dtype(), data.shape().as_slice()));
        hasher.update(data.as_bytes());
    }
    hexadecimal(hasher)
}

/// The SHA-256 of strings by key, in hexadecimal.
fn digest_of_strings(strings: &BTreeMap<String, String>) -> String {
    let mut hasher = Sha256::new();
    for (key, text) in strings {
        hasher.update(format!("{} {} {key} {text}\n", key.len(), text.len()));
    }
    hexadecimal(hasher)
}

fn hexadecimal(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

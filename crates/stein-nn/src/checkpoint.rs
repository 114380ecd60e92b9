//! A training state in one safetensors file (<https://huggingface.co/docs/safetensors>), readable by any tool.
//!
//! The weights of a learner have keys `LEARNER.raw.NAME`, their average `LEARNER.average.NAME`, its optimizer
//! `LEARNER.optimizer.m.NAME`, `LEARNER.optimizer.v.NAME` and `LEARNER.optimizer.step`. The file's metadata has the caller's
//! strings, and under `stein.` the format, the step, and the SHA-256 of the tensors of each part of each learner. A file is
//! written under another name, flushed to the disk and renamed, so that whatever interrupts it there is a whole checkpoint under
//! its name, the old one or the new. Equal states are equal files.

use std::{collections::BTreeMap, path::Path};

use sha2::{Digest, Sha256};
use stein::{Result, ensure};

use crate::{
    files::{self, Opened, fault},
    state::Tensors,
};

/// The value of `stein.format`; another one is another layout.
const FORMAT: &str = "stein checkpoint 2";
/// What the keys of our own in the metadata start with.
const OWN: &str = "stein.";
/// Before the learner and the part in the key of a checksum.
const SHA256: &str = "stein.sha256.";

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
        metadata.insert(format!("{OWN}format"), FORMAT.to_owned());
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
        Ok(metadata)
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

    /// Reads what there is to sample with from a file: the average of every learner, or its weights where it has no average, and
    /// the metadata. Nothing else of the file is read.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[allow(clippy::type_complexity, reason = "two maps with a name of their own are no clearer")]
    pub fn read_weights(path: &Path) -> Result<(BTreeMap<String, Tensors>, BTreeMap<String, String>)> {
        let mut file = Parts::open(path)?;
        let parts = file.parts();
        let mut weights = BTreeMap::new();
        for (learner, part) in &parts {
            let averaged = || parts.contains(&(learner.clone(), Part::Average));
            if *part == Part::Average || (*part == Part::Raw && !averaged()) {
                let tensors = file.read(learner, *part).map_err(|error| error.at(path.display()))?;
                weights.insert(learner.clone(), tensors);
            }
        }
        Ok((weights, file.metadata))
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
        if format.as_deref() != Some(FORMAT) {
            return Err(fault(match format {
                Some(format) if format == "stein checkpoint 1" => format!(
                    "it is a checkpoint of an older version ({format:?}), which this one does not read: make the run anew"
                ),
                Some(format) => format!(
                    "the metadata key stein.format is {format:?}: it is not a checkpoint this version wrote ({FORMAT:?})"
                ),
                None => format!(
                    "the metadata key stein.format is missing: it is not a checkpoint this version wrote ({FORMAT:?})"
                ),
            }));
        }
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
        Ok(Self { file, step, digests, metadata })
    }

    /// The parts of all learners.
    fn parts(&self) -> Vec<(String, Part)> {
        self.digests.iter().map(|(learner, part, _)| (learner.clone(), *part)).collect()
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
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

//! A run directory: config, metrics, checkpoints and samples of one training run, loadable at any moment.
//!
//! ```text
//! config.toml                 the experiment, every default filled in
//! metrics.jsonl               one JSON object per line
//! events.out.tfevents.*       the same for TensorBoard
//! checkpoints/00001000.safetensors
//! samples/00001000.png
//! ```
//! Every file is written beside its place and renamed into it, and a checkpoint of step 0 exists before training starts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use stein::{Error, Kind, Result, ensure};
use stein_base::files::write_atomically;

use crate::Experiment;

/// A run directory.
#[derive(Debug, Clone)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// A place for a new run, where nothing is written yet.
    ///
    /// # Errors
    /// When there is a run already.
    pub fn vacant(root: &Path) -> Result<Self> {
        let run = Self { root: root.to_owned() };
        ensure!(
            !run.config_path().exists(),
            "{} holds a run already: continue it with --resume, or give another --out",
            root.display()
        );
        Ok(run)
    }

    /// Makes the folders. It is a run once [`set_experiment`](Self::set_experiment) has written the config, which comes after
    /// the first checkpoint, so that every run can be loaded.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn make_folders(&self) -> Result<()> {
        for folder in [self.root.join("checkpoints"), self.root.join("samples")] {
            fs::create_dir_all(&folder)
                .map_err(|error| file_error(format!("cannot make the directory {}: {error}", folder.display())))?;
        }
        Ok(())
    }

    /// Opens an existing run directory.
    ///
    /// # Errors
    /// When it is not one.
    pub fn open(root: &Path) -> Result<Self> {
        let run = Self { root: root.to_owned() };
        ensure!(
            Kind::File,
            run.config_path().is_file(),
            "{} is no run directory: it has no config.toml; give the --out of a `stein train`",
            root.display()
        );
        Ok(run)
    }

    /// Opens a run directory, or the one in a directory of the demonstration.
    ///
    /// # Errors
    /// When there is none.
    pub fn within(root: &Path) -> Result<Self> {
        let inner = root.join("run");
        Self::open(if !Self::is_one(root) && Self::is_one(&inner) { &inner } else { root })
    }

    /// Whether this is a run directory.
    pub fn is_one(root: &Path) -> bool {
        root.join("config.toml").is_file()
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn config_path(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The experiment of the run.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn experiment(&self) -> Result<Experiment> {
        Experiment::read(&self.config_path(), &[]).map_err(|error| {
            let kind = error.kind();
            Error::of(kind, format!("{error}; where an older version made this run, start anew with another --out"))
        })
    }

    /// Writes the experiment; a resumed run with more steps replaces it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_experiment(&self, experiment: &Experiment) -> Result<()> {
        write_atomically(self.config_path(), |file| file.write_all(experiment.to_toml().as_bytes()))
    }

    /// Where the checkpoint of a step lies.
    pub fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.root.join("checkpoints").join(format!("{step:08}.safetensors"))
    }

    /// Where the picture of samples of a step lies.
    pub fn sample_path(&self, step: u64) -> PathBuf {
        self.root.join("samples").join(format!("{step:08}.png"))
    }

    /// Where the metrics lie.
    pub fn metrics_path(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// The steps that have checkpoints, growing.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<u64>> {
        let folder = self.root.join("checkpoints");
        let entries = fs::read_dir(&folder)
            .map_err(|error| file_error(format!("cannot read the directory {}: {error}", folder.display())))?;
        let mut steps: Vec<u64> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".safetensors")?.parse().ok())
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The newest checkpoint.
    ///
    /// # Errors
    /// When there is none.
    pub fn latest(&self) -> Result<PathBuf> {
        let Some(&step) = self.checkpoints()?.last() else {
            return Err(file_error(format!(
                "{} has no checkpoint: the run was stopped before its first; start it again with another --out",
                self.root.display()
            )));
        };
        Ok(self.checkpoint_path(step))
    }

    /// Deletes all but the newest checkpoints, and what a kill in the middle of writing one left behind.
    ///
    /// # Errors
    /// When one cannot be deleted.
    pub fn prune(&self, keep: usize) -> Result<()> {
        let steps = self.checkpoints()?;
        let old = steps.iter().rev().skip(keep).map(|&step| self.checkpoint_path(step));
        let entries = fs::read_dir(self.root.join("checkpoints")).into_iter().flatten().flatten();
        let halves = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "part"));
        for path in old.chain(halves) {
            fs::remove_file(&path)
                .map_err(|error| file_error(format!("cannot delete the old checkpoint {}: {error}", path.display())))?;
        }
        Ok(())
    }

    /// The metrics, one JSON object per line; a last line cut short by a kill is left out.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn metrics(&self) -> Result<Vec<Value>> {
        let path = self.metrics_path();
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path)
            .map_err(|error| file_error(format!("cannot read the metrics {}: {error}", path.display())))?;
        Ok(text.lines().map_while(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Keeps only the metrics up to a step: what a resumed run repeats is not written twice.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn cut_metrics(&self, step: u64) -> Result<()> {
        let kept: Vec<Value> = self.metrics()?.into_iter().filter(|line| line["step"].as_u64() <= Some(step)).collect();
        write_atomically(self.metrics_path(), |file| kept.iter().try_for_each(|line| writeln!(file, "{line}")))
    }
}

fn file_error(sentence: String) -> Error {
    Error::of(Kind::File, sentence)
}

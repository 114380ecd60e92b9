//! A run directory: config, metrics, checkpoints and samples of one training run, loadable at any moment.
//!
//! ```text
//! config.toml                 the experiment, every default filled in
//! metrics.jsonl               one JSON object per line
//! events.out.tfevents.*       the same for TensorBoard
//! checkpoints/00001000.safetensors
//! samples/00001000.png        and how they were drawn, 00001000.png.json
//! latents.npy                 the latents of the examples, of a model of latents
//! pairs.npy                   noise and samples that a model made for the run to learn from
//! after-00000800/             what was there when the run went on from step 800 again
//! .lock                       held by the process that trains
//! ```
//! Every file is written beside its place and renamed into it, and a checkpoint of step 0 exists before training starts. Only names
//! that are written here count: whatever else lies in the folders is left alone.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use serde_json::Value;
use stein::{Error, Kind, Result, ensure, names};
use stein_base::files::{remove_abandoned, write_atomically};

use crate::{Experiment, tensorboard};

/// A run directory.
#[derive(Debug, Clone)]
pub struct RunDir {
    root: PathBuf,
}

/// A run directory that belongs to this process, as long as this lives. It ends with the process, however that ends.
#[derive(Debug)]
pub struct Claim {
    _lock: File,
}

const CHECKPOINTS: &str = "checkpoints";
const SAMPLES: &str = "samples";

impl RunDir {
    /// A place for a new run, where nothing is written yet.
    ///
    /// # Errors
    /// When there is a run already, or what is left of one.
    pub fn vacant(root: &Path) -> Result<Self> {
        let run = Self { root: root.to_owned() };
        ensure!(
            !run.config_path().exists(),
            "{} holds a run already: continue it with --resume, or give another --out",
            root.display()
        );
        if let Some(path) = run.remains()? {
            return Err(Error::new(format!(
                "{} has no config.toml, but {} of another run: move that away, or give another --out",
                root.display(),
                path.display()
            )));
        }
        Ok(run)
    }

    /// Something that training left here. A checkpoint of step 0 is what a start that was killed leaves, and holds nothing learned.
    fn remains(&self) -> Result<Option<PathBuf>> {
        let events = entries(&self.root)?.into_iter().find(|path| tensorboard::is_event_file(path));
        let metrics = Some(self.metrics_path()).filter(|path| path.exists());
        let checkpoint = self.checkpoints()?.pop().filter(|&step| step > 0).map(|step| self.checkpoint_path(step));
        let sample = self.samples()?.pop().map(|(_, path)| path);
        let made = [self.pairs_path(), self.latents_path()].into_iter().find(|path| path.exists());
        Ok(checkpoint.or(metrics).or(events).or(sample).or(made))
    }

    /// Makes the folders and claims them for a new run. It is a run once [`set_experiment`](Self::set_experiment) has written the
    /// config, which comes after the first checkpoint, so that every run can be loaded.
    ///
    /// # Errors
    /// When they cannot be made, or another process was faster.
    pub fn begin(&self) -> Result<Claim> {
        for folder in [self.root.join(CHECKPOINTS), self.root.join(SAMPLES)] {
            fs::create_dir_all(&folder)
                .map_err(|error| file_error(format!("cannot make the directory {}: {error}", folder.display())))?;
        }
        let claim = self.claim()?;
        Self::vacant(&self.root)?;
        Ok(claim)
    }

    /// Claims the directory for this process, and removes what killed writes left in it.
    ///
    /// # Errors
    /// When another process has it, or the file system has no locks.
    pub fn claim(&self) -> Result<Claim> {
        let path = self.root.join(".lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| file_error(format!("cannot write {}: {error}", path.display())))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(file_error(format!(
                    "{} is being trained by another process: wait until that ends, stop it, or give another --out",
                    self.root.display()
                )));
            }
            Err(TryLockError::Error(error)) => {
                return Err(file_error(format!(
                    "cannot lock {}: {error}; give an --out on a file system with locks",
                    path.display()
                )));
            }
        }
        for folder in [self.root.clone(), self.root.join(CHECKPOINTS), self.root.join(SAMPLES)] {
            remove_abandoned(folder);
        }
        Ok(Claim { _lock: lock })
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
        self.experiment_with(&[])
    }

    /// The experiment of the run with `path=value` settings applied.
    ///
    /// # Errors
    /// When the file cannot be read, and those of the settings.
    pub fn experiment_with(&self, settings: &[String]) -> Result<Experiment> {
        let before = Experiment::read(&self.config_path(), &[]).map_err(|error| {
            let kind = error.kind();
            Error::of(kind, format!("{error}; where an older version made this run, start anew with another --out"))
        })?;
        if settings.is_empty() { Ok(before) } else { Experiment::parse(&before.to_toml(), settings) }
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
        self.root.join(CHECKPOINTS).join(format!("{step:08}.safetensors"))
    }

    /// Where the picture of samples of a step lies.
    pub fn sample_path(&self, step: u64) -> PathBuf {
        self.root.join(SAMPLES).join(format!("{step:08}.png"))
    }

    /// Where the metrics lie.
    pub fn metrics_path(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// The checkpoint whose samples were the best, where they are measured while it trains.
    pub fn best_path(&self) -> PathBuf {
        self.root.join("best.safetensors")
    }

    /// The latents of the examples.
    pub(crate) fn latents_path(&self) -> PathBuf {
        self.root.join("latents.npy")
    }

    /// The pairs that a model made for the run to learn from.
    pub(crate) fn pairs_path(&self) -> PathBuf {
        self.root.join("pairs.npy")
    }

    /// The grids that were fitted to the model of the run.
    pub(crate) fn grids_path(&self) -> PathBuf {
        self.root.join("grids.toml")
    }

    /// The run that a file of a model lies in, one of its checkpoints or the best.
    pub(crate) fn of_model(file: &Path) -> Option<Self> {
        let folder = file.parent()?;
        let root = if folder.ends_with(CHECKPOINTS) { folder.parent()? } else { folder };
        let run = Self { root: root.to_owned() };
        (Self::is_one(root) && (folder.ends_with(CHECKPOINTS) || file == run.best_path())).then_some(run)
    }

    /// The steps that have checkpoints, growing.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<u64>> {
        let files = self.of_steps(CHECKPOINTS, |ending| ending == "safetensors")?;
        Ok(files.into_iter().map(|(step, _)| step).collect())
    }

    /// The files of samples by their steps, growing.
    fn samples(&self) -> Result<Vec<(u64, PathBuf)>> {
        self.of_steps(SAMPLES, |_| true)
    }

    /// The files of a folder that are called after a step, as this program does: eight digits, or more without zeros in front.
    fn of_steps(&self, folder: &str, ending: impl Fn(&str) -> bool) -> Result<Vec<(u64, PathBuf)>> {
        let step = |path: PathBuf| {
            let (digits, end) = path.file_name()?.to_str()?.split_once('.')?;
            let step = digits.parse::<u64>().ok()?;
            (format!("{step:08}") == digits && ending(end) && path.is_file()).then_some((step, path))
        };
        let mut files: Vec<_> = entries(&self.root.join(folder))?.into_iter().filter_map(step).collect();
        files.sort();
        Ok(files)
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

    /// The files that make the run what the checkpoint is of, where it lies in a run directory: no command that reads one of them
    /// may replace another.
    pub(crate) fn files_with(checkpoint: &Path) -> Vec<PathBuf> {
        let Some(run) = Self::of_model(checkpoint) else { return Vec::new() };
        let steps = run.checkpoints().unwrap_or_default().into_iter().map(|step| run.checkpoint_path(step));
        [run.config_path(), run.metrics_path(), run.grids_path(), run.pairs_path(), run.latents_path()]
            .into_iter()
            .chain(steps)
            .collect()
    }

    /// Deletes all but the newest checkpoints.
    ///
    /// # Errors
    /// When one cannot be deleted.
    pub fn prune(&self, keep: usize) -> Result<()> {
        for &step in self.checkpoints()?.iter().rev().skip(keep) {
            let path = self.checkpoint_path(step);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error(format!("cannot delete the old checkpoint {}: {error}", path.display())));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The metrics, one JSON object per line; damaged lines are left out.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn metrics(&self) -> Result<Vec<Value>> {
        Ok(self.metric_lines()?.0)
    }

    /// The whole lines of the metrics, and what is to be said of the others.
    fn metric_lines(&self) -> Result<(Vec<Value>, Vec<String>)> {
        let path = self.metrics_path();
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
            read => read.map_err(|error| file_error(format!("cannot read the metrics {}: {error}", path.display())))?,
        };
        let (mut whole, mut damaged) = (Vec::new(), Vec::new());
        for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
            match serde_json::from_slice::<Value>(line) {
                Ok(value) if value.is_object() => whole.push(value),
                _ if line.trim_ascii().is_empty() => {}
                _ => {
                    let start = names::short(&String::from_utf8_lossy(line));
                    damaged.push(format!("line {number} of {} is damaged and was left out: {start}", path.display()));
                }
            }
        }
        Ok((whole, damaged))
    }

    /// Keeps only the metrics and the points for TensorBoard up to a step: what a resumed run repeats is not written twice. Returns
    /// sentences on lines that are damaged, which go too.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn cut_metrics(&self, step: u64) -> Result<Vec<String>> {
        // The picture is written last: without it the sheet is made again.
        tensorboard::cut(&self.root, step, self.sample_path(step).exists())?;
        let (whole, damaged) = self.metric_lines()?;
        if !whole.is_empty() || !damaged.is_empty() {
            let kept = whole.iter().filter(|line| line["step"].as_u64() <= Some(step));
            write_atomically(self.metrics_path(), |file| {
                kept.into_iter().try_for_each(|line| writeln!(file, "{line}"))
            })?;
        }
        Ok(damaged)
    }

    /// Moves what came after a step into a folder of its own, so that the run can go on from there again. Returns the folder, if
    /// there was anything to move. Interrupted, it leaves a run that can be loaded.
    ///
    /// # Errors
    /// When something cannot be moved.
    pub fn set_aside_after(&self, step: u64) -> Result<Option<PathBuf>> {
        let later = |files: Vec<(u64, PathBuf)>| files.into_iter().filter(|(own, _)| *own > step).map(|(_, path)| path);
        let lines: Vec<Value> = self.metrics()?.into_iter().filter(|line| line["step"].as_u64() > Some(step)).collect();
        let samples = later(self.samples()?);
        // The newest first, so that what is left is always a run that was.
        let checkpoints = later(self.of_steps(CHECKPOINTS, |ending| ending == "safetensors")?).rev();
        // Which may have come after it; the next measurement leaves another.
        let best = Some(self.best_path()).filter(|path| path.exists());
        let files: Vec<PathBuf> = samples.chain(best).chain(checkpoints).collect();
        if files.is_empty() && lines.is_empty() {
            return Ok(None);
        }
        let name = |n: u32| format!("after-{step:08}{}", if n > 1 { format!("-{n}") } else { String::new() });
        let aside = (1..).map(|n| self.root.join(name(n))).find(|path| !path.exists());
        let aside = aside.expect("numbers do not end before the names that are taken");
        for folder in [aside.join(CHECKPOINTS), aside.join(SAMPLES)] {
            fs::create_dir_all(&folder)
                .map_err(|error| file_error(format!("cannot make the directory {}: {error}", folder.display())))?;
        }
        write_atomically(aside.join("metrics.jsonl"), |file| {
            lines.iter().try_for_each(|line| writeln!(file, "{line}"))
        })?;
        for path in files {
            let place = aside.join(path.strip_prefix(&self.root).expect("the files are in the run"));
            fs::rename(&path, &place).map_err(|error| {
                file_error(format!("cannot move {} to {}: {error}", path.display(), place.display()))
            })?;
        }
        Ok(Some(aside))
    }
}

/// What lies in a folder; nothing where there is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    };
    read().map_err(|error: io::Error| file_error(format!("cannot read the directory {}: {error}", folder.display())))
}

fn file_error(sentence: String) -> Error {
    Error::of(Kind::File, sentence)
}

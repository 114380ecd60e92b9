//! The command line: every flag is defined and documented here, once.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Score-based generative modeling: train, sample and look at models of images, points, tables and series
#[derive(Debug, Parser)]
#[command(name = "stein", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,

    #[command(flatten)]
    pub machine: Machine,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed, with the reason on stderr; 2 the command line was not understood;
130 stopped by Ctrl-C, with everything saved unless it was pressed twice.";

#[derive(Debug, ClapArgs)]
pub struct Machine {
    /// Device to compute on; `stein list devices` names those of this build. Exact models use the CPU
    #[arg(long, global = true, default_value = "cpu", value_name = "NAME")]
    pub device: String,

    /// Threads to use; default one per core. Results do not depend on it
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,

    /// Format of the factors of products on the CPU; where the processor has no bf16, it is f32
    #[arg(long, global = true, default_value = "f32", value_name = "FORMAT")]
    pub precision: Precision,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train on the built-in digits, sample, and leave pictures and a report
    Demo {
        /// Directory for the pictures, the report and the run
        #[arg(long, default_value = "demo", value_name = "DIR")]
        out: PathBuf,
        /// Change the experiment, for example train.steps=500; may be repeated
        #[arg(long = "set", value_name = "PATH=VALUE")]
        settings: Vec<String>,
        /// Replace files that this command did not write; what it reads is never replaced
        #[arg(long)]
        force: bool,
    },
    /// Train the model of an experiment file
    Train(Train),
    /// Draw samples from a model into a file
    Sample(Sample),
    /// Say how likely data are under a model: log-densities, bits per dimension
    Likelihood(Likelihood),
    /// Say how good samples are: metrics of a model, a file or a folder against data
    Evaluate(Evaluate),
    /// Try samplers and numbers of steps: quality against evaluations, and which to take
    Sweep(Sweep),
    /// Turn data into their codes: where the probability-flow ODE takes them at the noisiest level
    Encode(Encode),
    /// Turn codes back into data
    Decode(Decode),
    /// Draw what lies between samples of data
    Interpolate(Interpolate),
    /// Compare the codes that two models give the same data
    Compare(Compare),
    /// Change pictures of your own with a model: as far as you say, and where
    Edit(Edit),
    /// Solve an inverse problem: samples of what a measurement leaves open
    Restore(Restore),
    /// Look at data sets or download them
    Data {
        #[command(subcommand)]
        command: DataCommand,
    },
    /// Make a model of published weights, or compare them with stored outputs of their implementation
    Import(Import),
    /// Write an imported model's weights as the library they came from has them, or a trained unet2d's as diffusers has them
    Export {
        /// A checkpoint written by `stein import`, or a run or checkpoint of a network `unet2d`
        #[arg(value_name = "MODEL")]
        model: PathBuf,
        /// A .safetensors file; for weights of diffusers also a folder, which that library opens
        #[arg(short, long, value_name = "PATH")]
        output: PathBuf,
        /// Replace files that this command did not write; what it reads is never replaced
        #[arg(long)]
        force: bool,
    },
    /// Write one page on a run or several: losses, settings that differ, speed, last pictures
    Report {
        /// Run directories
        #[arg(value_name = "RUN", required = true)]
        runs: Vec<PathBuf>,
        /// The page; an earlier report is replaced
        #[arg(short, long, default_value = "report.html", value_name = "FILE")]
        output: PathBuf,
    },
    /// Train experiments on the same data for the same time each, and compare them on one page: samples, distances, likelihoods, times
    Versus(Versus),
    /// Describe a run directory, a demo's directory, a checkpoint, an exact model or an experiment file
    Show(Show),
    /// List what an experiment can name, and explain it: samplers, schedules, networks, data and all else
    List {
        /// Nothing for an overview; a list such as `samplers` for a line on each; a name such as `heun`, alone or after its
        /// list, for all about it
        #[arg(value_name = "LIST|NAME", num_args = 0..=2)]
        words: Vec<String>,
    },
    /// Measure how fast this machine computes
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, ClapArgs)]
pub struct Versus {
    /// Experiment files, at least two, that learn from the same data
    #[arg(value_name = "FILE.toml", required = true, num_args = 2..)]
    pub files: Vec<PathBuf>,
    /// Minutes that each of them trains
    #[arg(long, value_name = "M", default_value_t = 5.0)]
    pub minutes: f64,
    /// The page; an earlier report is replaced
    #[arg(short, long, default_value = "versus.html", value_name = "FILE")]
    pub output: PathBuf,
    /// Folder of the runs, which go on where they stopped; default the page's name without its ending
    #[arg(long, value_name = "DIR")]
    pub runs: Option<PathBuf>,
    /// Samples of each model that are measured
    #[arg(short, long, value_name = "N", default_value_t = 1000)]
    pub n: usize,
    /// Samples of the held-out data whose likelihood is found
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub likelihoods: usize,
    /// What is compared of pictures: none, the numbers themselves; or what a classifier of the program sees: digits, fashion, cifar; default
    /// the one that knows the data
    #[arg(long, value_name = "NAME")]
    pub features: Option<String>,
    /// Directory with data sets; default the environment variable STEIN_DATA, or else `data`
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct Show {
    /// What to describe
    #[arg(value_name = "MODEL|FILE.toml")]
    pub what: OsString,
    /// Draw the score instead, of a model of one or two numbers: arrows over the density, learned beside exact where it is known
    #[arg(long, requires = "output", conflicts_with = "paths")]
    pub field: bool,
    /// Draw the paths of samples instead, beside straight lines between the same ends, and say how straight they are: of one or two
    /// numbers, or of images, a row for each
    #[arg(long, requires = "output")]
    pub paths: bool,
    /// Picture of the field or the paths: .png or .svg, the field at one level, or .gif on the way from noise to data
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Noise of the level, sigma/alpha; default a third of the data's standard deviation
    #[arg(long, value_name = "NOISE", requires = "field")]
    pub level: Option<f64>,
    /// Class, for a model that is told it: its name or number
    #[arg(long, value_name = "C", requires = "output", allow_hyphen_values = true)]
    pub class: Option<String>,
    /// Items that paths start from, for a model that maps one data set to another; default: items drawn from those it learned to start from
    #[arg(long, value_name = "NAME|PATH", requires = "paths")]
    pub source: Option<String>,
    /// Number of paths that are measured; default 500. A picture shows 150 of them, or 8 of images
    #[arg(short, long, value_name = "N", requires = "paths")]
    pub n: Option<usize>,
    /// Seed of the noise that paths begin with
    #[arg(short, long, default_value_t = 0, value_name = "S", requires = "paths")]
    pub seed: u64,
    /// Directory with data sets; default the environment variable STEIN_DATA, or else `data`
    #[arg(long, value_name = "DIR", requires = "output")]
    pub data_dir: Option<PathBuf>,
    /// Replace files that this command did not write; what it reads is never replaced
    #[arg(long, requires = "output")]
    pub force: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Train {
    /// Experiment, for example experiments/points2d/edm.toml; a run that goes on has its own
    #[arg(value_name = "FILE.toml", required_unless_present_any = ["resume", "resume_from"])]
    pub file: Option<PathBuf>,
    /// Change the experiment, for example train.steps=500; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub settings: Vec<String>,
    /// Run directory; default runs/ and the name of the experiment
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Continue the run in the directory, as if it had never stopped. Its experiment may change in train.steps,
    /// train.rate.decay.steps, train.log_every, train.checkpoint_every, train.keep, train.sample_every, train.evaluate and sample
    #[arg(long, conflicts_with_all = ["resume_from", "from"])]
    pub resume: bool,
    /// As --resume, from an earlier checkpoint; what came after it is set aside in the directory
    #[arg(long, value_name = "STEP", conflicts_with = "from")]
    pub resume_from: Option<u64>,
    /// Start from the weights of a model: a run directory, a checkpoint file, or what `stein import` wrote
    #[arg(long, value_name = "MODEL")]
    pub from: Option<String>,
    /// Directory with data sets; default the environment variable STEIN_DATA, or else `data`
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct Import {
    /// A file of weights (.safetensors, .pt, .pth, .ckpt, .bin), a folder with one and its config.json, such as a diffusers
    /// model or pipeline, or hf:owner/name[/folder][@revision] on the Hugging Face hub
    #[arg(value_name = "SOURCE")]
    pub source: PathBuf,
    /// Whose names and conventions: ncsn, ncsnv2, score_sde, edm, guided_diffusion, consistency_models, diffusers,
    /// latent_diffusion, glow_pytorch, pixel_cnn_pp; default what the names of the tensors tell
    #[arg(long, value_name = "KIND")]
    pub from: Option<String>,
    /// The implementation's config as JSON; default config.json beside the weights
    #[arg(long, value_name = "FILE.json")]
    pub config: Option<PathBuf>,
    /// Which weights, where there are several: ema or raw; default the average, where there is one
    #[arg(long, value_name = "WHICH")]
    pub weights: Option<String>,
    /// What a network of diffusers without scheduler_config.json was trained on: such a file, its JSON, or the name of a
    /// scheduler of the library, such as ScoreSdeVe
    #[arg(long, value_name = "FILE.json|NAME")]
    pub schedule: Option<String>,
    /// Checkpoint to write, for `stein sample`
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Folder with io.safetensors, and grad.safetensors where gradients are stored, to compare with; a difference beyond what
    /// rounding explains is a failure
    #[arg(long, value_name = "DIR")]
    pub check: Option<PathBuf>,
    /// Replace files that this command did not write; what it reads is never replaced
    #[arg(long)]
    pub force: bool,
}

/// How a model is sampled otherwise than its experiment says.
#[derive(Debug, Clone, ClapArgs)]
pub struct Sampling {
    /// Sampler; default the experiment's. `stein list samplers` names them
    #[arg(long, value_name = "NAME")]
    pub sampler: Option<String>,
    /// Grid intervals; default the experiment's
    #[arg(long, value_name = "K")]
    pub steps: Option<usize>,
    /// Spacing of the grid; default the experiment's. `stein list grids` names them
    #[arg(long, value_name = "NAME")]
    pub grid: Option<String>,
    /// Noise schedule to sample on; default the one trained on. `stein list schedules` names them
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<String>,
    /// Scale of classifier-free guidance, for a model trained with label dropout; 1 is none
    #[arg(long, value_name = "SCALE")]
    pub guidance: Option<f64>,
    /// Text that guidance leads away from, for a model that reads texts; default none
    #[arg(long, value_name = "TEXT")]
    pub negative: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Sample {
    /// A run directory, a demo's directory, a checkpoint file, or exact:FILE.json with a Gaussian mixture
    #[arg(value_name = "MODEL")]
    pub model: OsString,
    /// File to write, or - for the standard output; its ending says how: .png sheet or scatter plot, .svg chart, .gif or
    /// .webp trajectory, .npy, .csv. FILE.json says how the samples were drawn, FILE.labels.npy has the classes of those in a .npy
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Format, whatever the ending says: png, svg, gif, webp, npy, csv; default without an ending, as for -, csv of rows and npy of
    /// all else
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Replace files that this command did not write; what it reads is never replaced
    #[arg(long)]
    pub force: bool,
    /// Number of samples; default 2000 rows, 10 pictures of each class if there are 2 to 20, and 64 of all else
    #[arg(short, long, value_name = "N")]
    pub n: Option<usize>,
    /// Seed; sample i depends on it, on i and on its class alone
    #[arg(short, long, default_value_t = 0, value_name = "S")]
    pub seed: u64,
    #[command(flatten)]
    pub sampling: Sampling,
    /// Items to start from, for a model that maps one data set to another: a data set, a file or folder, or an experiment; sample i is
    /// where item i goes. Default: items drawn from those it learned to start from
    #[arg(long, value_name = "NAME|PATH")]
    pub source: Option<String>,
    /// Class to draw: its name, in any case, or its number where that is no name; several with commas between them; or `all`, or
    /// `none`; default all for a conditional model. Pictures come in equal blocks, rows at random as often as in the data
    #[arg(long, value_name = "C", allow_hyphen_values = true, conflicts_with = "prompts")]
    pub class: Option<String>,
    /// Text of what to draw, for a model that reads texts; may be repeated, and each has as many of the samples. Default 4 of each
    #[arg(long = "prompt", value_name = "TEXT", conflicts_with_all = ["class", "prompts"])]
    pub prompt: Vec<String>,
    /// A file with a text in every line: the output is then a folder, with 0001.png for the samples of the first and so on
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// States to start from instead of noise: FILE.npy [n, ...state], as noisy as the first level of the grid
    #[arg(long, value_name = "FILE.npy")]
    pub start: Option<PathBuf>,
    /// Weights to sample with: those of the last step, or their average; default the average where there is one
    #[arg(long, value_name = "WHICH")]
    pub weights: Option<Which>,
    /// Change the sampling, for example sample.sampler.eta=0.5; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub settings: Vec<String>,
    /// Directory with the data sets that samples start from; default the environment variable STEIN_DATA, or else `data`
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct Edit {
    /// A run directory, a demo's directory, a checkpoint file, or exact:FILE.json with a Gaussian mixture
    #[arg(value_name = "MODEL")]
    pub model: OsString,
    /// What is changed: a picture, a folder of them, FILE.npy, FILE.csv, a data set
    #[arg(short, long, value_name = "FILE|FOLDER|NAME")]
    pub input: String,
    /// File to write: .png, one result as it is, several in a sheet with each input first in its row; or .npy [inputs, n, ...]
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// A gray picture of where it may change: white freely, black not at all; default everywhere
    #[arg(long, value_name = "FILE.png")]
    pub mask: Option<PathBuf>,
    /// How much may change: the part of the sampler's grid that is taken; above 0, and at most 1, which starts from noise alone
    #[arg(long, default_value_t = 0.6, value_name = "S")]
    pub strength: f64,
    /// Results for each input
    #[arg(short, long, default_value_t = 1, value_name = "K")]
    pub n: usize,
    /// Inputs that are taken of many, the first ones; default all
    #[arg(long, value_name = "N")]
    pub inputs: Option<usize>,
    /// Class to become, for a model that is told one; default that of their labels
    #[arg(long, value_name = "C", allow_hyphen_values = true)]
    pub class: Option<String>,
    /// Text of what to become, for a model that reads texts
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Seed of the noise
    #[arg(short, long, default_value_t = 0, value_name = "S")]
    pub seed: u64,
    #[command(flatten)]
    pub sampling: Sampling,
    /// Weights to sample with: those of the last step, or their average; default the average where there is one
    #[arg(long, value_name = "WHICH")]
    pub weights: Option<Which>,
    /// Change the sampling (sample.sampler.eta=1) or how the input is read (source.height=32); may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub settings: Vec<String>,
    /// Directory with data sets; default the environment variable STEIN_DATA, or else `data`
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Replace files that this command did not write; what it reads is never replaced
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Restore {
    /// A run directory, a demo's directory, a checkpoint file, or exact:FILE.json with a Gaussian mixture
    #[arg(value_name = "MODEL")]
    pub model: OsString,
    /// What was measured, with its noise, and the method: [measurement] and [method]. `stein list measurements` and `stein list
    /// methods` name them
    #[arg(long, value_name = "TASK.toml")]
    pub task: PathBuf,
    /// What was measured: a .npy file, or a damaged picture or folder of them where those hold it; or, with --simulate, what is to be
    /// measured: a picture, a folder, FILE.npy, FILE.csv, a data set
    #[arg(short, long, value_name = "FILE|FOLDER|NAME")]
    pub input: String,
    /// File to write: .npy [inputs, n, ...], .csv, or .png with what was measured, samples, their mean and deviation, and the truth; or
    /// a folder for all of it. FILE.json says how they were drawn, and how good they are
    #[arg(short, long, value_name = "FILE|DIR")]
    pub output: PathBuf,
    /// Samples for each input
    #[arg(short, long, default_value_t = 8, value_name = "K")]
    pub n: usize,
    /// Take the input for clean, and make the measurement of it, with noise
    #[arg(long, conflicts_with = "truth")]
    pub simulate: bool,
    /// Clean samples, one for each input, to compare with
    #[arg(long, value_name = "FILE|FOLDER")]
    pub truth: Option<String>,
    /// Inputs that are taken of many, the first ones; default all
    #[arg(long, value_name = "N")]
    pub inputs: Option<usize>,
    /// Method instead of the task's, with its default settings
    #[arg(long, value_name = "NAME")]
    pub method: Option<String>,
    /// Seed of the samples, and of the noise of a simulated measurement
    #[arg(short, long, default_value_t = 0, value_name = "S")]
    pub seed: u64,
    /// Grid intervals; default the task's, or else the model's
    #[arg(long, value_name = "K")]
    pub steps: Option<usize>,
    /// Spacing of the grid; default the task's, or else the model's. `stein list grids` names them
    #[arg(long, value_name = "NAME")]
    pub grid: Option<String>,
    /// Class of all, for a model that is told one; default that of their labels
    #[arg(long, value_name = "C", allow_hyphen_values = true)]
    pub class: Option<String>,
    /// Part of a data set: train or test; default test, and all of a file or folder that is named
    #[arg(long, value_name = "PART")]
    pub split: Option<Part>,
    /// Weights to sample with: those of the last step, or their average; default the average where there is one
    #[arg(long, value_name = "WHICH")]
    pub weights: Option<Which>,
    /// Change the task (measurement.noise=0.1, method.scale=0.5), the sampling (sample.batch=16) or how the input is read
    /// (source.height=32); may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub settings: Vec<String>,
    /// Settings of metrics: lpips.weights=FILE and lpips.heads=FILE have LPIPS measured; may be repeated
    #[arg(long = "metric-set", value_name = "METRIC.KEY=VALUE")]
    pub metric_settings: Vec<String>,
    /// Print the scores as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Directory with data sets; default the environment variable STEIN_DATA, or else `data`
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Replace files that this command did not write; what it reads is never replaced
    #[arg(long)]
    pub force: bool,
}

/// Data for a model.
#[derive(Debug, ClapArgs)]
pub struct ModelData {
    /// A data set such as mnist, a file or folder (FILE.csv, FILE.npy, FOLDER), or an experiment; default what the model learned
    /// from
    #[arg(long = "data", value_name = "NAME|PATH")]
    pub name: Option<String>,
    /// Change how the data are read, for example source.label=kind; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub settings: Vec<String>,
    /// Part of the data: train or test; default test, and all of a file or folder that is named
    #[arg(long, value_name = "PART")]
    pub split: Option<Part>,
    /// Number of samples, the first ones; default all
    #[arg(short, long, value_name = "N")]
    pub n: Option<usize>,
    /// Class of all, for a model that is told one; default that of their labels
    #[arg(long, value_name = "C", allow_hyphen_values = true)]
    pub class: Option<String>,
    /// Directory with data sets; default the environment variable STEIN_DATA, or else `data`
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct Likelihood {
    /// A run directory, a demo's directory, a checkpoint file, or exact:FILE.json with a Gaussian mixture
    #[arg(value_name = "MODEL")]
    pub model: OsString,
    #[command(flatten)]
    pub data: ModelData,
    /// Which number: ode, the density of the probability-flow ODE; scoreflow, the bound that likelihood weighting trains; or vlb,
    /// the variational bound of DDPM, for pictures and discrete schedules
    #[arg(long, default_value = "ode", value_name = "NAME")]
    pub bound: String,
    /// Noise schedule to go along; default the one trained on. `stein list schedules` names them
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<String>,
    /// Divergence of the velocity: exact, a Jacobian-vector product for every number, or hutchinson, along random directions;
    /// default exact up to 32 numbers
    #[arg(long, value_name = "NAME")]
    pub divergence: Option<String>,
    /// Directions of Hutchinson's estimate for each sample; with two or more their standard error is known; default 1
    #[arg(long, value_name = "K")]
    pub probes: Option<usize>,
    /// Law of the directions: rademacher, gaussian or sphere
    #[arg(long, default_value = "rademacher", value_name = "NAME")]
    pub projection: String,
    /// Directions to take instead of drawing them: an array [n, state] or [probes, n, state]
    #[arg(long, value_name = "FILE.npy")]
    pub probe: Option<PathBuf>,
    /// Relative and absolute tolerance of the ODE
    #[arg(long, default_value_t = 1e-5, value_name = "T")]
    pub tolerance: f64,
    /// Draws to average: of the spread of gray levels, and of the noise of the bound
    #[arg(long, default_value_t = 1, value_name = "K")]
    pub draws: usize,
    /// Seed of what is drawn
    #[arg(short, long, default_value_t = 0, value_name = "S")]
    pub seed: u64,
    /// Levels of the variational bound, evenly spaced among those trained on; default all
    #[arg(long, value_name = "K")]
    pub steps: Option<usize>,
    /// Variance of the steps of the variational bound: learned, posterior or forward; default learned where the network has
    /// it, or else posterior
    #[arg(long, value_name = "NAME")]
    pub variance: Option<String>,
    /// Follow the convention of published numbers: of Score-SDE no correction for the noise of the cleanest level, of improved
    /// DDPM its approximation of the normal distribution
    #[arg(long)]
    pub published: bool,
    /// Compare with the known density of the data, where there is one
    #[arg(long)]
    pub closed_form: bool,
    /// Write the value of each sample, float64, in the unit that is printed
    #[arg(short, long, value_name = "FILE.npy")]
    pub output: Option<PathBuf>,
    /// Write the samples in the order of their densities, the least likely first
    #[arg(long, value_name = "FILE.csv")]
    pub rank: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Weights to use: those of the last step, or their average; default the average where there is one
    #[arg(long, value_name = "WHICH")]
    pub weights: Option<Which>,
    /// Replace files that this command did not write; what it reads is never replaced
    #[arg(long)]
    pub force: bool,
}

/// What is measured, and against what.
#[derive(Debug, ClapArgs)]
pub struct Measures {
    /// Data to compare with: a data set such as mnist, a file or folder (FILE.npy, FILE.csv, FOLDER), or an experiment; default what
    /// the model was trained on, and of exact models draws of theirs
    #[arg(long, value_name = "NAME|PATH")]
    pub against: Option<String>,
    /// Metrics, with commas between them; default what suits the data. In a sweep the first one decides: by default frechet for
    /// pictures, wasserstein for exact models and sliced_wasserstein for all else. `stein list metrics` names them
    #[arg(long, value_name = "A,B,...", value_delimiter = ',')]
    pub metrics: Vec<String>,
    /// Change a metric, for example precision.k=3; may be repeated
    #[arg(long = "metric-set", value_name = "METRIC.KEY=VALUE")]
    pub metric_settings: Vec<String>,
    /// What is compared: none, the numbers themselves; or what a network sees in pictures: digits, fashion or cifar, classifiers that
    /// are part of the program; inception, as pytorch-fid resizes, or inception_tensorflow, as torch-fidelity does; dino,
    /// DINOv2, or clip, whose features have length 1
    #[arg(long, default_value = "none", value_name = "NAME")]
    pub features: String,
    /// The weights of inception, dino or clip: pt_inception-2015-12-05-6726825d.pth, dinov2_vits14_pretrain.pth, or the model.safetensors of
    /// openai/clip-vit-base-patch32
    #[arg(long, value_name = "FILE")]
    pub feature_weights: Option<PathBuf>,
    /// Number of samples; default 1000 of a model, and all of a file
    #[arg(short, long, value_name = "N")]
    pub n: Option<usize>,
    /// Most rows of the data for metrics that compare all pairs, evenly spread; default 10000
    #[arg(long, value_name = "N")]
    pub reference_n: Option<usize>,
    /// Seed of the samples
    #[arg(short, long, default_value_t = 0, value_name = "S")]
    pub seed: u64,
    /// Directory with data sets; default the environment variable STEIN_DATA, or else `data`
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct Evaluate {
    /// A run directory, a demo's directory, a checkpoint file or exact:FILE.json, which is sampled; or a file or folder of samples, or
    /// a data set such as mnist
    #[arg(value_name = "MODEL|FILE|FOLDER")]
    pub of: OsString,
    #[command(flatten)]
    pub measures: Measures,
    #[command(flatten)]
    pub sampling: Sampling,
    /// Part of those data: train or test; default train, and all of a file or folder that is named
    #[arg(long, value_name = "PART")]
    pub split: Option<Part>,
    /// Data that were not trained on; default the test part of the same data
    #[arg(long, value_name = "NAME|PATH")]
    pub held_out: Option<String>,
    /// Mean and covariance of the data for the Fréchet distance: read from the file if it is there, as pytorch-fid's, or else
    /// written to it
    #[arg(long, value_name = "FILE.npz")]
    pub reference: Option<PathBuf>,
    /// Print one JSON object, of each metric its value and error
    #[arg(long)]
    pub json: bool,
    /// Measure each class too: a table of its counts, distance, precision, recall, coverage and agreement, under `by_class` in the JSON
    #[arg(long)]
    pub by_class: bool,
    /// Leave a page in a directory: the numbers, those of each class, samples beside data, and the data nearest to samples
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Change the sampling, for example sample.sampler.eta=0.5, or how the data are read, for example source.label=kind; may be
    /// repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub settings: Vec<String>,
    /// Weights to sample with: those of the last step, or their average; default the average where there is one
    #[arg(long, value_name = "WHICH")]
    pub weights: Option<Which>,
    /// Replace files that this command did not write; what it reads is never replaced
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Sweep {
    /// A run directory, a demo's directory, a checkpoint file, or exact:FILE.json with a Gaussian mixture
    #[arg(value_name = "MODEL")]
    pub model: OsString,
    #[command(flatten)]
    pub measures: Measures,
    /// Samplers, with commas between them and settings in braces, such as ddim,heun,dpm_solver_pp{order=3}. `stein list samplers` names
    /// them
    #[arg(long, value_name = "A,B,...")]
    pub samplers: String,
    /// Grid intervals to try, with commas between them
    #[arg(long, value_name = "K,L,...", value_delimiter = ',', default_value = "5,10,20,50")]
    pub steps: Vec<usize>,
    /// Spacings of the grid to try, with commas between them, or optimized, which is fitted to the model; default the experiment's.
    /// `stein list grids` names them
    #[arg(long, value_name = "A,B,...", value_delimiter = ',')]
    pub grids: Vec<String>,
    /// File to write: .png or .svg plot, .csv table, .html page with both
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Noise schedule to sample on; default the one trained on. `stein list schedules` names them
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<String>,
    /// Scale of classifier-free guidance, for a model trained with label dropout; 1 is none
    #[arg(long, value_name = "SCALE")]
    pub guidance: Option<f64>,
    /// Change the sampling of all, for example sample.batch=500; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub settings: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Weights to sample with: those of the last step, or their average; default the average where there is one
    #[arg(long, value_name = "WHICH")]
    pub weights: Option<Which>,
    /// Replace files that this command did not write; what it reads is never replaced
    #[arg(long)]
    pub force: bool,
}

/// How codes are found and read.
#[derive(Debug, ClapArgs)]
pub struct Paths {
    /// Noise schedule to go along; default the one trained on. `stein list schedules` names them
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<String>,
    /// Relative and absolute tolerance of the ODE
    #[arg(long, default_value_t = 1e-5, value_name = "T")]
    pub tolerance: f64,
    /// Replace files that this command did not write; what it reads is never replaced
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Encode {
    /// A run directory, a demo's directory, a checkpoint file, or exact:FILE.json with a Gaussian mixture
    #[arg(value_name = "MODEL")]
    pub model: OsString,
    #[command(flatten)]
    pub data: ModelData,
    #[command(flatten)]
    pub paths: Paths,
    /// Array to write, float64 [n, state]; FILE.labels.npy has the classes
    #[arg(short, long, value_name = "FILE.npy")]
    pub output: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub struct Decode {
    /// A run directory, a demo's directory, a checkpoint file, or exact:FILE.json with a Gaussian mixture
    #[arg(value_name = "MODEL")]
    pub model: OsString,
    /// Codes, [n, state]
    #[arg(value_name = "CODES.npy")]
    pub codes: PathBuf,
    #[command(flatten)]
    pub paths: Paths,
    /// File to write, as of `stein sample`
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Class of all, by name or number; default those in CODES.npy.labels.npy
    #[arg(long, value_name = "C", allow_hyphen_values = true)]
    pub class: Option<String>,
    /// Multiplies the codes: below 1 samples are more like each other
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    pub temperature: f64,
}

#[derive(Debug, ClapArgs)]
pub struct Interpolate {
    /// A run directory, a demo's directory, a checkpoint file, or exact:FILE.json with a Gaussian mixture
    #[arg(value_name = "MODEL")]
    pub model: OsString,
    #[command(flatten)]
    pub data: ModelData,
    #[command(flatten)]
    pub paths: Paths,
    /// Samples of the data to go between, counted from 0, for example 0:1,5:9
    #[arg(long, value_name = "I:J,...")]
    pub pairs: String,
    /// Places from one to the other, both included
    #[arg(long, default_value_t = 8, value_name = "K")]
    pub steps: usize,
    /// Go along the straight line between codes instead of the arc
    #[arg(long)]
    pub linear: bool,
    /// Multiplies the codes
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    pub temperature: f64,
    /// Go between samples as `stein sample` draws them, by mixing their noise at every move of the model's sampler, as NCSNv2 does
    #[arg(long, conflicts_with_all = ["name", "linear", "temperature", "schedule"])]
    pub streams: bool,
    /// With --streams, the seed of the samples
    #[arg(short, long, default_value_t = 0, value_name = "S", requires = "streams")]
    pub seed: u64,
    /// File to write: .png with a row for each pair, .gif that goes there and back, .npy [pairs, steps, ...]
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub struct Compare {
    /// The first model
    #[arg(value_name = "MODEL_A")]
    pub a: OsString,
    /// The second model, of states of the same shape
    #[arg(value_name = "MODEL_B")]
    pub b: OsString,
    #[command(flatten)]
    pub data: ModelData,
    #[command(flatten)]
    pub paths: Paths,
    /// Picture to write: the numbers of one's codes over those of the other's
    #[arg(short, long, value_name = "FILE.png")]
    pub output: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    Train,
    Test,
}

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Print shape, count, sigma_data, the largest distance and the noise levels that follow from them
    Stats(DataSource),
    /// Draw some samples as a model is given them: turned, cut, resized and through data.codec and back
    Show {
        #[command(flatten)]
        source: DataSource,
        /// Picture to write, .png
        #[arg(short, long, value_name = "FILE.png")]
        output: PathBuf,
        /// Number of samples; default some of each class, 64 pictures, 24 series or 2000 rows
        #[arg(short, long, value_name = "N")]
        n: Option<usize>,
        /// Replace a file that this command did not write
        #[arg(long)]
        force: bool,
    },
    /// Download a published data set and verify its checksums
    Get {
        /// Name of the data set: mnist, fashion_mnist or cifar10
        name: String,
        /// Directory to put it in; default the environment variable STEIN_DATA, or else `data`
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
pub struct DataSource {
    /// A data set, for example digits or points2d/moons, a folder or file such as FOLDER or FILE.csv (where it may be several
    /// things, images/PATH, table/PATH or series/PATH), or an experiment, FILE.toml
    #[arg(value_name = "NAME|PATH")]
    pub name: String,
    /// Change how the data are read, for example source.height=64 or codec='[{kind="standardize"}]'; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub settings: Vec<String>,
    /// Look at what is held out instead of what is trained on
    #[arg(long)]
    pub held_out: bool,
    /// Directory with data sets; default the environment variable STEIN_DATA, or else `data`
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Time a network and print one JSON line
    Net {
        /// Network: small or cifar (U-Nets of 1.6 and 35.7 million parameters on 32 x 32 images), or mlp (on points)
        #[arg(long, default_value = "small", value_name = "NAME")]
        size: String,
        /// What to time: an evaluation, a whole training step, or a product of the Jacobian with a vector (jvp) or of a
        /// vector with the Jacobian (vjp), also as a number of evaluations
        #[arg(long, default_value = "evaluate", value_name = "WORK")]
        what: Work,
        /// Samples in a batch
        #[arg(long, default_value_t = 16, value_name = "B")]
        batch: usize,
        /// Calls to take the median of
        #[arg(long, default_value_t = 7, value_name = "K")]
        repeat: usize,
    },
    /// Time the kernels that networks are made of and print a JSON line for each
    Ops {
        /// Calls to take the median of
        #[arg(long, default_value_t = 15, value_name = "K")]
        repeat: usize,
    },
}

/// What to time of a network.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Work {
    Evaluate,
    Train,
    Jvp,
    Vjp,
}

/// Which weights of a model are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Which {
    Raw,
    Ema,
}

/// The format numbers are multiplied in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    F32,
    Bf16,
}

//! Experiments, run directories, the training loop, sampling to files and reports: everything the `stein` program does,
//! as a library that prints nothing.
//!
//! An [`Experiment`] is read from a file; [`train()`] turns it into a [`RunDir`]; [`Model::open`] makes a model of a run,
//! a checkpoint or an exact mixture; [`draw()`] samples it into memory and [`draw_to_file`] into a file. A [`Family`] says what is
//! learned; one of a program's own, like a network, sampler or schedule, is added by `register` and then read from experiment
//! files like those that are built in.

mod accuracy;
pub mod arrays;
mod begin;
pub mod bench;
mod code_flow;
mod codes;
mod coding;
mod demo;
mod description;
mod device;
mod draw;
mod edit;
mod evaluate;
mod experiment;
pub mod family;
mod field;
mod grids;
pub mod html;
mod hub;
mod import;
mod likelihood;
mod memory;
mod model;
mod observed;
mod output;
mod paths;
pub mod picture;
mod preview;
pub mod reference;
mod replacing;
mod report;
mod restore;
mod run_dir;
mod sampling;
mod sheet;
mod shown;
mod subject;
mod sweep;
pub mod tensorboard;
mod train;
mod versus;
mod watch;

pub use accuracy::accuracy;
pub use code_flow::CodeOptions;
pub use codes::{Codes, Comparison, Interpolation, Streams, compare, decode_to, encode, encode_to_file, interpolate};
pub use coding::{Coder, Coding};
pub use demo::{DemoOptions, DemoOutcome, Quality, demo};
pub use description::Description;
pub use device::{DEVICES, device, limit_threads, use_bf16};
pub use draw::{Classes, Drawing, Drawn, Plan, Sink, Summary, default_count, draw, draw_frames};
pub use edit::{EditOptions, Edited, edit, edit_to};
pub use evaluate::{ACCURACY, ByClass, EvaluateOptions, Evaluation, FEATURES, Of, OfClass, Shipped, evaluate};
pub use experiment::{EvaluateConfig, Experiment, TrainConfig};
pub use family::{
    AnyFamily, AutoencoderModel, Capability, ClassifierModel, ConsistencyModel, Diffusion, DistributionMatching,
    EnergyModel, Family, FlowMatching, Follows, Gan, Generator, Learned, Learner, NormalizingFlow, Origin, PixelCnn,
    Reflow, Teacher, VaeModel,
};
pub use field::{FieldOptions, FieldReport, draw_field};
pub use import::{ImportOptions, export, import};
pub use likelihood::{Bounded, LikelihoodOptions, LikelihoodReport, likelihood};
pub use model::Model;
pub use observed::{DataChoice, Observed};
pub use output::{Format, Output, check_output, draw_prompts, draw_to_file};
pub use paths::{PathsOptions, PathsReport, draw_paths};
pub use preview::{preview, preview_to_file};
pub use report::{report_runs, write_report};
pub use restore::{
    MeasurementConfig, Range, RestoreOptions, Restored, Scores, Task, TaskMethod, TaskSample, restore, restore_to,
};
pub use run_dir::{Claim, RunDir};
pub use sampling::{Changes, InterpolantSde, Method, SampleConfig};
pub use shown::Shown;
pub use stein::{Error, Result};
pub use stein_nn::Weights;
pub use subject::{DataConfig, Subject, Texts};
pub use sweep::{Sweep, SweepOptions, Tried, samplers_of, sweep};
pub use train::{Prepared, RESUMABLE, Start, TrainOptions, Trained, prepare, train};
pub use versus::{VersusOptions, versus};
pub use watch::{Event, Silent, Watch};

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Commit it was built from, or `unknown`.
pub const COMMIT: &str = env!("STEIN_COMMIT");

/// The guide's code, run as tests.
#[cfg(doctest)]
mod documentation {
    #[doc = include_str!("../../../docs/extending.md")]
    mod extending {}
}

//! Experiments, run directories, the training loop, sampling to files and reports: everything the `stein` program does,
//! as a library.
//!
//! An [`Experiment`] is read from a file; [`train()`] turns it into a [`RunDir`]; [`Model::open`] makes a denoiser of a run,
//! a checkpoint or an exact mixture; [`draw()`] samples it and [`write_samples`] puts the result into a file.

pub mod arrays;
pub mod bench;
mod codec;
mod config;
mod demo;
mod device;
mod draw;
pub mod html;
mod hub;
mod import;
mod model;
pub mod picture;
mod quality;
mod run_dir;
pub mod tensorboard;
mod train;

pub use codec::{Codec, Range, Subject};
pub use config::{
    DataConfig, Experiment, FlowMapConfig, Method, ModelConfig, Recipe, RecipeModel, SampleConfig, TrainConfig,
};
pub use demo::{DemoOptions, DemoOutcome, demo};
pub use device::{DEVICES, device, limit_threads, use_bf16};
pub use draw::{Classes, Drawn, check_output, draw, write_samples};
pub use import::{ImportOptions, export, import};
pub use model::{Learned, Model};
pub use quality::{Neighbours, Quality, within_class_spread};
pub use run_dir::RunDir;
pub use stein::{Error, Result};
pub use train::{TrainOptions, Trained, prepare, train};

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Commit it was built from, or `unknown`.
pub const COMMIT: &str = env!("STEIN_COMMIT");

/// Names of the networks.
pub const NETWORKS: &[&str] = stein_nn::NetworkConfig::NAMES;

/// The data crate's sentence as this workspace's error.
fn from_data(error: stein_data::Error) -> Error {
    Error::new(error.to_string())
}

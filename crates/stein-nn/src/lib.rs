//! Networks for score models, their optimizer, exponential moving average and checkpoints.
//!
//! A network is chosen by a [`NetworkConfig`], built into an [`AnyNetwork`], trained with [`AdamW`] at the rate of a
//! [`RateConfig`], averaged by [`Ema`] and kept in a [`Checkpoint`]. Weights are named by their dotted path in the
//! network ([`state`]), and those names are the keys of every file. One of one's own is made of [`layers`] and [`ops`],
//! and by a config of its own ([`BuildNetwork`]) it is one more name in files.

#![allow(clippy::large_enum_variant, reason = "variants are layers and networks, of which a program holds a handful")]

mod checkpoint;
mod ema;
mod embedding;
mod files;
pub mod flows;
pub mod import;
mod init;
pub mod layers;
mod lr;
mod networks;
pub mod ops;
mod optimizer;
pub mod state;
mod tapes;
mod tokenizer;
pub mod trace;

/// The engine networks are made with, so that one of one's own needs no second dependency.
pub use burn;
pub use checkpoint::{Checkpoint, LearnerState, SavedWeights, Weights};
pub use ema::{Ema, EmaConfig};
pub use embedding::EmbeddingConfig;
pub use files::{WRITTEN_BY, read_metadata, read_tensors, write_tensors};
pub use lr::{Decay, RateConfig};
pub use networks::*;
pub use optimizer::{Accumulated, AdamW, AdamWConfig, OptimizerKind};
pub use state::Tensors;
pub use tapes::side_by_side;
pub use tokenizer::Tokenizer;

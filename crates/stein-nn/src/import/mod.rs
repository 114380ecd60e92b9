//! Weights of other libraries: their names and layouts are translated here, one file a source, and nowhere else.
//!
//! An importer says for every parameter of ours which tensor of the file it is ([`Names`], [`Key`]); the same table loads and
//! exports.

mod check;
pub mod clip_text;
mod config;
pub mod consistency;
pub mod diffusers;
pub mod diffusers_adm;
pub mod diffusers_dit;
mod diffusers_sampling;
mod diffusers_scheduler;
pub mod edm;
pub mod glow;
pub mod guided_diffusion;
pub mod inception;
mod key;
pub mod latent_diffusion;
pub mod lpips;
pub mod ncsn;
pub mod ncsn_v2;
pub mod pickle;
mod pipeline;
mod pipeline_check;
pub mod pixel_cnn_pp;
mod published;
mod refine_net;
pub mod score_sde;
mod setting;
mod source;
pub mod vit;

use stein::{Error, Kind as Fault};

pub use check::{Case, Checked, Imported, Output, Reference, Surroundings, check};
pub use diffusers_scheduler::scheduler_of;
pub use key::{Key, Layout, Names, Weights};
pub use pipeline::{Pipeline, PipelineText, ensure_known_pipeline, latent_pipeline};
pub use pipeline_check::check_pipeline;
pub use published::{Published, theirs};
pub use setting::{Role, Setting};
pub(crate) use source::json;
pub use source::{
    Kind, NOT_NUMBERS, PIPELINE, Reading, Source, Which, names_of_weights, network_folder, parts_of_index,
};

/// An error of something that cannot be imported, checked or sampled here.
fn unsupported(sentence: impl Into<String>) -> Error {
    Error::of(Fault::Unsupported, sentence)
}

/// An error of things that do not belong together.
fn mismatch(sentence: impl Into<String>) -> Error {
    Error::of(Fault::Mismatch, sentence)
}

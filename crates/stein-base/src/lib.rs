//! What every crate of the workspace stands on: one error type, one source of randomness, registries of named things, and
//! settings read from files; and the distances and transport between rows that losses and metrics share.

pub mod distances;
mod error;
pub mod explain;
pub mod files;
pub mod memory;
pub mod names;
pub mod numbers;
pub mod random;
pub mod registry;
pub mod settings;
pub mod transport;

pub use error::{Error, Kind, Result};
pub use explain::Explain;
pub use random::{Key, Keys, Purpose};
pub use stein_derive::Explain;

/// What [`registry!`] expands to needs these crates, whatever the crate that calls it depends on.
#[doc(hidden)]
pub mod reexports {
    pub use serde;
    pub use toml;
}

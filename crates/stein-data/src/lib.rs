//! Data sets for score models, one per file, and a deterministic loader.
//!
//! [`Source`] says which data are meant and [`Source::load`] brings them into memory as [`Data`]: `N` rows of `dim`
//! values, an image being one row with channels last. [`Loader`] hands out batches as a pure function of its
//! configuration and a position, [`Stats`] measures what a noise schedule needs to know, and [`get()`] downloads the
//! published sets.

mod cifar10;
mod data;
mod digits;
mod error;
mod fashion_mnist;
mod get;
mod idx;
mod images;
mod loader;
mod mnist;
mod ncsnv2;
mod points2d;
mod published;
mod random;
mod source;
mod stats;
mod table;

pub use cifar10::Cifar10;
pub use data::{Data, Shape};
pub use digits::Digits;
pub use error::{Error, Result};
pub use fashion_mnist::FashionMnist;
pub use get::get;
pub use images::Images;
pub use loader::{Batch, Loader, LoaderConfig};
pub use mnist::Mnist;
pub use ncsnv2::{Ncsnv2, ncsnv2};
pub use points2d::{Mixture, Pattern, Points2d};
pub use source::{Source, Split};
pub use stats::{Column, Distance, Stats};
pub use table::Table;

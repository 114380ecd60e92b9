//! Data sets for score models, one per file, and a deterministic loader.
//!
//! [`Source`] says which data are meant and [`DataSet::load`] brings them in as [`Data`]: `N` samples of one [`Shape`],
//! an image, a series or a row, each as `dim` values. Small sets are held in memory; folders and tar files of pictures
//! that do not fit are decoded as they are used, and kept decoded in a file. [`Loader`] hands out batches as a pure
//! function of its configuration and a position, [`Ahead`] reads them before they are needed, [`Stats`] measures what a
//! noise schedule needs to know, and [`get()`] downloads the published sets.
//!
//! ```
//! use std::sync::Arc;
//! use stein_data::{Ahead, Loader, LoaderConfig, Source, Split};
//!
//! let data = Arc::new(Source::named("digits")?.load(Split::Train, None)?);
//! let loader = Loader::new(data, LoaderConfig { seed: 1, ..LoaderConfig::default() })?;
//! let mut batches = Ahead::new(loader, 0, 128, 4);
//! for _step in 0..3 {
//!     let batch = batches.next()?;
//!     assert_eq!(batch.x.len(), 128 * 8 * 8);
//! }
//! # Ok::<(), stein_data::Error>(())
//! ```
//!
//! A data set of your own is a type with [`DataSet`], added by [`Source::register`]; samples that come from elsewhere
//! than memory are a type with [`Rows`], given to [`Data::from_stream`].

mod ahead;
mod array;
mod cache;
mod captions;
mod cifar10;
mod data;
mod digits;
mod fashion_mnist;
mod get;
mod idx;
mod images;
mod listing;
mod loader;
mod mnist;
mod moments;
mod ncsnv2;
mod phantom;
mod picture;
mod points2d;
mod positioned;
mod published;
mod samples;
mod series;
pub mod shapes;
mod source;
mod stats;
mod table;

pub use ahead::Ahead;
pub use array::read_array;
pub use captions::Captions;
pub use cifar10::Cifar10;
pub use data::{Data, Rows, Shape};
pub use digits::Digits;
pub use fashion_mnist::FashionMnist;
pub use get::get;
pub use images::Images;
pub use listing::is_picture;
pub use loader::{Batch, Loader, LoaderConfig};
pub use mnist::Mnist;
pub use moments::Moments;
pub use ncsnv2::{Ncsnv2, ncsnv2};
pub use phantom::{Phantom, shepp_logan};
pub use points2d::{Mixture, Pattern, Points2d};
pub use published::{Published, PublishedFile, data_folder};
pub use series::Series;
pub use shapes::Shapes;
pub use source::{DataSet, Source, Split};
pub use stats::{Column, Distance, Stats};
pub use stein_base::{Error, Kind, Result};
pub use table::{Missing, Table};

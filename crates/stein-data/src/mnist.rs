//! MNIST: 60000 + 10000 handwritten digits of 28x28 pixels (LeCun, Cortes, Burges, 1998).

use crate::{Data, DataSet, Published, PublishedFile, Split, idx};
use serde::{Deserialize, Serialize};
use std::path::Path;
use stein_base::{Explain, Result};

/// MNIST: 28x28x1, 256 gray levels, ten classes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Mnist {}

/// The authors' four files. Their own server often refuses, so a mirror of the same bytes is asked first.
static FILES: Published = Published {
    name: "mnist",
    folder: "mnist",
    publisher: "http://yann.lecun.com/exdb/mnist/",
    bases: &["https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"],
    archive: None,
    files: &[
        PublishedFile {
            name: "train-images-idx3-ubyte.gz",
            bytes: 9912422,
            sha256: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        },
        PublishedFile {
            name: "train-labels-idx1-ubyte.gz",
            bytes: 28881,
            sha256: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        },
        PublishedFile {
            name: "t10k-images-idx3-ubyte.gz",
            bytes: 1648877,
            sha256: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        },
        PublishedFile {
            name: "t10k-labels-idx1-ubyte.gz",
            bytes: 4542,
            sha256: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ],
};

impl DataSet for Mnist {
    fn load(&self, split: Split, dir: Option<&Path>) -> Result<Data> {
        idx::load(&FILES, split, dir, &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"])
    }

    fn published(&self) -> Option<&'static Published> {
        Some(&FILES)
    }
}

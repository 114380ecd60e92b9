//! Fashion-MNIST: 60000 + 10000 articles of clothing of 28x28 pixels (Xiao, Rasul, Vollgraf, arXiv:1708.07747), MIT.

use crate::{Data, DataSet, Published, PublishedFile, Split, idx};
use serde::{Deserialize, Serialize};
use std::path::Path;
use stein_base::{Explain, Result};

/// Fashion-MNIST: 28x28x1, 256 gray levels, ten classes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct FashionMnist {}

/// The authors' four files, named as MNIST's but not the same.
static FILES: Published = Published {
    name: "fashion_mnist",
    folder: "fashion-mnist",
    publisher: "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    bases: &["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"],
    archive: None,
    files: &[
        PublishedFile {
            name: "train-images-idx3-ubyte.gz",
            bytes: 26421880,
            sha256: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        },
        PublishedFile {
            name: "train-labels-idx1-ubyte.gz",
            bytes: 29515,
            sha256: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        },
        PublishedFile {
            name: "t10k-images-idx3-ubyte.gz",
            bytes: 4422102,
            sha256: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        },
        PublishedFile {
            name: "t10k-labels-idx1-ubyte.gz",
            bytes: 5148,
            sha256: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ],
};

const CLASSES: [&str; 10] =
    ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"];

impl DataSet for FashionMnist {
    fn load(&self, split: Split, dir: Option<&Path>) -> Result<Data> {
        idx::load(&FILES, split, dir, &CLASSES)
    }

    fn published(&self) -> Option<&'static Published> {
        Some(&FILES)
    }
}

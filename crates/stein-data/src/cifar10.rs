//! CIFAR-10: 50000 + 10000 objects of 32x32 pixels in color (Krizhevsky, *Learning Multiple Layers of Features from
//! Tiny Images*, 2009). The authors ask for that citation and give no formal license.
//!
//! A batch file is 10000 records of 3073 bytes: the label, then 1024 red, 1024 green and 1024 blue values, row by row.

use crate::{Data, DataSet, Published, PublishedFile, Split};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::Path;
use stein_base::{Explain, Result};

/// CIFAR-10: 32x32x3, 256 levels, ten classes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Cifar10 {}

/// The batches of the authors' `cifar-10-binary.tar.gz`; train first, test last.
static FILES: Published = Published {
    name: "cifar10",
    folder: "cifar-10/cifar-10-batches-bin",
    publisher: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    bases: &["https://www.cs.toronto.edu/~kriz/"],
    archive: Some("cifar-10-binary.tar.gz"),
    files: &[
        PublishedFile {
            name: "data_batch_1.bin",
            bytes: 30730000,
            sha256: "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        },
        PublishedFile {
            name: "data_batch_2.bin",
            bytes: 30730000,
            sha256: "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        },
        PublishedFile {
            name: "data_batch_3.bin",
            bytes: 30730000,
            sha256: "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        },
        PublishedFile {
            name: "data_batch_4.bin",
            bytes: 30730000,
            sha256: "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        },
        PublishedFile {
            name: "data_batch_5.bin",
            bytes: 30730000,
            sha256: "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        },
        PublishedFile {
            name: "test_batch.bin",
            bytes: 30730000,
            sha256: "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
    ],
};

const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const RECORD: usize = 3073;

impl DataSet for Cifar10 {
    fn load(&self, split: Split, dir: Option<&Path>) -> Result<Data> {
        let files = if split == Split::Train { &FILES.files[..5] } else { &FILES.files[5..] };
        // All are looked for, so that of several that are missing the first is named, whichever thread was faster.
        let found: Vec<Result<Vec<u8>>> = files.par_iter().map(|file| Ok(FILES.find(file, dir)?.1)).collect();
        let batches = found.into_iter().collect::<Result<Vec<_>>>()?;
        let records = || batches.iter().flat_map(|batch| batch.chunks_exact(RECORD));
        let mut pixels = Vec::with_capacity(files.len() * 10_000 * (RECORD - 1));
        for record in records() {
            pixels.extend((0..1024).flat_map(|p| [record[1 + p], record[1025 + p], record[2049 + p]]));
        }
        let labels = records().map(|record| usize::from(record[0])).collect();
        let class_names = CLASSES.map(String::from).to_vec();
        Data::from_pixels(FILES.name, [32, 32, 3], 256, pixels, Some(labels), class_names)
    }

    fn published(&self) -> Option<&'static Published> {
        Some(&FILES)
    }
}

//! Digits: 3823 + 1797 handwritten digits of 8x8 pixels in 17 gray levels, built into the program.
//!
//! UCI *Optical Recognition of Handwritten Digits*, E. Alpaydin and C. Kaynak, CC BY 4.0,
//! <https://doi.org/10.24432/C50P49>; the layout of the files is in `assets/README.md`.

use crate::{Data, DataSet, Split};
use serde::{Deserialize, Serialize};
use std::{io::Read, path::Path};
use stein_base::{Explain, Result};

/// The digits of optdigits: 8x8x1, pixels 0 to 16 (given as v/16), ten classes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Digits {}

impl DataSet for Digits {
    fn load(&self, split: Split, _: Option<&Path>) -> Result<Data> {
        let packed: &[u8] = match split {
            Split::Train => include_bytes!("../assets/optdigits-train.gz"),
            Split::Test => include_bytes!("../assets/optdigits-test.gz"),
        };
        let mut records = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut records).expect("the built-in file is whole");
        let labels = records.chunks_exact(65).map(|r| usize::from(r[64])).collect();
        let pixels = records.chunks_exact(65).flat_map(|r| &r[..64]).copied().collect();
        let class_names = (0..10).map(|c| c.to_string()).collect();
        Data::from_pixels("digits", [8, 8, 1], 17, pixels, Some(labels), class_names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_published_text() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/optdigits");
        for (split, file, count) in [(Split::Train, "optdigits.tra", 3823), (Split::Test, "optdigits.tes", 1797)] {
            let data = Digits {}.load(split, None).unwrap();
            assert_eq!((data.len(), data.dim(), data.classes(), data.levels()), (count, 64, 10, Some(17)));
            let Ok(text) = std::fs::read_to_string(dir.join(file)) else {
                println!("skipped: {file} is not here");
                continue;
            };
            let labels = data.labels.as_ref().unwrap();
            for (i, line) in text.lines().enumerate() {
                let numbers: Vec<f32> = line.split(',').map(|v| v.parse().unwrap()).collect();
                let mut row = vec![0.0; 64];
                data.row(i, &mut row).unwrap();
                assert!(row.iter().zip(&numbers).all(|(v, n)| v * 16.0 == *n));
                assert_eq!(labels[i] as f32, numbers[64]);
            }
            assert_eq!(text.lines().count(), count);
        }
    }
}

//! Whole pipelines in latents against what the diffusers library gave, of the same random weights: from prompt to pixels, after every step.
//!
//! They lie outside the repository, in `../shared/golden_methods`, and without them nothing is compared here; what they are made of is compared
//! with what the repository has.

use std::path::Path;

use burn::tensor::DType;
use stein_nn::import::{self, Pipeline, Reading};

/// In f64 only the order of sums differs.
const EXACT: f64 = 1e-9;

#[test]
fn pipelines_go_from_prompt_to_pixels_as_the_reference_does() {
    for name in ["stable_diffusion_tiny", "stable_diffusion2_tiny", "dit_tiny"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden_methods").join(name);
        if !folder.is_dir() {
            println!("skipped: there is no {}, so nothing is compared with it", folder.display());
            continue;
        }
        let class = import::latent_pipeline(&folder).unwrap().expect("it is a pipeline in latents");
        let pipeline = Pipeline::read(&folder, &class, &Reading::default()).unwrap();
        for kind in [DType::F64, DType::F32] {
            for checked in import::check_pipeline(&pipeline, &folder, kind).unwrap() {
                let bound = match (kind, checked.double) {
                    (DType::F64, true) => EXACT * checked.largest.max(1.0),
                    _ => checked.bound,
                };
                println!("{name} {kind:?} {}: {:.1e} of {:.1e}", checked.name, checked.absolute, checked.largest);
                assert!(
                    checked.absolute <= bound,
                    "{name}, {}: {:e} of {:e}, bound {bound:e}",
                    checked.name,
                    checked.absolute,
                    checked.largest
                );
            }
        }
    }
}

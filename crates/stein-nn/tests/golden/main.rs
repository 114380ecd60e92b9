//! Published networks against stored values of their reference implementations, of the same random weights.
//!
//! Small networks of all implementations are in the repository: see [`formula`] and [`reference`]. Larger ones lie outside it, in
//! `../shared/golden`; without them nothing is compared with those.

mod autoencoder;
mod consistency;
mod diffusers;
mod dit;
mod edm;
mod extractors;
mod flows;
mod formula;
mod gan;
mod guidance;
mod guided_diffusion;
mod inverse;
mod latent_diffusion;
mod likelihood;
mod ncsn;
mod pipelines;
mod pixel_cnn_pp;
mod published;
mod reference;
mod score_sde;
mod text;
mod vae;
mod variational;

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::DType;
use stein::{Condition, Context, Dual};
use stein_nn::{
    Tensors,
    import::{self, Reference, Weights},
};

/// A context of noise numbers and a condition.
fn context<'a>(noise: impl Into<Dual<1>>, given: &'a Condition) -> Context<'a> {
    Context { noise: noise.into(), second: None, given, dropout: None }
}

/// The folder of a fixture, its config and its weights.
fn fixture(name: &str) -> Option<(PathBuf, serde_json::Value, Tensors)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden").join(name);
    if !folder.is_dir() {
        println!("skipped: there is no {}, so nothing is compared with it", folder.display());
        return None;
    }
    let config = serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let files = ["weights.safetensors", "diffusion_pytorch_model.safetensors"].map(|name| folder.join(name));
    let weights = stein_nn::read_tensors(files.iter().find(|path| path.exists()).unwrap()).unwrap();
    Some((folder, config, weights))
}

/// Compares all that is stored of a fixture, in f64 and in f32, with the network that `open` makes of its config and weights.
fn compare(fixture: &str, open: impl Fn(&serde_json::Value, Weights) -> stein::Result<Box<dyn Reference>>) {
    let Some((folder, config, weights)) = self::fixture(fixture) else { return };
    let reference = open(&config, Weights::Theirs(&weights)).unwrap();
    let mut faults = Vec::new();
    for kind in [DType::F64, DType::F32] {
        let all = import::check(&*reference, &folder, kind).unwrap();
        assert!(!all.is_empty());
        for checked in all {
            let line = format!(
                "{fixture} {kind:?} {}: {:.1e} of {:.1e}, bound {:.1e}",
                checked.name, checked.absolute, checked.largest, checked.bound
            );
            println!("{line}");
            // In f64 against f64 only the order of sums differs.
            let exact = kind == DType::F64 && checked.double;
            if !checked.passed() || (exact && checked.relative() > 1e-9) {
                faults.push(line);
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

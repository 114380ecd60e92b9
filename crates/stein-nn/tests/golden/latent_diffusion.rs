//! The checkpoint of latent diffusion in `tests/data/latent_diffusion`, made whole.

use std::path::{Path, PathBuf};

use stein_nn::{read_tensors, write_tensors};

/// Writes the checkpoint, with its config and what is compared with it, to a folder. Of the encoder, which is not stored, nothing is compared:
/// it has the decoder's tensors, which are of the same shapes.
pub fn write_checkpoint(to: &Path) {
    let folder: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "stein-nn", "tests", "data", "latent_diffusion"].iter().collect();
    for name in ["config.json", "io.safetensors"] {
        std::fs::copy(folder.join(name), to.join(name)).unwrap();
    }
    let mut weights = read_tensors(&folder.join("weights.safetensors")).unwrap();
    let mirrored: Vec<_> = weights.iter().filter(|(name, _)| name.starts_with("first_stage_model.decoder.")).collect();
    let mirrored = mirrored.into_iter().filter(|(name, _)| !name.contains(".block."));
    let mirrored: Vec<_> = mirrored
        .map(|(name, data)| {
            let name = name.replace(".decoder.", ".encoder.").replace("up.1.upsample", "down.0.downsample");
            (name, data.clone())
        })
        .collect();
    weights.extend(mirrored);
    write_tensors(&weights, &to.join("weights.safetensors")).unwrap();
}

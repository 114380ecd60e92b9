//! Models of the Hugging Face hub, `hf:owner/name`, in the cache that the hub's own tools share.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use stein::{Error, Result, ensure};

/// What an address on the hub starts with.
const PREFIX: &str = "hf:";

/// The weights of a model in a folder of a repository, the preferred first.
const WEIGHTS: &[&str] = &["diffusion_pytorch_model.safetensors", "model.safetensors", "diffusion_pytorch_model.bin"];

/// The folder a model of the hub is in after its config and weights were downloaded, where they are not yet; none for a name
/// that is no address on the hub. What was downloaded stays in the hub's cache (`HF_HOME`), and a download that was cut off
/// goes on where it stopped. `HF_ENDPOINT` is another hub.
///
/// # Errors
/// When the hub cannot be reached, or has no such model or no weights of a kind known here.
pub fn from_hub(name: &str) -> Result<Option<PathBuf>> {
    let Some(model) = name.strip_prefix(PREFIX) else { return Ok(None) };
    ensure!(
        model.split('/').count() == 2 && model.split('/').all(|part| !part.is_empty()),
        "{name} is no model of the hub: give {PREFIX}OWNER/NAME"
    );
    let cannot = |error: ApiError| {
        Error::new(format!("cannot get {model} from the hub: {error}; give a folder with its files if you have them"))
    };
    let api = ApiBuilder::from_env().build().map_err(cannot)?;
    let repository = api.model(model.to_owned());
    let files: Vec<String> =
        repository.info().map_err(cannot)?.siblings.into_iter().map(|file| file.rfilename).collect();
    let wanted = wanted(&files).ok_or_else(|| {
        Error::new(format!("{model} on the hub has no config.json with weights beside it that are known here"))
    })?;
    let folder = download(&repository, &wanted).map_err(cannot)?;
    Ok(Some(folder))
}

/// The files of a model or of the network of a pipeline, the one at the root of all first.
fn wanted(files: &[String]) -> Option<Vec<String>> {
    let has = |name: &str| files.iter().any(|file| file == name);
    // Some pipelines have their network in a folder, some beside the index.
    let folders = ["unet/", "transformer/", ""];
    let folder = folders.into_iter().find(|folder| has(&format!("{folder}config.json")))?;
    let pipeline = !folder.is_empty();
    let root = if pipeline { "model_index.json" } else { "config.json" };
    if !has(root) {
        return None;
    }
    let index = format!("{folder}diffusion_pytorch_model.safetensors.index.json");
    let weights: Vec<String> = match WEIGHTS.iter().map(|name| format!("{folder}{name}")).find(|name| has(name)) {
        Some(whole) => vec![whole],
        None if has(&index) => {
            let part = |file: &&String| file.starts_with(folder) && file.ends_with(".safetensors");
            [index].into_iter().chain(files.iter().filter(part).cloned()).collect()
        }
        None => return None,
    };
    let mut wanted = vec![root.to_owned()];
    wanted.extend(pipeline.then(|| format!("{folder}config.json")));
    let scheduler = if pipeline { "scheduler/scheduler_config.json" } else { "scheduler_config.json" };
    wanted.extend(has(scheduler).then(|| scheduler.to_owned()));
    wanted.extend(weights);
    Some(wanted)
}

/// Downloads files and returns the folder of the first.
fn download(repository: &ApiRepo, files: &[String]) -> std::result::Result<PathBuf, ApiError> {
    let mut folder = PathBuf::new();
    for (i, file) in files.iter().enumerate() {
        let path = repository.get(file)?;
        if i == 0 {
            folder = path.parent().map(PathBuf::from).unwrap_or_default();
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::wanted;

    fn of(files: &[&str]) -> Option<Vec<String>> {
        wanted(&files.iter().map(|file| (*file).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_downloaded_of_a_repository() {
        let model = ["README.md", "config.json", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"];
        assert_eq!(of(&model).unwrap(), ["config.json", "diffusion_pytorch_model.safetensors"]);
        let pipeline = [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.bin",
            "vae/config.json",
            "vae/diffusion_pytorch_model.bin",
        ];
        let files = [
            "model_index.json",
            "unet/config.json",
            "scheduler/scheduler_config.json",
            "unet/diffusion_pytorch_model.bin",
        ];
        assert_eq!(of(&pipeline).unwrap(), files);
        let flat = ["config.json", "diffusion_pytorch_model.bin", "model_index.json", "scheduler_config.json"];
        assert_eq!(of(&flat).unwrap(), ["config.json", "scheduler_config.json", "diffusion_pytorch_model.bin"]);
        let shards = [
            "config.json",
            "diffusion_pytorch_model-00001-of-00002.safetensors",
            "diffusion_pytorch_model-00002-of-00002.safetensors",
            "diffusion_pytorch_model.safetensors.index.json",
        ];
        assert_eq!(of(&shards).unwrap().len(), 4);
        assert_eq!(of(&["config.json", "notes.txt"]), None);
        assert_eq!(of(&["diffusion_pytorch_model.safetensors"]), None);
    }
}

//! Models of the Hugging Face hub, `hf:owner/name`, in the cache that the hub's own tools share.

use std::path::{Path, PathBuf};

use hf_hub::{
    Cache,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
};
use stein::{Error, Result, ensure};

/// What an address on the hub starts with.
const PREFIX: &str = "hf:";

/// The weights of a model in a folder of a repository, the preferred first.
const WEIGHTS: &[&str] = &["diffusion_pytorch_model.safetensors", "model.safetensors", "diffusion_pytorch_model.bin"];

/// How often a download that breaks off is taken up again before giving up.
const RETRIES: usize = 5;

/// The folder a model of the hub is in after its config and weights were downloaded, where they are not yet; none for a name
/// that is no address on the hub. What was downloaded stays in the hub's cache (`HF_HOME`) and is found there where the hub cannot be
/// reached; a download that was cut off goes on where it stopped. `HF_ENDPOINT` is another hub.
///
/// # Errors
/// When the hub cannot be reached and the cache lacks the model, or there is no such model or no weights of a kind known here.
pub fn from_hub(name: &str) -> Result<Option<PathBuf>> {
    let Some(model) = name.strip_prefix(PREFIX) else { return Ok(None) };
    ensure!(
        model.split('/').count() == 2 && model.split('/').all(|part| !part.is_empty()),
        "{name} is no model of the hub: give {PREFIX}OWNER/NAME"
    );
    fetch(ApiBuilder::from_env().with_retries(RETRIES), &Cache::from_env(), model).map(Some)
}

fn fetch(hub: ApiBuilder, cache: &Cache, model: &str) -> Result<PathBuf> {
    let cannot = |error: &dyn std::fmt::Display| {
        Error::new(format!("cannot get {model} from the hub: {error}; give a folder with its files if you have them"))
    };
    let repository = hub.build().map_err(|error| cannot(&error))?.model(model.to_owned());
    let info = match repository.info() {
        Ok(info) => info,
        Err(ApiError::RequestError(error)) => {
            let sentence = error.to_string();
            // What the hub answers counts, and the cache only where nobody answers.
            let cached = if error.into_response().is_none() { cached(cache, model) } else { None };
            return cached.ok_or_else(|| cannot(&sentence));
        }
        Err(error) => return Err(cannot(&error)),
    };
    let files: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
    let wanted = wanted(&files).ok_or_else(|| {
        Error::new(format!("{model} on the hub has no config.json with weights beside it that are known here"))
    })?;
    download(&repository, &wanted).map_err(|error| cannot(&error))
}

/// The folder of a model that is wholly in the cache.
fn cached(cache: &Cache, model: &str) -> Option<PathBuf> {
    let repository = cache.model(model.to_owned());
    let folder = ["config.json", "model_index.json"].into_iter().find_map(|root| repository.get(root))?;
    let folder = folder.parent()?.to_owned();
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut files = Vec::new();
    for name in names(&folder) {
        files.extend(names(&folder.join(&name)).into_iter().map(|inner| format!("{name}/{inner}")));
        files.push(name);
    }
    let wanted = wanted(&files)?;
    // An index may be there without all the files it names.
    let index = wanted.iter().find(|name| name.ends_with(".index.json"));
    let whole = index.is_none_or(|index| {
        let text = std::fs::read_to_string(folder.join(index)).unwrap_or_default();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let parts = json["weight_map"].as_object().into_iter().flatten().filter_map(|(_, part)| part.as_str());
        let beside = index.rsplit_once('/').map_or(String::new(), |(place, _)| format!("{place}/"));
        parts.map(|part| format!("{beside}{part}")).all(|part| files.contains(&part))
    });
    whole.then_some(folder)
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
    use std::{
        io::{BufRead, BufReader, Write},
        net::{TcpListener, TcpStream},
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
    };

    use super::*;

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

    const CONFIG: &[u8] = b"{}";
    const WEIGHTS: &[u8] = &[7; 100_000];

    /// A hub of one model. The first download of the weights breaks off in the middle.
    struct Hub {
        broken: AtomicBool,
        /// Bytes of weights sent.
        sent: AtomicUsize,
    }

    impl Hub {
        fn answer(&self, stream: &mut TcpStream) -> std::io::Result<()> {
            let mut lines = BufReader::new(stream.try_clone()?).lines();
            let request = lines.next().transpose()?.unwrap_or_default();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let mut range = None;
            for line in lines {
                let line = line?.to_lowercase();
                if line.is_empty() {
                    break;
                }
                if let Some(bytes) = line.strip_prefix("range: bytes=") {
                    let (from, to) = bytes.split_once('-').unwrap_or((bytes, ""));
                    range = from.parse().ok().map(|from: usize| (from, to.parse::<usize>().ok()));
                }
            }
            if path.starts_with("/api/models/") {
                let text = r#"{"sha":"a1","siblings":[{"rfilename":"config.json"},{"rfilename":"diffusion_pytorch_model.safetensors"}]}"#;
                return write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                    text.len()
                );
            }
            let (file, tag) = if path.ends_with("config.json") { (CONFIG, "c") } else { (WEIGHTS, "w") };
            let (from, to) = range.unwrap_or((0, None));
            let part = &file[from..to.map_or(file.len(), |to| to + 1)];
            write!(
                stream,
                "HTTP/1.1 206 Partial\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\nETag: \"{tag}\"\r\nx-repo-commit: \
                 a1\r\nConnection: close\r\n\r\n",
                part.len(),
                from + part.len() - 1,
                file.len()
            )?;
            let cut = part.len() > 10 && self.broken.swap(false, Ordering::SeqCst);
            let part = if cut { &part[..part.len() / 2] } else { part };
            stream.write_all(part)?;
            if tag == "w" && part.len() > 10 {
                self.sent.fetch_add(part.len(), Ordering::SeqCst);
            }
            Ok(())
        }
    }

    #[test]
    fn a_cut_download_goes_on_and_the_cache_needs_no_network() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let hub = Arc::new(Hub { broken: AtomicBool::new(true), sent: AtomicUsize::new(0) });
        let served = Arc::clone(&hub);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                // A client that hangs up is no concern of a hub's.
                let _ = served.answer(&mut stream);
            }
        });
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::new(home.path().to_owned());
        let api = |address: &str| {
            ApiBuilder::from_cache(cache.clone()).with_progress(false).with_endpoint(address.to_owned())
        };
        let cut = fetch(api(&address), &cache, "owner/name").unwrap_err().to_string();
        assert!(cut.contains("owner/name") && !cut.contains('\n'), "{cut}");
        let folder = fetch(api(&address), &cache, "owner/name").unwrap();
        assert_eq!(std::fs::read(folder.join("diffusion_pytorch_model.safetensors")).unwrap(), WEIGHTS);
        assert_eq!(hub.sent.load(Ordering::SeqCst), WEIGHTS.len(), "no byte was sent twice");

        // Port 9 of this machine: nobody answers.
        let nobody = "http://127.0.0.1:9";
        assert_eq!(fetch(api(nobody), &cache, "owner/name").unwrap(), folder);
        let absent = fetch(api(nobody), &cache, "owner/other").unwrap_err().to_string();
        assert!(absent.contains("owner/other"), "{absent}");
    }
}

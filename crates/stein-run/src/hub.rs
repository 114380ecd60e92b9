//! Models of the Hugging Face hub, `hf:owner/name`, in the cache that the hub's own tools share.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
};
use sha2::{Digest, Sha256};
use stein::{Error, Result, ensure};
use stein_nn::import::{self, PIPELINE, Which, names_of_weights, network_folder, parts_of_index};

/// What an address on the hub starts with.
const PREFIX: &str = "hf:";

/// How often a download that breaks off is taken up again before giving up.
const RETRIES: usize = 5;

/// The folder a model of the hub is in after its config and weights were downloaded, where they are not yet; none for a name
/// that is no address on the hub. What was downloaded stays in the hub's cache (`HF_HOME`) and is found there where the hub cannot be
/// reached; a download that was cut off goes on where it stopped. `HF_ENDPOINT` is another hub.
///
/// # Errors
/// When the hub cannot be reached and the cache lacks the model, or there is no such model or no weights of a kind known here, or
/// what arrived is not what the hub has.
pub fn from_hub(name: &str, which: Option<Which>) -> Result<Option<PathBuf>> {
    let Some(address) = name.strip_prefix(PREFIX) else { return Ok(None) };
    let address = Address::parse(address)?;
    fetch(ApiBuilder::from_env().with_retries(RETRIES), &Cache::from_env(), &address, which).map(Some)
}

/// Where a model is on the hub.
#[derive(Debug, PartialEq)]
struct Address {
    /// `owner/name`.
    model: String,
    /// A folder within, with a slash at its end; empty for all of it.
    folder: String,
    /// A branch, tag or commit.
    revision: String,
}

/// The revision of an address that names none.
const LATEST: &str = "main";

impl Address {
    fn parse(address: &str) -> Result<Self> {
        let (place, revision) = address.split_once('@').unwrap_or((address, LATEST));
        let parts: Vec<&str> = place.split('/').collect();
        ensure!(
            parts.len() >= 2 && !parts.iter().any(|part| ["", ".", ".."].contains(part)) && !revision.is_empty(),
            "{PREFIX}{address} is no model of the hub: give {PREFIX}OWNER/NAME, perhaps with a folder in it and a revision, as in \
             {PREFIX}OWNER/NAME/FOLDER@REVISION"
        );
        let folder = parts[2..].iter().map(|part| format!("{part}/")).collect();
        Ok(Self { model: parts[..2].join("/"), folder, revision: revision.to_owned() })
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.model.clone(), RepoType::Model, self.revision.clone())
    }

    /// As it is written.
    fn name(&self) -> String {
        let at = if self.revision == LATEST { String::new() } else { format!("@{}", self.revision) };
        format!("{}{at}", format!("{}/{}", self.model, self.folder).trim_end_matches('/'))
    }
}

fn fetch(hub: ApiBuilder, cache: &Cache, address: &Address, which: Option<Which>) -> Result<PathBuf> {
    let cannot = |sentence: &str| {
        let name = address.name();
        Error::new(format!("cannot get {name} from the hub: {sentence}; give a folder with its files if you have them"))
    };
    let repository = hub.build().map_err(|error| cannot(&error.to_string()))?.repo(address.repo());
    let info = match repository.info() {
        Ok(info) => info,
        Err(error) => {
            let (sentence, answered) = said(error, "model or revision");
            // What the hub answers counts, and the cache only where nobody answers.
            let cached = if answered { None } else { cached(cache, address, which) };
            return cached.ok_or_else(|| cannot(&sentence));
        }
    };
    let files: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
    let wanted = wanted(&files, &address.folder, which).ok_or_else(|| {
        Error::new(format!(
            "{} on the hub has no config.json with weights beside it that are known here",
            address.name()
        ))
    })?;
    let get = |file: &str| get(&repository, cache, address, file).map_err(|sentence| cannot(&sentence));
    let mut folder = PathBuf::new();
    for (i, file) in wanted.iter().enumerate() {
        let path = get(file)?;
        if i == 0 {
            folder = path.parent().map(PathBuf::from).unwrap_or_default();
            // What is refused by its name is not downloaded first.
            import::ensure_known_pipeline(&folder)?;
        }
        if is_index(file) {
            for part in parts_of_index(&path).map_err(|error| cannot(&error.to_string()))? {
                get(&beside(file, &part))?;
            }
        }
    }
    Ok(folder)
}

/// The file of the cache after it was downloaded, if it was not there yet, or what went wrong.
fn get(repository: &ApiRepo, cache: &Cache, address: &Address, file: &str) -> std::result::Result<PathBuf, String> {
    if let Some(path) = cache.repo(address.repo()).get(file) {
        return Ok(path);
    }
    let path = repository.download(file).map_err(|error| match error {
        ApiError::InvalidResume => {
            format!("what is there of {file} from an earlier download is damaged: delete {}", cache.path().display())
        }
        error => format!("{file}: {}", said(error, "file").0),
    })?;
    if is_what_it_should_be(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))? {
        return Ok(path);
    }
    // So that the next try does not find it.
    let blob = fs::canonicalize(&path);
    let removed = fs::remove_file(&path).and_then(|()| fs::remove_file(blob?));
    let left = removed.map_or_else(|error| format!(", and cannot be deleted ({error})"), |()| String::new());
    Err(format!("what arrived of {file} has another SHA-256 than the hub says{left}: try again"))
}

/// Whether a file has the content it is stored under: the SHA-256 of a large one is the name of what the link in the cache points at.
fn is_what_it_should_be(path: &Path) -> io::Result<bool> {
    let blob = fs::canonicalize(path)?;
    let name = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(true);
    }
    let (mut hash, mut file, mut part) = (Sha256::new(), fs::File::open(&blob)?, vec![0; 1 << 20]);
    loop {
        match file.read(&mut part)? {
            0 => break,
            count => hash.update(&part[..count]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>() == name.to_lowercase())
}

/// What an error of the hub says, and whether it is an answer of the hub.
fn said(error: ApiError, wanted: &str) -> (String, bool) {
    let ApiError::RequestError(error) = error else { return (error.to_string(), true) };
    let sentence = error.to_string();
    match error.into_response().map(|response| response.status()) {
        None => (sentence, false),
        Some(404) => (format!("it has no such {wanted} (404)"), true),
        Some(status @ (401 | 403)) => (
            format!("there is no such {wanted}, or the hub shows it to those alone whose HF_TOKEN it knows ({status})"),
            true,
        ),
        Some(status) => (format!("it answers {status}: try again later"), true),
    }
}

/// The folder of a model that is wholly in the cache.
fn cached(cache: &Cache, address: &Address, which: Option<Which>) -> Option<PathBuf> {
    let repository = cache.repo(address.repo());
    // Any file of it says where its files are.
    let at = |root: &str| {
        let name = format!("{}{root}", address.folder);
        let path = repository.get(&name)?;
        path.ancestors().nth(Path::new(&name).components().count()).map(PathBuf::from)
    };
    let roots = ["config.json", PIPELINE, "unet/config.json", "unet_ema/config.json", "transformer/config.json"];
    let top = roots.into_iter().find_map(at)?;
    let mut files = Vec::new();
    list(&top, "", &mut files);
    let wanted = wanted(&files, &address.folder, which)?;
    // An index may be there without all the files it names, or be none.
    let whole = |file: &String| {
        let parts = if is_index(file) { parts_of_index(&top.join(file)) } else { Ok(Vec::new()) };
        parts.is_ok_and(|parts| parts.iter().all(|part| files.contains(&beside(file, part))))
    };
    wanted.iter().all(whole).then(|| top.join(&wanted[0]).parent().map(PathBuf::from))?
}

/// The files of a folder and those in it, by their names within the first.
fn list(folder: &Path, within: &str, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = format!("{within}{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), &format!("{name}/"), files);
        } else if entry.path().exists() {
            files.push(name);
        }
    }
}

/// The files of a model, or of a pipeline, in a folder of a repository: the one at the root of all first, and of weights in parts the index
/// alone. Of a pipeline in latents there are an autoencoder and what reads texts.
fn wanted(files: &[String], folder: &str, which: Option<Which>) -> Option<Vec<String>> {
    let has = |name: &str| files.iter().any(|file| file == name);
    let within = |name: &str| format!("{folder}{name}");
    let has_folder = |name: &str| has(&within(&format!("{name}/config.json")));
    let part = network_folder(which, |name| has(&within(name)), has_folder)?;
    let network = if part.is_empty() { folder.to_owned() } else { format!("{folder}{part}/") };
    let config = format!("{network}config.json");
    let weights = names_of_weights(which).into_iter().map(|name| format!("{network}{name}")).find(|name| has(name))?;
    // A network is found in its pipeline, whose scheduler lies beside it.
    let above = network.trim_end_matches('/').rsplit_once('/').map_or(String::new(), |(above, _)| format!("{above}/"));
    let in_pipeline = !network.is_empty() && has(&format!("{above}{PIPELINE}"));
    let schedulers = [format!("{network}scheduler_config.json"), format!("{above}scheduler/scheduler_config.json")];
    let pipeline = format!("{above}{PIPELINE}");
    let mut wanted = if part.is_empty() || !in_pipeline { vec![config] } else { vec![pipeline.clone(), config] };
    wanted.extend((part.is_empty() && in_pipeline).then_some(pipeline));
    wanted.extend(schedulers.into_iter().take(if in_pipeline { 2 } else { 1 }).find(|name| has(name)));
    wanted.push(weights);
    if !part.is_empty() && in_pipeline && has(&format!("{above}vae/config.json")) {
        for part in ["vae", "text_encoder"].map(|part| format!("{above}{part}/")) {
            let weights = names_of_weights(None).into_iter().map(|name| format!("{part}{name}")).find(|name| has(name));
            wanted.extend([format!("{part}config.json")].into_iter().filter(|name| has(name)).chain(weights));
        }
        let tokenizer = TOKENIZER.map(|name| format!("{above}tokenizer/{name}"));
        wanted.extend(tokenizer.into_iter().filter(|name| has(name)));
    }
    has(&wanted[0]).then_some(wanted)
}

/// The files of a tokenizer.
const TOKENIZER: [&str; 4] = ["tokenizer_config.json", "tokenizer.json", "vocab.json", "merges.txt"];

/// Whether a file of weights is an index of parts.
fn is_index(file: &str) -> bool {
    file.contains(".index") && file.ends_with(".json")
}

/// A file beside another.
fn beside(file: &str, other: &str) -> String {
    file.rsplit_once('/').map_or_else(|| other.to_owned(), |(folder, _)| format!("{folder}/{other}"))
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

    fn of(files: &[&str], folder: &str, which: Option<Which>) -> Option<Vec<String>> {
        wanted(&files.iter().map(|file| (*file).to_owned()).collect::<Vec<_>>(), folder, which)
    }

    #[test]
    fn what_is_downloaded_of_a_repository() {
        let of = |files: &[&str]| of(files, "", None);
        let model = ["README.md", "config.json", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"];
        assert_eq!(of(&model).unwrap(), ["config.json", "diffusion_pytorch_model.safetensors"]);
        let pipeline = [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.bin",
            "vae/config.json",
            "vae/diffusion_pytorch_model.bin",
            "safety_checker/model.safetensors",
            "text_encoder/config.json",
            "text_encoder/model.fp16.safetensors",
            "text_encoder/model.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
        ];
        let files = [
            "model_index.json",
            "unet/config.json",
            "scheduler/scheduler_config.json",
            "unet/diffusion_pytorch_model.bin",
            "vae/config.json",
            "vae/diffusion_pytorch_model.bin",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
        ];
        assert_eq!(of(&pipeline).unwrap(), files);
        let flat = ["config.json", "diffusion_pytorch_model.bin", "model_index.json", "scheduler_config.json"];
        assert_eq!(of(&flat).unwrap(), ["config.json", "scheduler_config.json", "diffusion_pytorch_model.bin"]);
        assert_eq!(of(&["config.json", "notes.txt"]), None);
        assert_eq!(of(&["diffusion_pytorch_model.safetensors"]), None);
        // The names the reader of folders knows.
        for name in names_of_weights(None) {
            assert_eq!(of(&["config.json", &name]).unwrap(), ["config.json", &name]);
        }
    }

    #[test]
    fn folders_and_the_other_weights_of_a_repository() {
        let files = [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.fp16.bin",
        ];
        let unet = ["unet/config.json", "model_index.json", "scheduler/scheduler_config.json"];
        let found = of(&files, "unet/", None).unwrap();
        assert_eq!(
            (&found[..3], &found[3][..]),
            (&unet.map(str::to_owned)[..], "unet/diffusion_pytorch_model.safetensors")
        );
        let raw = of(&files, "", Some(Which::Raw)).unwrap();
        assert_eq!(raw[3], "unet/diffusion_pytorch_model.non_ema.safetensors");
        assert_eq!(of(&files, "vae/", None).unwrap()[3], "vae/diffusion_pytorch_model.fp16.bin");
        assert_eq!(of(&files, "text/", None), None);
        let saved =
            ["unet/config.json", "unet/model.safetensors", "unet_ema/config.json", "unet_ema/model.safetensors"];
        assert_eq!(of(&saved, "", None).unwrap(), ["unet_ema/config.json", "unet_ema/model.safetensors"]);
        assert_eq!(of(&saved, "", Some(Which::Raw)).unwrap(), ["unet/config.json", "unet/model.safetensors"]);
    }

    #[test]
    fn addresses() {
        for name in ["owner/name", "owner/name/unet", "owner/name/a/b@v1.0", "owner/name@refs/pr/3"] {
            assert_eq!(Address::parse(name).unwrap().name(), name);
        }
        let address = Address::parse("owner/name/unet@fp16").unwrap();
        assert_eq!((&address.model[..], &address.folder[..], &address.revision[..]), ("owner/name", "unet/", "fp16"));
        for name in ["", "name", "owner/", "/name", "owner//name", "owner/../name", "owner/name@"] {
            let error = Address::parse(name).unwrap_err().to_string();
            assert!(error.contains("OWNER/NAME"), "{name}: {error}");
        }
    }

    const WEIGHTS: &[u8] = &[7; 100_000];
    const NAME: &str = "diffusion_pytorch_model.safetensors";

    /// A hub of one model at the revision `main`.
    struct Hub {
        files: Vec<(&'static str, Vec<u8>)>,
        /// Whether the first download of the weights breaks off in the middle.
        broken: AtomicBool,
        /// What the hub says of the content of the weights.
        tag: String,
        /// Bytes of weights sent.
        sent: AtomicUsize,
    }

    impl Hub {
        fn new(files: &[(&'static str, &[u8])]) -> Self {
            let files = files.iter().map(|(name, content)| (*name, content.to_vec())).collect();
            Self { files, broken: AtomicBool::new(false), tag: "w".to_owned(), sent: AtomicUsize::new(0) }
        }

        /// Its address, and itself.
        fn serve(self) -> (String, Arc<Self>) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let hub = Arc::new(self);
            let served = Arc::clone(&hub);
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    // A client that hangs up is no concern of a hub's.
                    let _ = served.answer(&mut stream);
                }
            });
            (address, hub)
        }

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
            let mut status = |status: &str, text: &str| {
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
            };
            if path == "/api/models/owner/name/revision/main" {
                let files: Vec<_> =
                    self.files.iter().map(|(name, _)| format!("{{\"rfilename\":\"{name}\"}}")).collect();
                return status("200 OK", &format!("{{\"sha\":\"a1\",\"siblings\":[{}]}}", files.join(",")));
            }
            if path.starts_with("/api/models/secret") {
                return status("401 Unauthorized", "");
            }
            let file = self.files.iter().find(|(name, _)| path == format!("/owner/name/resolve/main/{name}"));
            let Some((name, file)) = file else { return status("404 Not Found", "") };
            let tag = if *name == NAME { self.tag.clone() } else { name.replace('/', "-") };
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
            let cut = part.len() > 10 && *name == NAME && self.broken.swap(false, Ordering::SeqCst);
            let part = if cut { &part[..part.len() / 2] } else { part };
            // Counted before it is there, so that who has it all finds all of it counted.
            if *name == NAME && part.len() > 10 {
                self.sent.fetch_add(part.len(), Ordering::SeqCst);
            }
            stream.write_all(part)
        }
    }

    /// Port 9 of this machine: nobody answers.
    const NOBODY: &str = "http://127.0.0.1:9";

    fn ask(hub: &str, cache: &Cache, address: &str) -> Result<PathBuf> {
        let api = ApiBuilder::from_cache(cache.clone()).with_progress(false).with_endpoint(hub.to_owned());
        fetch(api, cache, &Address::parse(address).unwrap(), None)
    }

    fn refusal(hub: &str, cache: &Cache, address: &str) -> String {
        let refused = ask(hub, cache, address).unwrap_err().to_string();
        assert!(!refused.contains('\n'), "{refused}");
        refused
    }

    #[test]
    fn a_cut_download_goes_on_and_the_cache_needs_no_network() {
        let hub = Hub { broken: AtomicBool::new(true), ..Hub::new(&[("config.json", b"{}"), (NAME, WEIGHTS)]) };
        let (address, hub) = hub.serve();
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::new(home.path().to_owned());
        assert!(refusal(&address, &cache, "owner/name").contains("owner/name"));
        let folder = ask(&address, &cache, "owner/name").unwrap();
        assert_eq!(fs::read(folder.join(NAME)).unwrap(), WEIGHTS);
        assert_eq!(hub.sent.load(Ordering::SeqCst), WEIGHTS.len(), "no byte was sent twice");

        assert_eq!(ask(NOBODY, &cache, "owner/name").unwrap(), folder);
        assert!(refusal(NOBODY, &cache, "owner/other").contains("owner/other"));
    }

    #[test]
    fn weights_in_parts_of_a_folder() {
        const INDEX: &str = "unet/diffusion_pytorch_model.bin.index.json";
        let index = br#"{"weight_map":{"a":"part-1.bin","b":"part-2.bin","c":"part-1.bin"}}"#;
        let files: [(&str, &[u8]); 6] = [
            ("model_index.json", b"{}"),
            ("unet/config.json", b"{}"),
            (INDEX, index),
            ("unet/part-1.bin", b"one"),
            ("unet/part-2.bin", b"two"),
            ("unet/part-3.bin", b"of another index"),
        ];
        let (address, _) = Hub::new(&files).serve();
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::new(home.path().to_owned());
        let folder = ask(&address, &cache, "owner/name").unwrap();
        assert_eq!(fs::read(folder.join("unet/part-2.bin")).unwrap(), b"two");
        assert!(!folder.join("unet/part-3.bin").exists());
        let unet = ask(&address, &cache, "owner/name/unet").unwrap();
        assert_eq!(unet, folder.join("unet"));
        assert_eq!(ask(NOBODY, &cache, "owner/name/unet").unwrap(), unet);

        // A cache that lacks a part, or whose index cannot be read, is not the whole model.
        let part = folder.join("unet/part-1.bin");
        fs::remove_file(&part).unwrap();
        assert!(refusal(NOBODY, &cache, "owner/name").contains("cannot get owner/name"));
        ask(&address, &cache, "owner/name").unwrap();
        ask(NOBODY, &cache, "owner/name").unwrap();
        fs::remove_file(folder.join(INDEX)).unwrap();
        fs::write(folder.join(INDEX), "<html>").unwrap();
        assert!(refusal(NOBODY, &cache, "owner/name").contains("cannot get owner/name"));
        assert!(refusal(&address, &cache, "owner/name").contains("is no JSON"));
    }

    #[test]
    fn what_is_not_there_or_not_right_is_a_sentence() {
        let right = Sha256::digest(WEIGHTS).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for (tag, fits) in [(right, true), ("ab".repeat(32), false)] {
            let hub = Hub { tag, ..Hub::new(&[("config.json", b"{}"), (NAME, WEIGHTS)]) };
            let (address, _) = hub.serve();
            let home = tempfile::tempdir().unwrap();
            let cache = Cache::new(home.path().to_owned());
            if fits {
                ask(&address, &cache, "owner/name").unwrap();
                continue;
            }
            for _ in 0..2 {
                let refused = refusal(&address, &cache, "owner/name");
                assert!(refused.contains(NAME) && refused.contains("SHA-256"), "{refused}");
            }
            assert!(refusal(&address, &cache, "owner/other").contains("it has no such model or revision (404)"));
            assert!(refusal(&address, &cache, "owner/name@old").contains("(404)"));
            assert!(refusal(&address, &cache, "secret/name").contains("HF_TOKEN"));
            assert!(
                refusal(&address, &cache, "owner/name/vae").contains("owner/name/vae on the hub has no config.json")
            );
        }
    }
}

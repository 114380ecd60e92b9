//! Downloads the published data sets from their authors.

use crate::{Published, PublishedFile, Source};
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};
use stein_base::{Error, Kind, Result};

/// Brings the files of the set `name` (`mnist`, `fashion_mnist`, `cifar10`) into their folder below `dir`, and returns
/// their paths. A file that is there and right is left alone; what arrives is verified before it gets its name.
/// `progress` is told the bytes received of the current transfer and, where the server says, its size in bytes.
///
/// # Errors
/// When the set is not one that is fetched, no server delivers it, what arrives is not what was published, or `dir`
/// cannot be written.
pub fn get(name: &str, dir: &Path, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<Vec<PathBuf>> {
    let sets: Vec<&Published> = Source::all().iter().filter_map(|source| source.published()).collect();
    let name = name.replace('-', "_");
    let own = || Source::named(&name).ok()?.published();
    match sets.iter().copied().find(|set| set.name == name).or_else(own) {
        Some(set) => fetch(set, set.bases, dir, progress),
        None => {
            let known: Vec<&str> = sets.iter().map(|set| set.name).collect();
            Err(Error::new(format!("`{name}` is not fetched: only {} are", known.join(", "))))
        }
    }
}

fn fetch<S: AsRef<str>>(
    set: &Published,
    bases: &[S],
    dir: &Path,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<Vec<PathBuf>> {
    let missing = || set.files.iter().filter(|file| set.find(file, Some(dir)).is_err());
    let mut trouble = None;
    for base in bases {
        let files: Vec<&PublishedFile> = missing().collect();
        if files.is_empty() {
            break;
        }
        trouble = fetch_from(set, base.as_ref(), &files, &dir.join(set.folder), progress).err();
    }
    match trouble {
        Some(trouble) => Err(trouble),
        None => set.files.iter().map(|file| Ok(set.find(file, Some(dir))?.0)).collect(),
    }
}

fn fetch_from(
    set: &Published,
    base: &str,
    files: &[&PublishedFile],
    folder: &Path,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<()> {
    let Some(archive) = set.archive else {
        for file in files {
            let url = format!("{base}{}", file.name);
            keep(set, file, &url, open(&url, progress)?, folder)?;
        }
        return Ok(());
    };
    let url = format!("{base}{archive}");
    let broken =
        |e: io::Error| Error::of(Kind::File, format!("{url} broke off or cannot be unpacked ({e}): try again"));
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(open(&url, progress)?));
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        if let Some(file) = files.iter().find(|file| path.file_name().is_some_and(|name| name == file.name)) {
            keep(set, file, &url, entry, folder)?;
        }
    }
    Ok(())
}

/// The body of `url`, counted.
fn open<'a>(url: &str, progress: &'a mut dyn FnMut(u64, Option<u64>)) -> Result<Counted<'a, impl Read + use<>>> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .build()
        .into();
    let body = agent
        .get(url)
        .header("Accept-Encoding", "identity")
        .call()
        .map_err(|e| {
            Error::of(Kind::File, format!("{url} cannot be fetched ({e}): check the network, or copy the file there"))
        })?
        .into_body();
    let total = body.content_length();
    Ok(Counted { body: body.into_reader(), done: 0, total, progress })
}

struct Counted<'a, R> {
    body: R,
    done: u64,
    total: Option<u64>,
    progress: &'a mut dyn FnMut(u64, Option<u64>),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.body.read(buffer)?;
        self.done += n as u64;
        (self.progress)(self.done, self.total);
        Ok(n)
    }
}

/// Reads `file` to its end, verifies it and puts it into `folder` under its name.
fn keep(set: &Published, file: &PublishedFile, url: &str, body: impl Read, folder: &Path) -> Result<()> {
    let mut bytes = Vec::new();
    // One byte more than published is enough to know that it is too long.
    let read = body.take(file.bytes + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::of(Kind::File, format!("{url} broke off ({e}): try again")))?;
    file.verify(&bytes, Path::new(url), set.name)?;
    let path = folder.join(file.name);
    let part = folder.join(format!("{}.{}.part", file.name, std::process::id()));
    let write = || {
        fs::create_dir_all(folder)?;
        fs::write(&part, &bytes)?;
        fs::rename(&part, &path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&part); // the first trouble is the one to tell
        Error::of(Kind::File, format!("{} cannot be written ({e}): choose another data directory", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        sync::mpsc,
    };

    /// A server of these (path, body) on this machine; returns its address and the paths asked for.
    fn serve(files: Vec<(&'static str, Vec<u8>)>) -> (String, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        let (asked, paths) = mpsc::channel();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(io::Result::ok);
                let path = lines.next().unwrap().split(' ').nth(1).unwrap()[1..].to_string();
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let (status, body) = match files.iter().find(|(name, _)| *name == path) {
                    Some((_, body)) => ("200 OK", &body[..]),
                    None => ("404 Not Found", &[][..]),
                };
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
                let _ = asked.send(path);
            }
        });
        (base, paths)
    }

    fn set(archive: Option<&'static str>, files: &[(&'static str, &[u8])]) -> Published {
        let sum = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
        let file = |&(name, bytes): &(&'static str, &[u8])| PublishedFile {
            name,
            bytes: bytes.len() as u64,
            sha256: String::leak(sum(bytes)),
        };
        let files = Vec::leak(files.iter().map(file).collect());
        Published { name: "toy", folder: "toy/bin", publisher: "http://toy.invalid/", bases: &[], archive, files }
    }

    #[test]
    fn fetches_verifies_and_skips() {
        let (a, b) = (vec![1u8; 100_000], vec![2u8; 10]);
        let toy = set(None, &[("a.gz", &a), ("b.gz", &b)]);
        // The first server has a damaged `b.gz`, the second only a whole one.
        let (first, _asked) = serve(vec![("a.gz", a.clone()), ("b.gz", vec![3; 10])]);
        let (second, asked) = serve(vec![("b.gz", b.clone())]);
        let dir = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        let alone = fetch(&toy, &[&first], dir.path(), &mut |done, total| seen.push((done, total)));
        let sentence = alone.unwrap_err().to_string();
        assert!(sentence.contains("b.gz is damaged"), "{sentence}");
        assert!(seen.contains(&(100_000, Some(100_000))));
        let folder = dir.path().join("toy/bin");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "what is damaged is not kept");

        let paths = fetch(&toy, &[&first, &second], dir.path(), &mut |_, _| ()).unwrap();
        assert_eq!(paths, [folder.join("a.gz"), folder.join("b.gz")]);
        assert_eq!(fs::read(&paths[1]).unwrap(), b);
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), ["b.gz"]);
        fetch(&toy, &[&second], dir.path(), &mut |_, _| panic!("nothing is missing")).unwrap();

        fs::write(&paths[0], b"broken").unwrap();
        let sentence = fetch(&toy, &[&second], dir.path(), &mut |_, _| ()).unwrap_err().to_string();
        assert!(sentence.contains("a.gz cannot be fetched"), "{sentence}");
        fetch(&toy, &[&first], dir.path(), &mut |_, _| ()).unwrap();
        assert_eq!(fs::read(&paths[0]).unwrap(), a, "a wrong file is replaced");
    }

    #[test]
    fn unpacks_an_archive() {
        let (a, b) = (vec![1u8; 100_000], vec![2u8; 10]);
        let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for (name, bytes) in [("top/a.bin", &a), ("top/readme.html", &b), ("top/b.bin", &b)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, &bytes[..]).unwrap();
        }
        let packed = archive.into_inner().unwrap().finish().unwrap();
        let (base, _asked) = serve(vec![("all.tar.gz", packed)]);
        let dir = tempfile::tempdir().unwrap();
        let toy = set(Some("all.tar.gz"), &[("a.bin", &a), ("b.bin", &b)]);
        let paths = fetch(&toy, &[&base], dir.path(), &mut |_, _| ()).unwrap();
        assert_eq!((fs::read(&paths[0]).unwrap(), fs::read(&paths[1]).unwrap()), (a.clone(), b));
        assert_eq!(fs::read_dir(dir.path().join("toy/bin")).unwrap().count(), 2);

        let more = set(Some("all.tar.gz"), &[("a.bin", &a), ("c.bin", &a)]);
        let sentence = fetch(&more, &[&base], dir.path(), &mut |_, _| ()).unwrap_err().to_string();
        assert!(sentence.contains("c.bin"), "{sentence}");
    }

    #[test]
    fn only_published_sets_are_fetched() {
        let sentence = get("digits", Path::new("."), &mut |_, _| ()).unwrap_err().to_string();
        assert!(sentence.contains("mnist, fashion_mnist, cifar10"), "{sentence}");
    }
}

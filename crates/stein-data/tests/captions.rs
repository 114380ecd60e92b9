//! Captions of pictures: beside them and in one file, of folders and tar files, held in memory and streamed.

use image::{GrayImage, Luma};
use std::{fs, path::Path, sync::Arc};
use stein_data::{Captions, Data, DataSet, Images, Loader, LoaderConfig, Result, Split};

fn load(path: &Path, captions: Captions, split: Split, memory: usize) -> Result<Data> {
    let cache = Some(path.join(".cache"));
    Images { path: path.into(), captions: Some(captions), memory, cache, ..Images::default() }.load(split, None)
}

/// Twenty pictures in two folders; the gray of each is its number, and so is its caption.
fn pictures(folder: &Path) {
    for class in ["a", "b"] {
        fs::create_dir(folder.join(class)).unwrap();
    }
    let mut lines = String::from("\u{feff}");
    for i in 0..20u8 {
        let name = format!("{}/{i:02}", if i % 2 == 0 { "a" } else { "b" });
        GrayImage::from_pixel(2, 2, Luma([i])).save(folder.join(&name).with_extension("png")).unwrap();
        fs::write(folder.join(&name).with_extension("txt"), format!(" gray {i}\r\n")).unwrap();
        lines += &format!("{{\"text\": \"gray {i}\", \"file_name\": \"./{name}.png\", \"more\": [1]}}\n\n");
    }
    fs::write(folder.join("metadata.jsonl"), lines).unwrap();
}

fn level(row: &[f32]) -> String {
    format!("gray {}", (255.0 * row[0]).round())
}

fn aligned(data: &Data) {
    let rows = data.all_rows().unwrap();
    let levels: Vec<String> = rows.chunks(data.dim()).map(level).collect();
    assert_eq!(data.captions().unwrap(), levels);
}

#[test]
fn captions_stay_with_their_pictures() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    for captions in [Captions::Text, Captions::Metadata] {
        for (split, count) in [(Split::Train, 18), (Split::Test, 2)] {
            for memory in [512, 0] {
                let data = load(dir.path(), captions, split, memory).unwrap();
                assert_eq!((data.len(), data.is_held()), (count, memory > 0));
                aligned(&data);
                aligned(&data.clone().of_classes(&["b".into()]).unwrap());
                // A shuffled batch says by `index` which samples it has.
                let config = LoaderConfig { seed: 5, ..LoaderConfig::default() };
                let data = Arc::new(data);
                let batch = Loader::new(Arc::clone(&data), config).unwrap().batch(0, 40).unwrap();
                for (x, &i) in batch.x.chunks(data.dim()).zip(&batch.index) {
                    assert_eq!(data.caption(i), Some(level(x).as_str()));
                }
            }
        }
    }
    // What is read is not left out: of either kind the other's files are.
    let notes = |captions| load(dir.path(), captions, Split::Train, 512).unwrap().notes.concat();
    assert!(notes(Captions::Text).contains(": 1 .jsonl") && !notes(Captions::Text).contains(".txt"));
    assert!(notes(Captions::Metadata).contains(": 20 .txt") && !notes(Captions::Metadata).contains(".jsonl"));

    // The same of a tar file.
    let file = dir.path().join("all.tar");
    let mut builder = tar::Builder::new(fs::File::create(&file).unwrap());
    for name in ["a", "b"] {
        builder.append_dir_all(format!("top/{name}"), dir.path().join(name)).unwrap();
    }
    builder.append_path_with_name(dir.path().join("metadata.jsonl"), "top/metadata.jsonl").unwrap();
    builder.finish().unwrap();
    for captions in [Captions::Text, Captions::Metadata] {
        let packed = Images { path: file.clone(), captions: Some(captions), ..Images::default() };
        let packed = packed.load(Split::Train, None).unwrap();
        assert_eq!(packed.len(), 18);
        aligned(&packed);
    }
}

#[test]
fn what_is_missing_or_broken_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let said = |captions| load(path, captions, Split::Train, 512).unwrap_err().to_string();
    let says = |captions, parts: &[&str]| {
        let sentence = said(captions);
        assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
    };
    for i in 0..4u8 {
        GrayImage::from_pixel(2, 2, Luma([i])).save(path.join(format!("{i}.png"))).unwrap();
        fs::write(path.join(format!("{i}.txt")), "gray").unwrap();
    }
    fs::remove_file(path.join("3.txt")).unwrap();
    fs::write(path.join("1.txt"), " \n").unwrap();
    // It is said before pictures are read.
    fs::write(path.join("0.png"), "no picture").unwrap();
    says(Captions::Text, &["2 of 4 pictures have no caption, the first is 1.png"]);
    fs::write(path.join("2.txt"), [0xff, 0xfe]).unwrap();
    says(Captions::Text, &["2.txt cannot be read as a caption", "utf-8"]);

    says(Captions::Metadata, &["metadata.jsonl cannot be read", "file_name"]);
    let line = |i: usize| format!("{{\"file_name\": \"{i}.png\", \"text\": \"gray\"}}\n");
    let write = |text: String| fs::write(path.join("metadata.jsonl"), text).unwrap();
    write(line(0) + &line(2));
    says(Captions::Metadata, &["2 of 4 pictures have no caption, the first is 1.png"]);
    write(line(0) + "\n{\"file_name\": \"1.png\"}\n");
    says(Captions::Metadata, &["line 3 of metadata.jsonl", "missing field `text`): mend it"]);
    write(line(0) + "no json\n");
    says(Captions::Metadata, &["line 2 of metadata.jsonl"]);
    write(line(0) + &line(0));
    says(Captions::Metadata, &["line 2 of metadata.jsonl has another caption for 0.png"]);

    GrayImage::new(2, 2).save(path.join("0.png")).unwrap();
    write((0..6).map(line).collect());
    let notes = load(path, Captions::Metadata, Split::Train, 512).unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("captions of 2 pictures that are not here")), "{notes:?}");

    let array = Images { path: "a.npy".into(), captions: Some(Captions::Text), ..Images::default() };
    assert!(array.load(Split::Train, None).unwrap_err().to_string().contains("leave out `captions`"));
    let own = Data::from_rows("own", vec!["x".into()], vec![1.0, 2.0], None, Vec::new()).unwrap();
    assert!(own.clone().captioned(vec!["one".into()]).unwrap_err().to_string().contains("1 captions for 2 samples"));
    assert_eq!((own.captions(), own.caption(0)), (None, None));
}

#[test]
fn the_key_is_a_word() {
    let images: Images = toml::from_str("path = 'a'\ncaptions = 'metadata'").unwrap();
    assert_eq!(images.captions, Some(Captions::Metadata));
    assert!(toml::from_str::<Images>("path = 'a'\ncaptions = 'json'").is_err());
}

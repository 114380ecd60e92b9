//! Folders and tar files that are read as they are used.

use image::{Rgb, RgbImage};
use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::Path,
    sync::Arc,
};
use stein_data::{Ahead, Data, DataSet, Images, Loader, LoaderConfig, Result, Split};

const COUNT: usize = 40;

/// Pictures of several sizes in two classes.
fn pictures(folder: &Path) {
    for i in 0..COUNT as u32 {
        let class = folder.join(["apes", "cats"][i as usize % 2]);
        fs::create_dir_all(&class).unwrap();
        let value = |x, y| Rgb([(7 * x + i) as u8, (5 * y + 3 * i) as u8, (x * y) as u8]);
        RgbImage::from_fn(20 + i % 3, 24, value).save(class.join(format!("{i:02}.png"))).unwrap();
    }
}

fn held(path: &Path) -> Images {
    Images { path: path.into(), height: Some(8), width: Some(8), ..Images::default() }
}

fn stream(path: &Path, cache: &Path) -> Images {
    Images { memory: 0, cache: Some(cache.into()), ..held(path) }
}

fn load(images: &Images) -> Data {
    images.load(Split::Train, None).unwrap()
}

/// The one file of a cache.
fn cache_file(cache: &Path) -> std::path::PathBuf {
    let files: Vec<_> = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn a_stream_is_the_set_in_memory() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = dir.path().join("set");
    pictures(&folder);
    let tar = dir.path().join("set.tar");
    let mut archive = tar::Builder::new(fs::File::create(&tar).unwrap());
    archive.append_dir_all("top", &folder).unwrap();
    archive.finish().unwrap();

    for path in [&folder, &tar] {
        let cache = cache.path().join(path.extension().map_or("folder", |_| "tar"));
        for split in [Split::Train, Split::Test] {
            let (held, stream) = (held(path), stream(path, &cache));
            let (held, stream) = (held.load(split, None).unwrap(), stream.load(split, None).unwrap());
            assert!(held.is_held() && !stream.is_held());
            assert_eq!((held.shape, held.len(), held.levels()), (stream.shape, stream.len(), stream.levels()));
            assert_eq!(
                (&held.labels, &held.class_names, &held.name),
                (&stream.labels, &stream.class_names, &stream.name)
            );
            assert_eq!(held.all_rows(), stream.all_rows());
            assert_eq!(held.moments(), stream.moments());
            // Of a stream the distance is one of values, in memory one of integers.
            assert!((held.distance(0, 2).unwrap() - stream.distance(0, 2).unwrap()).abs() < 1e-6);
        }
        cache_file(&cache); // one for both splits
    }
}

#[test]
fn what_is_in_the_cache_is_not_decoded() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pictures(dir.path());
    let first = load(&stream(dir.path(), cache.path()));
    let rows = first.all_rows().unwrap();
    let again = load(&stream(dir.path(), cache.path()));
    for class in ["apes", "cats"] {
        fs::remove_dir_all(dir.path().join(class)).unwrap();
    }
    assert_eq!(again.all_rows(), Ok(rows.clone()));
    // What a killed process left half written is not there: its picture is decoded again, and is gone.
    let file = cache_file(cache.path());
    let size = fs::metadata(&file).unwrap().len();
    let mut bytes = fs::read(&file).unwrap();
    bytes[8 + 50] ^= 1; // a value of the first record
    fs::write(&file, bytes).unwrap();
    let mut row = vec![0.0; again.dim()];
    let sentence = again.row(0, &mut row).unwrap_err().to_string();
    assert!(sentence.contains("apes/00.png"), "{sentence}");
    assert!(again.row(1, &mut row).is_ok());
    assert_eq!(row, rows[again.dim()..2 * again.dim()]);
    fs::File::options().write(true).open(&file).unwrap().set_len(size / 2).unwrap();
    assert!(again.row(1, &mut row).is_ok() && again.row(again.len() - 1, &mut row).is_err());
}

#[test]
fn a_damaged_cache_mends_itself() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pictures(dir.path());
    let rows = load(&held(dir.path())).all_rows();
    assert_eq!(load(&stream(dir.path(), cache.path())).all_rows(), rows);
    let file = cache_file(cache.path());
    let whole = fs::read(&file).unwrap();
    for damage in [vec![0; whole.len()], vec![0xff; whole.len()], whole[..whole.len() / 3].to_vec(), Vec::new()] {
        fs::write(&file, damage).unwrap();
        assert_eq!(load(&stream(dir.path(), cache.path())).all_rows(), rows);
        // Records of the training split, as they were; those of the test split were never written.
        assert_eq!(fs::read(&file).unwrap().len(), whole.len());
        assert_eq!(load(&stream(dir.path(), cache.path())).all_rows(), rows);
    }
}

#[test]
fn other_files_and_other_settings_are_other_caches() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pictures(dir.path());
    load(&stream(dir.path(), cache.path())).all_rows().unwrap();
    let gray = Images { channels: Some(1), ..stream(dir.path(), cache.path()) };
    let gray_in_memory = Images { memory: 512, ..gray.clone() };
    assert_eq!(load(&gray).all_rows(), load(&gray_in_memory).all_rows());
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 2);
    // A picture that is replaced.
    RgbImage::from_pixel(20, 24, Rgb([200, 100, 0])).save(dir.path().join("apes/00.png")).unwrap();
    assert_eq!(load(&stream(dir.path(), cache.path())).all_rows(), load(&held(dir.path())).all_rows());
}

#[test]
fn several_readers_share_a_cache() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pictures(dir.path());
    let rows = load(&held(dir.path())).all_rows().unwrap();
    // Each opens the file for itself, as a process would, while one keeps spoiling it.
    let images = stream(dir.path(), cache.path());
    load(&images);
    let file = cache_file(cache.path());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(load(&images).all_rows().unwrap(), rows)));
        }
        scope.spawn(|| {
            let size = fs::metadata(&file).unwrap().len() as usize;
            let mut scribble = fs::File::options().write(true).open(&file).unwrap();
            for k in 0..400 {
                let at = (k * 7919) % (size - 13);
                scribble.seek(SeekFrom::Start(at as u64)).unwrap();
                scribble.write_all(&[k as u8; 13]).unwrap();
            }
        });
    });
}

#[test]
fn without_a_cache_all_is_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("set");
    pictures(&folder);
    // A file stands where the folder of the cache should be.
    let blocked = dir.path().join("blocked");
    fs::write(&blocked, "").unwrap();
    let data = load(&stream(&folder, &blocked));
    for _ in 0..2 {
        assert_eq!(data.all_rows(), load(&held(&folder)).all_rows());
    }
}

#[test]
fn a_bad_picture_is_met_in_its_batch_and_named() -> Result<()> {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pictures(dir.path());
    // The head is whole, the pixels are not: only decoding tells.
    let path = dir.path().join("cats/05.png");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    let sentence = held(dir.path()).load(Split::Train, None).unwrap_err().to_string();
    assert!(sentence.contains("cats/05.png cannot be read"), "{sentence}");

    let data = Arc::new(load(&stream(dir.path(), cache.path())));
    let n = data.len();
    let mut loader = Loader::new(data, LoaderConfig { seed: 3, flip: true, ..LoaderConfig::default() })?;
    let mut ahead = Ahead::new(loader.clone(), 0, 6, 3);
    let batches: Vec<_> = (0..n.div_ceil(6)).map(|_| ahead.next()).collect();
    for (k, batch) in batches.iter().enumerate() {
        assert_eq!(*batch, loader.batch(6 * k as u64, 6));
    }
    let bad: Vec<_> = batches.iter().filter_map(|batch| batch.as_ref().err()).collect();
    assert!(bad.len() == 1 && bad[0].to_string().contains("cats/05.png"), "{bad:?}");
    Ok(())
}

#[test]
fn a_tar_file_that_is_cut_short_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("set");
    pictures(&folder);
    let tar = dir.path().join("set.tar");
    let mut archive = tar::Builder::new(fs::File::create(&tar).unwrap());
    archive.append_dir_all("top", &folder).unwrap();
    archive.finish().unwrap();
    let bytes = fs::read(&tar).unwrap();
    let last = bytes.windows(7).rposition(|w| w == b".png\0\0\0").unwrap();
    fs::write(&tar, &bytes[..last - last % 512 + 600]).unwrap();
    let sentence = held(&tar).load(Split::Train, None).unwrap_err().to_string();
    assert!(sentence.contains("set.tar") && sentence.contains("ends in the middle of"), "{sentence}");
}

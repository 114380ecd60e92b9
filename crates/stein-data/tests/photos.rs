//! Folders as cameras, downloads and people leave them: turned pictures, cut ones, huge ones, and what is no picture.

use image::{
    DynamicImage, ExtendedColorType, GrayImage, ImageEncoder, Luma, Rgb, RgbImage,
    codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder},
    metadata::Orientation,
};
use std::{fs, io::Cursor, path::Path};
use stein_data::{Data, DataSet, Images, Result, Split};
use tiff::{
    encoder::{TiffEncoder, colortype},
    tags::Tag,
};

fn images(path: &Path) -> Images {
    Images { path: path.into(), test_fraction: 0.0, ..Images::default() }
}

fn load(path: &Path) -> Result<Data> {
    images(path).load(Split::Train, None)
}

/// A picture in which all corners and edges differ.
fn photo() -> RgbImage {
    RgbImage::from_fn(24, 16, |x, y| Rgb([(10 * x) as u8, (15 * y) as u8, (x * y) as u8]))
}

/// Exif data that say how a picture is turned.
fn exif(turn: u8) -> Vec<u8> {
    [&b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"[..], &[turn, 0, 0, 0], &[0; 4]].concat()
}

fn encoded(ending: &str, turn: u8) -> Vec<u8> {
    let (mut bytes, photo) = (Vec::new(), photo());
    match ending {
        "jpg" => {
            let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
            encoder.set_exif_metadata(exif(turn)).unwrap();
            encoder.write_image(&photo, 24, 16, ExtendedColorType::Rgb8).unwrap();
        }
        "png" => {
            let mut encoder = PngEncoder::new(&mut bytes);
            encoder.set_exif_metadata(exif(turn)).unwrap();
            encoder.write_image(&photo, 24, 16, ExtendedColorType::Rgb8).unwrap();
        }
        "webp" => {
            let mut encoder = WebPEncoder::new_lossless(&mut bytes);
            encoder.set_exif_metadata(exif(turn)).unwrap();
            encoder.write_image(&photo, 24, 16, ExtendedColorType::Rgb8).unwrap();
        }
        _ => {
            let mut file = Cursor::new(&mut bytes);
            let mut encoder = TiffEncoder::new(&mut file).unwrap();
            let mut image = encoder.new_image::<colortype::RGB8>(24, 16).unwrap();
            image.encoder().write_tag(Tag::Orientation, u16::from(turn)).unwrap();
            image.write_data(&photo).unwrap();
        }
    }
    bytes
}

/// A chunk of a PNG.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut sum = flate2::Crc::new();
    sum.update(kind);
    sum.update(data);
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &sum.sum().to_be_bytes()].concat()
}

#[test]
fn pictures_are_turned_as_they_are_shown() {
    for ending in ["jpg", "png", "webp", "tif"] {
        for turn in 1..=8 {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(format!("a.{ending}")), encoded(ending, turn)).unwrap();
            // The reference: the same pixels turned by `image`.
            let plain = encoded(ending, 1);
            let mut expected = match ending {
                "tif" => DynamicImage::from(photo()),
                _ => image::load_from_memory(&plain).unwrap(),
            };
            expected.apply_orientation(Orientation::from_exif(turn).unwrap());
            let data = load(dir.path()).unwrap();
            let (width, height) = (expected.width() as usize, expected.height() as usize);
            assert_eq!(data.shape.dims(), [height, width, 3], "{ending} {turn}");
            let expected: Vec<f32> = expected.into_rgb8().into_raw().iter().map(|&v| f32::from(v) / 255.0).collect();
            assert_eq!(data.all_rows().unwrap(), expected, "{ending} {turn}");
            let small = Images { height: Some(5), width: Some(5), channels: Some(3), memory: 0, ..images(dir.path()) };
            let small = Images { cache: Some(dir.path().join("cache")), ..small }.load(Split::Train, None).unwrap();
            assert_eq!(small.all_rows().unwrap().len(), 75);
        }
    }
    // What is stored first, at the top left, is shown at the top right: a telephone held upright.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.png"), encoded("png", 6)).unwrap();
    let rows = load(dir.path()).unwrap().all_rows().unwrap();
    assert_eq!(rows[15 * 3..16 * 3], [0.0; 3]);
}

#[test]
fn a_png_may_say_it_behind_its_pixels() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    photo().write_with_encoder(PngEncoder::new(&mut bytes)).unwrap();
    let end = bytes.len() - 12;
    let late = [&bytes[..end], &chunk(b"eXIf", &exif(8)), &bytes[end..]].concat();
    fs::write(dir.path().join("a.png"), late).unwrap();
    assert_eq!(load(dir.path()).unwrap().shape.dims(), [24, 16, 3]);
}

#[test]
fn what_is_cut_short_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for ending in ["jpg", "png", "webp", "tif"] {
        let (path, whole) = (dir.path().join(format!("a.{ending}")), encoded(ending, 1));
        fs::write(&path, &whole).unwrap();
        load(dir.path()).unwrap();
        for keep in [whole.len() - 5, whole.len() * 9 / 10, whole.len() / 2, 50, 9, 1, 0] {
            fs::write(&path, &whole[..keep]).unwrap();
            let Err(said) = load(dir.path()) else { panic!("{keep} bytes of {ending} were taken") };
            let said = said.to_string();
            assert!(said.contains(&format!("a.{ending} cannot be read as a picture")), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_is_left_out_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.gif", "b.GIF", "c.txt", "README", ".hidden.png"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    for folder in ["cats", "dogs", "none"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
    }
    for name in ["cats/a.png", "dogs/b.PNG"] {
        photo().save_with_format(dir.path().join(name), image::ImageFormat::Png).unwrap();
    }
    let data = load(dir.path()).unwrap();
    assert_eq!(
        (data.len(), &data.class_names[..], data.class_counts()),
        (2, &["cats".into(), "dogs".into()][..], vec![1, 1])
    );
    let said = data.notes.join("\n");
    for part in [
        "2 .gif",
        "1 .txt",
        "1 without an ending",
        "1 hidden",
        "without a picture: none",
        "2 samples to train on, 0 held",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[cfg(unix)]
#[test]
fn links_in_circles_pipes_and_other_names() {
    use std::{
        ffi::OsStr,
        os::unix::{ffi::OsStrExt, fs::symlink, net::UnixListener},
    };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let gray =
        |path: &Path| GrayImage::from_pixel(4, 4, Luma([7])).save_with_format(path, image::ImageFormat::Png).unwrap();
    for class in ["a", "b"] {
        fs::create_dir(at(class)).unwrap();
        gray(&at(class).join("1.png"));
    }
    symlink(dir.path(), at("a/up")).unwrap();
    symlink(dir.path(), at("b/up")).unwrap();
    symlink(at("b"), at("a/beside")).unwrap();
    symlink(at("a"), at("b/beside")).unwrap();
    // From outside, and to one file.
    let other = tempfile::tempdir().unwrap();
    gray(&other.path().join("1.png"));
    symlink(other.path(), at("c")).unwrap();
    symlink(other.path().join("1.png"), at("c2.png")).unwrap();
    fs::rename(at("c2.png"), at("a/2.png")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("a/pipe.png")).status().unwrap().success());
    let _socket = UnixListener::bind(at("a/socket.png")).unwrap();
    let latin = dir.path().join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&latin).unwrap();
    gray(&latin.join(OsStr::from_bytes(b"\xff.png")));

    let data = load(dir.path()).unwrap();
    assert_eq!(data.class_names, ["a", "b", "c", "caf\\xE9"]);
    assert_eq!(data.class_counts(), [2, 1, 1, 1]);
    let said = data.notes.join("\n");
    assert!(
        said.contains("2 that are no files") && said.contains("4 links to folders that are read already"),
        "{said}"
    );

    // As the set itself, and in place of an array or a table.
    let said = load(&at("a/pipe.png")).unwrap_err().to_string();
    assert!(said.contains("is a pipe"), "{said}");
    for name in ["p.csv", "p.npy", "p.npz"] {
        assert!(std::process::Command::new("mkfifo").arg(at(name)).status().unwrap().success());
        let table = stein_data::Table { path: at(name), ..stein_data::Table::default() };
        assert!(table.load(Split::Train, None).unwrap_err().to_string().contains("is a pipe"));
    }
    // A link that leads nowhere is no picture.
    symlink(at("nowhere"), at("a/3.png")).unwrap();
    assert!(load(dir.path()).unwrap_err().to_string().contains("3.png cannot be read"));
}

#[test]
fn huge_pictures_are_refused_with_their_size() {
    let dir = tempfile::tempdir().unwrap();
    let side = 50_000u32.to_be_bytes();
    let head = [&side[..], &side, &[8, 2, 0, 0, 0]].concat();
    let png = [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &head), &chunk(b"IDAT", &[0; 20]), &chunk(b"IEND", &[])];
    fs::write(dir.path().join("a.png"), png.concat()).unwrap();
    let said = load(dir.path()).unwrap_err().to_string();
    assert!(said.contains("50000x50000 pixels") && said.contains("MiB"), "{said}");

    // The size of a JPEG stands behind its marker ff c0.
    let mut jpeg = encoded("jpg", 1);
    let at = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[at + 5..at + 9].fill(0xff);
    fs::write(dir.path().join("a.png"), jpeg).unwrap();
    let sized = Images { height: Some(4), width: Some(4), channels: Some(3), ..images(dir.path()) };
    for images in [images(dir.path()), sized] {
        let said = images.load(Split::Train, None).unwrap_err().to_string();
        assert!(said.contains("65535x65535 pixels"), "{said}");
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    photo().save(dir.path().join("a.png")).unwrap();
    for (height, width) in [(1 << 32, 1 << 32), (100_000, 100_000), (usize::MAX, 2), (1 << 40, 1), (1, 1 << 31)] {
        let sized = Images { height: Some(height), width: Some(width), ..images(dir.path()) };
        let said = sized.load(Split::Train, None).unwrap_err().to_string();
        assert!(said.contains("give a smaller `height` and `width`"), "{said}");
    }
    let many = Images { channels: Some(1 << 60), ..images(dir.path()) };
    assert!(many.load(Split::Train, None).is_err());
}

#[test]
fn the_later_of_two_in_a_tar_file_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let mut tar = tar::Builder::new(fs::File::create(&path).unwrap());
    for value in [10, 20] {
        let mut bytes = Vec::new();
        GrayImage::from_pixel(2, 2, Luma([value])).write_with_encoder(PngEncoder::new(&mut bytes)).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "a.png", &bytes[..]).unwrap();
    }
    tar.finish().unwrap();
    let data = load(&path).unwrap();
    assert_eq!(data.all_rows().unwrap(), [20.0 / 255.0; 4]);
    assert!(data.notes[0].contains("1 replaced"), "{:?}", data.notes);
}

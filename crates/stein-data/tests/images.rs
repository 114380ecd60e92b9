//! Folders and tar files of pictures.

use image::{GrayImage, Luma, Rgb, RgbImage};
use std::{fs, path::Path};
use stein_data::{Images, Result, Shape, Source, Split};

fn images(path: &Path) -> Images {
    Images { path: path.into(), ..Images::default() }
}

fn load(images: Images, split: Split) -> Result<stein_data::Data> {
    Source::Images(images).load(split, None)
}

fn gray(path: &Path, width: u32, height: u32) {
    GrayImage::from_fn(width, height, |x, y| Luma([(10 * y + x) as u8])).save(path).unwrap();
}

#[test]
fn oblong_gray_pictures_without_classes() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20 {
        gray(&dir.path().join(format!("{i:02}.png")), 6, 4);
    }
    fs::write(dir.path().join("notes.txt"), "not a picture").unwrap();
    let train = load(images(dir.path()), Split::Train).unwrap();
    let test = load(images(dir.path()), Split::Test).unwrap();
    assert_eq!((train.len(), test.len(), train.labels.is_none(), train.levels()), (18, 2, true, Some(256)));
    assert_eq!(train.shape, Shape::Image { height: 4, width: 6, channels: 1 });
    let expected: Vec<f32> = (0..24).map(|p| (10 * (p / 6) + p % 6) as f32 / 255.0).collect();
    assert_eq!(&train.all_rows().unwrap()[..24], &expected[..]);

    gray(&dir.path().join("20.png"), 8, 8);
    let sentence = load(images(dir.path()), Split::Train).unwrap_err().to_string();
    assert!(sentence.contains("20.png is 8x8") && sentence.contains("00.png is 6x4"), "{sentence}");
    let sized = Images { height: Some(2), width: Some(2), channels: Some(3), ..images(dir.path()) };
    let data = load(sized, Split::Train).unwrap();
    assert_eq!((data.len(), data.shape), (19, Shape::Image { height: 2, width: 2, channels: 3 }));
    let huge = Images { height: Some(usize::MAX), width: Some(2), ..images(dir.path()) };
    assert!(load(huge, Split::Train).unwrap_err().to_string().contains("give a smaller"));
}

#[test]
fn the_center_is_cut_to_the_aspect() {
    let dir = tempfile::tempdir().unwrap();
    // Black, but for a white square in the middle third.
    let wide = GrayImage::from_fn(12, 4, |x, _| Luma([if (4..8).contains(&x) { 255 } else { 0 }]));
    wide.save(dir.path().join("a.png")).unwrap();
    let sized = Images { height: Some(2), width: Some(2), test_fraction: 0.0, ..images(dir.path()) };
    assert_eq!(load(sized, Split::Train).unwrap().all_rows().unwrap(), [1.0; 4]);
}

#[test]
fn classes_and_color() {
    let dir = tempfile::tempdir().unwrap();
    for class in ["cats", "apes"] {
        fs::create_dir(dir.path().join(class)).unwrap();
        for i in 0..5 {
            gray(&dir.path().join(class).join(format!("{i}.png")), 3, 3);
        }
    }
    let all = Images { test_fraction: 0.0, ..images(dir.path()) };
    let data = load(all.clone(), Split::Train).unwrap();
    assert_eq!(data.shape.dims(), [3, 3, 1]);
    assert_eq!(data.class_names, ["apes", "cats"]);
    assert_eq!(data.labels.unwrap(), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);

    // One picture in color makes all of them three channels.
    RgbImage::from_pixel(3, 3, Rgb([255, 0, 51])).save(dir.path().join("apes/9.webp")).unwrap();
    let data = load(all.clone(), Split::Train).unwrap();
    assert_eq!((data.shape.dims(), data.len()), (vec![3, 3, 3], 11));
    let mut row = [0.0; 27];
    data.row(5, &mut row).unwrap();
    assert_eq!(row[..3], [1.0, 0.0, 0.2]);

    gray(&dir.path().join("stray.png"), 3, 3);
    assert!(load(all.clone(), Split::Train).unwrap_err().to_string().contains("beside and inside"));
    fs::remove_file(dir.path().join("stray.png")).unwrap();
    fs::write(dir.path().join("apes/0.png"), b"no picture").unwrap();
    assert!(load(all, Split::Train).unwrap_err().to_string().contains("apes/0.png cannot be read"));
}

#[test]
fn a_folder_without_pictures() {
    let dir = tempfile::tempdir().unwrap();
    assert!(load(images(dir.path()), Split::Train).unwrap_err().to_string().contains("holds no png"));
    let absent = load(images(&dir.path().join("absent")), Split::Train).unwrap_err().to_string();
    assert!(absent.contains("absent is neither a folder, a picture nor"), "{absent}");
}

#[test]
fn a_tar_file_is_the_folder_in_it() {
    let tar = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/flowers64/flowers64.tar");
    if !tar.is_file() {
        println!("skipped: flowers64 is not here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    tar::Archive::new(fs::File::open(&tar).unwrap()).unpack(dir.path()).unwrap();
    let packed = load(images(&tar), Split::Test).unwrap();
    assert_eq!(packed, load(images(&dir.path().join("flowers64")), Split::Test).unwrap());
    assert_eq!((packed.len(), packed.shape.dims()), (200, vec![64, 64, 3]));
    assert_eq!(packed.class_names, ["daisy", "dandelion", "roses", "sunflowers", "tulips"]);
    assert!((0..5).all(|class| packed.labels.as_ref().unwrap().iter().filter(|&&l| l == class).count() == 40));
}

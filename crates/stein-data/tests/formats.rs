//! Pictures beyond 8 bits and three channels: TIFF, 16-bit PNG, and arrays.

mod common;

use common::{npy, npz};
use image::{ImageBuffer, Luma, Rgb};
use npyz::Order;
use std::{fs, io::Cursor, path::Path};
use stein_data::{Data, DataSet, Images, Result, Shape, Split};
use tiff::{
    encoder::{TiffEncoder, TiffValue},
    tags::Tag,
};

fn images(path: &Path) -> Images {
    Images { path: path.into(), test_fraction: 0.0, ..Images::default() }
}

/// In memory and as a stream, which must be the same.
fn load(images: &Images) -> Result<Data> {
    let dir = tempfile::tempdir().unwrap();
    let data = images.load(Split::Train, None)?;
    let stream = Images { memory: 0, cache: Some(dir.path().into()), ..images.clone() }.load(Split::Train, None)?;
    for _ in 0..2 {
        assert_eq!(data.all_rows(), stream.all_rows(), "decoded, and then from the cache");
    }
    assert_eq!((data.levels(), data.shape, &data.labels), (stream.levels(), stream.shape, &stream.labels));
    Ok(data)
}

const UNSIGNED: u16 = 1;
const SIGNED: u16 = 2;
const FLOAT: u16 = 3;

/// An uncompressed TIFF of `bands` gray bands with the values in the order in which they are stored: `[H, W, bands]`,
/// or `[bands, H, W]` if planar.
fn tiff<T>(path: &Path, [height, width, bands]: [usize; 3], planar: bool, format: u16, values: &[T])
where
    [T]: TiffValue,
{
    let mut bytes = Cursor::new(Vec::new());
    let mut encoder = TiffEncoder::new(&mut bytes).unwrap();
    let mut directory = encoder.image_directory().unwrap();
    let planes = if planar { bands } else { 1 };
    let strips: Vec<u32> =
        values.chunks(values.len() / planes).map(|plane| directory.write_data(plane).unwrap() as u32).collect();
    let size = size_of_val(values);
    let counts = vec![(size / planes) as u32; planes];
    let bits = vec![8 * size_of::<T>() as u16; bands];
    directory.write_tag(Tag::ImageWidth, width as u32).unwrap();
    directory.write_tag(Tag::ImageLength, height as u32).unwrap();
    directory.write_tag(Tag::BitsPerSample, &bits[..]).unwrap();
    directory.write_tag(Tag::Compression, 1u16).unwrap();
    directory.write_tag(Tag::PhotometricInterpretation, 1u16).unwrap(); // black is zero
    directory.write_tag(Tag::SamplesPerPixel, bands as u16).unwrap();
    directory.write_tag(Tag::RowsPerStrip, height as u32).unwrap();
    directory.write_tag(Tag::StripOffsets, &strips[..]).unwrap();
    directory.write_tag(Tag::StripByteCounts, &counts[..]).unwrap();
    directory.write_tag(Tag::PlanarConfiguration, if planar { 2u16 } else { 1 }).unwrap();
    directory.write_tag(Tag::SampleFormat, &vec![format; bands][..]).unwrap();
    directory.finish().unwrap();
    fs::write(path, bytes.into_inner()).unwrap();
}

#[test]
fn sixteen_bits_keep_their_levels() {
    let dir = tempfile::tempdir().unwrap();
    let level = |x: u32, y: u32| (20_000 * y + 1000 * x + 7) as u16;
    ImageBuffer::from_fn(4, 3, |x, y| Luma([level(x, y)])).save(dir.path().join("a.png")).unwrap();
    let expected: Vec<u16> = (0..12).map(|p| level(p % 4, p / 4)).collect();
    tiff(&dir.path().join("b.tif"), [3, 4, 1], false, UNSIGNED, &expected);
    let data = load(&images(dir.path())).unwrap();
    assert_eq!((data.shape, data.levels()), (Shape::Image { height: 3, width: 4, channels: 1 }, Some(65536)));
    let expected: Vec<f32> = expected.iter().map(|&v| f32::from(v) / 65535.0).collect();
    assert_eq!(data.all_rows().unwrap(), [&expected[..], &expected].concat());
    assert_eq!(data.distance(0, 1), Ok(0.0));

    // In color, and made gray.
    ImageBuffer::from_pixel(4, 3, Rgb([65535u16, 0, 13107])).save(dir.path().join("c.png")).unwrap();
    let data = load(&images(dir.path())).unwrap();
    assert_eq!(data.shape.dims(), [3, 4, 3]);
    let rows = data.all_rows().unwrap();
    assert_eq!((&rows[..3], &rows[72..75]), (&[expected[0]; 3][..], &[1.0, 0.0, 0.2][..]));
    let gray = load(&Images { channels: Some(1), ..images(dir.path()) }).unwrap();
    assert_eq!(gray.all_rows().unwrap()[..12], expected[..]);
}

#[test]
fn floats_keep_their_values() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..12).map(|v| v as f32 * 100.0 - 500.5).collect();
    tiff(&dir.path().join("a.tiff"), [3, 4, 1], false, FLOAT, &values);
    let doubles: Vec<f64> = values.iter().map(|&v| v.into()).collect();
    tiff(&dir.path().join("b.tif"), [3, 4, 1], false, FLOAT, &doubles);
    let data = load(&images(dir.path())).unwrap();
    assert_eq!((data.levels(), data.shape.dims()), (None, vec![3, 4, 1]));
    assert_eq!(data.all_rows().unwrap(), [&values[..], &values].concat());

    tiff(&dir.path().join("c.tif"), [3, 4, 1], false, FLOAT, &[f32::NAN; 12]);
    let sentence = load(&images(dir.path())).unwrap_err().to_string();
    assert!(sentence.contains("c.tif") && sentence.contains("not finite"), "{sentence}");
}

#[test]
fn any_number_of_bands_chunky_and_planar() {
    let dir = tempfile::tempdir().unwrap();
    for bands in [1, 2, 3, 4, 5, 12] {
        let [chunky, planar] = ["a.tif", "b.tif"].map(|name| dir.path().join(name));
        let value = |pixel: usize, band: usize| (20 * pixel + band) as u8;
        let by_pixel: Vec<u8> = (0..6 * bands).map(|k| value(k / bands, k % bands)).collect();
        let by_band: Vec<u8> = (0..6 * bands).map(|k| value(k % 6, k / 6)).collect();
        tiff(&chunky, [2, 3, bands], false, UNSIGNED, &by_pixel);
        tiff(&planar, [2, 3, bands], true, UNSIGNED, &by_band);
        let data = load(&images(dir.path())).unwrap();
        assert_eq!((data.shape.dims(), data.levels()), (vec![2, 3, bands], Some(256)));
        let expected: Vec<f32> = by_pixel.iter().map(|&v| f32::from(v) / 255.0).collect();
        assert_eq!(data.all_rows().unwrap(), [&expected[..], &expected].concat(), "{bands} bands");
        let large = load(&Images { height: Some(4), width: Some(6), ..images(dir.path()) }).unwrap();
        assert_eq!((large.shape.dims(), large.len()), (vec![4, 6, bands], 2));
    }
    let seven = load(&Images { channels: Some(7), ..images(dir.path()) }).unwrap_err().to_string();
    assert!(seven.contains("12 channels, which cannot become 7"), "{seven}");
}

#[test]
fn compressed_color() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<u8> = (0..4 * 5 * 4).map(|v| v as u8 * 3).collect();
    let mut bytes = Cursor::new(Vec::new());
    let compression = tiff::encoder::Compression::Deflate(Default::default());
    let mut encoder = TiffEncoder::new(&mut bytes).unwrap().with_compression(compression);
    encoder.write_image::<tiff::encoder::colortype::RGBA8>(5, 4, &values).unwrap();
    fs::write(dir.path().join("a.tif"), bytes.into_inner()).unwrap();
    let data = load(&images(dir.path())).unwrap();
    // Transparency is dropped.
    let expected: Vec<f32> = values.chunks(4).flat_map(|p| &p[..3]).map(|&v| f32::from(v) / 255.0).collect();
    assert_eq!((data.shape.dims(), data.all_rows().unwrap()), (vec![4, 5, 3], expected));
}

#[test]
fn what_does_not_belong_together_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.png"), dir.path().join("b.tif"));
    ImageBuffer::from_pixel(2, 2, Luma([1u8])).save(&a).unwrap();
    let sentence = |images: Images| load(&images).unwrap_err().to_string();
    tiff(&b, [2, 2, 1], false, UNSIGNED, &[1u16; 4]);
    let said = sentence(images(dir.path()));
    assert!(said.contains("b.tif is 16-bit where a.png is 8-bit"), "{said}");
    tiff(&b, [2, 2, 1], false, FLOAT, &[1f32; 4]);
    let said = sentence(Images { height: Some(2), width: Some(2), channels: Some(1), ..images(dir.path()) });
    assert!(said.contains("b.tif is floating-point where a.png is 8-bit"), "{said}");
    tiff(&b, [2, 2, 5], false, UNSIGNED, &[1u8; 20]);
    let said = sentence(images(dir.path()));
    assert!(said.contains("b.tif is of 5 channels where a.png is of 1 channels"), "{said}");
    tiff(&b, [2, 2, 1], false, SIGNED, &[-1i16; 4]);
    let said = sentence(images(dir.path()));
    assert!(said.contains("b.tif cannot be read") && said.contains("without sign"), "{said}");
    let mut cut = fs::read(&a).unwrap();
    cut.truncate(20);
    fs::write(dir.path().join("c.png"), cut).unwrap();
    fs::remove_file(&b).unwrap();
    assert!(sentence(images(dir.path())).contains("c.png cannot be read"));
}

#[test]
fn arrays_of_images() {
    let dir = tempfile::tempdir().unwrap();
    let array = |name: &str, bytes: Vec<u8>| {
        fs::write(dir.path().join(name), bytes).unwrap();
        images(&dir.path().join(name))
    };
    let bytes: Vec<u8> = (0..24).map(|v| v * 10).collect();
    let data = load(&array("gray.npy", npy(&[2, 3, 4], Order::C, &bytes))).unwrap();
    assert_eq!((data.shape.dims(), data.levels(), data.name.as_str()), (vec![3, 4, 1], Some(256), "gray"));
    assert_eq!(data.all_rows().unwrap(), bytes.iter().map(|&v| f32::from(v) / 255.0).collect::<Vec<_>>());

    let words: Vec<u16> = (0..40).map(|v| v * 1000).collect();
    let (x, y) = (npy(&[2, 2, 2, 5], Order::C, &words), npy(&[2], Order::C, &[9u8, 3]));
    let file = npz(&[("x", x), ("y", y)]);
    let set = array("bands.npz", file);
    let data = load(&set).unwrap();
    assert_eq!((data.shape.dims(), data.levels()), (vec![2, 2, 5], Some(65536)));
    assert_eq!(data.all_rows().unwrap(), words.iter().map(|&v| f32::from(v) / 65535.0).collect::<Vec<_>>());
    assert_eq!((&data.labels, &data.class_names[..]), (&Some(vec![1, 0]), &["3".into(), "9".into()][..]));
    let large = load(&Images { height: Some(6), width: Some(6), ..set.clone() }).unwrap();
    assert_eq!((large.shape.dims(), large.len()), (vec![6, 6, 5], 2));
    let test = Images { test_fraction: 1.0, ..set }.load(Split::Test, None).unwrap();
    assert_eq!((test.len(), test.labels), (2, Some(vec![1, 0])));

    let floats: Vec<f32> = (0..12).map(|v| v as f32 - 3.25).collect();
    let data = load(&array("floats.npy", npy(&[1, 2, 2, 3], Order::C, &floats))).unwrap();
    assert_eq!((data.levels(), data.all_rows().unwrap()), (None, floats));
    // Fortran order: the image [[1, 2], [3, 4]].
    let data = load(&array("f.npy", npy(&[1, 2, 2], Order::Fortran, &[1f64, 3.0, 2.0, 4.0]))).unwrap();
    assert_eq!(data.all_rows().unwrap(), [1.0, 2.0, 3.0, 4.0]);

    // An array that stays in its file is cut and resized like all else.
    let gray = Images { channels: Some(3), height: Some(2), width: Some(2), ..images(&dir.path().join("gray.npy")) };
    assert!(!Images { memory: 0, ..gray.clone() }.load(Split::Train, None).unwrap().is_held());
    assert_eq!(load(&gray).unwrap().shape.dims(), [2, 2, 3]);

    let sentence = |images: &Images| {
        let stream = Images { memory: 0, ..images.clone() };
        let said = images.load(Split::Train, None).unwrap_err().to_string();
        let stream = stream.load(Split::Train, None).and_then(|data| data.all_rows());
        assert_eq!(said, stream.unwrap_err().to_string());
        said
    };
    let bands = Images { channels: Some(2), ..images(&dir.path().join("floats.npy")) };
    assert!(sentence(&bands).contains("it has 3 channels, which cannot become 2"), "{}", sentence(&bands));
    let whole = npy(&[4, 2, 2], Order::C, &[1u8; 16]);
    let short = array("short.npy", whole[..whole.len() - 1].to_vec());
    assert!(sentence(&short).contains("short.npy cannot be read as npy"), "{}", sentence(&short));
    assert!(sentence(&array("i.npy", npy(&[1, 1, 1], Order::C, &[1i64]))).contains("other than 8 or 16 bits"));
    assert!(sentence(&array("flat.npy", npy(&[2, 2], Order::C, &[1u8; 4]))).contains("has the shape [2, 2]"));
    let nan = npy(&[2, 1, 1], Order::C, &[1.0, f32::NAN]);
    assert!(sentence(&array("nan.npy", nan)).contains("image 1"));
    let labeled = Images { label: Some("y".into()), ..images(&dir.path().join("gray.npy")) };
    assert!(sentence(&labeled).contains("leave `label` out"));
}

//! Damaged files of every format: whatever is in them, there is an answer, and it is a value or a sentence.
//!
//! `STEIN_MUTATIONS` makes it try more than the few hundred of each.

mod common;

use common::{npy, npz};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use npyz::Order;
use std::{fs, io::Cursor, path::Path};
use stein_data::{DataSet, Images, Series, Split, Table};

/// Numbers that look random (Marsaglia, *Xorshift RNGs*, 2003).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }

    /// The bytes with some of them changed, taken away, or others put in.
    fn damage(&mut self, whole: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        for _ in 0..1 + self.below(3) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.below(256) as u8),
                2 => drop(bytes.drain(at..bytes.len().min(at + 1 + self.below(40)))),
                3 => bytes.iter_mut().skip(at).take(4).for_each(|byte| *byte = 0xff),
                4 => {
                    let copy = bytes[at..bytes.len().min(at + 30)].to_vec();
                    bytes.splice(at..at, copy);
                }
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << self.below(8)),
            }
        }
        bytes
    }
}

fn answer(result: stein_data::Result<stein_data::Data>) {
    let said = result.and_then(|data| data.moments()).map_or_else(|e| e.to_string(), |_| String::new());
    assert!(said.len() < 1000, "{said}");
}

fn damaged(name: &str, whole: &[u8], load: impl Fn(&Path)) {
    let tries = std::env::var("STEIN_MUTATIONS").map_or(200, |tries| tries.parse().unwrap());
    let (dir, mut chance) = (tempfile::tempdir().unwrap(), Chance(88172645463325252 + whole.len() as u64));
    let path = dir.path().join(name);
    for _ in 0..tries {
        fs::write(&path, chance.damage(whole)).unwrap();
        load(&path);
    }
}

fn images(path: &Path) {
    let images = Images { path: path.into(), ..Images::default() };
    answer(images.load(Split::Train, None));
    let sized = Images { height: Some(4), width: Some(4), channels: Some(3), ..images };
    answer(sized.load(Split::Train, None));
}

fn photo() -> DynamicImage {
    RgbImage::from_fn(40, 30, |x, y| Rgb([(x * x * 7) as u8, (x * y * 5) as u8, (y * y * 3) as u8])).into()
}

#[test]
fn pictures() {
    for (name, format) in [("a.png", ImageFormat::Png), ("a.jpg", ImageFormat::Jpeg), ("a.webp", ImageFormat::WebP)] {
        let mut bytes = Cursor::new(Vec::new());
        photo().write_to(&mut bytes, format).unwrap();
        damaged(name, bytes.get_ref(), |path| images(path.parent().unwrap()));
    }
    let mut bytes = Cursor::new(Vec::new());
    let compression = tiff::encoder::Compression::Deflate(Default::default());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut bytes).unwrap().with_compression(compression);
    encoder.write_image::<tiff::encoder::colortype::RGB8>(40, 30, photo().as_bytes()).unwrap();
    damaged("a.tif", bytes.get_ref(), |path| images(path.parent().unwrap()));
}

#[test]
fn tar_files() {
    let mut tar = tar::Builder::new(Vec::new());
    for name in ["top/a/1.png", "top/b/2.png"] {
        let mut bytes = Cursor::new(Vec::new());
        photo().write_to(&mut bytes, ImageFormat::Png).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.get_ref().len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.get_ref().as_slice()).unwrap();
    }
    damaged("a.tar", &tar.into_inner().unwrap(), images);
}

#[test]
fn arrays() {
    let values: Vec<f32> = (0..48).map(|v| v as f32).collect();
    let four = npy(&[4, 2, 3, 2], Order::C, &values);
    let two = npy(&[12, 4], Order::Fortran, &values);
    let both = npz(&[("x", two.clone()), ("y", npy(&[12], Order::C, &[1i64, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]))]);
    for (name, whole) in [("a.npy", &four), ("b.npy", &two), ("c.npz", &both)] {
        damaged(name, whole, |path| {
            images(path);
            answer(Table { path: path.into(), ..Table::default() }.load(Split::Train, None));
            answer(Series { path: path.into(), ..Series::default() }.load(Split::Train, None));
        });
    }
}

#[test]
fn text() {
    let whole = "name;u;v\n\"a, b\";1,5;2\nb;-3,25;4e3\nc;NA;2000\n";
    damaged("a.csv", whole.as_bytes(), |path| {
        for label in [None, Some("name".to_owned())] {
            answer(Table { path: path.into(), label, ..Table::default() }.load(Split::Train, None));
        }
    });
}

#[test]
fn shapes_beyond_all_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    let shapes = [
        "(1099511627776, 1099511627776)",
        "(9223372036854775807, 2, 2, 2)",
        "(18446744073709551615,)",
        "(99999999999999999999999999, 2)",
        "(4294967296, 4294967296, 1)",
        "(1099511627776, 0)",
        "(1099511627776, 0, 1)",
        "(0,)",
        "(3, 1152921504606846976, 0, 1)",
        "(1000000000000, 2, 2)",
        "(-1, 2)",
        "()",
    ];
    for code in ["<f4", "|u1", ">f8", "<f1152921504606846976", "|O", "<U9"] {
        for shape in shapes {
            let header = format!("{{'descr': '{code}', 'fortran_order': False, 'shape': {shape}, }}\n");
            let head = [&b"\x93NUMPY\x01\0"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), &[0; 64]];
            fs::write(&path, head.concat()).unwrap();
            for memory in [0, usize::MAX] {
                let images = Images { path: path.clone(), memory, ..Images::default() };
                assert!(images.load(Split::Train, None).is_err(), "{code} {shape}");
            }
            assert!(
                Table { path: path.clone(), ..Table::default() }.load(Split::Train, None).is_err(),
                "{code} {shape}"
            );
            assert!(Series { path: path.clone(), ..Series::default() }.load(Split::Train, None).is_err());
        }
    }
    // A header of gigabytes, and one that never closes its brackets.
    let long = [&b"\x93NUMPY\x02\0\xff\xff\xff\xff"[..], &[b'('; 100_000]].concat();
    fs::write(&path, long).unwrap();
    assert!(Table { path, ..Table::default() }.load(Split::Train, None).is_err());
}

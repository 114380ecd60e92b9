//! Series in npy and npz.

mod common;

use common::{npy, npz};
use npyz::Order;
use std::{fs, path::Path};
use stein_data::{DataSet, Series, Shape, Split};

/// A file with these bytes, and a source of all its series.
fn series(dir: &Path, name: &str, bytes: Vec<u8>) -> Series {
    fs::write(dir.join(name), bytes).unwrap();
    Series { path: dir.join(name), test_fraction: 0.0, ..Series::default() }
}

fn sentence(series: &Series) -> String {
    series.load(Split::Train, None).unwrap_err().to_string()
}

#[test]
fn series_with_and_without_channels() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..24).map(|v| v as f32 - 7.5).collect();
    let wide = series(dir.path(), "wide.npy", npy(&[4, 3, 2], Order::C, &values));
    let data = wide.load(Split::Train, None).unwrap();
    assert_eq!((data.shape, data.name.as_str()), (Shape::Series { length: 3, channels: 2 }, "wide"));
    assert_eq!((data.shape.dims(), data.len(), data.levels()), (vec![3, 2], 4, None));
    assert_eq!(data.all_rows().unwrap(), values, "real values keep their units");

    let plain = series(dir.path(), "plain.npy", npy(&[2, 12], Order::C, &[3i16; 24]));
    let data = plain.load(Split::Train, None).unwrap();
    assert_eq!((data.shape.dims(), data.all_rows().unwrap()), (vec![12, 1], vec![3.0; 24]));
}

#[test]
fn every_tenth_series_is_held_out_with_its_label() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f64> = (0..40).map(f64::from).collect();
    let labels: Vec<u8> = (0..20).map(|i| 5 + i % 3).collect();
    let file = npz(&[("x", npy(&[20, 2], Order::C, &values)), ("labels", npy(&[20], Order::C, &labels))]);
    let set = Series { test_fraction: 0.1, ..series(dir.path(), "a.npz", file) };
    let test = set.load(Split::Test, None).unwrap();
    assert_eq!(test.all_rows().unwrap(), [18.0, 19.0, 38.0, 39.0]);
    assert_eq!((test.labels.unwrap(), test.class_names), (vec![0, 1], vec!["5".into(), "6".into(), "7".into()]));
    assert_eq!(set.load(Split::Train, None).unwrap().len(), 18);
}

#[test]
fn what_is_no_series_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let flat = series(dir.path(), "flat.npy", npy(&[3], Order::C, &[1f32, 2.0, 3.0]));
    assert!(sentence(&flat).contains("has the shape [3]"), "{}", sentence(&flat));
    let holes =
        series(dir.path(), "holes.npy", npy(&[2, 2, 2], Order::C, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, f32::NAN]));
    assert!(sentence(&holes).contains("series 1, step 1, channel 1"), "{}", sentence(&holes));
    let labeled = Series { label: Some("y".into()), ..series(dir.path(), "a.npy", npy(&[1, 1], Order::C, &[1f32])) };
    assert!(sentence(&labeled).contains("leave `label` out"), "{}", sentence(&labeled));
    assert!(sentence(&series(dir.path(), "a.wav", Vec::new())).contains("name an npy or npz file"));
    assert!(sentence(&Series::default()).contains("series needs `path`"));
}

//! The published sets against their real files, where those are at hand.

use std::{
    fs,
    path::{Path, PathBuf},
};
use stein_data::{Data, Kind, Result, Source, Split, get};

/// The real files; None, and a line saying so, where there are none.
fn shared(set: &str) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !dir.join(set).is_dir() {
        println!("skipped: {set} is not here");
        return None;
    }
    Some(dir)
}

fn load(name: &str, split: Split, dir: &Path) -> Result<Data> {
    Source::named(name)?.load(split, Some(dir))
}

/// The published order, and mean and standard deviation to four places.
fn check(data: &Data, count: usize, dims: &[usize], first: &[usize], mean_std: Option<(f64, f64)>) {
    assert_eq!((data.len(), &data.shape.dims()[..], data.levels()), (count, dims, Some(256)));
    assert_eq!(&data.labels.as_ref().unwrap()[..first.len()], first);
    let mut counts = vec![0; data.classes()];
    data.labels.as_ref().unwrap().iter().for_each(|&l| counts[l] += 1);
    assert!(counts.len() == 10 && counts.iter().all(|&c| c > count / 12));
    let (mut sum, mut squares, mut low, mut high) = (0.0, 0.0, f32::MAX, f32::MIN);
    let mut row = vec![0.0; data.dim()];
    for i in 0..data.len() {
        data.row(i, &mut row).unwrap();
        for &v in &row {
            (sum, squares) = (sum + f64::from(v), squares + f64::from(v * v));
            (low, high) = (low.min(v), high.max(v));
        }
    }
    assert_eq!((low, high), (0.0, 1.0));
    let values = (data.len() * data.dim()) as f64;
    let (mean, std) = (sum / values, (squares / values - (sum / values).powi(2)).sqrt());
    let near = |got: f64, published: f64| (got - published).abs() < 1e-4;
    assert!(mean_std.is_none_or(|(m, s)| near(mean, m) && near(std, s)), "{mean} {std}");
}

#[test]
fn mnist() {
    let Some(dir) = shared("mnist") else { return };
    let train = load("mnist", Split::Train, &dir).unwrap();
    check(&train, 60000, &[28, 28, 1], &[5, 0, 4, 1, 9, 2, 1, 3, 1, 4], Some((0.1307, 0.3081)));
    let test = load("mnist", Split::Test, &dir).unwrap();
    check(&test, 10000, &[28, 28, 1], &[7, 2, 1, 0, 4, 1, 4, 9, 5, 9], None);
    // The directory itself will do, and nothing is fetched for files that are there and right.
    assert_eq!(load("mnist", Split::Test, &dir.join("mnist")).unwrap(), test);
    assert_eq!(get("mnist", &dir, &mut |_, _| panic!("a download")).unwrap().len(), 4);
}

#[test]
fn fashion_mnist() {
    let Some(dir) = shared("fashion-mnist") else { return };
    let train = load("fashion-mnist", Split::Train, &dir).unwrap();
    check(&train, 60000, &[28, 28, 1], &[9, 0, 0, 3, 0, 2, 7, 2, 5, 5], Some((0.2860, 0.3530)));
    let test = load("fashion_mnist", Split::Test, &dir).unwrap();
    check(&test, 10000, &[28, 28, 1], &[9, 2, 1, 1, 6, 1, 4, 6, 5, 7], None);
    assert_eq!(test.class_names[9], "ankle boot");
}

#[test]
fn cifar10() {
    let Some(dir) = shared("cifar-10") else { return };
    let train = load("cifar10", Split::Train, &dir).unwrap();
    check(&train, 50000, &[32, 32, 3], &[6, 9, 9, 4, 1, 1, 2, 7, 8, 3], Some((0.4734, 0.2516)));
    // Channels last: the published means of red, green and blue.
    let (mut sums, mut row) = ([0.0; 3], [0.0; 3072]);
    for i in 0..train.len() {
        train.row(i, &mut row).unwrap();
        row.iter().enumerate().for_each(|(k, &v)| sums[k % 3] += f64::from(v));
    }
    let means = sums.map(|sum| sum / (50000.0 * 1024.0));
    assert!(means.iter().zip([0.4914, 0.4822, 0.4465]).all(|(a, b)| (a - b).abs() < 1e-4), "{means:?}");
    let test = load("cifar10", Split::Test, &dir).unwrap();
    check(&test, 10000, &[32, 32, 3], &[3, 8, 8, 0, 6, 6, 1, 6, 3, 1], None);
}

#[test]
fn a_damaged_file_is_refused() {
    let Some(dir) = shared("mnist") else { return };
    let temp = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let path = temp.path().join(name);
        fs::write(&path, fs::read(dir.join("mnist").join(name)).unwrap()).unwrap();
        path
    };
    copy("t10k-images-idx3-ubyte.gz");
    let labels = copy("t10k-labels-idx1-ubyte.gz");
    assert_eq!(load("mnist", Split::Test, temp.path()).unwrap().len(), 10000);
    let mut bytes = fs::read(&labels).unwrap();
    bytes[2000] ^= 1;
    fs::write(&labels, &bytes).unwrap();
    let sentence = load("mnist", Split::Test, temp.path()).unwrap_err().to_string();
    assert!(sentence.contains("t10k-labels-idx1-ubyte.gz is damaged"), "{sentence}");
    fs::write(&labels, &bytes[..100]).unwrap();
    let sentence = load("mnist", Split::Test, temp.path()).unwrap_err().to_string();
    assert!(sentence.contains("holds 100 bytes") && sentence.contains("4542"), "{sentence}");
}

#[test]
fn a_missing_file_is_named() {
    let temp = tempfile::tempdir().unwrap();
    for (name, parts) in [
        ("mnist", ["train-images-idx3-ubyte.gz", "9912422", "http://yann.lecun.com", "stein data get mnist"]),
        ("fashion-mnist", ["train-images-idx3-ubyte.gz", "26421880", "http://fashion", "stein data get fashion_mnist"]),
        ("cifar10", ["data_batch_1.bin", "30730000", "https://www.cs.toronto.edu/~kriz", "stein data get cifar10"]),
    ] {
        let error = load(name, Split::Train, temp.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::File);
        let sentence = error.to_string();
        assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
    }
}

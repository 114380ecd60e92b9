//! Which data: the registry of the data sets, by name and by configuration.

use crate::{Cifar10, Data, Digits, FashionMnist, Images, Mnist, Pattern, Points2d, Result, Table, error::fail};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Which part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What is trained on.
    #[default]
    Train,
    /// What is held out.
    Test,
}

impl Split {
    /// Whether sample `i` of an undivided set belongs here when `fraction` of it is held out: for 0.1, every tenth.
    pub(crate) fn holds(self, i: usize, fraction: f64) -> bool {
        let held = ((i + 1) as f64 * fraction).floor() > (i as f64 * fraction).floor();
        held == (self == Split::Test)
    }
}

/// A data set and its settings; in files `kind` is the name of the set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// Handwritten digits, 8x8 grey, built into the program.
    Digits(Digits),
    /// Handwritten digits, 28x28 grey.
    Mnist(Mnist),
    /// Articles of clothing, 28x28 grey.
    FashionMnist(FashionMnist),
    /// Ten kinds of objects, 32x32 in colour.
    Cifar10(Cifar10),
    /// A folder, or a tar file, of pictures.
    Images(Images),
    /// A table of numbers: csv, npy or npz.
    Table(Table),
    /// Points in the plane drawn from a known density.
    Points2d(Points2d),
}

impl Source {
    /// The names of all data sets, in files and on the command line.
    pub const NAMES: &[&str] = &["digits", "mnist", "fashion_mnist", "cifar10", "images", "table", "points2d"];

    /// The source called `name` with its default settings; `-` is read as `_`. What follows a first slash is the shape
    /// of `points2d/moons`, or the path of `images/my/folder` and `table/data.csv`.
    ///
    /// # Errors
    /// When there is no such name: the sentence lists those there are, the nearest first.
    pub fn named(name: &str) -> Result<Source> {
        let (kind, rest) = name.split_once('/').map_or((name, None), |(kind, rest)| (kind, Some(rest)));
        Ok(match (kind.replace('-', "_").as_str(), rest) {
            ("digits", None) => Source::Digits(Digits {}),
            ("mnist", None) => Source::Mnist(Mnist {}),
            ("fashion_mnist", None) => Source::FashionMnist(FashionMnist {}),
            ("cifar10", None) => Source::Cifar10(Cifar10 {}),
            ("images", path) => Source::Images(Images { path: path.unwrap_or_default().into(), ..Images::default() }),
            ("table", path) => Source::Table(Table { path: path.unwrap_or_default().into(), ..Table::default() }),
            ("points2d", None) => Source::Points2d(Points2d::default()),
            ("points2d", Some(shape)) => {
                Source::Points2d(Points2d { shape: Pattern::named(shape)?, ..Points2d::default() })
            }
            _ => fail!("there is no data set `{name}`: choose from {}", nearest_first(name, Source::NAMES)),
        })
    }

    /// Reads the data into memory. `dir` is where the published sets lie, by default what the environment variable
    /// `STEIN_DATA` says; their checksums are verified. The paths of `images` and `table` are their own.
    ///
    /// # Errors
    /// When a file is missing, damaged or not what it should be.
    pub fn load(&self, split: Split, dir: Option<&Path>) -> Result<Data> {
        match self {
            Source::Digits(source) => source.load(split),
            Source::Mnist(source) => source.load(split, dir),
            Source::FashionMnist(source) => source.load(split, dir),
            Source::Cifar10(source) => source.load(split, dir),
            Source::Images(source) => source.load(split),
            Source::Table(source) => source.load(split),
            Source::Points2d(source) => source.load(split),
        }
    }
}

/// `known`, those most like `name` first, for the end of a sentence.
pub(crate) fn nearest_first<S: AsRef<str>>(name: &str, known: &[S]) -> String {
    let mut known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    known.sort_by(|a, b| strsim::jaro_winkler(name, b).total_cmp(&strsim::jaro_winkler(name, a)));
    known.join(", ")
}

/// The default `test_fraction`.
pub(crate) fn one_tenth() -> f64 {
    0.1
}

/// Labels as class indices: the distinct values in order, by number where all are numbers.
pub(crate) fn classes_of(labels: &[String]) -> (Vec<usize>, Vec<String>) {
    let mut names = labels.to_vec();
    if names.iter().all(|name| name.parse::<f64>().is_ok()) {
        let number = |name: &String| name.parse::<f64>().unwrap_or(f64::NAN);
        names.sort_by(|a, b| number(a).total_cmp(&number(b)).then_with(|| a.cmp(b)));
    } else {
        names.sort();
    }
    names.dedup();
    let index: std::collections::HashMap<&str, usize> =
        names.iter().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
    (labels.iter().map(|label| index[label.as_str()]).collect(), names.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_source_and_its_kind_in_files() {
        for name in Source::NAMES {
            let source = Source::named(name).unwrap();
            let file = toml::to_string(&source).unwrap();
            assert!(file.contains(&format!("kind = \"{name}\"")), "{file}");
            assert_eq!(toml::from_str::<Source>(&file).unwrap(), source);
            let unknown = toml::from_str::<Source>(&format!("{file}\nnonsense = 1")).unwrap_err().to_string();
            assert!(unknown.contains("nonsense"), "{unknown}");
        }
    }

    #[test]
    fn names_on_the_command_line() {
        let moons = Points2d { shape: Pattern::Moons, ..Points2d::default() };
        assert_eq!(Source::named("points2d/moons"), Ok(Source::Points2d(moons.clone())));
        assert_eq!(toml::from_str("kind = \"points2d\"\nshape = \"moons\""), Ok(Source::Points2d(moons)));
        assert_eq!(Source::named("fashion-mnist"), Source::named("fashion_mnist"));
        let images = Images { path: "some/folder".into(), ..Images::default() };
        assert_eq!(Source::named("images/some/folder"), Ok(Source::Images(images)));
        let sentence = Source::named("minst").unwrap_err().to_string();
        assert!(sentence.contains("choose from mnist, "), "{sentence}");
        let sentence = Source::named("points2d/rolls").unwrap_err().to_string();
        assert!(sentence.contains("swiss_roll"), "{sentence}");
        assert!(Source::named("images").unwrap().load(Split::Train, None).is_err());
    }

    #[test]
    fn a_fraction_is_spread_evenly() {
        let held = |fraction| (0..100).filter(|&i| Split::Test.holds(i, fraction)).collect::<Vec<_>>();
        assert_eq!(held(0.1), (0..10).map(|k| 10 * k + 9).collect::<Vec<_>>());
        assert_eq!((held(0.0).len(), held(0.25).len(), held(1.0).len()), (0, 25, 100));
        assert!((0..100).all(|i| Split::Train.holds(i, 0.3) != Split::Test.holds(i, 0.3)));
    }

    #[test]
    fn classes_are_in_order() {
        let labels = ["10", "9", "10"].map(String::from);
        assert_eq!(classes_of(&labels), (vec![1, 0, 1], vec!["9".into(), "10".into()]));
        let labels = ["b", "a"].map(String::from);
        assert_eq!(classes_of(&labels), (vec![1, 0], vec!["a".into(), "b".into()]));
    }
}

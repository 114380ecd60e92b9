//! Which data: the registry of the data sets, by name and by settings.

use crate::{Cifar10, Data, Digits, FashionMnist, Images, Mnist, Points2d, Published, Series, Table};
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path};
use stein_base::{Error, Result, registry};

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
        held == (self == Self::Test)
    }

    /// Those of `count` samples that belong here.
    pub(crate) fn own(self, count: usize, fraction: f64) -> Vec<usize> {
        (0..count).filter(|&i| self.holds(i, fraction)).collect()
    }
}

/// A data set and its settings: the role that the entries of [`Source`] play.
///
/// One of your own is a type with this trait and serde's; [`Source::register`] adds it to those that are read from
/// files.
pub trait DataSet: fmt::Debug + Send + Sync {
    /// Brings in the data. `dir` is where the published sets lie, by default what the environment variable `STEIN_DATA`
    /// says; their checksums are verified. Sets with a `path` have their own.
    ///
    /// # Errors
    /// When a file is missing, damaged or not what it should be, or a setting does not fit it.
    fn load(&self, split: Split, dir: Option<&Path>) -> Result<Data>;

    /// The setting that `rest` stands for in the name `kind/rest`: its key and value. `None` if nothing may follow.
    fn shorthand(&self, rest: &str) -> Option<(&'static str, String)> {
        let _ = rest;
        None
    }

    /// The files that [`get`](crate::get()) brings for it; `None` if it needs none, or its user has them.
    fn published(&self) -> Option<&'static Published> {
        None
    }
}

registry! {
    /// Which data: a data set and its settings; in files `kind` is the name of the set.
    ///
    /// ```
    /// use stein_data::{Source, Split};
    ///
    /// let moons = Source::named("points2d/moons")?;
    /// let same: Source = toml::from_str("kind = 'points2d'\nshape = 'moons'").unwrap();
    /// assert_eq!(moons, same);
    /// assert_eq!(moons.load(Split::Train, None)?.shape.dims(), [2]);
    /// # Ok::<(), stein_data::Error>(())
    /// ```
    Source, "data set": DataSet, named as of_kind {
        /// Handwritten digits, 8x8 gray, built into the program.
        "digits" | "optdigits" => Digits,
        /// MNIST: handwritten digits, 28x28 gray; `stein data get mnist` brings it.
        "mnist" => Mnist,
        /// Fashion-MNIST: articles of clothing, 28x28 gray; `stein data get fashion_mnist` brings it.
        "fashion_mnist" | "fmnist" => FashionMnist,
        /// CIFAR-10: ten kinds of objects, 32x32 in color; `stein data get cifar10` brings it.
        "cifar10" | "cifar" => Cifar10,
        /// Pictures of your own: a folder, a tar file, or an array.
        "images" | "image_folder" => Images,
        /// A table of numbers of your own: csv, npy or npz.
        "table" | "csv" => Table,
        /// Series of numbers of your own, such as curves and sounds: npy or npz.
        "series" | "time_series" => Series,
        /// Points in the plane drawn from a known density, the toy problems of the literature.
        "points2d" | "points" => Points2d,
    }
}

impl Source {
    /// The source called `name` with its default settings. What follows a first slash is the shape
    /// of `points2d/moons`, or the path of `images/my/folder`, `series/data.npy` and `table/data.csv`.
    ///
    /// # Errors
    /// When there is no such name: the sentence lists those there are, the nearest first.
    pub fn named(name: &str) -> Result<Self> {
        let (kind, rest) = name.split_once('/').map_or((name, None), |(kind, rest)| (kind, Some(rest)));
        let source = Self::of_kind(kind)?;
        let Some(rest) = rest else { return Ok(source) };
        let Some((key, value)) = source.shorthand(rest) else {
            return Err(Error::new(format!(
                "nothing may follow the data set `{kind}`, as in `{name}`: leave out `/{rest}`"
            )));
        };
        let settings = [(key.to_owned(), value.into())].into_iter().collect();
        Self::with_settings(source.kind(), settings)
    }
}

/// The default `test_fraction`.
pub(crate) fn one_tenth() -> f64 {
    0.1
}

/// The classes of the samples `own`, and the names of the classes of all samples.
pub(crate) fn labels_of(labels: Option<Vec<String>>, own: &[usize]) -> (Option<Vec<usize>>, Vec<String>) {
    let Some(labels) = labels else { return (None, Vec::new()) };
    let (labels, names) = classes_of(&labels);
    (Some(own.iter().map(|&i| labels[i]).collect()), names)
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
    use crate::Pattern;

    #[test]
    fn every_name_is_a_source_and_its_kind_in_files() {
        for (name, source) in Source::NAMES.iter().zip(Source::all()) {
            assert_eq!(Source::named(name).as_ref(), Ok(&source));
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
        let roll = Points2d { shape: Pattern::SwissRoll, ..Points2d::default() };
        assert_eq!(Source::named("points2d/swiss-roll"), Ok(Source::Points2d(roll)));
        assert_eq!(Source::named("fashion-mnist"), Source::named("fashion_mnist"));
        let images = Images { path: "some/folder".into(), ..Images::default() };
        assert_eq!(Source::named("images/some/folder"), Ok(Source::Images(images)));
        let series = Series { path: "a.npy".into(), ..Series::default() };
        assert_eq!(Source::named("series/a.npy"), Ok(Source::Series(series)));
        let sentence = Source::named("minst").unwrap_err().to_string();
        assert!(sentence.contains("nearest first: mnist, "), "{sentence}");
        let sentence = Source::named("points2d/rols").unwrap_err().to_string();
        assert!(sentence.contains("`rols`") && sentence.contains("swiss_roll"), "{sentence}");
        let sentence = Source::named("mnist/7").unwrap_err().to_string();
        assert!(sentence.contains("leave out `/7`"), "{sentence}");
        assert!(Source::named("images").unwrap().load(Split::Train, None).is_err());
    }

    /// A data set of the embedding program.
    #[derive(Debug, Default, Serialize, Deserialize)]
    struct Ramp {
        count: usize,
    }

    impl DataSet for Ramp {
        fn load(&self, _: Split, _: Option<&Path>) -> Result<Data> {
            let values = (0..self.count).map(|i| i as f32).collect();
            Data::from_rows("ramp", vec!["x".into()], values, None, Vec::new())
        }
    }

    #[test]
    fn a_program_adds_its_own() {
        Source::register::<Ramp>("ramp");
        let source: Source = toml::from_str("kind = \"ramp\"\ncount = 3").unwrap();
        assert_eq!(source.load(Split::Train, None).unwrap().all_rows().unwrap(), [0.0, 1.0, 2.0]);
        assert!(Source::names().contains(&"ramp".into()));
    }

    #[test]
    fn a_fraction_is_spread_evenly() {
        let held = |fraction| Split::Test.own(100, fraction);
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

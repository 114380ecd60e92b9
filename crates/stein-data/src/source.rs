//! Which data: the registry of the data sets, by name and by settings.

use crate::{
    Cifar10, Data, Digits, FashionMnist, Images, Mnist, Phantom, Points2d, Published, Series, Shapes, Table, array,
    listing::is_picture,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::Path,
};
use stein_base::{Error, Kind, Result, ensure, names, registry, settings};

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

/// What belongs to a split of a set that its authors did not divide.
#[derive(Debug)]
pub(crate) struct Part {
    /// The samples, in order.
    pub own: Vec<usize>,
    /// How many are on either side, in a sentence.
    pub note: String,
}

impl Part {
    /// The part of `count` samples of which `fraction` is held out, spread evenly: for 0.1, every tenth. Of the samples of a
    /// class at least one is trained on.
    pub fn of(split: Split, count: usize, fraction: f64, labels: Option<&[usize]>) -> Result<Self> {
        ensure!((0.0..=1.0).contains(&fraction), "test_fraction = {fraction}: give a part between 0 and 1");
        let whole = |i: usize| (i as f64 * fraction).floor();
        let mut held: Vec<bool> = (0..count).map(|i| whole(i + 1) > whole(i)).collect();
        if let Some(labels) = labels.filter(|_| fraction < 1.0) {
            let mut trained: HashSet<usize> = (0..count).filter(|&i| !held[i]).map(|i| labels[i]).collect();
            held.iter_mut().zip(labels).for_each(|(held, &label)| *held &= !trained.insert(label));
        }
        let test = held.iter().filter(|&&held| held).count();
        let note = format!("{} samples to train on, {test} held out (test_fraction = {fraction})", count - test);
        let own = (0..count).filter(|&i| held[i] == (split == Split::Test)).collect();
        Ok(Self { own, note })
    }

    /// What these samples have of what all have, such as labels.
    pub fn of_own<T: Clone>(&self, all: Option<Vec<T>>) -> Option<Vec<T>> {
        all.map(|all| self.own.iter().map(|&i| all[i].clone()).collect())
    }
}

/// A data set and its settings: the role that the entries of [`Source`] play.
///
/// One of your own is a type with this trait and serde's; [`Source::register`] adds it to those that are read from
/// files.
pub trait DataSet: fmt::Debug + Send + Sync {
    /// Brings in the data. `dir` is where the published sets lie, by default the [`data_folder`](crate::data_folder);
    /// their checksums are verified. Sets with a `path` have their own.
    ///
    /// # Errors
    /// When a file is missing, damaged or not what it should be, or a setting does not fit it; of [`Kind::Empty`] when the part has
    /// no samples, as where nothing is held out.
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
        /// Phantoms of a head, the test pictures of tomography: ellipses like those of Shepp and Logan, whose own is the first held out.
        "phantom" | "shepp_logan" => Phantom,
        /// Pictures of colored shapes with captions that say what they show; a reader tells whether a picture does.
        "shapes" | "colored_shapes" => Shapes,
    }
}

impl Source {
    /// The source called `name` with its default settings. What follows a first slash is the shape
    /// of `points2d/moons`, or the path of `images/my/folder`, `series/data.npy` and `table/data.csv`. A path alone will do
    /// where it can be one thing only: a folder or tar file of pictures, a csv file, an npy file of two or four dimensions.
    ///
    /// # Errors
    /// When there is no such name: the sentence lists those there are, the nearest first.
    pub fn named(name: &str) -> Result<Self> {
        let (kind, rest) = name.split_once('/').map_or((name, None), |(kind, rest)| (kind, Some(rest)));
        // A folder may be called as a kind is: what is there is meant.
        let of_kind = Self::of_kind(kind);
        let known = of_kind.is_ok()
            && rest.is_none_or(|rest| rest.is_empty() || Path::new(rest).exists() || !Path::new(name).exists());
        if !known && Path::new(name).exists() {
            return Self::at(Path::new(name));
        }
        let source = of_kind.map_err(|error| match name.contains(['/', '.']) {
            true => Error::of(Kind::File, format!("there is nothing at {name}, and {error}")),
            false => error,
        })?;
        let Some(rest) = rest else { return Ok(source) };
        let Some((key, value)) = source.shorthand(rest) else {
            return Err(Error::new(format!(
                "nothing may follow the data set `{kind}`, as in `{name}`: leave out `/{rest}`"
            )));
        };
        let settings = [(key.to_owned(), value.into())].into_iter().collect();
        Self::with_settings(source.kind(), settings)
    }

    /// The same data at another path; fails for a set that has none.
    ///
    /// # Errors
    /// A published set, and a path that is no text.
    pub fn at_path(&self, path: &Path) -> Result<Self> {
        let Some(text) = path.to_str() else {
            return Err(Error::new(format!("the path {} is not UTF-8: rename the file", path.display())));
        };
        let mut settings = self.settings()?;
        ensure!(settings.contains_key("path"), "the data set `{}` has no path of its own", self.kind());
        settings.insert("path".to_owned(), text.into());
        Self::with_settings(self.kind(), settings)
    }

    /// Where the data lie, of a set that has a path of its own.
    pub fn path(&self) -> Option<std::path::PathBuf> {
        let settings = self.settings().ok()?;
        Some(settings.get("path")?.as_str()?.into())
    }

    /// The same data with nothing held out, where they are a user's own.
    pub fn whole(&self) -> Option<Self> {
        let mut settings = self.settings().ok()?;
        settings.get("test_fraction")?;
        settings.insert("test_fraction".to_owned(), 0.0.into());
        Self::with_settings(self.kind(), settings).ok()
    }

    fn settings(&self) -> Result<stein_base::reexports::toml::Table> {
        let mut settings: stein_base::reexports::toml::Table =
            settings::write(self)?.try_into().expect("a source is a table");
        settings.remove("kind");
        Ok(settings)
    }

    /// The data at a path, by what is there.
    fn at(path: &Path) -> Result<Self> {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
        Ok(match (ending.as_str(), array::dimensions(path)) {
            _ if path.is_dir() || is_picture(path) => Images { path: path.into(), ..Images::default() }.into(),
            ("tar", _) | ("npy", Some(4)) => Images { path: path.into(), ..Images::default() }.into(),
            ("csv" | "tsv", _) | ("npy", Some(1 | 2)) => Table { path: path.into(), ..Table::default() }.into(),
            _ => {
                let at = path.display();
                let sentence = format!("{at} may be several things: say images/{at}, table/{at} or series/{at}");
                return Err(Error::new(sentence));
            }
        })
    }
}

/// The default `test_fraction`.
pub(crate) fn one_tenth() -> f64 {
    0.1
}

/// The default `max_classes`.
pub(crate) fn hundred() -> usize {
    100
}

/// The classes of labels in a file and their names. Numbers are compared as numbers: 1.0 is 1.
///
/// # Errors
/// A missing label, and more than `most` classes, which a column of measurements has; `what` holds the labels.
pub(crate) fn labels_of(
    labels: Option<Vec<String>>,
    most: usize,
    what: impl fmt::Display,
) -> Result<(Option<Vec<usize>>, Vec<String>)> {
    let Some(mut labels) = labels else { return Ok((None, Vec::new())) };
    let missing = labels.iter().filter(|label| is_missing(label)).count();
    if let Some(first) = labels.iter().position(|label| is_missing(label)) {
        let (n, first) = (labels.len(), first + 1);
        let sentence = format!("{what}: {missing} of {n} labels are missing, the first in row {first}: fill them in");
        return Err(Error::of(Kind::File, sentence));
    }
    let number = |label: &String| label.parse::<f64>().ok().filter(|number| number.is_finite());
    if labels.iter().all(|label| number(label).is_some()) {
        // What is written without a point keeps its zeros, as codes have.
        let fractions = labels.iter_mut().filter(|label| label.contains(['.', 'e', 'E']));
        fractions.for_each(|label| *label = number(label).expect("all are numbers").to_string());
    }
    let (labels, names) = classes_of(&labels);
    ensure!(
        names.len() <= most,
        "{what}: {} different labels, where at most {most} classes are expected ({}): name a column of classes, or set \
         `max_classes = {}`",
        names.len(),
        first_ten(&names),
        names.len()
    );
    Ok((Some(labels), names))
}

/// Whether a cell says that nothing is known.
pub(crate) fn is_missing(cell: &str) -> bool {
    const WORDS: [&str; 13] = ["", "-", "--", "?", ".", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "missing"];
    WORDS.iter().any(|word| cell.eq_ignore_ascii_case(word))
}

/// At most 40 characters of a text, in one line, for a sentence.
pub(crate) fn short(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let start: String = text.chars().take(40).map(plain).collect();
    if start.len() < text.len() { start + "…" } else { start }
}

/// The first ten of some names, and how many more there are.
pub(crate) fn first_ten<S: AsRef<str>>(names: &[S]) -> String {
    let ten: Vec<String> = names.iter().take(10).map(|name| short(name.as_ref())).collect();
    match names.len() {
        0..=10 => ten.join(", "),
        more => format!("{} and {} more", ten.join(", "), more - 10),
    }
}

/// The ten names most like one that is not among them.
pub(crate) fn nearest(wanted: &str, known: &[impl AsRef<str>]) -> String {
    let known: Vec<String> = known.iter().map(|name| short(name.as_ref())).collect();
    let near = names::nearest_first(&short(wanted), &known);
    first_ten(&near.split(", ").collect::<Vec<_>>())
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
    let index: HashMap<&str, usize> = names.iter().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
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
        let sentence = Source::named("my/nothing.csv").unwrap_err().to_string();
        assert!(sentence.starts_with("there is nothing at my/nothing.csv"), "{sentence}");
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
        let part = |split, fraction| Part::of(split, 100, fraction, None).unwrap().own;
        let held = |fraction| part(Split::Test, fraction);
        assert_eq!(held(0.1), (0..10).map(|k| 10 * k + 9).collect::<Vec<_>>());
        assert_eq!((held(0.0).len(), held(0.25).len(), held(1.0).len()), (0, 25, 100));
        let mut both = [held(0.3), part(Split::Train, 0.3)].concat();
        both.sort();
        assert!(both.into_iter().eq(0..100));
        for wrong in [-0.1, 1.5, f64::NAN, f64::INFINITY] {
            assert!(Part::of(Split::Train, 1, wrong, None).unwrap_err().to_string().contains("between 0 and 1"));
        }
    }

    #[test]
    fn a_class_keeps_a_sample_to_train_on() {
        // Samples 9 and 19 would be held out: 9 is the only one of class 1.
        let labels: Vec<usize> = (0..20).map(|i| usize::from(i == 9)).collect();
        let part = |split| Part::of(split, 20, 0.1, Some(&labels)).unwrap();
        assert_eq!(part(Split::Test).own, [19]);
        assert!(part(Split::Train).own.contains(&9));
        assert_eq!(part(Split::Train).note, "19 samples to train on, 1 held out (test_fraction = 0.1)");
    }

    #[test]
    fn labels_that_are_no_classes_are_refused() {
        let labels = |labels: &[&str]| labels_of(Some(labels.iter().map(|l| l.to_string()).collect()), 3, "t.csv");
        assert_eq!(
            labels(&["2.0", "1", "10", "1.0"]),
            Ok((Some(vec![1, 0, 2, 0]), vec!["1".into(), "2".into(), "10".into()]))
        );
        assert_eq!(labels(&["01", "1"]).unwrap().1, ["01", "1"]);
        let said = labels(&["a", "b", "c", "d"]).unwrap_err().to_string();
        assert!(said.contains("4 different labels") && said.contains("max_classes = 4"), "{said}");
        for missing in ["", "nan", "NA", "NULL", "?"] {
            let said = labels(&["a", "a", missing]).unwrap_err().to_string();
            assert!(said.contains("1 of 3 labels are missing, the first in row 3"), "{said}");
        }
    }

    #[test]
    fn sentences_stay_short() {
        assert_eq!(short("a\nb"), "a b");
        assert_eq!(short(&"x".repeat(1 << 20)).chars().count(), 41);
        let names: Vec<String> = (0..5000).map(|i| format!("n{i}")).collect();
        assert!(first_ten(&names).ends_with("n9 and 4990 more"));
        assert!(nearest("n4999", &names).starts_with("n4999, "));
    }

    #[test]
    fn classes_are_in_order() {
        let labels = ["10", "9", "10"].map(String::from);
        assert_eq!(classes_of(&labels), (vec![1, 0, 1], vec!["9".into(), "10".into()]));
        let labels = ["b", "a"].map(String::from);
        assert_eq!(classes_of(&labels), (vec![1, 0], vec!["a".into(), "b".into()]));
    }
}

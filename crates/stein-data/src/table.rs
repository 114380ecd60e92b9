//! A table of numbers: csv, npy or npz.
//!
//! Values keep their own units and become f32. Every tenth row is held out for the test split.

use crate::{
    Data, DataSet, Split, array,
    source::{labels_of, one_tenth},
};
use serde::{Deserialize, Serialize};
use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
};
use stein_base::{Error, Kind, Result, ensure, names};

/// A table in a file: `.csv` (commas) or `.tsv` (tabs) with or without a header, `.npy` with `[N, D]` or `[N]` floats
/// or integers, or `.npz` with such an array. Without a header the columns are called `x0`, `x1`, ...
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The file.
    pub path: PathBuf,
    /// Whether a csv file begins with a line of names; by default it does where something in that line is no number.
    #[serde(default)]
    pub header: Option<bool>,
    /// The column that holds the class (any text); in npz the array, by default `y` or `labels` where there is one.
    #[serde(default)]
    pub label: Option<String>,
    /// The columns to take, in this order; by default all but the label.
    #[serde(default)]
    pub columns: Vec<String>,
    /// The array of an npz file; by default `x`, or the only one beside the label.
    #[serde(default)]
    pub array: Option<String>,
    /// The part, 0 to 1, held out for the test split, spread evenly; default 0.1.
    #[serde(default = "one_tenth")]
    pub test_fraction: f64,
}

impl Default for Table {
    fn default() -> Table {
        Table {
            path: PathBuf::new(),
            header: None,
            label: None,
            columns: Vec::new(),
            array: None,
            test_fraction: one_tenth(),
        }
    }
}

/// A file's columns of text or numbers before any are chosen.
struct Cells<T> {
    names: Vec<String>,
    /// `[N, names.len()]`.
    cells: Vec<T>,
    /// Labels that are not a column.
    labels: Option<Vec<String>>,
}

impl DataSet for Table {
    fn load(&self, split: Split, _: Option<&Path>) -> Result<Data> {
        ensure!(!self.path.as_os_str().is_empty(), "table needs `path`: name a csv, npy or npz file");
        let ending = self.path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        match ending.as_str() {
            "csv" => self.choose(self.csv(b',')?, split, |text| text.parse().ok()),
            "tsv" => self.choose(self.csv(b'\t')?, split, |text| text.parse().ok()),
            "npy" | "npz" => self.choose(self.array()?, split, |&number| Some(number)),
            _ => Err(Error::new(format!(
                "{} is no table that is known: name a csv, tsv, npy or npz file",
                self.path.display()
            ))),
        }
    }

    fn shorthand(&self, rest: &str) -> Option<(&'static str, String)> {
        Some(("path", rest.into()))
    }
}

impl Table {
    fn error(&self, what: impl Display) -> Error {
        Error::of(Kind::File, format!("{} {what}", self.path.display()))
    }

    /// Picks the columns, turns cells into numbers and takes the rows of the split.
    fn choose<T: Display>(&self, table: Cells<T>, split: Split, number: impl Fn(&T) -> Option<f64>) -> Result<Data> {
        let Cells { names, cells, labels } = table;
        let find = |wanted: &String| {
            names.iter().position(|name| name == wanted).ok_or_else(|| {
                let (path, known) = (self.path.display(), names::nearest_first(wanted, &names));
                Error::new(format!("{path} has no column `{wanted}`: choose from {known}"))
            })
        };
        let rows = || cells.chunks_exact(names.len().max(1));
        // In an npz file `label` names an array, which is already read.
        let label = self.label.as_ref().filter(|_| labels.is_none()).map(find).transpose()?;
        let labels = labels.or_else(|| label.map(|c| rows().map(|row| row[c].to_string()).collect()));
        let columns: Vec<usize> = match self.columns.is_empty() {
            true => (0..names.len()).filter(|&c| Some(c) != label).collect(),
            false => self.columns.iter().map(find).collect::<Result<_>>()?,
        };
        let mut values = Vec::new();
        for (i, row) in rows().enumerate() {
            for &c in &columns {
                let value = number(&row[c]).map(|v| v as f32).filter(|v| v.is_finite());
                let Some(value) = value else {
                    let (n, name) = (i + 1, &names[c]); // the rows below any header, counted as people do
                    let what = format!("has `{}` in row {n}, column `{name}`, which is no finite number", row[c]);
                    return Err(self.error(format_args!("{what}: mend it, drop the row or leave the column out")));
                };
                if split.holds(i, self.test_fraction) {
                    values.push(value);
                }
            }
        }
        let (labels, class_names) = labels_of(labels, &split.own(rows().len(), self.test_fraction));
        let name = self.path.file_stem().map_or("table".into(), |name| name.to_string_lossy());
        let columns = columns.into_iter().map(|c| names[c].clone()).collect();
        let label_name = label.map(|c| names[c].clone());
        let mut data = Data::from_rows(&name, columns, values, labels, class_names)?;
        data.label_name = label_name;
        Ok(data)
    }

    fn csv(&self, delimiter: u8) -> Result<Cells<String>> {
        let file = fs::File::open(&self.path)
            .map_err(|e| self.error(format_args!("cannot be read ({e}): name a csv, npy or npz file")))?;
        let mut reader =
            csv::ReaderBuilder::new().has_headers(false).delimiter(delimiter).trim(csv::Trim::All).from_reader(file);
        let mut records = reader.records().peekable();
        // An empty field is a missing number, not a name.
        let is_name = |field: &str| !field.is_empty() && field.parse::<f64>().is_err();
        let first = records.peek().and_then(|first| first.as_ref().ok());
        let header = self.header.unwrap_or(first.is_some_and(|first| first.iter().any(is_name)));
        let names = match first {
            Some(first) if header => first.iter().map(String::from).collect(),
            Some(first) => numbered(first.len()),
            None => Vec::new(),
        };
        let mut cells = Vec::new();
        for record in records.skip(usize::from(header)) {
            let record = record.map_err(|e| self.error(format_args!("is no regular table ({e}): mend that row")))?;
            cells.extend(record.iter().map(String::from));
        }
        Ok(Cells { names, cells, labels: None })
    }

    /// `[N, D]` or `[N]` numbers.
    fn array(&self) -> Result<Cells<f64>> {
        let (array, labels) = array::read(&self.path, self.array.as_deref(), self.label.as_deref())?;
        let columns = match array.shape[..] {
            [_] => 1,
            [_, columns] => columns,
            _ => return Err(self.error(format_args!("has the shape {:?}: store it as [N, D] or [N]", array.shape))),
        };
        Ok(Cells { names: numbered(columns), cells: array.numbers.into_f64(), labels })
    }
}

fn numbered(columns: usize) -> Vec<String> {
    (0..columns).map(|c| format!("x{c}")).collect()
}

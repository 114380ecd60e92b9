//! A table of numbers: csv, npy or npz.
//!
//! Values keep their own units and become f32. Every tenth row is held out for the test split.

use crate::{
    Data, Error, Result, Split,
    error::fail,
    source::{classes_of, nearest_first, one_tenth},
};
use npyz::{NpyFile, Order, TypeChar};
use serde::{Deserialize, Serialize};
use std::{
    fmt::Display,
    fs,
    io::{Cursor, Read},
    path::PathBuf,
};

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

impl Table {
    pub(crate) fn load(&self, split: Split) -> Result<Data> {
        if self.path.as_os_str().is_empty() {
            fail!("table needs `path`: name a csv, npy or npz file");
        }
        let bytes = fs::read(&self.path)
            .map_err(|e| self.error(format_args!("cannot be read ({e}): name a csv, npy or npz file")))?;
        let ending = self.path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        match ending.as_str() {
            "csv" => self.choose(self.csv(&bytes, b',')?, split, |text| text.parse().ok()),
            "tsv" => self.choose(self.csv(&bytes, b'\t')?, split, |text| text.parse().ok()),
            "npy" => self.choose(self.npy(&bytes[..], None)?, split, |&number| Some(number)),
            "npz" => self.choose(self.npz(bytes)?, split, |&number| Some(number)),
            _ => Err(self.error("is no table that is known: name a csv, tsv, npy or npz file")),
        }
    }

    fn error(&self, what: impl Display) -> Error {
        Error::new(format!("{} {what}", self.path.display()))
    }

    /// Picks the columns, turns cells into numbers and takes the rows of the split.
    fn choose<T: Display>(&self, table: Cells<T>, split: Split, number: impl Fn(&T) -> Option<f64>) -> Result<Data> {
        let Cells { names, cells, labels } = table;
        let find = |wanted: &String| {
            names.iter().position(|name| name == wanted).ok_or_else(|| {
                self.error(format_args!("has no column `{wanted}`: choose from {}", nearest_first(wanted, &names)))
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
        let (labels, class_names) = match labels {
            Some(labels) if labels.len() != rows().len() => {
                return Err(self.error(format_args!(
                    "has {} labels for {} rows: give each row one label",
                    labels.len(),
                    rows().len()
                )));
            }
            Some(labels) => {
                let (labels, names) = classes_of(&labels);
                let own = labels.into_iter().enumerate().filter(|&(i, _)| split.holds(i, self.test_fraction));
                (Some(own.map(|(_, label)| label).collect()), names)
            }
            None => (None, Vec::new()),
        };
        let name = self.path.file_stem().map_or("table".into(), |name| name.to_string_lossy());
        let columns = columns.into_iter().map(|c| names[c].clone()).collect();
        Data::from_rows(&name, columns, values, labels, class_names)
    }

    fn csv(&self, bytes: &[u8], delimiter: u8) -> Result<Cells<String>> {
        let mut reader =
            csv::ReaderBuilder::new().has_headers(false).delimiter(delimiter).trim(csv::Trim::All).from_reader(bytes);
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

    /// `[N, D]` or `[N]` numbers; `array` is its name inside an npz file.
    fn npy(&self, source: impl Read, array: Option<&str>) -> Result<Cells<f64>> {
        let what = array.map_or(String::new(), |name| format!("(array `{name}`) "));
        let broken = |e: std::io::Error| self.error(format_args!("{what}cannot be read as npy: {e}"));
        let file = NpyFile::new(source).map_err(broken)?;
        let shape: Vec<usize> = file.shape().iter().map(|&n| n as usize).collect();
        let &[rows, columns] = match &shape[..] {
            [rows] => &[*rows, 1],
            [rows, columns] => &[*rows, *columns],
            _ => return Err(self.error(format_args!("{what}has the shape {shape:?}: store it as [N, D] or [N]"))),
        };
        let fortran = file.order() == Order::Fortran;
        let dtype = file.dtype();
        let kind = match &dtype {
            npyz::DType::Plain(kind) => Some((kind.type_char(), kind.size_field())),
            _ => None,
        };
        macro_rules! read {
            ($t:ty) => {
                file.into_vec::<$t>().map_err(broken)?.into_iter().map(|v| v as f64).collect()
            };
        }
        let flat: Vec<f64> = match kind {
            Some((TypeChar::Float, 4)) => read!(f32),
            Some((TypeChar::Float, 8)) => read!(f64),
            Some((TypeChar::Int, 1)) => read!(i8),
            Some((TypeChar::Int, 2)) => read!(i16),
            Some((TypeChar::Int, 4)) => read!(i32),
            Some((TypeChar::Int, 8)) => read!(i64),
            Some((TypeChar::Uint, 1)) => read!(u8),
            Some((TypeChar::Uint, 2)) => read!(u16),
            Some((TypeChar::Uint, 4)) => read!(u32),
            Some((TypeChar::Uint, 8)) => read!(u64),
            _ => {
                let dtype = dtype.descr();
                return Err(self.error(format_args!("{what}holds {dtype}: store it as f32, f64 or integers")));
            }
        };
        let cells = match fortran {
            true => (0..rows * columns).map(|k| flat[k % columns * rows + k / columns]).collect(),
            false => flat,
        };
        Ok(Cells { names: numbered(columns), cells, labels: None })
    }

    fn npz(&self, bytes: Vec<u8>) -> Result<Cells<f64>> {
        let broken = |e: &dyn Display| self.error(format_args!("cannot be read as npz: {e}"));
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| broken(&e))?;
        let files: Vec<String> = archive
            .file_names()
            .map(|name| Ok(name?.into_owned()))
            .collect::<zip::result::ZipResult<_>>()
            .map_err(|e| broken(&e))?;
        let names: Vec<String> =
            files.iter().filter_map(|file| npyz::npz::array_name_from_file_name(file)).map(String::from).collect();
        let has = |name: &str| names.iter().any(|known| known == name);
        let label = match &self.label {
            Some(label) => Some(label.clone()),
            None => ["y", "labels"].iter().find(|name| has(name)).map(|name| name.to_string()),
        };
        let others: Vec<&String> = names.iter().filter(|&name| Some(name) != label.as_ref()).collect();
        let array = match (&self.array, &others[..]) {
            (Some(array), _) => array.clone(),
            (None, [only]) => only.to_string(),
            (None, _) if has("x") => "x".into(),
            _ => return Err(self.error(format_args!("holds the arrays {}: name one by `array`", names.join(", ")))),
        };
        let mut read = |name: &str| {
            let Ok(file) = archive.by_name(&npyz::npz::file_name_from_array_name(name)) else {
                let names = nearest_first(name, &names);
                return Err(self.error(format_args!("has no array `{name}` that can be read: choose from {names}")));
            };
            self.npy(file, Some(name))
        };
        let labels = label.as_deref().map(&mut read).transpose()?;
        let labels = labels.map(|labels| labels.cells.iter().map(f64::to_string).collect());
        Ok(Cells { labels, ..read(&array)? })
    }
}

fn numbered(columns: usize) -> Vec<String> {
    (0..columns).map(|c| format!("x{c}")).collect()
}

//! A table of numbers: csv, npy or npz.
//!
//! Values keep their own units and become f32. Every tenth row is held out for the test split. What has to be guessed of a
//! csv file (the delimiter, decimal commas, whether the first line has names) can be said by a setting, and is noted in
//! [`Data::notes`].

use crate::{
    Data, DataSet, Split, array,
    listing::open,
    source::{Part, first_ten, hundred, is_missing, labels_of, nearest, one_tenth, short},
};
use serde::{Deserialize, Serialize};
use std::{
    fmt::Display,
    io::Read,
    path::{Path, PathBuf},
};
use stein_base::{Error, Explain, Kind, Result, ensure, memory};

/// A table in a file: `.csv` or `.tsv` with or without a header, `.npy` with `[N, D]` or `[N]` floats or integers, or
/// `.npz` with such an array. Without a header the columns are called `x0`, `x1`, ...
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The file.
    pub path: PathBuf,
    /// Whether a csv file begins with a line of names. By default it does where that line has text over numbers, or counts
    /// (0, 1, 2 or years) where no other line does.
    #[serde(default)]
    pub header: Option<bool>,
    /// What separates the columns of a csv file; by default a tab, `;`, `|` or `,`, the first that all lines agree on.
    #[serde(default)]
    pub delimiter: Option<char>,
    /// What separates the fraction of a number in a csv file; by default `,` where numbers have it and columns do not, else `.`.
    #[serde(default)]
    pub decimal: Option<char>,
    /// The column that holds the class (any text); in npz the array, by default `y` or `labels` where there is one.
    #[serde(default)]
    pub label: Option<String>,
    /// The most classes that labels may make; default 100.
    #[serde(default = "hundred")]
    pub max_classes: usize,
    /// The columns to take, in this order; by default all but the label.
    #[serde(default)]
    pub columns: Vec<String>,
    /// What to do about empty cells, NA, NaN, null, `-` and `?`; default refuse.
    #[serde(default)]
    pub missing: Missing,
    /// The array of an npz file; by default `x`, or the only one beside the label.
    #[serde(default)]
    pub array: Option<String>,
    /// The part, 0 to 1, held out for the test split, spread evenly; default 0.1.
    #[serde(default = "one_tenth")]
    pub test_fraction: f64,
}

/// What to do about missing values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Say where they are.
    #[default]
    Refuse,
    /// Leave out the rows that have any, and note how many.
    DropRows,
}

impl Default for Table {
    fn default() -> Table {
        Table {
            path: PathBuf::new(),
            header: None,
            delimiter: None,
            decimal: None,
            label: None,
            max_classes: hundred(),
            columns: Vec::new(),
            missing: Missing::Refuse,
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
    /// Columns that are taken only by name.
    aside: Vec<usize>,
    /// Labels that are not a column.
    labels: Option<Vec<String>>,
    notes: Vec<String>,
}

/// What stands in a cell.
trait Cell: Display {
    fn number(&self) -> Option<f64>;
    fn is_missing(&self) -> bool;
}

impl Cell for String {
    fn number(&self) -> Option<f64> {
        self.parse().ok()
    }

    fn is_missing(&self) -> bool {
        is_missing(self)
    }
}

impl Cell for f64 {
    fn number(&self) -> Option<f64> {
        Some(*self)
    }

    fn is_missing(&self) -> bool {
        self.is_nan()
    }
}

impl DataSet for Table {
    fn load(&self, split: Split, _: Option<&Path>) -> Result<Data> {
        ensure!(!self.path.as_os_str().is_empty(), "table needs `path`: name a csv, npy or npz file");
        let ending = self.path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        match ending.as_str() {
            "csv" => self.choose(self.csv(',')?, split),
            "tsv" => self.choose(self.csv('\t')?, split),
            "npy" | "npz" => self.choose(self.array()?, split),
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
    fn choose<T: Cell>(&self, table: Cells<T>, split: Split) -> Result<Data> {
        let Cells { names, cells, aside, labels, mut notes } = table;
        let find = |wanted: &String| {
            let path = self.path.display();
            let mut places = (0..names.len()).filter(|&c| names[c] == *wanted);
            let place = places.next().ok_or_else(|| {
                let known = nearest(wanted, &names);
                Error::new(format!("{path} has no column `{}`: choose from {known}", short(wanted)))
            })?;
            ensure!(places.next().is_none(), "{path} has more than one column `{wanted}`: rename them");
            Ok(place)
        };
        // In an npz file `label` names an array, which is already read.
        let label = self.label.as_ref().filter(|_| labels.is_none()).map(find).transpose()?;
        let columns: Vec<usize> = match self.columns.is_empty() {
            true => (0..names.len()).filter(|c| Some(*c) != label && !aside.contains(c)).collect(),
            false => self.columns.iter().map(find).collect::<Result<_>>()?,
        };
        let all: Vec<&[T]> = cells.chunks_exact(names.len().max(1)).collect();
        let named = |c: usize| format!("column `{}`", short(&names[c]));
        let cell =
            |row: usize, c: usize| format!("`{}` in row {}, {}", short(&all[row][c].to_string()), row + 1, named(c));

        let wanted = || columns.iter().copied().chain(label);
        let is_whole = |row: usize| !wanted().any(|c| all[row][c].is_missing());
        let unlabeled = |row: usize| labels.as_ref().is_some_and(|labels| is_missing(&labels[row]));
        let rows: Vec<usize> = match self.missing {
            Missing::Refuse => {
                if let Some(row) = (0..all.len()).find(|&row| !is_whole(row)) {
                    let count = |c: usize| all.iter().filter(|row| row[c].is_missing()).count();
                    let first = wanted().find(|&c| all[row][c].is_missing()).expect("the row has one");
                    let (counts, n) = (wanted().map(|c| (c, count(c))).filter(|(_, count)| *count > 0), all.len());
                    let counts: Vec<String> = counts.map(|(c, count)| format!("{count} in {}", named(c))).collect();
                    return Err(self.error(format_args!(
                        "has missing values in {} of {n} rows, the first {} ({}): fill them in, choose other columns by \
                         `columns`, or leave such rows out by `missing = \"drop_rows\"`",
                        (0..n).filter(|&row| !is_whole(row)).count(),
                        cell(row, first),
                        first_ten(&counts)
                    )));
                }
                (0..all.len()).collect()
            }
            Missing::DropRows => (0..all.len()).filter(|&row| is_whole(row) && !unlabeled(row)).collect(),
        };
        if rows.len() < all.len() {
            notes.push(format!(
                "{} of {} rows have missing values and are left out",
                all.len() - rows.len(),
                all.len()
            ));
        }
        let labels = match (labels, label) {
            (Some(labels), _) => Some(rows.iter().map(|&row| labels[row].clone()).collect()),
            (None, Some(c)) => Some(rows.iter().map(|&row| all[row][c].to_string()).collect()),
            (None, None) => None,
        };
        let what =
            label.map_or_else(|| self.path.display().to_string(), |c| format!("{}, {}", self.path.display(), named(c)));
        let (labels, class_names) = labels_of(labels, self.max_classes, what)?;

        let mut values = Vec::with_capacity(rows.len() * columns.len());
        for &row in &rows {
            for &c in &columns {
                let value = all[row][c].number().map(|v| v as f32).filter(|v| v.is_finite());
                let Some(value) = value else {
                    let plain = all[row][c].to_string().replace([',', '.', ' ', '\'', '_', '\u{a0}', '\u{202f}'], "");
                    let hint = match plain.parse::<f64>().is_ok_and(f64::is_finite) && all[row][c].number().is_none() {
                        true => "write numbers without separators of thousands and with one decimal point",
                        false => "mend it, drop the row or leave the column out",
                    };
                    return Err(self.error(format_args!("has {}, which is no finite number: {hint}", cell(row, c))));
                };
                values.push(value);
            }
        }
        let part = Part::of(split, rows.len(), self.test_fraction, labels.as_deref())?;
        let dim = columns.len();
        let values = part.own.iter().flat_map(|&i| &values[i * dim..(i + 1) * dim]).copied().collect();
        let labels = part.of_own(labels);
        let name = self.path.file_stem().map_or("table".into(), |name| name.to_string_lossy());
        let columns = columns.into_iter().map(|c| names[c].clone()).collect();
        let label_name = label.map(|c| names[c].clone());
        let mut data = Data::from_rows(&name, columns, values, labels, class_names)?;
        data.label_name = label_name;
        Ok(data.noted(notes.into_iter().chain([part.note])))
    }

    fn csv(&self, usual: char) -> Result<Cells<String>> {
        let text = self.text()?;
        let delimiter = self.delimiter.unwrap_or_else(|| delimiter(&text, usual));
        let Ok(byte) = u8::try_from(delimiter) else {
            return Err(Error::new(format!("delimiter = `{delimiter}`: give one such as `;`")));
        };
        let mut notes = Vec::new();
        if delimiter != usual && self.delimiter.is_none() {
            notes.push(format!(
                "columns are separated by {}",
                if delimiter == '\t' { "tabs".into() } else { format!("`{delimiter}`") }
            ));
        }
        let mut cells: Vec<String> = Vec::new();
        let mut width = 0;
        for record in reader(&text, byte, false).records() {
            let record = record.map_err(|e| self.error(format_args!("is no regular table ({e}): mend that row")))?;
            width = record.len();
            cells.extend(record.iter().map(String::from));
        }
        if self.decimal_of(&cells, delimiter)? == ',' {
            cells.iter_mut().filter(|cell| has_comma(cell)).for_each(|cell| *cell = cell.replace(',', "."));
            if self.decimal.is_none() {
                notes.push("numbers have decimal commas".into());
            }
        }
        let first: Vec<String> = cells.drain(..width).collect();
        let guess = names_columns(&first, &cells);
        let mut names = numbered(width);
        let mut aside = Vec::new();
        if self.header.unwrap_or(guess) {
            if self.header.is_none() && first.iter().any(|name| name.number().is_some()) {
                let line = first_ten(&first);
                notes.push(format!(
                    "the first line ({line}) was taken for names of columns; set `header = false` if it is data"
                ));
            }
            for (c, given) in first.into_iter().enumerate() {
                let column = || cells.iter().skip(c).step_by(width);
                let counts = |from: usize| column().zip(from..).all(|(cell, i)| *cell == i.to_string());
                match given.is_empty() {
                    // What programs write beside a table: the numbers of the rows, or one delimiter too many.
                    true if counts(0) || counts(1) || column().all(String::is_empty) => aside.push(c),
                    true => {}
                    false => names[c] = given,
                }
            }
            if !aside.is_empty() {
                let left: Vec<&String> = aside.iter().map(|&c| &names[c]).collect();
                notes.push(format!("{} have no name and only count the rows or are empty: left out", first_ten(&left)));
            }
        } else {
            cells.splice(0..0, first);
            if self.header.is_none() && width > 0 {
                notes.push(format!("the first line was taken for numbers: columns are called {}", first_ten(&names)));
            }
        }
        Ok(Cells { names, cells, aside, labels: None, notes })
    }

    /// The text of the file without a mark of its encoding.
    fn text(&self) -> Result<String> {
        let unreadable = |e| self.error(format_args!("cannot be read ({e}): name a csv, npy or npz file"));
        let mut file = open(&self.path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        // Each cell is a text of its own, besides the text of all.
        memory::ensure_fits(&self.path.display().to_string(), 8 * u128::from(size))?;
        let mut bytes = Vec::with_capacity(size as usize);
        file.read_to_end(&mut bytes).map_err(unreadable)?;
        ensure!(
            Kind::File,
            !bytes.starts_with(&[0xff, 0xfe]) && !bytes.starts_with(&[0xfe, 0xff]),
            "{} is text of 16-bit units: save it as UTF-8",
            self.path.display()
        );
        if bytes.starts_with(&[0xef, 0xbb, 0xbf]) {
            bytes.drain(..3);
        }
        String::from_utf8(bytes).map_err(|e| {
            let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
            self.error(format_args!("is not UTF-8 text in line {line}: save it as UTF-8"))
        })
    }

    /// The decimal separator: said, or seen in the cells.
    fn decimal_of(&self, cells: &[String], delimiter: char) -> Result<char> {
        if let Some(decimal) = self.decimal {
            ensure!(matches!(decimal, ',' | '.'), "decimal = `{decimal}`: give `,` or `.`");
            return Ok(decimal);
        }
        if delimiter == ',' {
            return Ok('.');
        }
        let mut commas = cells.iter().filter(|cell| has_comma(cell)).peekable();
        let Some(first) = commas.peek().copied() else { return Ok('.') };
        let (one, path) = (short(first), self.path.display());
        ensure!(
            Kind::File,
            !commas.all(|cell| in_thousands(cell)),
            "{path} has numbers such as `{one}`, in which the comma may separate thousands or a fraction: set `decimal` to \
             `,` or write them without"
        );
        if let Some(point) = cells.iter().find(|cell| cell.contains('.') && cell.number().is_some()) {
            let point = short(point);
            let what = format_args!("has numbers such as `{one}` and such as `{point}`: set `decimal` to `,` or `.`");
            return Err(self.error(what));
        }
        Ok(',')
    }

    /// `[N, D]` or `[N]` numbers.
    fn array(&self) -> Result<Cells<f64>> {
        let (array, labels) = array::read(&self.path, self.array.as_deref(), self.label.as_deref())?;
        let columns = match array.shape[..] {
            [_] => 1,
            [_, columns] => columns,
            _ => return Err(self.error(format_args!("has the shape {:?}: store it as [N, D] or [N]", array.shape))),
        };
        let cells = array.numbers.into_f64();
        Ok(Cells { names: numbered(columns), cells, aside: Vec::new(), labels, notes: Vec::new() })
    }
}

fn reader(text: &str, delimiter: u8, flexible: bool) -> csv::Reader<&[u8]> {
    let mut builder = csv::ReaderBuilder::new();
    builder.has_headers(false).delimiter(delimiter).trim(csv::Trim::All).flexible(flexible).from_reader(text.as_bytes())
}

/// The delimiter that gives the first lines the same number of columns, more than one. The comma comes last, because numbers
/// have it too.
fn delimiter(text: &str, usual: char) -> char {
    let agree = |delimiter: &char| {
        let mut records = reader(text, *delimiter as u8, true).into_records();
        let mut columns = records.by_ref().take(100).map(|record| record.map_or(0, |record| record.len()));
        let first = columns.next().unwrap_or(0);
        first > 1 && columns.all(|more| more == first)
    };
    [usual].into_iter().filter(|&it| it != ',').chain(['\t', ';', '|', ',']).find(agree).unwrap_or(usual)
}

/// Whether a cell is a number with a decimal comma.
fn has_comma(cell: &str) -> bool {
    cell.contains(',') && !cell.contains('.') && cell.replacen(',', ".", 1).parse::<f64>().is_ok()
}

/// Whether the comma of a number may separate its thousands.
fn in_thousands(cell: &str) -> bool {
    let (whole, rest) = cell.split_once(',').unwrap_or((cell, ""));
    let whole = whole.trim_start_matches(['+', '-']);
    matches!(whole.len(), 1..=3) && !whole.starts_with('0') && rest.len() == 3
}

/// Whether a first line names the columns of the rest.
fn names_columns(first: &[String], rest: &[String]) -> bool {
    let width = first.len();
    let is_name = |cell: &String| !cell.is_missing() && cell.number().is_none();
    let is_numeric = |c: usize| {
        let mut known = rest.iter().skip(c).step_by(width).filter(|cell| !cell.is_missing()).peekable();
        known.peek().is_some() && known.all(|cell| cell.number().is_some())
    };
    if (0..width).any(|c| is_name(&first[c]) && is_numeric(c)) {
        return true;
    }
    if !first.iter().any(|cell| is_number(cell)) {
        return first.iter().any(is_name);
    }
    let Some(counted) = counted(first) else { return false };
    // Two small numbers over whole ones say nothing.
    let says =
        counted.len() > 2 || counted[0] > 1 || rest.iter().any(|cell| is_number(cell) && cell.parse::<i64>().is_err());
    says && !rest.chunks_exact(width).any(|row| self::counted(row).is_some())
}

fn is_number(cell: &str) -> bool {
    !is_missing(cell) && cell.parse::<f64>().is_ok()
}

/// The numbers of a line, two or more, where they count from 0 or 1, or are years that go up.
fn counted(line: &[String]) -> Option<Vec<u32>> {
    let numbers: Vec<u32> =
        line.iter().filter(|cell| is_number(cell)).map(|cell| cell.parse().ok()).collect::<Option<_>>()?;
    let up = |most: u32| numbers.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= most);
    let counts = numbers.len() > 1
        && ((numbers[0] <= 1 && up(1)) || (numbers.iter().all(|year| (1800..2200).contains(year)) && up(100)));
    counts.then_some(numbers)
}

fn numbered(columns: usize) -> Vec<String> {
    (0..columns).map(|c| format!("x{c}")).collect()
}

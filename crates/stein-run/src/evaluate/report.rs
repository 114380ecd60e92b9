//! What an evaluation says: as a table, as JSON, and as a page with pictures.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use stein::{Error, Kind, Result};
use stein_base::files::write_atomically;
use stein_data::Shape;
use stein_metrics::{AnyMetric, Better, Measured, Neighbors, Rows, Side};

use super::{
    ByClass,
    sides::{Part, Sides},
};
use crate::{
    Summary,
    html::{Section, report},
    picture::{auto_scale, grid, to_png},
    replacing::Recorded,
};

/// What was measured.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The metrics in their order, what each says, and how many rows of the reference it took.
    pub measured: Vec<(AnyMetric, Measured, usize)>,
    /// What was measured of each class, if it was.
    pub by_class: Option<ByClass>,
    /// Whether that was asked for beyond the page, in the text and the JSON.
    pub(super) shows_classes: bool,
    /// Whose samples they are.
    pub samples: String,
    /// Their number.
    pub n: usize,
    /// How they were drawn, if they were.
    pub sampled: Option<Summary>,
    /// The data they are compared with.
    pub reference: Option<String>,
    /// Their number.
    pub reference_n: usize,
    /// The data that were held out, and their number.
    pub held_out: Option<(String, usize)>,
    /// Why the data have a held-out part that could not be read, if so.
    pub unread: Option<String>,
    /// What turned them into the rows that were compared.
    pub features: String,
    /// Seconds it took.
    pub seconds: f64,
}

/// Further numbers of a metric that are shown in a table; all are in the JSON.
const PARTS: usize = 3;

/// A number with four digits that count.
pub(crate) fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    match digits {
        0..=6 => format!("{value:.*}", digits as usize),
        i32::MIN..0 => format!("{value:.0}"),
        _ => format!("{value:.3e}"),
    }
}

/// The value of a metric with its error.
pub(crate) fn told(measured: &Measured) -> String {
    match measured.error {
        Some(error) => format!("{} ± {}", short(measured.value), short(error)),
        None => short(measured.value),
    }
}

/// Which values of a metric are good, in words.
fn better(metric: &AnyMetric) -> String {
    match metric.better() {
        Better::Smaller => "smaller is better".into(),
        Better::Larger => "larger is better".into(),
        Better::Near(value) => format!("{value} is right"),
    }
}

impl Evaluation {
    /// What a metric says, by its name.
    pub fn metric(&self, kind: &str) -> Option<&Measured> {
        self.measured.iter().find(|(metric, _, _)| metric.kind() == kind).map(|(_, measured, _)| measured)
    }

    /// What was compared, in sentences.
    fn about(&self) -> Vec<String> {
        let mut lines = vec![format!("samples    {} of {}", self.n, self.samples)];
        if let Some(sampled) = &self.sampled {
            lines[0] += &format!(
                ", {} with {} evaluations each, seed {}",
                sampled.config.sampler.kind(),
                sampled.evaluations,
                sampled.seed
            );
        }
        lines.extend(self.compared_with());
        lines
    }

    /// What the samples were compared with, in sentences.
    pub(crate) fn compared_with(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(reference) = &self.reference {
            let hash = self.measured.iter().find_map(|(_, measured, _)| measured.reference.as_deref());
            let hash = hash.map(|hash| format!(" ({hash})")).unwrap_or_default();
            lines.push(format!("reference  {} of {reference}{hash}", self.reference_n));
        }
        if let Some((name, count)) = &self.held_out {
            lines.push(format!("held out   {count} of {name}"));
        }
        if let Some(why) = &self.unread {
            lines.push(format!("held out   none, since the test part cannot be read: {why}"));
        }
        lines.push(format!("features   {}", self.features));
        lines
    }

    /// What was measured of each class, where that is said beyond the page.
    fn shown_classes(&self) -> Option<&ByClass> {
        self.by_class.as_ref().filter(|_| self.shows_classes)
    }

    /// One object: of every metric its value, error, further numbers and notes; under `about` what was compared; under `by_class`, if
    /// that was asked for, the same of every class.
    pub fn json(&self) -> Value {
        let mut object = Map::new();
        for (metric, measured, rows) in &self.measured {
            let mut said = json!({ "value": measured.value, "error": measured.error });
            let parts: Map<String, Value> =
                measured.parts.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            if !parts.is_empty() {
                said["parts"] = parts.into();
            }
            if !measured.notes.is_empty() {
                said["notes"] = json!(measured.notes);
            }
            if let Some(reference) = &measured.reference {
                said["reference"] = json!(reference);
                said["reference_n"] = json!(rows);
            }
            object.insert(metric.kind().to_owned(), said);
        }
        let sampled = self.sampled.as_ref().map(|sampled| {
            json!({
                "sampler": sampled.config.sampler.kind(),
                "evaluations": sampled.evaluations,
                "seed": sampled.seed,
                "seconds": sampled.seconds,
            })
        });
        let mut about = json!({
            "samples": self.samples,
            "n": self.n,
            "sampled": sampled,
            "reference": self.reference,
            "reference_n": self.reference_n,
            "held_out": self.held_out.as_ref().map(|(name, _)| name),
            "held_out_n": self.held_out.as_ref().map(|(_, count)| count),
            "features": self.features,
            "seconds": self.seconds,
        });
        if let Some(why) = &self.unread {
            about["held_out_unread"] = json!(why);
        }
        object.insert("about".to_owned(), about);
        if let Some(by_class) = self.shown_classes() {
            object.insert("by_class".to_owned(), by_class.json());
        }
        object.into()
    }

    /// A row for each metric: its name, what it says, which values are good, and what to know of it.
    fn table(&self) -> Vec<[String; 4]> {
        let row = |(metric, measured, rows): &(AnyMetric, Measured, usize)| {
            let parts = measured.parts.iter().take(PARTS).map(|(name, value)| format!("{name} {}", short(*value)));
            let mut notes: Vec<String> = parts.collect();
            if measured.reference.is_some() && *rows < self.reference_n && *rows > 0 {
                notes.push(format!("{rows} rows of the reference"));
            }
            notes.extend(measured.notes.iter().cloned());
            [metric.kind().to_owned(), told(measured), better(metric), notes.join("; ")]
        };
        self.measured.iter().map(row).collect()
    }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.about() {
            writeln!(f, "{line}")?;
        }
        writeln!(f)?;
        let rows = self.table();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        for [name, value, better, notes] in &rows {
            let line = format!("{name:<0$}  {value:<1$}  {better:<2$}  {notes}", width(0), width(1), width(2));
            writeln!(f, "{}", line.trim_end())?;
        }
        let Some(by_class) = self.shown_classes() else { return Ok(()) };
        writeln!(f)?;
        write!(f, "{}", aligned(&[vec![by_class.header()], by_class.rows()].concat()))?;
        by_class.notes().iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// Lines of cells in columns, the first to the left and the others to the right.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(i, cell)| if i == 0 { format!("{cell:<0$}", width(i)) } else { format!("{cell:>0$}", width(i)) })
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Samples that are shown.
const SHOWN: usize = 32;

/// Nearest data beside each of the samples.
const NEAREST: usize = 5;

/// Some samples, evenly spread over all, kept for the pictures.
pub(crate) struct Shown {
    /// Samples in all, and how many came.
    of: usize,
    seen: usize,
    values: Vec<f32>,
    labels: Vec<u32>,
}

impl Shown {
    /// None yet of so many samples.
    pub(super) fn of(count: usize) -> Self {
        Self { of: count, seen: 0, values: Vec::new(), labels: Vec::new() }
    }

    pub(super) fn take(&mut self, values: &[f32], labels: Option<&[u32]>, dim: usize) {
        for (row, value) in values.chunks_exact(dim).enumerate() {
            // Sample i is shown where i · SHOWN/n passes a whole number.
            let place = |seen: usize| seen * SHOWN / self.of.max(SHOWN);
            if self.seen == 0 || place(self.seen) > place(self.seen - 1) {
                self.values.extend_from_slice(value);
                self.labels.extend(labels.map(|labels| labels[row]));
            }
            self.seen += 1;
        }
    }
}

/// The folder of the page, which was checked.
pub(super) struct Leave {
    page: PathBuf,
    json: PathBuf,
    recorded: Recorded,
}

impl Leave {
    pub(super) fn new(folder: &Path, force: bool) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|error| {
            Error::of(Kind::File, format!("cannot make the directory {}: {error}", folder.display()))
        })?;
        let [page, json] = ["index.html", "evaluation.json"].map(|name| folder.join(name));
        let recorded = Recorded::new(&folder.join("record.json"), Vec::new(), force)?;
        [&page, &json].into_iter().try_for_each(|path| recorded.check(path))?;
        Ok(Self { page, json, recorded })
    }

    pub(super) fn write(self, evaluation: &Evaluation, shown: &Shown, sides: &Sides) -> Result<()> {
        let header = ["metric", "value", "which is better", "notes"].map(String::from).to_vec();
        let rows = evaluation.table().into_iter().map(|row| row.to_vec()).collect();
        let mut sections = vec![Section::Code(evaluation.about().join("\n")), Section::Table { header, rows }];
        if let Some(by_class) = &evaluation.by_class {
            sections.push(Section::Heading("Each class".into()));
            sections.push(Section::Table { header: by_class.header(), rows: by_class.rows() });
            sections.push(Section::Text(by_class.notes().join("\n")));
        }
        if let Shape::Image { .. } = sides.shape {
            sections.extend(pictures(shown, sides)?);
        }
        let page = report(&format!("How good {} is", evaluation.samples), &sections)?;
        write_atomically(&self.page, |file| file.write_all(page.as_bytes()))?;
        let text = format!("{:#}\n", evaluation.json());
        write_atomically(&self.json, |file| file.write_all(text.as_bytes()))?;
        self.recorded.write(&[&self.page, &self.json], Map::new())
    }
}

/// Samples beside real data, and beside the data nearest to them.
fn pictures(shown: &Shown, sides: &Sides) -> Result<Vec<Section>> {
    let dim = sides.shape.len();
    let count = shown.values.len() / dim;
    let Some(reference) = sides.part(Side::Reference).filter(|_| count > 0) else { return Ok(Vec::new()) };
    let mut sections = Vec::new();
    let real: Vec<f32> = spread(reference, count)?;
    let both: Vec<f32> = shown.values.chunks(8 * dim).zip(real.chunks(8 * dim)).fold(Vec::new(), |mut all, (a, b)| {
        all.extend_from_slice(a);
        all.extend_from_slice(b);
        all
    });
    // Sixteen a row: eight samples and eight of the data.
    if count.is_multiple_of(8) {
        sections.push(Section::Heading("Samples and data".into()));
        sections.push(section(&both, sides.shape, 16, "Left eight columns samples, right eight data.")?);
    }
    let rows = Rows::of(dim, &shown.values)?;
    let mut nearest: Vec<Vec<(f64, Vec<f32>)>> = vec![Vec::new(); count];
    for first in (0..reference.count()).step_by(NEAR_AT_ONCE) {
        let (values, _) = reference.read(first, NEAR_AT_ONCE)?;
        let part = Rows::of(dim, &values)?;
        for (found, near) in nearest.iter_mut().zip(Neighbors::among(&part).of(&rows, NEAREST)) {
            found.extend(
                near.iter().map(|near| (near.distance(), values[near.place * dim..(near.place + 1) * dim].to_vec())),
            );
            found.sort_by(|a, b| a.0.total_cmp(&b.0));
            found.truncate(NEAREST);
        }
    }
    let beside: Vec<f32> = shown
        .values
        .chunks(dim)
        .zip(&nearest)
        .flat_map(|(sample, near)| {
            let mut row = sample.to_vec();
            near.iter().for_each(|(_, values)| row.extend_from_slice(values));
            row.resize((1 + NEAREST) * dim, 0.0);
            row
        })
        .collect();
    sections.push(Section::Heading("The nearest data".into()));
    let caption = "Twice in each row a sample, and after it the five of the data nearest to it, by the distance of their numbers.";
    sections.push(section(&beside, sides.shape, 2 * (1 + NEAREST), caption)?);
    if !shown.labels.is_empty() {
        let names: Vec<&str> =
            shown.labels.iter().map(|&label| reference.class_names()[label as usize].as_str()).collect();
        sections.push(Section::Text(format!("The samples were drawn as {}.", names.join(", "))));
    }
    Ok(sections)
}

/// Rows of data whose neighbors are looked for at a time.
const NEAR_AT_ONCE: usize = 4096;

/// Rows spread evenly over data.
fn spread(part: &Part, count: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    for i in 0..count {
        values.extend(part.read(i * part.count() / count, 1)?.0);
    }
    Ok(values)
}

fn section(values: &[f32], shape: Shape, columns: usize, caption: &str) -> Result<Section> {
    let Shape::Image { height, width, channels } = shape else {
        return Err(Error::new("these are no pictures"));
    };
    let sheet = grid(values, (height, width, channels), columns, auto_scale(width, columns), None, "")?;
    Ok(Section::Picture {
        name: caption.into(),
        bytes: to_png(&sheet)?,
        mime: "image/png".into(),
        caption: caption.into(),
    })
}

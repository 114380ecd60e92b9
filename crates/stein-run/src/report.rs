//! Reports of runs: a page of one, which every run leaves, and a page of several beside each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::Path,
};

use serde_json::Value;
use stein::{Result, ensure};
use stein_base::files::write_atomically;
use toml::Table;

use crate::{
    Experiment, RunDir,
    html::{Section, report},
    picture::{Chart, Frame, Series, line_chart, to_png},
};

/// Leaves `loss.png` and `report.html` in a run directory, or what can be said of a run that has no metrics yet.
///
/// # Errors
/// A run that cannot be read, and files that cannot be written.
pub fn write_report(run: &RunDir) -> Result<()> {
    let told = Told::of(run)?;
    if let Some(chart) = loss_chart(std::slice::from_ref(&told), Kept::All)? {
        let bytes = to_png(&chart.picture()?)?;
        write_atomically(run.root().join("loss.png"), |file| file.write_all(&bytes))?;
    }
    write_page(&run.root().join("report.html"), &page(&[told])?)
}

/// Writes one page on one run or several: their losses, the settings in which they differ, their speed and their last pictures.
///
/// # Errors
/// Directories that are no runs, and a file there that is not a report of this program.
pub fn report_runs(runs: &[&Path], path: &Path) -> Result<()> {
    ensure!(!runs.is_empty(), "a report needs at least one run directory");
    let told = runs.iter().map(|root| Told::of(&RunDir::open(root)?)).collect::<Result<Vec<_>>>()?;
    write_page(path, &page(&told)?)
}

/// What the pages of [`report`] have in them.
const OURS: &str = "<meta name=\"generator\" content=\"stein\">";

pub(crate) fn write_page(path: &Path, page: &str) -> Result<()> {
    let is_ours = |there: Vec<u8>| there.windows(OURS.len()).any(|part| part == OURS.as_bytes());
    let ours = !path.is_file() || fs::read(path).is_ok_and(is_ours);
    ensure!(Kind::File, ours, "{} is there and is no report of Stein: give the report another name", path.display());
    write_atomically(path, |file| file.write_all(page.as_bytes()))
}

/// All a report says of a run.
struct Told {
    name: String,
    experiment: Experiment,
    metrics: Vec<Value>,
    parameters: Option<u64>,
    /// The newest picture of samples, and its step.
    sheet: Option<(u64, Vec<u8>)>,
}

impl Told {
    fn of(run: &RunDir) -> Result<Self> {
        let metrics = run.metrics()?;
        let folder = run.sample_path(0);
        let folder = folder.parent().expect("pictures of samples lie in a folder");
        let pictures = fs::read_dir(folder).into_iter().flatten().flatten();
        let step = |entry: fs::DirEntry| entry.path().file_stem()?.to_str()?.parse().ok();
        let newest = pictures.filter_map(step).filter(|&step| run.sample_path(step).is_file()).max();
        let sheet = newest.and_then(|step: u64| Some((step, fs::read(run.sample_path(step)).ok()?)));
        Ok(Self {
            name: run.root().display().to_string(),
            experiment: run.experiment()?,
            parameters: run.latest().ok().and_then(|path| parameters(&path)),
            metrics,
            sheet,
        })
    }

    /// The last step the metrics tell of.
    fn step(&self) -> u64 {
        self.metrics.iter().filter_map(|line| line["step"].as_u64()).max().unwrap_or_default()
    }

    /// What the metrics have under one name: step and value.
    fn points(&self, key: &str) -> Vec<(f64, f64)> {
        self.metrics.iter().filter_map(|line| Some((line["step"].as_f64()?, line[key].as_f64()?))).collect()
    }

    /// The names in the metrics that are this one or, where several learn, this one of a learner; with what is behind.
    fn keys(&self, of: &str) -> BTreeMap<String, String> {
        let lines = self.metrics.iter().filter_map(Value::as_object);
        let keys: BTreeSet<&String> = lines.flat_map(serde_json::Map::keys).collect();
        let behind = |key: &String| {
            let rest = key.strip_prefix(of)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| (key.clone(), rest.replace('/', " ")))
        };
        keys.into_iter().filter_map(behind).collect()
    }

    /// The last value under a name and its learners.
    fn last(&self, of: &str) -> String {
        let last = |key: &String| self.points(key).last().map(|point| format!("{:.4}", point.1));
        let values: Vec<String> = self.keys(of).keys().filter_map(last).collect();
        if values.is_empty() { "\u{2013}".to_owned() } else { values.join(", ") }
    }

    /// Examples per second, the median of the lines.
    fn speed(&self) -> Option<f64> {
        let mut speeds: Vec<f64> = self.points("examples_per_second").into_iter().map(|point| point.1).collect();
        speeds.sort_by(f64::total_cmp);
        speeds.get(speeds.len() / 2).copied()
    }

    /// Seconds of training, by the speed of every line.
    fn seconds(&self) -> f64 {
        let mut before = 0.0;
        let lines = self.points("examples_per_second").into_iter().filter(|point| point.1 > 0.0);
        let batch = self.experiment.train.batch as f64;
        lines.map(|(step, speed)| (step - std::mem::replace(&mut before, step)).max(0.0) * batch / speed).sum()
    }
}

/// The weights in a checkpoint, counted in its head.
fn parameters(path: &Path) -> Option<u64> {
    let mut file = File::open(path).ok()?;
    let mut size = [0; 8];
    file.read_exact(&mut size).ok()?;
    let mut head = Vec::new();
    file.take(u64::from_le_bytes(size).min(1 << 27)).read_to_end(&mut head).ok()?;
    let head: serde_json::Map<String, Value> = serde_json::from_slice(&head).ok()?;
    let weights = head.iter().filter(|(name, _)| name.split('.').nth(1) == Some("raw"));
    let count =
        |tensor: &Value| tensor["shape"].as_array()?.iter().try_fold(1_u64, |n, side| n.checked_mul(side.as_u64()?));
    weights.map(|(_, tensor)| count(tensor)).try_fold(0_u64, |sum, n| sum.checked_add(n?))
}

/// Which losses a chart has.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    All,
    Training,
    HeldOut,
}

/// The losses of runs, each smoothed over its own values; none where there are none.
fn loss_chart(runs: &[Told], kept: Kept) -> Result<Option<Chart>> {
    let mut series = Vec::new();
    for run in runs {
        let named = |what: &str, behind: &str| match runs.len() {
            1 => format!("{what}{behind}"),
            _ => format!("{}{behind}", run.name),
        };
        for (key, behind) in run.keys("loss").into_iter().filter(|_| kept != Kept::HeldOut) {
            let points = run.points(&key);
            let smooth = smoothed(&points);
            if runs.len() == 1 {
                series.push(Series { name: String::new(), points, faint: true });
            }
            series.push(Series { name: named("training", &behind), points: smooth, faint: false });
        }
        for (key, behind) in run.keys("held_out_loss").into_iter().filter(|_| kept != Kept::Training) {
            series.push(Series { name: named("held out", &behind), points: run.points(&key), faint: false });
        }
    }
    let heights = || series.iter().flat_map(|series| &series.points).map(|point| point.1);
    if !heights().any(f64::is_finite) {
        return Ok(None);
    }
    let title = match (runs, kept) {
        ([run], _) => format!("Loss of {}", run.name),
        (_, Kept::HeldOut) => "Held-out loss".to_owned(),
        _ => "Training loss".to_owned(),
    };
    let frame = Frame { title: &title, x: "step", y: "loss", size: (960, 600) };
    line_chart(&series, &frame, heights().all(|height| height > 0.0), None).map(Some)
}

/// A moving average of values.
pub(crate) fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut average = points.first().map_or(0.0, |point| point.1);
    let smooth = |&(step, value): &(f64, f64)| {
        average += 0.2 * (value - average);
        (step, average)
    };
    points.iter().map(smooth).collect()
}

fn page(runs: &[Told]) -> Result<String> {
    let mut sections = vec![facts(runs)];
    let charts = if runs.len() == 1 { &[Kept::All][..] } else { &[Kept::Training, Kept::HeldOut] };
    for &kept in charts {
        if let Some(chart) = loss_chart(runs, kept)? {
            let caption = match kept {
                Kept::All => {
                    "The loss over the steps: a line of metrics is drawn faintly, a moving average of them strongly."
                }
                Kept::Training => "The loss on the data they train on, as moving averages.",
                Kept::HeldOut => "The loss on data they do not train on.",
            };
            sections.push(picture("loss", to_png(&chart.picture()?)?, caption.to_owned()));
        }
    }
    if let [run] = runs {
        sections.extend(others(run));
        sections.extend(levels(run)?);
    }
    sections.extend(evaluations(runs)?);
    if runs.len() > 1 {
        sections.push(Section::Heading("Settings in which they differ".into()));
        sections.push(differences(runs));
    }
    if runs.iter().any(|run| run.sheet.is_some()) {
        let draws = runs.iter().any(|run| run.experiment.sample.is_some());
        sections.push(Section::Heading(if draws { "Samples" } else { "Pictures above what is made of them" }.into()));
    }
    for run in runs {
        if let Some((step, bytes)) = &run.sheet {
            sections.push(picture("samples", bytes.clone(), format!("{}, step {step}.", run.name)));
        }
    }
    if let [run] = runs {
        sections.push(Section::Heading("The experiment".into()));
        sections.push(Section::Code(run.experiment.to_toml()));
    }
    let title = match runs {
        [run] => run.name.clone(),
        _ => format!("{} runs", runs.len()),
    };
    report(&title, &sections)
}

/// What else was measured last on data it does not train on, beside losses.
fn others(run: &Told) -> Option<Section> {
    let last = run.metrics.iter().rev().filter_map(Value::as_object);
    fn measured(name: &str) -> Option<&str> {
        name.strip_prefix("held_out_").filter(|name| !["loss", "level"].iter().any(|own| name.starts_with(own)))
    }
    let rows: Vec<Vec<String>> = last
        .map(|line| {
            line.iter()
                .filter_map(|(name, value)| Some(vec![measured(name)?.to_owned(), format!("{:.4}", value.as_f64()?)]))
                .collect()
        })
        .find(|rows: &Vec<_>| !rows.is_empty())?;
    Some(Section::Table { header: ["held out", "last"].map(String::from).to_vec(), rows })
}

/// A chart of the held-out loss at each of some levels of noise, over the steps.
fn levels(run: &Told) -> Result<Option<Section>> {
    let mut keys: Vec<(String, String)> = run.keys("held_out_level").into_iter().collect();
    let noise = |name: &str| name.trim().parse::<f64>().unwrap_or(f64::NAN);
    keys.sort_by(|a, b| noise(&a.1).total_cmp(&noise(&b.1)));
    let series: Vec<Series> = keys
        .into_iter()
        .map(|(key, name)| Series { name: format!("\u{3c3}/\u{3b1} ={name}"), points: run.points(&key), faint: false })
        .collect();
    if !series.iter().flat_map(|series| &series.points).any(|point| point.1.is_finite()) {
        return Ok(None);
    }
    let frame = Frame { title: "Held-out loss by level of noise", x: "step", y: "loss", size: (960, 600) };
    let chart = line_chart(&series, &frame, true, None)?;
    let caption = "The loss on data it does not train on, at fixed levels and with fixed noise: where a curve rises, it over-fits there.";
    Ok(Some(picture("levels", to_png(&chart.picture()?)?, caption.to_owned())))
}

/// A chart of each metric of samples over the steps.
fn evaluations(runs: &[Told]) -> Result<Vec<Section>> {
    let names: BTreeSet<String> =
        runs.iter().flat_map(|run| run.keys("evaluate").into_values()).map(|name| name.trim().to_owned()).collect();
    let mut sections = Vec::new();
    for name in names {
        let key = format!("evaluate/{name}");
        let series: Vec<Series> = runs
            .iter()
            .map(|run| Series { name: run.name.clone(), points: run.points(&key), faint: false })
            .filter(|series| series.points.iter().any(|point| point.1.is_finite()))
            .collect();
        if series.is_empty() {
            continue;
        }
        if sections.is_empty() {
            sections.push(Section::Heading("How good samples are".to_owned()));
        }
        let frame = Frame { title: &name, x: "step", y: &name, size: (960, 600) };
        let chart = line_chart(&series, &frame, false, None)?;
        sections.push(picture(&name, to_png(&chart.picture()?)?, String::new()));
    }
    Ok(sections)
}

fn picture(name: &str, bytes: Vec<u8>, caption: String) -> Section {
    Section::Picture { name: name.into(), bytes, mime: "image/png".into(), caption }
}

/// The numbers of runs, a run per row.
fn facts(runs: &[Told]) -> Section {
    let header = ["run", "data", "step", "loss", "held-out loss", "parameters", "examples per second", "training"];
    let row = |run: &Told| {
        let known = |number: Option<String>| number.unwrap_or_else(|| "\u{2013}".to_owned());
        vec![
            run.name.clone(),
            run.experiment.data.source.kind().to_owned(),
            format!("{} of {}", run.step(), run.experiment.train.steps),
            run.last("loss"),
            run.last("held_out_loss"),
            known(run.parameters.map(|count| count.to_string())),
            known(run.speed().map(|speed| format!("{speed:.0}"))),
            format!("{} s", run.seconds().round()),
        ]
    };
    Section::Table { header: header.map(String::from).to_vec(), rows: runs.iter().map(row).collect() }
}

/// The settings that are not the same in all runs, a setting per row.
fn differences(runs: &[Told]) -> Section {
    let settings: Vec<BTreeMap<String, String>> = runs
        .iter()
        .map(|run| {
            let mut flat = BTreeMap::new();
            let table =
                Table::try_from(&run.experiment).expect("an experiment consists of tables, numbers and strings");
            flatten("", &table, &mut flat);
            flat
        })
        .collect();
    let keys: BTreeSet<&String> = settings.iter().flat_map(BTreeMap::keys).collect();
    let differ = |key: &&String| settings.iter().any(|run| run.get(*key) != settings[0].get(*key));
    let row = |key: &String| {
        let values = settings.iter().map(|run| run.get(key).cloned().unwrap_or_else(|| "\u{2013}".to_owned()));
        std::iter::once(key.clone()).chain(values).collect()
    };
    let header = std::iter::once("setting".to_owned()).chain(runs.iter().map(|run| run.name.clone())).collect();
    let rows: Vec<Vec<String>> = keys.into_iter().filter(differ).map(row).collect();
    if rows.is_empty() {
        Section::Text("None: they are runs of one experiment.".into())
    } else {
        Section::Table { header, rows }
    }
}

/// Every value of a table under its whole path.
fn flatten(path: &str, table: &Table, flat: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            toml::Value::Table(inner) => flatten(&path, inner, flat),
            value => {
                flat.insert(path, value.to_string());
            }
        }
    }
}

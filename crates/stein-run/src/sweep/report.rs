//! What a sweep says: a table, a plot, a page, and the setting to take.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::{Map, Value, json};
use stein::Result;
use stein_base::files::write_atomically;
use stein_metrics::Better;

use super::{Sweep, Tried};
use crate::{
    Error, Model,
    evaluate::{aligned, short, told},
    html::{Section, report},
    picture::{Chart, Frame, Series, line_chart, to_png},
    replacing::{Recorded, beside},
};

impl Tried {
    /// The setting in words.
    pub(super) fn name(&self) -> String {
        let grid = self.grid.as_ref().map(|grid| format!(" on {grid}")).unwrap_or_default();
        format!("{}{grid}, {} steps", self.sampler, self.steps)
    }

    /// The curve it is a point of.
    fn curve(&self) -> String {
        let grid = self.grid.as_ref().map(|grid| format!(", {grid}")).unwrap_or_default();
        format!("{}{grid}", self.sampler)
    }

    /// The flags of a command line that say the same; levels that were fitted are listed unless they are kept.
    fn flags(&self, kept: bool) -> String {
        let (name, settings) = self.sampler.split_once('{').unwrap_or((&self.sampler, ""));
        let settings: String = settings
            .trim_end_matches('}')
            .split(',')
            .filter(|setting| !setting.trim().is_empty())
            .map(|setting| format!(" --set sample.sampler.{}", setting.split_whitespace().collect::<String>()))
            .collect();
        if let Some(levels) = self.levels.as_ref().filter(|_| !kept) {
            let levels: Vec<String> = levels.iter().map(|level| short(*level)).collect();
            let levels = levels.join(",");
            return format!("--sampler {name} --set sample.grid.spacing={{kind=\"given\",noise=[{levels}]}}{settings}");
        }
        let grid = self.grid.as_ref().map(|grid| format!(" --grid {grid}")).unwrap_or_default();
        format!("--sampler {name} --steps {}{grid}{settings}", self.steps)
    }
}

impl Sweep {
    /// The setting of fewest evaluations that is as good as the best by the first metric, up to their errors.
    pub fn recommended(&self) -> Option<&Tried> {
        let better = self.metrics.first()?.1;
        let of = |tried: &Tried| better.loss(tried.measured[0].value);
        let best = self.tried.iter().min_by(|a, b| of(a).total_cmp(&of(b)))?;
        let error = |tried: &Tried| tried.measured[0].error.unwrap_or(0.0);
        let as_good = |tried: &&Tried| of(tried) - of(best) <= error(tried).hypot(error(best));
        self.tried.iter().filter(as_good).min_by(|a, b| a.evaluations.cmp(&b.evaluations).then(of(a).total_cmp(&of(b))))
    }

    /// What to take, in one line.
    pub fn advice(&self) -> String {
        let Some(tried) = self.recommended() else { return String::new() };
        let (metric, _) = &self.metrics[0];
        format!(
            "take {}: {} evaluations, {metric} {}, as good as the best up to errors",
            tried.flags(self.grids.is_some()),
            tried.evaluations,
            told(&tried.measured[0])
        )
    }

    /// The columns of the table.
    fn header(&self) -> Vec<String> {
        let distance = self.tried.iter().any(|tried| tried.distance.is_some()).then_some("distance to ODE");
        ["sampler", "steps", "evaluations"]
            .into_iter()
            .chain(distance)
            .chain(self.metrics.iter().map(|(name, _)| name.as_str()))
            .chain(["seconds"])
            .map(String::from)
            .collect()
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let any = self.tried.iter().any(|tried| tried.distance.is_some());
        let row = |tried: &Tried| {
            let distance = tried.distance.map_or_else(|| "\u{2013}".to_owned(), short);
            [tried.curve(), tried.steps.to_string(), tried.evaluations.to_string()]
                .into_iter()
                .chain(any.then_some(distance))
                .chain(tried.measured.iter().map(told))
                .chain([format!("{:.2}", tried.seconds)])
                .collect()
        };
        self.tried.iter().map(row).collect()
    }

    /// One object of all that was tried.
    pub fn json(&self) -> Value {
        let row = |tried: &Tried| {
            let mut row = json!({
                "sampler": tried.sampler,
                "grid": tried.grid,
                "levels": tried.levels,
                "steps": tried.steps,
                "evaluations": tried.evaluations,
                "distance_to_ode": tried.distance,
                "seconds": tried.seconds,
            });
            for ((name, _), measured) in self.metrics.iter().zip(&tried.measured) {
                row[name] = json!({ "value": measured.value, "error": measured.error });
            }
            row
        };
        json!({
            "model": self.model,
            "n": self.n,
            "tried": self.tried.iter().map(row).collect::<Vec<_>>(),
            "recommended": self.recommended().map(|tried| tried.flags(self.grids.is_some())),
        })
    }

    /// Curves over the number of evaluations: of the distance to the ODE where there is one, or else of the first metric.
    fn charts(&self) -> Result<Vec<Chart>> {
        let mut charts = Vec::new();
        let curve = |height: &dyn Fn(&Tried) -> Option<f64>| {
            let mut curves: Vec<Series> = Vec::new();
            for tried in &self.tried {
                let Some(value) = height(tried) else { continue };
                let (name, point) = (tried.curve(), (tried.evaluations as f64, value));
                match curves.iter_mut().find(|curve| curve.name == name) {
                    Some(curve) => curve.points.push(point),
                    None => curves.push(Series { name, points: vec![point], faint: false }),
                }
            }
            curves.iter_mut().for_each(|curve| curve.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
            curves
        };
        for (i, (name, better)) in self.metrics.iter().enumerate() {
            let series = curve(&|tried| Some(tried.measured[i].value));
            let frame =
                Frame { title: &format!("{name} of {}", self.model), x: "evaluations", y: name, size: (900, 560) };
            charts.push(line_chart(&series, &frame, matches!(better, Better::Smaller), None)?);
        }
        let series = curve(&|tried| tried.distance);
        if !series.is_empty() {
            let frame = Frame {
                title: &format!("distance to the ODE's samples of {}", self.model),
                x: "evaluations",
                y: "root mean square",
                size: (900, 560),
            };
            charts.push(line_chart(&series, &frame, true, None)?);
        }
        Ok(charts)
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.about {
            writeln!(f, "{line}")?;
        }
        writeln!(f)?;
        let rows: Vec<Vec<String>> = std::iter::once(self.header()).chain(self.rows()).collect();
        write!(f, "{}", aligned(&rows))?;
        if let Some(path) = &self.grids {
            writeln!(f, "\nthe levels of optimized grids are in {}", path.display())?;
        }
        writeln!(f, "\n{}", self.advice())
    }
}

/// The file of a sweep, which was checked.
pub(super) struct Output {
    path: PathBuf,
    kind: Kind,
    recorded: Recorded,
}

enum Kind {
    Png,
    Svg,
    Csv,
    Html,
}

impl Output {
    pub(super) fn new(path: &Path, model: &Model, force: bool) -> Result<Self> {
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let kind = match ending.as_str() {
            "png" => Kind::Png,
            "svg" => Kind::Svg,
            "csv" => Kind::Csv,
            "html" => Kind::Html,
            _ => {
                return Err(Error::new(format!(
                    "{} ends in none of .png, .svg, .csv, .html: the ending says what is written",
                    path.display()
                )));
            }
        };
        let recorded = Recorded::new(&beside(path, ".json"), model.file.iter().cloned().collect(), force)?;
        recorded.check(path)?;
        Ok(Self { path: path.to_owned(), kind, recorded })
    }

    pub(super) fn write(self, sweep: &Sweep) -> Result<()> {
        let chart = || {
            let charts = sweep.charts()?;
            Ok::<_, Error>(Chart::beside(&charts.into_iter().map(Some).collect::<Vec<_>>(), 1, ""))
        };
        let bytes = match self.kind {
            Kind::Png => to_png(&chart()?.picture()?)?,
            Kind::Svg => chart()?.svg().as_bytes().to_vec(),
            Kind::Csv => sweep.csv()?,
            Kind::Html => sweep.page(to_png(&chart()?.picture()?)?)?.into_bytes(),
        };
        write_atomically(&self.path, |file| file.write_all(&bytes))?;
        let Value::Object(said) = sweep.json() else { unreachable!("a sweep is an object") };
        self.recorded.write(&[&self.path], Map::from_iter([("sweep".to_owned(), said.into())]))
    }
}

impl Sweep {
    fn csv(&self) -> Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Line<'a>(Vec<&'a str>);
        let failed = |error: csv::Error| Error::new(format!("the table cannot be written: {error}"));
        let mut table = csv::Writer::from_writer(Vec::new());
        let errors: Vec<String> = self.metrics.iter().map(|(name, _)| format!("{name}_error")).collect();
        let names = self.metrics.iter().zip(&errors).flat_map(|((name, _), error)| [name.as_str(), error]);
        let header = ["sampler", "grid", "steps", "evaluations", "distance_to_ode", "seconds"].into_iter().chain(names);
        table.serialize(Line(header.collect())).map_err(failed)?;
        let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        for tried in &self.tried {
            let [steps, evaluations] = [tried.steps, tried.evaluations].map(|count| count.to_string());
            let (distance, seconds) = (number(tried.distance), tried.seconds.to_string());
            let metrics: Vec<String> = tried
                .measured
                .iter()
                .flat_map(|measured| [measured.value.to_string(), number(measured.error)])
                .collect();
            let grid = tried.grid.as_deref().unwrap_or_default();
            let row = [&tried.sampler, grid, &steps, &evaluations, &distance, &seconds];
            table
                .serialize(Line(row.into_iter().chain(metrics.iter().map(String::as_str)).collect()))
                .map_err(failed)?;
        }
        table.into_inner().map_err(|error| Error::new(format!("the table cannot be written: {error}")))
    }

    fn page(&self, picture: Vec<u8>) -> Result<String> {
        let caption = "Quality against evaluations of the model for each sample.";
        report(
            &format!("Samplers of {}", self.model),
            &[
                Section::Text(self.advice()),
                Section::Code(self.about.join("\n")),
                Section::Picture {
                    name: caption.into(),
                    bytes: picture,
                    mime: "image/png".into(),
                    caption: caption.into(),
                },
                Section::Table { header: self.header(), rows: self.rows() },
            ],
        )
    }
}

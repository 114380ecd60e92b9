//! Figures of each class: how near its samples are to the data of the same class, and how many of them are of it.
//!
//! The distance is the Fréchet distance where the smaller side has on average more rows of a class than they have numbers, of which
//! covariances have full rank, and the unbiased kernel distance where it has fewer. Agreement is with the class that was asked for, by
//! the nearest rows among the reference of all classes. Rows are taken as they come, those of the reference that metrics between all
//! pairs take being the same as for all classes together.

use serde_json::{Map, Value, json};
use stein::Result;
use stein_metrics::{Agreement, AnyMetric, Frechet, Measured, Session, Side};

use super::{EvaluateOptions, measuring::Taken, report::told, sides::Sides, with_settings};

/// What was measured of each class.
#[derive(Debug, Clone)]
pub struct ByClass {
    /// The metrics, the distance first, agreement last.
    pub metrics: Vec<String>,
    /// Why the distance is the one it is.
    pub about: String,
    /// The classes of the reference in their order.
    pub classes: Vec<OfClass>,
}

/// What was measured of a class.
#[derive(Debug, Clone)]
pub struct OfClass {
    /// Its name.
    pub name: String,
    /// How many samples were asked for of it.
    pub samples: usize,
    /// How many rows of the reference are of it.
    pub reference: usize,
    /// What the metrics say, in their order, or why they say nothing.
    pub measured: Vec<std::result::Result<Measured, String>>,
}

impl ByClass {
    /// The columns of its table.
    pub(super) fn header(&self) -> Vec<String> {
        let counts = ["class", "samples", "reference"].map(String::from);
        counts.into_iter().chain(self.metrics.iter().cloned()).collect()
    }

    /// A row for each class.
    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        let cell = |measured: &std::result::Result<Measured, String>| match measured {
            Ok(measured) => told(measured),
            Err(_) => "\u{2013}".to_owned(),
        };
        let row = |class: &OfClass| {
            let counts = [class.name.clone(), class.samples.to_string(), class.reference.to_string()];
            counts.into_iter().chain(class.measured.iter().map(cell)).collect()
        };
        self.classes.iter().map(row).collect()
    }

    /// What there is to know of it: about the distance, and what could not be measured.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = vec![self.about.clone()];
        for class in &self.classes {
            let mut whys: Vec<&String> = class.measured.iter().filter_map(|measured| measured.as_ref().err()).collect();
            whys.dedup();
            notes.extend(whys.into_iter().map(|why| format!("class {}: {why}", class.name)));
        }
        notes
    }

    /// One object: of every class its counts, and of every metric its value and error.
    pub(super) fn json(&self) -> Value {
        let class = |class: &OfClass| {
            let mut said = json!({ "samples": class.samples, "reference_n": class.reference });
            for (metric, measured) in self.metrics.iter().zip(&class.measured) {
                said[metric] = match measured {
                    Ok(measured) => json!({ "value": measured.value, "error": measured.error }),
                    Err(why) => json!({ "value": null, "error": null, "notes": [why] }),
                };
            }
            (class.name.clone(), said)
        };
        self.classes.iter().map(class).collect::<Map<String, Value>>().into()
    }
}

/// Metrics between all pairs within a class.
const WITHIN: [&str; 3] = ["precision", "recall", "coverage"];

/// A class being measured.
struct Class {
    /// The Fréchet distance, which takes every row of the reference.
    all: Option<Session>,
    /// What takes some rows of the reference.
    some: Session,
    samples: usize,
    reference: usize,
}

/// The classes being measured.
pub(super) struct Classes {
    metrics: Vec<String>,
    about: String,
    names: Vec<String>,
    classes: Vec<Class>,
    /// Whether agreement was asked for as a metric of all, and of each class.
    agreement: (bool, bool),
}

impl Classes {
    /// Begins with rows of `dim` numbers. Agreement, which looks at all classes at once, is left to the metrics of all: it is turned to tell
    /// of each class, and put among them where it is not.
    pub(super) fn new(
        sides: &Sides,
        dim: usize,
        options: &EvaluateOptions,
        of_all: &mut Vec<AnyMetric>,
    ) -> Result<Self> {
        let names = sides.part(Side::Reference).map(|part| part.class_names().to_vec()).unwrap_or_default();
        let smaller = sides.samples.count().min(sides.rows(Side::Reference));
        let frechet = smaller / names.len().max(1) > dim;
        let named = |name: &str| with_settings(name, options, sides.shape);
        let mut some: Vec<AnyMetric> = WITHIN.iter().map(|name| named(name)).collect::<Result<_>>()?;
        let mut all = Vec::new();
        let about = if frechet {
            all.push(AnyMetric::from(Frechet::default()));
            "Each Fréchet distance is of the samples of a class to the data of that class. It is too large by an amount that grows as \
             samples get fewer: compare it with that of as many samples."
                .to_owned()
        } else {
            some.insert(0, named("kernel")?);
            format!(
                "Each kernel distance is of the samples of a class to the data of that class, without bias. For a Fréchet distance a class \
                 has too few rows: it takes more than the {dim} numbers of a row."
            )
        };
        let class = |_: &String| {
            let all = (!all.is_empty()).then(|| Session::new(&all, dim)).transpose()?;
            Ok(Class { all, some: Session::new(&some, dim)?, samples: 0, reference: 0 })
        };
        let classes = names.iter().map(class).collect::<Result<_>>()?;
        let kinds = all.iter().chain(&some).map(|metric| metric.kind().to_owned());
        let metrics = kinds.chain(["agreement".to_owned()]).collect();
        let asked = of_all.iter_mut().find_map(|metric| match metric {
            AnyMetric::Agreement(agreement) => Some(std::mem::replace(&mut agreement.by_class, true)),
            _ => None,
        });
        if asked.is_none() {
            let mut agreement = named("agreement")?;
            if let AnyMetric::Agreement(agreement) = &mut agreement {
                agreement.by_class = true;
            }
            of_all.push(agreement);
        }
        let agreement = (asked.is_some(), asked == Some(true));
        Ok(Self { metrics, about, names, classes, agreement })
    }

    /// Takes some rows of a side, the class of each, and the places of those that metrics between all pairs take of the reference.
    pub(super) fn take(&mut self, side: Side, numbers: &[f32], labels: &[u32], paired: &[usize]) -> Result<()> {
        if side == Side::HeldOut || labels.is_empty() {
            return Ok(());
        }
        let dim = numbers.len() / labels.len();
        let mut places = vec![Vec::new(); self.classes.len()];
        labels.iter().enumerate().for_each(|(row, &label)| places[label as usize].push(row));
        let rows = |places: &[usize]| -> Vec<f32> {
            places.iter().flat_map(|row| &numbers[row * dim..(row + 1) * dim]).copied().collect()
        };
        for (class, mut places) in self.classes.iter_mut().zip(places) {
            let count = match side {
                Side::Reference => &mut class.reference,
                _ => &mut class.samples,
            };
            *count += places.len();
            if let Some(all) = &mut class.all {
                all.update(side, &rows(&places))?;
            }
            if side == Side::Reference {
                places.retain(|row| paired.binary_search(row).is_ok());
            }
            class.some.update(side, &rows(&places))?;
        }
        Ok(())
    }

    /// What was measured, given what agreement says of all, which is left as it was asked for.
    pub(super) fn finish(self, of_all: &mut Vec<Taken>) -> ByClass {
        let place = of_all.iter().position(|(metric, ..)| matches!(metric, AnyMetric::Agreement(_)));
        let (whole, parts) = self.agreement;
        let mut agreement = place.map(|place| if whole { of_all[place].1.clone() } else { of_all.remove(place).1 });
        if let (Some(place), true, false) = (place, whole, parts)
            && let (AnyMetric::Agreement(asked), Ok(measured), _) = &mut of_all[place]
        {
            asked.by_class = false;
            measured.parts.retain(|(name, _)| !name.starts_with(Agreement::OF_CLASS));
        }
        let classes = self.names.into_iter().zip(self.classes).enumerate().map(|(label, (name, class))| {
            let Class { all, some, samples, reference } = class;
            let lacking = match (samples, reference) {
                (0, _) => Some("there are no samples of it"),
                (_, 0) => Some("the reference has none of it"),
                _ => None,
            };
            let said = all.into_iter().chain([some]).flat_map(Session::finish);
            let measured = said.chain(agreement.as_mut().map(|agreement| match agreement {
                Ok(agreement) => {
                    let share = agreement.part(&format!("{}{label}", Agreement::OF_CLASS)).unwrap_or(f64::NAN);
                    Ok(Measured::share((share * samples as f64).round() as usize, samples))
                }
                Err(error) => Err(error.clone()),
            }));
            let told = |measured: Result<Measured>| match lacking {
                Some(why) => Err(why.to_owned()),
                None => measured.map_err(|error| error.to_string()),
            };
            OfClass { name, samples, reference, measured: measured.map(told).collect() }
        });
        ByClass { metrics: self.metrics, about: self.about, classes: classes.collect() }
    }
}

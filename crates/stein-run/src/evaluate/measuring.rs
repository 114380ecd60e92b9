//! The metrics at work: each is given the rows it is about, of the data or of their features.

use stein::{Result, ensure};
use stein_metrics::{Accumulator, AnyMetric, Batch, Content, Measured, Pairing, Session, Side, Values};

use super::{
    ByClass, EvaluateOptions,
    by_class::Classes,
    features::{Extracted, Extractor},
    sides::Sides,
};

/// Rows of the reference that metrics between all pairs take where their number is not said.
const PAIRED: usize = 10_000;

/// Some rows of a side.
pub(super) struct Chunk {
    pub(super) rows: usize,
    pub(super) values: Vec<f32>,
    pub(super) extracted: Option<Extracted>,
    pub(super) labels: Option<Vec<u32>>,
}

/// Metrics of one kind of rows.
struct Group {
    metrics: Vec<AnyMetric>,
    session: Session,
    content: Content,
    /// Whether it sees every row of the reference.
    all: bool,
    /// Rows of the reference it was given.
    given: usize,
}

/// Whether the moments of the reference are to be written.
pub(super) fn writes_moments(options: &EvaluateOptions) -> bool {
    options.reference.as_ref().is_some_and(|path| !path.exists())
}

/// The metrics being measured.
pub(super) struct Measuring {
    groups: Vec<Group>,
    /// The order the metrics were asked for in.
    order: Vec<String>,
    /// Rows of the reference, and how many of them metrics between all pairs take.
    reference: (usize, usize),
    seen: usize,
    /// Moments to be written.
    moments: Option<Accumulator>,
    by_class: Option<Classes>,
}

/// A metric, what it says, and how many rows of the reference it was given.
pub(super) type Taken = (AnyMetric, Result<Measured>, usize);

/// Whether a metric takes every row of the reference, which costs it little or is what it is about.
fn takes_all(metric: &AnyMetric) -> bool {
    use AnyMetric::{Agreement, Authenticity, Copying, Frechet, Novelty, SlicedWasserstein, Spread};
    matches!(
        metric,
        Frechet(_) | SlicedWasserstein(_) | Novelty(_) | Authenticity(_) | Copying(_) | Agreement(_) | Spread(_)
    ) || metric.needs().pairs != Pairing::None
}

impl Measuring {
    pub(super) fn new(
        metrics: &[AnyMetric],
        sides: &Sides,
        extractor: Option<&dyn Extractor>,
        options: &EvaluateOptions,
        by_class: bool,
    ) -> Result<Self> {
        let dim = |content| match (content, extractor) {
            (Content::Numbers, Some(extractor)) => extractor.dim(),
            (Content::Classes, Some(extractor)) => extractor.classes().unwrap_or(1),
            _ => sides.shape.len(),
        };
        let mut groups: Vec<Group> = Vec::new();
        let order = metrics.iter().map(|metric| metric.kind().to_owned()).collect();
        let mut metrics = metrics.to_vec();
        let by_class = match by_class {
            true => Some(Classes::new(sides, dim(Content::Numbers), options, &mut metrics)?),
            false => None,
        };
        for content in [Content::Numbers, Content::Picture, Content::Classes] {
            for all in [true, false] {
                let of: Vec<AnyMetric> = metrics
                    .iter()
                    .filter(|metric| metric.needs().content == content && takes_all(metric) == all)
                    .cloned()
                    .collect();
                if !of.is_empty() {
                    groups.push(Group {
                        session: Session::new(&of, dim(content))?,
                        metrics: of,
                        content,
                        all,
                        given: 0,
                    });
                }
            }
        }
        let references = sides.rows(Side::Reference);
        let writes = writes_moments(options);
        ensure!(
            !writes || references > 0,
            "there is nothing at {}, and no data whose moments could be written there: give them by --against",
            options.reference.as_deref().unwrap_or_else(|| "".as_ref()).display()
        );
        let moments = if writes { Some(Accumulator::new(dim(Content::Numbers))?) } else { None };
        let reference = (references, options.reference_n.unwrap_or(PAIRED).min(references));
        Ok(Self { groups, order, reference, seen: 0, moments, by_class })
    }

    /// Takes some rows of a side.
    pub(super) fn take(&mut self, side: Side, chunk: &Chunk) -> Result<()> {
        let Chunk { values, extracted, labels, rows } = chunk;
        let (rows, labels) = (*rows, labels.as_deref());
        let first = self.seen;
        if side == Side::Reference {
            self.seen += rows;
        }
        let (all, some) = self.reference;
        // Even places of all: row i is taken where i·some/all passes a whole number.
        let taken: Vec<usize> = (0..rows)
            .filter(|row| {
                let place = (first + row) as u128;
                let (all, some) = (all.max(1) as u128, some as u128);
                (place + 1) * some / all > place * some / all
            })
            .collect();
        for group in &mut self.groups {
            let numbers: &[f32] = match (extracted, group.content) {
                (Some(extracted), Content::Numbers) => &extracted.features,
                (Some(extracted), Content::Classes) => &extracted.outputs,
                _ => values,
            };
            if side != Side::Reference || group.all || taken.len() == rows {
                let batch = Batch::from(numbers);
                group.session.update(side, labels.map_or(batch, |labels| batch.labeled(labels)))?;
                group.given += if side == Side::Reference { rows } else { 0 };
            } else {
                let dim = numbers.len() / rows;
                let part: Vec<f32> =
                    taken.iter().flat_map(|row| &numbers[row * dim..(row + 1) * dim]).copied().collect();
                let own: Option<Vec<u32>> = labels.map(|labels| taken.iter().map(|&row| labels[row]).collect());
                let batch = Batch::from(&part);
                group.session.update(side, own.as_ref().map_or(batch, |labels| batch.labeled(labels)))?;
                group.given += taken.len();
            }
        }
        if let (Some(classes), Some(labels)) = (&mut self.by_class, labels) {
            let numbers = extracted.as_ref().map_or(values, |extracted| &extracted.features);
            classes.take(side, numbers, labels, &taken)?;
        }
        if side == Side::Reference
            && let Some(moments) = &mut self.moments
        {
            let numbers = extracted.as_ref().map_or(values, |extracted| &extracted.features);
            moments.update(Values::F32(numbers));
        }
        Ok(())
    }

    /// What the metrics say, in the order they were asked for, each with the number of rows it was compared with, and what they say of
    /// each class.
    pub(super) fn finish(self, options: &EvaluateOptions, extractor: &str) -> Result<Finished> {
        if let (Some(moments), Some(path)) = (self.moments, &options.reference) {
            let mut moments = moments.finish()?;
            extractor.clone_into(&mut moments.extractor);
            moments.save(path)?;
        }
        let mut all: Vec<Taken> = Vec::new();
        for Group { metrics, session, given, .. } in self.groups {
            all.extend(metrics.into_iter().zip(session.finish()).map(|(metric, measured)| (metric, measured, given)));
        }
        let by_class = self.by_class.map(|classes| classes.finish(&mut all));
        all.sort_by_key(|(metric, _, _)| self.order.iter().position(|kind| kind == metric.kind()));
        let measured =
            all.into_iter().map(|(metric, measured, given)| Ok((metric, measured?, given))).collect::<Result<_>>()?;
        Ok(Finished { measured, by_class })
    }
}

/// What was measured.
pub(super) struct Finished {
    pub(super) measured: Vec<(AnyMetric, Measured, usize)>,
    pub(super) by_class: Option<ByClass>,
}

//! Measuring: one pass over the rows of each side serves any number of metrics.
//!
//! Rows come in batches of any size, in any order of the sides, and the result does not depend on how they are cut. Rows that
//! some metric needs as a whole are kept once for all of them.

use stein_base::{Result, ensure};

use crate::{AnyMetric, Batch, Fingerprint, Measured, Metric, Pairing, Running, Side, Sides, Wanted};

/// Some metrics that are being measured.
pub struct Session {
    dim: usize,
    running: Vec<(AnyMetric, Running)>,
    kept: Option<Sides>,
    rows: [usize; 3],
    labeled: [bool; 3],
    hash: Fingerprint,
}

impl Session {
    /// Begins to measure samples of `dim` numbers.
    ///
    /// # Errors
    /// Rows of no numbers, a setting that is out of range, and a metric that cannot work on rows of this size.
    pub fn new(metrics: &[AnyMetric], dim: usize) -> Result<Self> {
        ensure!(dim > 0, "rows have no values: give rows of at least one");
        let start = |metric: &AnyMetric| {
            metric.check().and_then(|()| metric.start(dim)).map_err(|error| error.at(metric.kind()))
        };
        let running: Vec<(AnyMetric, Running)> =
            metrics.iter().map(|metric| Ok((metric.clone(), start(metric)?))).collect::<Result<_>>()?;
        let keeps = running.iter().any(|(_, running)| matches!(running, Running::Whole(_)));
        Ok(Self {
            dim,
            running,
            kept: keeps.then(|| Sides::new(dim)),
            rows: [0; 3],
            labeled: [true; 3],
            hash: Fingerprint::new(dim),
        })
    }

    /// Takes rows of one side.
    ///
    /// # Errors
    /// Values that make no rows or are not finite, labels that are not one a row.
    pub fn update<'a>(&mut self, side: Side, batch: impl Into<Batch<'a>>) -> Result<()> {
        let batch = batch.into();
        let rows = batch.check(self.dim, self.rows[side as usize]).map_err(|error| error.at(side.name()))?;
        if rows == 0 {
            return Ok(());
        }
        self.rows[side as usize] += rows;
        self.labeled[side as usize] &= batch.labels.is_some();
        if side == Side::Reference {
            self.hash.update(batch.values);
        }
        if let Some(kept) = &mut self.kept {
            kept.get_mut(side).push(&batch);
        }
        for (metric, running) in &mut self.running {
            if let Running::Streaming(running) = running {
                running.update(side, &batch).map_err(|error| error.at(metric.kind()))?;
            }
        }
        Ok(())
    }

    /// What each metric says, in their order. One that cannot be measured on these rows says why, and the others are
    /// measured all the same.
    pub fn finish(self) -> Vec<Result<Measured>> {
        let Self { dim, running, kept, rows, labeled, hash } = self;
        let sides = kept.unwrap_or_else(|| Sides::new(dim));
        let fingerprint = (rows[Side::Reference as usize] > 0).then(|| hash.text());
        let finish = |(metric, running): (AnyMetric, Running)| {
            let measured = check_sides(&*metric, rows, labeled).and_then(|()| match running {
                Running::Streaming(running) => running.finish(),
                Running::Whole(measure) => measure(&sides),
            });
            let mut measured = measured.map_err(|error| error.at(metric.kind()))?;
            if measured.reference.is_none() && metric.needs().reference {
                measured.reference.clone_from(&fingerprint);
            }
            Ok(measured)
        };
        running.into_iter().map(finish).collect()
    }
}

/// Whether the sides have what a metric needs.
fn check_sides(metric: &dyn Metric, rows: [usize; 3], labeled: [bool; 3]) -> Result<()> {
    let needs = metric.needs();
    let of = |side: Side| rows[side as usize];
    let needed =
        [(Side::Reference, needs.reference), (Side::Samples, true), (Side::HeldOut, needs.held_out == Wanted::Needed)];
    for (side, needed) in needed {
        ensure!(!needed || of(side) > 0, "there are no rows of the {}: give some", side.name());
        let labeled = labeled[side as usize] || !needs.labels || !needed;
        ensure!(labeled, "rows of the {} have no labels: give each row the class it is of", side.name());
    }
    let (reference, samples) = (of(Side::Reference), of(Side::Samples));
    match needs.pairs {
        Pairing::None => {}
        Pairing::Rows => ensure!(
            Kind::Mismatch,
            reference == samples,
            "there are {samples} samples and {reference} rows of the reference: each sample needs one it is paired with"
        ),
        Pairing::Ensembles => ensure!(
            Kind::Mismatch,
            samples.is_multiple_of(reference) && samples / reference >= 2,
            "{samples} samples make no ensembles for {reference} observations: give the same number of samples, at least \
             two, for each"
        ),
    }
    Ok(())
}

/// Measures one metric on rows that are at hand.
///
/// # Errors
/// Those of [`Session`].
pub fn measure<'a>(
    metric: impl Into<AnyMetric>,
    dim: usize,
    sides: impl IntoIterator<Item = (Side, Batch<'a>)>,
) -> Result<Measured> {
    let mut session = Session::new(&[metric.into()], dim)?;
    sides.into_iter().try_for_each(|(side, batch)| session.update(side, batch))?;
    session.finish().pop().expect("one metric gives one result")
}

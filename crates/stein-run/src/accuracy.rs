//! The accuracy of a classifier: the part of labeled examples whose class it says, at a level of noise.

use stein::{Kernel, Keys, Purpose, Result, classify, ensure, noise::normal_like};
use stein_data::Data;

use crate::{
    Capability, Model,
    family::{lacks, right},
};

/// Examples that are given to the network at a time.
const ROWS: usize = 256;

/// The accuracy of a classifier on all of some data, with noise of that standard deviation over the scale of the signal, σ/α, added to
/// their states: always the same.
///
/// # Errors
/// A model that is no classifier, or of other data; a classifier of data without noise, where there is some; data that cannot be read.
pub fn accuracy(model: &Model, data: &Data, noise: f64) -> Result<f64> {
    let Some(classifier) = &model.learned.classifier else {
        return Err(lacks(&model.name, &model.family, model.serves, Capability::Classifier, "its accuracy"));
    };
    let subject = &model.subject;
    ensure!(
        Kind::Mismatch,
        (data.shape, &data.class_names) == (subject.shape, &subject.classes),
        "{} is a classifier of {} in {} classes, and {} are {} in {}: give data of the same",
        model.name,
        subject.shape,
        subject.classes.len(),
        data.name,
        data.shape,
        data.class_names.len()
    );
    ensure!(noise >= 0.0 && noise.is_finite(), "noise of standard deviation {noise} is none: give a number from 0");
    let at = Kernel { sigma: noise, ..Kernel::CLEAN };
    let labels = data.labels.as_deref().unwrap_or_default();
    let mut said = 0;
    for first in (0..data.len()).step_by(ROWS) {
        let places: Vec<usize> = (first..data.len().min(first + ROWS)).collect();
        let keys = Keys::range(0, first as u64, places.len());
        let x = subject.encode(&data.rows(&places)?, &keys, &model.device)?;
        let x = x.clone() + normal_like(&keys, Purpose::Perturbation, 0, &x).mul_scalar(noise);
        let classes: Vec<u32> = places.iter().map(|&place| labels[place] as u32).collect();
        said += right(&classify(&**classifier, x.into(), (&at).into())?.logits.value, &classes);
    }
    Ok(said as f64 / data.len() as f64)
}

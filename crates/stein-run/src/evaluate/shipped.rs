//! The classifiers that come with the program, whose features metrics compare: models of `experiments/*/classifier.toml` in half
//! precision. `crates/stein-run/examples/classifier.rs` makes their files from runs.

use std::sync::Arc;

use stein::{Classifier, Device, Error, Kernel, Kind, Result, Tensor, classify, names};
use stein_nn::{Checkpoint, Weights};

use crate::Model;

/// Their names, and their files.
const FILES: [(&str, &[u8]); 3] = [
    ("digits", include_bytes!("classifiers/digits.safetensors")),
    ("fashion", include_bytes!("classifiers/fashion.safetensors")),
    ("cifar", include_bytes!("classifiers/cifar.safetensors")),
];

/// The key of a file's metadata under which its accuracy stands.
pub const ACCURACY: &str = "accuracy";

/// A classifier that comes with the program.
pub struct Shipped {
    /// The model.
    pub model: Model,
    /// The part of the test examples of its data set whose class it says.
    pub accuracy: f64,
    /// What it says of pictures.
    pub(super) classifier: Arc<dyn Classifier>,
    /// Numbers of its feature vector.
    pub(super) features: usize,
}

impl Shipped {
    /// The names.
    pub fn names() -> [&'static str; 3] {
        FILES.map(|(name, _)| name)
    }

    /// The one of this name, such as `fashion`.
    ///
    /// # Errors
    /// An unknown name, answered with the known ones, nearest first.
    ///
    /// ```
    /// use stein_run::{Shipped, accuracy};
    /// use stein_data::{Source, Split};
    ///
    /// let Shipped { model, accuracy: said, .. } = Shipped::named("digits", &stein::Device::flex())?;
    /// let found = accuracy(&model, &Source::named("digits")?.load(Split::Test, None)?, 0.0)?;
    /// assert!((found - said).abs() < 2e-3);
    /// # Ok::<(), stein::Error>(())
    /// ```
    pub fn named(name: &str, device: &Device) -> Result<Self> {
        let Some((name, bytes)) = FILES.into_iter().find(|(known, _)| names::same(known, name)) else {
            return Err(names::unknown("classifier", name, &Self::names()));
        };
        let lacks = |what: &str| Error::of(Kind::File, format!("the file of the classifier {name} has no {what}"));
        let saved = Checkpoint::weights_of_bytes(bytes, Weights::Ema)?;
        let accuracy = saved.metadata.get(ACCURACY).and_then(|text| text.parse().ok());
        let accuracy = accuracy.ok_or_else(|| lacks(ACCURACY))?;
        let model = Model::of_saved(name, saved, device)?;
        let classifier = model.learned.classifier.clone().ok_or_else(|| lacks("classifier"))?;
        let nothing = Tensor::zeros([1, model.subject.state_shape()?.iter().product()], device);
        let features = classify(&*classifier, nothing.into(), (&Kernel::CLEAN).into())?.features.dims()[1];
        Ok(Self { model, accuracy, classifier, features })
    }
}

//! What a model is a model of: the data of an experiment, how they become states, and all that sampling needs to know of them.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use stein::{
    Device, Error, Keys, Kind, Result,
    codec::{AnyCodec, AnyCodecConfig, Chain, Codec, DataSample, Symmetric},
    ensure,
    exact::{Exact, GaussianMixture},
    numbers::ensure_within,
    rows,
};
use stein_base::Explain;
use stein_data::{Data, Shape, Source, Split};
use stein_nn::{Tensors, Tokenizer};

use crate::{
    Experiment, Shown,
    coding::{self, Coding},
    experiment::with_settings,
    family::Make,
};

/// Data and how they reach the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The data set.
    pub source: Source,
    /// The classes whose samples are used, by name; default all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// What turns data into the states a model works on, the first applied first; default nothing: images in \[0, 1\], rows and series
    /// in their own units.
    #[serde(default)]
    pub codec: Vec<AnyCodecConfig>,
    /// Whether the model is given the class of an example, to be conditioned on it or, as a classifier, to learn it; default false.
    #[serde(default)]
    pub conditional: bool,
    /// Whether the model is told the caption of an example, by a transformer that reads it (`family.text`); default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub captions: bool,
    /// What the model is shown of every sample beside its noisy state, for image-to-image models such as super-resolution; default
    /// nothing. Such a model makes no samples of its own, and no sheets in training: `stein restore` gives it what was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<Shown>,
    /// Mirror images at random; default false.
    #[serde(default)]
    pub flip: bool,
    /// Most pixels that images are moved by at random, each way, their border repeated; default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shift: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl DataConfig {
    /// The samples of these classes of a data set, all where none is named, as they are.
    pub fn of(source: Source, classes: Vec<String>) -> Self {
        Self {
            source,
            classes,
            codec: Vec::new(),
            conditional: false,
            captions: false,
            shown: None,
            flip: false,
            shift: 0,
        }
    }

    /// The data of an experiment file, or of a [name](Source::named), after `path=value` settings: those of an experiment, with or
    /// without `data.` in front.
    ///
    /// # Errors
    /// A file that is no experiment, and a name, a key or a value that is not known.
    pub fn named(name: &str, settings: &[String]) -> Result<Self> {
        let path = Path::new(name);
        let config = match path.extension().is_some_and(|ending| ending == "toml") {
            true => Experiment::read(path, &[])?.data,
            false => Self::of(Source::named(name)?, Vec::new()),
        };
        config.with(settings)
    }

    /// A part of the data.
    ///
    /// # Errors
    /// Files that are missing or damaged, classes that there are not, and a part without a sample.
    pub fn load(&self, split: Split, folder: Option<&Path>) -> Result<Data> {
        self.source.load(split, folder)?.of_classes(&self.classes)
    }

    /// All of a file of one's own where it is wanted whole, or else a part of the data.
    pub(crate) fn load_whole_or(&self, whole: bool, split: Split, folder: Option<&Path>) -> Result<Data> {
        match whole.then(|| self.source.whole()).flatten() {
            Some(source) => Self { source, ..self.clone() }.load(Split::Train, folder),
            None => self.load(split, folder),
        }
    }

    /// The same after `path=value` settings, with or without `data.` in front.
    ///
    /// # Errors
    /// A key or a value that is not known.
    pub fn with(&self, settings: &[String]) -> Result<Self> {
        #[derive(Serialize, Deserialize)]
        struct Part {
            data: DataConfig,
        }
        let inside = |setting: &String| match setting.starts_with("data.") {
            true => setting.clone(),
            false => format!("data.{setting}"),
        };
        let settings: Vec<String> = settings.iter().map(inside).collect();
        let part = Part { data: self.clone() };
        let table = stein::settings::write(&part)?.try_into().expect("a struct is a table");
        Ok(with_settings::<Part>(table, &settings)?.data)
    }
}

/// The texts a model is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Texts {
    /// What makes tokens of them.
    pub tokenizer: Tokenizer,
    /// Captions of the data, an even part: what samples are told unless asked otherwise. None where there are no data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

impl Texts {
    /// Most captions that are kept as examples.
    const EXAMPLES: usize = 64;

    /// Those of data.
    fn of(data: &Data) -> Result<Self> {
        let Some(captions) = data.captions() else {
            return Err(Error::new(format!(
                "data.captions asks for captions, which {} does not have: leave it out, or read them with data.source.captions",
                data.name
            )));
        };
        let examples = data.captions_of(&data.spaced(Self::EXAMPLES)).unwrap_or_default();
        Ok(Self { tokenizer: Tokenizer::of_words(captions)?, examples })
    }
}

/// What a model is a model of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Name of the data set.
    pub name: String,
    /// Shape of a sample of the data.
    pub shape: Shape,
    /// Names of the classes the model is conditioned on; empty when it is unconditional.
    pub classes: Vec<String>,
    /// How much of the data each class has: its examples in the training split, or the weight of its component in a mixture; empty
    /// where that is not known. A class that has nothing was not learned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<f64>,
    /// Name of what the classes are, such as a column of a table.
    #[serde(default = "label")]
    pub label: String,
    /// Names of the columns of a row; empty for images.
    pub columns: Vec<String>,
    /// Gray levels of quantized pictures; none for real values, which have no range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<u32>,
    /// Between data and states.
    pub codec: Chain,
    /// The autoencoder of states that are latents; its weights are stored as those of a learner of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoencoder: Option<Coding>,
    /// The texts the model is told; none of a model that reads none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Texts>,
    /// Mean over the coordinates of the variance of the states: Var\[data\] of the prior.
    pub variance: f64,
    /// What the model is shown of a sample beside its noisy state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<Shown>,
    /// Lowest and highest value of each number of the state of a row, or of all numbers of a state; empty where it was not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<(f64, f64)>,
}

/// What classes are called where the data do not say.
pub(crate) fn label() -> String {
    "label".to_owned()
}

/// Most values of a sample.
const MOST_VALUES: usize = 1 << 40;

/// Most numbers of the data that are looked at to fit codecs and measure the variance.
const MEASURED: usize = 1 << 23;

impl Subject {
    /// Measures the data, all of them or, where they are many, an even part.
    ///
    /// # Errors
    /// Codecs that are none for such data, and data that cannot be read.
    pub fn of(data: &Data, config: &DataConfig) -> Result<Self> {
        ensure!(
            !config.conditional || data.labels.is_some(),
            "data.conditional asks for classes, which {} does not have: set it to false",
            data.name
        );
        let dim = data.dim();
        let of_autoencoder = match &config.codec[..] {
            [AnyCodecConfig::OfAutoencoder(of)] => Some(of),
            _ => None,
        };
        let most = if of_autoencoder.is_some() { coding::MEASURED } else { usize::MAX };
        let count = (MEASURED / dim).min(most).clamp(1, data.len());
        let mut values = vec![0.0; count * dim];
        for (i, row) in values.chunks_exact_mut(dim).enumerate() {
            data.row(i * data.len() / count, row)?;
        }
        let sample = DataSample { values: &values, dim, levels: data.levels() };
        let (codec, autoencoder) = match of_autoencoder {
            Some(of) => {
                let (codec, coding) = Coding::open(&of.model, data, &values)?;
                (codec, Some(coding))
            }
            None => (Chain::fit(&config.codec, &sample).map_err(|error| error.at("data.codec"))?, None),
        };
        let mut subject = Self {
            name: data.name.clone(),
            shape: data.shape,
            classes: if config.conditional { data.class_names.clone() } else { Vec::new() },
            shares: if config.conditional {
                data.class_counts().iter().map(|&count| count as f64).collect()
            } else {
                Vec::new()
            },
            label: data.label_name.clone().unwrap_or_else(label),
            columns: data.columns.clone(),
            levels: data.levels(),
            codec,
            autoencoder,
            text: config.captions.then(|| Texts::of(data)).transpose()?,
            variance: 0.0,
            shown: config.shown.clone(),
            bounds: Vec::new(),
        };
        (subject.variance, subject.bounds) = subject.measure(&values)?;
        subject.check()?;
        Ok(subject)
    }

    /// The mean variance of the states of these data, and their bounds.
    fn measure(&self, values: &[f32]) -> Result<(f64, Vec<(f64, f64)>)> {
        const PART: usize = 1024;
        let (dim, mut seen) = (self.dim(), 0usize);
        // Sums of differences to the first state, so that a large mean does not cancel.
        let (mut first, mut sums, mut squares) = (Vec::new(), Vec::new(), Vec::new());
        let mut bounds = Vec::new();
        for part in values.chunks(PART * dim) {
            let keys = Keys::range(0, seen as u64, part.len() / dim);
            let states = rows::host(&self.encode(part, &keys, &Device::flex())?);
            let width = states.len() / keys.len();
            if seen == 0 {
                (first, sums, squares) = (states[..width].to_vec(), vec![0.0; width], vec![0.0; width]);
                bounds = vec![(f64::INFINITY, f64::NEG_INFINITY); width];
            }
            for state in states.chunks_exact(width) {
                for (i, x) in state.iter().enumerate() {
                    sums[i] += x - first[i];
                    squares[i] += (x - first[i]).powi(2);
                    bounds[i] = around(bounds[i], (*x, *x));
                }
            }
            seen += keys.len();
        }
        let n = seen as f64;
        let variance = sums.iter().zip(&squares).map(|(sum, square)| square / n - (sum / n).powi(2));
        if !matches!(self.shape, Shape::Row { .. }) {
            bounds = bounds.into_iter().reduce(around).into_iter().collect();
        }
        Ok((variance.sum::<f64>().max(0.0) / sums.len() as f64, bounds))
    }

    /// The first codec that is no factor and shift for each number.
    pub(crate) fn curved(&self) -> Option<&AnyCodec> {
        self.codec.0.iter().find(|codec| !matches!(codec.kind(), "affine" | "symmetric" | "standardize"))
    }

    /// The law of the states of data of this law, where the codecs are a factor and a shift for each number. The components are isotropic.
    pub(crate) fn law_of_states(&self, law: &GaussianMixture) -> Option<GaussianMixture> {
        if self.codec.0.is_empty() {
            return Some(law.clone());
        }
        let dim = self.dim();
        if self.curved().is_some() || law.dim() != dim {
            return None;
        }
        // What becomes of 0 and of 1 says all.
        let ends = rows::matrix([vec![0.0; dim], vec![1.0; dim]].concat(), dim, &rows::exact());
        let ends = rows::host(&self.codec.encode(ends, &Keys::range(0, 0, 2)).ok()?);
        let factor = |k: usize| ends[dim + k] - ends[k];
        let mean = |mean: &[f64]| mean.iter().enumerate().map(|(k, x)| ends[k] + factor(k) * x).collect();
        let covariance = |variance: f64| -> Vec<Vec<f64>> {
            let entry = |i: usize, j: usize| if i == j { variance * factor(i).powi(2) } else { 0.0 };
            (0..dim).map(|i| (0..dim).map(|j| entry(i, j)).collect()).collect()
        };
        let parts: Vec<_> = law.components().collect();
        GaussianMixture::full(
            parts.iter().map(|(weight, ..)| *weight).collect(),
            parts.iter().map(|(_, center, _)| mean(center)).collect(),
            parts.iter().map(|(.., variances)| covariance(variances[0])).collect(),
        )
        .ok()
    }

    /// The share of a class in the data; 1 for each where that is not known.
    pub(crate) fn share(&self, class: u32) -> f64 {
        self.shares.get(class as usize).copied().unwrap_or(1.0)
    }

    /// The classes that have examples.
    pub(crate) fn learned_classes(&self) -> Vec<u32> {
        (0..self.classes.len() as u32).filter(|&class| self.share(class) > 0.0).collect()
    }

    /// Fails unless all numbers are in their ranges and the parts fit each other: a file may say anything.
    ///
    /// # Errors
    /// See above, and codecs that are none for such data.
    pub fn check(&self) -> Result<()> {
        let countable = |shape: &[usize]| {
            let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
            ensure!(
                count.is_some_and(|count| (1..=MOST_VALUES).contains(&count)),
                "a sample of shape {shape:?} is none: it has from 1 to {MOST_VALUES} values"
            );
            Ok(())
        };
        countable(&self.shape.dims())?;
        self.codec.check()?;
        countable(&self.state_shape()?)?;
        ensure_within("the variance of the data", self.variance, 0.0..=f64::MAX)?;
        let (shares, sum) = (&self.shares, self.shares.iter().sum::<f64>());
        ensure!(
            shares.is_empty()
                || shares.len() == self.classes.len()
                    && sum.is_finite()
                    && sum > 0.0
                    && shares.iter().all(|x| *x >= 0.0),
            "the shares of {} classes are {} numbers that are none: give each the number of its examples",
            self.classes.len(),
            shares.len()
        );
        let numbers: usize = self.state_shape()?.iter().product();
        if let Some(shown) = &self.shown {
            shown.check(self)?;
        }
        ensure!(
            [0, 1, numbers].contains(&self.bounds.len()),
            "{} bounds do not fit states of {numbers} numbers: give one for each",
            self.bounds.len()
        );
        Ok(())
    }

    /// What is made for this: networks, or how large they are.
    ///
    /// # Errors
    /// Those of what makes it.
    pub(crate) fn made_for<T>(&self, seed: u64, device: &Device, make: impl FnOnce(&Make) -> Result<T>) -> Result<T> {
        let (shape, wording) =
            (self.state_shape()?, self.text.as_ref().map(|text| text.tokenizer.wording()).transpose()?);
        let (classes, beside) = (self.classes.len(), self.beside());
        make(&Make { shape: &shape, classes, beside, text: wording.as_ref(), seed, device })
    }

    /// Gives latents their autoencoder, whose weights are among those of learners.
    ///
    /// # Errors
    /// Weights that are missing or of another network.
    pub(crate) fn attach(&mut self, weights: &BTreeMap<String, Tensors>, device: &Device) -> Result<()> {
        let Some(coding) = &self.autoencoder else { return Ok(()) };
        let Some((height, width, channels)) = self.image() else {
            return Err(Error::of(Kind::Mismatch, "there is an autoencoder of pictures, and the data are none"));
        };
        coding.attach(&mut self.codec, [height, width, channels], weights, device)
    }

    /// Numbers in a sample of the data.
    pub fn dim(&self) -> usize {
        self.shape.len()
    }

    /// Channels that a model is shown beside its input, 0 for none.
    pub fn beside(&self) -> usize {
        self.shown.as_ref().map_or(0, |shown| shown.channels(self))
    }

    /// The shape of a state.
    ///
    /// # Errors
    /// Codecs that are none for such data.
    pub fn state_shape(&self) -> Result<Vec<usize>> {
        self.codec.state(&self.shape.dims())
    }

    /// Height, width and channels of an image; `None` for rows and series.
    pub fn image(&self) -> Option<(usize, usize, usize)> {
        match self.shape {
            Shape::Image { height, width, channels } => Some((height, width, channels)),
            _ => None,
        }
    }

    /// The states `[rows, state]` of data values in row order, in single precision on a device.
    ///
    /// # Errors
    /// Those of the codecs.
    pub fn encode(&self, values: &[f32], keys: &Keys, device: &Device) -> Result<stein::Tensor<2>> {
        let data = stein::TensorData::new(values.to_vec(), [keys.len(), self.dim()]);
        self.codec.encode(stein::Tensor::from_data(data, device), keys)
    }

    /// The data values of states, in row order.
    ///
    /// # Errors
    /// Those of the codecs.
    pub fn decode(&self, states: stein::Tensor<2>) -> Result<Vec<f32>> {
        Ok(self.codec.decode(states)?.into_data().iter::<f32>().collect())
    }

    /// Lowest and highest value of a state, where the data have a range that codecs keep, as pictures do.
    pub fn range(&self) -> Option<(f64, f64)> {
        self.levels.and_then(|_| Codec::range(&self.codec, (0.0, 1.0)))
    }
}

/// The interval around two.
fn around(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    (a.0.min(b.0), a.1.max(b.1))
}

/// The codec of pictures from −1 to 1, or none for those from 0 to 1.
pub(crate) fn pictures(symmetric: bool) -> Chain {
    Chain(if symmetric { vec![Symmetric {}.into()] } else { Vec::new() })
}

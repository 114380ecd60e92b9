//! What a network knows of a row besides its values: a vector of its noise number and its class.
//!
//! e = W₂ silu(W₁ \[cos(ω c), sin(ω c)\] + b₁) + b₂ + E\[class\], for the noise number c the preconditioner feeds,
//! whether that is ln(σ)/4, a time in \[0, 1\] or a step in \[0, 1000\]. To a row without a class no E is added. The frequencies ω are not trained:
//! - `fourier`: ω = 2π f, f ~ N(0, scale²) (Tancik et al., arXiv:2006.10739; Score-SDE and EDM networks), saved with the weights. Good for c in
//!   a range of a few units; `scale` is about the inverse of the smallest change in c that matters.
//! - `positional`: ω_k = max_period^(−k/K), k = 0 … K−1 (Vaswani et al., arXiv:1706.03762; DDPM). Good for c counted in
//!   steps up to about `max_period`.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, TensorData},
};
use serde::{Deserialize, Serialize};
use stein::{Condition, Context, Result, ensure};
use stein_base::Explain;

use crate::{
    init::Init,
    layers::Linear,
    ops::{self, Dual},
    trace,
};

/// How a noise number becomes a vector of features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EmbeddingConfig {
    /// Random frequencies, for noise numbers within a few units of zero such as ln(σ)/4 or a time in \[0, 1\].
    Fourier {
        /// Standard deviation of the frequencies, in cycles per unit of the noise number; positive and at most 1e6, default 1.
        #[serde(default = "scale")]
        scale: f64,
    },
    /// Geometric frequencies, for noise numbers that count steps, such as 0 to 1000.
    Positional {
        /// The longest period over 2π, in units of the noise number; above 1 and at most 1e12, default 10 000.
        #[serde(default = "max_period")]
        max_period: f64,
        /// What is taken from K in the exponent −k/(K − shift); 0 (default) or 1, which makes the last frequency
        /// 1/`max_period` as in DDPM's code.
        #[serde(default)]
        shift: usize,
        /// Whether sines come before cosines, as in DDPM's code; default false.
        #[serde(default)]
        sine_first: bool,
    },
}

fn scale() -> f64 {
    1.0
}

fn max_period() -> f64 {
    1e4
}

impl Default for EmbeddingConfig {
    fn default() -> Self {
        Self::Fourier { scale: scale() }
    }
}

impl EmbeddingConfig {
    /// This many frequencies.
    ///
    /// # Errors
    /// When a number of the config is out of its range.
    pub fn frequencies(&self, count: usize, init: &mut Init) -> Result<Frequencies> {
        check_count(count)?;
        match *self {
            Self::Fourier { scale } => {
                check_scale(scale)?;
                let values = init.normals(count, std::f64::consts::TAU * scale);
                Ok(Frequencies {
                    drawn: Some(init.frozen([count], values)),
                    given: Vec::new(),
                    unit: 1.0,
                    sine_first: false,
                })
            }
            Self::Positional { max_period, shift, sine_first } => {
                ensure!(
                    max_period > 1.0 && max_period <= 1e12,
                    "embedding.max_period is {max_period}: give a number above 1, at most 1e12"
                );
                ensure!(shift < 2, "embedding.shift is {shift}: give 0 or 1");
                ensure!(shift < count, "embedding.shift is 1, which {count} frequency does not allow: give 0");
                let step = max_period.ln() / (count - shift) as f64;
                let given = (0..count).map(|k| (-step * k as f64).exp()).collect();
                Ok(Frequencies { drawn: None, given, unit: 1.0, sine_first })
            }
        }
    }
}

fn check_scale(scale: f64) -> Result<()> {
    ensure!(scale > 0.0 && scale <= 1e6, "embedding.scale is {scale}: give a positive number, at most 1e6");
    Ok(())
}

/// Most frequencies of an embedding.
const MOST: usize = 1 << 20;

fn check_count(count: usize) -> Result<()> {
    ensure!(
        (1..=MOST).contains(&count),
        "the embedding of the noise has {count} frequencies: give a width of it that makes 1 to {MOST}"
    );
    Ok(())
}

/// The frequencies ω: drawn at random and saved, or given by a formula.
#[derive(Module, Debug)]
pub struct Frequencies {
    drawn: Option<Param<Tensor<1>>>,
    #[module(skip)]
    given: Vec<f64>,
    unit: f64,
    sine_first: bool,
}

impl Frequencies {
    /// Random ones in cycles, f ~ N(0, scale²), saved as such, as published weights have them: a product with 2π would be
    /// rounded again.
    ///
    /// # Errors
    /// When the scale is not a positive number.
    pub fn cycles(count: usize, scale: f64, sine_first: bool, init: &mut Init) -> Result<Self> {
        check_count(count)?;
        check_scale(scale)?;
        let values = init.normals(count, scale);
        Ok(Self {
            drawn: Some(init.frozen([count], values)),
            given: Vec::new(),
            unit: std::f64::consts::TAU,
            sine_first,
        })
    }

    /// Cosines and sines of noise numbers `[N]` times the frequencies.
    pub fn features(&self, noise: Dual<1>) -> Dual<2> {
        let rows = noise.dims()[0];
        let frequencies = match &self.drawn {
            Some(drawn) => drawn.val(),
            None => {
                let given = TensorData::from(&self.given[..]);
                Tensor::from_data(given, (&noise.value.device(), noise.value.dtype()))
            }
        };
        let frequencies = frequencies.reshape([1, -1]);
        let frequencies = if self.unit == 1.0 { frequencies } else { frequencies * self.unit };
        let features = ops::cos_sin(noise.linear(|noise| noise.reshape([rows, 1]) * frequencies.clone()));
        if self.sine_first { swap_halves(features) } else { features }
    }
}

/// The second half of every row before the first: sines before cosines.
pub(crate) fn swap_halves(x: Dual<2>) -> Dual<2> {
    let half = x.dims()[1] / 2;
    x.linear(|x| Tensor::cat(vec![x.clone().narrow(1, half, half), x.narrow(1, 0, half)], 1))
}

/// The embedding of noise numbers and classes.
#[derive(Module, Debug)]
pub struct Embedding {
    frequencies: Frequencies,
    first: Linear,
    second: Linear,
    classes: Option<Param<Tensor<2>>>,
}

impl Embedding {
    /// An embedding of `features` (even) sines and cosines in `width` numbers, and of a class below `classes` if not 0.
    ///
    /// # Errors
    /// When a number of the config is out of its range.
    pub fn new(
        config: &EmbeddingConfig,
        features: usize,
        width: usize,
        classes: usize,
        init: &mut Init,
    ) -> Result<Self> {
        Ok(Self::of(config.frequencies(features / 2, init)?, features, width, classes, init))
    }

    /// The same of these frequencies, half as many as there are features.
    pub fn of(frequencies: Frequencies, features: usize, width: usize, classes: usize, init: &mut Init) -> Self {
        Self {
            frequencies,
            first: Linear::new(features, width, init),
            second: Linear::new(width, width, init),
            classes: (classes > 0).then(|| init.normal([classes, width], 1.0)),
        }
    }

    /// The number of classes it knows.
    pub fn classes(&self) -> usize {
        self.classes.as_ref().map_or(0, |table| table.dims()[0])
    }

    /// The embeddings `[N, width]` of noise numbers `[N]` and the classes of N rows.
    ///
    /// # Errors
    /// A class it does not know, and classes that are not one per row.
    pub fn forward(&self, noise: Dual<1>, given: &Condition) -> Result<Dual<2>> {
        let rows = noise.dims()[0];
        given.check(rows)?;
        let class = given.class_rows(rows, self.classes())?;
        let features = self.frequencies.features(noise);
        trace::note(|| "embedding.features".to_owned(), &features);
        let embedded = self.second.forward(ops::silu(self.first.forward(features)));
        trace::note(|| "embedding".to_owned(), &embedded);
        let added = self.classes.as_ref().and_then(|table| of_classes(table.val(), &class));
        Ok(match added {
            Some(added) => embedded + added.into(),
            None => embedded,
        })
    }
}

/// The rows `[N, width]` of a table `[classes, width]` for the classes of N rows, zeros for a row without one; none if no row has one.
pub(crate) fn of_classes(table: Tensor<2>, class: &[Option<u32>]) -> Option<Tensor<2>> {
    if class.iter().all(Option::is_none) {
        return None;
    }
    let (device, kind, rows) = (table.device(), table.dtype(), class.len());
    let index = class.iter().map(|class| i64::from(class.unwrap_or(0))).collect();
    let found = table.select(0, Tensor::<1, Int>::from_data(TensorData::new(index, [rows]), &device));
    if !class.contains(&None) {
        return Some(found);
    }
    let known = class.iter().map(|class| if class.is_some() { 1f32 } else { 0.0 }).collect();
    Some(found * Tensor::<2>::from_data(TensorData::new(known, [rows, 1]), (&device, kind)))
}

/// The same of a condition, for as many rows as `like` has: `[rows, width]`, zeros for a row without a class.
///
/// # Errors
/// A class the table does not know, and classes that are not one per row.
pub(crate) fn class_vectors(table: &Param<Tensor<2>>, given: &Condition, like: &Tensor<2>) -> Result<Tensor<2>> {
    let ([rows, _], [known, width]) = (like.dims(), table.dims());
    given.check(rows)?;
    let class = given.class_rows(rows, known)?;
    let zeros = || Tensor::zeros([rows, width], (&like.device(), like.dtype()));
    Ok(of_classes(table.val(), &class).unwrap_or_else(zeros))
}

/// The embedding of a context's noise numbers and classes, and that of its second noise numbers added where there is one.
pub(crate) fn embedded(first: &Embedding, second: Option<&Embedding>, context: &Context) -> Result<Dual<2>> {
    let embedded = first.forward(context.noise.clone(), context.given)?;
    let Some((second, noise)) = second.zip(context.second.clone()) else { return Ok(embedded) };
    let added = trace::within(|| "second_level".to_owned(), || second.forward(noise, &Condition::none()))?;
    Ok(embedded + added)
}

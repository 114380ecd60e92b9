//! Classifiers: p(y | x_t) of noisy rows at their levels, whose gradient by x_t guides a denoiser (Dhariwal & Nichol 2021,
//! "Diffusion Models Beat GANs on Image Synthesis", section 4), and the features that metrics compare.
//!
//! p(y | x_t) = softmax(logits)_y. A level is brought to the classifier's own schedule by its log-SNR, as a denoiser's is: x_t's class
//! does not change where x_t is scaled. One that is not told levels knows pictures without noise alone.

use crate::{
    AnySchedule, Condition, Context, Dual, InputScale, Levels, Network, NoiseInput, Result, denoiser::Asked, ensure,
    preconditioned::between, rows,
};

/// What a classifier says of rows.
#[derive(Debug, Clone)]
pub struct Classified {
    /// The logits, `[rows, classes]`: their softmax is the probability of every class.
    pub logits: Dual<2>,
    /// The feature vectors, `[rows, features]`.
    pub features: Dual<2>,
}

/// A model of p(y | x_t). It is differentiable in x both ways, as a [`Denoiser`](crate::Denoiser) is: the tangent of x goes along, and
/// the result stays on the tape.
///
/// ```
/// use stein::{Classified, Classifier, Dual, Edm, Levels, Result, Schedule, gradient, log_probability, rows};
///
/// /// Which of N(-1, 1) and N(1, 1) a number is of: ln p(1 | x_t) - ln p(0 | x_t) = 2 α x/(α² + σ²).
/// struct Side;
///
/// impl Classifier for Side {
///     fn classify(&self, x: Dual<2>, at: Levels) -> Result<Classified> {
///         let half = x.scale(&at.factors(|at| at.alpha / (at.alpha.powi(2) + at.sigma.powi(2))));
///         let logits = Dual::cat(vec![half.clone().linear(|half| -half), half.clone()], 1);
///         Ok(Classified { logits, features: half })
///     }
/// }
///
/// let (x, at) = (rows::matrix(vec![0.0], 1, &rows::exact()), Edm::default().kernel(1.0));
/// let (said, slope) = gradient(x, |x| {
///     let said = log_probability(&Side, x.into(), (&at).into(), &[1])?.value;
///     Ok((said.clone(), said.sum()))
/// })?;
/// assert!((rows::host(&said)[0] - 0.5f64.ln()).abs() < 1e-12);
/// assert!((rows::host(&slope)[0] - 0.5).abs() < 1e-12); // (1 - p) · 2 α/(α² + σ²)
/// # Ok::<(), stein::Error>(())
/// ```
pub trait Classifier: Send + Sync {
    /// Of noisy rows `x` `[rows, dim]` at their levels. Callers go through [`classify`], which checks what it is given and that no
    /// derivative was lost.
    ///
    /// # Errors
    /// When the shape is not one this classifier knows, or the level is one it was not trained at.
    fn classify(&self, x: Dual<2>, at: Levels) -> Result<Classified>;
}

/// What a classifier says: with sizes checked, and a derivative that was asked for and lost on the way an error instead of a zero.
///
/// # Errors
/// One level too few or too many; those of the classifier; one that drops tangents or leaves the tape.
pub fn classify(classifier: &dyn Classifier, x: Dual<2>, at: Levels) -> Result<Classified> {
    let count = x.dims()[0];
    at.check(count)?;
    let asked = Asked::of(&x);
    let classified = classifier.classify(x, at)?;
    asked.check(&classified.logits, "classifier")?;
    asked.check(&classified.features, "classifier")?;
    Ok(classified)
}

/// ln p(y | x_t) `[rows, 1]`, for a class a row. Rows do not mix: the gradient of the sum is that of every row.
///
/// # Errors
/// As [`classify`]; not one class a row, and one the classifier does not know.
pub fn log_probability(classifier: &dyn Classifier, x: Dual<2>, at: Levels, class: &[u32]) -> Result<Dual<2>> {
    let logits = classify(classifier, x, at)?.logits;
    let [count, classes] = logits.dims();
    ensure!(class.len() == count, "{} classes were given for {count} rows: give one per row", class.len());
    let known = u32::try_from(classes).unwrap_or(u32::MAX);
    if let Some(unknown) = class.iter().find(|&&class| class >= known) {
        return Err(crate::Error::new(format!(
            "class {unknown} is out of range: this classifier tells classes 0 to {}",
            classes.saturating_sub(1)
        )));
    }
    let chosen = class.iter().flat_map(|&class| (0..known).map(move |k| f64::from(u8::from(k == class))));
    let chosen = rows::matrix(chosen.collect(), classes, &logits.value);
    Ok(logits.log_softmax().linear(|said| (said * chosen.clone()).sum_dim(1)))
}

/// How noisy rows and their levels reach the network of a classifier.
#[derive(Debug, Clone)]
pub struct NoisyInput {
    /// The schedule it was trained on.
    pub schedule: AnySchedule,
    /// How x is scaled before the network.
    pub scale: InputScale,
    /// Which number tells the network how noisy its input is.
    pub number: NoiseInput,
}

impl NoisyInput {
    /// Fails if the parts do not fit each other.
    ///
    /// # Errors
    /// See above: which setting, and what it may be.
    pub fn check(&self) -> Result<()> {
        self.schedule.check()?;
        self.scale.check()?;
        self.number.check(&self.schedule)
    }
}

/// A network as a classifier. Its output is `[rows, classes + features]`, logits first.
#[derive(Debug, Clone)]
pub struct NetworkClassifier<N> {
    /// The network.
    pub network: N,
    /// Numbers of the feature vector.
    pub features: usize,
    /// How noise reaches it; none for one of rows without noise, whose noise number is 0.
    pub noise: Option<NoisyInput>,
}

impl<N: Network> NetworkClassifier<N> {
    /// What the network says of rows at levels of its own schedule, as in training; of rows without noise, the levels are not looked at.
    ///
    /// # Errors
    /// Those of the network, and an output that has no logits beside the features.
    pub fn raw(&self, x: Dual<2>, at: Levels) -> Result<Classified> {
        let (x, numbers) = match &self.noise {
            Some(NoisyInput { schedule, scale, number }) => {
                let numbers = number.numbers(&x.value, at, schedule);
                (scale.apply(x, at), numbers)
            }
            None => {
                let numbers = rows::vector(vec![0.0; x.dims()[0]], &x.value);
                (x, numbers)
            }
        };
        let both = self.network.forward(x, &Context::new(numbers, &Condition::none()))?;
        let (width, features) = (both.dims()[1], self.features);
        ensure!(
            width > features,
            "the network gives {width} numbers a row: a classifier's gives logits and {features} features"
        );
        let classes = width - features;
        Ok(Classified {
            logits: both.clone().linear(|both| both.narrow(1, 0, classes)),
            features: both.linear(|both| both.narrow(1, classes, features)),
        })
    }
}

impl<N: Network> Classifier for NetworkClassifier<N> {
    /// Rows with less noise than the cleanest level of the schedule, such as none, are those of that level.
    fn classify(&self, x: Dual<2>, at: Levels) -> Result<Classified> {
        let Some(NoisyInput { schedule, .. }) = &self.noise else {
            ensure!(
                Kind::Unsupported,
                at.kernels().iter().all(|at| at.is_clean()),
                "this classifier was trained on data without noise: give it those, or train one with family.noise"
            );
            return self.raw(x.scale(&at.factors(|at| 1.0 / at.alpha)), at);
        };
        let (first, last) = schedule.span();
        let own = at.map(|at| schedule.kernel(schedule.time_at(at.log_snr()).clamp(first, last)));
        self.raw(x.scale(&between(at, own.view())), own.view())
    }
}

impl<C: Classifier + ?Sized> Classifier for std::sync::Arc<C> {
    fn classify(&self, x: Dual<2>, at: Levels) -> Result<Classified> {
        (**self).classify(x, at)
    }
}

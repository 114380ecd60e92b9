//! Metrics of generated samples, each with its error.
//!
//! A metric compares rows of numbers: of a reference, of samples, and for some of held-out data. The rows are features of a
//! network, or the data themselves. [`Session`] measures any number of metrics in one pass over batches of any size; the
//! result does not depend on the batches or the number of threads, and says which reference it was measured against.
//!
//! ```
//! use stein_metrics::{AnyMetric, Batch, Session, Side};
//!
//! let metrics = [AnyMetric::named("energy")?, AnyMetric::named("precision")?];
//! let reference: Vec<f32> = (0..200).map(|i| (i as f32 * 0.7).sin()).collect();
//! let mut session = Session::new(&metrics, 2)?;
//! for batch in reference.chunks(30) {
//!     session.update(Side::Reference, batch)?;
//!     session.update(Side::Samples, batch)?;
//! }
//! let measured = session.finish();
//! assert!(measured[0].as_ref().unwrap().value.abs() < 1e-12);
//! assert_eq!(measured[1].as_ref().unwrap().value, 1.0);
//! # Ok::<(), stein_metrics::Error>(())
//! ```
//!
//! A metric of your own is a type with [`Metric`], added by [`AnyMetric::register`].

mod agreement;
mod authenticity;
mod c2st;
mod clusters;
mod copying;
mod coverage;
mod crps;
mod density;
mod energy;
mod energy_score;
mod ensembles;
mod frechet;
mod inception_score;
mod interval_coverage;
mod kernel;
mod matrix;
mod measured;
mod mmd;
mod moments;
mod neighbors;
mod novelty;
mod pictures;
mod precision;
mod psnr;
mod quantiles;
mod rank_histogram;
mod recall;
mod rows;
mod session;
mod sliced_wasserstein;
mod spread;
mod ssim;
mod subsets;
mod two_sample;
mod wasserstein;

pub use agreement::Agreement;
pub use authenticity::Authenticity;
pub use c2st::C2st;
pub use copying::Copying;
pub use coverage::Coverage;
pub use crps::{Crps, ensemble_crps, gaussian_crps};
pub use density::Density;
pub use energy::Energy;
pub use energy_score::EnergyScore;
pub use ensembles::Scored;
pub use frechet::{Frechet, Terms, frechet_distance};
pub use inception_score::{InceptionScore, Outputs};
pub use interval_coverage::IntervalCoverage;
pub use kernel::Kernel;
pub use measured::Measured;
pub use mmd::Mmd;
pub use moments::{Accumulator, Moments};
pub use neighbors::{Neighbor, Neighbors};
pub use novelty::Novelty;
pub use pictures::Layout;
pub use precision::Precision;
pub use psnr::Psnr;
pub use rank_histogram::{RankHistogram, ranks};
pub use recall::Recall;
pub use rows::{Batch, Fingerprint, Rows, Values, fingerprint};
pub use session::{Session, measure};
pub use sliced_wasserstein::{SlicedWasserstein, sliced_wasserstein};
pub use spread::{Spread, within_class_spread};
pub use ssim::{Ssim, Window};
pub use stein_base::{Error, Result, transport::LARGEST as LARGEST_TRANSPORT};
pub use two_sample::Statistic;
pub use wasserstein::Wasserstein;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use stein_base::registry;

/// Whose rows they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// What the samples are compared with: real data, for metrics of copying the very data the model was trained on.
    /// For paired metrics the picture, or the observation, that each sample belongs to.
    Reference,
    /// What a model generated.
    Samples,
    /// Real data that the model was not trained on.
    HeldOut,
}

impl Side {
    /// Its name in sentences.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Samples => "samples",
            Self::HeldOut => "held-out data",
        }
    }
}

/// Squared radii of the rows of a side, by side and k.
type Radii = HashMap<(Side, usize), Arc<[f64]>>;

/// The rows of all sides, for metrics that need them as a whole.
#[derive(Debug)]
pub struct Sides {
    /// Rows of the reference.
    pub reference: Rows,
    /// Generated rows.
    pub samples: Rows,
    /// Held-out rows.
    pub held_out: Rows,
    /// Those that some metric asked for.
    radii: Mutex<Radii>,
}

impl Sides {
    fn new(dim: usize) -> Self {
        let rows = || Rows::new(dim);
        Self { reference: rows(), samples: rows(), held_out: rows(), radii: Mutex::default() }
    }

    /// The squared distance of each row of a side to its `k`-th nearest other row, worked out once for all metrics.
    ///
    /// # Errors
    /// Too few rows.
    pub fn radii(&self, side: Side, k: usize) -> Result<Arc<[f64]>> {
        // A panic that left the lock poisoned left the map whole all the same.
        let mut known = self.radii.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(radii) = known.get(&(side, k)) {
            return Ok(Arc::clone(radii));
        }
        let radii: Arc<[f64]> =
            Neighbors::among(self.get(side)).radii(k).map_err(|error| error.at(side.name()))?.into();
        known.insert((side, k), Arc::clone(&radii));
        Ok(radii)
    }

    fn get(&self, side: Side) -> &Rows {
        match side {
            Side::Reference => &self.reference,
            Side::Samples => &self.samples,
            Side::HeldOut => &self.held_out,
        }
    }

    fn get_mut(&mut self, side: Side) -> &mut Rows {
        match side {
            Side::Reference => &mut self.reference,
            Side::Samples => &mut self.samples,
            Side::HeldOut => &mut self.held_out,
        }
    }
}

/// How samples and rows of the reference belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// They do not: both sides are sets.
    None,
    /// Row i of one side belongs to row i of the other.
    Rows,
    /// To row i of the reference belong rows i m to (i + 1) m of the samples, for the same m ≥ 2.
    Ensembles,
}

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Any numbers: data or features.
    Numbers,
    /// A picture's pixels.
    Picture,
    /// A classifier's outputs, one for each class.
    Classes,
}

/// Whether a metric looks at rows of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It does not.
    No,
    /// Where there are some.
    IfGiven,
    /// It cannot do without.
    Needed,
}

/// What a metric needs to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Rows of a reference.
    pub reference: bool,
    /// Rows of held-out data.
    pub held_out: Wanted,
    /// The class of each row of the sides it needs.
    pub labels: bool,
    /// What belongs together.
    pub pairs: Pairing,
    /// What a row is.
    pub content: Content,
}

impl Needs {
    /// Two sets of numbers.
    pub const SETS: Self =
        Self { reference: true, held_out: Wanted::No, labels: false, pairs: Pairing::None, content: Content::Numbers };
}

/// Which values are good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Better {
    /// The smaller the better.
    Smaller,
    /// The larger the better.
    Larger,
    /// The nearer to this value the better.
    Near(f64),
}

impl Better {
    /// A number that is smaller the better a value is.
    pub fn loss(self, value: f64) -> f64 {
        match self {
            Self::Smaller => value,
            Self::Larger => -value,
            Self::Near(right) => (value - right).abs(),
        }
    }
}

/// A metric that takes rows as they come.
pub trait Streaming: Send {
    /// Takes checked rows of one side.
    ///
    /// # Errors
    /// Rows that it cannot take.
    fn update(&mut self, side: Side, batch: &Batch) -> Result<()>;

    /// The number, once all rows were taken.
    ///
    /// # Errors
    /// Too few rows.
    fn finish(self: Box<Self>) -> Result<Measured>;
}

/// A metric that is being measured.
pub enum Running {
    /// It takes rows as they come and keeps what it needs of them.
    Streaming(Box<dyn Streaming>),
    /// It needs all rows at once.
    Whole(Box<Whole>),
}

/// What measures a metric on all rows of the sides.
pub type Whole = dyn FnOnce(&Sides) -> Result<Measured> + Send;

impl Running {
    /// One that needs all rows at once.
    pub fn whole(measure: impl FnOnce(&Sides) -> Result<Measured> + Send + 'static) -> Self {
        Self::Whole(Box::new(measure))
    }
}

/// A metric: a value that has its settings. All that changes while it is measured is in what [`start`](Self::start) gives.
///
/// ```
/// use stein_metrics::{Batch, Better, Measured, Metric, Needs, Result, Running, Side, measure};
/// use serde::{Deserialize, Serialize};
///
/// /// How far the mean of the first coordinate is off.
/// #[derive(Debug, Default, Serialize, Deserialize)]
/// struct MeanShift {}
///
/// impl Metric for MeanShift {
///     fn needs(&self) -> Needs {
///         Needs::SETS
///     }
///
///     fn better(&self) -> Better {
///         Better::Near(0.0)
///     }
///
///     fn start(&self, _dim: usize) -> Result<Running> {
///         Ok(Running::whole(|sides| Ok(Measured::new(sides.samples.mean()[0] - sides.reference.mean()[0], None))))
///     }
/// }
///
/// stein_metrics::AnyMetric::register::<MeanShift>("mean_shift");
/// let metric = stein_metrics::AnyMetric::named("mean_shift")?;
/// let (zeros, ones) = (vec![0.0f32; 4], vec![1.0f32; 4]);
/// let measured = measure(metric, 2, [(Side::Reference, Batch::from(&zeros)), (Side::Samples, Batch::from(&ones))])?;
/// assert_eq!(measured.value, 1.0);
/// # Ok::<(), stein_metrics::Error>(())
/// ```
pub trait Metric: std::fmt::Debug + Send + Sync {
    /// What it needs to be given.
    fn needs(&self) -> Needs;

    /// Which values are good.
    fn better(&self) -> Better;

    /// Begins to measure rows of `dim` numbers.
    ///
    /// # Errors
    /// Rows of a size it cannot work on, and a file of settings that cannot be read.
    fn start(&self, dim: usize) -> Result<Running>;

    /// Fails, saying which setting and what it may be, if one is out of range.
    ///
    /// # Errors
    /// A setting that is out of range.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

registry! {
    /// Every metric, tagged by `kind` in files.
    AnyMetric, "metric": Metric {
        /// Fréchet distance between the Gaussians of both sides; FID on Inception features.
        "frechet" | "fid" | "fd" | "frechet_distance" => Frechet,
        /// Kernel distance: squared MMD with a cubic kernel; KID on Inception features.
        "kernel" | "kid" | "kernel_distance" | "kd" => Kernel,
        /// Inception score of a classifier's outputs.
        "inception_score" | "is" => InceptionScore,
        /// Share of samples that lie near the reference.
        "precision" => Precision,
        /// Share of the reference that lies near samples.
        "recall" => Recall,
        /// How densely the reference lies around the samples.
        "density" => Density,
        /// Share of the reference that has a sample nearby.
        "coverage" => Coverage,
        /// Exact optimal transport between both sides.
        "wasserstein" | "emd" | "optimal_transport" | "w2" => Wasserstein,
        /// Optimal transport of projections to random directions.
        "sliced_wasserstein" | "swd" => SlicedWasserstein,
        /// Squared maximum mean discrepancy with a Gaussian kernel.
        "mmd" | "gaussian_mmd" => Mmd,
        /// Energy distance.
        "energy" | "energy_distance" => Energy,
        /// Classifier two-sample test by nearest neighbors: one half for each is right where both sides have one law.
        "c2st" | "c2st_nn" => C2st,
        /// Share of samples that are farther from the training data than those from each other.
        "authenticity" | "auth_pct" => Authenticity,
        /// Distance of samples to the training data over that of held-out data.
        "novelty" => Novelty,
        /// Test for copies of the training data, C_T: far below zero where samples are too near to them.
        "copying" | "c_t" => Copying,
        /// Share of samples that a nearest-neighbor classifier gives the class they were drawn for.
        "agreement" => Agreement,
        /// Spread of the samples within their classes over that of the reference.
        "spread" => Spread,
        /// Continuous ranked probability score of ensembles.
        "crps" => Crps,
        /// Whether observations rank evenly among the members of their ensembles.
        "rank_histogram" => RankHistogram,
        /// Share of observations within the central interval of their ensembles.
        "interval_coverage" => IntervalCoverage,
        /// Energy score of ensembles of vectors.
        "energy_score" => EnergyScore,
        /// Peak signal-to-noise ratio of pictures, dB.
        "psnr" => Psnr,
        /// Structural similarity of pictures.
        "ssim" => Ssim,
    }
}

//! Structural similarity (Wang et al. 2004, eq. 13) of windows x, y of two pictures:
//!
//! ```text
//! (2 μx μy + C₁)(2 σxy + C₂) / ((μx² + μy² + C₁)(σx² + σy² + C₂)),   C₁ = (0.01 R)², C₂ = (0.03 R)², R the range of values
//! ```
//!
//! 1 for equal pictures. The mean is over windows that lie inside the picture, then over channels, then over pictures, with s/√n
//! over pictures as error. Windows are the paper's, 11 by 11 with Gaussian weights of σ = 1.5, or 7 by 7 with even weights, the
//! default of scikit-image, whose covariances by default have the denominator n − 1 (`sample_covariance`).

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, ensure, numbers};

use crate::{
    Better, Layout, Metric, Needs, Running,
    measured::mean,
    pictures::{self, Size},
};

/// The weights of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// 11 by 11, Gaussian with standard deviation 1.5.
    #[default]
    Gaussian,
    /// 7 by 7, even.
    Uniform,
}

impl Window {
    /// The weights along one side, of sum 1.
    fn taps(self) -> Vec<f64> {
        let weights: Vec<f64> = match self {
            Self::Gaussian => (-5..=5).map(|k| (-f64::from(k * k) / (2.0 * 1.5 * 1.5)).exp()).collect(),
            Self::Uniform => vec![1.0; 7],
        };
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    }
}

/// Structural similarity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Ssim {
    /// The largest value less the smallest that a pixel may have, above 0; default 1, and 255 for bytes.
    pub range: f64,
    /// Channels, height and width; by default square, gray or RGB.
    pub shape: Vec<usize>,
    /// In which order the numbers of a picture stand.
    pub layout: Layout,
    /// The weights of a window.
    pub window: Window,
    /// Whether covariances have the denominator n − 1 instead of n.
    pub sample_covariance: bool,
}

impl Default for Ssim {
    fn default() -> Self {
        Self {
            range: 1.0,
            shape: Vec::new(),
            layout: Layout::default(),
            window: Window::default(),
            sample_covariance: false,
        }
    }
}

impl Metric for Ssim {
    fn needs(&self) -> Needs {
        pictures::NEEDS
    }

    fn better(&self) -> Better {
        Better::Larger
    }

    fn check(&self) -> Result<()> {
        numbers::ensure_within("range", self.range, numbers::above(0.0, 1e100))
    }

    fn start(&self, dim: usize) -> Result<Running> {
        let (size, it) = (Size::of(dim, &self.shape, self.layout)?, self.clone());
        let side = self.window.taps().len();
        ensure!(
            size.height >= side && size.width >= side,
            "pictures of {} by {} have no window of {side} by {side}: give larger ones",
            size.height,
            size.width
        );
        let score = move |one: Vec<f64>, other: Vec<f64>| {
            let (one, other) = (size.planes(one), size.planes(other));
            let plane = size.height * size.width;
            let planes = one.chunks_exact(plane).zip(other.chunks_exact(plane));
            let of_planes: Vec<f64> = planes.map(|(one, other)| mean(&it.map(one, other, size.width))).collect();
            mean(&of_planes)
        };
        Ok(Running::Streaming(Box::new(pictures::Pairs::new(dim, Box::new(score)))))
    }
}

impl Ssim {
    /// The similarity of each window inside two planes of this width, row by row.
    pub fn map(&self, one: &[f64], other: &[f64], width: usize) -> Vec<f64> {
        let taps = self.window.taps();
        let filtered = |of: &dyn Fn(f64, f64) -> f64| {
            let plane: Vec<f64> = one.iter().zip(other).map(|(&a, &b)| of(a, b)).collect();
            filter(&plane, width, &taps)
        };
        let (mean_x, mean_y) = (filtered(&|x, _| x), filtered(&|_, y| y));
        let (xx, yy, xy) = (filtered(&|x, _| x * x), filtered(&|_, y| y * y), filtered(&|x, y| x * y));
        let n = (taps.len() * taps.len()) as f64;
        let scale = if self.sample_covariance { n / (n - 1.0) } else { 1.0 };
        let (c1, c2) = ((0.01 * self.range).powi(2), (0.03 * self.range).powi(2));
        (0..mean_x.len())
            .map(|i| {
                let (mx, my) = (mean_x[i], mean_y[i]);
                let [vx, vy, vxy] = [xx[i] - mx * mx, yy[i] - my * my, xy[i] - mx * my].map(|v| scale * v);
                (2.0 * mx * my + c1) * (2.0 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
            })
            .collect()
    }
}

/// A plane filtered along both sides, where the window lies inside.
fn filter(plane: &[f64], width: usize, taps: &[f64]) -> Vec<f64> {
    let (height, reach) = (plane.len() / width, taps.len() - 1);
    let along: Vec<f64> = plane
        .chunks_exact(width)
        .flat_map(|row| row.windows(taps.len()).map(|window| window.iter().zip(taps).map(|(v, t)| v * t).sum::<f64>()))
        .collect();
    let width = width - reach;
    let down = |i: usize| -> f64 { taps.iter().enumerate().map(|(k, tap)| tap * along[i + k * width]).sum() };
    (0..(height - reach) * width).map(down).collect()
}

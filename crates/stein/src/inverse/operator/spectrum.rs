//! The singular value decomposition A = U diag(s) Vᵀ of a linear operator, and what follows from it at once: the pseudo-inverse, and the
//! solutions of damped systems.

use faer::{Col, Mat};

use crate::{Error, Result};

/// A = U diag(s) Vᵀ with r positive singular values s. V is a whole orthonormal basis of the samples' space, `[n, n]`: its first r
/// columns belong to the singular values, the others span what is not measured. U is `[m, r]`.
pub trait Spectrum: std::fmt::Debug + Send + Sync {
    /// The r positive singular values, in the order of the bases.
    fn values(&self) -> &[f64];

    /// V c: the sample `[n]` of coordinates `[n]`.
    fn sample(&self, c: &[f64]) -> Vec<f64>;

    /// Vᵀ x: the coordinates `[n]` of a sample `[n]`.
    fn coordinates(&self, x: &[f64]) -> Vec<f64>;

    /// U c: the measurement `[m]` of coordinates `[r]`.
    fn measurement(&self, c: &[f64]) -> Vec<f64>;

    /// Uᵀ y: the coordinates `[r]` of a measurement `[m]`.
    fn measured(&self, y: &[f64]) -> Vec<f64>;

    /// Numbers of a sample, n.
    fn dim(&self) -> usize;

    /// V diag(f(s)) Uᵀ y `[n]` of a measurement `[m]`: with f = 1/s the pseudo-inverse A⁺ y, the sample of least norm that fits best.
    fn back(&self, y: &[f64], f: &dyn Fn(f64) -> f64) -> Vec<f64> {
        let mut c: Vec<f64> = self.measured(y).iter().zip(self.values()).map(|(c, s)| f(*s) * c).collect();
        c.resize(self.dim(), 0.0);
        self.sample(&c)
    }

    /// f of √(A*A) at a sample: V diag(f(s), f(0)) Vᵀ x `[n]` of `[n]`.
    fn of_sample(&self, x: &[f64], f: &dyn Fn(f64) -> f64) -> Vec<f64> {
        let mut c = self.coordinates(x);
        let of_null = f(0.0);
        let (seen, unseen) = c.split_at_mut(self.values().len());
        seen.iter_mut().zip(self.values()).for_each(|(c, s)| *c *= f(*s));
        unseen.iter_mut().for_each(|c| *c *= of_null);
        self.sample(&c)
    }

    /// f of √(AA*) at a measurement: U diag(f(s) − f(0)) Uᵀ y + f(0) y `[m]` of `[m]`.
    fn of_measurement(&self, y: &[f64], f: &dyn Fn(f64) -> f64) -> Vec<f64> {
        let of_null = f(0.0);
        let c: Vec<f64> = self.measured(y).iter().zip(self.values()).map(|(c, s)| (f(*s) - of_null) * c).collect();
        self.measurement(&c).iter().zip(y).map(|(c, y)| c + of_null * y).collect()
    }
}

/// The decomposition of a matrix.
#[derive(Debug, Clone)]
pub struct DenseSpectrum {
    values: Vec<f64>,
    u: Mat<f64>,
    v: Mat<f64>,
}

/// Singular values below this part of the largest are taken for 0: what rounding leaves of them.
pub(super) const NEGLIGIBLE: f64 = 1e-12;

impl DenseSpectrum {
    /// Of a matrix `[m, n]`.
    ///
    /// # Errors
    /// A matrix whose decomposition does not converge.
    pub fn of(a: &Mat<f64>) -> Result<Self> {
        let svd = a.svd().map_err(|_| {
            Error::new("the measurement has no singular value decomposition: look for values that are not finite")
        })?;
        let all: Vec<f64> = svd.S().column_vector().iter().copied().collect();
        let largest = all.first().copied().unwrap_or(0.0);
        let values: Vec<f64> = all.into_iter().take_while(|&s| s > NEGLIGIBLE * largest).collect();
        let u = svd.U().subcols(0, values.len()).to_owned();
        Ok(Self { values, u, v: svd.V().to_owned() })
    }
}

fn column(x: &[f64]) -> Col<f64> {
    Col::from_fn(x.len(), |i| x[i])
}

fn host(x: Col<f64>) -> Vec<f64> {
    x.iter().copied().collect()
}

impl Spectrum for DenseSpectrum {
    fn values(&self) -> &[f64] {
        &self.values
    }

    fn sample(&self, c: &[f64]) -> Vec<f64> {
        host(&self.v * column(c))
    }

    fn coordinates(&self, x: &[f64]) -> Vec<f64> {
        host(self.v.transpose() * column(x))
    }

    fn measurement(&self, c: &[f64]) -> Vec<f64> {
        host(&self.u * column(c))
    }

    fn measured(&self, y: &[f64]) -> Vec<f64> {
        host(self.u.transpose() * column(y))
    }

    fn dim(&self) -> usize {
        self.v.nrows()
    }
}

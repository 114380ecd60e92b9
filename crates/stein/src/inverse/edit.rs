//! Editing: a picture is noised to a level and sampled from there (Meng et al. 2022, "SDEdit", arXiv:2108.01073), and
//! where it is to stay as it is it is put back at every level, with noise of its own.
//!
//! The noisier the level, the freer the result: at the noisiest it is a sample, at the cleanest the picture.

use burn::tensor::Tensor;

use crate::{
    Denoiser, Eval, Kernel, Past, Progress, Purpose, Request, Result, Sampled, Sampler, Schedule, ensure,
    noise::normal_like,
    numbers::{above, ensure_within},
    sample_from,
    sampler::step,
};

/// What is changed of rows, and how much.
#[derive(Debug, Clone)]
pub struct Edit {
    /// The rows `[rows, dim]`, in the units of states.
    pub rows: Tensor<2>,
    /// Where they may change, `[1, dim]` or `[rows, dim]`: 1 is freely, 0 not at all; everywhere if none is given.
    pub mask: Option<Tensor<2>>,
    /// The part of the grid that is taken, from its clean end; above 0 and at most 1.
    pub strength: f64,
}

impl Edit {
    /// The levels that are taken: the last ⌈strength · steps⌉ steps of a grid.
    ///
    /// # Errors
    /// A strength out of range.
    pub fn levels<'k>(&self, kernels: &'k [Kernel]) -> Result<&'k [Kernel]> {
        ensure_within("the strength", self.strength, above(0.0, 1.0))?;
        let steps = kernels.len().saturating_sub(1);
        // A product that rounding lifted above a whole number is that number.
        let taken = (self.strength * steps as f64 - 1e-9).ceil() as usize;
        Ok(&kernels[steps - taken.min(steps)..])
    }

    /// Fails unless a mask is of the rows.
    pub(super) fn check_mask(&self) -> Result<()> {
        let [rows, dim] = self.rows.dims();
        if let Some(mask) = &self.mask {
            let [masks, width] = mask.dims();
            ensure!(
                width == dim && (masks == rows || masks == 1),
                "a mask of {masks} rows of {width} numbers is none for {rows} rows of {dim}: give one of each row, or one of all"
            );
        }
        Ok(())
    }
}

/// Rows edited by a sampler; row i depends on the seed, its number and its picture alone.
///
/// ```
/// use stein::{Edm, Grid, Heun, Request, exact::GaussianMixture, inverse::{Edit, edit}, rows::{host, matrix, exact}};
///
/// // Both coordinates of (4, 4.5), of which the first stays.
/// let rows = matrix(vec![4.0, 4.5], 2, &exact());
/// let mask = Some(matrix(vec![0.0, 1.0], 2, &exact()));
/// let levels = Grid::karras(20).kernels(&Edm::default())?;
/// let what = Edit { rows, mask, strength: 0.8 };
/// let edited = edit(&what, &GaussianMixture::ncsn(), &Edm::default(), &levels, &Heun::default(), &Request::exact(1, 2, 0), &mut |_| Ok(()))?;
/// let edited = host(&edited.x);
/// assert!(edited[0] == 4.0 && edited[1] != 4.5);
/// # Ok::<(), stein::Error>(())
/// ```
///
/// # Errors
/// A strength out of range, masks and rows of other sizes than the request's, and those of [`sample_from`].
pub fn edit(
    what: &Edit,
    denoiser: &dyn Denoiser,
    schedule: &dyn Schedule,
    kernels: &[Kernel],
    sampler: &dyn Sampler,
    request: &Request,
    observe: &mut dyn FnMut(&Progress) -> Result<()>,
) -> Result<Sampled> {
    let levels = what.levels(kernels)?;
    what.check_mask()?;
    // The noise of the start, and what is put back, are of one draw: what stays is noised as the whole is.
    let noise = normal_like(&request.keys(), Purpose::Prior, 0, &what.rows);
    let start = noised(&what.rows, &noise, &levels[0]);
    let Some(mask) = &what.mask else {
        return sample_from(start, denoiser, schedule, levels, sampler, request, observe);
    };
    let keeping = Keeping { sampler, rows: &what.rows, mask, noise };
    sample_from(start, denoiser, schedule, levels, &keeping, request, observe)
}

/// Rows at a level, with this noise.
pub(super) fn noised(rows: &Tensor<2>, noise: &Tensor<2>, at: &Kernel) -> Tensor<2> {
    rows.clone().mul_scalar(at.alpha) + noise.clone().mul_scalar(at.sigma)
}

/// A sampler after whose steps what stays is put back.
#[derive(Debug)]
struct Keeping<'a> {
    sampler: &'a dyn Sampler,
    rows: &'a Tensor<2>,
    mask: &'a Tensor<2>,
    noise: Tensor<2>,
}

impl Sampler for Keeping<'_> {
    fn step(&self, x: Tensor<2>, from: &Kernel, to: &Kernel, eval: &mut Eval, past: &mut Past) -> Result<Tensor<2>> {
        let x = step(self.sampler, x, from, to, eval, past)?;
        let known = noised(self.rows, &self.noise, to);
        Ok(known.clone() + (x - known) * self.mask.clone())
    }

    fn order(&self) -> Option<u32> {
        None
    }

    fn starts_without_signal(&self) -> bool {
        self.sampler.starts_without_signal()
    }

    fn adaptive(&self) -> bool {
        self.sampler.adaptive()
    }

    fn moves(&self) -> usize {
        self.sampler.moves()
    }

    fn check(&self) -> Result<()> {
        self.sampler.check()
    }
}

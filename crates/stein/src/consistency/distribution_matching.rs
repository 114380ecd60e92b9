//! Distribution matching distillation (Yin et al. 2024, arXiv:2311.18828; without regression and without a discriminator as in DMD2,
//! arXiv:2405.14867): a one-step generator G is moved along the difference of two scores, that of the data and that of its own samples.
//!
//! At x_t = α G(z) + σ ε the gradient by a sample is (D_fake(x_t) − D_real(x_t))/w with w = mean |G(z) − D_real(x_t)| over its numbers;
//! D_real is the teacher, D_fake a denoiser that is trained on the generator's samples all along.

use crate::Tensor;

/// ½ ‖x − (x − g)⁻‖² of every row, over D, `[rows, 1]`: a loss whose gradient by the samples x is g/D, g the direction above. `real` and `fake`
/// are the two estimates, all `[rows, dim]`.
pub fn distribution_matching(x: Tensor<2>, real: Tensor<2>, fake: Tensor<2>) -> Tensor<2> {
    let kept = x.clone().detach();
    // Least where a sample is what the teacher makes of it.
    let size = (kept.clone() - real.clone()).abs().mean_dim(1).clamp_min(1e-8);
    let direction = (fake - real) / size;
    (x - (kept - direction).detach()).square().mean_dim(1).mul_scalar(0.5)
}

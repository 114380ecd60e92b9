//! Exact likelihoods by the probability-flow ODE: `cargo run --release --example likelihood`.
//!
//! Along dx/dt = v the density follows d ln p/dt = −∇·v (Chen et al. 2018; Song et al. 2021, eq. 39): data are carried to the
//! noisiest level, where their density is known, and the divergence is added up on the way. The model here is a mixture whose density is
//! known in closed form, so the result can be compared; a trained network takes the same few lines.

use stein::{
    Codec, Condition, Keys, Result, Schedule, Tensor, Vp,
    codec::Affine,
    denoise,
    denoiser::{divergence, velocity},
    exact::{Exact, GaussianMixture},
    ode::{self, Times},
    rows,
};

fn main() -> Result<()> {
    let (model, schedule) = (GaussianMixture::ncsn(), Vp::default());
    let given = Condition::none();

    // The data are states in other units: a codec knows by how much that changes a density.
    let units = Affine { scale: 0.1, shift: 0.0 };
    let data = rows::matrix(vec![50.0, 48.0, -61.0, -39.0, 5.0, -3.0], 2, &rows::exact());
    let keys = Keys::range(0, 0, 3);
    let state = units.encode(data.clone(), &keys)?;

    // The third column is the integral of the divergence.
    let mut field = |x: &Tensor<2>, times: Times, _: &[usize]| {
        let Times::Same(t) = times else { unreachable!("steps of fixed length share their times") };
        let (x, at) = (x.clone().narrow(1, 0, 2), schedule.kernel(t));
        let denoised = denoise(&model, x.clone(), (&at).into(), &given)?;
        let trace = rows::column(&divergence(&model, x.clone(), &at, &given)?, &x);
        let flow = velocity(x.into(), denoised.into(), (&at).into()).value;
        Ok(Tensor::cat(vec![flow, trace], 1))
    };
    let (first, last) = schedule.span();
    let start = Tensor::cat(vec![state.clone(), rows::column(&[0.0; 3], &state)], 1);
    let end = ode::integrate(&mut field, start, first, last, &ode::RK4, ode::Steps::Fixed(400))?;

    let noisy = schedule.kernel(last);
    let ends: Vec<f64> = rows::host(&end.x.clone().narrow(1, 0, 2));
    // The density at the noisiest level; for a network it is that of the prior.
    let prior = model.log_density(&ends, &noisy);
    let traces = rows::host(&end.x.narrow(1, 2, 1));
    let determinants = units.log_det(&data, &keys)?.expect("an affine map has a determinant");
    let exact = model.log_density(&rows::host(&state), &schedule.kernel(first));
    for row in 0..3 {
        let found = prior[row] + traces[row] + determinants[row];
        println!("sample {row}: ln p = {found:.6}, and exactly {:.6}", exact[row] + determinants[row]);
    }
    println!("{} evaluations", end.evaluations);
    Ok(())
}

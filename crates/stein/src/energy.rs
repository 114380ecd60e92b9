//! Energies: scores that are the slope of something, so that the field they make has no rotation and densities can be compared.
//!
//! Any network F of rows makes a potential ψ(x) = ⟨x, F(x)⟩, and its slope ∇ψ = F + (∂F/∂x)ᵀ x stands where a network would:
//! [`Preconditioned`] by (c_in, c_skip, c_out) it is a denoiser D, whose score (α D − x)/σ² is that of
//!
//! > p(x) ∝ e^(−E(x)),  E(x) = (1 − α c_skip)/(2σ²) |x|² − α c_out/(c_in σ²) ψ(c_in x)
//!
//! up to a constant at each level (Salimans & Ho 2021, "Should EBMs model the energy or the score?"; LeCun et al. 2006). It is learned by
//! [denoising score matching](crate::Denoising::potential_loss), as in Vincent (2011).

use burn::tensor::Tensor;

use crate::{
    Condition, Context, Dual, Kernel, Levels, Network, Preconditioned, Result, denoiser::gradient, ensure,
    preconditioned::between, rows,
};

/// The potential ψ of a network of rows, and as a [`Network`] its slope ∇ψ.
///
/// The slope has its exact derivatives by x: the tangent H ẋ, with the Hessian H of ψ, by a pass back through a Jacobian-vector product, and
/// where x is on a tape all of H, by such a pass for each number of a row. Its weights are constants: they learn by
/// [`Denoising::potential_loss`](crate::Denoising::potential_loss).
#[derive(Debug, Clone)]
pub struct Potential<N> {
    /// The network, whose output has the width of its input.
    pub network: N,
}

impl<N: Network> Potential<N> {
    /// ψ of rows `[rows, dim]`, `[rows, 1]`.
    ///
    /// # Errors
    /// Those of the network, and an output of another width than the input.
    pub fn value(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let output = self.network.forward(x.clone(), context)?;
        let ([_, dim], [_, width]) = (x.dims(), output.dims());
        ensure!(dim == width, "the network gives {width} numbers for rows of {dim}: a potential is made of as many");
        Ok((x * output).linear(|product| product.sum_dim(1)))
    }

    /// H v of every row `[rows, dim]`, a constant.
    fn curvature(&self, x: &Tensor<2>, v: Tensor<2>, context: &Context) -> Result<Tensor<2>> {
        let (_, curvature) = gradient(x.clone(), |x| {
            let along = self.value(Dual::new(x, v), context)?.tangent_or_zero();
            Ok((along.clone(), along.sum()))
        })?;
        Ok(curvature)
    }
}

impl<N: Network> Network for Potential<N> {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        ensure!(
            Kind::Unsupported,
            context.noise.tangent.is_none() && !(x.value.is_tracked() && x.tangent.is_some()),
            "an energy has no third derivatives, and none by its level: take one derivative by the sample"
        );
        let [_, dim] = x.dims();
        let (_, mut slope) = gradient(x.value.clone(), |x| {
            let value = self.value(x.into(), context)?.value;
            Ok((value.clone(), value.sum()))
        })?;
        if x.value.is_tracked() {
            let moved = x.value.clone() - x.value.clone().detach();
            for i in 0..dim {
                let mut unit = vec![0.0; dim];
                unit[i] = 1.0;
                let unit = rows::matrix(unit, dim, &slope).expand(slope.dims());
                // H is symmetric: its column is its row.
                slope = self.curvature(&x.value, unit, context)? * moved.clone().narrow(1, i, 1) + slope;
            }
        }
        let tangent = x.tangent.map(|tangent| self.curvature(&x.value, tangent, context)).transpose()?;
        Ok(Dual { value: slope, tangent })
    }
}

impl<N: Network> Preconditioned<Potential<N>> {
    /// E of rows `[rows, dim]`, `[rows, 1]`, up to a constant that depends on the level. The levels have noise.
    ///
    /// # Errors
    /// Those of the network.
    pub fn energy(&self, x: Tensor<2>, at: Levels, given: &Condition) -> Result<Tensor<2>> {
        let own = self.own(at);
        let own = own.view();
        let x = rows::scale(x, &between(at, own));
        let (scaled, noise) = self.inputs(x.clone().into(), own);
        let context = Context { noise, second: None, given, dropout: None };
        let value = self.network.value(scaled, &context)?.value;
        let skip_and_out = |k: &Kernel| self.settings.prediction.skip_and_out(k);
        let on_square = own.factors(|k| (1.0 - k.alpha * skip_and_out(k).0) / (2.0 * k.sigma.powi(2)));
        let input = |k: &Kernel| self.settings.input_scale.factor(k);
        let on_value = own.factors(|k| -k.alpha * skip_and_out(k).1 / (input(k) * k.sigma.powi(2)));
        Ok(rows::scale(x.square().sum_dim(1), &on_square) + rows::scale(value, &on_value))
    }
}

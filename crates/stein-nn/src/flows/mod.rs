//! Normalizing flows: networks that are bijections with a known Jacobian, so that they have a density and are sampled in one pass
//! (Papamakarios et al., arXiv:1912.02762, equations 3 and 5):
//!
//! ln p(x) = ln N(z; 0, I) + ln|det ∂z/∂x|,  z = f(x);  x = f⁻¹(z),  z ~ N(0, I)
//!
//! [`Flow`] is one of rows of any length, [`Glow`] one of images. They are made of the layers here, every one of which maps both ways
//! and says by how much it stretches space. Values and log-determinants are differentiable on the way from data to noise; the
//! way back is made for sampling.

mod act_norm;
mod autoregressive;
mod conditioner;
mod config;
mod coupling;
mod flow;
mod glow;
mod image_coupling;
mod invertible_conv;
mod linear;
mod lu;
mod permutation;
mod spline;
mod transform;

use burn::{module::Module, tensor::Tensor};
use stein::{Condition, Context, Error, Network, Result, ensure};

use crate::ops::Dual;

pub use act_norm::{ActNorm, ActNormForm};
pub use autoregressive::Autoregressive;
pub use conditioner::{Conditioner, ConditionerForm};
pub use config::InvertibleConfig;
pub use coupling::Coupling;
pub use flow::{Flow, FlowConfig, FlowLayer, Mixing, Structure, TransformKind};
pub use glow::{Glow, GlowConfig, Latent};
pub use image_coupling::{ImageCoupling, ImageCouplingKind, ZeroConv};
pub use invertible_conv::{InvertibleConv, LuConv, PlainConv};
pub use lu::LuLinear;
pub use permutation::Permutation;
pub use spline::{Bends, Ends, Spline};
pub use transform::Transform;

/// What a layer makes of a batch, and ln|det| of the Jacobian of the map to it: one number a row, `[rows]`.
pub type Mapped<const D: usize> = (Tensor<D>, Tensor<1>);

/// A network that is a bijection of rows, given their condition.
pub trait InvertibleNetwork: Send + Sync {
    /// Numbers of a row.
    fn dim(&self) -> usize;

    /// Noise z of data `x` `[rows, dim]`, and ln|det ∂z/∂x| of every row: `[rows, dim]` and `[rows]`. Both are differentiable by `x`
    /// and by the weights.
    ///
    /// # Errors
    /// When the width of `x` or the condition is not one the network was built for.
    fn forward(&self, x: Tensor<2>, given: &Condition) -> Result<Mapped<2>>;

    /// Data x of noise `z` `[rows, dim]`, and ln|det ∂x/∂z| of every row: `[rows, dim]` and `[rows]`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and when a layer has become singular.
    fn inverse(&self, z: Tensor<2>, given: &Condition) -> Result<Mapped<2>>;

    /// The same network with every [`ActNorm`] set so that what it gives for this batch has mean 0 and deviation 1 (Kingma & Dhariwal,
    /// arXiv:1807.03039, section 3.1): what training begins with.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and for a batch of fewer than two rows.
    fn initialized(&self, x: Tensor<2>, given: &Condition) -> Result<Self>
    where
        Self: Sized;

    /// ln p of every row of `x` `[rows, dim]` in nats: `[rows]`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn log_prob(&self, x: Tensor<2>, given: &Condition) -> Result<Tensor<1>> {
        let (z, log_det) = self.forward(x, given)?;
        let constant = z.dims()[1] as f64 * std::f64::consts::TAU.ln();
        Ok(log_det - (over_rows(z.square()) + constant) * 0.5)
    }

    /// Noise of data.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn encode(&self, x: Tensor<2>, given: &Condition) -> Result<Tensor<2>> {
        Ok(self.forward(x, given)?.0)
    }

    /// Data of noise: samples, if the noise is drawn from N(0, I).
    ///
    /// # Errors
    /// As [`inverse`](Self::inverse).
    fn decode(&self, z: Tensor<2>, given: &Condition) -> Result<Tensor<2>> {
        Ok(self.inverse(z, given)?.0)
    }
}

/// Any one of the flows.
///
/// As a [`Network`] among others it does not look at noise numbers and gives z and ln|det ∂z/∂x| side by side, `[rows, dim + 1]`.
#[derive(Module, Debug)]
pub enum AnyFlow {
    /// See [`Flow`].
    Flow(Flow),
    /// See [`Glow`].
    Glow(Glow),
}

impl AnyFlow {
    fn inner(&self) -> &dyn InvertibleNetwork {
        match self {
            Self::Flow(network) => network,
            Self::Glow(network) => network,
        }
    }
}

impl InvertibleNetwork for AnyFlow {
    fn dim(&self) -> usize {
        self.inner().dim()
    }

    fn forward(&self, x: Tensor<2>, given: &Condition) -> Result<Mapped<2>> {
        self.inner().forward(x, given)
    }

    fn inverse(&self, z: Tensor<2>, given: &Condition) -> Result<Mapped<2>> {
        self.inner().inverse(z, given)
    }

    fn initialized(&self, x: Tensor<2>, given: &Condition) -> Result<Self> {
        Ok(match self {
            Self::Flow(network) => Self::Flow(network.initialized(x, given)?),
            Self::Glow(network) => Self::Glow(network.initialized(x, given)?),
        })
    }
}

impl Network for AnyFlow {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        if x.tangent.is_some() {
            return Err(Error::new("a normalizing flow carries no tangents: differentiate it by its tape"));
        }
        let (z, log_det) = self.inner().forward(x.value, context.given)?;
        let rows = z.dims()[0];
        Ok(Tensor::cat(vec![z, log_det.reshape([rows, 1])], 1).into())
    }
}

/// The sums of rows.
fn over_rows(x: Tensor<2>) -> Tensor<1> {
    let rows = x.dims()[0];
    x.sum_dim(1).reshape([rows])
}

/// A number that is the same for all rows, `[1]`, for each of them.
fn for_each(number: Tensor<1>, rows: usize) -> Tensor<1> {
    number.expand([rows])
}

/// Fails unless a batch has the width a layer was built for.
fn check_width(x: &Tensor<2>, width: usize) -> Result<()> {
    let [_, dim] = x.dims();
    ensure!(dim == width, "the batch has rows of {dim} values: this flow was built for {width}");
    Ok(())
}

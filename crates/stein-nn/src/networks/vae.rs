//! The networks of a variational autoencoder of rows, with one layer of latent variables or a ladder of them.
//!
//! On the way up, residual perceptrons make h₁, h₂, …, h_L of the sample. On the way down, from t = 0 and the last layer to the first,
//!
//! > p(z_l | z_{>l}) = N(μ(t), σ²(t)),  q(z_l | x, z_{>l}) = N(μ(t) + Δ(h_l, t), σ'²(h_l, t)),  t ← blocks(t + W z_l),
//!
//! the prior of the last being N(0, I): encoder and decoder share the way down (Sønderby et al., arXiv:1602.02282; Kingma et al.,
//! arXiv:1606.04934). With one layer this is the usual autoencoder of Kingma & Welling (arXiv:1312.6114).

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};
use stein::{Condition, Context, Network, Result, autoencoder::DiagonalGaussian, ensure};
use stein_base::Explain;

use super::{NetworkSize, Takes, check_width, config::BuildNetwork};
use crate::{
    embedding::class_vectors,
    init::Init,
    layers::{LayerNorm, Linear},
    ops::{self, Dual},
};

/// The size of the networks of a variational autoencoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct VaeConfig {
    /// Numbers of the latent variables of each layer, the one next to the data first; default `[16]`, one layer.
    pub latents: Vec<usize>,
    /// Width of the residual streams; at least 1, default 256.
    pub hidden: usize,
    /// Residual blocks before each layer of latent variables on the way up, and after it on the way down; default 2.
    pub blocks: usize,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self { latents: vec![16], hidden: 256, blocks: 2 }
    }
}

impl VaeConfig {
    /// The networks for rows of `dim` numbers, of a number of classes (0 for none), whose decoder puts out `outputs` numbers.
    ///
    /// # Errors
    /// When a number of the config is out of its range.
    pub fn build(&self, dim: usize, outputs: usize, classes: usize, init: &mut Init) -> Result<Vae> {
        let Self { latents, hidden, blocks } = self;
        let hidden = *hidden;
        ensure!(hidden > 0, "network.hidden is 0: give the width of the perceptrons, such as 256");
        ensure!(
            !latents.is_empty() && latents.iter().all(|&width| width > 0),
            "network.latents is {latents:?}: give the numbers of each layer of latent variables, such as [16]"
        );
        let last = latents.len() - 1;
        let mut stage = |width: Option<(usize, bool)>| -> Result<Stage> {
            let made = (0..*blocks).map(|_| init.check().map(|()| Block::new(hidden, init))).collect::<Result<_>>()?;
            let latent = width.map(|(width, top)| Layer {
                prior: (!top).then(|| Linear::zero(hidden, 2 * width, init)),
                posterior: Linear::scaled(2 * hidden, 2 * width, 0.1 * (2.0 * hidden as f64).powf(-0.5), init),
                taken: Linear::new(width, hidden, init),
            });
            Ok(Stage { blocks: made, latent })
        };
        let up = latents.iter().map(|_| stage(None)).collect::<Result<_>>()?;
        let down =
            latents.iter().enumerate().map(|(l, &width)| stage(Some((width, l == last)))).collect::<Result<_>>()?;
        Ok(Vae {
            input: Linear::new(dim, hidden, init),
            classes: (classes > 0).then(|| init.normal([classes, hidden], 1.0)),
            up,
            down,
            norm: LayerNorm::new(hidden, init),
            output: Linear::new(hidden, outputs, init),
            outputs,
            widths: latents.clone(),
        })
    }
}

/// As a network on rows, whose output is what its decoder puts out at the means of the latent variables.
#[derive(Debug, Serialize)]
struct OnRows<'a> {
    config: &'a VaeConfig,
    outputs: usize,
}

impl BuildNetwork for OnRows<'_> {
    type Net = Vae;

    fn build(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<Vae> {
        self.config.build(shape.iter().product(), self.outputs, classes, init)
    }
}

impl VaeConfig {
    /// How large the networks are for samples of this shape, without making them.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn size(&self, shape: &[usize], outputs: usize, classes: usize) -> Result<NetworkSize> {
        NetworkSize::of_config(&OnRows { config: self, outputs }, shape, classes)
    }
}

/// The networks of a variational autoencoder, built by [`VaeConfig`].
#[derive(Module, Debug)]
pub struct Vae {
    input: Linear,
    classes: Option<Param<Tensor<2>>>,
    up: Vec<Stage>,
    down: Vec<Stage>,
    norm: LayerNorm,
    output: Linear,
    outputs: usize,
    #[module(skip)]
    widths: Vec<usize>,
}

/// What one layer of latent variables was inferred to be.
#[derive(Debug, Clone)]
pub struct Inferred {
    /// q(z | x).
    pub posterior: DiagonalGaussian,
    /// p(z), given the layers above.
    pub prior: DiagonalGaussian,
    /// The value it has, `[rows, width]`.
    pub z: Tensor<2>,
}

impl Vae {
    /// Numbers of the latent variables of each layer, the one next to the data first.
    pub fn widths(&self) -> &[usize] {
        &self.widths
    }

    /// All latent variables of states `[rows, dim]`, the last layer first, and what the decoder puts out for them, `[rows, outputs]`.
    /// `eps` gives the standard normal numbers by which a layer is drawn from its posterior, for its number (0 is next to the data) and a
    /// tensor of their shape; zeros make it the mean.
    ///
    /// # Errors
    /// States of another width, and a class it does not know.
    pub fn infer(
        &self,
        x: Tensor<2>,
        given: &Condition,
        eps: &dyn Fn(usize, &Tensor<2>) -> Tensor<2>,
    ) -> Result<(Vec<Inferred>, Tensor<2>)> {
        let x = Dual::from(x);
        check_width(&x, self.input.inputs())?;
        let class = self.class(x.dims()[0], given, &x.value)?;
        let mut h = self.input.forward(x);
        if let Some(class) = &class {
            h = h + class.clone();
        }
        let mut seen = Vec::new();
        for stage in &self.up {
            h = stage.pass(h);
            seen.push(h.clone());
        }
        let mut found = Vec::new();
        let outputs = self.descend(class, &h.value.zeros_like(), |layer, latent, t, prior| {
            let both = Dual::cat(vec![seen[layer].clone(), t], 1);
            let (shift, log_variance) = halves(latent.posterior.forward(both).value);
            let posterior = DiagonalGaussian::new(prior.clone().mode() + shift, log_variance);
            let z = posterior.at(eps(layer, &posterior.std()));
            found.push(Inferred { posterior, prior, z: z.clone() });
            z
        });
        Ok((found, outputs))
    }

    /// What the decoder puts out for codes `[rows, width]`, `[rows, outputs]`: the numbers by which each layer is drawn from its prior, the
    /// last layer first.
    ///
    /// # Errors
    /// Codes of another width, and a class it does not know.
    pub fn decode(&self, codes: Tensor<2>, given: &Condition) -> Result<Tensor<2>> {
        let ([rows, width], all) = (codes.dims(), self.widths.iter().sum::<usize>());
        ensure!(width == all, "the codes have {width} numbers each: this autoencoder was built for {all}");
        let class = self.class(rows, given, &codes)?;
        let start = Tensor::zeros([rows, self.input.outputs()], (&codes.device(), codes.dtype()));
        let mut from = 0;
        Ok(self.descend(class, &start, |layer, _, _, prior| {
            let width = self.widths[layer];
            let eps = codes.clone().narrow(1, from, width);
            from += width;
            prior.at(eps)
        }))
    }

    /// The codes `[rows, width]` that [`decode`](Self::decode) takes, of the means of the latent variables of states.
    ///
    /// # Errors
    /// As [`infer`](Self::infer).
    pub fn encode(&self, x: Tensor<2>, given: &Condition) -> Result<Tensor<2>> {
        let (found, _) = self.infer(x, given, &|_, like| like.zeros_like())?;
        let code = |layer: Inferred| (layer.z - layer.prior.clone().mode()) / layer.prior.std();
        Ok(Tensor::cat(found.into_iter().map(code).collect(), 1))
    }

    /// The way down, where `drawn` says the value of each layer.
    fn descend(
        &self,
        class: Option<Dual<2>>,
        start: &Tensor<2>,
        mut drawn: impl FnMut(usize, &Layer, Dual<2>, DiagonalGaussian) -> Tensor<2>,
    ) -> Tensor<2> {
        let mut t = class.unwrap_or_else(|| start.clone().into());
        for (layer, stage) in self.down.iter().enumerate().rev() {
            let Some(latent) = &stage.latent else { unreachable!("every stage of the way down has a layer") };
            let prior = match &latent.prior {
                Some(prior) => {
                    let (mean, log_variance) = halves(prior.forward(t.clone()).value);
                    DiagonalGaussian::new(mean, log_variance)
                }
                None => {
                    let zeros = Tensor::zeros([start.dims()[0], self.widths[layer]], (&start.device(), start.dtype()));
                    DiagonalGaussian::new(zeros.clone(), zeros)
                }
            };
            let z = drawn(layer, latent, t.clone(), prior);
            t = stage.pass(latent.taken.forward_onto(z.into(), t));
        }
        self.output.forward(self.norm.forward_silu(t)).value
    }

    /// The embeddings of the classes of rows; zeros for a row without one, none where it knows no classes.
    fn class(&self, rows: usize, given: &Condition, like: &Tensor<2>) -> Result<Option<Dual<2>>> {
        let Some(table) = &self.classes else {
            given.check(rows)?;
            return given.class_rows(rows, 0).map(|_| None);
        };
        Ok(Some(class_vectors(table, given, like)?.into()))
    }
}

/// The left and the right half of rows.
fn halves(x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let half = x.dims()[1] / 2;
    (x.clone().narrow(1, 0, half), x.narrow(1, half, half))
}

impl Network for Vae {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        ensure!(Kind::Unsupported, x.tangent.is_none(), "an autoencoder has no tangents: take the gradient");
        let classes = self.classes.as_ref().map_or(0, |table| table.dims()[0]);
        Takes { classes, ..Takes::default() }.check(context, x.dims()[0])?;
        Ok(self.infer(x.value, context.given, &|_, like| like.zeros_like())?.1.into())
    }
}

/// Residual blocks, and the layer of latent variables before them on the way down.
#[derive(Module, Debug)]
struct Stage {
    blocks: Vec<Block>,
    latent: Option<Layer>,
}

impl Stage {
    fn pass(&self, h: Dual<2>) -> Dual<2> {
        self.blocks.iter().fold(h, |h, block| block.forward(h))
    }
}

#[derive(Module, Debug)]
struct Layer {
    /// None for the last layer, whose prior is N(0, I).
    prior: Option<Linear>,
    posterior: Linear,
    taken: Linear,
}

/// h + W₂ silu(W₁ silu(LN h)).
#[derive(Module, Debug)]
struct Block {
    norm: LayerNorm,
    first: Linear,
    second: Linear,
}

impl Block {
    fn new(hidden: usize, init: &mut Init) -> Self {
        let [first, second] = [(); 2].map(|()| Linear::new(hidden, hidden, init));
        Self { norm: LayerNorm::new(hidden, init), first, second }
    }

    fn forward(&self, h: Dual<2>) -> Dual<2> {
        self.second.forward_onto(ops::silu(self.first.forward(self.norm.forward_silu(h.clone()))), h)
    }
}

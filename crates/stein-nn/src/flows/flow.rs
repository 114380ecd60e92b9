//! A normalizing flow of rows: coupling layers (Real NVP: Dinh et al., arXiv:1605.08803) or autoregressive ones (MAF: Papamakarios et al.,
//! arXiv:1705.07057), affine or of splines (Neural Spline Flows: Durkan et al., arXiv:1906.04032).
//!
//! A step is an [`ActNorm`], a permutation, and two couplings, the second half of a row given the first and the other way round, or one
//! autoregressive layer. As their last layers start at zero, a fresh flow maps every number by itself.

use burn::{module::Module, tensor::Tensor};
use serde::{Deserialize, Serialize};
use stein::{Condition, Result, ensure};
use stein_base::Explain;

use super::{
    ActNorm, ActNormForm, AnyFlow, Autoregressive, ConditionerForm, Coupling, Ends, InvertibleNetwork, LuLinear,
    Mapped, Permutation, Spline, Transform, check_width,
};
use crate::{
    init::Init,
    networks::{BuildNetwork, Takes},
};

/// The map of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum TransformKind {
    /// A shift and a scale.
    Affine,
    /// A monotonic rational-quadratic spline.
    Spline,
}

/// On what the map of a number depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Structure {
    /// On the other half of the row: both ways are as fast. Rows have two numbers or more.
    Coupling,
    /// On all numbers before it: samples take a pass for every number.
    Autoregressive,
}

/// How numbers change places between steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Mixing {
    /// The last comes first.
    Reverse,
    /// By a random permutation.
    Random,
    /// By a random permutation and a trained linear map after it, in factors L U.
    Lu,
}

/// The size and form of a flow of rows; the default suits points in the plane and tables of some columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct FlowConfig {
    /// Steps; at least 1, default 4.
    pub steps: usize,
    /// Numbers of a hidden layer of the networks that give parameters; at least 1, default 64.
    pub hidden: usize,
    /// Residual blocks of those networks; default 2.
    pub blocks: usize,
    /// The map of a number; default spline.
    pub transform: TransformKind,
    /// On what it depends; default coupling.
    pub structure: Structure,
    /// How numbers change places; default lu.
    pub permutation: Mixing,
    /// Bins of a spline, 2 to 500; default 8.
    pub bins: usize,
    /// Splines bend within \[−tail_bound, tail_bound\] and are the identity outside; positive, default 4. Numbers have deviation 1 there
    /// when training begins.
    pub tail_bound: f64,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self {
            steps: 4,
            hidden: 64,
            blocks: 2,
            transform: TransformKind::Spline,
            structure: Structure::Coupling,
            permutation: Mixing::Lu,
            bins: 8,
            tail_bound: 4.0,
        }
    }
}

impl FlowConfig {
    /// The network for rows of `dim` numbers and a number of classes, 0 for none.
    ///
    /// # Errors
    /// When a number of the config is out of its range, and for couplings of rows of one number.
    pub fn flow(&self, dim: usize, classes: usize, init: &mut Init) -> Result<Flow> {
        let Self { steps, hidden, blocks, structure, permutation, bins, tail_bound, .. } = *self;
        ensure!(
            steps > 0 && hidden > 0,
            "a flow of {steps} steps and hidden layers of {hidden} numbers is none: give steps, such as 4, and hidden, such as 64"
        );
        ensure!(
            dim > 1 || structure == Structure::Autoregressive,
            "a coupling maps a part of a row given the rest, and the rows have one number: give structure = \"autoregressive\""
        );
        let transform = match self.transform {
            TransformKind::Affine => Transform::Affine,
            TransformKind::Spline => Transform::Spline(Spline::new(bins, Ends::Linear { bound: tail_bound })?),
        };
        let form = ConditionerForm { hidden, blocks, classes };
        let mut layers = Vec::new();
        for _ in 0..steps {
            init.check()?;
            layers.push(FlowLayer::ActNorm(ActNorm::new(dim, ActNormForm::Exponential, init)));
            layers.push(FlowLayer::Permutation(match permutation {
                Mixing::Reverse => Permutation::reverse(dim, init),
                Mixing::Random | Mixing::Lu => Permutation::random(dim, init),
            }));
            if permutation == Mixing::Lu {
                layers.push(FlowLayer::Lu(LuLinear::new(dim, init)));
            }
            match structure {
                Structure::Coupling => {
                    for half in [dim / 2..dim, 0..dim / 2] {
                        layers.push(FlowLayer::Coupling(Coupling::new(dim, half.collect(), transform, form, init)?));
                    }
                }
                Structure::Autoregressive => {
                    layers.push(FlowLayer::Autoregressive(Autoregressive::new(dim, transform, form, init)?));
                }
            }
        }
        Ok(Flow { layers, dim, classes })
    }
}

/// A sample of any shape is a row.
impl BuildNetwork for FlowConfig {
    type Net = AnyFlow;

    fn build(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<AnyFlow> {
        Ok(AnyFlow::Flow(self.flow(shape.iter().product(), classes, init)?))
    }
}

/// One layer of a [`Flow`].
#[derive(Module, Debug)]
pub enum FlowLayer {
    /// See [`ActNorm`].
    ActNorm(ActNorm),
    /// See [`Permutation`].
    Permutation(Permutation),
    /// See [`LuLinear`].
    Lu(LuLinear),
    /// See [`Coupling`].
    Coupling(Coupling),
    /// See [`Autoregressive`].
    Autoregressive(Autoregressive),
}

impl FlowLayer {
    fn forward(&self, x: Tensor<2>, given: &Condition) -> Result<Mapped<2>> {
        match self {
            Self::ActNorm(layer) => Ok(layer.forward(x)),
            Self::Permutation(layer) => Ok(layer.forward(x)),
            Self::Lu(layer) => layer.forward(x),
            Self::Coupling(layer) => layer.forward(x, given),
            Self::Autoregressive(layer) => layer.forward(x, given),
        }
    }

    fn inverse(&self, y: Tensor<2>, given: &Condition) -> Result<Mapped<2>> {
        match self {
            Self::ActNorm(layer) => Ok(layer.inverse(y)),
            Self::Permutation(layer) => Ok(layer.inverse(y)),
            Self::Lu(layer) => layer.inverse(y),
            Self::Coupling(layer) => layer.inverse(y, given),
            Self::Autoregressive(layer) => layer.inverse(y, given),
        }
    }
}

/// The network of a [`FlowConfig`]: its layers in the order from data to noise.
#[derive(Module, Debug)]
pub struct Flow {
    layers: Vec<FlowLayer>,
    dim: usize,
    classes: usize,
}

impl Flow {
    /// A flow of these layers of rows of `dim` numbers, and a number of classes they know.
    pub fn of(layers: Vec<FlowLayer>, dim: usize, classes: usize) -> Self {
        Self { layers, dim, classes }
    }

    fn check(&self, x: &Tensor<2>, given: &Condition) -> Result<()> {
        check_width(x, self.dim)?;
        Takes { classes: self.classes, ..Takes::default() }.condition(given, x.dims()[0])
    }

    /// What `layers`, one after the other, make of a batch.
    fn through<'a>(
        layers: impl Iterator<Item = &'a FlowLayer>,
        x: Tensor<2>,
        map: impl Fn(&FlowLayer, Tensor<2>) -> Result<Mapped<2>>,
    ) -> Result<Mapped<2>> {
        let none = Tensor::zeros([x.dims()[0]], (&x.device(), x.dtype()));
        let mut layers = layers;
        layers.try_fold((x, none), |(x, sum), layer| {
            let (y, log_det) = map(layer, x)?;
            Ok((y, sum + log_det))
        })
    }
}

impl InvertibleNetwork for Flow {
    fn dim(&self) -> usize {
        self.dim
    }

    fn forward(&self, x: Tensor<2>, given: &Condition) -> Result<Mapped<2>> {
        self.check(&x, given)?;
        Self::through(self.layers.iter(), x, |layer, x| layer.forward(x, given))
    }

    fn inverse(&self, z: Tensor<2>, given: &Condition) -> Result<Mapped<2>> {
        self.check(&z, given)?;
        Self::through(self.layers.iter().rev(), z, |layer, y| layer.inverse(y, given))
    }

    fn initialized(&self, mut x: Tensor<2>, given: &Condition) -> Result<Self> {
        self.check(&x, given)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let layer = match layer {
                FlowLayer::ActNorm(norm) => FlowLayer::ActNorm(norm.initialized(&x)?),
                other => other.clone(),
            };
            x = layer.forward(x, given)?.0;
            layers.push(layer);
        }
        Ok(Self { layers, ..self.clone() })
    }
}

//! What the networks of the `diffusers` library are made of: levels of residual blocks with attention, on the way down,
//! in the middle and on the way up.
//!
//! A level has units, each a residual block and perhaps a [`Mix`] of places after it, and a change of size to the next
//! level: a 3 × 3 convolution, of stride 2 or after nearest-neighbor upsampling, or in NCSN++ (Song et al.,
//! arXiv:2011.13456) a residual block that filters. With those filters the image itself goes along: down, at every size
//! it is filtered and a linear map of it joins the activations; up, every level adds a convolution of its activations
//! to the filtered image of the levels before.

use std::iter;

use burn::module::Module;
use stein::{Context, Result, ensure};

use super::transformer_2d::Transformer;
use crate::{
    embedding::{Embedding, EmbeddingConfig, Frequencies},
    init::Init,
    layers::{Attention, BlockForm, Conv, Dropout, GroupNorm, Linear, ResBlock, Resample},
    ops::{self, Dual, Fir},
    trace,
};

/// The filter of NCSN++'s changes of size.
const TAPS: [f32; 4] = [1.0, 3.0, 3.0, 1.0];

/// How group normalizations are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Norms {
    /// None for a quarter of the channels, at most 32.
    pub(super) groups: Option<usize>,
    pub(super) epsilon: f64,
}

impl Norms {
    pub(super) fn of(&self, channels: usize, init: &mut Init) -> Result<GroupNorm> {
        ensure!(self.epsilon > 0.0, "epsilon is {}: give a small positive number, such as 1e-6", self.epsilon);
        let groups = self.groups.unwrap_or((channels / 4).min(32));
        ensure!(
            groups > 0 && channels.is_multiple_of(groups),
            "{groups} groups do not divide the {channels} channels of a normalization: give other channels or groups"
        );
        Ok(GroupNorm::new(channels, groups, self.epsilon, init))
    }
}

/// How blocks are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// The width of the embedding, if there is one.
    pub(super) embedding: Option<usize>,
    pub(super) norms: Norms,
    /// Of the norms before attention.
    pub(super) attention: Norms,
    /// Divides the sum of a branch with what it is added to.
    pub(super) rescale: f64,
}

impl Form {
    /// The first normalization may be another one, and a filter may change the size.
    fn block(&self, sizes: [usize; 2], first: &Norms, filter: Option<Fir>, init: &mut Init) -> Result<ResBlock> {
        let [inputs, outputs] = sizes;
        let form = BlockForm {
            embedding: self.embedding,
            rescale: self.rescale,
            skip: filter.is_some(),
            resample: filter.map_or(Resample::Keep, Resample::Filter),
            ..BlockForm::default()
        };
        Ok(ResBlock::new(sizes, form, first.of(inputs, init)?, self.norms.of(outputs, init)?, init))
    }

    /// One unit.
    fn unit(&self, sizes: [usize; 2], mix: Option<Mix>, init: &mut Init) -> Result<Unit> {
        Ok(Unit { block: self.block(sizes, &self.norms, None, init)?, attention: mix })
    }

    /// A unit for every place in `mixes`.
    pub(super) fn units(
        &self,
        [inputs, outputs]: [usize; 2],
        mixes: Vec<Option<Mix>>,
        init: &mut Init,
    ) -> Result<Vec<Unit>> {
        let mut now = inputs;
        let unit = |mix| self.unit([std::mem::replace(&mut now, outputs), outputs], mix, init);
        mixes.into_iter().map(unit).collect()
    }

    /// Block, attention if wanted, block.
    pub(super) fn middle(&self, channels: usize, mix: Option<Mix>, init: &mut Init) -> Result<Vec<Unit>> {
        Ok(vec![self.unit([channels; 2], mix, init)?, self.unit([channels; 2], None, init)?])
    }
}

/// Which attention a network has.
#[derive(Debug, Clone)]
pub(super) enum Mixing {
    /// Of the places of the image to one another.
    Own {
        /// Channels of a head; none for one head.
        head: Option<usize>,
    },
    /// Transformers, which attend to a context too.
    Cross {
        /// Heads at every level.
        heads: Vec<usize>,
        /// Layers at every level.
        layers: Vec<usize>,
        /// The width of the context.
        context: usize,
    },
}

impl Mixing {
    pub(super) fn at(&self, level: usize, channels: usize, form: &Form, init: &mut Init) -> Result<Mix> {
        match self {
            Self::Own { head } => {
                let head = head.unwrap_or(channels);
                ensure!(
                    head > 0 && channels.is_multiple_of(head),
                    "heads of {head} channels do not divide the {channels} channels of level {level}"
                );
                let norm = form.attention.of(channels, init)?;
                Ok(Mix::Own(Attention::new(norm, channels, channels / head, 1.0 / form.rescale, init)))
            }
            Self::Cross { heads, layers, context } => {
                let (heads, layers) = (heads[level], layers[level]);
                ensure!(
                    heads > 0 && channels.is_multiple_of(heads),
                    "{heads} heads do not divide the {channels} channels of level {level}"
                );
                let norm = form.attention.of(channels, init)?;
                Ok(Mix::Cross(Transformer::new(norm, channels, heads, layers, *context, init)))
            }
        }
    }
}

/// What exchanges between the places of an image.
#[derive(Module, Debug)]
pub(super) enum Mix {
    /// Attention.
    Own(Attention),
    /// A transformer.
    Cross(Transformer),
}

impl Mix {
    fn forward(&self, h: Dual<4>, pass: &Pass) -> Dual<4> {
        match self {
            Self::Own(attention) => attention.forward(h),
            Self::Cross(transformer) => {
                let context = pass.context.as_ref();
                transformer.forward(h, context.expect("a network with transformers asks for its context first"))
            }
        }
    }
}

/// What all blocks of one pass are given besides their input.
pub(super) struct Pass<'a> {
    /// The embedding, through its activation.
    pub(super) embedded: Option<Dual<2>>,
    /// Tokens to attend to.
    pub(super) context: Option<Dual<3>>,
    pub(super) dropout: Dropout<'a>,
}

impl Pass<'_> {
    /// Nothing.
    pub(super) fn nothing() -> Self {
        Self { embedded: None, context: None, dropout: Dropout::none() }
    }
}

/// A residual block, and what exchanges between places after it.
#[derive(Module, Debug)]
pub(super) struct Unit {
    block: ResBlock,
    attention: Option<Mix>,
}

impl Unit {
    fn forward(&self, parts: Vec<Dual<4>>, pass: &Pass) -> Dual<4> {
        let h = self.block.forward(parts, pass.embedded.clone(), &pass.dropout);
        match &self.attention {
            Some(mix) => mix.forward(h, pass),
            None => h,
        }
    }
}

/// One unit after the other.
pub(super) fn in_turn(units: &[Unit], h: Dual<4>, pass: &Pass) -> Dual<4> {
    units.iter().fold(h, |h, unit| unit.forward(vec![h], pass))
}

/// A level on the way down.
#[derive(Module, Debug)]
pub(super) struct Down {
    units: Vec<Unit>,
    halve: Option<Halve>,
    /// Whether a convolution that halves pads below and right only.
    pad_after: bool,
}

#[derive(Module, Debug)]
enum Halve {
    Conv(Conv),
    Filter(FilterDown),
}

/// Half the size by a filter, and a linear map of the image, filtered too, added.
#[derive(Module, Debug)]
struct FilterDown {
    block: ResBlock,
    image: Linear,
}

/// Whether a level is followed by another and how its size changes to that.
#[derive(Debug, Clone, Copy)]
pub(super) enum Next {
    /// It is the last.
    None,
    /// A convolution.
    Conv,
    /// A filter, with an image of these channels beside it.
    Filter(usize),
}

impl Down {
    pub(super) fn new(
        form: &Form,
        units: Vec<Unit>,
        channels: usize,
        next: Next,
        pad_after: bool,
        init: &mut Init,
    ) -> Result<Self> {
        let halve = match next {
            Next::None => None,
            Next::Conv => Some(Halve::Conv(Conv::new(channels, channels, init))),
            Next::Filter(image) => Some(Halve::Filter(FilterDown {
                block: form.block([channels; 2], &form.norms, Some(Fir::halving(&TAPS)), init)?,
                image: Linear::new(image, channels, init),
            })),
        };
        Ok(Self { units, halve, pad_after })
    }

    /// What every unit and the change of size gave, in order.
    pub(super) fn forward(
        &self,
        mut h: Dual<4>,
        image: &mut Option<Dual<4>>,
        pass: &Pass,
        place: &str,
    ) -> Vec<Dual<4>> {
        let mut states = Vec::new();
        for (i, unit) in self.units.iter().enumerate() {
            h = unit.forward(vec![h], pass);
            trace::note(|| format!("{place}.units.{i}"), &h);
            states.push(h.clone());
        }
        match &self.halve {
            None => {}
            Some(Halve::Conv(conv)) => {
                let pad = if self.pad_after { [0, 1, 0, 1] } else { [1; 4] };
                states.push(ops::conv2d(vec![h], ops::Conv { stride: 2, pad, ..conv.plain() }));
            }
            Some(Halve::Filter(filter)) => {
                let mut h = filter.block.forward(vec![h], pass.embedded.clone(), &pass.dropout);
                *image = image.take().map(|image| ops::fir_resample(image, &Fir::halving(&TAPS)));
                if let Some(image) = image.clone() {
                    h = ops::conv2d(vec![image], ops::Conv { residual: Some(h), ..filter.image.conv() });
                }
                states.push(h);
            }
        }
        if let Some(last) = states.last() {
            trace::note(|| place.to_owned(), last);
        }
        states
    }
}

/// A level on the way up.
#[derive(Module, Debug)]
pub(super) struct Up {
    units: Vec<Unit>,
    double: Option<Double>,
}

#[derive(Module, Debug)]
enum Double {
    Conv(Conv),
    Filter(FilterUp),
}

/// A convolution of the activations added to the image, and twice the size by a filter.
#[derive(Module, Debug)]
struct FilterUp {
    norm: GroupNorm,
    image: Conv,
    block: ResBlock,
}

impl Up {
    pub(super) fn new(form: &Form, units: Vec<Unit>, channels: usize, next: Next, init: &mut Init) -> Result<Self> {
        let double = match next {
            Next::None => None,
            Next::Conv => Some(Double::Conv(Conv::new(channels, channels, init))),
            Next::Filter(image) => Some(Double::Filter(FilterUp {
                norm: form.norms.of(channels, init)?,
                image: Conv::new(channels, image, init),
                block: form.block([channels; 2], &form.norms, Some(Fir::doubling(&TAPS)), init)?,
            })),
        };
        Ok(Self { units, double })
    }

    /// Takes what the units join from the end of `skips`.
    pub(super) fn forward(
        &self,
        mut h: Dual<4>,
        skips: &mut Vec<Dual<4>>,
        image: &mut Option<Dual<4>>,
        pass: &Pass,
        place: &str,
    ) -> Dual<4> {
        for (i, unit) in self.units.iter().enumerate() {
            h = unit.forward(iter::once(h).chain(skips.pop()).collect(), pass);
            trace::note(|| format!("{place}.units.{i}"), &h);
        }
        *image = image.take().map(|image| ops::fir_resample(image, &Fir::doubling(&TAPS)));
        h = match &self.double {
            None => h,
            Some(Double::Conv(conv)) => twice(h, conv, skips.last()),
            Some(Double::Filter(filter)) => {
                let norm = Some(filter.norm.norm(true));
                let residual = image.take();
                *image = Some(ops::conv2d(vec![h.clone()], ops::Conv { norm, residual, ..filter.image.plain() }));
                filter.block.forward(vec![h], pass.embedded.clone(), &pass.dropout)
            }
        };
        trace::note(|| place.to_owned(), &h);
        h
    }
}

/// A convolution of the image doubled, or of that without its last row or column where what it will join has none.
fn twice(h: Dual<4>, conv: &Conv, joins: Option<&Dual<4>>) -> Dual<4> {
    let [_, height, width, _] = h.dims();
    let [tall, wide] = joins.map_or([2 * height, 2 * width], |joins| [joins.dims()[1], joins.dims()[2]]);
    if [tall, wide] == [2 * height, 2 * width] {
        return ops::conv2d(vec![h], ops::Conv { upsample: true, ..conv.plain() });
    }
    let cut = ops::upsample_nearest(h).linear(|x| x.narrow(1, 0, tall).narrow(2, 0, wide));
    ops::conv2d(vec![cut], conv.plain())
}

/// The size and form of a [`Body`].
pub(super) struct Plan<'a> {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) classes: usize,
    /// Channels of every level.
    pub(super) channels: &'a [usize],
    /// Units of a level on the way down.
    pub(super) blocks: usize,
    /// The levels that attend.
    pub(super) attention: &'a [usize],
    pub(super) mixing: Mixing,
    pub(super) norms: Norms,
    /// Of the norms before attention, where they are others.
    pub(super) attention_norms: Norms,
    /// Divides sums in the middle.
    pub(super) middle_rescale: f64,
    /// Whether sizes change by filters.
    pub(super) filters: bool,
    pub(super) pad_after: bool,
    pub(super) dropout: f64,
    pub(super) embedding: &'a EmbeddingConfig,
    /// Sines and cosines of the noise number.
    pub(super) features: usize,
}

impl Plan<'_> {
    fn check(&self) -> Result<()> {
        check_levels(self.channels, self.blocks, self.attention)?;
        ensure!(self.inputs > 0 && self.outputs > 0, "inputs and outputs count channels of images: give at least 1");
        ensure!(
            self.features.is_multiple_of(2),
            "the first of channels is {}: give an even number, for as many sines as cosines",
            self.channels[0]
        );
        ensure!(
            (0.0..1.0).contains(&self.dropout),
            "dropout is {}: give a probability from 0 to below 1",
            self.dropout
        );
        ensure!(
            self.middle_rescale > 0.0,
            "middle_rescale is {}: give a positive number, 1 for none",
            self.middle_rescale
        );
        Ok(())
    }

    /// The forms of levels and of the middle.
    fn forms(&self) -> (Form, Form) {
        let middle = Form {
            embedding: Some(4 * self.channels[0]),
            norms: self.norms,
            attention: self.attention_norms,
            rescale: self.middle_rescale,
        };
        let level = if self.filters {
            // The levels of the reference's filtering networks keep their own numbers of groups, whatever the config
            // says.
            let of = |groups| Norms { groups, ..self.norms };
            Form { norms: of(None), attention: of(Some(32)), rescale: 2f64.sqrt(), ..middle }
        } else {
            Form { rescale: 1.0, ..middle }
        };
        (level, middle)
    }

    pub(super) fn build(&self, init: &mut Init) -> Result<Body> {
        self.check()?;
        let (form, middle_form) = self.forms();
        let levels = self.channels.len();
        let first = self.channels[0];
        let count = self.features / 2;
        let frequencies = match *self.embedding {
            EmbeddingConfig::Fourier { scale } => Frequencies::cycles(count, scale, true, init)?,
            ref positional => positional.frequencies(count, init)?,
        };
        let embedding = Embedding::of(frequencies, self.features, 4 * first, self.classes, init);
        let input = Conv::new(self.inputs, first, init);
        let next = |more: bool, image: usize| match (more, self.filters) {
            (false, _) => Next::None,
            (true, false) => Next::Conv,
            (true, true) => Next::Filter(image),
        };
        let mix = |level: usize, wanted: bool, init: &mut Init| {
            let wanted = wanted && self.attention.contains(&level);
            wanted.then(|| self.mixing.at(level, self.channels[level], &form, init)).transpose()
        };
        let mut now = first;
        let mut skips = vec![first];
        let mut down = Vec::new();
        for (level, &channels) in self.channels.iter().enumerate() {
            let mixes = (0..self.blocks).map(|_| mix(level, true, init)).collect::<Result<_>>()?;
            let next = next(level + 1 < levels, self.inputs);
            let units = form.units([now, channels], mixes, init)?;
            down.push(Down::new(&form, units, channels, next, self.pad_after, init)?);
            now = channels;
            let states = self.blocks + usize::from(level + 1 < levels);
            skips.extend(iter::repeat_n(channels, states));
        }
        let own = self.mixing.at(levels - 1, now, &middle_form, init)?;
        let middle = middle_form.middle(now, Some(own), init)?;
        let mut up = Vec::new();
        for (level, &channels) in self.channels.iter().enumerate().rev() {
            let mut units = Vec::new();
            for i in 0..=self.blocks {
                let skip = skips.pop().expect("the way up has as many blocks as the way down left skips");
                // Where sizes change by filters only the last block is followed by attention, and the reference takes
                // a quarter of one of the two parts instead of both for the groups of the first norm.
                let attends = self.attention.contains(&level);
                let first = if self.filters && attends {
                    Norms { groups: Some((now + skip / 4).min(32)), ..form.norms }
                } else {
                    form.norms
                };
                let mix = mix(level, !self.filters || i == self.blocks, init)?;
                units.push(Unit { block: form.block([now + skip, channels], &first, None, init)?, attention: mix });
                now = channels;
            }
            up.push(Up::new(&form, units, now, next(level > 0, self.outputs), init)?);
        }
        Ok(Body {
            embedding,
            input,
            down,
            middle,
            up,
            norm: self.norms.of(now, init)?,
            output: Conv::zero(now, self.outputs, init),
            inputs: self.inputs,
            dropout: self.dropout,
        })
    }
}

/// Fails unless there are levels with channels and units, and attention only at those.
pub(super) fn check_levels(channels: &[usize], blocks: usize, attention: &[usize]) -> Result<()> {
    ensure!(
        !channels.is_empty() && channels.iter().all(|channels| *channels > 0),
        "channels is {channels:?}: give a positive number for every level, such as [128, 256, 256]"
    );
    ensure!(blocks > 0, "blocks is 0: give the number of residual blocks of a level, such as 2");
    if let Some(level) = attention.iter().find(|level| **level >= channels.len()) {
        return Err(stein::Error::new(format!(
            "attention names level {level}, but the last of {} levels is {}",
            channels.len(),
            channels.len() - 1
        )));
    }
    Ok(())
}

/// A U-Net without what is special to one of the library's networks.
#[derive(Module, Debug)]
pub(super) struct Body {
    pub(super) embedding: Embedding,
    input: Conv,
    down: Vec<Down>,
    middle: Vec<Unit>,
    up: Vec<Up>,
    norm: GroupNorm,
    output: Conv,
    pub(super) inputs: usize,
    dropout: f64,
}

impl Body {
    /// How often sizes are halved.
    pub(super) fn halvings(&self) -> usize {
        self.down.len() - 1
    }

    /// Of images of the channels it was built for, and a context that was checked.
    pub(super) fn forward(&self, x: Dual<4>, noise: Dual<1>, context: &Context) -> Result<Dual<4>> {
        let embedded = self.embedding.forward(noise, context.given)?;
        let tokens = context.given.tokens.as_ref();
        let pass = Pass {
            embedded: Some(ops::silu(embedded)),
            context: tokens.map(|tokens| tokens.values.clone().cast(x.value.dtype()).into()),
            dropout: Dropout::new(self.dropout, context),
        };
        let mut h = ops::conv2d(vec![x.clone()], self.input.plain());
        let mut skips = vec![h.clone()];
        let mut image = Some(x);
        for (level, down) in self.down.iter().enumerate() {
            skips.extend(down.forward(h, &mut image, &pass, &format!("down.{level}")));
            h = skips.last().cloned().expect("the input is there from the beginning");
        }
        h = in_turn(&self.middle, h, &pass);
        trace::note(|| "middle".to_owned(), &h);
        let mut image = None;
        for (step, up) in self.up.iter().enumerate() {
            h = up.forward(h, &mut skips, &mut image, &pass, &format!("up.{step}"));
        }
        let norm = Some(self.norm.norm(true));
        Ok(ops::conv2d(vec![h], ops::Conv { norm, residual: image, ..self.output.plain() }))
    }
}

/// Fails unless both sides of images can be halved `halvings` times.
pub(super) fn check_size(x: &Dual<4>, halvings: usize) -> Result<()> {
    let ([_, height, width, _], divisor) = (x.dims(), 1 << halvings);
    ensure!(
        height % divisor == 0 && width % divisor == 0,
        "images of {height} x {width} cannot be halved {halvings} times: pad them to multiples of {divisor}"
    );
    Ok(())
}

//! What the networks of the `diffusers` library are made of: levels of residual blocks with attention, on the way down,
//! in the middle and on the way up.
//!
//! A level has units, each a residual block and perhaps a [`Mix`] of positions after it, and a change of size to the next
//! level: a 3 × 3 convolution, of stride 2 or after nearest-neighbor upsampling, or in NCSN++ (Song et al.,
//! arXiv:2011.13456) a residual block that filters. With those filters the image itself goes along: down, at every size
//! it is filtered and a linear map of it joins the activations; up, every level adds a convolution of its activations
//! to the filtered image of the levels before.

use burn::module::Module;
use stein::{Context, Result, ensure};

use super::{
    transformer_2d::Transformer,
    units::{Norms, Pass, Units, check_dropout, check_heads, doubled, halved, head},
    walk::{At, Walk},
};
use crate::{
    embedding::{Embedding, EmbeddingConfig, Frequencies},
    init::Init,
    layers::{Attention, BlockForm, Conv, Dropout, GroupNorm, Linear, ResBlock, Resample},
    ops::{self, Dual, Fir},
    trace,
};

/// The filter of NCSN++'s changes of size.
const TAPS: [f32; 4] = [1.0, 3.0, 3.0, 1.0];

/// How units are made.
#[derive(Debug, Clone)]
pub(super) struct UnitForm {
    /// Their blocks.
    pub(super) blocks: Units,
    /// The norms before attention.
    pub(super) attention: Norms,
}

impl UnitForm {
    /// Of blocks of this form; those that change the size have a skip with weights.
    pub(super) fn new(form: BlockForm, norms: Norms, attention: Norms) -> Self {
        Self { blocks: Units { form: BlockForm { skip: true, ..form }, norms }, attention }
    }

    /// A unit with the exchange that is given.
    pub(super) fn unit(&self, channels: [usize; 2], mix: Option<Mix>, init: &mut Init) -> Result<MixUnit> {
        Ok(MixUnit { block: self.blocks.block(channels, Resample::Keep, init)?, attention: mix })
    }
}

/// Which attention a network has.
#[derive(Debug, Clone)]
pub(super) enum Mixing {
    /// Of the positions of the image to one another.
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
    pub(super) fn at(&self, level: usize, channels: usize, form: &UnitForm, init: &mut Init) -> Result<Mix> {
        match self {
            Self::Own { head } => {
                let head = head.unwrap_or(channels);
                ensure!(
                    head > 0 && channels.is_multiple_of(head),
                    "heads of {head} channels do not divide the {channels} channels of level {level}"
                );
                Ok(Mix::Own(form.blocks.attention(&form.attention, channels, channels / head, init)?))
            }
            Self::Cross { heads, layers, context } => {
                check_heads(heads[level], channels)?;
                let norm = form.attention.of(channels, init)?;
                Ok(Mix::Cross(Transformer::new(norm, channels, heads[level], layers[level], *context, init)))
            }
        }
    }
}

/// What exchanges between the positions of an image.
#[derive(Module, Debug)]
pub(super) enum Mix {
    /// Attention.
    Own(Attention),
    /// A transformer.
    Cross(Transformer),
}

/// A residual block, and what exchanges between positions after it.
#[derive(Module, Debug)]
pub(super) struct MixUnit {
    block: ResBlock,
    attention: Option<Mix>,
}

impl MixUnit {
    fn forward(&self, parts: Vec<Dual<4>>, pass: &Pass) -> Dual<4> {
        let h = self.block.forward(parts, pass.embedded.clone(), &pass.dropout);
        match &self.attention {
            None => h,
            Some(Mix::Own(attention)) => attention.forward(h),
            Some(Mix::Cross(transformer)) => {
                let tokens = pass.tokens.as_ref();
                transformer.forward(h, tokens.expect("a network with transformers asks for its tokens first"))
            }
        }
    }
}

/// A level on the way down.
#[derive(Module, Debug, Default)]
pub(super) struct Down {
    units: Vec<MixUnit>,
    halve: Option<Halve>,
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

impl FilterDown {
    fn forward(&self, h: Vec<Dual<4>>, image: &mut Option<Dual<4>>, pass: &Pass) -> Dual<4> {
        let h = self.block.forward(h, pass.embedded.clone(), &pass.dropout);
        *image = image.take().map(|image| ops::fir_resample(image, &Fir::halving(&TAPS)));
        let Some(image) = image.clone() else { return h };
        ops::conv2d(vec![image], ops::Conv { residual: Some(h), ..self.image.conv() })
    }
}

/// A level on the way up.
#[derive(Module, Debug, Default)]
pub(super) struct Up {
    units: Vec<MixUnit>,
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

impl FilterUp {
    fn forward(&self, h: Dual<4>, image: &mut Option<Dual<4>>, pass: &Pass) -> Dual<4> {
        let sum = head(h.clone(), &self.norm, &self.image, image.take());
        *image = Some(ops::fir_resample(sum, &Fir::doubling(&TAPS)));
        self.block.forward(vec![h], pass.embedded.clone(), &pass.dropout)
    }
}

/// What stands along a walk, while it is built.
#[derive(Default)]
pub(super) struct Built {
    pub(super) down: Vec<Down>,
    pub(super) middle: Vec<MixUnit>,
    pub(super) up: Vec<Up>,
}

impl Built {
    pub(super) fn new(walk: Walk) -> Self {
        Self { down: walk.stages(), middle: Vec::new(), up: walk.stages() }
    }

    /// A unit at one of the steps for units.
    pub(super) fn unit(&mut self, at: At, unit: MixUnit) {
        match at {
            At::Down { level, .. } | At::Halve { level } => self.down[level].units.push(unit),
            At::Middle { .. } => self.middle.push(unit),
            At::Up { stage, .. } | At::Double { stage } => self.up[stage].units.push(unit),
        }
    }

    /// A convolution that changes the size of images of these channels, at one of the steps for that.
    pub(super) fn conv(&mut self, at: At, channels: usize, init: &mut Init) {
        let conv = Conv::new(channels, channels, init);
        match at {
            At::Halve { level } => self.down[level].halve = Some(Halve::Conv(conv)),
            At::Double { stage } => self.up[stage].double = Some(Double::Conv(conv)),
            at => unreachable!("no size changes at {at}"),
        }
    }
}

/// What stands along a walk.
pub(super) struct Along<'a> {
    pub(super) down: &'a [Down],
    pub(super) middle: &'a [MixUnit],
    pub(super) up: &'a [Up],
    /// Whether a convolution that halves pads below and right only.
    pub(super) pad_after: bool,
}

impl Along<'_> {
    /// One step; where filters change the size, the image goes along.
    pub(super) fn step(&self, at: At, mut parts: Vec<Dual<4>>, image: &mut Option<Dual<4>>, pass: &Pass) -> Dual<4> {
        let missing = "a level has a change of size where there is a next one";
        let (stage, h) = match at {
            At::Down { level, unit } => (format!("down.{level}"), self.down[level].units[unit].forward(parts, pass)),
            At::Halve { level } => {
                let h = match self.down[level].halve.as_ref().expect(missing) {
                    Halve::Conv(conv) => halved(parts, conv, self.pad_after),
                    Halve::Filter(filter) => filter.forward(parts, image, pass),
                };
                (format!("down.{level}"), h)
            }
            At::Middle { unit } => ("middle".to_owned(), self.middle[unit].forward(parts, pass)),
            At::Up { stage, unit, .. } => (format!("up.{stage}"), self.up[stage].units[unit].forward(parts, pass)),
            At::Double { stage } => {
                let h = match self.up[stage].double.as_ref().expect(missing) {
                    Double::Conv(conv) => doubled(parts, conv),
                    Double::Filter(filter) => filter.forward(parts.swap_remove(0), image, pass),
                };
                (format!("up.{stage}"), h)
            }
        };
        trace::note(|| at.to_string(), &h);
        // Of a level the last step counts.
        trace::note(|| stage, &h);
        h
    }
}

/// The size and form of a [`Body`].
pub(super) struct BodyPlan<'a> {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) classes: usize,
    /// Channels of every level.
    pub(super) channels: &'a [usize],
    /// Units per level on the way down.
    pub(super) blocks: usize,
    /// The levels that attend.
    pub(super) attention: &'a [usize],
    /// Those of the way up, where they are others.
    pub(super) attention_up: Option<&'a [usize]>,
    pub(super) mixing: Mixing,
    pub(super) norms: Norms,
    /// Of the norms before attention, where they are others.
    pub(super) attention_norms: Norms,
    /// Divides sums in the middle.
    pub(super) middle_rescale: f64,
    /// Whether the embedding gives a scale and a shift of the second norm of a block.
    pub(super) modulate: bool,
    /// Whether sizes change by filters.
    pub(super) filters: bool,
    pub(super) pad_after: bool,
    pub(super) dropout: f64,
    pub(super) embedding: &'a EmbeddingConfig,
    /// Whether images in \[0, 1\] are mapped to \[−1, 1\] first.
    pub(super) centers: bool,
    /// Sines and cosines of the noise number.
    pub(super) features: usize,
}

impl BodyPlan<'_> {
    fn check(&self) -> Result<()> {
        check_levels(self.channels, self.blocks, self.attention)?;
        check_levels(self.channels, self.blocks, self.attends_up())?;
        ensure!(self.inputs > 0 && self.outputs > 0, "inputs and outputs count channels of images: give at least 1");
        ensure!(
            self.features.is_multiple_of(2),
            "the first of channels is {}: give an even number, for as many sines as cosines",
            self.channels[0]
        );
        check_dropout(self.dropout)?;
        ensure!(
            self.middle_rescale > 0.0,
            "middle_rescale is {}: give a positive number, 1 for none",
            self.middle_rescale
        );
        Ok(())
    }

    fn attends_up(&self) -> &[usize] {
        self.attention_up.unwrap_or(self.attention)
    }

    /// The forms of levels and of the middle.
    fn forms(&self) -> [UnitForm; 2] {
        let embedding = Some(4 * self.channels[0]);
        let block = |rescale| BlockForm { embedding, modulate: self.modulate, rescale, ..BlockForm::default() };
        let middle = UnitForm::new(block(self.middle_rescale), self.norms, self.attention_norms);
        if !self.filters {
            return [UnitForm::new(block(1.0), self.norms, self.attention_norms), middle];
        }
        // The levels of the reference's filtering networks keep their own numbers of groups, whatever the config says.
        let of = |groups| Norms { groups, ..self.norms };
        [UnitForm::new(block(2f64.sqrt()), of(None), of(Some(32))), middle]
    }

    pub(super) fn build(&self, init: &mut Init) -> Result<Body> {
        self.check()?;
        let [form, middle_form] = self.forms();
        let walk = Walk { levels: self.channels.len(), blocks: self.blocks };
        let first = self.channels[0];
        let count = self.features / 2;
        let frequencies = match *self.embedding {
            EmbeddingConfig::Fourier { scale } => Frequencies::cycles(count, scale, true, init)?,
            ref positional => positional.frequencies(count, init)?,
        };
        let embedding = Embedding::of(frequencies, self.features, 4 * first, self.classes, init);
        let input = Conv::new(self.inputs, first, init);
        let mut built = Built::new(walk);
        let last = walk.all(first, |at, parts| {
            init.at_level(at.level(walk));
            match at {
                At::Down { level, .. } => {
                    let channels = self.channels[level];
                    let attends = self.attention.contains(&level);
                    let mix = attends.then(|| self.mixing.at(level, channels, &form, init)).transpose()?;
                    built.unit(at, form.unit([parts[0], channels], mix, init)?);
                    Ok(channels)
                }
                At::Middle { unit } => {
                    let mix = || self.mixing.at(walk.levels - 1, parts[0], &middle_form, init);
                    let mix = (unit == 0).then(mix).transpose()?;
                    built.unit(at, middle_form.unit([parts[0]; 2], mix, init)?);
                    Ok(parts[0])
                }
                At::Up { level, unit, .. } => {
                    built.unit(at, self.unit_up(&form, [parts[0], parts[1]], level, unit, init)?);
                    Ok(self.channels[level])
                }
                At::Halve { level } if self.filters => {
                    built.down[level].halve = Some(Halve::Filter(FilterDown {
                        block: form.blocks.block([parts[0]; 2], Resample::halving(&TAPS), init)?,
                        image: Linear::new(self.inputs, parts[0], init),
                    }));
                    Ok(parts[0])
                }
                At::Double { stage } if self.filters => {
                    built.up[stage].double = Some(Double::Filter(FilterUp {
                        norm: form.blocks.norms.of(parts[0], init)?,
                        image: Conv::new(parts[0], self.outputs, init),
                        block: form.blocks.block([parts[0]; 2], Resample::doubling(&TAPS), init)?,
                    }));
                    Ok(parts[0])
                }
                At::Halve { .. } | At::Double { .. } => {
                    built.conv(at, parts[0], init);
                    Ok(parts[0])
                }
            }
        })?;
        let Built { down, middle, up } = built;
        Ok(Body {
            embedding,
            input,
            down,
            middle,
            up,
            norm: self.norms.of(last, init)?,
            output: Conv::zero(last, self.outputs, init),
            inputs: self.inputs,
            dropout: self.dropout,
            pad_after: self.pad_after,
            centers: self.centers,
            walk,
        })
    }

    /// A unit on the way up, of its own input and what was left. Where sizes change by filters only the last is followed by
    /// attention, and the reference takes a quarter of one of the two parts instead of both for the groups of the first norm.
    fn unit_up(
        &self,
        form: &UnitForm,
        [now, skip]: [usize; 2],
        level: usize,
        unit: usize,
        init: &mut Init,
    ) -> Result<MixUnit> {
        let (channels, norms) = (self.channels[level], form.blocks.norms);
        let attends = self.attends_up().contains(&level);
        let groups = if self.filters && attends { Some((now + skip / 4).min(32)) } else { norms.groups };
        let mix = attends && (!self.filters || unit == self.blocks);
        let mix = mix.then(|| self.mixing.at(level, channels, form, init)).transpose()?;
        let first = Norms { groups, ..norms };
        let block = form.blocks.block_after(&first, [now + skip, channels], Resample::Keep, init)?;
        Ok(MixUnit { block, attention: mix })
    }
}

/// Fails unless there are levels with channels and units, and attention only at those.
pub(super) fn check_levels(channels: &[usize], blocks: usize, attention: &[usize]) -> Result<()> {
    ensure!(
        !channels.is_empty() && channels.iter().all(|channels| *channels > 0),
        "channels is {channels:?}: give a positive number for every level, such as [128, 256, 256]"
    );
    ensure!(blocks > 0, "blocks is 0: give the number of residual blocks per level, such as 2");
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
    middle: Vec<MixUnit>,
    up: Vec<Up>,
    norm: GroupNorm,
    output: Conv,
    pub(super) inputs: usize,
    dropout: f64,
    pad_after: bool,
    centers: bool,
    #[module(skip)]
    pub(super) walk: Walk,
}

impl Body {
    /// Of images of the channels it was built for, and a context that was checked.
    pub(super) fn forward(&self, x: Dual<4>, noise: Dual<1>, context: &Context) -> Result<Dual<4>> {
        let embedded = self.embedding.forward(noise, context.given)?;
        let tokens = context.given.tokens.as_ref();
        let pass = Pass {
            embedded: Some(ops::silu(embedded)),
            tokens: tokens.map(|tokens| tokens.values.clone().cast(x.value.dtype()).into()),
            dropout: Dropout::new(self.dropout, context),
        };
        let along = Along { down: &self.down, middle: &self.middle, up: &self.up, pad_after: self.pad_after };
        let x = if self.centers { x.linear(|x| x * 2.0).shift(|x| x - 1.0) } else { x };
        let h = self.input.forward(x.clone());
        let mut image = Some(x);
        let h = self.walk.all(h, |at, parts| {
            if matches!(at, At::Middle { .. }) {
                // The output is an image of its own.
                image = None;
            }
            Ok(along.step(at, parts, &mut image, &pass))
        })?;
        Ok(head(h, &self.norm, &self.output, image))
    }
}

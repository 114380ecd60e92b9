//! Plain vision transformers (Dosovitskiy et al., arXiv:2010.11929) whose class token says what is in a picture: those of DINOv2 (Oquab et al.,
//! arXiv:2304.07193) and CLIP's tower of images (Radford et al., arXiv:2103.00020).
//!
//! A picture is resized to a square, each color c is (x − mean_c)/std_c, and squares of `patch` × `patch` become tokens by a linear map; a token of its
//! own goes first, and a learned vector of its place is added to each. With LN the normalization of every token, a block is
//!
//! h ← h + s₁ ⊙ attention(LN h),
//! h ← h + s₂ ⊙ (W₂ f(W₁ LN h + b₁) + b₂),
//!
//! attention being over all tokens in heads of 64, and the middle four times as wide. The features are LN of the first token after the last
//! block. The two [towers](Tower) differ in what is around that.
//!
//! Pictures are `[N, H, W, C]` of any size, in color or gray, with numbers in \[−1, 1\]. They are resized by cubic interpolation that averages where
//! they shrink, as Pillow does and PyTorch with `antialias`, whatever their sides, and clamped to the range of pictures; nothing is rounded to 8 bits.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData},
};
use stein::{Result, ensure};

use super::{
    images::check_pictures,
    interpolate::{Grid, interpolate},
    token_block::{Gelu, TokenBlock, TokenBlockForm},
};
use crate::{
    init::Init,
    layers::{Conv, LayerNorm, Linear},
    ops::Dual,
    trace,
};

/// Numbers of a token that a head looks at.
const HEAD: usize = 64;
/// How many times wider a block is in its middle.
const EXPANSION: usize = 4;
/// Pictures that are computed at once.
const AT_ONCE: usize = 8;
/// The side of the pictures DINOv2's features are taken of.
const DINO_SIDE: usize = 224;
/// What is added to the number of squares on a side when DINOv2's vectors of places are stretched to them.
const OFFSET: f64 = 0.1;

/// Whose transformer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tower {
    /// DINOv2's: f is gelu, s₁ and s₂ are learned, ε = 1e-6; pictures of 224 × 224, to whose squares the vectors of places, learned for 518 ×
    /// 518, are stretched.
    Dino,
    /// CLIP's: f(x) = x/(1 + e^(−1.702 x)), s₁ = s₂ = 1, ε = 1e-5; one more LN before the blocks, and a linear map of the features to this many
    /// numbers; pictures of the size its vectors of places were learned for.
    Clip {
        /// Numbers of the features.
        outputs: usize,
    },
}

impl Tower {
    /// The mean and the deviation of colors in [0, 1].
    fn colors(self) -> [[f64; 3]; 2] {
        match self {
            Self::Dino => [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]],
            Self::Clip { .. } => {
                [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]]
            }
        }
    }

    fn epsilon(self) -> f64 {
        match self {
            Self::Dino => 1e-6,
            Self::Clip { .. } => 1e-5,
        }
    }
}

/// The size and form of a vision transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VitForm {
    /// Whose it is.
    pub tower: Tower,
    /// The width of a token, a multiple of 64.
    pub width: usize,
    /// Blocks.
    pub blocks: usize,
    /// Height and width of a square.
    pub patch: usize,
    /// Squares on a side of the pictures its vectors of places were learned for.
    pub places: usize,
}

impl VitForm {
    /// The form of its blocks.
    fn block(&self) -> TokenBlockForm {
        let dino = self.tower == Tower::Dino;
        TokenBlockForm {
            width: self.width,
            middle: EXPANSION * self.width,
            heads: self.width / HEAD,
            gelu: if dino { Gelu::Exact } else { Gelu::Quick },
            epsilon: self.tower.epsilon(),
            scaled: dino,
            causal: false,
        }
    }
}

/// A vision transformer. [`import::vit`](crate::import::vit) reads its weights.
#[derive(Module, Debug)]
pub struct Vit {
    patches: Conv,
    class: Param<Tensor<1>>,
    places: Param<Tensor<2>>,
    first: Option<LayerNorm>,
    blocks: Vec<TokenBlock>,
    last: LayerNorm,
    projection: Option<Linear>,
    #[module(skip)]
    form: VitForm,
}

impl Vit {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// Sizes of 0, and a width that heads of 64 do not divide.
    pub fn new(form: VitForm, init: &mut Init) -> Result<Self> {
        let VitForm { tower, width, blocks, patch, places } = form;
        ensure!(
            width > 0 && width.is_multiple_of(HEAD) && blocks > 0 && patch > 0 && places > 0,
            "a vision transformer of width {width}, {blocks} blocks, squares of {patch} and {places} of them on a side is none: all are above 0, \
             and the width is a multiple of {HEAD}"
        );
        let norm = |init: &mut Init| LayerNorm::new(width, init).with_epsilon(tower.epsilon());
        let patches = Conv::of_size([patch; 2], 3, width, init);
        let (first, projection, patches) = match tower {
            Tower::Dino => (None, None, patches),
            Tower::Clip { outputs } => {
                (Some(norm(init)), Some(Linear::new(width, outputs, init).without_bias()), patches.without_bias())
            }
        };
        Ok(Self {
            patches,
            class: init.constant(width, 0.0),
            places: init.normal([1 + places * places, width], 0.02),
            first,
            blocks: (0..blocks).map(|_| TokenBlock::new(form.block(), init)).collect(),
            last: norm(init),
            projection,
            form,
        })
    }

    /// Its size and form.
    pub fn form(&self) -> VitForm {
        self.form
    }

    /// Numbers of its features.
    pub fn outputs(&self) -> usize {
        match self.form.tower {
            Tower::Dino => self.form.width,
            Tower::Clip { outputs } => outputs,
        }
    }

    /// Height and width of the pictures it works on.
    pub fn side(&self) -> usize {
        match self.form.tower {
            Tower::Dino => DINO_SIDE - DINO_SIDE % self.form.patch,
            Tower::Clip { .. } => self.form.places * self.form.patch,
        }
    }

    /// The features `[N, outputs]` of pictures `[N, H, W, C]` of one or three channels with numbers in \[−1, 1\], on the network's device.
    ///
    /// # Errors
    /// When there are no pictures, or they have other channels or numbers out of that range.
    ///
    /// ```
    /// use stein_nn::{Tower, Vit, VitForm, burn::tensor::Tensor, layers::Init};
    ///
    /// let device = stein::Device::flex();
    /// let form = VitForm { tower: Tower::Dino, width: 64, blocks: 1, patch: 56, places: 4 };
    /// let network = Vit::new(form, &mut Init::new(1, &device))?;
    /// let gray = Tensor::<4>::zeros([2, 28, 28, 1], &device);
    /// assert_eq!(network.features(gray)?.dims(), [2, 64]);
    /// # Ok::<(), stein::Error>(())
    /// ```
    pub fn features(&self, pictures: Tensor<4>) -> Result<Tensor<2>> {
        check_pictures(&pictures)?;
        let count = pictures.dims()[0];
        let parts = (0..count).step_by(AT_ONCE).map(|from| {
            let part = pictures.clone().narrow(0, from, AT_ONCE.min(count - from));
            self.token(self.prepared(part).into()).value
        });
        Ok(Tensor::cat(parts.collect(), 0))
    }

    /// Pictures as the network takes them, `[N, side, side, 3]`.
    fn prepared(&self, pictures: Tensor<4>) -> Tensor<4> {
        let (of, side) = ((&pictures.device(), pictures.dtype()), self.side());
        let [mean, deviation] = self
            .form
            .tower
            .colors()
            .map(|color| Tensor::<4>::from_data(TensorData::new(color.to_vec(), [1, 1, 1, 3]), of));
        let resized = interpolate(((pictures + 1.0) * 0.5).into(), [side; 2], Grid::Cubic).value.clamp(0.0, 1.0);
        let rows = resized.dims()[0];
        (resized.expand([rows, side, side, 3]) - mean) / deviation
    }

    /// The features of pictures `[N, side, side, 3]`.
    fn token(&self, x: Dual<4>) -> Dual<2> {
        let VitForm { patch, width, .. } = self.form;
        let [rows, side, ..] = x.dims();
        let across = side / patch;
        let squares = x.linear(|x| {
            let x = x.reshape([rows, across, patch, across, patch, 3]);
            x.permute([0, 1, 3, 2, 4, 5]).reshape([rows, across * across, patch * patch * 3])
        });
        let class = self.class.val().reshape([1, 1, width]).expand([rows, 1, width]);
        let Dual { value, tangent } = self.patches.of_windows(squares);
        let before = |x: Tensor<3>, first: Tensor<3>| Tensor::cat(vec![first, x], 1);
        let zero = class.zeros_like();
        let h = Dual { value: before(value, class), tangent: tangent.map(|tangent| before(tangent, zero)) };
        let mut h = h + self.placed(across).into();
        if let Some(first) = &self.first {
            h = first.forward(h);
        }
        for (index, block) in self.blocks.iter().enumerate() {
            h = block.forward(h);
            trace::note(|| format!("blocks.{index}"), &h);
        }
        let token = self.last.forward(h.linear(|h| h.narrow(1, 0, 1).reshape([rows, width])));
        match &self.projection {
            Some(projection) => projection.forward(token),
            None => token,
        }
    }

    /// The vectors of places of so many squares on a side, `[1, 1 + squares, width]`.
    fn placed(&self, across: usize) -> Tensor<3> {
        let VitForm { places, width, .. } = self.form;
        let all = self.places.val();
        if across == places {
            return all.unsqueeze();
        }
        let squares = all.clone().narrow(0, 1, places * places).reshape([1, places, places, width]);
        let grid = Grid::CubicBy { scale: (across as f64 + OFFSET) / places as f64 };
        let squares = interpolate(squares.into(), [across; 2], grid).value.reshape([1, across * across, width]);
        Tensor::cat(vec![all.narrow(0, 0, 1).unsqueeze(), squares], 1)
    }
}

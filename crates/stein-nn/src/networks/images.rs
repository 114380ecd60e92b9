//! Networks of images, on images of one size as rows.

use std::fmt;

use burn::{
    module::{Module, ModuleDisplay},
    tensor::{DType, Tensor},
};
use stein::{Context, Error, Network, Result, ensure};

use super::{AnyNetwork, check_width};
use crate::ops::Dual;

/// A network of images of any size it can halve.
pub trait ImageNetwork: Module + ModuleDisplay + fmt::Debug + Send + Sync + 'static {
    /// The output `[N, H, W, C']` for images `x` `[N, H, W, C]`.
    ///
    /// # Errors
    /// When the images or the context do not fit the network.
    fn images(&self, x: Dual<4>, context: &Context) -> Result<Dual<4>>;
}

/// How far numbers may be out of \[−1, 1\], as sums in f32 are.
const ROUNDING: f64 = 1e-4;

/// Fails unless these are pictures `[N, H, W, C]` to take features of: some, gray or in color, in \[−1, 1\].
pub(super) fn check_pictures(pictures: &Tensor<4>) -> Result<()> {
    let [count, height, width, channels] = pictures.dims();
    ensure!(
        count > 0 && height > 0 && width > 0,
        "there are {count} pictures of {height} x {width} to take features of: give at least one that is not empty"
    );
    ensure!(
        channels == 1 || channels == 3,
        "the pictures have {channels} channels: features are of color, 3, or gray, 1"
    );
    let largest: f64 = pictures.clone().detach().abs().max().cast(DType::F64).into_scalar();
    ensure!(
        largest <= 1.0 + ROUNDING,
        "the pictures have a number of size {largest}: give numbers in [-1, 1], clamped"
    );
    Ok(())
}

/// Says that a network is one of images, and names the fields of its config for the channels it takes, those it gives, and
/// the classes it knows.
macro_rules! image_network {
    ($network:ident, $config:ident { $inputs:ident, $outputs:ident $(, $classes:ident)? }) => {
        impl $crate::networks::ImageNetwork for $network {
            fn images(&self, x: Dual<4>, context: &Context) -> Result<Dual<4>> {
                $network::images(self, x, context)
            }
        }

        impl $crate::networks::Build for $config {
            fn build_any(
                &self,
                shape: &[usize],
                classes: usize,
                init: &mut Init,
            ) -> Result<$crate::networks::AnyNetwork> {
                let known = 0 $(+ self.$classes)?;
                $crate::networks::images::on_rows(shape, classes, [self.$inputs, self.$outputs, known], || self.build(init))
            }
        }
    };
}
pub(super) use image_network;

/// A network of images with these inputs, outputs and classes, for samples of this shape and a number of classes.
pub(super) fn on_rows<N: ImageNetwork>(
    shape: &[usize],
    classes: usize,
    has: [usize; 3],
    build: impl FnOnce() -> Result<N>,
) -> Result<AnyNetwork> {
    let [height, width, depth] = images_of(shape, classes, has)?;
    Ok(AnyNetwork::own(OnRows { network: build()?, height, width, depth }))
}

/// The height, width and channels of samples that are images.
pub(crate) fn height_width_channels(shape: &[usize]) -> Result<[usize; 3]> {
    <[usize; 3]>::try_from(shape).map_err(|_| {
        Error::new(format!(
            "this network works on images, not on samples of shape {shape:?}: give [height, width, channels], or take \
             another network, such as kind = \"mlp\""
        ))
    })
}

/// The height, width and channels of samples, if a network of these inputs, outputs and classes is one for them.
fn images_of(shape: &[usize], classes: usize, [inputs, outputs, known]: [usize; 3]) -> Result<[usize; 3]> {
    let [height, width, depth] = height_width_channels(shape)?;
    ensure!(
        depth <= inputs && classes == known,
        "the data have {depth} channels and {classes} classes, the network {inputs} and {known}: set its channels and \
         classes to those of the data, or more channels for images of the condition beside them"
    );
    ensure!(
        outputs == depth || outputs == 2 * depth,
        "the network gives {outputs} channels for images of {depth}: as many, or twice as many with a learned variance"
    );
    Ok([height, width, depth])
}

/// A network of images, on images of one size as rows.
#[derive(Module, Debug)]
pub struct OnRows<N: ImageNetwork> {
    network: N,
    height: usize,
    width: usize,
    depth: usize,
}

impl<N: ImageNetwork> Network for OnRows<N> {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let Self { height, width, depth, .. } = *self;
        let dim = height * width * depth;
        check_width(&x, dim)?;
        let rows = x.dims()[0];
        let y = self.network.images(x.reshape([rows, height, width, depth]), context)?;
        if y.dims()[3] == depth {
            return Ok(y.reshape([rows, dim]));
        }
        // A learned variance is more channels, after those of the mean.
        let part = |from: usize| y.clone().linear(|y| y.narrow(3, from, depth)).reshape([rows, dim]);
        Ok(Dual::cat(vec![part(0), part(depth)], 1))
    }
}

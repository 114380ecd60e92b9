//! Networks of images, on images of one size as rows.

use burn::module::Module;
use stein::{Context, Error, Network, Result, ensure};

use super::{
    Adm, AdmConfig, AnyNetwork, Build, Ddpm, DdpmConfig, DhariwalUnet, DhariwalUnetConfig, Ncsn, NcsnConfig, NcsnV2,
    NcsnV2Config, Ncsnpp, NcsnppConfig, SongUnet, SongUnetConfig, Unet2d, Unet2dConfig, check_width,
};
use crate::{init::Init, ops::Dual};

/// Networks with the fields of their configs for the channels they take, those they give, and classes.
macro_rules! image_networks {
    ($($network:ident, $config:ident { $inputs:ident, $outputs:ident $(, $classes:ident)? };)+) => {
        /// A published network of images.
        #[derive(Module, Debug)]
        pub enum ImageNetwork {
            $(
                #[doc = concat!("See [`NetworkConfig::", stringify!($network), "`](crate::NetworkConfig::", stringify!($network), ").")]
                $network($network),
            )+
        }

        impl ImageNetwork {
            /// The output `[N, H, W, C']` for images `x` `[N, H, W, C]`.
            ///
            /// # Errors
            /// When the images or the context do not fit the network.
            pub fn images(&self, x: Dual<4>, context: &Context) -> Result<Dual<4>> {
                match self {
                    $(Self::$network(network) => network.images(x, context),)+
                }
            }
        }

        $(impl Build for $config {
            fn build_any(&self, shape: &[usize], classes: usize, init: &mut Init) -> Result<AnyNetwork> {
                let known = 0 $(+ self.$classes)?;
                let [height, width, depth] = images_of(shape, classes, [self.$inputs, self.$outputs, known])?;
                let network = ImageNetwork::$network(self.build(init)?);
                Ok(AnyNetwork::Image(OnRows { network, height, width, depth }))
            }
        })+
    };
}

image_networks! {
    Ncsn, NcsnConfig { inputs, outputs };
    NcsnV2, NcsnV2Config { inputs, outputs };
    Ddpm, DdpmConfig { image_channels, image_channels };
    Ncsnpp, NcsnppConfig { image_channels, image_channels };
    SongUnet, SongUnetConfig { inputs, outputs, classes };
    DhariwalUnet, DhariwalUnetConfig { inputs, outputs, classes };
    Adm, AdmConfig { inputs, outputs, classes };
    Unet2d, Unet2dConfig { inputs, outputs, classes };
}

/// The height, width and channels of samples, if a network of these inputs, outputs and classes is one for them.
fn images_of(shape: &[usize], classes: usize, [inputs, outputs, known]: [usize; 3]) -> Result<[usize; 3]> {
    let &[height, width, depth] = shape else {
        return Err(Error::new(format!(
            "this network works on images, not on samples of shape {shape:?}: give [height, width, channels] or use \
             kind = \"mlp\""
        )));
    };
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
pub struct OnRows {
    network: ImageNetwork,
    height: usize,
    width: usize,
    depth: usize,
}

impl Network for OnRows {
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

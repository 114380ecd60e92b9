//! A network of images that is shown further channels beside its input: those of the condition's images.

use burn::module::Module;
use stein::{Condition, Context, Error, Network, Result, ensure};

use super::{AnyNetwork, NetworkConfig, NetworkSize, check_width, images::height_width_channels};
use crate::ops::Dual;

/// A network built for the channels of a sample and some beside them; of its output the sample's own are taken.
#[derive(Module, Debug)]
pub struct Beside {
    network: AnyNetwork,
    height: usize,
    width: usize,
    channels: usize,
    beside: usize,
}

impl Beside {
    /// The network of a config for images `[height, width, channels]` with `beside` channels of the condition's images concatenated.
    ///
    /// # Errors
    /// Samples that are no images, and those of [`NetworkConfig::build`].
    ///
    /// ```
    /// use stein::{Condition, Context, Network, Tensor};
    /// use stein_nn::{Beside, NetworkConfig};
    ///
    /// let (config, device) = (NetworkConfig::named("unet")?, stein::Device::flex());
    /// let network = Beside::build(&config, &[8, 8, 1], 2, 0, 1, &device)?;
    /// let given = Condition { image: Some(Tensor::zeros([3, 8, 8, 2], &device)), ..Condition::none() };
    /// let (x, noise) = (Tensor::<2>::zeros([3, 64], &device), Tensor::<1>::zeros([3], &device));
    /// assert_eq!(network.forward(x.into(), &Context::new(noise, &given))?.dims(), [3, 64]);
    /// # Ok::<(), stein::Error>(())
    /// ```
    pub fn build(
        config: &NetworkConfig,
        shape: &[usize],
        beside: usize,
        classes: usize,
        seed: u64,
        device: &stein::Device,
    ) -> Result<Self> {
        let [height, width, channels] = height_width_channels(shape)?;
        let network = config.build(&[height, width, channels + beside], classes, seed, device)?;
        Ok(Self { network, height, width, channels, beside })
    }

    /// How large it is, without making it.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn size(config: &NetworkConfig, shape: &[usize], beside: usize, classes: usize) -> Result<NetworkSize> {
        let [height, width, channels] = height_width_channels(shape)?;
        config.size(&[height, width, channels + beside], classes)
    }
}

impl Network for Beside {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let Self { height, width, channels, beside, .. } = *self;
        check_width(&x, height * width * channels)?;
        let rows = x.dims()[0];
        let Some(image) = &context.given.image else {
            return Err(Error::new(format!(
                "this network is shown {beside} channels beside its input: the condition has to have an image for each row"
            )));
        };
        ensure!(
            image.dims() == [rows, height, width, beside],
            "the condition has images of {:?}: this network is shown {:?} beside its input",
            image.dims(),
            [rows, height, width, beside]
        );
        let image = image.clone().cast(x.value.dtype()).to_device(&x.value.device());
        let all = channels + beside;
        let both = Dual::cat(vec![x.reshape([rows, height, width, channels]), image.into()], 3);
        // The network itself takes no image, which is part of its input now.
        let given = Condition { image: None, ..context.given.clone() };
        let context = Context { given: &given, ..context.clone() };
        let out = self.network.forward(both.reshape([rows, height * width * all]), &context)?;
        check_width(&out, height * width * all).map_err(|error| error.at("a network with images beside its input"))?;
        let out = out.reshape([rows, height, width, all]).linear(|out| out.narrow(3, 0, channels));
        Ok(out.reshape([rows, height * width * channels]))
    }
}

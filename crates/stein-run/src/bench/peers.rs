//! The networks and the training step that speed is compared on with other libraries.

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use stein::{
    Condition, Context, Edm, Key, Network, Precondition, Preconditioned, Purpose, Result, Schedule, denoiser, random,
};
use stein_nn::{
    Accumulated, AdamW, AdamWConfig, AnyNetwork, Ema, EmaConfig, EmbeddingConfig, NetworkConfig, NetworkSize,
    UnetConfig,
    layers::{Init, Linear},
    ops, side_by_side,
};

/// Which network: a U-Net of the `diffusers` library, or a perceptron on points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// 1,623,169 parameters, images of 32 × 32 × 1.
    Small,
    /// The DDPM network of CIFAR-10 (Ho et al., arXiv:2006.11239): 35,746,307 parameters, images of 32 × 32 × 3.
    Cifar,
    /// Points in the plane and 16 sines and cosines of ln σ through three hidden layers of 128.
    Mlp,
}

impl Peer {
    /// The names and what they stand for.
    pub const ALL: [(&str, Self); 3] = [("small", Self::Small), ("cifar", Self::Cifar), ("mlp", Self::Mlp)];

    /// The config and the shape of a sample, for the U-Nets.
    pub fn unet(self) -> Option<(UnetConfig, [usize; 3])> {
        let config = UnetConfig { groups: Some(32), epsilon: 1e-6, attention: vec![16], ..UnetConfig::default() };
        let embedding = |shift, sine_first| EmbeddingConfig::Positional { max_period: 1e4, shift, sine_first };
        match self {
            Self::Small => Some((UnetConfig { channels: 32, embedding: embedding(0, false), ..config }, [32, 32, 1])),
            Self::Cifar => {
                let multipliers = vec![1, 2, 2, 2];
                let embedding = embedding(1, true);
                Some((UnetConfig { channels: 128, multipliers, pad_after: true, embedding, ..config }, [32, 32, 3]))
            }
            Self::Mlp => None,
        }
    }

    /// How large it is.
    ///
    /// # Errors
    /// Never for the networks there are.
    pub fn size(self) -> Result<NetworkSize> {
        match self.unet() {
            Some((config, shape)) => NetworkConfig::Unet(config).size(&shape, 0),
            None => Ok(NetworkSize {
                parameters: POINTS.windows(2).map(|pair| (pair[0] + 1) * pair[1]).sum(),
                outputs: POINTS.iter().sum::<usize>() as u128,
            }),
        }
    }
}

/// Widths of the layers of the perceptron.
const POINTS: [usize; 5] = [34, 128, 128, 128, 2];

/// A U-Net being trained or evaluated on a fixed batch, as the peers do.
pub struct UnetWork {
    network: AnyNetwork,
    optimizer: AdamW,
    ema: Ema,
    batch: usize,
    x: Tensor<2>,
    noise: Tensor<1>,
    target: Tensor<2>,
}

/// The optimizer of the peers: PyTorch's AdamW with its default weight decay, gradients clipped to norm 1.
fn optimizer() -> Result<AdamW> {
    AdamW::new(AdamWConfig { weight_decay: 0.01, clip: Some(1.0), ..AdamWConfig::default() })
}

impl UnetWork {
    /// For batches of that many images.
    ///
    /// # Errors
    /// Never for the networks there are.
    pub fn new(config: UnetConfig, shape: [usize; 3], batch: usize, device: &Device) -> Result<Self> {
        let network = NetworkConfig::Unet(config).build(&shape, 0, 0, &device.clone().autodiff())?;
        let ema = Ema::new(EmaConfig::Decay { decay: 1.0 - 1e-4, warmup: false }, &network)?;
        let init = &mut Init::new(1, device);
        let dim = shape.iter().product();
        let [x, target] = [(); 2].map(|()| init.normal([batch, dim], 1.0).val().inner());
        let steps: Vec<f32> = (0..batch).map(|i| (i * 389 % 1000) as f32).collect();
        let noise = Tensor::from_data(steps.as_slice(), device);
        Ok(Self { network, optimizer: optimizer()?, ema, batch, x, noise, target })
    }

    /// The number of weights.
    pub fn parameters(&self) -> usize {
        self.network.parameters()
    }

    /// The network without autodiff, to evaluate.
    pub fn frozen(&self) -> AnyNetwork {
        self.network.clone().valid()
    }

    /// One evaluation.
    ///
    /// # Errors
    /// Never for the batch this was made for.
    pub fn evaluate(&self, network: &AnyNetwork) -> Result<Tensor<2>> {
        let given = Condition::none();
        Ok(network.forward(self.x.clone().into(), &Context::new(self.noise.clone(), &given))?.value)
    }

    /// The network without autodiff as a denoiser, by EDM's preconditioning.
    ///
    /// # Errors
    /// Never.
    pub fn denoiser(&self) -> Result<Preconditioned<AnyNetwork>> {
        Preconditioned::new(self.frozen(), Precondition::edm(0.5), Edm::default().into())
    }

    /// One evaluation of a denoiser, at one level.
    ///
    /// # Errors
    /// Never for the denoiser of this network.
    pub fn denoise(&self, denoiser: &Preconditioned<AnyNetwork>) -> Result<Tensor<2>> {
        let at = Edm::default().kernel(1.0);
        denoiser::denoise(denoiser, self.x.clone(), (&at).into(), &Condition::none())
    }

    /// A denoiser's value and its Jacobian times a vector.
    ///
    /// # Errors
    /// Never for the denoiser of this network.
    pub fn jvp(&self, denoiser: &Preconditioned<AnyNetwork>) -> Result<(Tensor<2>, Tensor<2>)> {
        let at = Edm::default().kernel(1.0);
        denoiser::jvp(denoiser, self.x.clone(), self.target.clone(), (&at).into(), &Condition::none())
    }

    /// A denoiser's value and its Jacobian's transpose times a vector.
    ///
    /// # Errors
    /// Never for the denoiser of this network.
    pub fn vjp(&self, denoiser: &Preconditioned<AnyNetwork>) -> Result<(Tensor<2>, Tensor<2>)> {
        let at = Edm::default().kernel(1.0);
        denoiser::vjp(denoiser, self.x.clone(), self.target.clone(), (&at).into(), &Condition::none())
    }

    /// One step: forward, mean squared error, backward, clip, AdamW, moving average. Returns the loss.
    ///
    /// # Errors
    /// Never for the batch this was made for.
    pub fn train(mut self) -> Result<(Self, f64)> {
        let inputs = [self.x.clone(), self.target.clone()].map(Tensor::autodiff);
        let [x, target] = inputs;
        let given = Condition::none();
        let context = Context::new(self.noise.clone().autodiff(), &given);
        let error = self.network.forward(x.into(), &context)?.value - target;
        let loss = (error.clone() * error).mean();
        let (network, loss) = update(self.network, &mut self.optimizer, &mut self.ema, self.batch, 2e-4, loss);
        self.network = network;
        Ok((self, loss))
    }
}

fn update<M: Module>(
    network: M,
    optimizer: &mut AdamW,
    ema: &mut Ema,
    batch: usize,
    rate: f64,
    loss: Tensor<1>,
) -> (M, f64) {
    let backward = loss.backward();
    let value = loss.into_scalar::<f64>();
    let mut gradients = Accumulated::new();
    gradients.add(&network, backward);
    (optimizer.step(network, gradients, rate, Some((ema, batch))).0, value)
}

/// Three hidden layers with SiLU.
#[derive(Module, Debug)]
struct Points {
    layers: Vec<Linear>,
}

impl Points {
    /// The mean squared error of the noise estimated from scaled points `[rows, 2]` and angles `[rows, 16]`.
    fn loss(&self, inputs: &[f32], angles: &[f32], target: &[f32], device: &Device) -> Tensor<1> {
        let tensor = |values: &[f32], columns: usize| {
            let data = TensorData::new(values.to_vec(), [values.len() / columns, columns]);
            Tensor::<2>::from_data(data, device).autodiff()
        };
        let features = ops::cos_sin(tensor(angles, 16).into()).value;
        let mut h = ops::Dual::from(Tensor::cat(vec![tensor(inputs, 2), features], 1));
        let (last, hidden) = self.layers.split_last().expect("it has four layers");
        for layer in hidden {
            h = ops::silu(layer.forward(h));
        }
        let error = last.forward(h).value - tensor(target, 2);
        (error.clone() * error).mean()
    }
}

/// Of what is drawn for [`PointsWork`].
fn key() -> Key {
    Key::new(0, Purpose::Own(0))
}

/// The perceptron on points being trained by denoising score matching, as the peer does.
pub struct PointsWork {
    network: Points,
    optimizer: AdamW,
    ema: Ema,
    batch: usize,
    data: Vec<[f32; 2]>,
    frequencies: Vec<f32>,
    device: Device,
    steps: u64,
}

impl PointsWork {
    /// For batches of that many points.
    ///
    /// # Errors
    /// Never.
    pub fn new(batch: usize, device: &Device) -> Result<Self> {
        let traced = device.clone().autodiff();
        let init = &mut Init::new(0, &traced);
        let layers = POINTS.windows(2).map(|pair| Linear::new(pair[0], pair[1], init)).collect();
        let network = Points { layers };
        let ema = Ema::new(EmaConfig::Decay { decay: 1.0 - 1e-3, warmup: false }, &network)?;
        let (mut frequencies, mut points) = ([0.0; 16], vec![0.0; 200_000]);
        key().at(1).fill_normal(&mut frequencies);
        key().at(2).fill_normal(&mut points);
        let frequencies = frequencies.map(|frequency| frequency as f32).into();
        let data = points.chunks_exact(2).map(|point| [point[0] as f32, point[1] as f32]).collect();
        let device = device.clone();
        Ok(Self { network, optimizer: optimizer()?, ema, batch, data, frequencies, device, steps: 0 })
    }

    /// The number of weights.
    pub fn parameters(&self) -> usize {
        self.network.num_params()
    }

    /// One step: a batch of points, their noise levels and noise, forward, mean squared error, backward, clip, AdamW,
    /// moving average. Returns the loss.
    pub fn train(mut self) -> (Self, f64) {
        let Self { network, batch, data, frequencies, device, steps, .. } = &mut self;
        *steps += 1;
        let mut normal = vec![0.0; 3 * *batch];
        key().step(*steps).fill_normal(&mut normal);
        let random = &mut key().at(3).step(*steps).generator();
        let (mut inputs, mut target) = (Vec::with_capacity(*batch * 2), Vec::with_capacity(*batch * 2));
        let mut angles = Vec::with_capacity(*batch * 16);
        for drawn in normal.chunks_exact(3) {
            let point = data[random::below(random, data.len())];
            let log = drawn[0] as f32 * 1.2 - 1.2;
            let sigma = log.exp();
            let scale = 1.0 / (sigma * sigma + 0.25).sqrt();
            for (value, noise) in point.into_iter().zip(&drawn[1..]) {
                let noise = *noise as f32;
                inputs.push((value + sigma * noise) * scale);
                target.push(noise);
            }
            angles.extend(frequencies.iter().map(|frequency| frequency * log));
        }
        let device = &*device;
        let tapes = side_by_side(network, *batch, |network, rows| {
            let [values, turns] = [2, 16].map(|columns| columns * rows.start..columns * rows.end);
            let loss = network.loss(&inputs[values.clone()], &angles[turns], &target[values], device);
            let backward = loss.backward();
            (network, backward, loss.into_scalar::<f64>())
        });
        let shares = tapes.len() as f64;
        let mut gradients = Accumulated::new();
        let mut loss = 0.0;
        for (network, backward, part) in tapes {
            gradients.add(&network, backward);
            loss += part / shares;
        }
        let (network, _) = self.optimizer.step(self.network, gradients, 1e-3, Some((&mut self.ema, self.batch)));
        self.network = network;
        (self, loss)
    }
}

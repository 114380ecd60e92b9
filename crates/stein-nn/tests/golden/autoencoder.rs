//! The training of autoencoders against the published code of latent diffusion: losses, gradients by the last layer, by what comes before it,
//! by latents and codebook, and by the discriminator, in f64.

use std::{fs, path::Path};

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use serde_json::Value;
use stein::{
    Condition, Context, Network, Result,
    autoencoder::{
        AdversarialLoss, Balance, Commitment, DiagonalGaussian, PixelLoss, Term, Usage, negative_log_likelihood,
    },
};
use stein_nn::{
    BuildNetwork, PatchDiscriminator, PatchDiscriminatorConfig, Tensors,
    layers::{Conv, Init},
    quantize, read_tensors, state,
};

/// Height and width, channels of pictures, and values of one.
const SIDE: usize = 16;
const CHANNELS: usize = 3;
const DIM: usize = SIDE * SIDE * CHANNELS;

struct Stored {
    config: Value,
    io: Tensors,
    weights: Tensors,
}

impl Stored {
    fn open() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ldm_autoencoder");
        let read = |name: &str| read_tensors(&folder.join(name)).unwrap();
        let config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        Self { config, io: read("io.safetensors"), weights: read("weights.safetensors") }
    }

    /// The settings of the cases of a kind.
    fn cases(&self, kind: &str) -> Vec<Case<'_>> {
        let cases = self.config[kind].as_array().unwrap();
        assert!(!cases.is_empty());
        cases.iter().map(|settings| Case { stored: self, settings }).collect()
    }

    /// An input, channels last.
    fn images(&self, name: &str) -> Tensor<4> {
        tensor::<4>(&self.io[name]).permute([0, 2, 3, 1])
    }

    fn picture(&self) -> Tensor<2> {
        self.images("image").reshape([-1, DIM as i32])
    }

    fn discriminator(&self) -> PatchDiscriminator {
        let config = PatchDiscriminatorConfig {
            channels: self.config["ndf"].as_u64().unwrap() as usize,
            layers: self.config["n_layers"].as_u64().unwrap() as usize,
        };
        let network = config.build(&[SIDE, SIDE, CHANNELS], 0, &mut Init::new(1, &device())).unwrap();
        let theirs = [
            ("first.weight", "0.weight"),
            ("first.bias", "0.bias"),
            ("inner.0.conv.weight", "2.weight"),
            ("inner.0.norm.gamma", "3.weight"),
            ("inner.0.norm.beta", "3.bias"),
            ("inner.1.conv.weight", "5.weight"),
            ("inner.1.norm.gamma", "6.weight"),
            ("inner.1.norm.beta", "6.bias"),
            ("last.weight", "8.weight"),
            ("last.bias", "8.bias"),
        ];
        let names = theirs.map(|(own, theirs)| (own, format!("discriminator.main.{theirs}")));
        self.load(network, &names)
    }

    fn last_layer(&self) -> Conv {
        let names = ["weight", "bias"].map(|name| (name, format!("last_layer.{name}")));
        self.load(Conv::new(8, CHANNELS, &mut Init::new(1, &device())), &names)
    }

    fn load<M: Module>(&self, module: M, names: &[(&str, String)]) -> M {
        let weight = |(own, theirs): &(&str, String)| {
            let data = &self.weights[theirs];
            let data = match data.shape().len() {
                4 => tensor::<4>(data).permute([2, 3, 1, 0]).into_data(),
                _ => data.clone(),
            };
            ((*own).to_owned(), data)
        };
        state::load(state::cast(module, DType::F64), &names.iter().map(weight).collect()).unwrap()
    }
}

/// One case with its settings and values.
struct Case<'a> {
    stored: &'a Stored,
    settings: &'a Value,
}

impl Case<'_> {
    fn number(&self, setting: &str) -> f64 {
        self.settings[setting].as_f64().unwrap()
    }

    fn step(&self) -> u64 {
        self.settings["step"].as_u64().unwrap()
    }

    fn adversarial(&self) -> AdversarialLoss {
        serde_json::from_value(self.settings["disc_loss"].clone()).unwrap()
    }

    fn balance(&self) -> Balance {
        Balance {
            weight: self.number("disc_weight"),
            factor: self.number("disc_factor"),
            start: self.settings["disc_start"].as_u64().unwrap(),
        }
    }

    /// Compares values with those of the case, in the order of the reference.
    fn check(&self, name: &str, found: impl IntoIterator<Item = f64>) {
        let name = format!("{}.{name}", self.settings["name"].as_str().unwrap());
        close(&name, found, &self.stored.io[&name]);
    }

    fn check_number(&self, name: &str, found: &Tensor<1>) {
        self.check(name, [found.clone().into_scalar::<f64>()]);
    }

    fn check_images(&self, name: &str, found: Tensor<4>) {
        self.check(name, numbers(found.permute([0, 3, 1, 2])));
    }

    /// The loss, but for what regularizes the latents, on the tape of the reconstruction; all of it is compared, and what trains the
    /// discriminator.
    fn check_losses(
        &self,
        reconstruction: &Tensor<2>,
        features: &Tensor<4>,
        last: &Conv,
        misfit: impl FnOnce(Tensor<2>) -> Tensor<1>,
    ) -> Tensor<1> {
        let (x, discriminator) = (self.stored.picture(), self.stored.discriminator());
        let (loss, balance) = (self.adversarial(), self.balance());
        let misfit = Term::of(reconstruction, |x| Ok(misfit(x))).unwrap();
        let fixed = discriminator.valid();
        let adversarial = Term::of(reconstruction, |x| Ok(loss.generator(logits(&fixed, x)?))).unwrap();
        self.check_number("nll", &misfit.value);
        self.check_number("g_loss", &adversarial.value);
        let norm = |term: &Term| {
            let slope = last.weight_slope(features.clone(), term.slope.clone().reshape(images(CHANNELS)));
            slope.square().sum().sqrt().into_scalar::<f64>()
        };
        let weight = balance.weight(norm(&misfit), norm(&adversarial));
        self.check("d_weight", [weight]);
        let factor = balance.factor_at(self.step());

        let fake = reconstruction.clone().detach();
        let of_discriminator =
            loss.discriminator(logits(&discriminator, x).unwrap(), logits(&discriminator, fake).unwrap()) * factor;
        self.check_number("d_loss", &of_discriminator);
        if self
            .stored
            .io
            .contains_key(&format!("{}.grad.d_loss.main.0.weight", self.settings["name"].as_str().unwrap()))
        {
            let found = state::gradients(&discriminator, &of_discriminator.backward());
            let found = found.get("first.weight").map(tensor::<4>);
            // Nothing of a loss times 0.
            let found = found.unwrap_or_else(|| Tensor::zeros([4, 4, CHANNELS, 8], &Device::flex()));
            self.check("grad.d_loss.main.0.weight", numbers(found.permute([3, 2, 0, 1])));
        }
        misfit.plus(weight * factor, adversarial).on(reconstruction.clone())
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn images(channels: usize) -> [i32; 4] {
    [-1, SIDE as i32, SIDE as i32, channels as i32]
}

fn tensor<const D: usize>(data: &TensorData) -> Tensor<D> {
    Tensor::from_data(data.clone(), (&Device::flex(), DType::F64))
}

fn leaf<const D: usize>(value: Tensor<D>) -> Tensor<D> {
    value.autodiff().require_grad()
}

fn numbers<const D: usize>(of: Tensor<D>) -> Vec<f64> {
    of.into_data().iter::<f64>().collect()
}

fn logits(discriminator: &PatchDiscriminator, x: Tensor<2>) -> Result<Tensor<2>> {
    let noise = Tensor::zeros([x.dims()[0]], (&x.device(), x.dtype()));
    Ok(discriminator.forward(x.into(), &Context::new(noise, &Condition::none()))?.value)
}

/// In f64 only the order of sums differs.
fn close(name: &str, found: impl IntoIterator<Item = f64>, wanted: &TensorData) {
    let (found, wanted): (Vec<f64>, Vec<f64>) = (found.into_iter().collect(), wanted.iter::<f64>().collect());
    assert_eq!(found.len(), wanted.len(), "{name}");
    let largest = wanted.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    let off = found.iter().zip(&wanted).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
    println!("{name}: {off:.1e} of {largest:.1e}");
    assert!(off <= 1e-9 * largest.max(1.0), "{name} is off by {off:e} of {largest:e}");
}

#[test]
fn the_discriminator_gives_the_stored_logits() {
    let stored = Stored::open();
    let discriminator = stored.discriminator();
    for (name, pictures) in [("real", "image"), ("fake", "discriminator.reconstruction")] {
        let x = stored.images(pictures).reshape([-1, DIM as i32]);
        let name = format!("discriminator.train_{name}");
        close(&name, numbers(logits(&discriminator, x).unwrap()), &stored.io[&name]);
    }
}

#[test]
fn the_posterior_and_the_loss_of_continuous_latents() {
    let stored = Stored::open();
    for case in stored.cases("kl") {
        let (x, last) = (stored.picture(), stored.last_layer());
        let [features, moments] = ["features", "moments"].map(|name| leaf(stored.images(name)));
        let part = |from: usize| moments.clone().narrow(3, from, 4).reshape([-1, 64]);
        let posterior = DiagonalGaussian::new(part(0), part(4));
        close("posterior.kl", numbers(posterior.kl()), &stored.io["posterior.kl"]);
        let kl = posterior.kl().mean();
        case.check_number("kl", &kl);

        let reconstruction = last.forward(features.clone().into()).value.reshape([-1, DIM as i32]);
        let scale = Tensor::<1>::from_data([case.number("logvar")], (&Device::flex(), DType::F64)).autodiff();
        let loss = case.check_losses(&reconstruction, &features, &last, |r| {
            negative_log_likelihood(PixelLoss::L1.each(x, r), scale)
        });
        case.check("disc_factor", [case.balance().factor_at(case.step())]);
        let total = loss + kl * case.number("kl_weight");
        case.check_number("total", &total);
        let gradients = total.backward();
        case.check_images("grad.features", features.grad(&gradients).unwrap().narrow(3, 0, 2));
        case.check_images("grad.moments", moments.grad(&gradients).unwrap());
        let weight = tensor::<4>(&state::gradients(&last, &gradients)["weight"]);
        case.check("grad.last_layer", numbers(weight.permute([3, 2, 0, 1])));
    }
}

#[test]
fn the_loss_of_latents_from_a_codebook() {
    let stored = Stored::open();
    for case in stored.cases("vq") {
        let (x, last, codes) =
            (stored.picture(), stored.last_layer(), leaf(tensor::<2>(&stored.weights["embedding.weight"])));
        let z = leaf(stored.images("z"));
        let [count, height, width, channels] = z.dims();
        let chosen = quantize(z.clone().into(), codes.clone());
        let indices: Vec<usize> = chosen.indices.clone().into_data().iter::<i64>().map(|code| code as usize).collect();
        case.check("indices", indices.iter().map(|code| *code as f64));
        let mut usage = Usage::new(codes.dims()[0]);
        usage.add(&indices);
        case.check("cluster_usage", [usage.used() as f64]);
        // The reference adds 1e-10 to shares before it takes their logarithm.
        let wanted = stored.io[&format!("{}.perplexity", case.settings["name"].as_str().unwrap())].iter::<f64>().next();
        assert!((usage.perplexity() / wanted.unwrap() - 1.0).abs() < 1e-8);

        let commitment = Commitment { beta: case.number("beta"), legacy: case.settings["legacy"].as_bool().unwrap() };
        let codebook = |z: &Tensor<4>, codes: &Tensor<2>| {
            let rows = |of: Tensor<4>| of.reshape([-1, channels as i32]);
            commitment.loss(rows(z.clone()), rows(quantize(z.clone().into(), codes.clone()).rows))
        };
        let alone = codebook(&z, &codes).backward();
        case.check_images("grad.codebook_loss.z", z.grad(&alone).unwrap());
        case.check("grad.codebook_loss.codebook", numbers(codes.grad(&alone).unwrap()));
        let loss_of_codes = codebook(&z, &codes);
        case.check_number("codebook_loss", &loss_of_codes);

        // Every row on 4 x 4 places, before the channels that stay as they are.
        let large = chosen
            .values
            .value
            .reshape([count, height, 1, width, 1, channels])
            .expand([count, height, 4, width, 4, channels]);
        let large: Tensor<4> = large.reshape(images(channels));
        let features = stored.images("features").autodiff();
        let rest = features.clone().narrow(3, channels, 8 - channels);
        let features = Tensor::cat(vec![features.narrow(3, 0, channels) + large, rest], 3);
        let reconstruction = last.forward(features.clone().into()).value.reshape([-1, DIM as i32]);
        let kind: PixelLoss = serde_json::from_value(case.settings["pixel_loss"].clone()).unwrap();
        let loss = case.check_losses(&reconstruction, &features, &last, |r| kind.each(x, r).mean());
        let total = loss + loss_of_codes * case.number("codebook_weight");
        case.check_number("total", &total);
        let gradients = total.backward();
        case.check_images("grad.z", z.grad(&gradients).unwrap());
        case.check("grad.codebook", numbers(codes.grad(&gradients).unwrap()));
        let weight = tensor::<4>(&state::gradients(&last, &gradients)["weight"]);
        case.check("grad.last_layer", numbers(weight.permute([3, 2, 0, 1])));
    }
}

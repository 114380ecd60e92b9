//! The losses of generative adversarial networks and the penalties on slopes against formulas in PyTorch, with their second derivatives, in
//! f64: `tests/data/gan_losses`. The network is [`stein_nn::Discriminator`] with the stored weights.

use std::path::Path;

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use stein::{
    Condition, Context, Dual, Network, Result,
    adversarial::{Game, Penalty, between, slope},
    rows,
};
use stein_nn::{Discriminator, PlayerConfig, Tensors, layers::Init, read_tensors, state};

const SHAPE: [usize; 3] = [8, 8, 3];

/// The axes of channels last, of a tensor that has them before height and width.
fn channels_last(data: &TensorData) -> Tensor<4> {
    Tensor::<4>::from_data(data.clone(), (&Device::flex(), DType::F64)).permute([0, 2, 3, 1])
}

/// One of our weights, or of their gradients, of theirs.
fn ours(name: &str, theirs: &Tensors, prefix: &str, suffix: &str) -> TensorData {
    let (layer, rest) = if name.contains("convs.0") {
        ("conv1", name)
    } else if name.contains("convs.1") {
        ("conv2", name)
    } else {
        ("fc", name)
    };
    let weight = rest.ends_with("weight");
    let data = &theirs[&format!("{prefix}{layer}.{}{suffix}", if weight { "weight" } else { "bias" })];
    let double = (&Device::flex(), DType::F64);
    match (layer, weight) {
        ("fc", true) => {
            // Flattened channel by channel, of 16 channels of 2 × 2.
            let data = Tensor::<2>::from_data(data.clone(), double).reshape([1, 16, 2, 2]);
            data.permute([0, 2, 3, 1]).reshape([64, 1]).into_data()
        }
        (_, true) => Tensor::<4>::from_data(data.clone(), double).permute([2, 3, 1, 0]).into_data(),
        _ => Tensor::<1>::from_data(data.clone(), double).into_data(),
    }
}

fn near(name: &str, found: &TensorData, wanted: &TensorData) {
    let [found, wanted] = [found, wanted].map(|data| data.iter::<f64>().collect::<Vec<_>>());
    assert_eq!(found.len(), wanted.len(), "{name}");
    let largest = wanted.iter().fold(1.0f64, |most, value| most.max(value.abs()));
    let off = found.iter().zip(&wanted).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
    println!("{name}: {off:.1e} of {largest:.1e}");
    // In f64 only the order of sums differs.
    assert!(off <= 1e-9 * largest, "{name} is off by {off:e} of {largest:e}");
}

#[test]
fn the_losses_and_penalties_are_the_stored_ones() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gan_losses");
    let [io, weights] =
        ["io", "weights"].map(|name| read_tensors(&folder.join(format!("{name}.safetensors"))).unwrap());
    let device = Device::flex().autodiff();
    let config = PlayerConfig::Convolutional { channels: vec![8, 16] };
    let network = config.discriminator(&SHAPE, 0, &mut Init::new(0, &device)).unwrap();
    let network = state::cast(network, DType::F64);
    let names: Vec<String> = state::tensors(&network).into_keys().collect();
    assert_eq!(names.len(), 6);
    let loaded = names.iter().map(|name| (name.clone(), ours(name, &weights, "", ""))).collect();
    let network = state::load(network, &loaded).unwrap();
    let constant = network.valid();
    let given = Condition::none();
    let judged = |network: &Discriminator, x: Dual<2>| -> Result<Dual<2>> {
        let noise = rows::vector(vec![0.0; x.dims()[0]], &x.value);
        network.forward(x, &Context::new(noise, &given))
    };
    let logits = |x: &Tensor<2>| judged(&network, x.clone().into()).unwrap().value;
    let [real, fake] = ["real", "fake"].map(|name| channels_last(&io[name]).reshape([4, 192]).autodiff());
    let stored = |name: &str| &io[&format!("{name}_f64")];
    near("logits_real", &logits(&real).into_data(), stored("logits_real"));
    near("logits_fake", &logits(&fake).into_data(), stored("logits_fake"));
    let mut gradients_compared = 0;
    let mut check = |name: &str, value: Tensor<1>| {
        near(name, &value.to_data(), stored(name));
        let gradients = state::gradients(&network, &value.backward());
        for own in &names {
            let wanted = ours(own, &io, &format!("grad.{name}."), "_f64");
            // The last bias moves no slope, and is on no tape of one.
            let none = TensorData::zeros::<f64, _>(wanted.shape().clone());
            near(&format!("{name} {own}"), gradients.get(own).unwrap_or(&none), &wanted);
            gradients_compared += 1;
        }
    };
    let alpha: Vec<f64> = io["alpha"].iter().collect();
    let between = between(real.clone(), fake.clone(), alpha);
    let at = |penalty: Penalty, points: &Tensor<2>| {
        penalty.at(points.clone(), |x| judged(&constant, x), |x| judged(&network, x)).unwrap()
    };
    let penalty = Penalty::Gradient { lambda: 10.0 };
    for (name, game) in
        [("d_nonsaturating", Game::NonSaturating), ("d_hinge", Game::Hinge), ("d_wgan", Game::Wasserstein)]
    {
        check(name, game.discriminator(logits(&real), logits(&fake)));
    }
    check("gradient_penalty", at(Penalty::Gradient { lambda: 1.0 }, &between));
    check("d_wgan_gp", Game::Wasserstein.discriminator(logits(&real), logits(&fake)) + at(penalty, &between));
    check("r1_loss", at(Penalty::R1 { gamma: 10.0, every: 1 }, &real));
    for (name, game) in [("g_nonsaturating", Game::NonSaturating), ("g_hinge", Game::Hinge)] {
        let fake = fake.clone().detach().require_grad();
        let value = game.generator(logits(&fake));
        near(name, &value.to_data(), stored(name));
        let gradient = fake.grad(&value.backward()).unwrap();
        let wanted = channels_last(stored(&format!("grad.{name}.fake"))).reshape([4, 192]);
        near(&format!("{name} fake"), &gradient.into_data(), &wanted.into_data());
        gradients_compared += 1;
    }
    // Six losses by six weights, and two by the fake pictures; with the slope itself and R1 of every picture.
    assert_eq!(gradients_compared, 38);
    let slope_between = slope(between, |x| judged(&constant, x)).unwrap();
    let wanted = channels_last(stored("gradient_at_x_hat")).reshape([4, 192]);
    near("gradient_at_x_hat", &slope_between.into_data(), &wanted.into_data());
    let of_real = slope(real, |x| judged(&constant, x)).unwrap();
    near("r1", &of_real.square().sum_dim(1).into_data(), stored("r1"));
}

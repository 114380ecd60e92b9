//! Networks of the `diffusers` library.

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use serde_json::{Value, json};
use stein::{Condition, Tokens};
use stein_nn::{
    Tensors, Unet2dConfig,
    import::{Imported, Weights, diffusers},
    ops::Dual,
    state,
};

use crate::{compare, context};

#[test]
fn unet_2d_of_ddpm() {
    compare("diffusers_unet2d_ddpm", |json, weights| Ok(Box::new(diffusers::unet_2d(json, weights)?)));
}

#[test]
fn unet_2d_of_ncsnpp() {
    compare("diffusers_unet2d_ncsnpp", |json, weights| Ok(Box::new(diffusers::unet_2d(json, weights)?)));
}

#[test]
fn unet_2d_condition() {
    compare("diffusers_unet2d_cond", |json, weights| Ok(Box::new(diffusers::unet_2d_condition(json, weights)?)));
}

#[test]
fn autoencoder_kl() {
    compare("diffusers_autoencoder_kl", |json, weights| {
        // Published weights have older names of attention.
        let older = |name: &str| {
            let pairs =
                [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];
            pairs.iter().fold(name.to_owned(), |name, (new, old)| name.replace(new, old))
        };
        let Weights::Theirs(stored) = weights else { panic!("files have their names") };
        let renamed: Tensors = stored.iter().map(|(name, data)| (older(name), data.clone())).collect();
        diffusers::autoencoder_kl(json, Weights::Theirs(&renamed))?;
        Ok(Box::new(diffusers::autoencoder_kl(json, weights)?))
    });
}

#[test]
fn vq_model() {
    compare("diffusers_vq_model", |json, weights| Ok(Box::new(diffusers::vq_model(json, weights)?)));
}

/// google/ddpm-cifar10-32
fn ddpm_cifar10() -> Value {
    json!({
        "_class_name": "UNet2DModel",
        "act_fn": "silu",
        "attention_head_dim": null,
        "block_out_channels": [128, 256, 256, 256],
        "center_input_sample": false,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "downsample_padding": 0,
        "flip_sin_to_cos": false,
        "freq_shift": 1,
        "in_channels": 3,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-6,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 32,
        "time_embedding_type": "positional",
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]
    })
}

/// The autoencoder of Stable Diffusion 1
fn stable_diffusion_autoencoder() -> Value {
    json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]
    })
}

/// The U-Net of Stable Diffusion 1
fn stable_diffusion_unet() -> Value {
    json!({
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": false,
        "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
    })
}

#[test]
fn published_networks_have_as_many_parameters() {
    assert_eq!(diffusers::parameters(&ddpm_cifar10()).unwrap(), 35_746_307);
    assert_eq!(diffusers::parameters(&stable_diffusion_autoencoder()).unwrap(), 83_653_863);
}

#[test]
#[ignore = "its weights take 3.5 GB"]
fn a_large_published_network_has_as_many_parameters() {
    assert_eq!(diffusers::parameters(&stable_diffusion_unet()).unwrap(), 859_520_964);
}

#[test]
fn defaults_are_published_networks() {
    let unet = diffusers::unet_2d_config(&ddpm_cifar10()).unwrap();
    assert_eq!(unet, Unet2dConfig { groups: Some(32), ..Unet2dConfig::default() });
    let autoencoder = diffusers::autoencoder_kl_config(&stable_diffusion_autoencoder()).unwrap();
    assert_eq!(autoencoder, Default::default());
    let conditional = diffusers::unet_2d_condition_config(&stable_diffusion_unet()).unwrap();
    assert_eq!(conditional, Default::default());
}

#[test]
fn what_is_not_supported_is_named() {
    let refused = |key: &str, value: Value| {
        let mut config = ddpm_cifar10();
        config[key] = value;
        diffusers::unet_2d_config(&config).unwrap_err().to_string()
    };
    let types = json!(["ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]);
    assert!(refused("down_block_types", types).contains("ResnetDownsampleBlock2D"));
    assert!(refused("resnet_time_scale_shift", json!("scale_shift")).contains("resnet_time_scale_shift"));
    assert!(refused("time_embedding_type", json!("learned")).contains("learned"));
    assert!(refused("spectral_norm", json!(true)).contains("spectral_norm"));
    assert!(refused("_class_name", json!("VQModel")).contains("VQModel"));
}

/// Numbers in a fixed disorder, of about unit size.
fn numbers<const D: usize>(shape: [usize; D], seed: f64) -> Tensor<D> {
    let count = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|i| 1.4 * (seed + 1.7 * (i * i) as f64 + 0.3 * i as f64).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F64))
}

/// Compares the tangent of a function of images and noise numbers with differences of fourth order.
fn tangents_are_differences(name: &str, shape: [usize; 4], noise: [f64; 2], f: impl Fn(Dual<4>, Dual<1>) -> Dual<4>) {
    let (x, dx) = (numbers(shape, 1.0), numbers(shape, 2.0));
    let noise = Tensor::<1>::from_data(noise, (&Device::flex(), DType::F64));
    let dnoise = noise.clone() * 0.1 + 0.05;
    let tangent = f(Dual::new(x.clone(), dx.clone()), Dual::new(noise.clone(), dnoise.clone())).tangent.unwrap();
    let at = |by: f64| f((x.clone() + dx.clone() * by).into(), (noise.clone() + dnoise.clone() * by).into()).value;
    let step = 1e-4;
    let near = (at(step) - at(-step)) * (2.0 / 3.0 / step);
    let far = (at(2.0 * step) - at(-2.0 * step)) * (1.0 / 12.0 / step);
    let largest: f64 = tangent.clone().abs().max().into_scalar();
    let error: f64 = (near - far - tangent).abs().max().into_scalar();
    println!("{name}: {error:.1e} of {largest:.1e}");
    assert!(largest > 0.1 && error < 1e-7 * largest, "{name}: {error:e} of {largest:e}");
}

/// The network of a fixture in f64, without autodiff, if its files are there.
fn network<N: Module>(fixture: &str, open: impl Fn(&Value, Weights) -> stein::Result<Imported<N>>) -> Option<N> {
    let (_, config, weights) = crate::fixture(fixture)?;
    Some(state::cast(open(&config, Weights::Theirs(&weights)).unwrap().network, DType::F64).valid())
}

#[test]
fn tangents_are_differences_of_nearby_outputs() {
    for (fixture, noise) in [("diffusers_unet2d_ddpm", [3.0, 41.0]), ("diffusers_unet2d_ncsnpp", [0.4, 3.0])] {
        let Some(network) = network(fixture, diffusers::unet_2d) else { return };
        let f = |x, noise| network.images(x, &context(noise, &Condition::none())).unwrap();
        tangents_are_differences(fixture, [2, 8, 16, 3], noise, f);
    }
    if let Some(network) = network("diffusers_unet2d_cond", diffusers::unet_2d_condition) {
        let tokens = Some(Tokens { values: numbers([2, 5, 24], 3.0), mask: None });
        let given = Condition { tokens, ..Condition::none() };
        let f = |x, noise| network.images(x, &context(noise, &given)).unwrap();
        // A size that cannot be halved evenly.
        tangents_are_differences("diffusers_unet2d_cond", [2, 7, 10, 4], [3.0, 41.0], f);
    }
    if let Some(network) = network("diffusers_autoencoder_kl", diffusers::autoencoder_kl) {
        let f = |x, _| {
            let (mean, std) = network.mean_and_std(network.encode(x).unwrap());
            network.decode(mean + std).unwrap()
        };
        tangents_are_differences("diffusers_autoencoder_kl", [2, 8, 12, 3], [0.0; 2], f);
    }
}

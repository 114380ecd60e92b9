//! DDPM, DDPM++ and NCSN++ of score_sde_pytorch.

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use serde_json::{Value, json};
use stein::Condition;
use stein_nn::{
    Tensors,
    import::{
        Weights,
        score_sde::{open_ddpm, open_ncsnpp},
    },
    ops::Dual,
    state,
};

use crate::{context, fixture};

#[test]
fn score_sde_ddpm() {
    crate::compare("score_sde_ddpm", |json, weights| Ok(Box::new(open_ddpm(json, weights)?)));
}

#[test]
fn score_sde_ddpm_time() {
    crate::compare("score_sde_ddpm_time", |json, weights| Ok(Box::new(open_ddpm(json, weights)?)));
}

#[test]
fn score_sde_ncsnpp_vp() {
    crate::compare("score_sde_ncsnpp_vp", |json, weights| Ok(Box::new(open_ncsnpp(json, weights)?)));
}

#[test]
fn score_sde_ncsnpp_ve() {
    crate::compare("score_sde_ncsnpp_ve", |json, weights| Ok(Box::new(open_ncsnpp(json, weights)?)));
}

#[test]
fn score_sde_ncsnpp_outskip() {
    crate::compare("score_sde_ncsnpp_outskip", |json, weights| Ok(Box::new(open_ncsnpp(json, weights)?)));
}

#[test]
fn score_sde_ncsnpp_residual() {
    crate::compare("score_sde_ncsnpp_residual", |json, weights| Ok(Box::new(open_ncsnpp(json, weights)?)));
}

fn numbers<const D: usize>(shape: [usize; D], step: f64) -> Tensor<D> {
    let values: Vec<f64> = (0..shape.iter().product()).map(|i: usize| (step * i as f64 + 0.3).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F64))
}

fn vector(values: &[f64]) -> Tensor<1> {
    Tensor::from_data(TensorData::from(values), (&Device::flex(), DType::F64))
}

fn largest<const D: usize>(x: Tensor<D>) -> f64 {
    x.abs().max().into_scalar::<f64>()
}

#[test]
fn score_sde_tangents_are_derivatives() {
    let fixtures =
        ["score_sde_ncsnpp_vp", "score_sde_ncsnpp_ve", "score_sde_ncsnpp_outskip", "score_sde_ncsnpp_residual"];
    for name in fixtures {
        let Some((_, config, weights)) = fixture(name) else { continue };
        let network = state::cast(open_ncsnpp(&config, Weights::Theirs(&weights)).unwrap().network, DType::F64).valid();
        let (x, dx) = (numbers([2, 16, 16, 3], 0.7), numbers([2, 16, 16, 3], 1.9));
        let (noise, dnoise) = (vector(&[0.7, 3.0]), vector(&[0.2, -0.5]));
        let at = |step: f64| {
            let (x, noise) = (x.clone() + dx.clone() * step, noise.clone() + dnoise.clone() * step);
            network.images(x.into(), &context(noise, &Condition::none())).unwrap().value
        };
        // The frequencies of ln σ reach hundreds: a larger step errs by its square times theirs.
        let step = 1e-6;
        let wanted = (at(step) - at(-step)) / (2.0 * step);
        let dual = (Dual::new(x.clone(), dx.clone()), Dual::new(noise.clone(), dnoise.clone()));
        let found = network.images(dual.0, &context(dual.1, &Condition::none())).unwrap().tangent.unwrap();
        let error = largest(found - wanted.clone()) / largest(wanted);
        println!("{name}: {error:.1e}");
        assert!(error < 1e-6, "{name}: {error:e}");
    }
}

#[test]
fn score_sde_labels_stand_for_the_stored_sigmas() {
    let Some((_, mut config, weights)) = fixture("score_sde_ddpm_time") else { return };
    let labels = [0.0, 17.0, 999.0];
    let x = numbers([3, 16, 16, 3], 0.7);
    let run = |config: &Value| {
        let network = state::cast(open_ddpm(config, Weights::Theirs(&weights)).unwrap().network, DType::F64).valid();
        network.images(x.clone().into(), &context(vector(&labels), &Condition::none())).unwrap().value
    };
    let plain = run(&config);
    config["model"]["scale_by_sigma"] = true.into();
    let sigmas: Vec<f64> = weights["sigmas"].iter::<f64>().collect();
    let sigmas = vector(&labels.map(|label| sigmas[label as usize])).reshape([3, 1, 1, 1]);
    let error = largest(run(&config) * sigmas - plain);
    assert!(error < 1e-6, "{error:e}");
}

#[test]
fn score_sde_without_noise() {
    let Some((_, mut config, weights)) = fixture("score_sde_ncsnpp_ve") else { return };
    config["model"]["conditional"] = false.into();
    // Without the two layers of the embedding, all later modules move by two; the blocks keep what they would do
    // with it.
    let moved = weights.into_iter().filter_map(|(name, tensor)| {
        let Some((number, rest)) = name.strip_prefix("all_modules.").and_then(|rest| rest.split_once('.')) else {
            return Some((name, tensor));
        };
        match number.parse::<usize>().unwrap() {
            0 => Some((name, tensor)),
            1 | 2 => None,
            number => Some((format!("all_modules.{}.{rest}", number - 2), tensor)),
        }
    });
    let network = open_ncsnpp(&config, Weights::Theirs(&moved.collect())).unwrap().network.valid();
    let x = numbers([1, 16, 16, 3], 0.7).cast(DType::F32);
    let run = |sigma: f64| {
        let noise = vector(&[sigma]).cast(DType::F32);
        network.images(x.clone().into(), &context(noise, &Condition::none())).unwrap().value * sigma
    };
    assert!(largest((run(2.0) - run(0.5)).cast(DType::F64)) < 1e-5);
}

#[test]
fn score_sde_refuses_what_it_does_not_know() {
    let mut config = config("ddpm", 2);
    let refused = |config: &Value| open_ddpm(config, Weights::Theirs(&Tensors::new())).err().unwrap();
    config["model"]["nonlinearity"] = "tanh".into();
    let error = refused(&config);
    assert_eq!(error.kind(), stein::Kind::Unsupported);
    assert!(error.to_string().contains("model.nonlinearity is tanh"), "{error}");
    config["model"]["nonlinearity"] = "swish".into();
    let error = refused(&config);
    assert_eq!(error.kind(), stein::Kind::Mismatch);
    assert!(error.to_string().contains("missing     all_modules."), "{error}");
    config["model"].as_object_mut().unwrap().remove("nf");
    let error = refused(&config);
    assert_eq!(error.kind(), stein::Kind::Input);
    assert!(error.to_string().contains("lacks model.nf"), "{error}");
}

/// The published config of CIFAR-10 for `ddpm`, `ddpmpp` or `ncsnpp`, with a number of blocks per level.
fn config(kind: &str, blocks: usize) -> Value {
    let ve = kind == "ncsnpp";
    json!({
        "data": {"image_size": 32, "num_channels": 3, "centered": !ve},
        "model": {
            "sigma_min": 0.01, "sigma_max": 50.0, "num_scales": 1000, "dropout": 0.1, "nonlinearity": "swish",
            "normalization": "GroupNorm", "resamp_with_conv": true, "conditional": true, "scale_by_sigma": ve,
            "nf": 128, "ch_mult": [1, 2, 2, 2], "num_res_blocks": blocks, "attn_resolutions": [16], "fir": ve,
            "fir_kernel": [1, 3, 3, 1], "skip_rescale": true, "resblock_type": "biggan", "progressive": "none",
            "progressive_input": if ve { "residual" } else { "none" }, "progressive_combine": "sum",
            "embedding_type": if ve { "fourier" } else { "positional" }, "fourier_scale": 16,
        },
    })
}

/// The tensors the reference makes of a config, all zero: counted from the published architecture.
struct Published {
    biggan: bool,
    modules: usize,
    tensors: Tensors,
}

impl Published {
    fn of(kind: &str, blocks: usize) -> Tensors {
        let ve = kind == "ncsnpp";
        let mut all = Self { biggan: kind != "ddpm", modules: 0, tensors: Tensors::new() };
        if ve {
            all.module(&[("W", &[128])]);
        }
        all.module(&[("weight", &[512, if ve { 256 } else { 128 }]), ("bias", &[512])]);
        all.module(&[("weight", &[512, 512]), ("bias", &[512])]);
        all.conv("", 3, 128);
        let widths = [128, 256, 256, 256];
        let mut skips = vec![128];
        let mut now = 128;
        let mut image = 3;
        for (level, width) in widths.into_iter().enumerate() {
            for _ in 0..blocks {
                all.block(now, width, false);
                if level == 1 {
                    all.attention(width);
                }
                now = width;
                skips.push(now);
            }
            if level < 3 {
                if all.biggan {
                    all.block(now, now, true)
                } else {
                    all.conv("Conv_0.", now, now)
                }
                if ve {
                    all.conv("Conv2d_0.", image, now);
                    image = now;
                }
                skips.push(now);
            }
        }
        all.block(now, now, false);
        all.attention(now);
        all.block(now, now, false);
        for (level, width) in widths.into_iter().enumerate().rev() {
            for _ in 0..=blocks {
                all.block(now + skips.pop().unwrap(), width, false);
                now = width;
            }
            if level == 1 {
                all.attention(width);
            }
            if level > 0 {
                if all.biggan { all.block(now, now, true) } else { all.conv("Conv_0.", now, now) }
            }
        }
        all.module(&[("weight", &[now]), ("bias", &[now])]);
        all.conv("", now, 3);
        all.tensors
    }

    fn module(&mut self, tensors: &[(&str, &[usize])]) {
        for (name, shape) in tensors {
            let zeros = vec![0f32; shape.iter().product()];
            self.tensors.insert(format!("all_modules.{}.{name}", self.modules), TensorData::new(zeros, shape.to_vec()));
        }
        self.modules += 1;
    }

    fn conv(&mut self, name: &str, inputs: usize, outputs: usize) {
        let (weight, bias) = (format!("{name}weight"), format!("{name}bias"));
        self.module(&[(&weight, &[outputs, inputs, 3, 3]), (&bias, &[outputs])]);
    }

    fn block(&mut self, inputs: usize, outputs: usize, resamples: bool) {
        let mut tensors: Vec<(&str, &[usize])> = Vec::new();
        let (first, second) = ([outputs, inputs, 3, 3], [outputs, outputs, 3, 3]);
        let (own, turned, embedded) = ([outputs, inputs, 1, 1], [inputs, outputs], [outputs, 512]);
        let (before, after) = ([inputs], [outputs]);
        tensors.extend([("GroupNorm_0.weight", &before[..]), ("GroupNorm_0.bias", &before)]);
        tensors.extend([("Conv_0.weight", &first[..]), ("Conv_0.bias", &after)]);
        tensors.extend([("Dense_0.weight", &embedded[..]), ("Dense_0.bias", &after)]);
        tensors.extend([("GroupNorm_1.weight", &after[..]), ("GroupNorm_1.bias", &after)]);
        tensors.extend([("Conv_1.weight", &second[..]), ("Conv_1.bias", &after)]);
        if self.biggan && (inputs != outputs || resamples) {
            tensors.extend([("Conv_2.weight", &own[..]), ("Conv_2.bias", &after)]);
        } else if inputs != outputs {
            tensors.extend([("NIN_0.W", &turned[..]), ("NIN_0.b", &after)]);
        }
        self.module(&tensors);
    }

    fn attention(&mut self, channels: usize) {
        let names: Vec<(String, String)> = (0..4).map(|i| (format!("NIN_{i}.W"), format!("NIN_{i}.b"))).collect();
        let (square, vector) = ([channels, channels], [channels]);
        let mut tensors: Vec<(&str, &[usize])> = vec![("GroupNorm_0.weight", &vector), ("GroupNorm_0.bias", &vector)];
        for (weight, bias) in &names {
            tensors.extend([(weight.as_str(), &square[..]), (bias.as_str(), &vector)]);
        }
        self.module(&tensors);
    }
}

#[test]
fn score_sde_published_sizes() {
    // DDPM's own code attends after all three blocks of a level on the way up: 35,746,307 with two more attentions.
    const ATTENTION: usize = 4 * (256 * 256 + 256) + 2 * 256;
    for (kind, blocks, millions) in [("ddpm", 2, 35.2), ("ddpmpp", 4, 61.8), ("ncsnpp", 4, 62.8)] {
        let (config, tensors) = (config(kind, blocks), Published::of(kind, blocks));
        let wanted: usize = tensors.values().map(TensorData::num_elements).sum();
        let found = if kind == "ddpm" {
            open_ddpm(&config, Weights::Theirs(&tensors)).unwrap().network.num_params()
        } else {
            open_ncsnpp(&config, Weights::Theirs(&tensors)).unwrap().network.num_params()
        };
        println!("{kind}: {found}");
        assert_eq!(found, wanted);
        assert!((found as f64 / 1e6 - millions).abs() < 0.05, "{kind} has {found} parameters");
        assert!(kind != "ddpm" || found + 2 * ATTENTION == 35_746_307);
    }
}

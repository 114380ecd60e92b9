//! The U-Net of ADM, its classifier, and the U-Net of consistency models with its denoiser.

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor},
};
use serde_json::{Value, json};
use stein::{Condition, NoiseInput};
use stein_nn::{
    Tensors,
    import::{Kind, Role, Setting, Source, Weights, consistency, guided_diffusion},
    ops::Dual,
    state,
};

use crate::{
    context,
    published::{Shapes, tangents_hold},
};

#[test]
fn gd_unet_is_reproduced() {
    crate::compare("gd_unet", |json, weights| Ok(Box::new(guided_diffusion::open(json, weights)?)));
}

#[test]
fn gd_classifier_is_reproduced() {
    crate::compare("gd_classifier", |json, weights| Ok(Box::new(guided_diffusion::open_encoder(json, weights)?)));
}

#[test]
fn cm_unet_is_reproduced() {
    crate::compare("cm_unet", |json, weights| Ok(Box::new(consistency::open(json, weights)?)));
}

/// What the published constructors take: the file's names and shapes follow from it.
struct Published<'a>(&'a Value);

impl Published<'_> {
    fn number(&self, name: &str) -> usize {
        self.0[name].as_u64().unwrap_or(0) as usize
    }

    fn is(&self, name: &str) -> bool {
        self.0[name].as_bool().unwrap_or(false)
    }

    fn widths(&self) -> Vec<usize> {
        let factors = self.0["channel_mult"].as_array().unwrap();
        factors
            .iter()
            .map(|factor| (factor.as_f64().unwrap() * self.number("model_channels") as f64) as usize)
            .collect()
    }

    fn attends(&self, level: usize) -> bool {
        self.0["attention_resolutions"].as_array().unwrap().contains(&json!(1 << level))
    }

    fn block(&self, to: &mut Shapes, name: &str, inputs: usize, outputs: usize) {
        let embedded = if self.is("use_scale_shift_norm") { 2 * outputs } else { outputs };
        to.layer(&format!("{name}.in_layers.0"), &[inputs]);
        to.layer(&format!("{name}.in_layers.2"), &[outputs, inputs, 3, 3]);
        to.layer(&format!("{name}.emb_layers.1"), &[embedded, 4 * self.number("model_channels")]);
        to.layer(&format!("{name}.out_layers.0"), &[outputs]);
        to.layer(&format!("{name}.out_layers.3"), &[outputs, outputs, 3, 3]);
        if inputs != outputs {
            to.layer(&format!("{name}.skip_connection"), &[outputs, inputs, 1, 1]);
        }
    }

    fn attention(to: &mut Shapes, name: &str, channels: usize) {
        to.layer(&format!("{name}.norm"), &[channels]);
        to.layer(&format!("{name}.qkv"), &[3 * channels, channels, 1]);
        to.layer(&format!("{name}.proj_out"), &[channels, channels, 1]);
    }

    /// The way down and the middle, and the channels of every step down.
    fn contracting(&self, to: &mut Shapes) -> Vec<usize> {
        let (channels, widths) = (self.number("model_channels"), self.widths());
        to.layer("time_embed.0", &[4 * channels, channels]);
        to.layer("time_embed.2", &[4 * channels, 4 * channels]);
        let mut now = widths[0];
        to.layer("input_blocks.0.0", &[now, self.number("in_channels"), 3, 3]);
        let mut steps = vec![now];
        for (level, &width) in widths.iter().enumerate() {
            for _ in 0..self.number("num_res_blocks") {
                let name = format!("input_blocks.{}", steps.len());
                self.block(to, &format!("{name}.0"), now, width);
                if self.attends(level) {
                    Self::attention(to, &format!("{name}.1"), width);
                }
                now = width;
                steps.push(now);
            }
            if level + 1 < widths.len() {
                let name = format!("input_blocks.{}.0", steps.len());
                match self.is("resblock_updown") {
                    true => self.block(to, &name, now, now),
                    false => to.layer(&format!("{name}.op"), &[now, now, 3, 3]),
                }
                steps.push(now);
            }
        }
        self.block(to, "middle_block.0", now, now);
        Self::attention(to, "middle_block.1", now);
        self.block(to, "middle_block.2", now, now);
        steps
    }

    fn unet(&self) -> Shapes {
        let (mut shapes, widths) = (Shapes::default(), self.widths());
        let mut skips = self.contracting(&mut shapes);
        if self.number("num_classes") > 0 {
            shapes.add("label_emb.weight", &[self.number("num_classes"), 4 * self.number("model_channels")]);
        }
        let (mut now, mut index) = (widths[widths.len() - 1], 0);
        for level in (0..widths.len()).rev() {
            for nth in 0..=self.number("num_res_blocks") {
                let name = format!("output_blocks.{index}");
                self.block(&mut shapes, &format!("{name}.0"), now + skips.pop().unwrap(), widths[level]);
                now = widths[level];
                if self.attends(level) {
                    Self::attention(&mut shapes, &format!("{name}.1"), now);
                }
                if level > 0 && nth == self.number("num_res_blocks") {
                    let name = format!("{name}.{}", 1 + usize::from(self.attends(level)));
                    match self.is("resblock_updown") {
                        true => self.block(&mut shapes, &name, now, now),
                        false => shapes.layer(&format!("{name}.conv"), &[now, now, 3, 3]),
                    }
                }
                index += 1;
            }
        }
        shapes.layer("out.0", &[now]);
        shapes.layer("out.2", &[self.number("out_channels"), now, 3, 3]);
        shapes
    }

    fn classifier(&self) -> Shapes {
        let (mut shapes, widths) = (Shapes::default(), self.widths());
        let steps = self.contracting(&mut shapes);
        let (lowest, classes) = (widths[widths.len() - 1], self.number("out_channels"));
        match self.0["pool"].as_str().unwrap() {
            "attention" => {
                let side = self.number("image_size") >> (widths.len() - 1);
                shapes.layer("out.0", &[lowest]);
                shapes.add("out.2.positional_embedding", &[lowest, side * side + 1]);
                shapes.layer("out.2.qkv_proj", &[3 * lowest, lowest, 1]);
                shapes.layer("out.2.c_proj", &[classes, lowest, 1]);
            }
            "adaptive" => {
                shapes.layer("out.0", &[lowest]);
                shapes.layer("out.3", &[classes, lowest, 1, 1]);
            }
            _ => {
                shapes.layer("out.0", &[2048, steps.iter().sum::<usize>() + lowest]);
                shapes.layer("out.2", &[classes, 2048]);
            }
        }
        shapes
    }
}

/// `config` with these fields set.
fn with(mut config: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        config[name] = value.clone();
    }
    config
}

fn small() -> Value {
    json!({
        "image_size": 8, "in_channels": 2, "out_channels": 3, "model_channels": 32, "num_res_blocks": 1,
        "attention_resolutions": [2], "channel_mult": [1, 2]
    })
}

/// The options no stored fixture has.
#[test]
fn every_option_of_the_unet_loads_by_the_published_names_and_has_tangents() {
    let options = [
        json!({}),
        json!({"num_heads": 4, "num_heads_upsample": 2, "use_new_attention_order": true}),
        json!({"num_classes": 3, "use_scale_shift_norm": true, "num_head_channels": 16}),
        json!({"attention_resolutions": [1, 16]}),
        json!({"resblock_updown": true, "channel_mult": [0.5, 1, 2], "model_channels": 64}),
    ];
    for option in options {
        let config = with(small(), option);
        let shapes = Published(&config).unet();
        let network = guided_diffusion::open(&config, Weights::Theirs(&shapes.weights())).unwrap().network;
        assert_eq!(network.num_params(), shapes.count());
        let network = state::cast(network, DType::F64).valid();
        let known = config["num_classes"].is_u64();
        let given = if known { Condition::classes([2, 0]) } else { Condition::none() };
        tangents_hold([2, 4, 8, 2], |x, noise| network.images(x, &context(noise, &given)).unwrap());
    }
}

/// The flags of their scripts, as their READMEs have it for ImageNet 256 and for improved-diffusion's unconditional ImageNet 64.
#[test]
fn the_flags_of_scripts_are_the_arguments_of_the_network() {
    let flags = json!({
        "attention_resolutions": "32,16,8", "class_cond": true, "diffusion_steps": 1000, "dropout": 0.1, "image_size": 256,
        "learn_sigma": true, "noise_schedule": "linear", "num_channels": 256, "num_head_channels": 64, "num_res_blocks": 2,
        "resblock_updown": true, "use_fp16": true, "use_scale_shift_norm": true
    });
    let arguments = json!({
        "attention_resolutions": [8, 16, 32], "num_classes": 1000, "dropout": 0.1, "image_size": 256, "in_channels": 3,
        "out_channels": 6, "model_channels": 256, "num_head_channels": 64, "num_res_blocks": 2, "num_heads": 4,
        "channel_mult": [1, 1, 2, 2, 4, 4], "resblock_updown": true, "use_scale_shift_norm": true
    });
    assert_eq!(guided_diffusion::config(&flags).unwrap(), guided_diffusion::config(&arguments).unwrap());
    let flags = json!({
        "image_size": 64, "num_channels": 128, "num_res_blocks": 3, "learn_sigma": true, "diffusion_steps": 4000,
        "noise_schedule": "cosine"
    });
    let config = guided_diffusion::config(&flags).unwrap();
    assert_eq!((config.multipliers, config.attention, config.outputs), (vec![1.0, 2.0, 3.0, 4.0], vec![4, 8], 6));
    // The two implementations differ in what they do by default: the network may be fed steps of 4000 or as if of 1000.
    let setting = |rescaled: Option<bool>| {
        let mut flags = flags.clone();
        if let Some(rescaled) = rescaled {
            flags["rescale_timesteps"] = json!(rescaled);
        }
        let (kind, weights) = (Kind::GuidedDiffusion, Tensors::new());
        let origin = "flags".to_owned();
        Setting::of(&Source {
            kind,
            config: flags,
            scheduler: None,
            latent: false,
            weights,
            origin,
            which: String::new(),
        })
    };
    assert!(setting(None).unwrap_err().to_string().contains("rescale_timesteps"));
    for (rescaled, wanted) in [(true, 0.25), (false, 1.0)] {
        let setting = setting(Some(rescaled)).unwrap();
        assert_eq!(setting.schedule.levels(), Some(4000));
        let Role::Denoiser { precondition, .. } = setting.role else { panic!("it is a denoiser") };
        assert_eq!(precondition.noise_input, NoiseInput::Level { noisiest_first: false, factor: wanted });
    }
}

#[test]
fn every_pool_loads_by_the_published_names_and_has_tangents() {
    for pool in ["attention", "adaptive", "spatial"] {
        let config =
            with(small(), json!({"pool": pool, "num_head_channels": 32, "resblock_updown": pool == "attention"}));
        let shapes = Published(&config).classifier();
        let network = guided_diffusion::open_encoder(&config, Weights::Theirs(&shapes.weights())).unwrap().network;
        assert_eq!(network.num_params(), shapes.count());
        let network = state::cast(network, DType::F64).valid();
        tangents_hold([2, 8, 8, 2], |x, noise| network.logits(x, &context(noise, &Condition::none())).unwrap());
    }
}

/// Only the order of rows differs, so with one head nothing does, and with two something.
#[test]
fn the_order_of_queries_keys_and_values_is_that_of_the_config() {
    let output = |heads: usize, new: bool| -> Vec<f64> {
        let config = with(small(), json!({"num_heads": heads, "use_new_attention_order": new}));
        let network = guided_diffusion::open(&config, Weights::Theirs(&Published(&config).unet().weights()))
            .unwrap()
            .network
            .valid();
        let (device, given) = (Device::flex(), Condition::none());
        let (x, noise) = (Tensor::<4>::ones([1, 8, 8, 2], &device), Tensor::<1>::ones([1], &device));
        let y: Dual<4> = network.images(x.into(), &context(noise, &given)).unwrap();
        y.value.into_data().iter::<f64>().collect()
    };
    assert_eq!(output(1, false), output(1, true));
    assert_ne!(output(2, false), output(2, true));
}

#[test]
fn what_does_not_fit_is_refused_in_a_sentence() {
    let refused = |fields: Value| guided_diffusion::config(&with(small(), fields)).unwrap_err().to_string();
    assert!(refused(json!({"dims": 3})).contains("dims is 3"));
    assert!(refused(json!({"pool": "spatial"})).contains("pool"));
    assert!(refused(json!({"unheard_of": 1})).contains("unheard_of"));
    let config = small();
    let network =
        guided_diffusion::open(&config, Weights::Theirs(&Published(&config).unet().weights())).unwrap().network.valid();
    let run = |shape: [usize; 4], class: Option<Vec<u32>>| {
        let (x, noise) = (Tensor::<4>::ones(shape, &Device::flex()), Tensor::<1>::ones([1], &Device::flex()));
        let given = class.map_or_else(Condition::none, Condition::classes);
        network.images(x.into(), &context(noise, &given)).unwrap_err().to_string()
    };
    assert!(run([1, 8, 8, 3], None).contains("3 channels"));
    assert!(run([1, 8, 7, 2], None).contains("divisible by 2"));
    assert!(run([2, 8, 8, 2], None).contains("2 rows"));
    assert!(run([1, 8, 8, 2], Some(vec![0])).contains("no classes"));
}

/// The sizes of models the appendix of arXiv:2105.05233 gives, in millions. The shapes are those the tests above
/// load, so none of this is allocated.
#[test]
fn published_networks_have_the_published_numbers_of_parameters() {
    let millions = |shapes: Shapes| (shapes.count() as f64 / 1e6).round();
    let unet = json!({
        "in_channels": 3, "out_channels": 6, "num_classes": 1000, "model_channels": 256, "num_res_blocks": 2,
        "use_scale_shift_norm": true, "resblock_updown": true
    });
    let classifier = with(
        unet.clone(),
        json!({"out_channels": 1000, "num_classes": null, "model_channels": 128, "pool": "attention"}),
    );
    let sizes = [
        (json!({"image_size": 64, "channel_mult": [1, 2, 3, 4], "attention_resolutions": [2, 4, 8]}), 296.0, 65.0),
        (json!({"image_size": 128, "channel_mult": [1, 1, 2, 3, 4], "attention_resolutions": [4, 8, 16]}), 422.0, 43.0),
        (
            json!({"image_size": 256, "channel_mult": [1, 1, 2, 2, 4, 4], "attention_resolutions": [8, 16, 32]}),
            554.0,
            54.0,
        ),
        (
            json!({"image_size": 512, "channel_mult": [0.5, 1, 1, 2, 2, 4, 4], "attention_resolutions": [16, 32, 64]}),
            559.0,
            54.0,
        ),
    ];
    for (size, of_unet, of_classifier) in sizes {
        let lowest = size["image_size"] == 64;
        let deeper = if lowest { json!({"model_channels": 192, "num_res_blocks": 3}) } else { json!({}) };
        assert_eq!(millions(Published(&with(with(unet.clone(), size.clone()), deeper)).unet()), of_unet);
        let deeper = if lowest { json!({"num_res_blocks": 4}) } else { json!({}) };
        assert_eq!(millions(Published(&with(with(classifier.clone(), size), deeper)).classifier()), of_classifier);
    }
}

/// The flags of the published classifier of 64 × 64 pictures, and the arguments their script makes of them.
#[test]
fn flags_of_a_classifier() {
    let flags = json!({
        "image_size": 64, "classifier_attention_resolutions": "32,16,8", "classifier_depth": 4, "classifier_width": 128,
        "classifier_pool": "attention", "classifier_resblock_updown": true, "classifier_use_scale_shift_norm": true,
        "classifier_use_fp16": false, "learn_sigma": true, "noise_schedule": "cosine"
    });
    let arguments = json!({
        "image_size": 64, "in_channels": 3, "model_channels": 128, "out_channels": 1000, "num_res_blocks": 4,
        "attention_resolutions": [2, 4, 8], "channel_mult": [1, 2, 3, 4], "num_heads": 1, "num_head_channels": 64,
        "use_scale_shift_norm": true, "resblock_updown": true, "pool": "attention"
    });
    let encoder = |json: &Value| guided_diffusion::encoder_config(json).unwrap();
    assert_eq!(encoder(&flags), encoder(&arguments));
}

//! The diffusion transformer.

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor},
};
use serde_json::{Value, json};
use stein::Condition;
use stein_nn::{
    import::{Weights, diffusers_dit},
    state,
};

use crate::{
    context,
    published::{Shapes, tangents_hold},
};

#[test]
fn diffusers_dit_is_reproduced() {
    crate::compare("diffusers_dit", |json, weights| Ok(Box::new(diffusers_dit::open(json, weights)?)));
}

/// The embedding of step and class.
fn embedding(to: &mut Shapes, name: &str, channels: usize, classes: usize) {
    to.layer(&format!("{name}.timestep_embedder.linear_1"), &[channels, 256]);
    to.layer(&format!("{name}.timestep_embedder.linear_2"), &[channels, channels]);
    to.add(format!("{name}.class_embedder.embedding_table.weight"), &[classes + 1, channels]);
}

/// All but embeddings, by the names of `diffusers`.
fn trunk(patch: usize, [inputs, outputs]: [usize; 2], channels: usize, blocks: usize) -> Shapes {
    let mut shapes = Shapes::default();
    shapes.layer("pos_embed.proj", &[channels, inputs, patch, patch]);
    for index in 0..blocks {
        let mut layer = |name: &str, outputs: usize, inputs: usize| {
            shapes.layer(&format!("transformer_blocks.{index}.{name}"), &[outputs, inputs]);
        };
        layer("norm1.linear", 6 * channels, channels);
        for name in ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"] {
            layer(name, channels, channels);
        }
        layer("ff.net.0.proj", 4 * channels, channels);
        layer("ff.net.2", channels, 4 * channels);
    }
    shapes.layer("proj_out_1", &[2 * channels, channels]);
    shapes.layer("proj_out_2", &[patch * patch * outputs, channels]);
    shapes
}

fn small() -> (Value, Shapes) {
    let config = json!({
        "_class_name": "Transformer2DModel", "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 2,
        "out_channels": null, "num_layers": 2, "sample_size": 8, "patch_size": 4, "num_embeds_ada_norm": 3,
        "only_cross_attention": false, "cross_attention_dim": null
    });
    let mut shapes = trunk(4, [2, 2], 16, 2);
    for index in 0..2 {
        embedding(&mut shapes, &format!("transformer_blocks.{index}.norm1.emb"), 16, 3);
    }
    (config, shapes)
}

#[test]
fn the_published_names_load_and_images_of_any_size_have_tangents() {
    let (config, shapes) = small();
    let network = diffusers_dit::open(&config, Weights::Theirs(&shapes.weights())).unwrap().network;
    assert_eq!(network.num_params(), shapes.count());
    let network = state::cast(network, DType::F64).valid();
    // A row without a class, and one with.
    let given = Condition { class: Some(vec![None, Some(0)]), ..Condition::none() };
    tangents_hold([2, 4, 12, 2], |x, noise| network.images(x, &context(noise, &given)).unwrap());
}

#[test]
fn what_does_not_fit_is_refused_in_a_sentence() {
    let (config, shapes) = small();
    for (name, value) in [
        ("attention_bias", json!(false)),
        ("activation_fn", json!("gelu")),
        ("norm_type", json!("layer_norm")),
        ("norm_elementwise_affine", json!(true)),
        ("only_cross_attention", json!(true)),
        ("dropout", json!(0.1)),
    ] {
        let mut other = config.clone();
        other[name] = value;
        assert!(diffusers_dit::config(&other).unwrap_err().to_string().contains(name), "{name}");
    }
    let network = diffusers_dit::open(&config, Weights::Theirs(&shapes.weights())).unwrap().network.valid();
    let run = |shape: [usize; 4], class| {
        let (x, noise) = (Tensor::<4>::ones(shape, &Device::flex()), Tensor::<1>::ones([1], &Device::flex()));
        network.images(x.into(), &context(noise, &Condition::classes([class]))).map(|y| y.value)
    };
    let refused = |shape, class| run(shape, class).unwrap_err().to_string();
    assert!(refused([1, 8, 8, 3], 0).contains("3 channels"));
    assert!(refused([1, 8, 6, 2], 0).contains("squares of 4 x 4"));
    assert!(refused([1, 8, 8, 2], 3).contains("class 3 is out of range: this model knows classes 0 to 2"));
}

/// DiT-XL/2 of the paper's code, which counts its vectors of positions, frozen there and computed here: 256 of 1152
/// numbers. It has one embedding, ours by default; the shapes besides are those the test above loads, and none is
/// allocated.
#[test]
fn the_largest_published_network_has_the_published_number_of_parameters() {
    let mut shapes = trunk(2, [4, 8], 1152, 28);
    embedding(&mut shapes, "emb", 1152, 1000);
    assert_eq!(shapes.count() + 256 * 1152, 675_129_632);
}

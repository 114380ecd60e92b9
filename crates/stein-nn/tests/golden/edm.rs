//! Networks of NVlabs/edm.

use serde_json::{Value, json};
use stein::{Condition, Context, DType, Device, Dual, Kind as Fault, Network, Tensor, TensorData};
use stein_nn::{
    AnyNetwork, NetworkConfig,
    import::{Case, Reference, Weights, edm},
    state,
};

#[test]
fn song_ddpmpp() {
    crate::compare("edm_song_ddpmpp", |json, weights| Ok(Box::new(edm::open_song(json, weights)?)));
}

#[test]
fn song_ncsnpp() {
    crate::compare("edm_song_ncsnpp", |json, weights| Ok(Box::new(edm::open_song(json, weights)?)));
}

#[test]
fn dhariwal() {
    crate::compare("edm_dhariwal", |json, weights| Ok(Box::new(edm::open_dhariwal(json, weights)?)));
}

#[test]
fn dhariwal_attn() {
    crate::compare("edm_dhariwal_attn", |json, weights| Ok(Box::new(edm::open_dhariwal(json, weights)?)));
}

#[test]
fn unetblock() {
    crate::compare("edm_unetblock", edm::open_blocks);
}

fn song(json: &Value) -> stein::Result<AnyNetwork> {
    let config = edm::song_config(json)?;
    let (shape, classes) = ([config.height, config.height, config.inputs], config.classes);
    NetworkConfig::SongUnet(config).build(&shape, classes, 0, &Device::flex())
}

fn dhariwal_unet(json: &Value) -> stein::Result<AnyNetwork> {
    let config = edm::dhariwal_config(json)?;
    let (shape, classes) = ([config.height, config.height, config.inputs], config.classes);
    NetworkConfig::DhariwalUnet(config).build(&shape, classes, 0, &Device::flex())
}

/// The number of trained values of a network.
fn trained(network: &AnyNetwork) -> usize {
    let all = state::tensors(network);
    all.iter().filter(|(name, _)| !name.ends_with("frequencies.drawn")).map(|(_, values)| values.num_elements()).sum()
}

/// DDPM++ and NCSN++ for CIFAR-10, without classes.
#[test]
fn published_sizes() {
    let mut json = json!({
        "model_type": "SongUNet", "img_resolution": 32, "img_channels": 3, "augment_dim": 9,
        "channel_mult": [2, 2, 2]
    });
    assert_eq!(trained(&song(&json).unwrap()), 55_733_891);
    json["embedding_type"] = "fourier".into();
    json["encoder_type"] = "residual".into();
    json["channel_mult_noise"] = 2.into();
    json["resample_filter"] = json!([1, 3, 3, 1]);
    // Wider features and one more convolution on each of two levels.
    let wider = 128 * 512 + 128 * 9;
    let entries = (9 * 3 * 256 + 256) + (9 * 256 * 256 + 256);
    assert_eq!(trained(&song(&json).unwrap()), 55_733_891 + wider + entries);
}

/// ADM for ImageNet 64 has 295.9 million values. Their number is a polynomial of second degree in the channels, so
/// three narrow networks say it of the wide one.
#[test]
fn published_size_of_adm() {
    let [a, b, c] = [32, 64, 96].map(|channels| {
        let json = json!({
            "model_type": "DhariwalUNet", "img_resolution": 64, "img_channels": 3, "label_dim": 1000,
            "model_channels": channels
        });
        trained(&dhariwal_unet(&json).unwrap()) as i64
    });
    assert_eq!(a + 5 * (b - a) + 10 * (c - 2 * b + a), 295_899_267);
}

/// The network in f64, with other weights than zeros.
fn shaken(network: AnyNetwork) -> AnyNetwork {
    let shake = |values: TensorData| {
        let shape = values.shape().to_vec();
        let moved: Vec<f32> = values.iter::<f32>().enumerate().map(|(i, x)| x + 0.1 * (1.3 * i as f32).cos()).collect();
        TensorData::new(moved, shape)
    };
    let weights = state::tensors(&network).into_iter().map(|(name, values)| (name, shake(values))).collect();
    state::cast(state::load(network, &weights).unwrap(), DType::F64)
}

fn wave<const D: usize>(shape: [usize; D], pace: f64) -> Tensor<D> {
    let data: Vec<f64> = (0..shape.iter().product()).map(|index| (pace * f64::from(index as u32)).sin()).collect();
    Tensor::from_data(TensorData::new(data, shape), (&Device::flex(), DType::F64))
}

/// The tangent by images and noise numbers against the difference quotient of fourth order.
fn follows(network: &AnyNetwork, given: &Condition) {
    let (x, dx) = (wave([2, 16 * 16 * 3], 0.7), wave([2, 16 * 16 * 3], 1.9));
    let (noise, dnoise) = (wave([2], 0.3), wave([2], 1.1));
    let run = |x: Dual<2>, noise: Dual<1>| {
        network.forward(x, &Context { noise, second: None, given, dropout: None }).unwrap()
    };
    let tangent = run(Dual::new(x.clone(), dx.clone()), Dual::new(noise.clone(), dnoise.clone())).tangent.unwrap();
    let at = |t: f64| run((x.clone() + dx.clone() * t).into(), (noise.clone() + dnoise.clone() * t).into()).value;
    let step = 1e-4;
    let quotient =
        (at(step) - at(-step)) * (2.0 / 3.0 / step) - (at(2.0 * step) - at(-2.0 * step)) * (1.0 / 12.0 / step);
    let largest = |x: Tensor<2>| x.abs().max().into_scalar::<f64>();
    assert!(largest(tangent.clone()) > 0.0);
    assert!(largest(tangent - quotient.clone()) < 1e-7 * largest(quotient));
}

#[test]
fn tangents() {
    for encoder in ["skip", "residual"] {
        let network = song(&json!({
            "model_type": "SongUNet", "img_resolution": 16, "img_channels": 3, "label_dim": 3, "augment_dim": 2,
            "model_channels": 8, "channel_mult": [1, 2, 2], "num_blocks": 1, "attn_resolutions": [8],
            "encoder_type": encoder, "decoder_type": "skip", "resample_filter": [1, 3, 3, 1]
        }));
        let vector = Some(wave([2, 2], 0.5));
        follows(
            &shaken(network.unwrap()),
            &Condition { class: Some(vec![None, Some(2)]), vector, ..Condition::none() },
        );
    }
    let network = dhariwal_unet(&json!({
        "model_type": "DhariwalUNet", "img_resolution": 16, "img_channels": 3, "label_dim": 3,
        "model_channels": 16, "channel_mult": [1, 4], "num_blocks": 1, "attn_resolutions": [8]
    }));
    follows(&shaken(network.unwrap()), &Condition::none());
}

#[test]
fn what_is_not_known_is_refused() {
    let fault = |extra: &str, value: Value| {
        let mut json = json!({ "model_type": "SongUNet", "img_resolution": 16, "img_channels": 3 });
        json[extra] = value;
        song(&json).unwrap_err()
    };
    for (extra, value, kind, sentence) in [
        ("encoder_type", json!("deep"), Fault::Unsupported, "known are standard, skip, residual"),
        ("depth", json!(1), Fault::Unsupported, "not known here: depth"),
        ("beta_d", json!(19.9), Fault::Unsupported, "not known here: beta_d"),
        ("class_name", json!("training.networks.Precond"), Fault::Unsupported, "known are EDMPrecond"),
        ("model_type", json!("DhariwalUNet"), Fault::Mismatch, "not of a SongUNet"),
        ("num_blocks", json!("four"), Fault::Input, "num_blocks is \"four\""),
        ("resample_filter", json!([1, 2, 1]), Fault::Input, "network.filter"),
        ("img_resolution", json!(12), Fault::Input, "network.height"),
    ] {
        let error = fault(extra, value);
        assert!(error.kind() == kind && error.to_string().contains(sentence), "{extra}: {:?} {error}", error.kind());
    }
    // Of training alone, and of a wrapper that is named.
    for extra in
        [json!({ "label_dropout": 0.1 }), json!({ "class_name": "training.networks.VPPrecond", "beta_d": 19.9 })]
    {
        let mut json = json!({
            "model_type": "SongUNet", "img_resolution": 16, "img_channels": 3, "model_channels": 8, "channel_mult": [1]
        });
        json.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        song(&json).unwrap();
    }
}

#[test]
fn stored_classes_are_one_hot() {
    let json = json!({
        "model_type": "SongUNet", "img_resolution": 16, "img_channels": 3, "label_dim": 3, "model_channels": 8,
        "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []
    });
    let weights = state::tensors(&song(&json).unwrap());
    let weights = weights.iter().map(|(name, data)| (name.replacen("network.", "", 1), data.clone())).collect();
    let imported = edm::open_song(&json, Weights::Ours(&weights)).unwrap();
    let reference: Box<dyn Reference> = imported.prepared(DType::F32, false);
    let inputs = [
        ("x", wave([2, 3, 16, 16], 0.7).into_data()),
        ("noise_labels", wave([2], 0.3).into_data()),
        ("class_labels", wave([2, 3], 0.7).into_data()),
    ];
    let inputs = inputs.map(|(name, data)| (name.to_owned(), data)).into();
    let error = reference.outputs(&Case::new("main", &inputs, DType::F32)).unwrap_err();
    assert!(error.kind() == Fault::Mismatch && error.to_string().contains("one-hot"), "{error}");
}

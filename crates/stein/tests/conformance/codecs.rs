//! Codecs: round trips, determinants against differences, and what each promises of its states.

use std::sync::Arc;

use stein::{
    AnyCodec, AnyCodecConfig, Codec, DType, Keys, Purpose, Tensor,
    autoencoder::Autoencoder,
    codec::{
        Affine, Chain, DataSample, Dequantize, Latents, Logit, OneHot, Quantile, Standardize, Symmetric,
        normal_quantile,
    },
    rows::host,
};

use crate::{assert_close, steering::all_close, tensor};

/// Three columns in [0, 1]: spread, in 256 levels, and constant.
fn data(rows: usize) -> Vec<f32> {
    let (a, b) =
        (Keys::range(1, 0, rows).uniform(Purpose::Model, 0), Keys::range(2, 0, rows).uniform(Purpose::Model, 0));
    let row = |(a, b): (f64, f64)| [(a * a) as f32, (b * 256.0).floor() as f32 / 255.0, 0.25];
    a.into_iter().zip(b).flat_map(row).collect()
}

fn sample(values: &[f32]) -> DataSample<'_> {
    DataSample { values, dim: 3, levels: Some(256) }
}

/// Every codec that is fitted, with settings that make it act; a new one fits these data with its default settings.
fn configs() -> Vec<AnyCodecConfig> {
    AnyCodecConfig::all()
        .into_iter()
        // It comes from a model.
        .filter(|config| config.kind() != "autoencoder")
        .map(|config| match config {
            AnyCodecConfig::Affine(_) => Affine { scale: -3.0, shift: 0.7 }.into(),
            AnyCodecConfig::Standardize(_) => Standardize { std: 0.5 }.into(),
            AnyCodecConfig::Quantile(_) => Quantile { knots: 40 }.into(),
            AnyCodecConfig::Logit(_) => Logit { margin: 0.01 }.into(),
            other => other,
        })
        .collect()
}

fn chains() -> Vec<Vec<AnyCodecConfig>> {
    let mut all: Vec<Vec<AnyCodecConfig>> = configs().into_iter().map(|config| vec![config]).collect();
    let likelihood =
        vec![Dequantize::default().into(), Logit::default().into(), Affine { scale: 0.3, shift: 0.1 }.into()];
    let table =
        vec![Quantile { knots: 30 }.into(), Standardize { std: 0.5 }.into(), Affine { scale: 2.0, shift: 1.0 }.into()];
    all.extend([Vec::new(), likelihood, table]);
    all
}

fn batch(values: &[f32]) -> Tensor<2> {
    tensor(&values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), 3)
}

#[test]
fn every_codec_and_chain_comes_back() {
    let values = data(500);
    let x = batch(&values);
    let keys = Keys::range(7, 0, 500);
    for configs in chains() {
        let chain = Chain::fit(&configs, &sample(&values)).unwrap();
        for (dtype, tolerance) in [(DType::F64, 1e-9), (DType::F32, 1e-5)] {
            let x = x.clone().cast(dtype);
            let state = chain.encode(x.clone(), &keys).unwrap();
            let back = chain.decode(state.clone()).unwrap();
            assert_eq!((state.dtype(), back.dtype()), (dtype, dtype));
            assert_eq!(chain.state(&[3]).unwrap(), [state.dims()[1]]);
            // Dequantizing rounds to a level, of which only one column has some.
            let levels = configs.iter().any(|config| config.kind() == "dequantize");
            // A level is written in single precision.
            let tolerance = if levels { 1e-5 } else { tolerance };
            for (place, (a, b)) in host(&back).iter().zip(host(&x)).enumerate() {
                if !levels || place % 3 == 1 {
                    assert_close(*a, b, tolerance, format!("{configs:?} in {dtype:?}"));
                }
            }
            // A row does not depend on its batch.
            let some = chain.encode(x.narrow(0, 100, 7), &keys.select(&(100..107).collect::<Vec<_>>())).unwrap();
            assert_eq!(host(&some), host(&state.narrow(0, 100, 7)), "{configs:?}");
        }
    }
}

#[test]
fn determinants_are_those_of_differences() {
    let values = data(500);
    let keys = Keys::range(7, 0, 5);
    // Points of the sample moved off its knots, where lines break.
    let x: Vec<f64> = host(&batch(&values[..15])).into_iter().map(|x| (0.9 * x + 0.0513).min(0.97)).collect();
    for configs in chains() {
        let chain = Chain::fit(&configs, &sample(&values)).unwrap();
        // A chain that rounds is a line through the levels: its difference is taken from level to level, and what comes after is
        // tested by itself below.
        let rounds = configs.iter().any(|config| config.kind() == "dequantize");
        if rounds && configs.len() > 1 {
            continue;
        }
        let (x, h) = if rounds {
            (x.iter().map(|x| (x * 255.0).round() / 255.0).collect(), 1.0 / 255.0)
        } else {
            (x.clone(), 1e-6)
        };
        let Some(ours) = chain.log_det(&tensor(&x, 3), &keys).unwrap() else {
            assert!(configs.iter().any(|config| config.kind() == "one_hot"), "{configs:?} has no determinant");
            continue;
        };
        // Codecs with a determinant move every number by itself.
        let encode = |x: &[f64]| host(&chain.encode(tensor(x, 3), &keys).unwrap());
        let moved = |by: f64| encode(&x.iter().map(|x| x + by).collect::<Vec<_>>());
        let (up, down) = if rounds { (moved(h), moved(0.0)) } else { (moved(h), moved(-h)) };
        let width = if rounds { h } else { 2.0 * h };
        for (row, ours) in ours.into_iter().enumerate() {
            let wanted: f64 = (3 * row..3 * row + 3).map(|k| ((up[k] - down[k]) / width).abs().ln()).sum();
            assert_close(ours, wanted, 1e-7, format!("{configs:?}, row {row}"));
        }
        for j in 0..3 {
            let mut one = x.clone();
            (0..5).for_each(|row| one[3 * row + j] += h);
            let before = encode(&x);
            let others =
                encode(&one).iter().zip(&before).enumerate().filter(|(k, _)| k % 3 != j).all(|(_, (a, b))| a == b);
            assert!(others, "{configs:?} mixes columns");
        }
    }
}

#[test]
fn a_chain_adds_up_determinants_where_they_are_taken() {
    let values = data(500);
    let keys = Keys::range(7, 0, 500);
    let x = batch(&values);
    let configs: [AnyCodecConfig; 2] = [Dequantize::default().into(), Logit { margin: 0.001 }.into()];
    let chain = Chain::fit(&configs, &sample(&values)).unwrap();
    let [first, second] = &chain.0[..] else { panic!("two codecs") };
    let between = first.encode(x.clone(), &keys).unwrap();
    let (a, b) = (first.log_det(&x, &keys).unwrap().unwrap(), second.log_det(&between, &keys).unwrap().unwrap());
    let sum = chain.log_det(&x, &keys).unwrap().unwrap();
    (0..500).for_each(|row| assert_close(sum[row], a[row] + b[row], 1e-14, "sum"));
    assert_close(a[0], 3.0 * (255.0f64 / 256.0).ln(), 1e-14, "levels");
    // Columns of indicators have none, and neither has a chain with one.
    let classes = DataSample { values: &[0.0, 1.0, 2.0], dim: 1, levels: None };
    let chain = Chain::fit(&[OneHot { columns: vec![0] }.into(), Symmetric {}.into()], &classes).unwrap();
    assert!(chain.log_det(&tensor(&[1.0], 1), &Keys::range(0, 0, 1)).unwrap().is_none());
}

fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    (mean, values.map(|x| (x - mean).powi(2)).sum::<f64>() / count)
}

#[test]
fn standardized_columns_have_the_moments_asked_for() {
    let values = data(2000);
    let chain = Chain::fit(&[Standardize { std: 0.5 }.into()], &sample(&values)).unwrap();
    let state = host(&chain.encode(batch(&values), &Keys::default()).unwrap());
    for column in 0..2 {
        let (mean, variance) = moments(state.iter().copied().skip(column).step_by(3));
        assert_close(mean, 0.0, 1e-12, "mean");
        assert_close(variance, 0.25, 1e-12, "variance");
    }
    assert!(state.iter().skip(2).step_by(3).all(|x| *x == 0.0), "a constant column is only centered");
    let one = chain.log_det(&batch(&values), &Keys::default()).unwrap().unwrap()[0];
    let scale =
        |column: usize| (0.5 / moments(values.iter().map(|&x| f64::from(x)).skip(column).step_by(3)).1.sqrt()).ln();
    assert_close(one, scale(0) + scale(1), 1e-12, "determinant");
}

#[test]
fn quantiles_make_columns_normal() {
    let rows = 4000;
    let values = data(rows);
    for knots in [200, 10_000] {
        let chain = Chain::fit(&[Quantile { knots }.into()], &sample(&values)).unwrap();
        // The sample itself, and other points of the same law.
        let fresh: Vec<f64> =
            Keys::range(9, 0, rows).uniform(Purpose::Model, 0).into_iter().flat_map(|u| [u * u, 0.4, 0.25]).collect();
        for x in [batch(&values), tensor(&fresh, 3)] {
            let state = host(&chain.encode(x.clone(), &Keys::default()).unwrap());
            let first = state.iter().copied().step_by(3);
            let (mean, variance) = moments(first.clone());
            let fourth = first.clone().map(|x| x.powi(4)).sum::<f64>() / rows as f64;
            // Five standard errors at 4000 rows, of two samples: 5 √(2/4000) = 0.11, √2 as much of a square, √96/4000 of a fourth.
            assert!(mean.abs() < 0.11 && (variance - 1.0).abs() < 0.16, "{knots} knots: {mean}, {variance}");
            assert!((fourth - 3.0).abs() < 1.1, "{knots} knots: fourth moment {fourth}");
            // A column follows its values.
            let x = host(&x);
            let mut pairs: Vec<(f64, f64)> = x.iter().copied().step_by(3).zip(first).collect();
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(pairs.windows(2).all(|pair| pair[0].0 == pair[1].0 || pair[0].1 < pair[1].1));
        }
        // Ties share a place, and a constant column is only centered.
        let state = host(&chain.encode(batch(&values), &Keys::default()).unwrap());
        assert!(state.iter().skip(2).step_by(3).all(|x| *x == 0.0));
    }
    // Two values: a third of the rows is 0, the rest 1.
    let two = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0];
    let chain = Chain::fit(&[Quantile::default().into()], &DataSample { values: &two, dim: 1, levels: None }).unwrap();
    let state = host(&chain.encode(tensor(&[0.0, 1.0, 3.0], 1), &Keys::default()).unwrap());
    assert_close(state[0], normal_quantile(1.0 / 6.0), 1e-14, "the lower third");
    assert_close(state[1], normal_quantile(2.0 / 3.0), 1e-14, "the upper part");
    // The line goes on beyond the data, and decoding stays within.
    assert_close(state[2], state[1] + 2.0 * (state[1] - state[0]), 1e-13, "beyond");
    assert_eq!(host(&chain.decode(tensor(&[-40.0, 40.0], 1)).unwrap()), [0.0, 1.0]);
}

#[test]
fn the_normal_quantile_inverts_the_distribution() {
    for z in (-80..=80).map(|k| f64::from(k) * 0.1) {
        // From the side where the probability keeps its digits.
        let p = 0.5 * libm::erfc(z.abs() / std::f64::consts::SQRT_2);
        assert_close(normal_quantile(p), -z.abs(), 1e-14, z);
    }
    assert_close(normal_quantile(0.975), 1.959_963_984_540_054, 1e-15, "0.975");
    assert_eq!(normal_quantile(0.5), 0.0);
}

#[test]
fn every_level_comes_back_from_anywhere_in_its_interval() {
    for levels in [2u32, 3, 100, 256, 1000, 65_536] {
        let config = [Dequantize { levels: Some(levels) }.into()];
        let chain = Chain::fit(&config, &DataSample { values: &[0.0], dim: 1, levels: None }).unwrap();
        for dtype in [DType::F32, DType::F64] {
            // As data come: level/(levels − 1) in single precision.
            let x: Vec<f32> = (0..levels).map(|level| level as f32 / (levels - 1) as f32).collect();
            let values: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let x = tensor(&values, 1).cast(dtype);
            for seed in 0..20 {
                let y = chain.encode(x.clone(), &Keys::range(seed, 0, levels as usize)).unwrap();
                let back = host(&chain.decode(y.clone()).unwrap());
                for (level, back) in back.iter().enumerate() {
                    let found = back * f64::from(levels - 1);
                    assert!((found - level as f64).abs() < 0.01, "level {level} of {levels} in {dtype:?}: {found}");
                }
                let y = host(&y);
                assert!(y.iter().all(|y| (0.0..1.0).contains(y)));
            }
        }
    }
    // Every part of an interval is used, evenly: the fraction is uniform.
    let chain =
        Chain::fit(&[Dequantize { levels: Some(256) }.into()], &DataSample { values: &[0.0], dim: 1, levels: None });
    let x = tensor(&vec![0.2; 20_000], 1).cast(DType::F32);
    let y = host(&chain.unwrap().encode(x, &Keys::range(3, 0, 20_000)).unwrap());
    let (mean, variance) = moments(y.iter().map(|y| (256.0 * y).fract()));
    // Five standard errors: 5 √(1/12/20000), and of the variance 5 √(1/180/20000).
    assert!((mean - 0.5).abs() < 0.0103 && (variance - 1.0 / 12.0).abs() < 0.0027, "{mean}, {variance}");
    let refused = Chain::fit(
        &[Dequantize { levels: Some(1 << 24) }.into()],
        &DataSample { values: &[0.0], dim: 1, levels: None },
    )
    .unwrap_err();
    assert!(
        refused.to_string().contains("levels is 16777216: give a number of at least 2 and at most 65536"),
        "{refused}"
    );
}

#[test]
fn classes_become_indicators() {
    let values = [0.5, 2.0, 0.1, 1.0, 0.25, 0.0, 0.2, 0.0, 0.75, 1.0, 0.3, 1.0];
    let sample = DataSample { values: &values, dim: 4, levels: None };
    let chain = Chain::fit(&[OneHot { columns: vec![1, 3] }.into()], &sample).unwrap();
    assert_eq!(chain.state(&[4]).unwrap(), [2 + 3 + 2]);
    let x = tensor(&values.map(f64::from), 4);
    let state = chain.encode(x.clone(), &Keys::default()).unwrap();
    let first: Vec<f64> = [0.5, f64::from(0.1f32), 0.0, 0.0, 1.0, 0.0, 1.0].to_vec();
    assert_eq!(host(&state)[..7], first);
    assert_eq!(host(&chain.decode(state.mul_scalar(0.4).add_scalar(0.1)).unwrap())[1], 2.0);
    let unknown = chain.encode(tensor(&[0.0, 5.0, 0.0, 0.0], 4), &Keys::default()).unwrap_err();
    assert!(unknown.to_string().contains("column 1 of row 0 of the batch is none of the classes 0 to 2"), "{unknown}");
    assert!(chain.state(&[2, 2]).is_err());
}

#[test]
fn fitted_codecs_survive_their_files() {
    let values = data(50);
    for configs in chains() {
        let chain = Chain::fit(&configs, &sample(&values)).unwrap();
        let text = serde_json::to_string(&chain).unwrap();
        assert_eq!(serde_json::from_str::<Chain>(&text).unwrap(), chain, "{text}");
        let text = serde_json::to_string(&configs).unwrap();
        assert_eq!(serde_json::from_str::<Vec<AnyCodecConfig>>(&text).unwrap(), configs, "{text}");
    }
    assert_eq!(AnyCodec::NAMES, AnyCodecConfig::NAMES);
    let refuse = |text: &str| serde_json::from_str::<AnyCodec>(text).unwrap_err().to_string();
    assert!(refuse(r#"{"kind": "standardize", "mean": [0], "scale": [1, 2]}"#).contains("a positive scale per column"));
    let falling = r#"{"kind": "quantile", "columns": [{"data": [1, 0], "normal": [0, 1]}]}"#;
    assert!(refuse(falling).contains("must be finite and rise"));
}

/// A picture of 2 × 2 as its mean and the difference of its rows, and back.
struct Halves;

impl Autoencoder for Halves {
    fn latent_shape(&self) -> [usize; 3] {
        [1, 1, 2]
    }

    fn encode(&self, x: Tensor<2>, keys: Option<&Keys>) -> stein::Result<Tensor<2>> {
        assert_eq!(x.dims()[0], keys.unwrap().len());
        let [first, second] = [0, 2].map(|from| x.clone().narrow(1, from, 2).mean_dim(1));
        Ok(Tensor::cat(vec![(first.clone() + second.clone()).div_scalar(2.0), first - second], 1))
    }

    fn decode(&self, z: Tensor<2>) -> stein::Result<Tensor<2>> {
        let (mean, half) = (z.clone().narrow(1, 0, 1), z.narrow(1, 1, 1).div_scalar(2.0));
        let (first, second) = (mean.clone() + half.clone(), mean - half);
        Ok(Tensor::cat(vec![first.clone(), first, second.clone(), second], 1))
    }

    fn codes(&self, _: Tensor<2>) -> stein::Result<Option<(Vec<usize>, usize)>> {
        Ok(None)
    }
}

#[test]
fn latents_are_shifted_and_scaled_and_come_back() {
    let latents = Latents { pictures: [2, 2, 1], latents: [1, 1, 2], shift: 0.5, scale: 4.0, ..Latents::default() };
    let mut chain = Chain(vec![Affine { scale: 2.0, shift: 0.0 }.into(), latents.into()]);
    let text = serde_json::to_string(&chain).unwrap();
    let keys = Keys::range(0, 0, 2);
    let x = tensor(&[0.1, 0.1, 0.3, 0.3, 1.0, 1.0, 0.0, 0.0], 4);
    let bare = chain.encode(x.clone(), &keys).unwrap_err().to_string();
    assert!(bare.contains("its weights are missing"), "{bare}");
    chain.attach(Arc::new(Halves));
    assert_eq!(serde_json::from_str::<Chain>(&text).unwrap(), chain);
    assert_eq!(chain.state(&[2, 2, 1]).unwrap(), [1, 1, 2]);
    assert!(chain.state(&[2, 4, 1]).unwrap_err().to_string().contains("the data are [2, 4, 1]"));
    let state = chain.encode(x.clone(), &keys).unwrap();
    // 2x has the means 0.4 and 1, and the differences −0.4 and 2.
    all_close(&host(&state), &[-0.4, -3.6, 2.0, 6.0], 1e-12, "latents");
    all_close(&host(&chain.decode(state).unwrap()), &host(&x), 1e-12, "pictures");
    assert_eq!(chain.log_det(&x, &keys).unwrap(), None);
    assert_eq!(chain.range((0.0, 1.0)), None);
    // More than are brought through the network at a time.
    let many = x.repeat_dim(0, 20_000);
    let back = chain.decode(chain.encode(many.clone(), &Keys::range(0, 0, 40_000)).unwrap()).unwrap();
    assert!(host(&(back - many)).iter().all(|error| error.abs() < 1e-12));
}

#[test]
fn ranges_follow_the_data() {
    let values = data(50);
    let range = |configs: &[AnyCodecConfig]| Chain::fit(configs, &sample(&values)).unwrap().range((0.0, 1.0));
    assert_eq!(range(&[]), Some((0.0, 1.0)));
    assert_eq!(range(&[Symmetric {}.into()]), Some((-1.0, 1.0)));
    assert_eq!(range(&[Dequantize::default().into(), Symmetric {}.into()]), Some((-1.0, 1.0)));
    assert_eq!(range(&[Affine { scale: -2.0, shift: 1.0 }.into()]), Some((-1.0, 1.0)));
    assert_eq!(range(&[Logit::default().into(), Symmetric {}.into()]), None);
}

#[test]
fn what_cannot_be_fitted_is_refused_with_its_place() {
    let values = data(5);
    let none = DataSample { levels: None, ..sample(&values) };
    let refuse = |config: AnyCodecConfig| Chain::fit(&[Symmetric {}.into(), config], &none).unwrap_err().to_string();
    for (config, sentence) in [
        (Affine { scale: 0.0, shift: 0.0 }.into(), "codec 2 (affine): codec affine: scale = 0"),
        (Standardize { std: -1.0 }.into(), "std is -1"),
        (Quantile { knots: 1 }.into(), "knots is 1"),
        (Logit { margin: 0.5 }.into(), "margin = 0.5"),
        // What is symmetric is no longer from 0 to 1.
        (Logit::default().into(), "takes values from 0 to 1"),
        (Dequantize::default().into(), "give levels"),
        (Dequantize { levels: Some(1) }.into(), "levels is 1"),
        (OneHot { columns: vec![3] }.into(), "below the 3"),
        (OneHot { columns: vec![0] }.into(), "classes are 0, 1, 2"),
    ] as [(AnyCodecConfig, &str); 9]
    {
        assert!(refuse(config.clone()).contains(sentence), "{}", refuse(config));
    }
    assert!(Chain::fit(&[], &DataSample { values: &[1.0, f32::NAN], dim: 2, levels: None }).is_err());
    assert!(Chain::fit(&[], &DataSample { values: &[1.0, 2.0, 3.0], dim: 2, levels: None }).is_err());
    let chain = Chain::fit(&[Standardize::default().into()], &sample(&values)).unwrap();
    assert!(chain.state(&[2, 2]).unwrap_err().to_string().contains("rows of 3 numbers and is given rows of 4"));
    assert!(chain.encode(tensor(&[1.0, 2.0], 2), &Keys::default()).is_err());
}

//! What every network promises, and the operations they are made of.

use burn::tensor::{DType, Device, Tensor, TensorData};
use stein::{Condition, Context, Dual, Network};
use stein_nn::{EmbeddingConfig, MlpConfig, NetworkConfig, Unet1dConfig, UnetConfig, ops, state};

use crate::{matrix, output, shaken, small_mlp, small_unet, small_unet_1d, uniform, vector};

fn cases() -> Vec<(NetworkConfig, Vec<usize>)> {
    vec![
        (small_mlp(), vec![5]),
        (small_mlp(), vec![28, 28, 1]),
        (small_unet(&[1, 2], &[]), vec![8, 12, 3]),
        (small_unet(&[1, 2, 2], &[16]), vec![28, 28, 1]),
        (small_unet(&[1], &[]), vec![5, 3, 1]),
        (small_mlp(), vec![12, 3]),
        (small_unet_1d(&[1, 2], &[]), vec![16, 3]),
        (small_unet_1d(&[1, 2, 2], &[7]), vec![25, 2]),
        (small_unet_1d(&[1, 1, 1], &[]), vec![1, 1]),
    ]
}

fn largest(x: Tensor<2>) -> f32 {
    x.abs().max().into_scalar()
}

#[test]
fn a_fresh_network_is_the_zero_function() {
    for (config, shape) in cases() {
        let device = Device::flex();
        let dim = shape.iter().product();
        let network = config.build(&shape, 0, 1, &device).unwrap();
        let (x, noise) = (matrix(3, dim, 1, DType::F32, &device), vector(3, 2, DType::F32, &device));
        let y = output(&network, x, noise, &Condition::none());
        assert_eq!(y.dims(), [3, dim]);
        assert_eq!(largest(y), 0.0);
    }
}

#[test]
fn weights_are_a_function_of_the_seed() {
    for (config, shape) in cases() {
        let device = Device::flex();
        let build = |seed, device: &Device| state::tensors(&config.build(&shape, 2, seed, device).unwrap());
        let first = build(1, &device);
        device.seed(3);
        assert_eq!(first, build(1, &device.clone().autodiff()));
        assert_ne!(first, build(2, &device));
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    for (config, shape) in cases() {
        let device = Device::flex();
        let dim = shape.iter().product();
        let network = shaken(config.build(&shape, 4, 1, &device).unwrap(), DType::F32);
        let (x, noise) = (matrix(5, dim, 1, DType::F32, &device), vector(5, 2, DType::F32, &device));
        let given = Condition { class: Some(vec![Some(3), None, Some(1), Some(0), Some(2)]), ..Condition::none() };
        let all = output(&network, x.clone(), noise.clone(), &given);
        for row in 0..5 {
            let (x, noise) = (x.clone().narrow(0, row, 1), noise.clone().narrow(0, row, 1));
            let one = output(&network, x, noise, &given.select(&[row]));
            // Exactly: a sample is the same whatever the size of its batch.
            assert_eq!(largest(one - all.clone().narrow(0, row, 1)), 0.0, "{shape:?}, row {row}");
        }
    }
}

#[test]
fn noise_and_class_matter() {
    for (config, shape) in cases() {
        let device = Device::flex();
        let network = shaken(config.build(&shape, 2, 1, &device).unwrap(), DType::F32);
        let x = matrix(1, shape.iter().product(), 1, DType::F32, &device);
        let y = |noise: f32, class| {
            output(
                &network,
                x.clone(),
                Tensor::from_floats([noise], &device),
                &Condition { class, ..Condition::none() },
            )
        };
        let [first, second, none] = [Some(0), Some(1), None].map(|class| Some(vec![class]));
        assert!(largest(y(0.1, first.clone()) - y(0.2, first.clone())) > 1e-4);
        assert!(largest(y(0.1, first.clone()) - y(0.1, second)) > 1e-4);
        assert!(largest(y(0.1, first) - y(0.1, none.clone())) > 1e-4);
        // A batch without any class is one of rows without a class.
        assert_eq!(largest(y(0.1, none) - y(0.1, None)), 0.0);
    }
}

#[test]
fn a_condition_or_batch_of_the_wrong_kind_is_refused() {
    for (config, shape) in cases() {
        let device = Device::flex();
        let dim = shape.iter().product();
        let fails = |classes, width, numbers, given: Condition, part: &str| {
            let network = config.build(&shape, classes, 1, &device).unwrap();
            let (x, noise) = (matrix(2, width, 1, DType::F32, &device), vector(numbers, 2, DType::F32, &device));
            let error = network.forward(x.into(), &Context::new(noise, &given)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        fails(0, dim, 2, Condition::classes([0, 0]), "knows no classes");
        fails(3, dim, 2, Condition::classes([0, 3]), "class 3 is out of range: this model knows classes 0 to 2");
        fails(3, dim, 2, Condition::classes([0]), "1 classes for a batch of 2 rows");
        fails(0, dim + 1, 2, Condition::none(), "rows of");
        fails(0, dim, 3, Condition::none(), "3 noise numbers");
    }
}

#[test]
fn a_bad_config_fails_when_built() {
    let fails = |config: NetworkConfig, shape: &[usize], part: &str| {
        let error = config.build(shape, 0, 1, &Device::flex()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let mlp = |change: fn(&mut MlpConfig)| {
        let mut config = MlpConfig::default();
        change(&mut config);
        NetworkConfig::Mlp(config)
    };
    let unet = |change: fn(&mut UnetConfig)| {
        let mut config = UnetConfig::default();
        change(&mut config);
        NetworkConfig::Unet(config)
    };
    let series = |change: fn(&mut Unet1dConfig)| {
        let mut config = Unet1dConfig::default();
        change(&mut config);
        NetworkConfig::Unet1d(config)
    };
    let image = [32, 32, 3];
    fails(mlp(|_| ()), &[], "has no values");
    fails(mlp(|c| c.hidden = 0), &[4], "hidden");
    fails(mlp(|c| c.embedding_dim = 7), &[4], "embedding_dim");
    fails(mlp(|c| c.embedding = EmbeddingConfig::Fourier { scale: 0.0 }), &[4], "embedding.scale");
    let positional = |max_period, shift| EmbeddingConfig::Positional { max_period, shift, sine_first: false };
    let embedded = |embedding| NetworkConfig::Mlp(MlpConfig { embedding, ..MlpConfig::default() });
    fails(embedded(positional(1.0, 0)), &[4], "max_period");
    fails(embedded(positional(100.0, 2)), &[4], "embedding.shift is 2");
    let narrow = MlpConfig { embedding_dim: 2, embedding: positional(100.0, 1), ..MlpConfig::default() };
    fails(NetworkConfig::Mlp(narrow), &[4], "embedding.shift is 1");
    fails(unet(|_| ()), &[4], "works on images");
    fails(unet(|_| ()), &[32, 30, 3], "images of 32 x 30 cannot be halved 2 times");
    fails(unet(|_| ()), &[32, 30, 3], "divisible by 4");
    fails(unet(|c| c.channels = 7), &image, "channels");
    fails(unet(|c| c.multipliers.clear()), &image, "multipliers");
    fails(unet(|c| c.blocks = 0), &image, "blocks");
    fails(unet(|c| c.dropout = 1.0), &image, "dropout");
    fails(
        unet(|c| c.attention = vec![4]),
        &image,
        "lists height 4, but the lowest images of this network have height 8",
    );
    fails(unet(|c| c.groups = Some(0)), &image, "groups is 0");
    fails(unet(|c| c.groups = Some(3)), &image, "groups is 3, which does not divide the 64 channels");
    fails(unet(|c| c.epsilon = 0.0), &image, "epsilon is 0");
    fails(unet(|c| c.heads = 3), &image, "heads is 3, which does not divide the 128 channels");
    fails(unet(|_| ()), &[32, 3], "\"unet1d\" for series");
    fails(series(|_| ()), &[32], "works on series");
    fails(series(|_| ()), &image, "works on series");
    fails(series(|c| c.channels = 7), &[32, 3], "channels");
    fails(
        series(|c| c.attention = vec![8]),
        &[33, 3],
        "lists length 8, but the shortest series of this network have length 9",
    );
}

#[test]
fn configs_round_trip_and_refuse_unknown_keys() {
    let configs = [
        small_mlp(),
        small_unet(&[1, 2], &[16]),
        small_unet_1d(&[1, 2], &[16]),
        NetworkConfig::Mlp(MlpConfig {
            embedding: EmbeddingConfig::Positional { max_period: 100.0, shift: 1, sine_first: true },
            ..MlpConfig::default()
        }),
    ];
    for config in configs {
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<NetworkConfig>(&text).unwrap(), config);
        assert!(NetworkConfig::NAMES.iter().any(|name| text.contains(&format!("kind = \"{name}\""))));
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<NetworkConfig>(&text).unwrap(), config);
    }
    for name in NetworkConfig::NAMES {
        toml::from_str::<NetworkConfig>(&format!("kind = \"{name}\"")).unwrap();
        let error = toml::from_str::<NetworkConfig>(&format!("kind = \"{name}\"\nhiden = 3")).unwrap_err().to_string();
        assert!(error.contains("no key called `hiden`; known, nearest first:"), "{error}");
    }
    let error =
        toml::from_str::<NetworkConfig>("kind = \"mlp\"\n[embedding]\nkind = \"fourier\"\nsacle = 1.0").unwrap_err();
    assert!(error.to_string().contains("sacle"), "{error}");
}

#[test]
fn a_second_level_is_taken_where_it_is_built_in() {
    let device = Device::flex();
    let plain = [small_mlp(), small_unet(&[1, 2], &[]), small_unet_1d(&[1, 2], &[])];
    let second = plain.clone().map(|config| match config {
        NetworkConfig::Mlp(config) => NetworkConfig::Mlp(MlpConfig { second_level: true, ..config }),
        NetworkConfig::Unet(config) => NetworkConfig::Unet(UnetConfig { second_level: true, ..config }),
        NetworkConfig::Unet1d(config) => NetworkConfig::Unet1d(Unet1dConfig { second_level: true, ..config }),
        _ => unreachable!("these are all"),
    });
    for (plain, config) in plain.into_iter().zip(second) {
        let shape: &[usize] = match config {
            NetworkConfig::Mlp(_) => &[5],
            NetworkConfig::Unet(_) => &[4, 4, 1],
            _ => &[5, 2],
        };
        let dim = shape.iter().product();
        let given = Condition::none();
        let x = matrix(2, dim, 1, DType::F64, &device);
        let run = |config: &NetworkConfig, second: Option<Dual<1>>| {
            let network = shaken(config.build(shape, 3, 1, &device).unwrap(), DType::F64);
            let noise = vector(2, 2, DType::F64, &device).into();
            network.forward(x.clone().into(), &Context { noise, second, given: &given, dropout: None })
        };
        let number = |by: f64| vector(2, 3, DType::F64, &device) + vector(2, 4, DType::F64, &device) * by;
        let fails = |y: stein::Result<Dual<2>>, part: &str| {
            let error = y.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        fails(run(&plain, Some(number(0.0).into())), "takes one noise level");
        fails(run(&config, None), "takes a second noise level");
        fails(run(&config, Some(vector(3, 3, DType::F64, &device).into())), "3 second noise numbers");
        // Its tangent is the derivative along it.
        let at = |by: f64| run(&config, Some(number(by).into())).unwrap().value;
        let tangent = run(&config, Some(Dual::new(number(0.0), vector(2, 4, DType::F64, &device)))).unwrap().tangent;
        let (tangent, difference) = (values(tangent.unwrap()), values((at(1e-5) - at(-1e-5)) / 2e-5));
        let most = difference.iter().fold(0f64, |most, x| most.max(x.abs()));
        assert!(most > 1e-3, "the second level matters");
        assert!(tangent.iter().zip(&difference).all(|(a, b)| (a - b).abs() < 1e-6 * most));
        // What is not said in files stays as it was.
        assert!(!toml::to_string(&plain).unwrap().contains("second_level"));
        assert_eq!(toml::from_str::<NetworkConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    }
}

/// Far from its ends a series that is moved gives the output moved as far, attention and odd lengths included: nothing in the
/// network knows of positions.
#[test]
fn a_moved_series_gives_a_moved_output() {
    let (length, depth, margin, by) = (161, 2, 34, 2);
    let device = Device::flex();
    let network = shaken(small_unet_1d(&[1, 2], &[161]).build(&[length, depth], 0, 1, &device).unwrap(), DType::F64);
    let run = |from: usize| {
        let mut x = vec![0.0; length * depth];
        x[from * depth..(from + 5) * depth].copy_from_slice(&uniform(5 * depth, 4));
        let x = Tensor::<2>::from_data(TensorData::new(x, [1, length * depth]), (&device, DType::F64));
        values(output(&network, x, vector(1, 2, DType::F64, &device), &Condition::none()))
    };
    let (still, moved) = (run(78), run(78 + by));
    let inner = |y: &[f64], from: usize| y[from * depth..(from + length - 2 * margin) * depth].to_vec();
    let (still, moved, same) = (inner(&still, margin), inner(&moved, margin + by), inner(&moved, margin));
    let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0f64, |most, (a, b)| most.max((a - b).abs()));
    assert!(apart(&still, &moved) < 1e-9, "{} apart", apart(&still, &moved));
    assert!(apart(&still, &same) > 1e-2, "where it is matters to the output");
}

/// A `[2, 4, 6, 8]` tensor.
fn image(seed: u64) -> Tensor<4> {
    matrix(2, 192, seed, DType::F64, &Device::flex()).reshape([2, 4, 6, 8])
}

fn assert_close(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9), "{a:?}\n{b:?}");
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().try_into_vec().unwrap()
}

#[test]
fn operations_are_their_formulas() {
    let device = Device::flex();
    let x = values(image(1));
    let at = |x: &[f64], n: usize, h: usize, w: usize, c: usize| x[((n * 4 + h) * 6 + w) * 8 + c];
    let places = || (0..2).flat_map(|n| (0..4).flat_map(move |h| (0..6).map(move |w| (n, h, w))));

    let pooled: Vec<f64> = (0..2 * 2 * 3 * 8)
        .map(|i| {
            let (n, h, w, c) = (i / 48, i / 24 % 2, i / 8 % 3, i % 8);
            let square = [(0, 0), (0, 1), (1, 0), (1, 1)];
            square.iter().map(|(a, b)| at(&x, n, 2 * h + a, 2 * w + b, c)).sum::<f64>() / 4.0
        })
        .collect();
    assert_close(&values(ops::average_pool(image(1).into()).value), &pooled);
    assert_close(&values(ops::average_pool(ops::upsample_nearest(image(1).into())).value), &x);

    let (gamma, beta) = (values(vector(8, 2, DType::F64, &device)), values(vector(8, 3, DType::F64, &device)));
    let mut normed = Vec::new();
    for (n, h, w) in places() {
        for c in 0..8 {
            let group: Vec<f64> = (0..192).filter(|i| i % 8 / 4 == c / 4).map(|i| x[n * 192 + i]).collect();
            let mean = group.iter().sum::<f64>() / 96.0;
            let var = group.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 96.0;
            normed.push((at(&x, n, h, w, c) - mean) / (var + 1e-5).sqrt() * gamma[c] + beta[c]);
        }
    }
    let parameter = |seed| vector(8, seed, DType::F64, &device);
    let norm = ops::Norm {
        gamma: parameter(2),
        beta: parameter(3),
        groups: 2,
        epsilon: 1e-5,
        modulation: None,
        activation: None,
    };
    assert_close(&values(ops::group_norm(image(1).into(), &norm).value), &normed);

    let (k, v) = (values(image(4)), values(image(5)));
    let mut attended = Vec::new();
    for (n, h, w) in places() {
        for c in 0..8 {
            let head = c / 4 * 4..c / 4 * 4 + 4;
            let weight =
                |y, z| (head.clone().map(|c| at(&x, n, h, w, c) * at(&k, n, y, z, c)).sum::<f64>() / 2.0).exp();
            let there = || (0..4).flat_map(|y| (0..6).map(move |z| (y, z)));
            let sum: f64 = there().map(|(y, z)| weight(y, z)).sum();
            attended.push(there().map(|(y, z)| weight(y, z) * at(&v, n, y, z, c)).sum::<f64>() / sum);
        }
    }
    let rows = |seed| image(seed).reshape([2, 24, 8]).into();
    assert_close(&values(ops::attention(rows(1), rows(4), rows(5), 2).value), &attended);

    let kernel = values(vector(3 * 8 * 9, 6, DType::F64, &device));
    let weight = Tensor::<4>::from_data(TensorData::new(kernel.clone(), [3, 8, 3, 3]), (&device, DType::F64));
    let weight = weight.permute([2, 3, 1, 0]);
    for stride in [1, 2] {
        let mut convolved = Vec::new();
        for (n, h, w) in places().filter(|(_, h, w)| h % stride == 0 && w % stride == 0) {
            for o in 0..3 {
                let mut sum = gamma[o];
                for (i, tap) in kernel[o * 72..(o + 1) * 72].iter().enumerate() {
                    let (c, y, z) = (i / 9, h + i / 3 % 3, w + i % 3);
                    if (1..=4).contains(&y) && (1..=6).contains(&z) {
                        sum += tap * at(&x, n, y - 1, z - 1, c);
                    }
                }
                convolved.push(sum);
            }
        }
        let bias = Some(parameter(2).narrow(0, 0, 3));
        let layer = ops::Weighted { weight: weight.clone(), bias, packed: &ops::Packed::default() };
        let conv = ops::Conv { stride, ..ops::Conv::new(layer) };
        assert_close(&values(ops::conv2d(vec![image(1).into()], conv).value), &convolved);
    }
}

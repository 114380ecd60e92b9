//! What every network promises, walked: rows do not depend on their batch, gradients and tangents are derivatives, what is
//! dropped is a function of a row's key, and no part of a condition is ignored.

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Bool, DType, Device, Tensor},
};
use stein::{
    Condition, Context, Discrete, Kernel, Key, Keys, LevelList, Levels, Network, NoiseInput, Precondition,
    Preconditioned, Prediction, Purpose, Schedule, Tokens, jvp, vjp,
};
use stein_nn::{
    AdmConfig, AnyNetwork, DdpmConfig, DhariwalUnetConfig, DitConfig, MlpConfig, NcsnConfig, NcsnV2Config,
    NcsnppConfig, NetworkConfig, NoiseNumber, SongEncoder, SongUnetConfig, TextConfig, Told, Unet1dConfig,
    Unet2dConditionConfig, Unet2dConfig, UnetConfig, Wording,
    layers::{Dropout, Init},
};

use crate::{
    gradients::{Nudge, Picked},
    matrix, shaken,
};

const ROWS: usize = 3;
const CLASSES: usize = 3;
/// Central differences in f64, as in the tests of gradients.
const STEP: f64 = 1e-5;
const DROPOUT: f64 = 0.3;

/// A small network of one kind.
struct Case {
    config: NetworkConfig,
    shape: Vec<usize>,
    classes: usize,
    /// The width of its vectors.
    vector: usize,
    /// The channels of images beside its own.
    image: usize,
    /// Whether it is told texts.
    text: bool,
    drops: bool,
}

impl Case {
    fn new(config: impl Into<NetworkConfig>, shape: &[usize], classes: usize) -> Self {
        Self { config: config.into(), shape: shape.to_vec(), classes, vector: 0, image: 0, text: false, drops: true }
    }

    fn dim(&self) -> usize {
        self.shape.iter().product()
    }

    fn network(&self, kind: DType, device: &Device) -> AnyNetwork {
        if !self.text {
            return shaken(self.config.build(&self.shape, self.classes, 5, device).unwrap(), kind);
        }
        let text = TextConfig { width: 6, middle: 8, heads: 2, blocks: 2, ..TextConfig::default() };
        let wording = Wording { vocabulary: 9, length: 4, empty: vec![0, 1, 1, 1] };
        let told = Told::build(&text, &wording, &self.config, &self.shape, self.classes, 5, device).unwrap();
        let size = Told::size(&text, &wording, &self.config, &self.shape, self.classes).unwrap();
        assert_eq!(told.num_params(), size.parameters);
        shaken(AnyNetwork::own(told), kind)
    }

    /// All the network takes; the second row has no class and no text.
    fn given(&self, kind: DType) -> Condition {
        let device = Device::flex();
        Condition {
            class: (self.classes > 0).then(|| vec![Some(2), None, Some(0)]),
            vector: (self.vector > 0).then(|| matrix(ROWS, self.vector, 8, kind, &device)),
            text: self.text.then(|| vec![Some([0, 5, 7, 1].into()), None, Some([0, 8, 1, 1].into())]),
            tokens: None,
            image: (self.image > 0).then(|| {
                let [height, width] = [self.shape[0], self.shape[1]];
                let count = height * width * self.image;
                matrix(ROWS, count, 9, kind, &device).reshape([ROWS, height, width, self.image])
            }),
        }
    }

    fn x(&self, seed: u64, kind: DType) -> Tensor<2> {
        matrix(ROWS, self.dim(), seed, kind, &Device::flex())
    }
}

/// Numbers every network takes: whole ones above 0 are levels, steps, labels and standard deviations.
fn noise(kind: DType) -> Tensor<1> {
    Tensor::from_data([3.0, 1.0, 6.0], (&Device::flex(), kind))
}

fn cases() -> Vec<Case> {
    let image = [8, 8, 3];
    let mlp = MlpConfig { hidden: 16, blocks: 2, embedding_dim: 8, ..MlpConfig::default() };
    let unet = UnetConfig {
        channels: 8,
        multipliers: vec![1, 2],
        blocks: 1,
        attention: vec![4],
        heads: 2,
        dropout: DROPOUT,
        ..UnetConfig::default()
    };
    // Of a length that has to be cut twice on the way up.
    let unet_1d = Unet1dConfig {
        channels: 8,
        multipliers: vec![1, 2, 2],
        blocks: 1,
        attention: vec![5],
        heads: 2,
        dropout: DROPOUT,
        ..Unet1dConfig::default()
    };
    let ncsn = NcsnConfig { channels: 4, inputs: 1, outputs: 1, ..NcsnConfig::default() };
    let ncsn_v2 = NcsnV2Config { channels: 4, inputs: 1, outputs: 1, levels: 10, ..NcsnV2Config::default() };
    let ddpm = DdpmConfig {
        size: 8,
        channels: 32,
        multipliers: vec![1, 1],
        blocks: 1,
        attention: vec![4],
        dropout: DROPOUT,
        ..DdpmConfig::default()
    };
    let ncsnpp = NcsnppConfig {
        size: 8,
        channels: 8,
        multipliers: vec![1, 2],
        blocks: 1,
        attention: vec![4],
        dropout: DROPOUT,
        noise: NoiseNumber::Fourier { scale: 1.0 },
        ..NcsnppConfig::default()
    };
    let song = SongUnetConfig {
        height: 8,
        classes: CLASSES,
        augment: 2,
        channels: 8,
        multipliers: vec![1, 2],
        blocks: 1,
        attention: vec![4],
        dropout: DROPOUT,
        encoder: SongEncoder::Skip,
        ..SongUnetConfig::default()
    };
    let dhariwal = DhariwalUnetConfig {
        height: 8,
        classes: CLASSES,
        channels: 16,
        multipliers: vec![1, 4],
        blocks: 1,
        attention: vec![4],
        dropout: DROPOUT,
        ..DhariwalUnetConfig::default()
    };
    // It learns variances, and sees two channels of another image.
    let adm = AdmConfig {
        inputs: 5,
        outputs: 6,
        classes: CLASSES,
        channels: 32,
        multipliers: vec![1.0, 1.0],
        blocks: 1,
        attention: vec![2],
        heads: 2,
        dropout: DROPOUT,
        ..AdmConfig::default()
    };
    let unet2d = Unet2dConfig {
        classes: CLASSES,
        channels: vec![8, 16],
        blocks: 1,
        attention: vec![1],
        dropout: DROPOUT,
        ..Unet2dConfig::default()
    };
    let unet2d_condition = Unet2dConditionConfig { dropout: DROPOUT, ..attending(3) };
    let by_class =
        Unet2dConditionConfig { classes: CLASSES, class_token: true, modulate: true, ..unet2d_condition.clone() };
    let dit = DitConfig {
        size: 8,
        inputs: 3,
        outputs: 3,
        classes: CLASSES,
        channels: 8,
        blocks: 2,
        heads: 2,
        ..DitConfig::default()
    };
    let cases = vec![
        Case { drops: false, ..Case::new(mlp, &[5], CLASSES) },
        Case::new(unet, &image, CLASSES),
        Case::new(unet_1d, &[9, 2], CLASSES),
        Case { drops: false, ..Case::new(ncsn, &[8, 8, 1], 0) },
        Case { drops: false, ..Case::new(ncsn_v2, &[8, 8, 1], 0) },
        Case::new(ddpm, &image, 0),
        Case::new(ncsnpp, &image, 0),
        Case { vector: 2, ..Case::new(song, &image, CLASSES) },
        Case::new(dhariwal, &image, CLASSES),
        Case { image: 2, ..Case::new(adm, &image, CLASSES) },
        Case::new(unet2d, &image, CLASSES),
        Case { text: true, ..Case::new(unet2d_condition, &image, 0) },
        Case::new(by_class, &image, CLASSES),
        Case { drops: false, ..Case::new(dit, &image, CLASSES) },
    ];
    let mut kinds: Vec<&str> = cases.iter().map(|case| case.config.kind()).collect();
    kinds.dedup();
    assert_eq!(kinds, NetworkConfig::NAMES, "every network is here");
    cases
}

fn run(network: &AnyNetwork, x: Tensor<2>, context: &Context) -> Tensor<2> {
    network.forward(x.into(), context).unwrap().value
}

fn read(x: Tensor<2>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn largest(x: Tensor<2>) -> f64 {
    x.abs().max().into_scalar::<f64>()
}

#[test]
fn rows_do_not_depend_on_their_batch() {
    for case in cases() {
        let network = case.network(DType::F32, &Device::flex());
        let (x, given) = (case.x(1, DType::F32), case.given(DType::F32));
        let all = run(&network, x.clone(), &Context::new(noise(DType::F32), &given));
        for row in 0..ROWS {
            let given = given.select(&[row]);
            let noise = noise(DType::F32).narrow(0, row, 1);
            let one = run(&network, x.clone().narrow(0, row, 1), &Context::new(noise, &given));
            let apart = largest(one - all.clone().narrow(0, row, 1));
            assert_eq!(apart, 0.0, "{}, row {row}", case.config.kind());
        }
    }
}

#[test]
fn gradients_of_parameters_are_derivatives() {
    struct Trained(Vec<bool>);
    impl ModuleVisitor for Trained {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.val().is_require_grad());
        }
    }
    for case in cases() {
        let network = case.network(DType::F64, &Device::flex().autodiff());
        let (plain, given) = (network.valid(), case.given(DType::F64));
        let loss = |network: &AnyNetwork| {
            let y = run(network, case.x(1, DType::F64), &Context::new(noise(DType::F64), &given));
            let weights = matrix(ROWS, y.dims()[1], 3, DType::F64, &Device::flex());
            (y * weights).sum()
        };
        let gradients = loss(&network).backward();
        let (mut picked, mut trained) = (Picked(&gradients, Vec::new()), Trained(Vec::new()));
        network.visit(&mut picked);
        network.visit(&mut trained);
        let mut pairs = Vec::new();
        for (which, (gradient, trained)) in picked.1.into_iter().zip(trained.0).enumerate() {
            // What is not trained has none; what takes no part in the output has a derivative of zero.
            assert!(trained || gradient.is_none());
            let (at, backward) = gradient.unwrap_or((0, 0.0));
            if trained {
                let moved = |by: f64| loss(&plain.clone().map(&mut Nudge(which, at, by))).into_scalar::<f64>();
                pairs.push((which, backward, (moved(STEP) - moved(-STEP)) / (2.0 * STEP)));
            }
        }
        // A derivative of zero is a difference of the rounding of the loss.
        let most = pairs.iter().fold(0f64, |most, (_, _, difference)| most.max(difference.abs()));
        for (which, backward, difference) in pairs {
            let apart = (backward - difference).abs();
            let kind = case.config.kind();
            assert!(
                apart <= 1e-6 * (difference.abs() + 0.01 * most),
                "{kind}, parameter {which}: {backward} by backpropagation, {difference} by differences"
            );
        }
    }
}

/// The levels of the rows: those of the noise numbers.
fn levels() -> (Discrete, Vec<Kernel>) {
    let schedule = Discrete::new(LevelList::Linear { first: 1e-4, last: 0.02, count: 10 }).unwrap();
    let at = [3.0, 1.0, 6.0].map(|t| schedule.kernel(t)).into();
    (schedule, at)
}

#[test]
fn denoisers_differentiate_both_ways() {
    for case in cases() {
        let what = case.config.kind();
        let (schedule, at) = levels();
        let at = Levels::Each(&at);
        let settings =
            Precondition::unscaled(Prediction::V {}, NoiseInput::Level { noisiest_first: false, factor: 1.0 });
        let network = case.network(DType::F64, &Device::flex());
        let denoiser = Preconditioned::new(network, settings, schedule.into()).unwrap();
        let given = case.given(DType::F64);
        let [x, w, v] = [1, 2, 4].map(|seed| case.x(seed, DType::F64));

        let (_, product) = jvp(&denoiser, x.clone(), w.clone(), at, &given).unwrap();
        let moved = |by: f64| stein::denoise(&denoiser, x.clone() + w.clone() * by, at, &given).unwrap();
        let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        let (apart, size) = (largest(product.clone() - difference.clone()), largest(difference));
        assert!(size > 1e-3 && apart <= 1e-6 * size, "{what}: the tangent is {apart:e} off, of {size:e}");

        let (_, transposed) = vjp(&denoiser, x, v.clone(), at, &given).unwrap();
        let sum = |a: Tensor<2>, b: Tensor<2>| read(a).into_iter().zip(read(b)).map(|(a, b)| a * b).sum::<f64>();
        let (one, other) = (sum(v, product), sum(transposed, w));
        assert!((one - other).abs() <= 1e-6 * one.abs(), "{what}: {one} and {other}");
    }
}

#[test]
fn learned_variances_come_after_the_values_of_a_row() {
    let case = cases().into_iter().find(|case| case.config.kind() == "adm").unwrap();
    let network = case.network(DType::F32, &Device::flex());
    let (x, given) = (case.x(1, DType::F32), case.given(DType::F32));
    let y = run(&network, x.clone(), &Context::new(noise(DType::F32), &given));
    assert_eq!(y.dims(), [ROWS, 2 * case.dim()]);
    // The last convolution of a network of as many channels again, all of whose output channels but one are zeros.
    struct Only(usize);
    impl burn::module::ModuleMapper for Only {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let dims = param.dims();
            if dims[D - 1] != 6 {
                return param;
            }
            let Only(kept) = *self;
            let mut mask = vec![0f32; 6];
            mask[kept] = 1.0;
            let mut shape = [1; D];
            shape[D - 1] = 6;
            param.map(|value| value * Tensor::<1>::from_floats(mask.as_slice(), &Device::flex()).reshape(shape))
        }
    }
    for kept in 0..6 {
        let network = network.clone().map(&mut Only(kept));
        let y = read(run(&network, x.clone(), &Context::new(noise(DType::F32), &given)));
        for (place, value) in y.into_iter().enumerate() {
            let channel = place % (2 * case.dim()) / case.dim() * 3 + place % 3;
            assert!(channel == kept || value == 0.0, "place {place} of channel {kept}");
        }
    }
}

#[test]
fn what_is_dropped_is_a_function_of_the_key_of_a_row() {
    for case in cases() {
        let what = case.config.kind();
        let network = case.network(DType::F32, &Device::flex());
        let (x, given) = (case.x(1, DType::F32), case.given(DType::F32));
        let some = |rows: &[usize], dropout: Option<&Keys>| {
            let (first, count) = (rows[0], rows.len());
            let given = given.select(rows);
            let noise = noise(DType::F32).narrow(0, first, count).into();
            let context = Context { noise, second: None, given: &given, dropout };
            run(&network, x.clone().narrow(0, first, count), &context)
        };
        let keys = Keys::range(7, 100, ROWS);
        let all = some(&[0, 1, 2], Some(&keys));
        let parts = [vec![0, 1], vec![2]].map(|rows| some(&rows, Some(&keys.select(&rows))));
        assert_eq!(largest(Tensor::cat(parts.into(), 0) - all.clone()), 0.0, "{what} cut in two");
        assert_eq!(largest(some(&[0, 1, 2], Some(&keys)) - all.clone()), 0.0, "{what} again");
        for other in [None, Some(Keys::range(8, 100, ROWS)), Some(Keys::range(7, 200, ROWS))] {
            let apart = some(&[0, 1, 2], other.as_ref()) - all.clone();
            // Every row has another mask, or none.
            let rows: Vec<f64> = (0..ROWS).map(|row| largest(apart.clone().narrow(0, row, 1))).collect();
            assert!(rows.iter().all(|apart| (*apart > 0.0) == case.drops), "{what}: {rows:?}");
        }
        let error = network
            .forward(
                x.clone().into(),
                &Context {
                    noise: noise(DType::F32).into(),
                    second: None,
                    given: &given,
                    dropout: Some(&Keys::range(7, 0, 2)),
                },
            )
            .unwrap_err();
        assert!(error.to_string().contains("2 keys for dropout"), "{error}");
    }
}

#[test]
fn dropout_keeps_values_at_its_rate() {
    let (rows, count) = (4, 4096);
    let (keys, given) = (Keys { seed: 1, rows: vec![5, 9, 2, 5] }, Condition::none());
    let noise = Tensor::<1>::zeros([rows], &Device::flex());
    let ones = || Tensor::<2>::ones([rows, count], &Device::flex());
    let context = Context { dropout: Some(&keys), ..Context::new(noise, &given) };
    let masks = |rate: f64| {
        let dropout = Dropout::new(rate, &context);
        [(); 2].map(|()| read(dropout.forward(ones().into()).value))
    };
    let ([first, second], [less, _]) = (masks(0.4), masks(0.1));
    for mask in [&first, &second] {
        let kept = mask.iter().filter(|value| **value != 0.0).count() as f64;
        // Five standard deviations of a binomial count, over three rows of numbers of their own.
        let total = (rows * count) as f64;
        assert!((kept - 0.6 * total).abs() < 5.0 * (0.24 * total * 4.0 / 3.0).sqrt(), "{kept} kept");
        assert!(mask.iter().all(|value| *value == 0.0 || (value - 1.0 / 0.6).abs() < 1e-6));
        // A row is a function of its number alone.
        assert_eq!(mask[..count], mask[3 * count..]);
        assert_ne!(mask[..count], mask[count..2 * count]);
    }
    assert_ne!(first, second, "layers have masks of their own");
    // What a lower rate drops, a higher one drops too.
    assert!(less.iter().zip(&first).all(|(less, more)| *less != 0.0 || *more == 0.0));
    // The mask is the stream of the row and the number of the layer.
    let mut generator = Key::new(1, Purpose::Dropout).at(9).step(1).generator();
    let drops = |_| rand::Rng::next_u32(&mut generator) < (0.4 * 2f64.powi(32)) as u32;
    let wanted: Vec<bool> = (0..count).map(drops).collect();
    assert_eq!(second[count..2 * count].iter().map(|value| *value == 0.0).collect::<Vec<_>>(), wanted);
    // Without keys, or at rate 0, nothing drops.
    for dropout in [Dropout::none(), Dropout::new(0.0, &context)] {
        assert!(!dropout.is_on() && read(dropout.forward(ones().into()).value).iter().all(|value| *value == 1.0));
    }
}

#[test]
fn what_a_network_does_not_take_is_refused() {
    for case in cases() {
        let device = Device::flex();
        let network = case.network(DType::F32, &device);
        let (x, given) = (case.x(1, DType::F32), case.given(DType::F32));
        let refused = |given: Condition, part: &str| {
            let context = Context::new(noise(DType::F32), &given);
            let error = network.forward(x.clone().into(), &context).unwrap_err().to_string();
            assert!(error.contains(part), "{}: {error}", case.config.kind());
        };
        let tokens = |mask| Some(Tokens { values: Tensor::ones([ROWS, 2, 4], &device), mask });
        let part = if case.text { "reads texts, and the condition has tokens" } else { "attends to no tokens" };
        refused(Condition { tokens: tokens(None), ..given.clone() }, part);
        if case.text {
            let text = Some(vec![Some([0, 9, 1, 1].into()); ROWS]);
            refused(Condition { text, ..given.clone() }, "9");
            let text = Some(vec![None; ROWS - 1]);
            refused(Condition { text, ..given.clone() }, "give one per row");
        } else {
            refused(Condition { text: Some(vec![None; ROWS]), ..given.clone() }, "reads no texts");
        }
        let vector = Some(matrix(ROWS, 7, 1, DType::F32, &device));
        let part = if case.vector > 0 { "vectors of 7 numbers: this network takes 2" } else { "takes no vectors" };
        refused(Condition { vector, ..given.clone() }, part);
        let image = Some(Tensor::ones([ROWS, 8, 8, 1], &device));
        let part = if case.image > 0 { "takes 8 x 8 x 2 beside its own" } else { "takes no images beside its own" };
        refused(Condition { image, ..given.clone() }, part);
        if case.image > 0 {
            refused(Condition { image: None, ..given.clone() }, "an image of 2 channels per row");
        }
        let class = Some(vec![Some(3); ROWS]);
        let part = if case.classes > 0 { "class 3 is out of range" } else { "knows no classes" };
        refused(Condition { class, ..given.clone() }, part);
        // Rows without a class are nothing to know.
        let none = Condition { class: Some(vec![None; ROWS]), ..given.clone() };
        let without = Condition { class: None, ..given.clone() };
        let [none, without] =
            [none, without].map(|given| run(&network, x.clone(), &Context::new(noise(DType::F32), &given)));
        assert_eq!(largest(none - without), 0.0);
        let second = Some(noise(DType::F32).into());
        let context = Context { second, ..Context::new(noise(DType::F32), &given) };
        let error = network.forward(x.clone().into(), &context).unwrap_err().to_string();
        assert!(error.contains("this network takes one noise level"), "{error}");
    }
}

/// A small network that attends to tokens of width 6.
fn attending(channels: usize) -> Unet2dConditionConfig {
    Unet2dConditionConfig {
        inputs: channels,
        outputs: channels,
        context: 6,
        channels: vec![8, 8],
        blocks: 1,
        attention: vec![0],
        heads: vec![2, 2],
        layers: vec![1, 1],
        groups: 4,
        ..Unet2dConditionConfig::default()
    }
}

#[test]
fn tokens_are_attended_to_without_a_mask() {
    let device = Device::flex();
    let network = attending(2).build(&mut Init::new(1, &device)).unwrap();
    let x = matrix(2, 4 * 4 * 2, 1, DType::F32, &device).reshape([2, 4, 4, 2]);
    let run = |tokens: Option<Tokens>| {
        let given = Condition { tokens, ..Condition::none() };
        let context = Context::new(Tensor::from_data([3.0, 5.0], (&device, DType::F32)), &given);
        network.images(x.clone().into(), &context).map(|y| y.value.dims())
    };
    let values = matrix(2, 3 * 6, 2, DType::F32, &device).reshape([2, 3, 6]);
    assert_eq!(run(Some(Tokens { values: values.clone(), mask: None })).unwrap(), [2, 4, 4, 2]);
    let refused = |tokens, part: &str| {
        let error = run(tokens).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(None, "attends to tokens");
    let narrow = values.clone().narrow(2, 0, 5);
    refused(Some(Tokens { values: narrow, mask: None }), "one or more of width 6");
    let mask = Tensor::<2, Bool>::from_data([[true, true, false], [true; 3]], &device);
    refused(Some(Tokens { values, mask: Some(mask) }), "leave the mask out");
}

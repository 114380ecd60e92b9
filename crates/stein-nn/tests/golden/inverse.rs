//! Gradients of inverse problems through published networks against those of the published code: of DPS's norm, and of ΠGDM's Gaussian
//! with its noise and without.

use std::{path::Path, sync::Arc};

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use stein::{
    AnySchedule, Condition, Context, Denoiser, Dual, Edm, NoiseInput, Precondition, Preconditioned, Prediction, Vp,
    denoise,
    inverse::{Dense, Noise, Operator, Pigdm, Problem, norm_gradient},
    rows::host,
    vjp,
};
use stein_nn::{
    Tensors,
    import::{Weights, edm::open_song, score_sde::open_ncsnpp},
    read_tensors, state,
};

use crate::{fixture, likelihood::OnRows};

const SIZE: usize = 16;
const SHAPE: [usize; 3] = [SIZE, SIZE, 3];
const NOISE: f64 = 0.05;

/// A stored batch of pictures, with their channels last.
fn rows(io: &Tensors, name: &str) -> Tensor<2> {
    let values: Vec<f64> = io[name].iter::<f64>().collect();
    let [count, channels, height, width] = io[name].shape()[..] else { panic!("{name} is no batch of pictures") };
    let data = TensorData::new(values, [count, channels, height, width]);
    let pictures = Tensor::<4>::from_data(data, (&Device::flex(), DType::F64)).permute([0, 2, 3, 1]);
    pictures.reshape([count, height * width * channels])
}

/// What a matrix of planes makes of pictures, channel by channel.
fn of_planes(outputs: usize, entry: impl Fn(usize, usize) -> f64) -> Arc<dyn Operator> {
    let inputs = SIZE * SIZE;
    let mut a = vec![0.0; 9 * outputs * inputs];
    for (i, j) in (0..outputs).flat_map(|i| (0..inputs).map(move |j| (i, j))) {
        let value = entry(i, j);
        (0..3).for_each(|c| a[(3 * i + c) * 3 * inputs + 3 * j + c] = value);
    }
    Arc::new(Dense::new(3 * outputs, 3 * inputs, &a).unwrap())
}

fn operators(io: &Tensors) -> [(&'static str, Arc<dyn Operator>); 3] {
    let numbers = |name: &str| io[name].iter::<f64>().collect::<Vec<f64>>();
    let (mask, taps) = (numbers("mask"), numbers("blur_taps"));
    let inpaint = of_planes(SIZE * SIZE, |i, j| if i == j { mask[i] } else { 0.0 });
    let half = SIZE / 2;
    let pool = of_planes(half * half, |i, j| {
        let same = (j / SIZE / 2, j % SIZE / 2) == (i / half, i % half);
        if same { 0.25 } else { 0.0 }
    });
    let tap = |a: usize, b: usize| taps.get((a + 2 + SIZE - b) % SIZE).copied().unwrap_or(0.0);
    let blur = of_planes(SIZE * SIZE, |i, j| tap(i / SIZE, j / SIZE) * tap(i % SIZE, j % SIZE));
    [("inpaint", inpaint), ("pool", pool), ("blur", blur)]
}

/// Equal but for the order of sums: to 1e-9 of the largest number.
fn close(found: &Tensor<2>, wanted: &Tensor<2>, what: &str) {
    let (found, wanted) = (host(found), host(wanted));
    assert_eq!(found.len(), wanted.len(), "{what}");
    let largest = wanted.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let error = found.iter().zip(&wanted).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()));
    println!("{what}: {:.1e} of {largest:.1e}", error / largest);
    assert!(error <= 1e-9 * largest, "{what}: off by {error:.1e}, and the largest is {largest:.1e}");
}

fn compare(model: &dyn Denoiser, schedule: &AnySchedule, name: &str, levels: [f64; 2]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden_methods/inverse_dps");
    let io = read_tensors(&folder.join("io.safetensors")).unwrap();
    let given = Condition::none();
    for (level, t) in levels.into_iter().enumerate() {
        let stored = |what: &str| rows(&io, &format!("{name}.level{level}.{what}"));
        let (at, x) = (schedule.kernel(t), stored("x_t"));
        let denoised = denoise(model, x.clone(), (&at).into(), &given).unwrap();
        close(&denoised, &stored("x0hat_f64"), &format!("{name} at {t}, estimate"));
        let pulled = |direction: Tensor<2>| vjp(model, x.clone(), direction, (&at).into(), &given).unwrap().1;
        for (kind, operator) in operators(&io) {
            let what = |part: &str| format!("{name} at {t}, {kind}, {part}");
            let problem = |std: f64| {
                let y = host(&rows(&io, &format!("{kind}.y")));
                Problem::new(Arc::clone(&operator), Noise::Gaussian { std }, y).unwrap()
            };
            let (noisy, clean, guidance) = (problem(NOISE), problem(0.0), Pigdm::default());
            let gradient = pulled(norm_gradient(&noisy, &denoised));
            close(&gradient, &stored(&format!("{kind}.grad_norm_f64")), &what("gradient of the norm"));
            let direction = guidance.direction(&noisy, &denoised, &at).unwrap();
            close(&direction, &stored(&format!("{kind}.pigdm_direction_f64")), &what("direction"));
            close(&pulled(direction), &stored(&format!("{kind}.pigdm_grad_f64")), &what("guidance"));
            // The blur's pseudo-inverse without noise is not stored.
            if kind != "blur" {
                let direction = guidance.direction(&clean, &denoised, &at).unwrap();
                let gradient = pulled(direction).mul_scalar(guidance.variance(&at));
                close(&gradient, &stored(&format!("{kind}.pgdm_noiseless_grad_f64")), &what("guidance without noise"));
            }
        }
    }
}

#[test]
fn gradients_through_ncsnpp_are_the_published_ones() {
    let Some((_, config, weights)) = fixture("score_sde_ncsnpp_vp") else { return };
    let network = state::cast(open_ncsnpp(&config, Weights::Theirs(&weights)).unwrap().network, DType::F64).valid();
    let network = OnRows(move |x: Dual<4>, context: &Context| network.images(x, context), SHAPE);
    let schedule = AnySchedule::from(Vp { t_min: 1e-5, ..Vp::default() });
    let settings = Precondition::unscaled(Prediction::Eps {}, NoiseInput::Time { factor: 999.0 });
    let model = Preconditioned::new(network, settings, schedule.clone()).unwrap();
    compare(&model, &schedule, "vp", [0.12, 0.6]);
}

#[test]
fn gradients_through_ddpmpp_are_the_published_ones() {
    let Some((_, config, weights)) = fixture("edm_song_ddpmpp") else { return };
    let network = state::cast(open_song(&config, Weights::Theirs(&weights)).unwrap().network, DType::F64).valid();
    let network = OnRows(move |x: Dual<4>, context: &Context| network.images(x, context), SHAPE);
    let schedule = AnySchedule::from(Edm::default());
    let model = Preconditioned::new(network, Precondition::edm(0.5), schedule.clone()).unwrap();
    compare(&model, &schedule, "edm", [0.3, 5.0]);
}

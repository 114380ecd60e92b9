//! Log-densities of published networks against those of their repository: the field and its divergence at points, an integration on
//! a fixed grid, and adaptive runs in its convention.

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use serde_json::Value;
use stein::{
    AnySchedule, Condition, Context, Dual, Network, NoiseInput, Precondition, Preconditioned, Prediction,
    ProbabilityFlow, Result, Ve, Vp,
    flow::Flow,
    likelihood::{Divergence, OdeLikelihood, Paths, Prior, Truncation},
    ode::{self, Steps, Times},
    rows::host,
};
use stein_nn::{
    Tensors,
    import::{
        Weights,
        score_sde::{open_ddpm, open_ncsnpp},
    },
    read_tensors, state,
};

use crate::fixture;

/// A network of images of one size, on rows.
pub struct OnRows<F>(pub F, pub [usize; 3]);

impl<F: Fn(Dual<4>, &Context) -> Result<Dual<4>> + Send + Sync> Network for OnRows<F> {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let (count, [height, width, channels]) = (x.dims()[0], self.1);
        let y = (self.0)(x.reshape([count, height, width, channels]), context)?;
        Ok(y.reshape([count, height * width * channels]))
    }
}

/// What is stored of a network.
struct Stored {
    name: &'static str,
    io: Tensors,
    values: Value,
    schedule: AnySchedule,
    settings: Precondition,
    prior: f64,
    /// Height, width and channels of its pictures.
    shape: [usize; 3],
}

impl Stored {
    fn of(name: &'static str) -> Option<Self> {
        let (folder, ..) = fixture("score_sde_ddpm")?;
        let folder = folder.join("../../golden_methods/likelihood_score_sde");
        let io = read_tensors(&folder.join("io.safetensors")).unwrap();
        let all: Value = serde_json::from_slice(&std::fs::read(folder.join("fixture.json")).unwrap()).unwrap();
        let vp = || (AnySchedule::from(Vp { t_min: 1e-5, ..Vp::default() }), NoiseInput::Time { factor: 999.0 }, 1.0);
        let (schedule, noise, prior) = match name {
            "ve" => (Ve::default().into(), NoiseInput::Sigma {}, 50.0),
            _ => vp(),
        };
        // The network of VE gives the score, those of VP -σ times it.
        let prediction = if name == "ve" { Prediction::Score {} } else { Prediction::Eps {} };
        let data = &io[&format!("{name}.data")].shape();
        let shape = [data[2], data[3], data[1]];
        let values = all["values"][name].clone();
        Some(Self { name, io, values, schedule, settings: Precondition::unscaled(prediction, noise), prior, shape })
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        self.io[&format!("{}.{name}", self.name)].iter::<f64>().collect()
    }

    /// Pictures with their channels last, as rows.
    fn rows(&self, name: &str) -> Tensor<2> {
        let [height, width, channels] = self.shape;
        let values = self.numbers(name);
        let count = values.len() / (height * width * channels);
        let data = TensorData::new(values, [count, channels, height, width]);
        let pictures = Tensor::<4>::from_data(data, (&Device::flex(), DType::F64)).permute([0, 2, 3, 1]);
        pictures.reshape([count, height * width * channels])
    }

    fn compare(&self, adaptive: &[(f64, f64)]) {
        let network = self.values["network"].as_str().unwrap();
        let Some((_, config, weights)) = fixture(network) else { return };
        let weights = Weights::Theirs(&weights);
        if network.contains("ddpm") {
            let network = state::cast(open_ddpm(&config, weights).unwrap().network, DType::F64).valid();
            self.compare_with(OnRows(move |x, context: &Context| network.images(x, context), self.shape), adaptive);
        } else {
            let network = state::cast(open_ncsnpp(&config, weights).unwrap().network, DType::F64).valid();
            self.compare_with(OnRows(move |x, context: &Context| network.images(x, context), self.shape), adaptive);
        }
    }

    fn compare_with<N: Network>(&self, network: N, adaptive: &[(f64, f64)]) {
        let (name, given) = (self.name, Condition::none());
        let model = Preconditioned::new(network, self.settings, self.schedule.clone()).unwrap();
        let directions = [self.rows("probe")];
        let velocity = ProbabilityFlow(&model);
        let flow = Flow { velocity: &velocity, schedule: &*self.schedule, given: &given };
        let paths = Paths { flow, directions: &directions };
        let state = |x: Tensor<2>| {
            let count = x.dims()[0];
            Tensor::cat(vec![x, Tensor::zeros([count, 1], (&Device::flex(), DType::F64))], 1)
        };
        let dim: usize = self.shape.iter().product();
        for point in 0..3 {
            let at = |part: &str| format!("point{point}.{part}_f64");
            let t = self.numbers(&at("t"))[0];
            let slope = paths.slope(&state(self.rows(&at("x"))), Times::Same(t), &[0, 1]).unwrap();
            let what = format!("{name} at t = {t}");
            close(&host(&slope.clone().narrow(1, 0, dim)), &host(&self.rows(&at("drift"))), 1e-9, &what);
            close(&host(&slope.narrow(1, dim, 1)), &self.numbers(&at("divergence")), 1e-9, &what);
        }
        // Classical Runge-Kutta on 40 intervals.
        let time = |k: usize| 1e-5 + (1.0 - 1e-5) * (k as f64 / 40.0).powi(2);
        let data = self.rows("data");
        let mut here = state(data.clone());
        for k in 0..40 {
            let mut slope = |state: &Tensor<2>, times: Times, of: &[usize]| paths.slope(state, times, of);
            here = ode::integrate(&mut slope, here, time(k), time(k + 1), &ode::RK4, Steps::Fixed(1)).unwrap().x;
        }
        let grown = &self.values["grid_amplification_of_input_change"];
        let allowed = |what: &str| (1e-12 * grown[what].as_f64().unwrap()).max(1e-9);
        let what = format!("{name} on the grid");
        close(&host(&here.clone().narrow(1, 0, dim)), &host(&self.rows("grid.z_f64")), allowed("z"), &what);
        close(&host(&here.narrow(1, dim, 1)), &self.numbers("grid.delta_logp_f64"), allowed("delta_logp"), &what);

        let reference = self.values["reference_value"].as_str().unwrap_or("tol5");
        let wanted = &self.values["bits_per_dim"][reference];
        for &(tolerance, allowed) in adaptive {
            let settings = OdeLikelihood {
                divergence: Divergence::Exact {},
                truncation: Truncation::Ignored,
                ..OdeLikelihood::exact(tolerance)
            };
            let prior = Prior::Normal { std: self.prior };
            let found =
                settings.log_density_along(&model, &*self.schedule, data.clone(), &given, &directions, prior).unwrap();
            for (row, nats) in found.nats.iter().enumerate() {
                let bits = -nats / std::f64::consts::LN_2 / dim as f64 + self.values["offset"].as_f64().unwrap();
                let wanted = wanted[row].as_f64().unwrap();
                println!("{name} at {tolerance}: {bits} bits/dim for {wanted}, {} evaluations", found.evaluations);
                assert!((bits - wanted).abs() < allowed, "{name} at {tolerance}: {bits} bits/dim for {wanted}");
            }
        }
    }
}

fn close(found: &[f64], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let largest = wanted.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() <= tolerance * largest, "{what}: {found} for {wanted}, largest {largest}");
    }
}

// An adaptive run errs by what its steps allow: at 1e-5 the reference's own is off by 0.010 bits/dim in f64 and 0.049 in f32 for ddpm, whose
// random network amplifies changes, and by 0.002 and 0.006 for vp (`measured` in fixture.json); at 1e-8 by 5e-6. Ours controls every
// sample by itself. VE's reference is off by 0.006 bits/dim there.
#[test]
fn ddpm_has_the_published_density() {
    if let Some(stored) = Stored::of("ddpm") {
        stored.compare(&[(1e-5, 0.05), (1e-8, 1e-4)]);
    }
}

#[test]
fn ncsnpp_of_vp_has_the_published_density() {
    if let Some(stored) = Stored::of("vp") {
        stored.compare(&[(1e-5, 0.02)]);
    }
}

#[test]
fn ncsnpp_of_vp_along_gaussian_directions_has_the_published_density() {
    if let Some(stored) = Stored::of("vp_gaussian") {
        stored.compare(&[]);
    }
}

#[test]
fn ncsnpp_of_ve_has_the_published_density() {
    if let Some(stored) = Stored::of("ve") {
        stored.compare(&[(1e-5, 0.01)]);
    }
}

//! A network and a training loop of one's own, on points of a spiral, with nothing but `stein` and `stein-nn`.
//!
//! `cargo run --release --example own_network`

use stein::{
    Condition, Context, Denoising, Device, Dual, Edm, Examples, Grid, Heun, Keys, LevelDistribution, Network,
    Objective, Precondition, Preconditioned, Request, Result, Tensor, Weighting, ensure, rows, sample,
};
use stein_nn::{
    Accumulated, AdamW, AdamWConfig, AnyNetwork, Ema, EmaConfig,
    burn::{self, module::Module},
    layers::{Init, Linear},
    ops,
};

/// Two hidden layers that see a point and its noise number.
#[derive(Module, Debug)]
struct Small {
    first: Linear,
    noise: Linear,
    second: Linear,
    last: Linear,
}

impl Small {
    fn new(init: &mut Init) -> Self {
        Self {
            first: Linear::new(2, 128, init),
            noise: Linear::new(1, 128, init),
            second: Linear::new(128, 128, init),
            last: Linear::zero(128, 2, init),
        }
    }
}

impl Network for Small {
    // A `Dual` is a value and perhaps a tangent: layers and operations pass both on, and so the network has derivatives both ways.
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        ensure!(context.given.class.is_none(), "this network knows no classes: leave the class out");
        let rows = x.dims()[0];
        let noise = self.noise.forward(context.noise.clone().reshape([rows, 1]));
        let hidden = ops::silu(self.first.forward_onto(x, noise));
        Ok(self.last.forward(ops::silu(self.second.forward(hidden))))
    }
}

/// Points on a spiral of about unit size.
fn spiral(keys: &Keys) -> Vec<f64> {
    let turns = keys.uniform(stein::Purpose::Own(0), 0);
    turns.into_iter().flat_map(|u| [u * (9.0 * u).cos(), u * (9.0 * u).sin()]).collect()
}

fn main() -> Result<()> {
    let (steps, batch) = (1500, 256);
    let device = Device::flex().autodiff();
    let mut network = AnyNetwork::own(Small::new(&mut Init::new(0, &device)));
    let mut optimizer = AdamW::new(AdamWConfig::default())?;
    let mut average = Ema::new(EmaConfig::HalfLife { images: 20_000.0, ramp: 0.05 }, &network)?;
    let (settings, schedule) = (Precondition::edm(0.4), Edm::default());
    let levels = LevelDistribution::LogNormal { mean: -1.2, std: 1.2 };
    let objective = Denoising { levels, weighting: Weighting::Unit {} };

    for step in 0..steps {
        let keys = Keys::range(0, step * batch, batch as usize);
        let x = Tensor::<2>::empty([0, 2], &device);
        let x = rows::matrix(spiral(&keys), 2, &x);
        let model = Preconditioned::new(network, settings, schedule.clone().into())?;
        let loss = objective.loss(&model.view(), &Examples::new(&x, &Condition::none(), &keys))?;
        let mut gradients = Accumulated::new();
        gradients.add(&model.network, loss.backward());
        let ema = Some((&mut average, batch as usize));
        network = optimizer.step(model.network, gradients, 2e-3, ema).0;
        if step % 250 == 0 {
            println!("step {step}: loss {:.3}", loss.into_scalar::<f64>());
        }
    }

    let model = Preconditioned::new(average.network(&network), settings, schedule.clone().into())?;
    let request = Request { data_variance: 0.16, ..Request::new(500, 2, 1) };
    let grid = Grid::karras(18).kernels(&schedule)?;
    let samples = rows::host(&sample(&model, &schedule, &grid, &Heun::default(), &request, &mut |_| Ok(()))?.x);
    // On the spiral the angle is nine times the radius: how far are samples from it, against points spread over the disk?
    let off = |x: f64, y: f64| {
        let radius = x.hypot(y);
        (x - radius * (9.0 * radius).cos()).hypot(y - radius * (9.0 * radius).sin())
    };
    let mean = samples.chunks_exact(2).map(|point| off(point[0], point[1])).sum::<f64>() / 500.0;
    println!("samples are {mean:.3} off the spiral on average; points spread over the disk would be 0.85");
    Ok(())
}

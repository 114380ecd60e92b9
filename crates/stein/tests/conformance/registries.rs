//! What a program adds at run time stands beside what is built in; and what is shared between threads can be.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use stein::{
    AnySampler, AnySchedule, AnyWrapper, Condition, DType, Denoiser, Dual, Edm, Estimate, Eval, FlowMap, Grid, Heun,
    Kernel, Levels, Past, Preconditioned, Request, Result, Sampler, Schedule, Tensor, Vp, estimate,
    exact::Exact,
    guidance::{Alone, Surroundings, Wrapper, wrap},
    rows::host,
    sample,
};

use crate::{assert_close, plane};

/// Euler's step in σ/α, and some of it twice.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Halved {
    parts: usize,
    #[serde(default = "heun")]
    inner: Box<AnySampler>,
}

fn heun() -> Box<AnySampler> {
    Box::new(Heun::default().into())
}

impl Sampler for Halved {
    fn step(
        &self,
        mut x: Tensor<2>,
        from: &Kernel,
        to: &Kernel,
        eval: &mut Eval,
        past: &mut Past,
    ) -> Result<Tensor<2>> {
        if to.is_clean() {
            return self.inner.step(x, from, to, eval, past);
        }
        let mut here = *from;
        for part in 1..=self.parts {
            let next = eval.kernel(from.t + (to.t - from.t) * part as f64 / self.parts as f64);
            x = self.inner.step(x, &here, &next, eval, past)?;
            here = next;
        }
        Ok(x)
    }

    fn order(&self) -> Option<u32> {
        self.inner.order()
    }
}

/// σ = t, further than EDM's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Far {
    sigma_max: f64,
}

impl Schedule for Far {
    fn kernel(&self, t: f64) -> Kernel {
        Edm::default().kernel(t)
    }

    fn time_at(&self, log_snr: f64) -> f64 {
        Edm::default().time_at(log_snr)
    }

    fn span(&self) -> (f64, f64) {
        (0.01, self.sigma_max)
    }

    fn check(&self) -> Result<()> {
        stein::ensure!(self.sigma_max > 0.01, "schedule far: sigma_max = {} must be above 0.01", self.sigma_max);
        Ok(())
    }
}

/// Adds to every estimate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shift {
    by: f64,
}

struct Shifted(Arc<dyn Denoiser>, f64);

impl Denoiser for Shifted {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        let inner = estimate(&self.0, x, at, given)?;
        Ok(Estimate { mean: inner.mean.shift(|x| x.add_scalar(self.1)), ..inner })
    }
}

impl Wrapper for Shift {
    fn wrap(&self, inner: Arc<dyn Denoiser>, _: &Arc<dyn Denoiser>, _: &dyn Surroundings) -> Result<Arc<dyn Denoiser>> {
        Ok(Arc::new(Shifted(inner, self.by)))
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    sampler: AnySampler,
    schedule: AnySchedule,
    wrap: Vec<AnyWrapper>,
}

#[test]
fn what_is_registered_is_read_and_runs() {
    AnySampler::register::<Halved>("halved");
    AnySchedule::register::<Far>("far");
    AnyWrapper::register::<Shift>("shift");
    let text = r#"
        sampler = { kind = "halved", parts = 2, inner = { kind = "halved", parts = 1 } }
        schedule = { kind = "far", sigma_max = 200 }
        wrap = [{ kind = "shift", by = 10 }]
    "#;
    let file: File = toml::from_str(text).unwrap();
    assert_eq!((file.sampler.kind(), file.schedule.kind(), file.wrap[0].kind()), ("halved", "far", "shift"));
    let again: File = toml::from_str(&toml::to_string(&file).unwrap()).unwrap();
    assert_eq!((&again.sampler, &again.schedule, &again.wrap), (&file.sampler, &file.schedule, &file.wrap));
    let kernels = Grid::karras(9).kernels(&*file.schedule).unwrap();
    assert_eq!(kernels[0].sigma, 200.0);
    let denoiser = wrap(Arc::new(plane()), &file.wrap, &Alone).unwrap();
    let request = Request { data_variance: plane().variance(), ..Request::exact(500, 2, 1) };
    let drawn = sample(&denoiser, &*file.schedule, &kernels, &*file.sampler, &request, &mut |_| Ok(())).unwrap();
    // Two Heun steps in each interval but the last.
    assert_eq!(drawn.evaluations, 8 * 4 + 1);
    let bare = sample(&plane(), &*file.schedule, &kernels, &*file.sampler, &request, &mut |_| Ok(())).unwrap();
    assert!(host(&drawn.x).iter().zip(host(&bare.x)).all(|(a, b)| a > &(b + 5.0)));
    // A network can be trained on it, and asked about other levels.
    let settings = stein::Precondition::edm(0.5);
    assert!(Preconditioned::new(crate::derivatives::Smooth, settings, file.schedule).is_ok());
    for (text, sentence) in [
        ("kind = \"halved\"\nparts = 1\npart = 2", "there is no key called `part`"),
        ("kind = \"halved\"", "the key `parts` is missing"),
        ("kind = \"halfed\"\nparts = 1", "nearest first: halved"),
    ] {
        let refused = toml::from_str::<AnySampler>(text).unwrap_err().to_string();
        assert!(refused.contains(sentence), "{refused}");
    }
}

#[test]
#[should_panic(expected = "there is a built-in sampler called `heun`")]
fn a_built_in_name_cannot_be_taken() {
    AnySampler::register::<Halved>("heun");
}

#[test]
fn single_precision_gives_the_double_result_to_its_accuracy() {
    let schedules = [AnySchedule::from(Edm::default()), Vp::default().into()];
    for (schedule, sampler) in
        schedules.iter().flat_map(|s| AnySampler::all().into_iter().map(move |sampler| (s, sampler)))
    {
        // Few Langevin steps keep the test short.
        let sampler = match sampler {
            AnySampler::Langevin(_) => stein::Langevin { steps: 3, ..stein::Langevin::default() }.into(),
            // Steps that no error shortens: one that is just accepted in one precision may not be in the other.
            AnySampler::AdaptiveSde(_) => stein::AdaptiveSde { atol: 1e6, ..stein::AdaptiveSde::default() }.into(),
            other => other,
        };
        let kernels = Grid::karras(12).kernels(&**schedule).unwrap();
        let draw = |request: Request| {
            let drawn = sample(&plane(), &**schedule, &kernels, &*sampler, &request, &mut |_| Ok(())).unwrap();
            assert_eq!(drawn.x.dtype(), request.dtype);
            host(&drawn.x)
        };
        let (single, double) = (draw(Request::new(20, 2, 3)), draw(Request::exact(20, 2, 3)));
        assert_eq!(Request::new(20, 2, 3).dtype, DType::F32);
        for (a, b) in single.iter().zip(&double) {
            // States of size 80 are rounded to 5e-6, and the flow between modes grows that tenfold; adaptive steps of their own.
            let tolerance = if sampler.adaptive() { 1e-3 } else { 2e-4 };
            assert_close(*a, *b, tolerance, format!("{} on {}", sampler.kind(), schedule.kind()));
        }
    }
}

fn shared<T: Send + Sync + ?Sized>() {}

#[test]
fn what_threads_share_can_be_shared() {
    shared::<dyn Denoiser>();
    shared::<Box<dyn Denoiser>>();
    shared::<Arc<dyn Denoiser>>();
    shared::<dyn FlowMap>();
    shared::<dyn Exact>();
    shared::<AnySampler>();
    shared::<AnySchedule>();
    shared::<AnyWrapper>();
    shared::<Preconditioned<crate::derivatives::Smooth>>();
    shared::<stein::MapNetwork<crate::derivatives::Smooth>>();
    shared::<Condition>();
    shared::<Request>();
    shared::<stein::Sampled>();
    shared::<Estimate>();
    shared::<stein::Error>();
}

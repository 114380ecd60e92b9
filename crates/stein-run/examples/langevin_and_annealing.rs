//! Why noise levels: on 1/5 N((−5,−5), I) + 4/5 N((5,5), I) with its exact score, Langevin dynamics started anywhere gets the
//! weights of the modes wrong, and annealed Langevin dynamics gets them right (Song & Ermon 2019, figure 3).
//!
//! `cargo run --release --example langevin_and_annealing -- langevin.png` writes the picture of both.

use stein::{
    Discrete, Grid, Kernel, Keys, Langevin, LevelList, Purpose, Request, Result, Sampler, Schedule,
    exact::{Exact, GaussianMixture},
    rows::{exact, host, matrix},
    sample_from,
};
use stein_run::picture::{Chart, Frame, scatter, write_png};

const SAMPLES: usize = 5000;

fn main() -> Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "langevin.png".into());
    let model = GaussianMixture::ncsn();
    let levels = Discrete::new(LevelList::Geometric { first: 0.1, last: 20.0, count: 20 })?;
    let clean = levels.kernel(0.0);
    let plain = Langevin { epsilon: Some(0.05), steps: 1000, ..Langevin::default() };
    let annealed = Langevin { epsilon: Some(0.002), steps: 50, ..Langevin::default() };
    let pictures = [
        picture("Langevin dynamics", &model, &levels, &[clean, Kernel::CLEAN], &plain)?,
        picture("Annealed Langevin dynamics", &model, &levels, &Grid::uniform(20).kernels(&levels)?, &annealed)?,
    ];
    write_png(&path, &Chart::beside(&pictures.map(Some), 2, "").picture()?)?;
    println!("{path}");
    Ok(())
}

/// Samples of a run from a uniform start over the square, over the true density.
fn picture(
    name: &str,
    model: &GaussianMixture,
    schedule: &Discrete,
    kernels: &[Kernel],
    sampler: &dyn Sampler,
) -> Result<Chart> {
    let uniform = Keys::range(0, 0, 2 * SAMPLES).uniform(Purpose::Prior, 0);
    let start = matrix(uniform.into_iter().map(|u| 16.0 * u - 8.0).collect(), 2, &exact());
    let request = Request::exact(SAMPLES, 2, 0);
    let x = host(&sample_from(start, model, schedule, kernels, sampler, &request, &mut |_| Ok(()))?.x);
    let points: Vec<[f64; 2]> = x.chunks_exact(2).map(|row| [row[0], row[1]]).collect();
    let right = points.iter().filter(|point| point[0] + point[1] > 0.0).count() as f64 / SAMPLES as f64;
    println!("{name}: {right:.3} of the samples at (5, 5), where 0.8 belong");
    let density = |x: f64, y: f64| model.log_density(&[x, y], &Kernel::CLEAN)[0].exp();
    let frame = Frame { title: &format!("{name}: {right:.2} at (5, 5)"), x: "", y: "", size: (700, 700) };
    scatter(&points, Some(&density), &frame, Some([(-9.0, 9.0); 2]))
}

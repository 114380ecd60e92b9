//! Flow matching, trained: what couplings and reflow do to paths, data carried to data, densities, a Schrödinger bridge whose marginals are
//! known, and what does not fit.

use std::{fs, path::Path};

use stein::{
    Condition, Keys, Purpose, Tensor,
    coupling::Coupling,
    denoiser::Converted,
    flow::Flow,
    likelihood::{OdeLikelihood, Prior},
    noise::normal_like,
    ode::Steps,
    rows,
};
use stein_nn::Checkpoint;
use stein_run::{
    Changes, Classes, CodeOptions, DataChoice, Experiment, LikelihoodOptions, Method, Model, Observed, Output,
    PathsOptions, RunDir, Silent, Trained, draw, draw_frames, draw_paths, draw_to_file, encode, likelihood, prepare,
    train,
};

use crate::{options, run};

/// Points in the plane by flow matching, with these settings of the family.
fn points(family: &str, steps: u32, settings: &[&str]) -> Experiment {
    parsed(family, steps, settings).unwrap()
}

fn parsed(family: &str, steps: u32, settings: &[&str]) -> stein::Result<Experiment> {
    let text = format!(
        r#"
        [data]
        source = {{ kind = "points2d", shape = "moons", count = 4000 }}
        [family]
        kind = "flow"
        {family}
        noise_input = {{ kind = "time" }}
        network = {{ kind = "mlp", hidden = 64, blocks = 2, embedding_dim = 32, embedding = {{ kind = "fourier", scale = 1.0 }} }}
        [train]
        steps = {steps}
        batch = 256
        rate = {{ rate = 3e-3, warmup = 50, decay = {{ kind = "cosine" }} }}
        optimizer = {{ clip = 1.0 }}
        ema = {{ kind = "decay", decay = 0.99 }}
        log_every = 500
        checkpoint_every = 100000
        [sample]
        sampler = {{ kind = "ode_heun" }}
        grid = {{ steps = 20 }}
        batch = 4096
        "#
    );
    Experiment::parse(&text, &settings.iter().map(|s| s.to_string()).collect::<Vec<_>>())
}

const EIGHT: &str = r#"source = { kind = "points2d", shape = "eight_gaussians", count = 4000 }"#;
const TRANSPORT: &str = r#"coupling = { kind = "optimal_transport" }"#;

fn trained(experiment: &Experiment, out: &Path) -> Trained {
    run(experiment, out, false).unwrap()
}

/// Curvature and transport cost of a model's paths.
fn paths(model: &Model, folder: &Path, name: &str) -> (f64, f64) {
    let picture = folder.join(format!("{name}.png"));
    let found = draw_paths(&picture, model, &PathsOptions::default()).unwrap();
    assert!(fs::metadata(picture).unwrap().len() > 1000);
    (found.curvature * found.transport_cost, found.transport_cost)
}

/// Liu et al. 2023, theorem 3.7, and Tong et al. 2024, section 3.2.2: better pairs have shorter and straighter paths, and a flow's own
/// pairs straighter ones still.
#[test]
fn optimal_transport_and_reflow_straighten_paths() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let independent = trained(&points("", 1500, &[]), &place("independent")).model;
    let coupled = trained(&points(TRANSPORT, 1500, &[]), &place("coupled")).model;
    let reflow = format!("reflow = {{ model = \"{}\", pairs = 4000 }}", place("independent").display());
    let straight = trained(&points(&reflow, 1500, &[]), &place("reflow")).model;
    // What is learned from: the pairs of a batch.
    let keys = Keys::range(0, 0, 256);
    let like = rows::matrix(vec![0.0; 512], 2, &rows::exact());
    let [data, source] = [Purpose::Point, Purpose::Prior].map(|of| normal_like(&keys, of, 0, &like));
    let order = Coupling::OptimalTransport { within_class: false }.pair(&data, &source, None, &keys).unwrap();
    let cost = |source: Tensor<2>| (data.clone() - source).square().sum().into_scalar::<f64>();
    assert!(cost(rows::select(source.clone(), &order)) < 0.2 * cost(source));
    let of = |model, name| paths(model, folder.path(), name);
    let (bent, cost) = of(&independent, "independent");
    let (bent_coupled, cost_coupled) = of(&coupled, "coupled");
    let (bent_again, cost_again) = of(&straight, "reflow");
    println!(
        "independent {bent:.4} {cost:.4}, coupled {bent_coupled:.4} {cost_coupled:.4}, reflow {bent_again:.4} {cost_again:.4}"
    );
    // Hundreds of times less, of which as much is left as networks as small as these get wrong.
    assert!(
        bent_coupled < 0.05 * bent && bent_again < 0.05 * bent,
        "{bent}: {bent_coupled} coupled, {bent_again} again"
    );
    // What moves it, E ∫ ‖v‖² dt, is the cost and what is bent; no flow has less than the optimal cost, which is near that of all three here.
    assert!(cost_coupled + bent_coupled < 0.6 * (cost + bent), "{cost_coupled} of {cost}");
    assert!(
        cost_coupled < 1.05 * cost && cost_again < 1.05 * cost,
        "{cost}: {cost_coupled} coupled, {cost_again} again"
    );
}

#[test]
fn coupled_runs_go_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = folder.path().join("teacher");
    trained(&points("", 30, &[]), &teacher);
    let reflow = format!("reflow = {{ model = \"{}\", pairs = 50 }}", teacher.display());
    let entropic = format!(
        "{EIGHT}\npath_noise = {{ kind = \"bridge\", sigma = 1.0 }}\nscore = true\ncoupling = {{ kind = \"entropic\", regularization = 2.0 }}"
    );
    for (name, family) in [("coupled", TRANSPORT), ("reflow", &reflow), ("entropic", &entropic)] {
        let (whole, parts) = (folder.path().join(name), folder.path().join(format!("{name}-parts")));
        trained(&points(family, 12, &[]), &whole);
        trained(&points(family, 12, &["train.steps=5"]), &parts);
        run(&points(family, 12, &[]), &parts, true).unwrap();
        let last = |run: &Path| Checkpoint::read(&RunDir::open(run).unwrap().latest().unwrap()).unwrap();
        assert!(last(&whole).learners == last(&parts).learners, "{name}");
    }
}

/// A change of variables keeps the mass, whatever the network has learned.
#[test]
fn the_density_of_a_coupled_model_integrates_to_one() {
    let folder = tempfile::tempdir().unwrap();
    let model =
        trained(&points(TRANSPORT, 300, &["data.codec=[{kind=\"standardize\", std=1.0}]"]), folder.path()).model;
    let (velocity, schedule) = (model.learned.velocity.clone().unwrap(), model.schedule.clone().unwrap());
    // Beyond 7 standard deviations of the noise that paths end in there is nothing.
    let (side, most) = (140, 7.0);
    let step = 2.0 * most / f64::from(side);
    let place = |k: i32| -most + (f64::from(k) + 0.5) * step;
    let x: Vec<f64> = (0..side).flat_map(|i| (0..side).flat_map(move |j| [place(i), place(j)])).collect();
    let x = rows::matrix(x, 2, &Tensor::<2>::empty([0, 1], &stein::Device::flex()));
    let count = x.dims()[0];
    let (given, keys, prior) = (Condition::none(), Keys::range(0, 0, count), Prior::Normal { std: 1.0 });
    let ode = OdeLikelihood::exact(1e-6);
    let found = ode.log_density_of_velocity(&velocity, &*schedule, x, &given, &keys, prior).unwrap();
    let whole: f64 = found.nats.iter().map(|nats| nats.exp()).sum::<f64>() * step * step;
    assert!((whole - 1.0).abs() < 1e-3, "{whole}");
}

#[test]
fn eight_gaussians_become_moons_each_point_by_a_path_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let experiment = points(&format!("{EIGHT}\n{TRANSPORT}"), 1500, &[]);
    let model = trained(&experiment, &folder.path().join("run")).model;
    let moved = draw(&model, 2000, 0, &Classes::Default, &model.sample, &mut Silent).unwrap().values;
    // Moons are half circles: most of what comes is as near to a moon as their own points are.
    let moons = experiment.data.load(stein_data::Split::Train, None).unwrap().all_rows().unwrap();
    let near = |x: &[f32]| {
        let square = |y: &[f32]| (x[0] - y[0]).powi(2) + (x[1] - y[1]).powi(2);
        moons.chunks(2).map(square).fold(f32::INFINITY, f32::min).sqrt()
    };
    let close = moved.chunks(2).filter(|x| near(x) < 0.3).count();
    assert!(close > 1800, "{close} of 2000 are near a moon");
    // Sample i is where item i goes, alone or among others.
    let table = folder.path().join("from.csv");
    let force = Output { path: table.clone(), format: None, force: true };
    fs::write(&table, "x,y\n4.0,0.0\n0.0,4.0\n-4.0,0.0\n").unwrap();
    let from = model.clone().beginning_from(table.to_str().unwrap()).unwrap();
    let three = draw(&from, 3, 0, &Classes::Default, &from.sample, &mut Silent).unwrap().values;
    let other_seed = draw(&from, 2, 9, &Classes::Default, &from.sample, &mut Silent).unwrap().values;
    assert_eq!(three[..4], other_seed[..]);
    let error = draw(&from, 4, 0, &Classes::Default, &from.sample, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("3 items to begin from"), "{error}");
    let refused = draw_to_file(force, &from, 3, 0, &Classes::Default, &from.sample, &mut Silent).map(drop).unwrap_err();
    assert!(refused.to_string().contains("from.csv"), "what is read is not replaced: {refused}");
    fs::write(&table, "y,x\n4.0,0.0\n").unwrap();
    let swapped = model.clone().beginning_from(table.to_str().unwrap()).map(drop).unwrap_err().to_string();
    assert!(swapped.contains("in that order"), "{swapped}");
    let choice = DataChoice { n: Some(3), ..DataChoice::default() };
    let asked = LikelihoodOptions { data: choice, ..LikelihoodOptions::default() };
    let error = likelihood(&model, &asked, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("density is not known"), "{error}");
}

/// A sample that begins from an item has its class, and one that is asked for of a class begins from an item of that class.
#[test]
fn classes_of_a_source_are_carried_along() {
    let folder = tempfile::tempdir().unwrap();
    let eight = "source = { kind = \"points2d\", shape = \"eight_gaussians\" }";
    let family = format!("{eight}\ncoupling = {{ kind = \"optimal_transport\", within_class = true }}");
    let data = format!("data.{eight}").replace("data.source = ", "data.source=");
    let model = trained(&points(&family, 400, &["data.conditional=true", &data]), folder.path()).model;
    let from = model.clone().beginning_from("points2d/eight_gaussians").unwrap();
    let moved = draw(&from, 40, 0, &Classes::Default, &from.sample, &mut Silent).unwrap();
    let held_out = stein_data::Source::named("points2d/eight_gaussians").unwrap();
    let held_out = held_out.load(stein_data::Split::Test, None).unwrap();
    let wanted: Vec<u32> = held_out.labels.as_ref().unwrap()[..40].iter().map(|&label| label as u32).collect();
    assert_eq!(moved.labels.unwrap(), wanted);
    let other = Classes::Named("0".into());
    let error = draw(&from, 40, 0, &other, &from.sample, &mut Silent).map(drop).unwrap_err().to_string();
    assert!(error.contains("--class says another"), "{error}");
    // Each class leads to itself here, so a sample of a class that begins from an item of it stays near.
    let drawn = draw(&model, 400, 1, &Classes::All, &model.sample, &mut Silent).unwrap();
    let labels = drawn.labels.unwrap();
    let truth = model.truth.as_ref().unwrap();
    let centers: Vec<Vec<f64>> = truth.components().map(|(_, center, _)| center.to_vec()).collect();
    let distance = |x: &[f32], center: &[f64]| (f64::from(x[0]) - center[0]).hypot(f64::from(x[1]) - center[1]);
    let nearest = |x: &[f32]| {
        (0..centers.len()).min_by(|&a, &b| distance(x, &centers[a]).total_cmp(&distance(x, &centers[b]))).unwrap()
    };
    let right = drawn.values.chunks(2).zip(&labels).filter(|(x, label)| nearest(x) == **label as usize).count();
    assert!(right > 390, "{right} of 400 are of the class they were asked for");
}

/// A velocity has codes and densities by the same commands; one step has neither.
#[test]
fn codes_and_densities_are_of_velocities_and_not_of_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let model = trained(&points(TRANSPORT, 200, &[]), &folder.path().join("coupled")).model;
    let choice = DataChoice { n: Some(5), ..DataChoice::default() };
    let found = encode(&model, &choice, &CodeOptions::default(), &mut Silent).unwrap();
    let (velocity, schedule) = (model.learned.velocity.clone().unwrap(), model.schedule.clone().unwrap());
    let none = Condition::none();
    let single = Converted { inner: velocity, device: model.device.clone(), dtype: model.dtype };
    let flow = Flow { velocity: &single, schedule: &*schedule, given: &none };
    let steps = Steps::Adaptive { rtol: 1e-6, atol: 1e-6, most: 10_000 };
    let back = flow.decode(rows::matrix(found.values, 2, &rows::exact()), Some(0.0), steps).unwrap().x;
    let data = Observed::of(&model, &choice).unwrap().values(&[0, 1, 2, 3, 4]).unwrap();
    rows::host(&back).iter().zip(data).for_each(|(a, b)| assert!((a - f64::from(b)).abs() < 1e-3, "{a} for {b}"));
    let asked = LikelihoodOptions { data: choice, ..LikelihoodOptions::default() };
    let report = likelihood(&model, &asked, &mut Silent).unwrap();
    assert!(report.mean.is_finite() && report.to_string().contains("the ODE of the velocity"), "{report}");
    let reflow = format!(
        "reflow = {{ model = \"{}\", pairs = 200 }}\nlevels = {{ kind = \"single\", noise = inf }}",
        folder.path().join("coupled").display()
    );
    let one = trained(&points(&reflow, 100, &["sample.sampler=generate"]), &folder.path().join("one")).model;
    let drawn = draw(&one, 100, 0, &Classes::Default, &one.sample, &mut Silent).unwrap();
    assert_eq!(drawn.summary.evaluations, 1);
    let error = likelihood(&one, &asked, &mut Silent).map(drop).unwrap_err().to_string();
    assert!(error.contains("is a generator"), "{error}");
}

/// A known density is that of all classes: of some of them it is not known here.
#[test]
fn some_classes_of_a_mixture_are_not_the_mixture() {
    let folder = tempfile::tempdir().unwrap();
    let some = [r#"data.source={kind="points2d", shape="eight_gaussians"}"#, "data.classes=[\"0\"]"];
    let model = trained(&points("", 2, &some), folder.path()).model;
    assert!(model.truth.is_none());
}

/// The bridge with noise σ between N(−1, 0.5²) and N(1, 0.8²) is Gaussian at every time (Bunne et al. 2023, "The Schrödinger bridge between
/// Gaussian measures has a closed form", theorem 3): x_t has the mean of the straight line and the variance (1 − t)² s_0² + t² s_1² + 2t(1 − t)
/// c + σ² t(1 − t), c = ½ (√(4 s_0² s_1² + σ⁴) − σ²), along the flow and along the diffusion.
#[test]
fn the_marginals_of_a_schrodinger_bridge_between_gaussians_are_the_known_ones() {
    const SIGMA: f64 = 1.0;
    const DATA: (f64, f64) = (1.0, 0.8);
    const SOURCE: (f64, f64) = (-1.0, 0.5);
    let folder = tempfile::tempdir().unwrap();
    let table = |name: &str, (mean, std): (f64, f64)| {
        let count = 4001;
        // Quantiles in an order that has nothing to do with their size.
        let place = |i: usize| (((i * 1597) % count) as f64 + 0.5) / count as f64;
        let values: Vec<String> = (0..count).map(|i| (mean + std * normal_quantile(place(i))).to_string()).collect();
        let path = folder.path().join(name);
        fs::write(&path, format!("x\n{}\n", values.join("\n"))).unwrap();
        path.display().to_string()
    };
    let family = format!(
        "source = {{ kind = \"table\", path = \"{}\" }}\npath_noise = {{ kind = \"bridge\", sigma = {SIGMA} }}\nscore = true\n\
         coupling = {{ kind = \"entropic\", regularization = {} }}",
        table("source.csv", SOURCE),
        2.0 * SIGMA * SIGMA
    );
    let data = format!("data.source={{ kind = \"table\", path = \"{}\" }}", table("data.csv", DATA));
    let model = trained(&points(&family, 3000, &[&data]), &folder.path().join("run")).model;
    let (s0, s1) = (DATA.1.powi(2), SOURCE.1.powi(2));
    let shared = 0.5 * ((4.0 * s0 * s1 + SIGMA.powi(4)).sqrt() - SIGMA.powi(2));
    let n = 4000;
    let diffusion = Method::named("interpolant_sde").unwrap();
    for (method, steps) in [(model.sample.sampler.clone(), 20), (diffusion, 60)] {
        let changes = Changes { steps: Some(steps), ..Changes::default() };
        let config = stein_run::SampleConfig { sampler: method, ..model.sample.clone() }.with(&changes).unwrap();
        let drawn = draw_frames(&model, n, 3, &Classes::Default, &config, &mut Silent).unwrap();
        for part in [0.25, 0.5, 0.75, 1.0] {
            let t = 1.0 - part;
            let frame = &drawn.frames[(part * (drawn.frames.len() - 1) as f64).round() as usize];
            let mean = frame.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
            let std = (frame.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
            let wanted = t * SOURCE.0 + (1.0 - t) * DATA.0;
            let variance =
                (1.0 - t).powi(2) * s0 + t * t * s1 + 2.0 * t * (1.0 - t) * shared + SIGMA.powi(2) * t * (1.0 - t);
            // Four standard errors of n draws, and 0.05 for what a small network and its steps get wrong.
            let bound = 0.05 + 4.0 * variance.sqrt() / (n as f64).sqrt();
            let what = format!(
                "{} at t = {t}: mean {mean:.3} for {wanted:.3}, std {std:.3} for {:.3}",
                config.sampler.kind(),
                variance.sqrt()
            );
            println!("{what}");
            assert!((mean - wanted).abs() < bound && (std - variance.sqrt()).abs() < bound, "{what}");
        }
    }
}

/// By bisection of the distribution function.
fn normal_quantile(mass: f64) -> f64 {
    let (mut low, mut high) = (-10.0, 10.0);
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        let below = 0.5 * libm::erfc(-middle / std::f64::consts::SQRT_2);
        if below < mass { low = middle } else { high = middle }
    }
    low
}

/// What is learned from independent pairs is a denoiser too, and the same command draws by either.
#[test]
fn an_uncoupled_flow_is_sampled_as_a_diffusion_too() {
    let folder = tempfile::tempdir().unwrap();
    let model = trained(&points("", 600, &[]), folder.path()).model;
    assert!(model.learned.denoiser.is_some() && model.learned.velocity.is_some());
    let spread = |sampler: &str| {
        let changes = Changes { sampler: Some(sampler.into()), steps: Some(40), ..Changes::default() };
        let config = model.sample.with(&changes).unwrap();
        let values = draw(&model, 2000, 1, &Classes::Default, &config, &mut Silent).unwrap().values;
        let mean = values.iter().sum::<f32>() / 4000.0;
        (values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 4000.0).sqrt()
    };
    let (by_velocity, by_denoiser) = (spread("ode_heun"), spread("dpm_solver_pp"));
    // The same flow by two solvers, to their discretization.
    assert!((by_velocity - by_denoiser).abs() < 0.02 * by_velocity, "{by_velocity} and {by_denoiser}");
}

#[test]
fn what_does_not_fit_is_said_before_work_starts() {
    let folder = tempfile::tempdir().unwrap();
    let model = trained(&points(TRANSPORT, 2, &[]), &folder.path().join("coupled")).model;
    let changed = |sampler: &str| model.sample.with(&Changes { sampler: Some(sampler.into()), ..Changes::default() });
    let drawn = |sampler: &str| draw(&model, 2, 0, &Classes::Default, &changed(sampler).unwrap(), &mut Silent);
    let no_score = drawn("ddim").unwrap_err().to_string();
    assert!(no_score.contains("no denoiser follows") && no_score.contains("ode_heun"), "{no_score}");
    assert!(drawn("interpolant_sde").unwrap_err().to_string().contains("an interpolant"));
    let error = model.clone().beginning_from("points2d/moons").map(drop).unwrap_err().to_string();
    assert!(error.contains("leads from noise"), "{error}");
    for (family, wanted) in [
        ("score = true", "family.path_noise"),
        ("source_classes = [\"1\"]", "family.source"),
        ("schedule = { kind = \"edm\" }", "does not lead to the source alone"),
        ("coupling = { kind = \"entropic\", regularization = 0.0 }", "regularization"),
        ("reflow = { model = \"x\" }\ncoupling = { kind = \"optimal_transport\" }", "brings its own pairs"),
        ("reflow = { model = \"x\", pairs = 1 }", "family.reflow.pairs"),
        ("path_noise = { kind = \"bridge\", sigma = -1.0 }", "sigma"),
    ] {
        let error = parsed(family, 2, &[]).unwrap_err().to_string();
        assert!(error.contains(wanted), "{family}: {error}");
    }
    let prepared = |family: &str, settings: &[&str], name: &str| {
        prepare(&points(family, 2, settings), &options(folder.path().join(name), false))
            .map(drop)
            .unwrap_err()
            .to_string()
    };
    let within = r#"coupling = { kind = "optimal_transport", within_class = true }"#;
    for (name, family, settings, wanted) in [
        ("shape", r#"source = { kind = "digits" }"#, &[][..], "both need one shape"),
        ("one", TRANSPORT, &["train.batch=4", "train.accumulate=4"], "nothing to pair"),
        ("unconditional", within, &[], "data.conditional = true"),
        (
            "classes",
            "source = { kind = \"points2d\", shape = \"moons\" }\ncoupling = { kind = \"optimal_transport\", within_class = true }",
            &["data.conditional=true", "data.source={kind=\"points2d\", shape=\"eight_gaussians\"}"],
            "do not pair",
        ),
        (
            "nobody",
            r#"source = { kind = "digits" }
source_classes = ["ten"]"#,
            &[],
            "class of digits",
        ),
        ("missing", r#"reflow = { model = "nowhere" }"#, &[], "there is no model at nowhere"),
    ] {
        let error = prepared(family, settings, name);
        assert!(error.contains(wanted), "{name}: {error}");
    }
    // A plan that is not found in one iteration is known only when it is looked for.
    let stuck = points("coupling = { kind = \"entropic\", regularization = 1e-6, max_iterations = 1 }", 2, &[]);
    let error = train(prepare(&stuck, &options(folder.path().join("stuck"), false)).unwrap(), &mut Silent);
    let error = error.map(drop).unwrap_err().to_string();
    assert!(error.contains("max_iterations"), "{error}");
}

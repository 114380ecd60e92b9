//! Every metric against the programs it is published with; see `data/README.md`.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use stein_metrics::*;

/// Tensors and values of one fixture.
struct Fixture {
    bytes: Vec<u8>,
    about: Value,
}

impl Fixture {
    fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let read = |ending: &str| {
            let path = path.join(format!("{name}.{ending}"));
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let about = serde_json::from_slice(&read("json")).unwrap();
        Self { bytes: read("safetensors"), about }
    }

    /// The numbers of a tensor, and its shape.
    fn tensor(&self, name: &str) -> (Vec<f64>, Vec<usize>) {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = tensors.tensor(name).unwrap();
        let bytes = view.data();
        let numbers = match view.dtype() {
            Dtype::F32 => bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
            Dtype::F64 => bytes.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::I64 => bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
            Dtype::U8 => bytes.iter().map(|&b| f64::from(b)).collect(),
            other => panic!("{other:?}"),
        };
        (numbers, view.shape().to_vec())
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        self.tensor(name).0
    }

    fn value(&self, pointer: &str) -> f64 {
        let value = self.about["values"].pointer(pointer).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("no number at {pointer}"))
    }
}

fn close(what: &str, value: f64, expected: f64, tolerance: f64) {
    assert!((value - expected).abs() <= tolerance, "{what}: {value}, expected {expected}, off {:e}", value - expected);
}

fn relative(what: &str, value: f64, expected: f64, tolerance: f64) {
    close(what, value, expected, tolerance * expected.abs());
}

fn kind(metric: &str, settings: &str) -> AnyMetric {
    AnyMetric::with_settings(metric, settings.parse().unwrap()).unwrap()
}

/// A and B of a case with their dimension.
struct Case {
    name: &'static str,
    a: Vec<f64>,
    b: Vec<f64>,
    dim: usize,
}

impl Case {
    fn measured(&self, metric: &str, settings: &str) -> Measured {
        let sides = [(Side::Reference, Batch::from(&self.a)), (Side::Samples, Batch::from(&self.b))];
        measure(kind(metric, settings), self.dim, sides).unwrap()
    }

    fn value(&self, metric: &str, settings: &str) -> f64 {
        self.measured(metric, settings).value
    }
}

fn cases(fixture: &Fixture) -> Vec<Case> {
    let (a, b) = (fixture.numbers("A"), fixture.numbers("B"));
    let case = |name, n: usize, m: usize| Case { name, a: a[..n * 32].to_vec(), b: b[..m * 32].to_vec(), dim: 32 };
    let column = |rows: &[f64]| rows.iter().step_by(32).copied().collect();
    vec![
        case("main", 400, 500),
        case("equal", 300, 300),
        case("small", 90, 115),
        case("few", 27, 23),
        Case { name: "one_dimensional", a: column(&a), b: column(&b), dim: 1 },
        Case { name: "tiny", a: fixture.numbers("tiny.A"), b: fixture.numbers("tiny.B"), dim: 2 },
    ]
}

fn fixture_and_cases(wanted: &[&str]) -> (Fixture, Vec<Case>) {
    let fixture = Fixture::open("metrics_features");
    let cases = cases(&fixture).into_iter().filter(|case| wanted.contains(&case.name)).collect();
    (fixture, cases)
}

#[test]
fn frechet() {
    let (fixture, cases) = fixture_and_cases(&["main", "equal", "small", "few", "tiny"]);
    for case in cases {
        let measured = case.measured("frechet", "");
        let at = |field: &str| fixture.value(&format!("/{}/frechet/{field}", case.name));
        // The route without roots of matrices is good to 1e-12; the fixture's own bound is 1e-9.
        relative(case.name, measured.value, at("factors"), 1e-12);
        relative(case.name, measured.part("mean_term").unwrap(), at("mean_term"), 1e-12);
        // Published programs take roots of singular matrices where there are few rows: 1e-5 absolute is what that is worth.
        let tolerance = if case.name == "few" { 1e-5 } else { 1e-9 * at("pytorch_fid") };
        close(case.name, measured.value, at("pytorch_fid"), tolerance);
        close(case.name, measured.value, at("torch_fidelity"), tolerance);
        close(case.name, measured.part("trace_term").unwrap(), at("trace_term"), tolerance);
    }
}

#[test]
fn kernel_distance() {
    let (fixture, cases) = fixture_and_cases(&["main", "equal", "small", "few", "tiny"]);
    for case in cases {
        let at = |field: &str| fixture.value(&format!("/{}/kid/{field}", case.name));
        // The fixture's bound: sums of values up to the largest round by 1e-11 of it.
        let tolerance = 1e-11 * at("largest_kernel_value");
        close(case.name, case.value("kernel", ""), at("unbiased"), tolerance);
        close(case.name, case.value("kernel", "statistic = 'biased'"), at("biased"), tolerance);
    }
    let (_, cases) = fixture_and_cases(&["tiny"]);
    close("by hand", cases[0].value("kernel", ""), -205.0 / 24.0, 1e-12);
    // Of two sets of four rows, every subset of four is the whole set.
    close("subsets", cases[0].value("kernel", "subsets = 3"), -205.0 / 24.0, 1e-12);
}

#[test]
fn precision_recall_density_and_coverage() {
    let (fixture, cases) = fixture_and_cases(&["main", "equal"]);
    for case in cases {
        for place in 0..3 {
            let at = |field: &str| fixture.value(&format!("/{}/prdc/{place}/{field}", case.name));
            let k = format!("k = {}", at("k"));
            for metric in ["precision", "recall", "coverage"] {
                // Counts: no rounding decides one here.
                assert_eq!(case.value(metric, &k), at(metric), "{} {metric} {k}", case.name);
            }
            relative(case.name, case.value("density", &k), at("density"), 1e-14);
        }
    }
}

#[test]
fn optimal_transport() {
    let (fixture, cases) = fixture_and_cases(&["main", "equal", "small", "one_dimensional", "tiny"]);
    for case in cases {
        let at = |field: &str| fixture.value(&format!("/{}/optimal_transport/{field}", case.name));
        relative(case.name, case.value("wasserstein", "p = 2"), at("w2"), 1e-12);
        relative(case.name, case.value("wasserstein", "p = 2").powi(2), at("w2_squared"), 1e-12);
        relative(case.name, case.value("wasserstein", "p = 1"), at("w1"), 1e-12);
    }
}

#[test]
fn sliced_transport() {
    let (fixture, cases) = fixture_and_cases(&["main", "equal", "small"]);
    let columns = fixture.numbers("projections");
    let directions: Vec<f64> = (0..32 * 24).map(|i| columns[i % 32 * 24 + i / 32]).collect();
    for case in cases {
        let [a, b] = [&case.a, &case.b].map(|rows| Rows::of(32, rows).unwrap());
        for p in [1, 2] {
            let powers = sliced_wasserstein(&a, &b, &directions, p).unwrap();
            let value = (powers.iter().sum::<f64>() / 24.0).powf(1.0 / f64::from(p));
            relative(case.name, value, fixture.value(&format!("/{}/sliced_w{p}", case.name)), 1e-12);
        }
    }
    // On a line every direction is the same, up to sign.
    let (fixture, cases) = fixture_and_cases(&["one_dimensional"]);
    let expected = fixture.value("/one_dimensional/optimal_transport/w2");
    relative("line", cases[0].value("sliced_wasserstein", ""), expected, 1e-12);
}

#[test]
fn energy_distance() {
    let (fixture, cases) = fixture_and_cases(&["main", "equal", "small", "one_dimensional", "tiny"]);
    for case in cases {
        let at = |field: &str| fixture.value(&format!("/{}/energy/{field}", case.name));
        // A difference of means a hundred times as large.
        let tolerance = 1e-12;
        close(case.name, case.value("energy", ""), at("v_statistic"), tolerance);
        close(case.name, case.value("energy", "statistic = 'unbiased'"), at("u_statistic"), tolerance);
    }
    let (_, cases) = fixture_and_cases(&["one_dimensional"]);
    relative(
        "scipy",
        cases[0].value("energy", "").sqrt(),
        fixture.value("/one_dimensional/scipy_energy_distance"),
        1e-12,
    );
}

#[test]
fn gaussian_mmd() {
    let (fixture, cases) = fixture_and_cases(&["main", "equal", "small", "tiny"]);
    for case in cases {
        let count = fixture.about["values"][case.name]["gaussian_mmd"].as_array().unwrap().len();
        for place in 0..count {
            let at = |field: &str| fixture.value(&format!("/{}/gaussian_mmd/{place}/{field}", case.name));
            for statistic in ["biased", "unbiased"] {
                let settings = format!("sigma = {:?}\nstatistic = '{statistic}'", at("sigma"));
                // Kernel values are at most 1.
                close(case.name, case.value("mmd", &settings), at(statistic), 1e-14);
            }
        }
    }
}

#[test]
fn inception_scores() {
    let fixture = Fixture::open("metrics_features");
    let score = |name: &str, settings: &str| {
        let (rows, shape) = fixture.tensor(name);
        measure(kind("inception_score", settings), shape[1], [(Side::Samples, Batch::from(&rows))]).unwrap()
    };
    for splits in [1, 10] {
        let at = |field: &str| fixture.value(&format!("/inception_score/{splits}/{field}"));
        let measured = score("logits", &format!("splits = {splits}"));
        relative("mean", measured.value, at("mean"), 1e-13);
        close("deviation", measured.part("deviation").unwrap(), at("std"), 1e-13);
        for split in 0..splits {
            let value = measured.part(&format!("split {}", split + 1)).unwrap();
            relative("split", value, at(&format!("per_split/{split}")), 1e-13);
        }
    }
    let measured = score("probabilities", "splits = 1\noutputs = 'probabilities'");
    relative("zeros", measured.value, fixture.value("/inception_score_of_probabilities/1/mean"), 1e-13);
}

#[test]
fn pictures() {
    let fixture = Fixture::open("metrics_images");
    for name in ["grey", "rgb", "bytes"] {
        let ((x, shape), y) = (fixture.tensor(&format!("{name}.x")), fixture.numbers(&format!("{name}.y")));
        let (channels, height, width) = (shape[1], shape[2], shape[3]);
        let dim = channels * height * width;
        let range = fixture.value(&format!("/{name}/data_range"));
        let size = format!("range = {range:?}\nshape = [{channels}, {height}, {width}]");
        // Pixel by pixel, as this project keeps pictures.
        let last = |rows: &[f64]| -> Vec<f64> {
            let picture = |row: &[f64]| -> Vec<f64> {
                (0..dim).map(|i| row[i % channels * height * width + i / channels]).collect()
            };
            rows.chunks(dim).flat_map(picture).collect()
        };
        let (x_last, y_last) = (last(&x), last(&y));
        for (metric, settings, field) in [
            ("psnr", format!("range = {range:?}"), "psnr"),
            ("ssim", size.clone(), "ssim_gaussian"),
            ("ssim", format!("{size}\nwindow = 'uniform'"), "ssim_uniform7"),
            (
                "ssim",
                format!("{size}\nwindow = 'uniform'\nsample_covariance = true"),
                "ssim_uniform7_sample_covariance",
            ),
        ] {
            let expected: Vec<f64> = (0..2).map(|i| fixture.value(&format!("/{name}/{field}/{i}"))).collect();
            let mut values = Vec::new();
            let value = |x: &[f64], y: &[f64], settings: &str| {
                let sides = [(Side::Reference, Batch::from(x)), (Side::Samples, Batch::from(y))];
                measure(kind(metric, settings), dim, sides).unwrap().value
            };
            for (x, y) in x.chunks(dim).zip(y.chunks(dim)) {
                values.push(value(x, y, &settings));
            }
            // The fixture's bound is 1e-10.
            values.iter().zip(&expected).for_each(|(value, expected)| close(field, *value, *expected, 1e-11));
            close(field, value(&x, &y, &settings), (expected[0] + expected[1]) / 2.0, 1e-11);
            if metric == "ssim" {
                let turned = format!("{settings}\nlayout = 'channels_last'");
                close(field, value(&x_last, &y_last, &turned), (expected[0] + expected[1]) / 2.0, 1e-11);
            }
        }
        let ssim = Ssim { range, ..Ssim::default() };
        let plane = height * width;
        let planes = x[..dim].chunks(plane).zip(y[..dim].chunks(plane));
        let map: Vec<f64> = planes.flat_map(|(x, y)| ssim.map(x, y, width)).collect();
        let expected = fixture.numbers(&format!("{name}.ssim_gaussian_map0_f64"));
        assert_eq!(map.len(), expected.len());
        map.iter().zip(&expected).for_each(|(value, expected)| close("map", *value, *expected, 1e-10));
    }
}

#[test]
fn pictures_by_hand() {
    let fixture = Fixture::open("metrics_images");
    let (zeros, ones) = (vec![0.0; 256], vec![1.0; 256]);
    let value = |metric: &str, x: &[f64], y: &[f64]| {
        let sides = [(Side::Reference, Batch::from(x)), (Side::Samples, Batch::from(y))];
        measure(kind(metric, ""), 256, sides).unwrap().value
    };
    close("ssim", value("ssim", &zeros, &ones), fixture.value("/by_hand/zeros_and_ones/ssim"), 1e-16);
    close("psnr", value("psnr", &zeros, &ones), fixture.value("/by_hand/zeros_and_ones/psnr"), 0.0);
    close("ssim", value("ssim", &ones, &ones), 1.0, 1e-14);
    assert_eq!(value("psnr", &ones, &ones), f64::INFINITY);
}

#[test]
fn ranked_probability_scores() {
    let fixture = Fixture::open("metrics_images");
    let (members, observations) = (fixture.numbers("crps.ensemble"), fixture.numbers("crps.observations"));
    for (scored, field, tensor) in
        [(Scored::Ensemble, "ensemble", "crps.ensemble_f64"), (Scored::Fair, "fair", "crps.fair_f64")]
    {
        let expected = fixture.numbers(tensor);
        for ((members, &observed), expected) in members.chunks(8).zip(&observations).zip(expected) {
            close(field, ensemble_crps(observed, members, scored).unwrap(), expected, 1e-14);
        }
        let sides = [(Side::Reference, Batch::from(&observations)), (Side::Samples, Batch::from(&members))];
        let measured = measure(Crps { scored }, 1, sides).unwrap();
        close(field, measured.value, fixture.value(&format!("/crps_mean/{field}")), 1e-14);
        let by_hand = ensemble_crps(0.3, &[0.0, 1.0, 2.0], scored).unwrap();
        close("by hand", by_hand, fixture.value(&format!("/crps_by_hand/{field}")), 1e-15);
    }
    let laws = fixture.numbers("crps.mu").into_iter().zip(fixture.numbers("crps.sigma"));
    for (((mean, deviation), observed), expected) in laws.zip(observations).zip(fixture.numbers("crps.gaussian_f64")) {
        close("gaussian", gaussian_crps(mean, deviation, observed).unwrap(), expected, 1e-14);
    }
    let (members, observations) = (fixture.numbers("ties.ensemble"), fixture.numbers("ties.observations"));
    for ((members, &observed), expected) in members.chunks(5).zip(&observations).zip(fixture.numbers("ties.crps_f64")) {
        close("ties", ensemble_crps(observed, members, Scored::Ensemble).unwrap(), expected, 1e-14);
    }
}

#[test]
fn rank_histograms() {
    let fixture = Fixture::open("metrics_images");
    let (members, observations) = (fixture.numbers("crps.ensemble"), fixture.numbers("crps.observations"));
    let expected = fixture.numbers("rank.ranks");
    for ((members, &observed), expected) in members.chunks(8).zip(&observations).zip(expected) {
        assert_eq!(ranks(observed, members), (expected as usize, expected as usize));
    }
    let sides = [(Side::Reference, Batch::from(&observations)), (Side::Samples, Batch::from(&members))];
    let measured = measure(RankHistogram {}, 1, sides).unwrap();
    for (rank, count) in fixture.numbers("rank.histogram").into_iter().enumerate() {
        close("histogram", measured.part(&format!("rank {rank}")).unwrap(), count / 60.0, 1e-15);
    }
    let (members, observations) = (fixture.numbers("ties.ensemble"), fixture.numbers("ties.observations"));
    let expected = fixture.numbers("ties.lowest_rank").into_iter().zip(fixture.numbers("ties.highest_rank"));
    for ((members, &observed), (lowest, highest)) in members.chunks(5).zip(&observations).zip(expected) {
        assert_eq!(ranks(observed, members), (lowest as usize, highest as usize));
    }
}

#[test]
fn energy_scores() {
    let fixture = Fixture::open("metrics_images");
    let (members, observations) =
        (fixture.numbers("energy_score.ensemble"), fixture.numbers("energy_score.observations"));
    let expected = fixture.numbers("energy_score.values_f64");
    for ((members, observed), expected) in members.chunks(8 * 5).zip(observations.chunks(5)).zip(expected) {
        let sides = [(Side::Reference, Batch::from(observed)), (Side::Samples, Batch::from(members))];
        let measured = measure(EnergyScore { scored: Scored::Ensemble }, 5, sides).unwrap();
        close("energy score", measured.value, expected, 1e-14);
    }
}

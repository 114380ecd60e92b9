//! How good samples are, and which sampler to take, on the command line.

use std::{fs, path::Path};

use safetensors::SafeTensors;
use serde_json::Value;
use stein_run::arrays::NpyFile;

use super::{MIXTURE, err, out, refuse, stein};

/// The stored values of published programs, which the crate of the metrics is tested on.
const STORED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../stein-metrics/tests/data/metrics_features");

pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    pub(super) fn write(&self, name: &str, shape: &[usize], values: &[f32]) -> String {
        let path = self.at(name);
        let mut file: NpyFile = NpyFile::new(&path, shape).unwrap();
        file.write(values).unwrap();
        file.finish().unwrap();
        path
    }

    /// The two sets of the stored values.
    fn stored(&self) -> [String; 2] {
        let bytes = fs::read(format!("{STORED}.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        ["A", "B"].map(|name| {
            let tensor = tensors.tensor(name).unwrap();
            let values: Vec<f32> =
                tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
            self.write(&format!("{name}.npy"), tensor.shape(), &values)
        })
    }
}

pub(super) fn run(arguments: &[&str]) -> String {
    let output = stein(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", err(&output));
    out(&output)
}

pub(super) fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&run(&[arguments, &["--json"]].concat())).unwrap()
}

#[test]
fn two_arrays_have_the_numbers_of_published_programs() {
    let folder = Folder::new();
    let [a, b] = folder.stored();
    let metrics = "frechet,kernel,precision,recall,density,coverage,wasserstein,energy,mmd";
    let found = json(&["evaluate", &b, "--against", &a, "--metrics", metrics, "--metric-set", "mmd.sigma=3"]);
    let stored: Value = serde_json::from_slice(&fs::read(format!("{STORED}.json")).unwrap()).unwrap();
    let stored = &stored["values"]["main"];
    let fives = &stored["prdc"][2];
    for (name, wanted) in [
        ("frechet", &stored["frechet"]["factors"]),
        ("kernel", &stored["kid"]["unbiased"]),
        ("precision", &fives["precision"]),
        ("recall", &fives["recall"]),
        ("density", &fives["density"]),
        ("coverage", &fives["coverage"]),
        ("wasserstein", &stored["optimal_transport"]["w2"]),
        ("energy", &stored["energy"]["v_statistic"]),
        ("mmd", &stored["gaussian_mmd"][1]["unbiased"]),
    ] {
        let (value, wanted) = (found[name]["value"].as_f64().unwrap(), wanted.as_f64().unwrap());
        // The numbers are stored in single precision and worked on in double: rounding, of numbers up to 3.
        assert!((value - wanted).abs() < 1e-10, "{name}: {value} for {wanted}");
        assert!(found[name]["error"].as_f64().unwrap() > 0.0, "{name}");
    }
    assert_eq!((&found["about"]["n"], &found["about"]["features"]), (&500.into(), &"none".into()));
    // A person is told what was compared, by its hash.
    let text = run(&["evaluate", &b, "--against", &a]);
    let hash = found["frechet"]["reference"].as_str().unwrap();
    assert!(text.contains(hash) && text.contains("400 of A") && text.contains("smaller is better"), "{text}");
}

#[test]
fn a_set_is_as_good_as_itself() {
    let folder = Folder::new();
    let [a, _] = folder.stored();
    let metrics = "frechet,precision,recall,coverage,wasserstein,sliced_wasserstein,energy";
    let found = json(&["evaluate", &a, "--against", &a, "--metrics", metrics]);
    for (name, wanted) in [
        ("frechet", 0.0),
        ("precision", 1.0),
        ("recall", 1.0),
        ("coverage", 1.0),
        ("wasserstein", 0.0),
        ("sliced_wasserstein", 0.0),
        ("energy", 0.0),
    ] {
        // Rounding of sums of squares up to 100, of which roots may be taken.
        assert!((found[name]["value"].as_f64().unwrap() - wanted).abs() < 1e-6, "{name}: {}", found[name]);
    }
}

#[test]
fn saved_moments_stand_for_the_data() {
    let folder = Folder::new();
    let [a, b] = folder.stored();
    let moments = folder.at("a.npz");
    let with = json(&["evaluate", &b, "--against", &a, "--metrics", "frechet", "--reference", &moments]);
    let without = json(&["evaluate", &b, "--metrics", "frechet", "--reference", &moments]);
    let value = |found: &Value| found["frechet"]["value"].as_f64().unwrap();
    assert!((value(&with) - value(&without)).abs() < 1e-10, "{with} {without}");
    assert_eq!(with["frechet"]["reference"], without["frechet"]["reference"]);
}

#[test]
fn copies_and_strangers_are_told_from_fresh_samples() {
    let folder = Folder::new();
    fs::write(folder.at("m.json"), MIXTURE).unwrap();
    let model = format!("exact:{}", folder.at("m.json"));
    let draw = |name: &str, n: &str, seed: &str| {
        run(&["sample", &model, "-n", n, "-s", seed, "--steps", "40", "-o", &folder.at(name)]);
        folder.at(name)
    };
    let (train, test, fresh) =
        (draw("train.npy", "400", "1"), draw("test.npy", "400", "2"), draw("new.npy", "400", "3"));
    let evaluate = |samples: &str| {
        let metrics = "novelty,authenticity,copying,c2st";
        json(&["evaluate", samples, "--against", &train, "--held-out", &test, "--metrics", metrics])
    };
    let value = |found: &Value, name: &str| found[name]["value"].as_f64().unwrap();
    let copies = evaluate(&train);
    assert_eq!((value(&copies, "novelty"), value(&copies, "authenticity")), (0.0, 0.0));
    assert!(value(&copies, "copying") < -3.0, "{copies}");
    let fresh = evaluate(&fresh);
    // Five standard errors around what fresh draws of the law have.
    let authentic = fresh["authenticity"]["parts"]["held_out"].as_f64().unwrap();
    for (name, right) in [("novelty", 1.0), ("authenticity", authentic), ("copying", 0.0), ("c2st", 0.5)] {
        let error = fresh[name]["error"].as_f64().unwrap();
        assert!((value(&fresh, name) - right).abs() < 5.0 * error + 0.02, "{name}: {}", fresh[name]);
    }
    let values: Vec<f32> = (0..800).map(|i| (i % 7) as f32).collect();
    let strangers = evaluate(&folder.write("far.npy", &[400, 2], &values));
    assert!(value(&strangers, "c2st") > 0.9 && value(&strangers, "novelty") > 2.0, "{strangers}");
}

#[test]
fn pictures_are_paired_and_shown() {
    let folder = Folder::new();
    let values: Vec<f32> = (0..16 * 64).map(|i| (i * 37 % 101) as f32 / 100.0).collect();
    let [one, other] = ["one.npy", "other.npy"].map(|name| {
        let shift = if name == "one.npy" { 0.0 } else { 0.1 };
        let values: Vec<f32> = values.iter().map(|value| value * 0.9 + shift).collect();
        folder.write(name, &[16, 8, 8, 1], &values)
    });
    let page = folder.at("page");
    let found = json(&["evaluate", &other, "--against", &one, "--metrics", "psnr,frechet", "--report", &page]);
    // A shift of 0.1 everywhere is 20 dB.
    assert!((found["psnr"]["value"].as_f64().unwrap() - 20.0).abs() < 1e-4, "{found}");
    let text = fs::read_to_string(Path::new(&page).join("index.html")).unwrap();
    assert!(text.matches("data:image/png").count() == 2 && text.contains("psnr"), "two pictures and the table");
    // The same command replaces its own page; another's is left.
    run(&["evaluate", &other, "--against", &one, "--metrics", "psnr", "--report", &page]);
    fs::write(Path::new(&page).join("index.html"), "mine").unwrap();
    assert!(refuse(&["evaluate", &other, "--against", &one, "--report", &page]).contains("--force"));
}

#[test]
fn samples_of_a_class_are_numbered_as_the_data() {
    // Samples and the numbers of their classes beside them, as `stein sample` leaves them.
    let folder = Folder::new();
    let rows: Vec<f32> = (0..40).flat_map(|i| [(i % 2) as f32 * 9.0 + i as f32 * 0.01, 1.0]).collect();
    let samples = folder.write("x.npy", &[40, 2], &rows);
    let mut labels: NpyFile<i64> = NpyFile::new(folder.at("x.npy.labels.npy"), &[40]).unwrap();
    labels.write(&(0..40).map(|i| i64::from(i % 4 == 1)).collect::<Vec<_>>()).unwrap();
    labels.finish().unwrap();
    let lines: String = (0..40).map(|i| format!("{},1.0,{}\n", (i % 2) * 9, ["a", "b"][i % 2])).collect();
    fs::write(folder.at("data.csv"), format!("u,v,kind\n{lines}")).unwrap();
    let data = folder.at("data.csv");
    let found =
        json(&["evaluate", &samples, "--against", &data, "--set", "source.label=kind", "--metrics", "agreement"]);
    // A half of the second class was drawn for the first.
    assert_eq!(found["agreement"]["value"], 0.75, "{found}");
}

/// Two classes of squares: samples are copies of the data but for those drawn for the second class, of which a half are of the first.
fn two_classes(folder: &Folder, n: usize) -> [String; 2] {
    let shade = |i: usize, place: usize| 0.9 - 0.1 * ((i * 7 + place * 3) % 5) as f32 - 0.001 * i as f32;
    let picture = |i: usize, class: usize| -> Vec<f32> {
        (0..16).map(|place| if place / 8 == class { shade(i, place) } else { 0.1 }).collect()
    };
    let label = |name: &str, of: &dyn Fn(usize) -> usize| {
        let mut labels: NpyFile<i64> = NpyFile::new(folder.at(&format!("{name}.labels.npy")), &[n]).unwrap();
        labels.write(&(0..n).map(|i| of(i) as i64).collect::<Vec<_>>()).unwrap();
        labels.finish().unwrap();
    };
    let data: Vec<f32> = (0..n).flat_map(|i| picture(i, i % 2)).collect();
    let samples: Vec<f32> = (0..n).flat_map(|i| picture(i, usize::from(i % 4 == 1))).collect();
    label("data.npy", &|i| i % 2);
    label("samples.npy", &|i| i % 2);
    [folder.write("samples.npy", &[n, 4, 4, 1], &samples), folder.write("data.npy", &[n, 4, 4, 1], &data)]
}

#[test]
fn classes_are_measured_one_by_one() {
    let folder = Folder::new();
    let [samples, data] = two_classes(&folder, 80);
    let page = folder.at("page");
    let of = ["evaluate", &samples, "--against", &data, "--metrics", "precision,agreement"];
    let plain = json(&[&of[..], &["--report", &page]].concat());
    let found = json(&[&of[..], &["--by-class"]].concat());
    // Beyond the page classes are told where they are asked for, and nothing else changes.
    assert_eq!((plain.get("by_class"), &plain["precision"]), (None, &found["precision"]));
    assert_eq!(plain["agreement"], found["agreement"]);
    assert_eq!(plain["agreement"].get("parts"), None, "{plain}");
    let classes = found["by_class"].as_object().unwrap();
    assert_eq!(classes.len(), 2);
    let [zeros, ones] = ["0", "1"].map(|name| &classes[name]);
    for class in [zeros, ones] {
        assert_eq!((&class["samples"], &class["reference_n"]), (&40.into(), &40.into()), "{found}");
    }
    // 40 rows of 16 numbers have a Fréchet distance. That of the first class, whose rows are those of the data, is 0 up to rounding of
    // sums of squares; the half of the second class that is of the first is far from the data.
    let value = |class: &Value, name: &str| class[name]["value"].as_f64().unwrap();
    assert!(value(zeros, "frechet").abs() < 1e-6 && value(ones, "frechet") > 0.5, "{found}");
    assert_eq!((value(zeros, "agreement"), value(ones, "agreement")), (1.0, 0.5), "{found}");
    // Standard error of a binomial.
    assert_eq!(ones["agreement"]["error"].as_f64().unwrap(), (0.25f64 / 40.0).sqrt());
    assert_eq!((value(zeros, "coverage"), value(zeros, "recall")), (1.0, 1.0));
    let text = fs::read_to_string(Path::new(&page).join("index.html")).unwrap();
    assert!(text.contains("Each class") && text.contains("0.5000 ± 0.07906"), "{text}");
    let said = run(&[&of[..], &["--by-class"]].concat());
    assert!(said.contains("class  samples  reference") && said.contains("Each Fréchet distance"), "{said}");

    // Too few rows of a class for the covariance of 16 numbers; agreement is told though it is no metric of all.
    let [samples, data] = two_classes(&folder, 24);
    let few = json(&["evaluate", &samples, "--against", &data, "--metrics", "energy", "--by-class"]);
    assert!(few.get("agreement").is_none(), "{few}");
    let ones = &few["by_class"]["1"];
    assert!(ones.get("frechet").is_none() && value(ones, "kernel") > 0.0 && value(ones, "agreement") == 0.5, "{few}");
    let said = run(&["evaluate", &samples, "--against", &data, "--metrics", "energy", "--by-class"]);
    assert!(said.contains("too few rows: it takes more than the 16 numbers"), "{said}");
    let plain = folder.write("plain.npy", &[24, 4, 4, 1], &[0.5; 24 * 16]);
    assert!(refuse(&["evaluate", &plain, "--against", &data, "--by-class"]).contains("--by-class needs the class"));
}

#[test]
fn what_cannot_be_measured_is_refused_before_work_starts() {
    let folder = Folder::new();
    let [a, b] = folder.stored();
    fs::write(folder.at("m.json"), MIXTURE).unwrap();
    let model = format!("exact:{}", folder.at("m.json"));
    for (arguments, part) in [
        (&["evaluate", &b, "--against", &a, "--metrics", "fretchet"][..], "nearest first: frechet"),
        (&["evaluate", &b, "--against", &a, "--metrics", "novelty"], "--held-out"),
        (&["evaluate", &b, "--against", &a, "--metrics", "agreement"], "class"),
        (&["evaluate", &b, "--against", &a, "--metrics", "psnr"], "pictures"),
        (&["evaluate", &b, "--against", &a, "--metrics", "inception_score"], "--features"),
        (&["evaluate", &b, "--against", &a, "--metrics", "crps"], "ensembles"),
        (&["evaluate", &b, "--against", &a, "--metrics", "precision", "--metric-set", "precision.k=0"], "k"),
        (&["evaluate", &b, "--against", &a, "--metrics", "precision", "--metric-set", "k=3"], "precision.k=3"),
        (&["evaluate", &b, "--against", &a, "--features", "inception"], "pictures"),
        (&["evaluate", &b, "--against", &a, "--features", "conception"], "nearest first: inception"),
        (&["evaluate", &b], "--against"),
        (&["evaluate", &b, "--against", &a, "-n", "0"], "at least 1"),
        (&["evaluate", &b, "--against", &a, "--steps", "5"], "model"),
        (&["evaluate", &b, "--against", &a, "--weights", "raw"], "--weights"),
        (&["evaluate", &b, "--against", "digits"], "shape"),
        (&["evaluate", &folder.at("none.npy"), "--against", &a], "nothing at"),
        (&["sweep", &model, "--samplers", "ddim,huen"], "nearest first: heun"),
        (&["sweep", &model, "--samplers", "ddim{eta=2}"], "eta = 2"),
        (&["sweep", &model, "--samplers", "ddim{eta=1"], "does not close"),
        (&["sweep", &model, "--samplers", "ddim", "--steps", "0"], "no steps"),
        (&["sweep", &model, "--samplers", "ddim", "-o", &folder.at("s.txt")], ".html"),
        (&["sweep", &model, "--samplers", "ddim", "--metrics", "psnr"], "pictures"),
    ] {
        let said = refuse(arguments);
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}

#[test]
fn a_sweep_shows_the_order_of_samplers() {
    let folder = Folder::new();
    let mixture = r#"{"weights": [0.25, 0.75], "means": [[-0.5, -0.5], [0.5, 0.25]], "stds": [0.125, 0.25]}"#;
    fs::write(folder.at("m.json"), mixture).unwrap();
    let model = format!("exact:{}", folder.at("m.json"));
    let (csv, png) = (folder.at("s.csv"), folder.at("s.png"));
    let arguments = ["sweep", &model, "--samplers", "ddim,heun,adaptive_sde", "--steps", "20,40,80", "-n", "200"];
    let found = json(&[&arguments[..], &["-o", &csv]].concat());
    let tried = found["tried"].as_array().unwrap();
    let distance = |i: usize| tried[i]["distance_to_ode"].as_f64().unwrap();
    let evaluations: Vec<u64> = tried[..6].iter().map(|tried| tried["evaluations"].as_u64().unwrap()).collect();
    // Karras et al.: 2N − 1 for Heun.
    assert_eq!(evaluations, [20, 40, 80, 39, 79, 159]);
    // Twice as many steps divide the error by 2 at order 1, by 4 at order 2; near enough on these coarse grids.
    for (coarse, ratio) in [(1, 2.0), (4, 4.0)] {
        let measured: f64 = distance(coarse) / distance(coarse + 1);
        assert!((measured / ratio).log2().abs() < 0.4, "{measured} for {ratio}");
    }
    // One that chooses its steps is tried once, and adds noise: it has no place on the ODE.
    assert_eq!((tried.len(), &tried[6]["distance_to_ode"]), (7, &Value::Null));
    let table = fs::read_to_string(&csv).unwrap();
    assert_eq!(table.lines().count(), 8);
    assert!(
        table.starts_with("sampler,grid,steps,evaluations,distance_to_ode,seconds,wasserstein,wasserstein_error\n")
    );
    let text = run(&[&arguments[..], &["-o", &png]].concat());
    assert!(text.contains("take --sampler ") && Path::new(&png).exists(), "{text}");
    // Levels that were fitted are found again by their name; those of another number of steps are not there.
    let fitted = json(&["sweep", &model, "--samplers", "ddim", "--steps", "6", "--grids", "optimized", "-n", "200"]);
    let levels: Vec<f64> =
        fitted["tried"][0]["levels"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(levels.len(), 6);
    assert_eq!(fitted["recommended"], "--sampler ddim --steps 6 --grid optimized");
    let optimized = ["sample", &model, "-n", "5", "--sampler", "ddim", "--grid", "optimized"];
    run(&[&optimized[..], &["--steps", "6", "-o", &folder.at("o.csv")]].concat());
    let record: Value = serde_json::from_slice(&fs::read(folder.at("o.csv.json")).unwrap()).unwrap();
    let recorded = record.to_string();
    let listed: Vec<String> = levels.iter().map(|level| Value::from(*level).to_string()).collect();
    assert!(recorded.contains(&format!("[{}]", listed.join(","))), "{recorded}");
    let said = refuse(&[&optimized[..], &["--steps", "7", "-o", &folder.at("p.csv")]].concat());
    assert!(said.contains("--samplers 'ddim' --steps 7 --grids optimized"), "{said}");
    let said = refuse(
        &[&optimized[..], &["--steps", "6", "--set", "sample.sampler.eta=0.5", "-o", &folder.at("p.csv")]].concat(),
    );
    assert!(said.contains("--samplers 'ddim{eta=0.5}'"), "{said}");
    // What is advised is a command line.
    let line = text.lines().last().unwrap();
    let flags: Vec<&str> = line["take ".len()..line.find(':').unwrap()].split(' ').collect();
    run(&[&["sample", &model, "-n", "5", "-o", &folder.at("x.csv")], &flags[..]].concat());
}

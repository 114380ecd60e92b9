//! Log-densities, codes and what lies between them, on the command line.

use std::{fs, path::Path};

use super::{MIXTURE, err, out, refuse, stein};

/// A folder with a mixture and two hundred of its samples.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::write(folder.0.path().join("m.json"), MIXTURE).unwrap();
        folder.run(&["sample", &folder.model(), "-n", "200", "-o", &folder.at("x.csv")]);
        folder
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn model(&self) -> String {
        format!("exact:{}", self.at("m.json"))
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = stein(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", err(&output));
        out(&output)
    }

    fn likelihood(&self, more: &[&str]) -> serde_json::Value {
        let (model, data) = (self.model(), self.at("x.csv"));
        let text = self.run(&[&["likelihood", &model, "--data", &data, "--json"], more].concat());
        assert_eq!(text.lines().count(), 1, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// The numbers of an array of doubles.
fn doubles(path: &str) -> Vec<f64> {
    stein_data::read_array(Path::new(path)).unwrap().1
}

#[test]
fn an_exact_model_has_its_closed_form_on_every_schedule() {
    let folder = Folder::new();
    for schedule in ["edm", "ve", "vp", "sub_vp", "cosine", "rectified"] {
        let found = folder.likelihood(&["--schedule", schedule, "--closed-form"]);
        let number = |key: &str| found[key].as_f64().unwrap();
        assert!((number("nats") - number("closed_form")).abs() < 2e-4, "{schedule}: {found}");
        assert_eq!((&found["unit"], number("n"), number("mean")), (&"nats".into(), 200.0, number("nats")));
        assert!(number("standard_error") > 0.0 && number("evaluations") > 10.0, "{found}");
    }
}

#[test]
fn every_sample_has_its_value_and_its_rank() {
    let folder = Folder::new();
    let found = folder.likelihood(&["-o", &folder.at("ll.npy"), "--rank", &folder.at("rank.csv")]);
    let values = doubles(&folder.at("ll.npy"));
    let mean = values.iter().sum::<f64>() / 200.0;
    assert!((mean - found["mean"].as_f64().unwrap()).abs() < 1e-12);
    let header = fs::read(folder.at("ll.npy")).unwrap();
    assert!(String::from_utf8_lossy(&header[..128]).contains("'<f8'"));
    let table = fs::read_to_string(folder.at("rank.csv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((rows[0][..2].to_vec(), rows.len()), (vec!["row", "nats"], 201));
    let ranked: Vec<f64> = rows[1..].iter().map(|row| row[1].parse().unwrap()).collect();
    assert!(ranked.is_sorted(), "the least likely come first");
    let (row, lowest) = (rows[1][0].parse::<usize>().unwrap(), ranked[0]);
    assert_eq!(values[row], lowest);
    // The row of the data it is.
    let data = fs::read_to_string(folder.at("x.csv")).unwrap();
    assert_eq!(data.lines().nth(row + 1).unwrap().split(',').next().unwrap(), rows[1][2]);
}

#[test]
fn given_directions_are_those_that_are_taken() {
    let folder = Folder::new();
    // A direction for each of three samples: the same numbers twice are two directions.
    let write = |name: &str, shape: &str, values: &[f64]| {
        let header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(118u16.to_le_bytes());
        bytes.extend(format!("{header:<117}\n").bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        fs::write(folder.at(name), bytes).unwrap();
    };
    let one = [1.0, -1.0, 1.0, 1.0, -1.0, 1.0];
    write("one.npy", "(3, 2)", &one);
    write("two.npy", "(2, 3, 2)", &[one, one].concat());
    write("short.npy", "(2, 2)", &one[..4]);
    let mean = |more: &[&str]| folder.likelihood(&[&["-n", "3"], more].concat())["mean"].as_f64().unwrap();
    let (once, twice) = (mean(&["--probe", &folder.at("one.npy")]), mean(&["--probe", &folder.at("two.npy")]));
    assert!((once - twice).abs() < 1e-4, "{once} and {twice}");
    let exact = mean(&["--divergence", "exact"]);
    assert!((once - exact).abs() > 1e-6, "directions change an estimate");
    assert_eq!(mean(&["--probes", "2"]), mean(&["--probes", "2"]));
    assert!(mean(&["--probes", "2"]) != mean(&["--probes", "2", "--seed", "1"]));
    let data = folder.at("x.csv");
    let sentence =
        refuse(&["likelihood", &folder.model(), "--data", &data, "-n", "3", "--probe", &folder.at("short.npy")]);
    assert!(sentence.contains("[3, 2]"), "{sentence}");
}

#[test]
fn what_has_no_likelihood_is_refused_before_work() {
    let folder = Folder::new();
    let (model, data) = (folder.model(), folder.at("x.csv"));
    for (more, part) in [
        (&["--data", "digits"][..], "8x8x1"),
        (&["--data", &data, "--tolerance", "0"], "tolerance"),
        (&["--data", &data, "--tolerance", "nan"], "tolerance"),
        (&["--data", &data, "--bound", "vlb"], "discrete schedule"),
        (&["--data", &data, "--divergence", "trace"], "nearest first"),
        (&["--data", &data, "--bound", "exactly"], "nearest first"),
        (&["--data", &data, "--steps", "10"], "--bound vlb"),
        (&["--data", &data, "--divergence", "exact", "--probes", "2"], "no probes"),
        (&["--data", &data, "--bound", "scoreflow", "--schedule", "rectified"], "--schedule vp"),
        (&["--data", &data, "-n", "0"], "-n at least 1"),
        (&["--data", &data, "--probes", "0"], "probes"),
        (&["--data", &data, "-o", &folder.at("out.csv")], ".npy"),
        (&["--data", &data, "-o", &folder.at("nowhere/out.npy")], "does not exist"),
        (&[], "--data"),
    ] {
        let sentence = refuse(&[&["likelihood", &model][..], more].concat());
        assert!(sentence.contains(part), "{more:?}: {sentence}");
    }
    // A file of one's own is not replaced.
    fs::write(folder.at("mine.npy"), "mine").unwrap();
    let sentence = refuse(&["likelihood", &model, "--data", &data, "-o", &folder.at("mine.npy")]);
    assert!(sentence.contains("--force"), "{sentence}");
    assert_eq!(fs::read_to_string(folder.at("mine.npy")).unwrap(), "mine");
}

#[test]
fn codes_lead_back() {
    let folder = Folder::new();
    let (model, data, codes, back) = (folder.model(), folder.at("x.csv"), folder.at("z.npy"), folder.at("back.npy"));
    folder.run(&["encode", &model, "--data", &data, "-n", "50", "--tolerance", "1e-8", "-o", &codes]);
    folder.run(&["decode", &model, &codes, "--tolerance", "1e-8", "-o", &back]);
    let table = fs::read_to_string(&data).unwrap();
    let wanted = table.lines().skip(1).take(50).flat_map(|line| line.split(',').map(|cell| cell.parse().unwrap()));
    let found = doubles(&back);
    assert_eq!(found.len(), 100);
    found.iter().zip(wanted).for_each(|(found, wanted): (&f64, f64)| assert!((found - wanted).abs() < 1e-4));
    // Codes of the prior, colder ones nearer to the middle of the data.
    folder.run(&["decode", &model, &codes, "--temperature", "0", "-o", &folder.at("cold.npy")]);
    let cold = doubles(&folder.at("cold.npy"));
    assert!(cold.chunks(2).all(|x| x == &cold[..2]), "one code has one sample");
    for name in ["back.png", "back.gif", "back.csv"] {
        folder.run(&["decode", &model, &codes, "-o", &folder.at(name)]);
        assert!(fs::metadata(folder.at(name)).unwrap().len() > 50, "{name}");
    }
    let sentence = refuse(&["decode", &model, &codes, "--class", "1", "-o", &back]);
    assert!(sentence.contains("unconditional"), "{sentence}");
    let sentence = refuse(&["decode", &model, &codes, "-o", &codes, "--force"]);
    assert!(sentence.contains("reads"), "{sentence}");
}

#[test]
fn what_lies_between_begins_and_ends_at_the_samples() {
    let folder = Folder::new();
    let (model, data, path) = (folder.model(), folder.at("x.csv"), folder.at("between.npy"));
    let between = ["interpolate", &model, "--data", &data, "--tolerance", "1e-8", "--steps", "5"];
    for more in [&["--pairs", "0:1,7:3", "-o", &path][..], &["--pairs", "0:1,7:3", "--linear", "-o", &path]] {
        folder.run(&[&between[..], more].concat());
        let (shape, values) = stein_data::read_array(Path::new(&path)).unwrap();
        assert_eq!(shape, [2, 5, 2]);
        let table = fs::read_to_string(&data).unwrap();
        let row = |i: usize| -> Vec<f64> {
            table.lines().nth(i + 1).unwrap().split(',').map(|cell| cell.parse().unwrap()).collect()
        };
        for (place, sample) in [(0, 0), (4, 1), (5, 7), (9, 3)] {
            let found = &values[2 * place..2 * place + 2];
            found.iter().zip(row(sample)).for_each(|(found, wanted)| assert!((found - wanted).abs() < 1e-4));
        }
    }
    for name in ["between.png", "between.gif"] {
        folder.run(&[&between[..], &["--pairs", "0:1", "-o", &folder.at(name)]].concat());
    }
    for (more, part) in
        [(["--pairs", "0:200"], "no sample 200"), (["--pairs", "0-1"], "i:j"), (["--pairs", "0:1,"], "i:j")]
    {
        let sentence = refuse(&[&between[..], &more, &["-o", &folder.at("other.npy")]].concat());
        assert!(sentence.contains(part), "{sentence}");
    }
    // Between samples of the model's own sampler, whatever it is.
    let (strip, alone) = (folder.at("streams.npy"), folder.at("alone.npy"));
    folder.run(&["sample", &model, "-n", "8", "--seed", "5", "-o", &alone]);
    folder.run(&["interpolate", &model, "--streams", "--seed", "5", "--pairs", "6:2", "--steps", "3", "-o", &strip]);
    let (alone, strip) = (doubles(&alone), doubles(&strip));
    [(0, 6), (2, 2)].into_iter().for_each(|(place, sample)| {
        let pair = strip[2 * place..2 * place + 2].iter().zip(&alone[2 * sample..2 * sample + 2]);
        pair.for_each(|(found, wanted)| assert!((found - wanted).abs() < 1e-4, "{found} for {wanted}"));
    });
    // A model agrees with itself.
    let text = folder.run(&["compare", &model, &model, "--data", &data, "--json", "-o", &folder.at("c.png")]);
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!((found["correlation"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{found}");
}

#[test]
fn a_trained_model_knows_its_data_and_their_classes() {
    let folder = Folder::new();
    let (run, codes, back) = (folder.at("run"), folder.at("z.npy"), folder.at("back.npy"));
    let experiment = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments/digits/edm.toml");
    let few = ["--set", "train.steps=4", "--set", "train.rate.decay.steps=4", "--set", "train.sample_every=0"];
    folder.run(&[&["train", experiment.to_str().unwrap(), "--out", &run], &few[..]].concat());
    folder.run(&["encode", &run, "-n", "20", "-o", &codes]);
    assert_eq!(doubles(&format!("{codes}.labels.npy")).len(), 20);
    folder.run(&["decode", &run, &codes, "-o", &back]);
    let found = doubles(&back);
    let digits = stein_data::Source::named("digits").unwrap().load(stein_data::Split::Test, None).unwrap();
    let wanted = digits.rows(&(0..20).collect::<Vec<_>>()).unwrap();
    let squares: f64 = found.iter().zip(&wanted).map(|(a, b)| (a - f64::from(*b)).powi(2)).sum();
    let rms = (squares / found.len() as f64).sqrt();
    assert!(rms < 1.0 / 255.0, "{rms}");
    let text = folder.run(&["likelihood", &run, "-n", "20", "--json", "-o", &folder.at("bits.npy")]);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["unit"], &report["n"]), (&"bits/dim".into(), &20.into()));
    // 17 gray levels of noise take log2 17 bits; a network that has learned next to nothing takes no fewer than none.
    assert!((0.0..12.0).contains(&report["mean"].as_f64().unwrap()), "{report}");
    // Pictures of one's own: what is no gray level is refused, as is what has no class.
    let array = folder.at("more.npy");
    folder.run(&["sample", &run, "-n", "4", "--class", "3", "-o", &array]);
    fs::remove_file(format!("{array}.labels.npy")).unwrap();
    assert!(refuse(&["likelihood", &run, "--data", &array]).contains("--class"));
    folder.run(&["likelihood", &run, "--data", &array, "--class", "3"]);
    assert!(refuse(&["likelihood", &run, "--data", &array, "--class", "33"]).contains("nearest first"));
    let bytes = fs::read(&array).unwrap();
    let (header, numbers) = bytes.split_at(bytes.len() - 4 * 256);
    let loud = numbers.as_chunks::<4>().0.iter().flat_map(|x| (300.0 * f32::from_le_bytes(*x) + 2.0).to_le_bytes());
    fs::write(&array, header.iter().copied().chain(loud).collect::<Vec<u8>>()).unwrap();
    assert!(refuse(&["likelihood", &run, "--data", &array, "--class", "3"]).contains("gray levels from 0 to 1"));
    // The same whatever the batch and the number of threads.
    let again = |more: &[&str]| {
        let text = folder.run(&[&["likelihood", &run, "-n", "20", "--json", "--force"], more].concat());
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["mean"].as_f64().unwrap()
    };
    assert_eq!(report["mean"].as_f64().unwrap(), again(&["--threads", "1"]));
    let fewer = folder.run(&["likelihood", &run, "-n", "10", "--json", "-o", &folder.at("ten.npy")]);
    assert!(fewer.contains("\"n\":10"));
    let (ten, twenty) = (doubles(&folder.at("ten.npy")), doubles(&folder.at("bits.npy")));
    // A sample's value is its own: only kernels that differ with the batch's size move it, in the last digits.
    ten.iter().zip(&twenty).for_each(|(a, b)| assert!((a - b).abs() < 1e-3, "{a} and {b}"));
}

#[test]
fn the_score_is_drawn_of_models_of_the_line_and_the_plane() {
    let folder = Folder::new();
    for name in ["field.png", "field.svg", "field.gif"] {
        assert_eq!(folder.run(&["show", &folder.model(), "--field", "-o", &folder.at(name)]), "");
        assert!(fs::metadata(folder.at(name)).unwrap().len() > 1000, "{name}");
    }
    fs::write(folder.at("line.json"), r#"{"weights": [1, 2], "means": [[-1], [2]], "stds": [0.5, 1]}"#).unwrap();
    let line = format!("exact:{}", folder.at("line.json"));
    folder.run(&["show", &line, "--field", "--level", "0.2", "-o", &folder.at("line.png")]);
    // A learned score has the exact one beside it, and their distance.
    let (run, picture) = (folder.at("run"), folder.at("learned.png"));
    let experiment = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments/points2d/explicit.toml");
    let settings = ["train.steps=300", "train.rate.decay.steps=300", "train.batch=128"].map(|set| ["--set", set]);
    let settings: Vec<&str> = settings.into_iter().flatten().collect();
    folder.run(&[&["train", experiment.to_str().unwrap(), "--out", &run][..], &settings].concat());
    let text = folder.run(&["show", &run, "--field", "--level", "0.3", "-o", &picture]);
    let divergence: f64 = text.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(text.starts_with("relative Fisher divergence") && divergence < 0.05, "{text}");
    let drawn = image::open(&picture).unwrap();
    assert!(drawn.width() > 3 * drawn.height() / 2, "two fields stand side by side");
    for (more, part) in [
        (&["-o", &folder.at("f.jpg")][..], "png"),
        (&["-o", &folder.at("f.png"), "--level", "1000"], "0.1000 to 20.0000"),
        (&["-o", &folder.at("f.gif"), "--level", "1"], "all levels"),
        (&["-o", &folder.at("f.png"), "--class", "9"], "9"),
    ] {
        let sentence = refuse(&[&["show", &run, "--field"][..], more].concat());
        assert!(sentence.contains(part), "{more:?}: {sentence}");
    }
    fs::write(folder.at("mine.png"), "mine").unwrap();
    assert!(refuse(&["show", &run, "--field", "-o", &folder.at("mine.png")]).contains("--force"));
}

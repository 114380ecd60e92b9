//! The program as its users meet it: help texts, errors, exit codes, files.

mod data;
mod evaluate;
mod files;
mod likelihood;
mod list;
mod reports;
mod restore;
mod sizes;
mod training;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn stein(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stein")).args(arguments).env_remove("STEIN_DATA").output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs what must fail, and returns its one sentence.
fn refuse(arguments: &[&str]) -> String {
    let output = stein(arguments);
    let sentence = err(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {sentence}");
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    assert!(sentence.starts_with("stein: "), "{sentence}");
    sentence
}

/// The help of a command, and of every command that it names.
fn add_help(command: &[&str], text: &mut String) {
    let arguments = [command, &["--help"]].concat();
    let help = out(&stein(&arguments));
    text.push_str(&format!("$ stein {}\n{help}\n", arguments.join(" ")));
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // The lines of a long description begin further in.
    let named = listed
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next().filter(|_| !line.starts_with("   ")));
    for name in named.filter(|name| *name != "help") {
        add_help(&[command, &[name]].concat(), text);
    }
}

#[test]
fn help_texts_are_the_ones_in_the_documentation() {
    let mut text = String::new();
    add_help(&[], &mut text);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/help.txt");
    if std::env::var_os("STEIN_WRITE_HELP").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let known = fs::read_to_string(&path).unwrap();
    for command in ["import", "export", "data stats", "bench ops"] {
        assert!(text.contains(&format!("$ stein {command} --help\n")), "{command} is missing");
    }
    assert!(
        known == text,
        "docs/help.txt is out of date: run this test once with STEIN_WRITE_HELP=1 and look at the change"
    );
}

#[test]
fn a_network_is_timed_in_one_line_of_json() {
    let line = out(&stein(&["bench", "net", "--size", "mlp", "--what", "train", "--batch", "8", "--repeat", "2"]));
    assert_eq!(line.lines().count(), 1, "{line}");
    for field in ["\"what\":\"train\"", "\"size\":\"mlp\"", "\"batch\":8", "\"dtype\":\"f32\"", "\"parameters\":37762"]
    {
        assert!(line.contains(field), "{field} is not in {line}");
    }
    for field in ["ms", "images_per_s"] {
        assert!(line.contains(&format!("\"{field}\":")), "{field} is not in {line}");
    }
    // On any processor one of the two formats is used, and said.
    let output = stein(&["bench", "net", "--size", "small", "--batch", "1", "--repeat", "1", "--precision", "bf16"]);
    let (line, said) = (out(&output), err(&output));
    assert!(line.contains("\"parameters\":1623169"), "{line}");
    assert!(line.contains("\"dtype\":\"bf16\"") || said.contains("no bf16 instructions"), "{line}{said}");
    assert!(refuse(&["bench", "net", "--size", "huge"]).contains("small, cifar, mlp"));
    assert!(refuse(&["bench", "net", "--size", "mlp"]).contains("--what train"));
}

const MIXTURE: &str = r#"{"weights": [0.2, 0.8], "means": [[-5, -5], [5, 5]], "stds": [1, 1]}"#;

#[test]
fn an_exact_mixture_is_sampled_into_every_kind_of_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("m.json"), MIXTURE).unwrap();
    let model = format!("exact:{}", at("m.json"));
    for ending in ["png", "gif", "webp", "npy", "csv"] {
        let file = at(&format!("x.{ending}"));
        let output =
            stein(&["sample", &model, "-n", "50", "--seed", "1", "--sampler", "ddim", "--steps", "8", "-o", &file]);
        assert!(output.status.success(), "{}", err(&output));
        assert!(fs::metadata(&file).unwrap().len() > 100, "{ending}");
    }
    let record = fs::read_to_string(at("x.webp.json")).unwrap();
    assert!(record.contains("\"kind\": \"ddim\"") && record.contains("\"evaluations\": 8"), "{record}");
    // The same seed, one thread or two: the same file.
    for (threads, name) in [("1", "one.npy"), ("2", "two.npy")] {
        assert!(stein(&["--threads", threads, "sample", &model, "-n", "300", "-o", &at(name)]).status.success());
    }
    assert_eq!(fs::read(at("one.npy")).unwrap(), fs::read(at("two.npy")).unwrap());
    // A component on request.
    assert!(stein(&["sample", &model, "-n", "20", "--class", "0", "-o", &at("left.csv")]).status.success());
    let left = fs::read_to_string(at("left.csv")).unwrap();
    assert!(left.lines().skip(1).all(|line| line.split(',').next().unwrap().parse::<f64>().unwrap() < 0.0), "{left}");
}

#[test]
fn mistakes_are_answered_in_one_sentence_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mixture = folder.path().join("m.json");
    fs::write(&mixture, MIXTURE).unwrap();
    let model = format!("exact:{}", mixture.display());
    let file = folder.path().join("x.png");
    let file = file.to_str().unwrap();
    let sample = |more: &[&str]| {
        let mut arguments = vec!["sample", &model, "-o", file];
        arguments.extend(more);
        refuse(&arguments)
    };
    assert!(sample(&["--sampler", "huen"]).contains("nearest first: heun"));
    assert!(sample(&["--schedule", "edn"]).contains("nearest first: edm"));
    assert!(sample(&["--grid", "karas"]).contains("nearest first: karras"));
    assert!(sample(&["--class", "7"]).contains("class called `7`"));
    assert!(sample(&["--steps", "0"]).contains("at least 1"));
    assert!(sample(&["-n", "0"]).contains("at least 1"));
    assert!(sample(&["-n", "99999999999999"]).contains("or write a .npy file"));
    assert!(sample(&["--sampler", "rk45", "--steps", "9"]).contains("chooses its own steps"));
    assert!(sample(&["--set", "sample.sampler.eta=1"]).contains("eta"));
    assert!(sample(&["--set", "sampler=1"]).contains("sampler"));
    assert!(sample(&["--device", "gpu"]).contains("--features cuda"));
    assert!(refuse(&["sample", "nowhere", "-o", file]).contains("exact:FILE.json"));
    assert!(refuse(&["sample", &model, "-o", "nowhere/x.png"]).contains("does not exist"));
    assert!(refuse(&["sample", &model, "-o", "x.bmp"]).contains("nearest first"));
    assert!(sample(&["--guidance", "2"]).contains("needs a class"));
    assert!(refuse(&["sample", &model, "-o", folder.path().to_str().unwrap()]).contains("is a directory"));
    assert!(refuse(&["demo", "--set", "data.conditional=false"]).contains("stein train"));
    assert!(refuse(&["train", "nowhere.toml"]).contains("nowhere.toml"));
    assert!(refuse(&["show", "nowhere"]).contains("nowhere"));
    assert!(refuse(&["list", "sampler"]).contains("samplers"));
    assert!(refuse(&["data", "stats", "digit"]).contains("digits"));
    assert!(refuse(&["data", "stats", "mnist"]).contains("STEIN_DATA"));
    assert!(refuse(&["demo", "--set", "train.stpes=1", "--out", folder.path().to_str().unwrap()]).contains("steps"));
    assert!(!Path::new(file).exists(), "nothing was written");
    assert_eq!(stein(&["sampel"]).status.code(), Some(2));
}

#[test]
fn a_model_is_trained_shown_sampled_and_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let run = run.to_str().unwrap();
    let experiment = concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments/digits/edm.toml");
    let train = |steps: &str, more: &[&str]| {
        let steps = format!("train.steps={steps}");
        let mut arguments = vec![
            "train",
            experiment,
            "--out",
            run,
            "--set",
            &steps,
            "--set",
            "train.batch=8",
            "--set",
            "sample.grid.steps=2",
        ];
        arguments.extend(more);
        stein(&arguments)
    };
    let output = train("2", &[]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(out(&output).contains("00000002.safetensors"), "{}", out(&output));
    assert!(train("2", &[]).status.code() == Some(1), "an existing run is not overwritten");
    assert!(train("3", &["--resume"]).status.success());
    let shown = out(&stein(&["show", run]));
    assert!(shown.contains("checkpoints") && shown.contains("8x8x1") && shown.contains("kind = \"heun\""), "{shown}");
    let file = folder.path().join("seven.npy");
    let output = stein(&["sample", run, "-n", "3", "--class", "7", "-o", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", err(&output));
    let bytes = fs::read(&file).unwrap();
    assert!(String::from_utf8_lossy(&bytes[..128]).contains("(3, 8, 8, 1)"));
    assert!(folder.path().join("seven.npy.labels.npy").is_file());
}

#[test]
fn the_demo_leaves_its_pictures_and_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ["train.steps=10", "train.batch=16", "sample.grid.steps=2", "family.network.hidden=16"];
    let mut arguments = vec!["demo", "--out", folder.path().to_str().unwrap()];
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    for _ in 0..2 {
        let output = stein(&arguments);
        assert!(output.status.success(), "{}", err(&output));
        // Ten steps learn nothing; the numbers are printed all the same.
        for line in ["class agreement", "within-class spread", "distance to training"] {
            assert!(out(&output).contains(line), "{}", out(&output));
        }
    }
    for name in ["samples.png", "trajectory.gif", "loss.png", "report.html", "run/config.toml"] {
        assert!(fs::metadata(folder.path().join(name)).unwrap().len() > 500, "{name}");
    }
}

#[test]
fn statistics_and_completions_are_printed() {
    assert!(out(&stein(&["completions", "bash"])).contains("_stein"));
    let stats = out(&stein(&["data", "stats", "digits"]));
    assert!(stats.contains("3823") && stats.contains("8x8x1"), "{stats}");
}

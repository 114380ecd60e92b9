//! Inverse problems and editing on the command line.

use std::fs;

use image::{GrayImage, Luma};
use stein_data::read_array;

use super::{
    MIXTURE, err,
    evaluate::{Folder, json, run},
    refuse, stein,
};

const SUM: &str = "[measurement]\nkind = \"matrix\"\nrows = [[1.0, 1.0]]\nnoise = 0.5\n\n[method]\nkind = \"dps\"\n";

impl Folder {
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.at(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn mixture(&self) -> String {
        format!("exact:{}", self.file("mixture.json", MIXTURE))
    }
}

#[test]
fn a_sum_that_was_measured_leaves_samples_open_that_have_it() {
    let folder = Folder::new();
    let (model, task) = (folder.mixture(), folder.file("sum.toml", SUM));
    let (measured, samples) = (folder.write("y.npy", &[2, 1], &[9.0, -9.0]), folder.at("samples.npy"));
    let options = ["restore", &model, "--task", &task, "--input", &measured, "-n", "300", "--steps", "60"];
    let scores = json(&[&options[..], &["--output", &samples]].concat());
    let (shape, values) = read_array(samples.as_ref()).unwrap();
    assert_eq!(shape, [2, 300, 2]);
    for (values, y) in values.chunks(600).zip([9.0, -9.0]) {
        let mean = values.iter().sum::<f64>() / 300.0;
        // The posterior's sum has a deviation of about 0.47; dps has a bias, which is less than that.
        assert!((mean - y).abs() < 0.5, "{mean} of {y}");
    }
    // The posterior is known here, and what is off is told.
    assert!(scores["spread"]["value"].as_f64().unwrap() > 0.2 && scores["bias"]["value"].as_f64().unwrap() < 2.0);
    assert!(scores["misfit"]["value"].as_f64().unwrap() < 3.0);
    // The same again, however it is cut.
    let again = folder.at("again.npy");
    json(&[&options[..], &["--output", &again, "--set", "sample.batch=7"]].concat());
    assert_eq!(fs::read(&samples).unwrap(), fs::read(&again).unwrap());
}

#[test]
fn what_is_simulated_is_scored_against_what_it_was_made_of() {
    let folder = Folder::new();
    let (model, task) = (folder.mixture(), folder.file("sum.toml", SUM));
    let clean = folder.write("x.npy", &[3, 2], &[5.0, 4.0, -5.0, -4.5, 6.0, 5.0]);
    let picture = folder.at("points.png");
    let scores = json(&[
        "restore",
        &model,
        "--task",
        &task,
        "--input",
        &clean,
        "--simulate",
        "-n",
        "40",
        "-o",
        &picture,
        "--set",
        "measurement.noise=0.1",
    ]);
    for name in ["rmse", "crps", "coverage_50", "coverage_90"] {
        assert!(scores[name]["value"].is_number(), "{name}: {scores}");
    }
    let record: serde_json::Value = serde_json::from_slice(&fs::read(format!("{picture}.json")).unwrap()).unwrap();
    assert_eq!(record["measurement"]["noise"], 0.1);
    assert_eq!(record["method"]["kind"], "dps");
    // A folder has the array and a picture of each.
    let all = folder.at("all");
    run(&["restore", &model, "--task", &task, "--input", &clean, "--simulate", "-n", "2", "-o", &all]);
    let mut names: Vec<String> =
        fs::read_dir(&all).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["0000.png", "0001.png", "0002.png", "restored.json", "samples.npy"]);
}

#[test]
fn what_does_not_fit_is_refused_before_work() {
    let folder = Folder::new();
    let (model, task) = (folder.mixture(), folder.file("sum.toml", SUM));
    let measured = folder.write("y.npy", &[1, 1], &[9.0]);
    let wide = folder.write("wide.npy", &[1, 3], &[9.0, 1.0, 2.0]);
    let output = folder.at("samples.npy");
    let refused = |input: &str, more: &[&str]| {
        refuse(&[&["restore", &model, "--task", &task, "-i", input, "-o", &output], more].concat())
    };
    for (input, more, says) in [
        (&measured, &["-n", "0"][..], "0 samples"),
        (&measured, &["--set", "measurement.noise=-0.1"], "measurement.noise"),
        (&measured, &["--set", "measurement.range=symmetric"], "is for pictures"),
        (&measured, &["--set", "measurement.rows=[[1.0, 2.0, 3.0]]"], "samples of 2 numbers"),
        (&measured, &["--method", "dpz"], "no method called `dpz`"),
        (&measured, &["--set", "method.scael=1"], "scale"),
        (&measured, &["--truth", &wide], "samples of 3"),
        (&wide, &[], "has the shape [1]"),
        (&"nowhere.npy".to_owned(), &[], "nowhere.npy"),
    ] {
        let sentence = refused(input, more);
        assert!(sentence.contains(says), "{more:?}: {sentence}");
    }
    let nothing = folder.file("nothing.toml", "[method]\nkind = \"dps\"\n");
    let sentence = refuse(&["restore", &model, "--task", &nothing, "-i", &measured, "-o", &output]);
    assert!(sentence.contains("nothing.toml") && sentence.contains("measurement"), "{sentence}");
    assert!(!fs::exists(&output).unwrap());
}

#[test]
fn what_is_masked_stays_and_what_is_edited_a_little_is_near() {
    let folder = Folder::new();
    let model = folder.mixture();
    let points = folder.write("points.npy", &[2, 2], &[5.0, 4.0, -5.0, -6.0]);
    let far = |strength: &str| {
        let output = folder.at(&format!("{strength}.npy"));
        run(&["edit", &model, "-i", &points, "-n", "50", "--strength", strength, "-o", &output]);
        let (shape, values) = read_array(output.as_ref()).unwrap();
        assert_eq!(shape, [2, 50, 2]);
        let before = values[..100].chunks(2).map(|x| (x[0] - 5.0).powi(2) + (x[1] - 4.0).powi(2));
        (before.sum::<f64>() / 50.0).sqrt()
    };
    let (little, much) = (far("0.3"), far("1"));
    assert!(little < 0.5 && much > 1.5, "{little} {much}");
    for (more, says) in [
        (&["--strength", "0"][..], "strength"),
        (&["--strength", "1.1"], "strength"),
        (&["-n", "0"], "0 results"),
        (&["--sampler", "rk45"], "chooses its own steps"),
        (&["--class", "7"], "class"),
    ] {
        let output = folder.at("no.npy");
        let sentence = refuse(&[&["edit", &model, "-i", &points, "-o", &output], more].concat());
        assert!(sentence.contains(says), "{more:?}: {sentence}");
    }
    let mask = folder.at("mask.png");
    GrayImage::from_pixel(4, 4, Luma([255])).save(&mask).unwrap();
    let output = stein(&["edit", &model, "-i", &points, "--mask", &mask, "-o", &folder.at("no.npy")]);
    assert!(!output.status.success() && err(&output).contains("a mask is a picture"), "{}", err(&output));
}

#[test]
fn every_task_that_is_shipped_is_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tasks");
    let tasks: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let tasks: Vec<_> = tasks.iter().filter(|path| path.extension().is_some_and(|ending| ending == "toml")).collect();
    assert!(tasks.len() >= 7, "{tasks:?}");
    for path in tasks {
        stein_run::Task::read(path, &[]).unwrap();
    }
}

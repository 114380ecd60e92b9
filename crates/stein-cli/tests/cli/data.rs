//! Looking at data.

use std::{fs, path::Path, process::Command};

use image::{GrayImage, Luma};

use super::{err, out, refuse, stein};

/// A table of 40 rows in which a column counts and another says its class.
fn table(folder: &Path) -> String {
    let rows: String = (0..40).map(|i| format!("{i};{},5;{}\n", i * i, if i % 4 == 0 { "a" } else { "b" })).collect();
    let path = folder.join("t.csv");
    fs::write(&path, format!("u;v;kind\n{rows}")).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn data_are_measured_by_the_settings_of_an_experiment() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path());
    for name in [table.clone(), format!("table/{table}")] {
        let said = out(&stein(&["data", "stats", &name, "--set", "source.label=kind"]));
        for part in ["36 samples to train on, 4 held out", "2 (a: 10, b: 26)", "separated by `;`", "decimal commas"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    let held = out(&stein(&["data", "stats", &table, "--held-out", "--set", "data.source.columns=[\"u\"]"]));
    assert!(held.contains("samples                   4\n") && !held.contains("column v"), "{held}");
    let codec = r#"data.codec=[{kind="standardize", std=0.5}]"#;
    let said = out(&stein(&["data", "stats", &table, "--set", "source.label=kind", "--set", codec]));
    assert!(said.contains("std after codec           0.5000"), "{said}");
    assert!(refuse(&["data", "stats", &table]).contains("column `kind`"));
    assert!(refuse(&["data", "stats", &table, "--set", "source.lable=kind"]).contains("nearest first: label"));
    assert!(refuse(&["data", "stats", "digits", "--set", "source.height=3"]).contains("height"));

    let experiment = concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments/points2d/edm.toml");
    let said = out(&stein(&["data", "stats", experiment, "--set", "data.source.count=100"]));
    assert!(said.contains("samples                   100\n"), "{said}");
}

#[test]
fn data_are_shown_as_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let show = |more: &[&str]| {
        let output = stein(&[&["data", "show"][..], more].concat());
        assert!(output.status.success(), "{}", err(&output));
        image::open(more[2]).unwrap().into_rgb8()
    };
    show(&["digits", "-o", &at("digits.png")]);
    let table = table(folder.path());
    show(&[&table, "-o", &at("points.png"), "--set", "source.label=kind", "--set", "codec=[{kind=\"quantile\"}]"]);
    // One picture is shown as it is: here after it was cut and resized.
    fs::create_dir(at("photos")).unwrap();
    GrayImage::from_pixel(60, 40, Luma([200])).save(folder.path().join("photos/a.png")).unwrap();
    let sizes = ["--set", "source.height=8", "--set", "source.width=12"];
    let shown = show(&[&[at("photos").as_str(), "-o", &at("one.png")][..], &sizes].concat());
    assert_eq!(shown.dimensions(), (12, 8));
    assert!(shown.pixels().all(|pixel| pixel.0.iter().all(|value| value.abs_diff(200) <= 1)));

    // Its own picture is drawn anew, another is not replaced.
    show(&["digits", "-o", &at("one.png")]);
    fs::write(at("mine.png"), "mine").unwrap();
    assert!(refuse(&["data", "show", "digits", "-o", &at("mine.png")]).contains("--force"));
    assert_eq!(fs::read(at("mine.png")).unwrap(), b"mine");
    show(&["digits", "-o", &at("mine.png"), "--force"]);
    assert!(refuse(&["data", "show", "digits", "-o", &at("digits.txt")]).contains("end it with .png"));
    assert!(refuse(&["data", "show", "digits", "-n", "0", "-o", &at("none.png")]).contains("at least 1"));
}

#[test]
fn data_are_looked_for_where_get_puts_them() {
    let folder = tempfile::tempdir().unwrap();
    let stein = |arguments: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_stein"));
        program.args(arguments).env_remove("STEIN_DATA").current_dir(folder.path()).output().unwrap()
    };
    let said = err(&stein(&["data", "stats", "mnist"]));
    assert!(said.contains("it is not in data nor in its folder mnist: run `stein data get mnist`"), "{said}");
    // A file that is there is found, and looked into.
    fs::create_dir_all(folder.path().join("data/mnist")).unwrap();
    fs::write(folder.path().join("data/mnist/train-images-idx3-ubyte.gz"), "").unwrap();
    let said = err(&stein(&["data", "stats", "mnist"]));
    assert!(said.contains("data/mnist/train-images-idx3-ubyte.gz holds 0 bytes"), "{said}");
}

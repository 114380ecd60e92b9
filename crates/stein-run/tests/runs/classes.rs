//! Which class a sample is drawn of: what is asked for, and as the data have them.

use std::{fs, path::Path};

use stein_run::{Changes, Classes, Drawn, Experiment, Model, Silent, default_count, draw, draw_to_file};

use super::{TINY, run};

/// A model of one step on a table that has as many rows of these classes.
fn model(folder: &Path, rows: &[(&str, usize)]) -> Model {
    let path = folder.join("t.csv");
    let mut table = "size,weight,my kind\n".to_owned();
    // Mixed, so that each class has its part of the held-out tenth.
    let most = rows.iter().map(|(_, count)| *count).max().unwrap();
    for i in 0..most {
        for (name, _) in rows.iter().filter(|(_, count)| i < *count) {
            table += &format!("{}.5,{i},\"{name}\"\n", i % 7);
        }
    }
    fs::write(&path, table).unwrap();
    let source = format!(r#"data.source={{kind="table", path="{}", label="my kind"}}"#, path.display());
    let settings = [source, "train.steps=1".to_owned(), "sample.batch=1000".to_owned()];
    let experiment = Experiment::parse(TINY, &settings).unwrap();
    run(&experiment, &folder.join("run"), false).unwrap().model
}

fn named(model: &Model, text: &str, n: usize) -> stein::Result<Drawn> {
    draw(model, n, 0, &Classes::Named(text.into()), &model.sample, &mut Silent)
}

fn drawn(model: &Model, text: &str) -> Vec<u32> {
    let mut labels = named(model, text, 40).unwrap().labels.unwrap();
    labels.sort_unstable();
    labels.dedup();
    labels
}

#[test]
fn a_class_is_what_it_is_called_before_it_is_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), &[("10", 20), ("1", 20), ("2", 20), ("Cat", 20), ("dog, big", 20), ("all", 20)]);
    assert_eq!(model.subject.classes, ["1", "10", "2", "Cat", "all", "dog, big"]);
    let cases: [(&str, &[u32]); 11] = [
        ("1", &[0]),
        ("10", &[1]),
        ("2", &[2]),
        ("Cat", &[3]),
        ("cAT", &[3]),
        ("0", &[0]),
        ("3", &[3]),
        ("all", &[4]),
        ("dog, big", &[5]),
        ("10,cat", &[1, 3]),
        (" 1 , 2,1", &[0, 2]),
    ];
    for (text, classes) in cases {
        assert_eq!(drawn(&model, text), classes, "{text}");
    }
    for wrong in ["6", "cow", "1,cow", "", "-1"] {
        let sentence = named(&model, wrong, 4).unwrap_err().to_string();
        assert!(sentence.contains("there is no class called"), "{sentence}");
    }
}

#[test]
fn numbers_are_in_the_order_of_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), &[("10", 20), ("9", 20), ("-1", 20)]);
    assert_eq!(model.subject.classes, ["-1", "9", "10"]);
    assert_eq!((drawn(&model, "9"), drawn(&model, "-1"), drawn(&model, "2")), (vec![1], vec![0], vec![2]));
}

#[test]
fn rows_are_drawn_as_often_as_the_data_have_their_classes() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), &[("a", 70), ("b", 30)]);
    assert_eq!(model.subject.shares.iter().sum::<f64>(), 90.0);
    let share = model.subject.shares[0] / 90.0;
    let n = 4000;
    let labels = draw(&model, n, 1, &Classes::Default, &model.sample, &mut Silent).unwrap().labels.unwrap();
    let first = labels.iter().filter(|&&label| label == 0).count() as f64;
    // Five standard deviations of a binomial count.
    let allowed = 5.0 * (n as f64 * share * (1.0 - share)).sqrt();
    assert!((first - n as f64 * share).abs() < allowed, "{first} of {n} where the share is {share}");
    // In random order: as many changes as independent draws have, 2 p (1 - p) of them.
    let changes = labels.windows(2).filter(|pair| pair[0] != pair[1]).count() as f64;
    let expected = 2.0 * share * (1.0 - share) * n as f64;
    assert!((changes - expected).abs() < 6.0 * expected.sqrt(), "{changes} changes, {expected} expected");
    // A sample depends on the seed, its number and its class, not on how many are drawn.
    let few = draw(&model, 100, 1, &Classes::Default, &model.sample, &mut Silent).unwrap();
    assert_eq!(few.labels.unwrap(), labels[..100]);
    assert_eq!(default_count(&model, &Classes::Default, &model.sample).unwrap(), 2000);
}

#[test]
fn a_table_has_its_own_column_and_names_and_the_record_the_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), &[("7", 30), ("nine", 30)]);
    for file in ["x.csv", "x.npy"] {
        draw_to_file(&folder.path().join(file), &model, 50, 0, &Classes::All, &model.sample, &mut Silent).unwrap();
        let record = fs::read(folder.path().join(format!("{file}.json"))).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let classes = serde_json::json!([{ "number": 0, "name": "7" }, { "number": 1, "name": "nine" }]);
        assert_eq!((&record["classes"], &record["label"]), (&classes, &"my kind".into()));
    }
    let table = fs::read_to_string(folder.path().join("x.csv")).unwrap();
    let mut lines = table.lines();
    assert_eq!(lines.next(), Some("size,weight,my kind"));
    let kinds: Vec<&str> = lines.map(|line| line.rsplit(',').next().unwrap()).collect();
    assert!(kinds.len() == 50 && kinds.iter().all(|kind| ["7", "nine"].contains(kind)), "{kinds:?}");
    // The labels of the array are the same classes by number.
    let labels = fs::read(folder.path().join("x.npy.labels.npy")).unwrap();
    let numbers = labels[128..].chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()));
    assert!(numbers.eq(kinds.iter().map(|kind| i64::from(*kind == "nine"))));
}

#[test]
fn a_class_without_examples_is_not_offered() {
    let folder = tempfile::tempdir().unwrap();
    // Each tenth row would be held out, and the only one of `rare` is the tenth.
    let path = folder.path().join("t.csv");
    let row = |i: usize| format!("{i},{}\n", if i == 9 { "rare" } else { ["a", "b"][i % 2] });
    fs::write(&path, "x,kind\n".to_owned() + &(0..30).map(row).collect::<String>()).unwrap();
    let source = format!(r#"data.source={{kind="table", path="{}", label="kind"}}"#, path.display());
    let experiment = Experiment::parse(TINY, &[source, "train.steps=1".to_owned()]).unwrap();
    let mut model = run(&experiment, &folder.path().join("run"), false).unwrap().model;
    assert_eq!(model.subject.shares[2], 1.0, "of a class of one example none is held out");
    model.subject.shares[2] = 0.0;
    assert!(drawn(&model, "all") == [0, 1] && model.subject.classes == ["a", "b", "rare"]);
    assert!(named(&model, "rare", 4).unwrap_err().to_string().contains("no example"));
    assert!(!named(&model, "cow", 4).unwrap_err().to_string().contains("rare"));
}

#[test]
fn a_long_list_of_classes_is_cut_short() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..61).map(|i| format!("kind{i}")).collect();
    let rows: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 3)).collect();
    let model = model(folder.path(), &rows);
    let sentence = named(&model, "kind5x", 4).unwrap_err().to_string();
    assert!(sentence.matches("kind").count() == 11 && sentence.contains("51 more"), "{sentence}");
}

#[test]
fn every_pattern_of_points_is_sampled_by_class_as_it_is() {
    for (shape, classes) in [("two_gaussians", 2), ("eight_gaussians", 8), ("rings", 4)] {
        let folder = tempfile::tempdir().unwrap();
        let settings = [format!("data.source.shape={shape}"), "train.steps=1".to_owned()];
        let experiment = Experiment::parse(TINY, &settings).unwrap();
        run(&experiment, &folder.path().join("run"), false).unwrap();
        let model = Model::open(folder.path().join("run"), &stein::Device::flex()).unwrap();
        for ending in ["png", "csv"] {
            let path = folder.path().join(format!("x.{ending}"));
            let summary = draw_to_file(&path, &model, 300, 0, &Classes::Default, &model.sample, &mut Silent).unwrap();
            assert_eq!(summary.classes.len(), classes, "{shape}");
        }
    }
}

#[test]
fn rows_are_clamped_to_their_columns() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), &[("a", 40), ("b", 40)]);
    let clamped = stein_run::Changes { settings: vec![r#"sample.wrap=[{kind="clamp"}]"#.into()], ..Default::default() };
    let config = model.sample.with(&clamped).unwrap();
    let drawn = draw(&model, 500, 0, &Classes::Default, &config, &mut Silent).unwrap();
    // The two columns of the table in its own units; the last step is to the clamped estimate.
    let ranges = [(0.5, 6.5), (0.0, 39.0)];
    for (i, value) in drawn.values.iter().enumerate() {
        let (low, high) = ranges[i % 2];
        assert!((low - 1e-3..=high + 1e-3).contains(value), "{value} in column {}", i % 2);
    }
    let free = draw(&model, 500, 0, &Classes::Default, &model.sample, &mut Silent).unwrap();
    assert_ne!(free.values, drawn.values);
}

#[test]
fn a_model_without_classes_has_those_of_the_classifier_that_steers_it() {
    let folder = tempfile::tempdir().unwrap();
    let mixture = folder.path().join("two.json");
    let text = r#"{"weights": [0.5, 0.5], "means": [[-2, 0], [2, 0]], "stds": [0.5, 0.5]}"#;
    fs::write(&mixture, text).unwrap();
    let settings = ["data.conditional=false", "data.codec=[]", "train.steps=2"];
    let model = crate::run(&crate::tiny(&settings), &folder.path().join("run"), false).unwrap().model;
    let with = |wrap: String| {
        let settings = vec![format!("sample.wrap=[{wrap}]")];
        // In 5 steps it would shoot past the class.
        model.sample.with(&Changes { settings, steps: Some(18), ..Changes::default() }).unwrap()
    };
    let exact = format!("exact:{}", mixture.display());
    let steered = with(format!("{{kind=\"classifier\", model=\"{exact}\", scale=1.5}}"));
    let class = |name: &str| Classes::Named(name.to_owned());
    let labels = |classes, config| draw(&model, 40, 0, &classes, config, &mut Silent).unwrap().labels;
    // Its names and numbers, and all of them where none is asked for.
    assert_eq!(labels(class("component 1"), &steered), Some(vec![1; 40]));
    assert_eq!(labels(class("0"), &steered), Some(vec![0; 40]));
    let both = labels(Classes::Default, &steered).unwrap();
    assert!(both.contains(&0) && both.contains(&1));
    // The first coordinate goes the way of the class on average, however little the model has learned: the noise is the same.
    let values = |name: &str| draw(&model, 40, 0, &class(name), &steered, &mut Silent).unwrap().values;
    let (left, right) = (values("0"), values("1"));
    let mean = |values: &[f32]| values.iter().step_by(2).sum::<f32>() / 40.0;
    assert!(mean(&left) < mean(&right), "{} and {}", mean(&left), mean(&right));
    // One class for all leaves the samples without any.
    let fixed = with(format!("{{kind=\"classifier\", model=\"{exact}\", scale=1.5, class=\"component 1\"}}"));
    assert_eq!(labels(Classes::Default, &fixed), None);
    let same = draw(&model, 40, 0, &Classes::Default, &fixed, &mut Silent).unwrap().values;
    assert_eq!(same, right);
    // Files have the names.
    let file = folder.path().join("steered.csv");
    draw_to_file(file.as_path(), &model, 10, 0, &class("1"), &steered, &mut Silent).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap().matches("component 1").count(), 10);
    assert_eq!(default_count(&model, &class("1"), &steered).unwrap(), 2000);

    let refused = |classes, config| draw(&model, 4, 0, &classes, config, &mut Silent).unwrap_err().to_string();
    assert!(refused(class("1"), &model.sample).contains("has no classes"));
    assert!(refused(class("9"), &steered).contains("component 0"));
    assert!(refused(Classes::None, &steered).contains("needs a class"));
    let run = folder.path().join("run");
    let denoiser = with(format!("{{kind=\"classifier\", model=\"{}\"}}", run.display()));
    assert!(refused(Classes::Default, &denoiser).contains("needs a classifier"));
}

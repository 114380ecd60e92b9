//! What a run leaves for people to look at, and pages on several runs.

use std::{fs, path::Path};

use stein_run::{RunDir, report_runs, write_report};

use super::{run, tiny};

/// The parts of a page that are pictures, decoded from it.
fn pictures(page: &str) -> usize {
    page.matches("<img src=\"data:image/png;base64,iVBORw0KGgo").count()
}

#[test]
fn a_run_leaves_its_loss_and_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("<b>run & 1");
    run(&tiny(&[]), &out, false).unwrap();
    let loss = image::open(out.join("loss.png")).unwrap().to_rgb8();
    assert!(loss.pixels().any(|pixel| pixel[2] > pixel[0].saturating_add(50)), "there is no curve");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert_eq!(pictures(&page), 3, "the loss, that by level, and the samples");
    assert!(!page.contains("<b>run") && page.contains("&#60;b&#62;run"), "{}", &page[..400]);
    assert!(page.contains("12 of 12") && page.contains("points2d") && page.contains("checkpoint_every = 4"));
    // The loss in the table is the last one of the metrics.
    let last = RunDir::open(&out).unwrap().metrics().unwrap().last().unwrap()["loss"].as_f64().unwrap();
    assert!(page.contains(&format!("{last:.4}")));
    // And the weights are as many as the network's: those of a residual perceptron, counted by the training.
    let counted = stein_run::prepare(&tiny(&[]), &super::options(folder.path().join("other"), false)).unwrap();
    assert!(page.contains(&format!(">{}<", counted.parameters())), "{}", counted.parameters());
}

#[test]
fn a_page_on_several_runs_tells_them_apart() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    run(&tiny(&[]), &first, false).unwrap();
    run(&tiny(&["train.rate.rate=0.003", "train.keep=3"]), &second, false).unwrap();
    // Losses on held-out data come at some steps only.
    let with = fs::read_to_string(first.join("metrics.jsonl")).unwrap() + "{\"step\":12,\"held_out_loss\":0.123456}\n";
    fs::write(first.join("metrics.jsonl"), with).unwrap();
    let page = folder.path().join("both.html");
    let paths: [&Path; 2] = [&first, &second];
    report_runs(&paths, &page).unwrap();
    let text = fs::read_to_string(&page).unwrap();
    assert_eq!(pictures(&text), 4, "two losses and two sheets");
    assert!(text.contains("<td>train.rate.rate</td>") && text.contains("0.003") && text.contains("0.1235"));
    assert!(!text.contains("<td>train.batch</td>"), "what is the same in both is left out");
    // A report is replaced, and nothing else.
    report_runs(&paths, &page).unwrap();
    fs::write(&page, "my own page").unwrap();
    assert!(report_runs(&paths, &page).unwrap_err().to_string().contains("another name"));
    assert_eq!(fs::read_to_string(&page).unwrap(), "my own page");
    assert!(report_runs(&[folder.path()], &page).unwrap_err().to_string().contains("no run directory"));
}

#[test]
fn a_run_without_metrics_has_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    drop(stein_run::prepare(&tiny(&[]), &super::options(out.clone(), false)).unwrap());
    write_report(&RunDir::open(&out).unwrap()).unwrap();
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("0 of 12") && pictures(&page) == 0 && !out.join("loss.png").exists());
    for line in
        ["{\"step\":1,\"loss\":null}\n", "{\"step\":1,\"loss\":-3.0}\n{\"step\":2,\"loss/a\":1e30}\n", "[]\n7\n"]
    {
        fs::write(out.join("metrics.jsonl"), line).unwrap();
        write_report(&RunDir::open(&out).unwrap()).unwrap();
    }
}

//! `stein list`: what there is and what it means.

use crate::{out, refuse, stein};

fn list(words: &[&str]) -> String {
    out(&stein(&[&["list"], words].concat()))
}

#[test]
fn an_overview_names_everything_on_two_screens() {
    let all = list(&[]);
    for name in [
        "predictor_corrector",
        "classifier_free",
        "diffusion",
        "quantile",
        "sub_vp",
        "karras",
        "unet",
        "points2d",
        "cpu",
        "velocity",
        "min_snr",
        "log_normal",
        "half_life",
        "adamw",
        "sqrt_linear",
        "quarter_log_noise",
        "inverse_square_root",
    ] {
        assert!(all.contains(name), "{name} in {all}");
    }
    // Two screens of 45 lines.
    assert!(all.lines().count() <= 90 && all.lines().all(|line| line.chars().count() <= 100), "{all}");
}

#[test]
fn a_list_has_a_line_for_each_of_its_names() {
    let schedules = list(&["schedules"]);
    assert_eq!(schedules.lines().count(), 10, "{schedules}");
    for line in schedules.lines() {
        assert!(line.split_whitespace().count() > 3 && line.ends_with('.'), "{line}");
    }
    assert_eq!(list(&["Level-Distributions"]).lines().count(), 8);
}

#[test]
fn a_name_is_explained_with_all_its_settings() {
    let heun = list(&["samplers", "heun"]);
    for part in ["sample.sampler = { kind = \"heun\" }", "--sampler heun", "k_heun", "s_churn", "S_noise"] {
        assert!(heun.contains(part), "{part} in {heun}");
    }
    assert!(list(&["heun"]).contains(&heun));
    // An alias finds what it means, a name of several things all of them, words what each of them is.
    assert!(list(&["euler"]).starts_with("ode_euler (samplers)"));
    let edm = list(&["edm"]);
    for of in ["edm (schedules)", "edm (predictions)", "edm (weightings)"] {
        assert!(edm.contains(of), "{of} in {edm}");
    }
    assert!(list(&["ancestral"]).contains("\"learned\": Between the two"), "{}", list(&["ancestral"]));
    // What is required is in the example, and tables in a table are spelled out.
    assert!(list(&["levels", "linear"]).contains("{ kind = \"linear\", first = …, last = …, count = … }"));
    assert!(list(&["ddpm"]).contains("levels.count: whole number; default 1000"));
    assert!(list(&["predictor_corrector"]).contains("predictor: table, see stein list samplers"));
}

#[test]
fn what_is_not_there_is_answered_with_the_nearest() {
    assert!(refuse(&["list", "huen"]).contains("nearest first: heun"));
    assert!(refuse(&["list", "sampler"]).contains("nearest first: samplers"));
    assert!(refuse(&["list", "samplers", "karras"]).contains("nothing is called `karras`"));
    assert!(refuse(&["list", "things", "heun"]).contains("list called `things`"));
}

//! `stein train` as its users meet it: starts, stops, kills, and where its output goes.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::{err, out, refuse, stein};

const EXPERIMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments/points2d/edm.toml");

/// A run of a second: small, with a checkpoint every few steps.
const SMALL: [&str; 6] = [
    "train.batch=64",
    "train.checkpoint_every=20",
    "train.log_every=10",
    "family.network.hidden=16",
    "sample.grid.steps=2",
    "train.steps=200",
];

/// The arguments of a small run, without its first word.
fn small<'a>(run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["train", EXPERIMENT, "--out", run];
    for setting in SMALL {
        arguments.extend(["--set", setting]);
    }
    arguments.extend(more);
    arguments
}

fn spawn(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stein"));
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_one_that_never_was() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    assert!(stein(&small(&at("whole"), &[])).status.success());
    let killed = at("killed");
    for after in [60, 90, 120, 150] {
        let go_on: &[&str] = if Path::new(&killed).join("config.toml").exists() { &["--resume"] } else { &[] };
        let mut child = spawn(&small(&killed, go_on));
        sleep(Duration::from_millis(after));
        // It may have ended already.
        let _ = child.kill();
        child.wait().unwrap();
    }
    let go_on: &[&str] = if Path::new(&killed).join("config.toml").exists() { &["--resume"] } else { &[] };
    let output = stein(&small(&killed, go_on));
    assert!(output.status.success(), "{}", err(&output));
    let last = |run: &str| fs::read(Path::new(run).join("checkpoints/00000200.safetensors")).unwrap();
    assert!(last(&killed) == last(&at("whole")));
    let steps = |run: &str| {
        let lines = fs::read_to_string(Path::new(run).join("metrics.jsonl")).unwrap();
        lines.lines().map(|line| line.split("\"step\":").nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(steps(&killed), steps(&at("whole")));
    for inner in ["", "checkpoints", "samples"] {
        let names = fs::read_dir(Path::new(&killed).join(inner)).unwrap().map(|entry| entry.unwrap().file_name());
        let halves: Vec<_> = names.filter(|name| name.to_string_lossy().ends_with(".part")).collect();
        assert!(halves.is_empty(), "{halves:?} in {inner}");
    }
}

#[test]
fn of_two_programs_started_together_one_trains() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let arguments = small(run.to_str().unwrap(), &[]);
    let mut both = [spawn(&arguments), spawn(&arguments)];
    let codes = both.each_mut().map(|child| child.wait().unwrap().code());
    assert!(codes == [Some(0), Some(1)] || codes == [Some(1), Some(0)], "{codes:?}");
    let lines = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 20, "{lines}");
}

#[test]
fn a_run_goes_on_without_its_file_and_from_an_earlier_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run").to_str().unwrap().to_owned();
    assert!(stein(&small(&run, &[])).status.success());
    let output = stein(&["train", "--resume", "--out", &run, "--set", "train.steps=240"]);
    assert!(output.status.success() && out(&output).contains("240 steps"), "{}{}", out(&output), err(&output));
    let output = stein(&["train", "--resume-from", "200", "--out", &run]);
    assert!(output.status.success() && err(&output).contains("after-00000200"), "{}", err(&output));
    assert!(refuse(&["train", "--resume", "--out", &run, "--set", "seed=1"]).contains("seed is 1 and was 0"));
    assert!(refuse(&["train", "--resume"]).contains("--out"));
    assert!(refuse(&["train", "--resume", "--out", "nowhere"]).contains("no run directory"));
    for conflict in
        [&["train"][..], &["train", "--resume", "--resume-from", "3"], &["train", "--resume", "--from", "x"]]
    {
        assert_eq!(stein(conflict).status.code(), Some(2), "{conflict:?}");
    }
    let help = out(&stein(&["train", "--help"]));
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(stein_run::RESUMABLE.iter().all(|key| help.contains(key)), "{help}");

    let tuned = folder.path().join("tuned").to_str().unwrap().to_owned();
    assert!(stein(&small(&tuned, &["--from", &run, "--set", "train.steps=20"])).status.success());
    let file = folder.path().join("x.npy").to_str().unwrap().to_owned();
    for which in ["raw", "ema"] {
        let output = stein(&["sample", &run, "--weights", which, "-n", "5", "-o", &file]);
        assert!(output.status.success(), "{}", err(&output));
    }
    assert_eq!(stein(&["sample", &run, "--weights", "mean", "-o", &file]).status.code(), Some(2));
}

#[test]
fn progress_is_told_where_there_is_no_terminal_and_nobody_listens() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let output = stein(&small(&at("told"), &[]));
    let said = err(&output);
    assert!(said.contains("examples to train on") && said.contains("held out, steps 0 to 200"), "{said}");
    assert!(
        said.lines().any(|line| line.starts_with("step 200 of 200, loss ") && line.contains("examples/s")),
        "{said}"
    );
    // A stderr that takes nothing changes nothing.
    let full = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stein"));
        command.args(arguments).stdout(Stdio::null()).stderr(File::options().write(true).open("/dev/full").unwrap());
        command.status().unwrap().code()
    };
    assert_eq!(full(&small(&at("full"), &[])), Some(0));
    assert_eq!(full(&small(&at("full"), &[])), Some(1), "an existing run");
    assert_eq!(full(&["sample", "nowhere", "-o", "x.npy"]), Some(1));
    let last = |run: &str| fs::read(Path::new(run).join("checkpoints/00000200.safetensors")).unwrap();
    assert!(last(&at("full")) == last(&at("told")));
}

//! What is written where: nothing of the user's is lost, whatever lies in the way.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{MIXTURE, err, out, refuse, stein};

/// A folder with a mixture in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::write(folder.at("m.json"), MIXTURE).unwrap();
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    fn model(&self) -> String {
        format!("exact:{}", self.text("m.json"))
    }

    fn arguments(&self, file: &str, more: &[&str]) -> Vec<String> {
        let fixed =
            ["sample", &self.model(), "--sampler", "ddim", "--steps", "3", "-o", &self.text(file)].map(String::from);
        fixed.into_iter().chain(more.iter().map(|text| (*text).to_owned())).collect()
    }

    fn sample(&self, file: &str, more: &[&str]) {
        let arguments = self.arguments(file, more);
        let output = stein(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", err(&output));
    }

    fn refuse(&self, file: &str, more: &[&str]) -> String {
        let arguments = self.arguments(file, more);
        refuse(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn each_file_has_its_own_record_and_nothing_else_is_touched() {
    let folder = Folder::new();
    let mine = ["cd.json", "cd.labels.npy", "cd.png.txt", "other.csv"];
    mine.iter().for_each(|name| fs::write(folder.at(name), "mine").unwrap());
    for ending in ["png", "gif", "npy", "csv"] {
        folder.sample(&format!("cd.{ending}"), &["-n", "20", "--class", "all"]);
    }
    mine.iter().for_each(|name| assert_eq!(fs::read(folder.at(name)).unwrap(), b"mine", "{name}"));
    let written = [
        "cd.csv",
        "cd.csv.json",
        "cd.gif",
        "cd.gif.json",
        "cd.npy",
        "cd.npy.json",
        "cd.npy.labels.npy",
        "cd.png",
        "cd.png.json",
    ];
    let mut all: Vec<&str> = written.into_iter().chain(mine).chain(["m.json"]).collect();
    all.sort_unstable();
    assert_eq!(folder.names(), all);
    // The same commands work again, and a file without classes loses the old ones.
    for ending in ["png", "gif", "npy", "csv"] {
        folder.sample(&format!("cd.{ending}"), &["-n", "20"]);
    }
    assert!(!folder.at("cd.npy.labels.npy").exists());
}

#[test]
fn only_files_that_are_as_they_were_left_are_replaced() {
    let folder = Folder::new();
    // Foreign files in each of the three places.
    for name in ["a.npy", "b.npy.json", "c.npy.labels.npy"] {
        fs::write(folder.at(name), "mine").unwrap();
        let sentence = folder.refuse(&name[..5], &["-n", "20", "--class", "all"]);
        assert!(sentence.contains("--force") && sentence.contains(name), "{sentence}");
        assert_eq!(fs::read(folder.at(name)).unwrap(), b"mine");
        folder.sample(&name[..5], &["-n", "20", "--class", "all", "--force"]);
        assert_ne!(fs::read(folder.at(name)).unwrap(), b"mine");
    }
    // One's own samples, edited; a copy beside a record of another; a record without its file.
    folder.sample("x.csv", &["-n", "20"]);
    fs::OpenOptions::new().append(true).open(folder.at("x.csv")).unwrap().write_all(b"1,2\n").unwrap();
    assert!(folder.refuse("x.csv", &["-n", "20"]).contains("--force"));
    folder.sample("y.csv", &["-n", "20"]);
    fs::copy(folder.at("y.csv"), folder.at("z.csv")).unwrap();
    assert!(folder.refuse("z.csv", &[]).contains("--force"));
    fs::remove_file(folder.at("y.csv")).unwrap();
    folder.sample("y.csv", &["-n", "20"]);
    // An empty file, as `mktemp` makes, has nothing to lose.
    File::create(folder.at("empty.csv")).unwrap();
    folder.sample("empty.csv", &["-n", "20"]);
}

#[cfg(unix)]
#[test]
fn what_is_read_is_never_replaced() {
    let folder = Folder::new();
    fs::hard_link(folder.at("m.json"), folder.at("hard.csv")).unwrap();
    std::os::unix::fs::symlink("m.json", folder.at("soft.csv")).unwrap();
    fs::rename(folder.at("m.json"), folder.at("record.csv.json")).unwrap();
    std::os::unix::fs::symlink("record.csv.json", folder.at("m.json")).unwrap();
    for name in ["hard.csv", "soft.csv", "record.csv"] {
        for force in [&[][..], &["--force"]] {
            let sentence = folder.refuse(name, force);
            assert!(sentence.contains("which this command reads"), "{sentence}");
        }
    }
    // Nor is the other model of a wrapper.
    fs::write(folder.at("worse.csv"), MIXTURE).unwrap();
    let wrap = format!(r#"sample.wrap=[{{kind="autoguidance", model="exact:{}"}}]"#, folder.text("worse.csv"));
    assert!(folder.refuse("worse.csv", &["--force", "--set", &wrap]).contains("which this command reads"));
    assert_eq!(fs::read_to_string(folder.at("worse.csv")).unwrap(), MIXTURE);
    assert_eq!(fs::read_to_string(folder.at("m.json")).unwrap(), MIXTURE);
}

#[cfg(unix)]
#[test]
fn links_pipes_and_devices_are_written_through() {
    let folder = Folder::new();
    fs::create_dir(folder.at("far")).unwrap();
    std::os::unix::fs::symlink("far/x.csv", folder.at("link.csv")).unwrap();
    for _ in 0..2 {
        folder.sample("link.csv", &["-n", "5"]);
        assert!(folder.at("link.csv").is_symlink());
        assert_eq!(fs::read_to_string(folder.at("far/x.csv")).unwrap().lines().count(), 6);
    }
    assert!(Command::new("mkfifo").arg(folder.at("pipe")).status().unwrap().success());
    let pipe = folder.at("pipe");
    let reader = std::thread::spawn(move || fs::read_to_string(pipe).unwrap());
    folder.sample("pipe", &["-n", "7"]);
    assert_eq!(reader.join().unwrap().lines().count(), 8);
    assert!(!folder.at("pipe.json").exists());
    let model = folder.model();
    let sample = |to: &str| ["sample", &model, "-n", "5000", "--steps", "2", "-o", to].map(String::from);
    let arguments = sample("/dev/null");
    assert!(stein(&arguments.each_ref().map(String::as_str)).status.success());
    if cfg!(target_os = "linux") {
        for device in ["/dev/full", "/proc/version"] {
            let arguments = sample(device);
            let mut arguments = arguments.each_ref().map(String::as_str).to_vec();
            arguments.extend(["--format", "npy", "--force"]);
            assert!(refuse(&arguments).contains(device));
        }
        let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        for arguments in
            [&["list"][..], &["--help"], &["completions", "bash"], &sample("-").each_ref().map(String::as_str)]
        {
            let mut command = Command::new(env!("CARGO_BIN_EXE_stein"));
            let output = command.args(arguments).stdout(full()).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}");
            assert!(err(&output).contains("standard output"), "{}", err(&output));
            // Nor does it panic where there is nowhere to say so.
            let status = command.args(arguments).stdout(full()).stderr(full()).status().unwrap();
            assert!(matches!(status.code(), Some(1 | 2)), "{arguments:?}: {status}");
        }
    }
}

#[test]
fn samples_go_down_a_pipe() {
    let folder = Folder::new();
    let model = folder.model();
    let table = stein(&["sample", &model, "--steps", "2", "-o", "-"]);
    let text = out(&table);
    assert_eq!((text.lines().next(), text.lines().count()), (Some("x0,x1"), 2001), "2,000 rows are the default");
    let array = stein(&["sample", &model, "-n", "3", "--steps", "2", "-o", "-", "--format", "npy"]);
    assert!(array.stdout.starts_with(b"\x93NUMPY") && array.stdout.len() == 128 + 3 * 2 * 4);
    let picture = stein(&["sample", &model, "-n", "3", "--steps", "2", "-o", "-", "--format", "png"]);
    assert!(picture.stdout.starts_with(b"\x89PNG"));
    assert!(refuse(&["sample", &model, "-o", "-", "--format", "pgn"]).contains("nearest first: png"));
    assert_eq!(folder.names(), ["m.json"]);
    // What is in a file already stays, whatever the standard output is called.
    fs::write(folder.at("all.csv"), "mine\n").unwrap();
    for name in ["-", "/dev/stdout"].into_iter().filter(|name| cfg!(unix) || *name == "-") {
        let all = fs::OpenOptions::new().append(true).open(folder.at("all.csv")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_stein"));
        command.args(["sample", &model, "-n", "3", "--steps", "2", "-o", name]).stdout(all);
        assert!(command.status().unwrap().success());
    }
    let all = fs::read_to_string(folder.at("all.csv")).unwrap();
    assert!(all.starts_with("mine\nx0,x1\n") && all.lines().count() == 9, "{all}");
    // Whoever has enough of them is no error.
    let many = ["sample", &model, "-n", "100000000", "--steps", "1", "-o", "-"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_stein"))
        .args(many)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", err(&output));
}

#[test]
fn what_cannot_be_written_is_known_before_anything_is_drawn() {
    let folder = Folder::new();
    fs::write(folder.at("old.csv"), "").unwrap();
    let mut closed = fs::metadata(folder.at("old.csv")).unwrap().permissions();
    closed.set_readonly(true);
    fs::set_permissions(folder.at("old.csv"), closed).unwrap();
    let long = format!("{}.csv", "n".repeat(300));
    for file in ["old.csv", "m.json/x.csv", &long, "nowhere/x.csv"] {
        // So many that it would not end if they were drawn.
        folder.refuse(file, &["-n", "10000000000", "--force"]);
    }
    // The record needs room for its name as well.
    folder.refuse(&format!("{}.csv", "n".repeat(250)), &["-n", "10000000000"]);
    assert_eq!(folder.names(), ["m.json", "old.csv"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_limit_on_files_is_a_sentence_and_leaves_the_old_file() {
    let folder = Folder::new();
    folder.sample("x.csv", &["-n", "5"]);
    let old = fs::read(folder.at("x.csv")).unwrap();
    let program = env!("CARGO_BIN_EXE_stein");
    let script = format!("ulimit -f 1; exec {program} sample {} -n 100000 --steps 1 -o x.csv", folder.model());
    let output = Command::new("bash").args(["-c", &script]).current_dir(folder.0.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(err(&output).contains("x.csv: it cannot be written"), "{}", err(&output));
    assert_eq!(fs::read(folder.at("x.csv")).unwrap(), old);
    assert_eq!(folder.names(), ["m.json", "x.csv", "x.csv.json"]);
}

#[cfg(target_os = "linux")]
#[test]
fn names_are_bytes() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join(OsStr::from_bytes(b"\xff\xfe"));
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("m.json"), MIXTURE).unwrap();
    let mut model = std::ffi::OsString::from("exact:");
    model.push(inside.join("m.json"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_stein"));
    command.args(["sample", "-n", "5", "--steps", "2"]).arg(&model).arg("-o");
    let name = inside.join(OsStr::from_bytes(b"\xfa.npy"));
    for _ in 0..2 {
        let output = command.arg(&name).output().unwrap();
        assert!(output.status.success(), "{}", err(&output));
        command = Command::new(env!("CARGO_BIN_EXE_stein"));
        command.args(["sample", "-n", "5", "--steps", "2"]).arg(&model).arg("-o");
    }
    assert!(name.is_file() && inside.join(OsStr::from_bytes(b"\xfa.npy.json")).is_file());
    assert!(Command::new(env!("CARGO_BIN_EXE_stein")).arg("show").arg(&model).status().unwrap().success());
}

#[test]
fn the_demo_replaces_its_own_files_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let settings = ["train.steps=3", "train.batch=8", "sample.grid.steps=2", "family.network.hidden=16"];
    let demo = |more: &[&str]| {
        let mut arguments = vec!["demo", "--out", path];
        settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
        arguments.extend(more);
        arguments.into_iter().map(String::from).collect::<Vec<_>>()
    };
    let run = |arguments: Vec<String>| stein(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let picture = folder.path().join("samples.png");
    fs::write(&picture, "mine").unwrap();
    let refused = run(demo(&[]));
    assert!(refused.status.code() == Some(1) && err(&refused).contains("samples.png"), "{}", err(&refused));
    assert_eq!(fs::read(&picture).unwrap(), b"mine");
    assert!(!folder.path().join("run").exists());
    assert!(run(demo(&["--force"])).status.success());
    assert!(run(demo(&[])).status.success());
    // Its run is found in it.
    assert!(out(&stein(&["show", path])).contains("last metrics"));
    let file = folder.path().join("seven.npy");
    let output = stein(&["sample", path, "--class", "7", "-o", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(shape(&file).contains("(64, 8, 8, 1)"));
    assert!(stein(&["sample", path, "-o", file.to_str().unwrap()]).status.success());
    assert!(shape(&file).contains("(100, 8, 8, 1)"), "ten pictures of each class");
}

fn shape(npy: &Path) -> String {
    String::from_utf8_lossy(&fs::read(npy).unwrap()[..128]).into_owned()
}

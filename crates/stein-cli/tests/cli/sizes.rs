//! Sizes on the command line that no machine has room for.

#[cfg(target_os = "linux")]
use std::process::Command;

use crate::refuse;

#[test]
fn threads_without_end_are_refused() {
    for threads in ["2147483648", "1025", "18446744073709551615"] {
        assert!(refuse(&["--threads", threads, "list"]).contains("at most 1024"), "{threads}");
    }
}

/// Under a limit of memory what needs more is refused in a sentence, where the allocator would have aborted.
#[cfg(target_os = "linux")]
#[test]
fn what_does_not_fit_under_a_limit_of_memory_is_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let experiment = concat!(env!("CARGO_MANIFEST_DIR"), "/../../experiments/points2d/edm.toml");
    let mixture = folder.path().join("m.json");
    std::fs::write(&mixture, r#"{"weights": [1], "means": [[0, 0]], "stds": [1]}"#).unwrap();
    let exact = format!("exact:{}", mixture.display());
    let train = |setting| vec!["train", experiment, "--out", "run", "--set", setting];
    let sample = |setting| vec!["sample", &exact, "-n", "1000000000", "-o", "x.npy", "--set", setting];
    for arguments in [
        train("data.source.count=100000000"),
        train("family.network.hidden=20000"),
        train("train.batch=2000000"),
        sample("sample.batch=1000000000"),
    ] {
        let output = Command::new("sh")
            .args(["-c", "ulimit -v 3000000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_stein")])
            .args(&arguments)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.lines().count() == 1 && said.contains("and 3072 MB are here"), "{arguments:?}: {said}");
    }
}

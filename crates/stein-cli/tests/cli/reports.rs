//! Pages on runs.

use crate::refuse;

#[test]
fn a_report_is_of_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert!(refuse(&["report", path]).contains("no run directory"));
    assert!(refuse(&["report", "/nowhere/at/all"]).contains("no run directory"));
}

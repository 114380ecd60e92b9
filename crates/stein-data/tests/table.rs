//! Tables in csv, npy and npz.

mod common;

use common::{npy, npz};
use std::{fs, path::Path};
use stein_data::{Data, Kind, Result, Source, Split, Table};

fn load(table: &Table) -> Result<Data> {
    Source::Table(table.clone()).load(Split::Train, None)
}

/// A file with these bytes, and a table of all its rows.
fn table(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> Table {
    fs::write(dir.join(name), bytes).unwrap();
    Table { path: dir.join(name), test_fraction: 0.0, ..Table::default() }
}

fn sentence(table: &Table) -> String {
    load(table).unwrap_err().to_string()
}

#[test]
fn csv_with_and_without_a_header() {
    let dir = tempfile::tempdir().unwrap();
    let plain = table(dir.path(), "a.csv", "1, 2.5\n-3,4e2\n");
    let data = load(&plain).unwrap();
    assert_eq!((data.all_rows().unwrap(), data.columns), (vec![1.0, 2.5, -3.0, 400.0], vec!["x0".into(), "x1".into()]));
    assert_eq!((data.name.as_str(), data.labels, data.shape.dims()), ("a", None, vec![2]));

    let named = table(dir.path(), "b.csv", "u,kind,v\n1,dog,2\n3,cat,4\n5,dog,6\n");
    assert!(sentence(&named).contains("`dog` in row 1, column `kind`"), "{}", sentence(&named));
    let data = load(&Table { label: Some("kind".into()), ..named.clone() }).unwrap();
    assert_eq!(
        (data.all_rows().unwrap(), &data.columns[..]),
        (vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &["u".into(), "v".into()][..])
    );
    assert_eq!((data.labels.unwrap(), data.class_names), (vec![1, 0, 1], vec!["cat".into(), "dog".into()]));
    assert_eq!(data.label_name.as_deref(), Some("kind"));
    let data = load(&Table { columns: vec!["v".into(), "u".into()], ..named.clone() }).unwrap();
    assert_eq!(data.all_rows().unwrap(), [2.0, 1.0, 4.0, 3.0, 6.0, 5.0]);
    let unknown = Table { columns: vec!["kin".into()], ..named };
    assert_eq!(load(&unknown).unwrap_err().kind(), Kind::Input, "the setting is wrong, not the file");
    assert!(sentence(&unknown).contains("no column `kin`: choose from kind"), "{}", sentence(&unknown));

    // Text in the first row is no header where the settings say so.
    let bare = table(dir.path(), "c.csv", "1,a\n2,b\n");
    let data = load(&Table { header: Some(false), label: Some("x1".into()), ..bare }).unwrap();
    assert_eq!((data.all_rows().unwrap(), data.labels), (vec![1.0, 2.0], Some(vec![0, 1])));
    assert_eq!(load(&table(dir.path(), "d.tsv", "u\tv\n1\t2\n")).unwrap().columns, ["u", "v"]);
}

#[test]
fn bad_values_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (text, part) in [
        ("u,v\n1,2\n\n3,nan\n", "`nan` in row 2, column `v`"),
        ("u,v\n1,2\ninf,3\n", "`inf` in row 2, column `u`"),
        ("1,\n3,4\n", "`` in row 1, column `x1`"),
        ("1,1e60\n", "`1e60` in row 1, column `x1`"),
        ("1,2\n3\n", "is no regular table"),
        ("", "0 values"),
        ("u,v\n", "0 values"),
    ] {
        let said = sentence(&table(dir.path(), "bad.csv", text));
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(load(&table(dir.path(), "nan.csv", "nan\n")).unwrap_err().kind(), Kind::File);
    assert!(sentence(&table(dir.path(), "a.xlsx", "")).contains("no table that is known"));
    assert!(sentence(&table(dir.path(), "a.npy", "junk")).contains("cannot be read as npy"));
    assert!(sentence(&table(dir.path(), "a.npz", "junk")).contains("cannot be read as npz"));
    let nan = npy(&[3, 1], npyz::Order::C, &[1.0, 2.0, f64::NAN]);
    assert!(sentence(&table(dir.path(), "nan.npy", nan)).contains("in row 3, column `x0`"));
    let cube = npy(&[1, 1, 1], npyz::Order::C, &[1.0f32]);
    assert!(sentence(&table(dir.path(), "cube.npy", cube)).contains("[1, 1, 1]"));
}

#[test]
fn every_tenth_row_is_held_out() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..40).map(|i| format!("{i}\n")).collect();
    let table = Table { test_fraction: 0.1, ..table(dir.path(), "a.csv", text) };
    let test = Source::Table(table.clone()).load(Split::Test, None).unwrap();
    assert_eq!(test.all_rows().unwrap(), [9.0, 19.0, 29.0, 39.0]);
    assert_eq!(load(&table).unwrap().len(), 36);
}

#[test]
fn npy_of_every_kind() {
    use npyz::Order::{C, Fortran};
    let dir = tempfile::tempdir().unwrap();
    let expected = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    for bytes in [
        npy(&[3, 2], C, &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]),
        npy(&[3, 2], C, &[1f64, 2.0, 3.0, 4.0, 5.0, 6.0]),
        npy(&[3, 2], Fortran, &[1f64, 3.0, 5.0, 2.0, 4.0, 6.0]),
        npy(&[3, 2], C, &[1u8, 2, 3, 4, 5, 6]),
        npy(&[3, 2], C, &[1i16, 2, 3, 4, 5, 6]),
        npy(&[3, 2], C, &[1i64, 2, 3, 4, 5, 6]),
    ] {
        let data = load(&table(dir.path(), "a.npy", bytes)).unwrap();
        assert_eq!((data.all_rows().unwrap(), data.columns.len()), (expected.to_vec(), 2));
    }
    let data = load(&table(dir.path(), "a.npy", npy(&[3], C, &[1u32, 2, 3]))).unwrap();
    assert_eq!((data.len(), data.dim()), (3, 1));
    let last =
        Table { label: Some("x1".into()), ..table(dir.path(), "l.npy", npy(&[2, 2], C, &[1.5f32, 7.0, 2.5, 3.0])) };
    let data = load(&last).unwrap();
    assert_eq!((data.all_rows().unwrap(), data.labels.unwrap()), (vec![1.5, 2.5], vec![1, 0]));
    assert_eq!(data.class_names, ["3", "7"]);
}

#[test]
fn npz_with_and_without_labels() {
    use npyz::Order::C;
    let dir = tempfile::tempdir().unwrap();
    let (points, classes) = (npy(&[2, 2], C, &[1f32, 2.0, 3.0, 4.0]), npy(&[2], C, &[5i64, 4]));
    let only = table(dir.path(), "a.npz", npz(&[("points", points.clone())]));
    assert_eq!(load(&only).unwrap().all_rows().unwrap(), [1.0, 2.0, 3.0, 4.0]);

    let both = table(dir.path(), "b.npz", npz(&[("x", points.clone()), ("y", classes.clone())]));
    let data = load(&both).unwrap();
    assert_eq!((data.all_rows().unwrap()[3], data.labels.unwrap()), (4.0, vec![1, 0]));
    assert_eq!(data.class_names, ["4", "5"]);

    let many = table(dir.path(), "c.npz", npz(&[("a", points.clone()), ("b", points.clone()), ("c", classes)]));
    assert!(sentence(&many).contains("name one by `array`"), "{}", sentence(&many));
    let chosen = Table { array: Some("b".into()), label: Some("c".into()), ..many.clone() };
    assert_eq!(load(&chosen).unwrap().labels, Some(vec![1, 0]));
    let absent = Table { array: Some("z".into()), ..many };
    assert!(sentence(&absent).contains("no array `z`"), "{}", sentence(&absent));
    let short = table(dir.path(), "d.npz", npz(&[("x", points), ("labels", npy(&[1], C, &[1i64]))]));
    assert!(sentence(&short).contains("1 labels for 2 rows"), "{}", sentence(&short));
}

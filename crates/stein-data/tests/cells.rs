//! What people write into the cells of a csv file.

use std::{fs, path::Path};
use stein_data::{Data, DataSet, Missing, Result, Split, Table};

fn table(dir: &Path, text: impl AsRef<[u8]>) -> Table {
    let path = dir.join("t.csv");
    fs::write(&path, text).unwrap();
    Table { path, test_fraction: 0.0, ..Table::default() }
}

fn load(table: &Table) -> Result<Data> {
    table.load(Split::Train, None)
}

fn rows(table: &Table) -> Vec<f32> {
    load(table).unwrap().all_rows().unwrap()
}

fn sentence(table: &Table) -> String {
    let said = load(table).unwrap_err().to_string();
    assert!(said.lines().count() == 1 && said.len() < 800, "{said}");
    said
}

/// A text, the column of labels, and the names in its first line, if it has them.
type Case = (&'static str, Option<&'static str>, Option<&'static [&'static str]>);

#[test]
fn first_lines_of_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [Case; 12] = [
        ("0,1,2\n0.5,1.5,2.5\n3,4,5\n", None, Some(&["0", "1", "2"])),
        ("1,2,3\n7,8,7\n5,5,5\n", None, Some(&["1", "2", "3"])),
        ("2019,2020,2021\n5,7,1\n6,8,2\n", None, Some(&["2019", "2020", "2021"])),
        ("1990,2000\n5,7\n", None, Some(&["1990", "2000"])),
        ("country,2020,2021\nde,5,7\nfr,6,8\n", Some("country"), Some(&["2020", "2021"])),
        // Windows over a series, a grid, a few small integers, years as values, a text column without a name.
        ("0,1,2\n1,2,3\n0,1,2\n", None, None),
        ("0,1\n1,0\n", None, None),
        ("3,1,2\n1,2,3\n", None, None),
        ("2019,2020\n2018,2021\n", None, None),
        ("0.0,1.0\n0.5,0.5\n", None, None),
        ("1,dog,2\n3,cat,4\n", Some("x1"), None),
        ("NA,2,3\n4,5,6\n", None, None),
    ];
    for (text, label, names) in cases {
        let table = Table { label: label.map(str::to_owned), missing: Missing::DropRows, ..table(dir.path(), text) };
        let data = load(&table).unwrap();
        match names {
            Some(names) => {
                assert_eq!(data.columns, names, "{text}");
                assert_eq!(data.len(), text.lines().count() - 1);
                assert!(data.notes.join(" ").contains("taken for names of columns"), "{text}: {:?}", data.notes);
            }
            None => {
                assert_eq!(data.columns[0], "x0", "{text}");
                assert!(
                    data.notes.join(" ").contains("the first line was taken for numbers"),
                    "{text}: {:?}",
                    data.notes
                );
            }
        }
    }
    let counted = table(dir.path(), "0,1,2\n0.5,1.5,2.5\n");
    let data = load(&Table { header: Some(false), ..counted }).unwrap();
    assert_eq!((data.len(), data.notes.len()), (2, 1), "what was said is not noted");
}

#[test]
fn delimiters_and_decimal_commas() {
    let dir = tempfile::tempdir().unwrap();
    let expected = [1.5, 2.5, -3.25, 4.0];
    for text in [
        "u,v\n1.5,2.5\n-3.25,4\n",
        "u;v\n1,5;2,5\n-3,25;4\n",
        "1,5;2,5\n-3,25;4\n",
        "u;v\n1.5;2.5\n-3.25;4\n",
        "u\tv\n1.5\t2.5\n-3.25\t4\n",
        "u\tv\n1,5\t2,5\n-3,25\t4\n",
        "u|v\n1.5|2.5\n-3.25|4\n",
        "\u{feff}u,v\r\n1.5,2.5\r\n-3.25,4\r\n",
        "\"u\",\"v\"\n\"1.5\",\" 2.5\"\n\"-3.25\",4",
        "u;v\n\"1,5\";\"2,5\"\n-3,25;4\n",
        "u;v\n1,5e0;2,5\n-3,25;4\n",
    ] {
        assert_eq!(rows(&table(dir.path(), text)), expected, "{text}");
    }
    // In one column there is nothing to separate.
    assert_eq!(rows(&table(dir.path(), "u\n1.5\n2\n")), [1.5, 2.0]);
    let data = load(&table(dir.path(), "1,5;2\n3,5;4\n")).unwrap();
    let said = data.notes.join(" ");
    assert!(said.contains("separated by `;`") && said.contains("decimal commas"), "{said}");

    let unclear = table(dir.path(), "1,234;5\n2,345;6\n");
    assert!(sentence(&unclear).contains("thousands or a fraction"), "{}", sentence(&unclear));
    assert_eq!(rows(&Table { decimal: Some(','), ..unclear })[0], 1.234);
    let mixed = table(dir.path(), "1,5;2.5\n");
    assert!(sentence(&mixed).contains("set `decimal`"), "{}", sentence(&mixed));
    let said = sentence(&Table { delimiter: Some(','), ..table(dir.path(), "1;2\n3;4\n") });
    assert!(said.contains("`3;4` in row 1"), "{said}");
    for text in ["u,v\n\"1,234\",5\n", "u;v\n1.234.567;5\n", "u,v\n1 234,5\n"] {
        let said = sentence(&table(dir.path(), text));
        assert!(said.contains("without separators of thousands"), "{said}");
    }
}

#[test]
fn missing_values_are_counted_or_dropped() {
    let dir = tempfile::tempdir().unwrap();
    for word in ["", "NA", "nan", "NaN", "null", "-", "?", "N/A", "None", "#N/A"] {
        let text = format!("u,v,kind\n1,2,a\n{word},3,b\n4,{word},a\n{word},{word},b\n5,6,b\n");
        let refused = Table { label: Some("kind".into()), ..table(dir.path(), &text) };
        let said = sentence(&refused);
        let parts = ["in 3 of 5 rows", "in row 2, column `u`", "2 in column `u`, 2 in column `v`", "drop_rows"];
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        assert!(said.contains(&format!("`{word}`")), "{said}");
        let data = load(&Table { missing: Missing::DropRows, ..refused }).unwrap();
        assert_eq!((data.all_rows().unwrap(), &data.labels), (vec![1.0, 2.0, 5.0, 6.0], &Some(vec![0, 1])));
        assert!(data.notes[0].contains("3 of 5 rows have missing values"), "{:?}", data.notes);

        let unlabeled = Table { label: Some("kind".into()), ..table(dir.path(), format!("u,kind\n1,a\n2,{word}\n")) };
        assert!(sentence(&unlabeled).contains("in row 2, column `kind`"), "{}", sentence(&unlabeled));
        assert_eq!(load(&Table { missing: Missing::DropRows, ..unlabeled }).unwrap().class_names, ["a"]);
    }
    let from_file: Table = toml::from_str("path = 'a.csv'\nmissing = 'drop_rows'\ndelimiter = ';'").unwrap();
    assert_eq!((from_file.missing, from_file.delimiter), (Missing::DropRows, Some(';')));
    assert!(sentence(&table(dir.path(), "u,v\n1,inf\n")).contains("`inf` in row 1, column `v`"));
    // Columns that are not taken may have anything.
    let chosen = Table { columns: vec!["u".into()], ..table(dir.path(), "u,v\n1,\n2,x\n") };
    assert_eq!(rows(&chosen), [1.0, 2.0]);
}

#[test]
fn columns_that_programs_add_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let data = load(&table(dir.path(), ",u,v,\n0,1.5,2,\n1,3.5,4,\n")).unwrap();
    assert_eq!(
        (&data.columns[..], data.all_rows().unwrap()),
        (&["u".into(), "v".into()][..], vec![1.5, 2.0, 3.5, 4.0])
    );
    assert!(data.notes.join(" ").contains("x0, x3 have no name"), "{:?}", data.notes);
    let wanted = Table { columns: vec!["x0".into()], ..table(dir.path(), ",u\n0,1.5\n1,3.5\n") };
    assert_eq!(rows(&wanted), [0.0, 1.0]);
    let twice = Table { columns: vec!["u".into()], ..table(dir.path(), "u,u\n1,2\n") };
    assert!(sentence(&twice).contains("more than one column `u`"));
}

#[test]
fn labels_are_classes() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..300).map(|i| format!("{i},{}\n", f64::from(i) * 0.37)).collect();
    let price = Table { label: Some("price".into()), ..table(dir.path(), format!("u,price\n{text}")) };
    let said = sentence(&price);
    assert!(said.contains("column `price`: 300 different labels") && said.contains("and 290 more"), "{said}");
    assert_eq!(load(&Table { max_classes: 300, ..price }).unwrap().classes(), 300);
    let grades = Table { label: Some("g".into()), ..table(dir.path(), "u,g\n1,10.0\n2,2\n3,2.0\n") };
    assert_eq!(load(&grades).unwrap().class_names, ["2", "10"]);
    // The only example of a class is not held out.
    let rare: String = (0..20).map(|i| format!("{i},{}\n", if i == 9 { "rare" } else { "common" })).collect();
    let rare = Table { label: Some("k".into()), test_fraction: 0.1, ..table(dir.path(), format!("u,k\n{rare}")) };
    assert_eq!(load(&rare).unwrap().class_counts(), [18, 1]);
    assert_eq!(rare.load(Split::Test, None).unwrap().class_counts(), [1, 0]);
}

#[test]
fn sentences_stay_short() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(1 << 22);
    sentence(&table(dir.path(), format!("u,v\n1,{long}\n")));
    sentence(&table(dir.path(), format!("u,v\n1,\"{}\n\"\n", "9\n".repeat(100))));
    sentence(&Table { label: Some("kind".into()), ..table(dir.path(), format!("u,{long}\n1,2\n")) });
    let names: Vec<String> = (0..5000).map(|i| format!("n{i}")).collect();
    let wide =
        Table { label: Some("m7".into()), ..table(dir.path(), names.join(",") + "\n" + &"1,".repeat(4999) + "1\n") };
    assert!(sentence(&wide).contains("n7, "), "{}", sentence(&wide));
    assert!(sentence(&table(dir.path(), "1,2\n3\n")).contains("is no regular table"));
    let utf16: Vec<u8> = "\u{feff}u,v\n1,2\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(sentence(&table(dir.path(), utf16)).contains("save it as UTF-8"));
    assert!(sentence(&table(dir.path(), b"u,v\n1,2\n\xe9,3\n")).contains("in line 3"));
}

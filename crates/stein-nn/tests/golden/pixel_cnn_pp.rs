//! PixelCNN++ against the published code (`tests/data/pixel_cnn_pp`): the network with its gradients, the discretized mixture of logistics with
//! its gradient, and what is drawn of it.

use std::{fs, path::Path};

use burn::tensor::{DType, TensorData};
use serde_json::Value;
use stein_nn::import::{self, Kind, Published, Source};

#[test]
fn pixel_cnn_pp_and_its_likelihood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pixel_cnn_pp");
    let fixture: Value = serde_json::from_slice(&fs::read(folder.join("fixture.json")).unwrap()).unwrap();
    let source = Source::open(&folder, None, None).unwrap();
    assert_eq!(source.kind, Kind::PixelCnnPp);
    let published = Published::open(&source).unwrap();
    assert_eq!(published.reference().parameters(), 57_720);
    assert!(published.setting().unwrap_err().to_string().contains("autoregressive"));

    let mut faults = Vec::new();
    for kind in [DType::F64, DType::F32] {
        let all = import::check(published.reference(), &folder, kind).unwrap();
        // Of five cases a loss twice with one gradient and values, four gradients, and two pictures that were drawn.
        assert_eq!(all.len(), 3 + 3 + 2 + 4 + 2);
        for checked in all {
            let (case, name) = checked.name.split_once(": ").unwrap();
            let stated = &fixture["cases"][case]["outputs"][format!("{case}.{name}")];
            let stated = match stated["suggested_tolerance"].as_f64() {
                Some(absolute) => absolute,
                None => stated["relative_tolerance"].as_f64().unwrap() * checked.largest,
            };
            // In f64 only the order of sums differs.
            let bound = if kind == DType::F64 { 1e-9 * checked.largest } else { stated };
            let line = format!("{kind:?} {}: {:.1e} of {:.1e}", checked.name, checked.absolute, checked.largest);
            println!("{line}, bound {bound:.1e}");
            if checked.absolute > bound || !checked.passed() {
                faults.push(line);
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));

    let theirs = import::theirs(Kind::PixelCnnPp, &source.config, &published.weights()).unwrap();
    let bytes = |data: &TensorData| (data.shape().to_vec(), data.as_bytes().to_vec());
    assert!(theirs.keys().eq(source.weights.keys()));
    assert!(theirs.values().map(bytes).eq(source.weights.values().map(bytes)), "exported as they came");
}

//! Files of `torch.save`, made with PyTorch 2.15: what is in them, and what becomes of damaged and hostile ones.

use std::{io::Cursor, path::PathBuf};

use stein::{Key, Kind, Purpose, random::below};
use stein_nn::import::{
    Source,
    pickle::{Value, parse, read},
};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn numbers(value: &Value, key: &str) -> (Vec<usize>, Vec<f64>) {
    let Some(Value::Tensor(data)) = value.get(key) else { panic!("no tensor {key}") };
    (data.shape().to_vec(), data.iter::<f64>().collect())
}

fn state_is_right(state: &Value) {
    // The transpose of 0 to 11 in three rows, saved as a view.
    let wanted = (0..12).map(|i| f64::from(i / 3 + i % 3 * 4)).collect();
    assert_eq!(numbers(state, "module.b"), (vec![4, 3], wanted));
    assert_eq!(numbers(state, "module.a"), (vec![2], vec![1.5, -2.5]));
    assert_eq!(numbers(state, "module.sigmas"), (vec![2], vec![1.0, 0.5]));
    let names: Vec<&str> = state.tensors().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["module.b", "module.a", "module.sigmas", "module.all_modules.0.W"], "the order of the file");
}

#[test]
fn archives_and_what_came_before_them() {
    let root = read(&data("score_sde.pth")).unwrap();
    state_is_right(root.get("model").unwrap());
    assert!(matches!(root.get("step"), Some(Value::Int(42))));
    let optimizer = root.get("optimizer").unwrap();
    assert!(matches!(optimizer.get("lr"), Some(Value::Float(rate)) if *rate == 1e-3));
    assert_eq!(numbers(optimizer, "p"), (vec![1, 2], vec![7.0, 8.0]));
    let Value::List(items) = read(&data("list_legacy.pth")).unwrap() else { panic!("a list was saved") };
    state_is_right(&items[0]);
}

#[test]
fn averages_take_the_places_of_weights() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    std::fs::write(&config, "{}").unwrap();
    let source = Source::open(&data("score_sde.pth"), None, Some(&config)).unwrap();
    assert_eq!(source.which, "ema (`ema`) at step 42");
    let values = |name: &str| source.weights[name].iter::<f64>().collect::<Vec<_>>();
    assert_eq!(values("b")[1], 104.0);
    assert_eq!(values("a"), [9.0, 10.0]);
    // Neither is averaged.
    assert_eq!(values("all_modules.0.W"), [3.0, 4.0]);
    assert_eq!(values("sigmas"), [1.0, 0.5]);
}

/// Published lists name weights as within a wrapper and averages without it. Saved as a file of 21 letters: an archive in which
/// looking for a start finds a wrong one.
#[test]
fn averages_are_named_without_the_wrapper() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    std::fs::write(&config, "{}").unwrap();
    let source = Source::open(&data("ncsnv2_checkpoint_300.pth"), None, Some(&config)).unwrap();
    assert_eq!(source.which, "ema at step 42");
    let values = |name: &str| source.weights[name].iter::<f64>().collect::<Vec<_>>();
    assert_eq!(values("begin_conv.weight"), [10.0, 20.0]);
    assert_eq!(values("normalizer.alpha"), [30.0]);
    assert_eq!(values("sigmas"), [9.0, 8.0], "which is not averaged");
    assert_eq!(source.weights.len(), 3);
}

#[test]
fn nothing_is_run() {
    let error = read(&data("asks.pt")).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let error = error.to_string();
    assert!(error.contains("asks.pt") && error.contains("posix.system"), "{error}");
}

#[test]
fn damaged_files_are_errors() {
    let mut generator = Key::new(1, Purpose::Own(0)).generator();
    for name in ["score_sde.pth", "list_legacy.pth", "asks.pt", "ncsnv2_checkpoint_300.pth"] {
        let whole = std::fs::read(data(name)).unwrap();
        for length in 0..whole.len() {
            let cut = parse(Cursor::new(&whole[..length]));
            // A file of the old kind ends with its last number; the archive with its directory.
            assert_eq!(cut.err().map(|error| error.kind()), Some(Kind::File), "{name} cut to {length} bytes");
        }
        for _ in 0..20_000 {
            let mut damaged = whole.clone();
            for _ in 0..=below(&mut generator, 3) {
                let at = below(&mut generator, damaged.len());
                damaged[at] = below(&mut generator, 256) as u8;
            }
            // It may still be a file; it must not crash, hang or ask for much memory.
            let _ = parse(Cursor::new(damaged));
        }
    }
}

//! Averages of weights under the names that implementations and training frameworks save them under.
//!
//! The files of `tests/data/averages` were written by PyTorch 2.15: weights of 1, 2 and 3 and a buffer of 9, their average of 10, 20
//! and 30.

use std::path::{Path, PathBuf};

use stein_nn::import::{Reading, Source, Which};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/averages").join(name)
}

/// The weights, bias and buffer of a file, and which they are said to be.
fn read(path: &Path, which: Option<Which>) -> stein::Result<(Vec<f64>, String)> {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    std::fs::write(&config, "{}").unwrap();
    let kind = Some(stein_nn::import::Kind::Edm);
    let source = Source::read(path, &Reading { kind, config: Some(&config), which, schedule: None })?;
    let names = ["a.weight", "a.bias", "sigmas"];
    let values =
        names.iter().filter_map(|name| source.weights.get(*name)).flat_map(|data| data.iter::<f64>()).collect();
    assert!(source.weights.keys().all(|name| names.contains(&&name[..])), "{:?}", source.weights.keys());
    Ok((values, source.which))
}

#[test]
fn averages_are_taken_and_named() {
    for (name, ema, raw) in [
        ("model_and_ema", "ema (`ema`)", "raw (`model`); not the average (`ema`)"),
        ("state_dict_ema", "ema (`state_dict_ema`)", "raw (`state_dict`); not the average (`state_dict_ema`)"),
        ("model_ema", "ema (`model_ema`)", "raw (`model`); not the average (`model_ema`)"),
        ("ema_model", "ema (`ema`) at step 7", "raw (`model`) at step 7; not the average (`ema`)"),
        (
            "averaged_model",
            "ema (`ema_state_dict`) at step 12",
            "raw (`net`) at step 12; not the average (`ema_state_dict`)",
        ),
        ("shadow_params", "ema (`ema`)", "raw (`network`); not the average (`ema`)"),
        ("list", "ema (`ema_params`)", "raw (`model`); not the average (`ema_params`)"),
        ("prefixed", "ema (`model_ema`)", "raw; not the average (`model_ema`)"),
    ] {
        let path = file(name).with_extension("pt");
        for which in [None, Some(Which::Ema)] {
            let (values, said) = read(&path, which).unwrap();
            assert_eq!((values, &said[..]), (vec![10.0, 20.0, 30.0, 9.0], ema), "{name}");
        }
        let (values, said) = read(&path, Some(Which::Raw)).unwrap();
        assert_eq!((values, &said[..]), (vec![1.0, 2.0, 3.0, 9.0], raw), "{name}");
    }
}

#[test]
fn what_is_not_there_is_not_taken_for_it() {
    let (values, said) = read(&file("none.pt"), None).unwrap();
    assert_eq!((values[0], &said[..]), (1.0, "raw (`model`); the file has no average"));
    let refused = |name: &str, which| read(&file(name), which).unwrap_err().to_string();
    assert!(refused("none.pt", Some(Which::Ema)).contains("has no average"));
    let (values, said) = read(&file("alone.pt"), None).unwrap();
    assert_eq!((values, &said[..]), (vec![10.0, 20.0, 30.0], "ema (`ema`)"));
    assert!(refused("alone.pt", Some(Which::Raw)).contains("has only the average `ema`"));
    assert!(refused("two.pt", None).contains("`ema_0.99` and `ema_0.999`"));
    assert!(Which::named("emma").unwrap_err().to_string().contains("ema"));
}

#[test]
fn files_of_one_set_of_weights_say_it_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let weights = [("a.bias".to_owned(), stein::TensorData::from([3f32]))].into();
    let write = |name: &str| {
        let path = folder.path().join(name);
        stein_nn::write_tensors(&weights, &path).unwrap();
        path
    };
    let of = |name: &str, which| read(&write(name), which);
    assert_eq!(
        of("ema_0.9999_250000.safetensors", None).unwrap().1,
        "ema, by its name (ema_0.9999_250000.safetensors)"
    );
    assert!(of("ema_0.9999_250000.safetensors", Some(Which::Raw)).is_err());
    assert!(of("lsun_bedroom.safetensors", None).unwrap().1.contains("does not say whether they are an average"));
    assert!(of("lsun_bedroom.safetensors", Some(Which::Ema)).unwrap_err().to_string().contains("does not say which"));
    assert!(of("schema.safetensors", None).unwrap().1.contains("does not say"), "a word, not a part of one");

    // A folder of diffusers with everything it may have.
    for name in [
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.non_ema.safetensors",
    ] {
        write(name);
    }
    let (_, said) = read(folder.path(), None).unwrap();
    assert!(said.contains("; not diffusion_pytorch_model.fp16.safetensors, diffusion_pytorch_model.non_ema"), "{said}");
    let (_, said) = read(folder.path(), Some(Which::Raw)).unwrap();
    assert!(said.starts_with("raw, by its name (diffusion_pytorch_model.non_ema.safetensors)"), "{said}");

    // What an index names has to be there.
    let index = folder.path().join("model.safetensors.index.json");
    let refused = |text: &str| {
        std::fs::write(&index, text).unwrap();
        read(&index, None).unwrap_err().to_string()
    };
    assert!(
        refused(r#"{"weight_map":{"a.bias":"absent.safetensors"}}"#).contains("absent.safetensors, which is not there")
    );
    assert!(refused(r#"{"weight_map":{"a.bias":"../x.safetensors"}}"#).contains("which is not beside it"));
    assert!(refused("<html>").contains("is no JSON"));
    assert!(refused("{}").contains("it is no index"));
}

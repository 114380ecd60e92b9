//! A checkpoint comes back bit for bit, or not at all and with a sentence.

use std::{fs, path::Path};

use burn::tensor::{Device, TensorData};
use stein_nn::{AdamW, AdamWConfig, Checkpoint, Ema, EmaConfig, Part, state};

use crate::{small_mlp, training::train};

fn trained() -> Checkpoint {
    let mut network = small_mlp().build(&[5], 2, 1, &Device::flex().autodiff()).unwrap();
    let mut optimizer = AdamW::new(AdamWConfig::default()).unwrap();
    let mut ema = Ema::new(EmaConfig::default(), &network).unwrap();
    for step in 1..=3 {
        network = train(network, &mut optimizer, step).0;
        ema.update(&network, step, 16);
    }
    Checkpoint {
        weights: state::tensors(&network),
        ema: ema.tensors(),
        optimizer: optimizer.tensors(),
        step: 3,
        metadata: [("config".to_owned(), "kind = \"mlp\"\n# ü".to_owned())].into(),
    }
}

#[test]
fn a_checkpoint_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    let mut checkpoint = trained();
    checkpoint.write(&path).unwrap();
    assert_eq!(Checkpoint::read(&path).unwrap(), checkpoint);
    checkpoint.step = 4;
    checkpoint.write(&path).unwrap();
    assert_eq!(Checkpoint::read(&path).unwrap().step, 4);
    for (part, tensors) in
        [(Part::Raw, &checkpoint.weights), (Part::Ema, &checkpoint.ema), (Part::Optimizer, &checkpoint.optimizer)]
    {
        let (read, metadata) = Checkpoint::read_part(&path, part).unwrap();
        assert_eq!((&read, &metadata), (tensors, &checkpoint.metadata));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left of writing");
}

/// Every sentence names the file.
fn fails(path: &Path, part: &str) {
    let error = Checkpoint::read(path).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()) && error.contains(part), "{error}");
}

#[test]
fn a_damaged_or_foreign_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    fails(&path, "No such file");
    trained().write(&path).unwrap();
    let whole = fs::read(&path).unwrap();

    for length in [0, 5, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        fails(&path, "cut short, damaged or not a safetensors file");
    }
    for (part, key) in [("raw.", "sha256.raw"), ("ema.", "sha256.ema"), ("adam.", "sha256.adam")] {
        let (_, header) = safetensors::SafeTensors::read_metadata(&whole).unwrap();
        let start = whole.len() - header.data_len();
        let tensors = header.tensors();
        let info = tensors.iter().find(|(key, _)| key.starts_with(part)).unwrap().1;
        let mut bytes = whole.clone();
        bytes[start + info.data_offsets.0] ^= 1;
        fs::write(&path, bytes).unwrap();
        fails(&path, key);
    }

    let foreign = |keys: &[&str], metadata: &[(&str, &str)]| {
        let data = [0u8; 4];
        let view = || safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &data).unwrap();
        let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let bytes = safetensors::serialize(keys.iter().map(|key| (key.to_string(), view())), Some(metadata)).unwrap();
        fs::write(&path, bytes).unwrap();
    };
    let format = ("stein.format", "stein checkpoint 1");
    foreign(&["model.weight"], &[]);
    fails(&path, "stein.format is missing");
    foreign(&["raw.a"], &[("stein.format", "stein checkpoint 9"), ("stein.step", "1")]);
    fails(&path, "stein checkpoint 9");
    foreign(&["raw.a"], &[format]);
    fails(&path, "stein.step");
    foreign(&["model.weight"], &[format, ("stein.step", "1")]);
    fails(&path, "model.weight");
    foreign(&["raw.a"], &[format, ("stein.step", "1")]);
    fails(&path, "stein.sha256.raw");
}

#[test]
fn what_the_format_has_no_place_for_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    let fails = |checkpoint: Checkpoint, path: &Path, part: &str| {
        let error = checkpoint.write(path).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()) && error.contains(part), "{error}");
        assert!(!path.exists());
    };
    fails(Checkpoint { metadata: [("stein.x".into(), "1".into())].into(), ..Checkpoint::default() }, &path, "stein.x");
    let bools = [("a".into(), TensorData::from([true]))].into();
    fails(Checkpoint { weights: bools, ..Checkpoint::default() }, &path, "a is of type Bool");
    fails(Checkpoint::default(), &folder.path().join("no/last.safetensors"), "does not exist");
}

//! A checkpoint comes back bit for bit, or not at all and with a sentence.

use std::{collections::BTreeMap, fs, path::Path};

use burn::tensor::{Device, TensorData};
use stein::Kind;
use stein_nn::{AdamW, AdamWConfig, Checkpoint, Ema, EmaConfig, LearnerState, SavedWeights, Weights, state};

use crate::{small_mlp, training::train};

fn trained() -> Checkpoint {
    let mut network = small_mlp().build(&[5], 2, 1, &Device::flex().autodiff()).unwrap();
    let mut optimizer = AdamW::new(AdamWConfig::default()).unwrap();
    let mut ema = Ema::new(EmaConfig::default(), &network).unwrap();
    for step in 1..=3 {
        network = train(network, &mut optimizer, step).0;
        ema.update(&network, step, 16);
    }
    let generator = LearnerState {
        weights: state::tensors(&network),
        average: Some(ema.tensors()),
        optimizer: optimizer.tensors(),
    };
    // Another learner, without an average.
    let critic = LearnerState { average: None, ..generator.clone() };
    Checkpoint {
        learners: [("generator".to_owned(), generator), ("critic_2".to_owned(), critic)].into(),
        step: 3,
        metadata: (0..20).map(|n| (format!("key {n}"), format!("kind = \"mlp\"\n# ü{n}"))).collect(),
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
    let [critic, generator] = ["critic_2", "generator"].map(|name| &checkpoint.learners[name]);
    for (which, of_generator) in
        [(Weights::Ema, generator.average.as_ref().unwrap()), (Weights::Raw, &generator.weights)]
    {
        let learners = [("critic_2", &critic.weights), ("generator", of_generator)];
        let learners: BTreeMap<_, _> = learners.map(|(name, tensors)| (name.to_owned(), tensors.clone())).into();
        let metadata = checkpoint.metadata.clone();
        assert_eq!(
            Checkpoint::read_weights(&path, which).unwrap(),
            SavedWeights { learners, which, step: 4, metadata }
        );
    }
    assert_ne!(generator.average.as_ref().unwrap(), &generator.weights);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left of writing");
}

#[test]
fn equal_checkpoints_are_equal_files() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |name: &str| {
        let path = folder.path().join(name);
        trained().write(&path).unwrap();
        fs::read(&path).unwrap()
    };
    let first = bytes("a");
    (0..5).for_each(|_| assert!(bytes("b") == first));
    // Every tool can read them, and numbers are where processors like to have them.
    let (length, header) = safetensors::SafeTensors::read_metadata(&first).unwrap();
    assert!(length.is_multiple_of(8));
    let file = safetensors::SafeTensors::deserialize(&first).unwrap();
    assert_eq!(file.len(), header.tensors().len());
    assert!(file.tensor("generator.optimizer.step").is_ok() && file.tensor("critic_2.raw.input.weight").is_ok());
}

/// Every sentence names the file.
fn fails(path: &Path, part: &str) {
    let error = Checkpoint::read(path).unwrap_err();
    assert_eq!(error.kind(), Kind::File);
    let error = error.to_string();
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
    for (part, key) in [
        ("generator.raw.", "sha256.generator.raw"),
        ("generator.average.", "sha256.generator.average"),
        ("critic_2.optimizer.", "sha256.critic_2.optimizer"),
    ] {
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
    let (format, step, sum) =
        (("stein.format", "stein checkpoint 3"), ("stein.step", "1"), ("stein.sha256.a.raw", "00"));
    foreign(&["model.weight"], &[]);
    fails(&path, "stein.format is missing");
    foreign(&["raw.a"], &[("stein.format", "stein checkpoint 9"), step]);
    fails(&path, "stein checkpoint 9");
    for old in ["stein checkpoint 1", "stein checkpoint 2"] {
        foreign(&["raw.a"], &[("stein.format", old), step]);
        fails(&path, "make the run anew");
    }
    foreign(&["a.raw.b"], &[format]);
    fails(&path, "stein.step");
    for key in ["model.weight", "b.raw.a", "a.average.a"] {
        foreign(&[key], &[format, step, sum]);
        fails(&path, key);
    }
    for key in ["stein.sha256.A.raw", "stein.sha256.a.ema", "stein.other"] {
        foreign(&["a.raw.b"], &[format, step, (key, "00")]);
        fails(&path, key);
    }
    foreign(&["a.raw.b"], &[format, step, sum]);
    fails(&path, "the metadata do not have the checksum stein.sha256");
}

#[test]
fn a_digit_changed_anywhere_in_the_header_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    let tensors = |value: f32| [("a.weight".to_owned(), TensorData::from([value, 2.0]))].into();
    let state = LearnerState { weights: tensors(1.0), average: Some(tensors(0.5)), optimizer: tensors(0.1) };
    let checkpoint = Checkpoint {
        learners: [("denoiser".to_owned(), state)].into(),
        step: 1234,
        metadata: [("model".to_owned(), "sigma_max = 80.25\nsigma_data = 0.5".to_owned())].into(),
    };
    checkpoint.write(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let digits: Vec<usize> = (8..header).filter(|&i| whole[i].is_ascii_digit()).collect();
    assert!(digits.len() > 200);
    for i in digits {
        let mut bytes = whole.clone();
        bytes[i] = b'0' + (bytes[i] - b'0' + 1) % 10;
        fs::write(&path, bytes).unwrap();
        assert!(Checkpoint::read(&path).is_err(), "byte {i} of the header");
    }
}

#[test]
fn numbers_that_are_not_finite_are_named() {
    let mut checkpoint = trained();
    checkpoint.check_finite().unwrap();
    let generator = checkpoint.learners.get_mut("generator").unwrap();
    let average = generator.average.as_mut().unwrap();
    let name = average.keys().next().unwrap().clone();
    average.insert(name.clone(), TensorData::from([1.0, f32::NAN]));
    let error = checkpoint.check_finite().unwrap_err();
    assert_eq!(error.kind(), Kind::NotFinite);
    assert!(error.to_string().starts_with(&format!("generator.average.{name}")), "{error}");
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
    let with = |name: &str, state: LearnerState| Checkpoint {
        learners: [(name.to_owned(), state)].into(),
        ..Checkpoint::default()
    };
    let weights = [("a".into(), TensorData::from([true]))].into();
    fails(with("one", LearnerState { weights, ..LearnerState::default() }), &path, "one.raw.a is of type Bool");
    for name in ["", "One", "a.b"] {
        fails(with(name, LearnerState::default()), &path, "lower-case letters, digits and underscores");
    }
    fails(Checkpoint::default(), &folder.path().join("no/last.safetensors"), "does not exist");
}

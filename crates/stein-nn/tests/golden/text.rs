//! CLIP's tokenizer and transformer of texts against what the transformers library gave, of the same random weights.
//!
//! A small pipeline is in `tests/data/stable_diffusion`; one of either form of Stable Diffusion lies outside the repository, in
//! `../shared/golden_methods`, and without those nothing more is compared.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::Value;
use stein_nn::{Gelu, Tensors, TextEnd, Tokenizer, import::clip_text, read_tensors};

use crate::variational::close;

/// In f64 only the order of sums differs.
const EXACT: f64 = 1e-9;
/// In f32, over the largest number: ten times what the reference itself is off by.
const SINGLE: f64 = 2e-5;

struct Pipeline {
    stored: Tensors,
    runs: Value,
    config: Value,
    weights: Tensors,
    tokenizer: Tokenizer,
}

impl Pipeline {
    fn open(folder: &Path) -> Self {
        let json =
            |name: &str| -> Value { serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap() };
        Self {
            stored: read_tensors(&folder.join("io.safetensors")).unwrap(),
            runs: json("runs.json"),
            config: json("text_encoder/config.json"),
            weights: read_tensors(&folder.join("text_encoder/model.safetensors")).unwrap(),
            tokenizer: Tokenizer::open(&folder.join("tokenizer"), 77).unwrap(),
        }
    }

    fn numbers(&self, name: &str) -> Vec<i64> {
        self.stored[name].iter::<i64>().collect()
    }

    fn check(&self) {
        let prompts: Vec<&str> = self.runs["prompts"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
        let (ids, lengths) = (self.numbers("tokens.ids"), self.numbers("tokens.lengths"));
        assert_eq!((prompts.len(), ids.len()), (lengths.len(), 77 * lengths.len()));
        for (row, prompt) in prompts.iter().enumerate() {
            let tokens: Vec<i64> = self.tokenizer.padded(prompt).unwrap().into_iter().map(i64::from).collect();
            assert_eq!(tokens, ids[77 * row..77 * (row + 1)], "{prompt:?}");
            assert_eq!(self.tokenizer.tokens(prompt).unwrap().len() as i64, lengths[row], "{prompt:?}");
        }
        let said: Vec<Vec<u32>> = self.runs["embedding_prompts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| self.tokenizer.padded(prompts[row.as_u64().unwrap() as usize]).unwrap())
            .collect();
        for (kind, bound) in [(DType::F64, EXACT), (DType::F32, SINGLE)] {
            let network = clip_text::open(&self.config, &self.weights, kind, &Device::flex()).unwrap();
            assert!(self.tokenizer.vocabulary() <= network.form().vocabulary);
            let all = network.said(&said, 0).unwrap();
            let pooled = network.pooled(&all, &said).unwrap();
            self.compare("text.pooled_f64", pooled, bound);
            self.compare("text.last_hidden_state_f64", all, bound);
            self.compare("text.clip_skip_1_f64", network.said(&said, 1).unwrap(), bound);
        }
    }

    fn compare<const D: usize>(&self, name: &str, found: Tensor<D>, bound: f64) {
        let numbers = |data: &TensorData| -> Vec<f64> { data.iter::<f64>().collect() };
        close(&numbers(&found.into_data()), &numbers(&self.stored[name]), bound, name);
    }
}

/// What is in the repository.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stable_diffusion")
}

#[test]
fn texts_have_the_tokens_and_say_what_the_reference_does() {
    Pipeline::open(&folder()).check();
}

#[test]
fn texts_of_both_forms_of_stable_diffusion_say_what_the_reference_does() {
    for name in ["stable_diffusion_tiny", "stable_diffusion2_tiny"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden_methods").join(name);
        if !folder.is_dir() {
            println!("skipped: there is no {}, so nothing is compared with it", folder.display());
            continue;
        }
        Pipeline::open(&folder).check();
    }
}

/// A vocabulary and merges alone are read as the whole tokenizer is, but for tokens of either end in capitals, which the file of this fixture
/// takes for those and the library's own rules do not.
#[test]
fn a_vocabulary_and_merges_make_the_same_tokens() {
    let folder = folder();
    let whole = Pipeline::open(&folder);
    let alone = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        fs::copy(folder.join("tokenizer").join(name), alone.path().join(name)).unwrap();
    }
    let alone = Tokenizer::open(alone.path(), 77).unwrap();
    let prompts = whole.runs["prompts"].as_array().unwrap().iter().flat_map(Value::as_str);
    let prompts: Vec<&str> = prompts.filter(|prompt| !prompt.contains("<|ENDOFTEXT|>")).collect();
    assert_eq!(prompts.len(), 14);
    for prompt in prompts {
        assert_eq!(alone.padded(prompt).unwrap(), whole.tokenizer.padded(prompt).unwrap(), "{prompt:?}");
    }
}

/// What is said at a token does not depend on those after it.
#[test]
fn a_token_sees_none_that_follow() {
    let network = clip_text::load(&folder().join("text_encoder"), &Device::flex()).unwrap();
    let [first, second] = [vec![572, 5, 9, 30, 573], vec![572, 5, 9, 77, 11]];
    let rows = |text: Vec<u32>| -> Vec<f64> { network.said(&[text], 0).unwrap().into_data().iter::<f64>().collect() };
    let (first, second) = (rows(first), rows(second));
    let width = network.form().width;
    assert_eq!(first[..3 * width], second[..3 * width]);
    assert_ne!(first[3 * width..4 * width], second[3 * width..4 * width]);
}

#[test]
fn what_is_no_text_is_refused_in_a_sentence() {
    let network = clip_text::load(&folder().join("text_encoder"), &Device::flex()).unwrap();
    let fault = |texts: &[Vec<u32>], skipped| network.said(texts, skipped).unwrap_err().to_string();
    assert!(fault(&[vec![572, 574]], 0).contains("its tokenizer is that of another"));
    assert!(fault(&[vec![572], vec![572, 573]], 0).contains("pad the shorter"));
    assert!(fault(&[vec![572; 78]], 0).contains("1 to 77 tokens"));
    assert!(fault(&[vec![572, 573]], 2).contains("leave at least one"));
    let whole = Pipeline::open(&folder()).config;
    let config = |key: &str, value: Value| {
        let mut config = whole.clone();
        config[key] = value;
        clip_text::form(&config)
    };
    assert!(config("model_type", "t5".into()).unwrap_err().to_string().contains("one of t5"));
    assert!(config("hidden_act", "tanh".into()).unwrap_err().to_string().contains("hidden_act"));
    let form = config("eos_token_id", 573.into()).unwrap();
    assert_eq!((form.gelu, form.end), (Gelu::Exact, TextEnd::Token(573)));
    // A folder without a tokenizer.
    let lacks = Tokenizer::open(&folder(), 77).unwrap_err().to_string();
    assert!(lacks.contains("vocab.json"), "{lacks}");
}

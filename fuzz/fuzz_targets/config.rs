//! Configs of every implementation, with a scheduler's: a network without weights is refused, and never at length.
//!
//! The first byte chooses the implementation; JSON follows, the config or `[config, scheduler]`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use stein_nn::{
    Tensors,
    import::{Kind, Published, Setting, Source},
};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, text)) = bytes.split_first() else { return };
    let Ok(json) = serde_json::from_slice::<Value>(text) else { return };
    let (config, scheduler) = match json {
        Value::Array(pair) if pair.len() == 2 => (pair[0].clone(), Some(pair[1].clone())),
        config => (config, None),
    };
    let (_, kind) = Kind::ALL[usize::from(*first) % Kind::ALL.len()];
    let (origin, which) = ("bytes".to_owned(), String::new());
    let source = Source { kind, config, scheduler, latent: false, weights: Tensors::new(), origin, which };
    // How it was trained is known without weights.
    let _ = Setting::of(&source);
    assert!(Published::open(&source).is_err(), "a network without weights was opened");
});

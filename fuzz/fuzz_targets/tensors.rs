//! Safetensors files, as weights and as checkpoints of our own: tensors or an error, whatever the bytes.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use stein_nn::{Checkpoint, read_tensors};

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::Builder::new().suffix(".safetensors").tempfile().expect("a temporary file can be made");
    file.write_all(bytes).expect("a temporary file can be written");
    let read = (read_tensors(file.path()), Checkpoint::read(file.path()));
    if let (Err(error), Err(other)) = read {
        assert!(
            !error.to_string().contains('\n') && !other.to_string().contains('\n'),
            "one sentence: {error}; {other}"
        );
    }
});

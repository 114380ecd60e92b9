//! Files of `torch.save`, in archives and before them: a value or an error, whatever the bytes.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use stein_nn::import::pickle::parse;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = parse(Cursor::new(bytes)) {
        value.tensors();
    }
});

//! The `stein` program: train, sample and look at score-based generative models.

mod args;
mod bars;
mod commands;

use std::process::ExitCode;

use clap::Parser;

// Tensors of many sizes come and go by the thousand; the system's allocator returns each large one to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match commands::run(args::Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            bars::tell(format!("stein: {error}"));
            ExitCode::FAILURE
        }
    }
}

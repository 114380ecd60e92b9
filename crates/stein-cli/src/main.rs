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
    // So that a file that may grow no further is an error that is told, as a full disk is, and not the end of the process.
    #[cfg(unix)]
    // SAFETY: ignoring a signal installs no handler, and no other thread is there yet.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    let done = match args::Args::try_parse() {
        Ok(args) => commands::run(args),
        Err(answer) => commands::answer(&answer),
    };
    done.unwrap_or_else(|error| {
        bars::tell(format!("stein: {error}"));
        ExitCode::FAILURE
    })
}

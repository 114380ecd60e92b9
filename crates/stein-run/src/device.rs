//! Which machine part computes: the CPU always, a GPU where the program was built with its feature.

use stein::{Device, Error, Result, names, numbers::ensure_within};
use stein_base::explain::Entry;
use stein_nn::ops::Precision;

/// The devices this build knows, the default first.
pub const DEVICES: &[&str] = &[
    "cpu",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "metal")]
    "metal",
    #[cfg(feature = "rocm")]
    "rocm",
    #[cfg(feature = "vulkan")]
    "vulkan",
    #[cfg(feature = "wgpu")]
    "wgpu",
];

/// What the devices of this build are.
pub(crate) fn entries() -> Vec<Entry> {
    let about = |name: &str| match name {
        "cpu" => "The processor, with kernels of our own.",
        "cuda" => "A GPU of NVIDIA, by CUDA.",
        "metal" => "A GPU of Apple, by Metal.",
        "rocm" => "A GPU of AMD, by ROCm.",
        "vulkan" => "A GPU, by Vulkan.",
        _ => "A GPU, by what WebGPU finds.",
    };
    DEVICES.iter().map(|name| Entry::new(name, &[], about(name), Vec::new())).collect()
}

/// The device of this name.
///
/// # Errors
/// A name this build does not know; the sentence lists those it does and how to build with a GPU.
pub fn device(name: &str) -> Result<Device> {
    match name.to_lowercase().as_str() {
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0usize)),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "rocm")]
        "rocm" => Ok(Device::rocm(0usize)),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        _ => Err(Error::new(format!(
            "there is no device called `{}` in this build, which knows {}; for a GPU, build with `--features cuda` \
             (or metal, rocm, vulkan, wgpu)",
            names::short(name),
            DEVICES.join(", ")
        ))),
    }
}

/// Most worker threads.
const MOST_THREADS: usize = 1024;

/// Limits the worker threads of the whole process; results do not depend on their number.
///
/// # Errors
/// More threads than any machine has processors, and threads that were started already.
pub fn limit_threads(threads: usize) -> Result<()> {
    ensure_within("--threads", threads, ..=MOST_THREADS)?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|error| Error::new(format!("cannot limit the program to {threads} threads: {error}")))
}

/// Computes products on the CPU in bf16 from now on, if the processor can; whether it can.
pub fn use_bf16() -> bool {
    Precision::Bf16.set() == Precision::Bf16
}

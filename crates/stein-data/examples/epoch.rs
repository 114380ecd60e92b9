//! Reads two epochs of a folder of pictures as a training loop would, and says how fast, how much memory it took, and
//! how long the loop waited.
//!
//!     cargo run --release --example epoch -- FOLDER [COUNT] [MEMORY]
//!
//! Without the folder, COUNT JPEGs of 500x375 pixels (default 2000) are made in it first. Sets of more than MEMORY MiB
//! (default 0, so that all stream) are read as they are used.

use image::{Rgb, RgbImage, codecs::jpeg::JpegEncoder};
use rayon::prelude::*;
use std::{env, fs, io::BufWriter, path::Path, sync::Arc, time::Instant};
use stein_data::{Ahead, DataSet, Images, Loader, LoaderConfig, Split};

const BATCH: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut given = env::args().skip(1);
    let folder = given.next().ok_or("usage: epoch FOLDER [COUNT] [MEMORY]")?;
    let count = given.next().map_or(Ok(2000), |count| count.parse())?;
    let memory = given.next().map_or(Ok(0), |memory| memory.parse())?;
    if !Path::new(&folder).exists() {
        make(Path::new(&folder), count)?;
    }

    let start = Instant::now();
    let images = Images {
        path: folder.into(),
        height: Some(64),
        width: Some(64),
        channels: Some(3),
        test_fraction: 0.0,
        memory,
        ..Images::default()
    };
    let data = Arc::new(images.load(Split::Train, None)?);
    let n = data.len();
    println!("{n} pictures of {} found in {:.2} s", data.shape, start.elapsed().as_secs_f64());

    let loader = Loader::new(data, LoaderConfig { seed: 1, flip: true, ..LoaderConfig::default() })?;
    let mut batches = Ahead::new(loader, 0, BATCH, 4);
    for epoch in 1..=2 {
        let (start, waited) = (Instant::now(), batches.waited());
        // A training step would stand here, and use `x`, `index` and `labels`.
        for _ in 0..n.div_ceil(BATCH) {
            batches.next()?;
        }
        let (took, waited) = (start.elapsed().as_secs_f64(), batches.waited() - waited);
        let rate = (n.div_ceil(BATCH) * BATCH) as f64 / took;
        let memory = peak_memory().map_or("unknown".into(), |mib| format!("{mib} MiB"));
        println!(
            "epoch {epoch}: {rate:.0} images/s, waited {:.2} s of {took:.2} s, peak memory {memory}",
            waited.as_secs_f64()
        );
    }
    Ok(())
}

/// Makes pictures of waves with some grain, which compress like photographs rather than like drawings.
fn make(folder: &Path, count: usize) -> Result<(), Box<dyn std::error::Error>> {
    fs::create_dir_all(folder)?;
    let one = |i: usize| {
        let value = |x: u32, y: u32, channel: u32| {
            let (x, y, i) = (f64::from(x), f64::from(y), i as f64);
            let wave = (x / 31.0 + i).sin() + (y / (17.0 + 5.0 * f64::from(channel)) + 0.3 * i).sin();
            let grain = ((x * 12.9898 + y * 78.233 + i).sin() * 43758.5453).fract() * 20.0;
            (128.0 + 50.0 * wave + grain) as u8
        };
        let picture = RgbImage::from_fn(500, 375, |x, y| Rgb([0, 1, 2].map(|channel| value(x, y, channel))));
        let file = BufWriter::new(fs::File::create(folder.join(format!("{i:06}.jpg")))?);
        picture.write_with_encoder(JpegEncoder::new_with_quality(file, 90))
    };
    Ok((0..count).into_par_iter().try_for_each(one)?)
}

/// The most memory this process ever had, in MiB, where the system says so.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

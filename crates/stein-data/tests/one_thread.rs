//! Reading ahead where rayon has a single thread, and that thread is the one that waits.

use std::sync::Arc;

use stein_data::{Ahead, DataSet, Images, Loader, LoaderConfig, Split};

#[test]
fn the_only_thread_of_the_pool_can_wait_for_pictures() {
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for i in 0..6u8 {
        image::GrayImage::from_pixel(9, 9, image::Luma([i])).save(folder.path().join(format!("{i}.png"))).unwrap();
    }
    // Decoded as they are used, by rayon.
    let cache = Some(folder.path().join("cache"));
    let images = Images { path: folder.path().into(), memory: 0, cache, test_fraction: 0.0, ..Images::default() };
    let data = Arc::new(images.load(Split::Train, None).unwrap());
    assert!(!data.is_held());
    rayon::scope(|_| {
        let mut ahead = Ahead::new(Loader::new(data, LoaderConfig::default()).unwrap(), 0, 4, 1);
        for _ in 0..3 {
            assert_eq!(ahead.next().unwrap().x.len(), 4 * 81);
        }
    });
}

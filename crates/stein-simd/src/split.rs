//! How the elementwise kernels split their work over threads.

use std::cell::Cell;

use rayon::prelude::*;

/// Numbers in one task: a few tens of kilobytes, which a processor's cache holds.
pub(crate) const CHUNK: usize = 1 << 14;

/// Work below this many numbers takes less time than to wake another thread.
const PARALLEL: usize = 1 << 15;

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Does work whose kernels stay on the calling thread: for work that is split over threads as a whole.
pub fn on_one_thread<R>(work: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _restore = Restore(ALONE.replace(true));
    work()
}

/// Whether arithmetic of that many operations is worth a second thread.
pub(crate) fn worth(operations: f64) -> bool {
    /// Operations below which a second thread costs more than it brings.
    const SPLIT: f64 = 1e6;
    operations >= SPLIT && !ALONE.get()
}

/// Does all tasks, over rayon's threads where `work`, the numbers they touch together, is enough.
pub(crate) fn for_each<T: Send>(work: usize, tasks: impl Iterator<Item = T>, run: impl Fn(T) + Send + Sync) {
    if work < PARALLEL || ALONE.get() {
        tasks.for_each(run);
    } else {
        tasks.collect::<Vec<_>>().into_par_iter().for_each(run);
    }
}

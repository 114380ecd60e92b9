//! How kernels split their work over threads.

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

/// Arithmetic below this many operations takes less time than to wake another thread.
const OPERATIONS: f64 = 1e6;

/// Does tasks 0 to `count` − 1, over rayon's threads where `operations`, those of all together, are enough.
pub(crate) fn tasks(operations: f64, count: usize, task: impl Fn(usize) + Send + Sync) {
    if operations < OPERATIONS || ALONE.get() {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().for_each(task);
    }
}

/// Does all tasks, over rayon's threads where `work`, the numbers they touch together, is enough.
pub(crate) fn for_each<T: Send>(work: usize, tasks: impl Iterator<Item = T>, run: impl Fn(T) + Send + Sync) {
    if work < PARALLEL || ALONE.get() {
        tasks.for_each(run);
    } else {
        tasks.collect::<Vec<_>>().into_par_iter().for_each(run);
    }
}

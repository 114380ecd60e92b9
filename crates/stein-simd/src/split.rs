//! How kernels split their work over threads.

use std::cell::Cell;

use rayon::prelude::*;

/// Numbers per task: a few tens of kilobytes, which fit the cache of a processor.
pub(crate) const CHUNK: usize = 1 << 14;

/// Work on fewer numbers takes less time than waking another thread.
const PARALLEL: usize = 1 << 15;

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` with all its kernels on the calling thread, for callers that split their work over threads themselves.
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

/// Fewer arithmetic operations take less time than waking another thread.
const OPERATIONS: f64 = 1e6;

/// Runs tasks 0 to `count` − 1, on rayon's threads if all of them together take enough `operations`.
pub(crate) fn tasks(operations: f64, count: usize, task: impl Fn(usize) + Send + Sync) {
    if operations < OPERATIONS || ALONE.get() {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().for_each(task);
    }
}

/// Runs all tasks, on rayon's threads if there is enough `work`, the count of numbers they touch together.
pub(crate) fn for_each<T: Send>(work: usize, tasks: impl Iterator<Item = T>, run: impl Fn(T) + Send + Sync) {
    if work < PARALLEL || ALONE.get() {
        tasks.for_each(run);
    } else {
        tasks.collect::<Vec<_>>().into_par_iter().for_each(run);
    }
}

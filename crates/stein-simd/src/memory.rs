//! Memory for kernels: buffers that are reused, scratch that a thread keeps, and a target that several threads write to.

use std::{
    cell::Cell,
    collections::BTreeMap,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    thread::LocalKey,
};

/// Sizes below this are left to the allocator.
const SMALLEST: usize = 1 << 12;

/// Buffers that were given back, by size.
#[derive(Default)]
struct Pool {
    free: BTreeMap<usize, Vec<Vec<f32>>>,
    /// Numbers in free buffers.
    kept: usize,
    /// Numbers in use.
    used: usize,
    /// The most numbers ever in use at once, which bounds those in use and kept together.
    most: usize,
}

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);

fn pool() -> MutexGuard<'static, Pool> {
    // The pool is consistent between any two of its statements that can panic.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer of numbers, whose values are unspecified at first. Its memory is kept when it is dropped and handed out again:
/// a training step needs the same sizes as the one before it, and fresh memory costs a page fault per 4 KiB.
#[derive(Debug)]
pub struct Memory(Vec<f32>);

impl Memory {
    /// A buffer of `len` numbers.
    pub fn new(len: usize) -> Self {
        if len < SMALLEST {
            return Self(vec![0.0; len]);
        }
        let mut pool = pool();
        pool.used += len;
        pool.most = pool.most.max(pool.used);
        if let Some(memory) = pool.free.get_mut(&len).and_then(Vec::pop) {
            pool.kept -= len;
            return Self(memory);
        }
        drop(pool);
        Self(vec![0.0; len])
    }
}

impl Deref for Memory {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.0);
        let len = memory.len();
        if len < SMALLEST {
            return;
        }
        let mut pool = pool();
        pool.used -= len;
        // Free and used buffers together stay within the most that was ever in use; the largest are freed first.
        while pool.kept + pool.used + len > pool.most {
            let Some(mut last) = pool.free.last_entry() else { break };
            let size = *last.key();
            if last.get_mut().pop().is_some() {
                pool.kept -= size;
            } else {
                last.remove();
            }
        }
        pool.kept += len;
        pool.free.entry(len).or_default().push(memory);
    }
}

thread_local! {
    static BAND: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static WHOLE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// A buffer of numbers of unspecified value, which the thread keeps for the next use. It is a guard rather than a function
/// that takes a closure, because a closure would not be compiled for the instructions of the
/// [`Job`](crate::vector::Job) it is in.
pub(crate) struct Scratch {
    memory: Vec<f32>,
    kept: &'static LocalKey<Cell<Vec<f32>>>,
}

impl Scratch {
    /// For the data of one task.
    pub(crate) fn of_task(len: usize) -> Self {
        Self::take(len, &BAND)
    }

    /// For data that all threads of a kernel share.
    pub(crate) fn of_kernel(len: usize) -> Self {
        Self::take(len, &WHOLE)
    }

    fn take(len: usize, kept: &'static LocalKey<Cell<Vec<f32>>>) -> Self {
        // Taken rather than borrowed: if the thread gets here again before this one is dropped, it gets fresh memory.
        let mut memory = kept.take();
        if memory.len() < len {
            // Freed first, so that the old and the new buffer never exist at the same time.
            memory = Vec::new();
            memory.resize(len, 0.0);
        }
        Self { memory, kept }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.kept.set(std::mem::take(&mut self.memory));
    }
}

/// A slice that several threads write to, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: whoever takes a pointer from it promises not to write where another thread does.
unsafe impl Send for Target<'_> {}
// SAFETY: as above.
unsafe impl Sync for Target<'_> {}

impl<'a> Target<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// The numbers from `at` on.
    pub(crate) fn at(self, at: usize) -> *mut f32 {
        assert!(at <= self.len, "a kernel's target is too short");
        // SAFETY: within the slice or one past it.
        unsafe { self.start.add(at) }
    }

    /// The numbers of a range as a slice.
    ///
    /// # Safety
    /// Nothing else uses any of them as long as the slice lives.
    pub(crate) unsafe fn range(self, from: usize, len: usize) -> &'a mut [f32] {
        assert!(from + len <= self.len, "a kernel's target is too short");
        // SAFETY: within the slice, and the caller promises that it is not used elsewhere.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

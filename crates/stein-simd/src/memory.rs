//! Memory of kernels: what is handed out again after use, scratch that a thread keeps, and a target that threads write
//! apart.

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

/// What was given back, by size, and how much that is.
#[derive(Default)]
struct Pool {
    free: BTreeMap<usize, Vec<Vec<f32>>>,
    kept: usize,
    /// Numbers in use, and the most there ever were: no more than that is kept.
    used: usize,
    most: usize,
}

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);

fn pool() -> MutexGuard<'static, Pool> {
    // The pool is consistent between any two of its statements that can panic.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers of unspecified value at first, whose memory is kept when they are dropped and handed out again: a training step
/// asks for the same sizes as the one before it, and fresh memory costs a page fault for every 4 KiB.
#[derive(Debug)]
pub struct Memory(Vec<f32>);

impl Memory {
    /// That many numbers.
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
        // What is free and what is in use together stay within the most that was ever in use; the largest go first.
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

/// Numbers of unspecified value, which the thread keeps for whoever asks next. It is a value and not a function that
/// calls another, because a closure would not be compiled for the instructions of the [`Job`](crate::vector::Job) it is in.
pub(crate) struct Scratch {
    memory: Vec<f32>,
    kept: &'static LocalKey<Cell<Vec<f32>>>,
}

impl Scratch {
    /// For a task of one thread.
    pub(crate) fn of_task(len: usize) -> Self {
        Self::take(len, &BAND)
    }

    /// For what all threads of a kernel work on together.
    pub(crate) fn of_kernel(len: usize) -> Self {
        Self::take(len, &WHOLE)
    }

    fn take(len: usize, kept: &'static LocalKey<Cell<Vec<f32>>>) -> Self {
        // Taken, not borrowed: should the thread come here again before it is done, it works with fresh memory.
        let mut memory = kept.take();
        if memory.len() < len {
            // Freed first, so that both never exist together.
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

/// A slice that several threads write to, each its own places.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: whoever takes a pointer out promises not to write where another thread does.
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
    /// No one else uses any of them as long as the slice lives.
    pub(crate) unsafe fn range(self, from: usize, len: usize) -> &'a mut [f32] {
        assert!(from + len <= self.len, "a kernel's target is too short");
        // SAFETY: within the slice, and the caller promises that it is not used elsewhere.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

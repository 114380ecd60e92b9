//! Batches read ahead on another thread, so that decoding and training go on side by side.

use crate::{Batch, Loader};
use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use stein_base::Result;

/// Consecutive batches of one size, read ahead of their use. They are those of [`Loader::batch`]; what is read ahead
/// changes nothing but the waiting.
///
/// ```
/// use std::sync::Arc;
/// use stein_data::{Ahead, Loader, LoaderConfig, Source, Split};
///
/// let digits = Source::named("digits")?.load(Split::Train, None)?;
/// let mut loader = Loader::new(Arc::new(digits), LoaderConfig::default())?;
/// let mut ahead = Ahead::new(loader.clone(), 1000, 64, 2);
/// assert_eq!(ahead.next()?, loader.batch(1000, 64)?);
/// assert_eq!(ahead.next()?, loader.batch(1064, 64)?);
/// # Ok::<(), stein_data::Error>(())
/// ```
#[derive(Debug)]
pub struct Ahead {
    /// Both are there until it is dropped.
    batches: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
    waited: Duration,
}

impl Ahead {
    /// Starts to read batches of `count` samples from position `start` on; at most `depth` of them wait to be used, and
    /// one more is being read.
    ///
    /// # Panics
    /// When the system cannot start a thread.
    pub fn new(mut loader: Loader, start: u64, count: usize, depth: usize) -> Self {
        let (send, batches) = sync_channel(depth);
        let read = move || {
            let mut at = start;
            // Nobody receives any more once this is dropped.
            while send.send(loader.batch(at, count)).is_ok() {
                at += count as u64;
            }
        };
        Self { batches: Some(batches), thread: Some(std::thread::spawn(read)), waited: Duration::ZERO }
    }

    /// The next batch; the batches do not end.
    ///
    /// # Errors
    /// When a sample of this batch cannot be read. The next call gives the batch after it.
    ///
    /// # Panics
    /// When reading panicked.
    #[expect(clippy::should_implement_trait, reason = "the batches do not end, and each may be an error")]
    pub fn next(&mut self) -> Result<Batch> {
        let from = Instant::now();
        let batch = self.batches.as_ref().and_then(wait_for);
        self.waited += from.elapsed();
        batch.unwrap_or_else(|| {
            let reason = self.thread.take().map(|thread| thread.join());
            match reason {
                Some(Err(reason)) => std::panic::resume_unwind(reason),
                _ => unreachable!("the thread sends until it is dropped or panics"),
            }
        })
    }

    /// How long [`Ahead::next`] has waited so far, in all.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

/// What comes next; `None` when nothing will.
///
/// The caller may be one of rayon's threads, perhaps the only one, and the reader decodes on those: instead of sleeping it does
/// their work.
fn wait_for<T>(channel: &Receiver<T>) -> Option<T> {
    loop {
        match channel.try_recv() {
            Ok(it) => return Some(it),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        if rayon::yield_now() != Some(rayon::Yield::Executed) {
            match channel.recv_timeout(Duration::from_millis(1)) {
                Ok(it) => return Some(it),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// Stops reading; a batch that is being read is finished first.
impl Drop for Ahead {
    fn drop(&mut self) {
        drop(self.batches.take());
        if let Some(thread) = self.thread.take() {
            // It may be waiting for this very thread to do its work.
            while !thread.is_finished() {
                if rayon::yield_now() != Some(rayon::Yield::Executed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            // A panic there is of no interest any more: nobody asked for that batch.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Data, LoaderConfig, Rows, Shape};
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use stein_base::{Error, Kind};

    /// Rows that are their own numbers, some of which cannot be read.
    #[derive(Debug, Default)]
    struct Numbers {
        broken: Vec<usize>,
        read: AtomicUsize,
    }

    impl Rows for Numbers {
        fn count(&self) -> usize {
            50
        }

        fn row(&self, i: usize, out: &mut [f32]) -> Result<()> {
            self.read.fetch_add(1, Ordering::SeqCst);
            out.fill(i as f32);
            match self.broken.contains(&i) {
                true => Err(Error::of(Kind::File, format!("{i}.png is broken"))),
                false => Ok(()),
            }
        }
    }

    fn loader(rows: &Arc<Numbers>) -> Loader {
        let shape = Shape::Row { dim: 3 };
        let data = Data::from_stream("numbers", shape, rows.clone(), None, Vec::new()).unwrap();
        Loader::new(Arc::new(data), LoaderConfig::default()).unwrap()
    }

    #[test]
    fn gives_what_the_loader_gives_errors_included() {
        let rows = Arc::new(Numbers { broken: vec![11, 30], ..Numbers::default() });
        for depth in [0, 1, 4] {
            let mut alone = loader(&rows);
            let mut ahead = Ahead::new(loader(&rows), 5, 8, depth);
            let (mut good, mut bad) = (0, 0);
            for k in 0..20 {
                let batch = ahead.next();
                assert_eq!(batch, alone.batch(5 + 8 * k, 8));
                *(if batch.is_ok() { &mut good } else { &mut bad }) += 1;
            }
            // Each epoch of six batches and a quarter meets both.
            assert!(good > 0 && bad >= 3, "{good} {bad}");
        }
    }

    #[test]
    fn reads_no_farther_than_it_may_and_stops() {
        let rows = Arc::new(Numbers::default());
        let mut ahead = Ahead::new(loader(&rows), 0, 10, 2);
        ahead.next().unwrap();
        drop(ahead);
        // One was used, two waited, one was being read, and one more may have been begun when a place fell free.
        let read = rows.read.load(Ordering::SeqCst);
        assert!((10..=50).contains(&read), "{read} rows were read");
        assert_eq!(Arc::strong_count(&rows), 1, "the thread has ended and let go of the data");
    }
}

//! The sizes of attention, and of the blocks it is computed in.

/// Queries per block, whose scores with a block of keys stay in the first-level cache.
pub(super) const QUERIES: usize = 64;

/// Keys per block.
pub(super) const KEYS: usize = 64;

/// Tasks to aim for.
pub(super) const TASKS: usize = 8;

/// The sizes of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences in the batch.
    pub samples: usize,
    /// Queries per sequence.
    pub queries: usize,
    /// Keys and values per sequence.
    pub keys: usize,
    /// Heads; head h has channels h · head .. (h + 1) · head.
    pub heads: usize,
    /// Channels per head.
    pub head: usize,
}

impl AttentionShape {
    /// Multiplications and additions of the forward pass; the backward pass has 2.5 times as many.
    pub fn operations(&self) -> f64 {
        4.0 * (self.samples * self.heads) as f64 * self.queries as f64 * (self.keys * self.head) as f64
    }

    /// Channels of all heads.
    pub(super) fn width(&self) -> usize {
        self.heads * self.head
    }

    pub(super) fn check(&self, q: &[f32], k: &[f32], v: &[f32], out: &[f32]) {
        assert!(self.queries > 0 && self.keys > 0 && self.width() > 0, "attention over nothing");
        let (queries, keys) = (self.samples * self.queries, self.samples * self.keys);
        assert!(q.len() == queries * self.width() && out.len() == q.len(), "the queries and the output of attention");
        assert!(k.len() == keys * self.width() && v.len() == k.len(), "the keys and values of attention");
    }

    /// Queries per task of a pass over blocks of queries: fewer if there were few tasks otherwise.
    pub(super) fn block(&self) -> usize {
        let blocks = self.samples * self.heads * self.queries.div_ceil(QUERIES);
        if blocks < TASKS { QUERIES / 2 } else { QUERIES }
    }
}

//! The register tile that every product here is made of: a few rows of A times a panel of B, summed in registers.

use crate::vector::{Simd, load, store};

/// An element of A and B.
pub(crate) trait Factor: Copy {
    /// Adds one segment to the sums. Returns them, and where the panel continues.
    ///
    /// # Safety
    /// As [`tile`].
    unsafe fn accumulate<S: Simd, const M: usize, const N: usize>(
        sums: [[S::V; N]; M],
        segment: Segment<Self>,
        step: usize,
        b: *const Self,
        stride: usize,
    ) -> ([[S::V; N]; M], *const Self);
}

/// A stretch of a tile's rows of A: A\[m, k\] = a\[m · row + k · step\] for `count` values of k.
#[derive(Clone, Copy)]
pub(crate) struct Segment<T = f32> {
    pub(crate) a: *const T,
    pub(crate) row: usize,
    pub(crate) count: usize,
}

/// What happens to the sums of a tile.
pub(crate) trait Finish {
    /// Takes vector n of row m of the tile.
    ///
    /// # Safety
    /// The tile lies within what the implementation writes to.
    unsafe fn put<S: Simd>(&self, m: usize, n: usize, sum: S::V);
    /// The initial value of that sum.
    ///
    /// # Safety
    /// As [`put`](Self::put).
    #[inline(always)]
    unsafe fn start<S: Simd>(&self, _m: usize, _n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::splat(0.0) }
    }
}

/// Rows of B, `stride` elements apart, which continue from one segment to the next.
#[derive(Clone, Copy)]
pub(crate) struct Panel<T = f32> {
    pub(crate) b: *const T,
    pub(crate) stride: usize,
}

/// A matrix in scratch with rows of whole vectors, which is written or added to.
pub(crate) struct Plain {
    pub(crate) to: *mut f32,
    pub(crate) row: usize,
    pub(crate) add: bool,
}

impl Finish for Plain {
    #[inline(always)]
    unsafe fn start<S: Simd>(&self, m: usize, n: usize) -> S::V {
        // SAFETY: the tile lies within the matrix.
        unsafe { if self.add { S::load(self.to.add(m * self.row + n * S::LANES)) } else { S::splat(0.0) } }
    }
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, m: usize, n: usize, sum: S::V) {
        // SAFETY: the tile lies within the matrix.
        unsafe { S::store(self.to.add(m * self.row + n * S::LANES), sum) }
    }
}

/// Rows of a matrix in memory, of any width.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) to: *mut f32,
    /// Numbers between rows.
    pub(crate) row: usize,
    pub(crate) columns: usize,
    pub(crate) before: Before,
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Before {
    Nothing,
    /// The previous value.
    Sum,
    /// The previous value, times a factor per row.
    Scaled(*const f32),
}

impl Finish for Rows {
    #[inline(always)]
    unsafe fn start<S: Simd>(&self, m: usize, n: usize) -> S::V {
        let column = n * S::LANES;
        // SAFETY: the row is in the matrix, as are its first `columns` columns, and it has a factor.
        unsafe {
            if column >= self.columns {
                return S::splat(0.0);
            }
            let (from, count) = (self.to.add(m * self.row + column), self.columns - column);
            match self.before {
                Before::Nothing => S::splat(0.0),
                Before::Sum => load::<S>(from, count),
                Before::Scaled(factors) => S::mul(load::<S>(from, count), S::splat(*factors.add(m))),
            }
        }
    }
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, m: usize, n: usize, sum: S::V) {
        let column = n * S::LANES;
        if column < self.columns {
            // SAFETY: as in `start`.
            unsafe { store::<S>(self.to.add(m * self.row + column), sum, self.columns - column) };
        }
    }
}

impl Factor for f32 {
    #[inline(always)]
    unsafe fn accumulate<S: Simd, const M: usize, const N: usize>(
        mut sums: [[S::V; N]; M],
        segment: Segment,
        step: usize,
        mut b: *const f32,
        stride: usize,
    ) -> ([[S::V; N]; M], *const f32) {
        // SAFETY: the caller of `tile` promises that the segments and the panel are in bounds.
        unsafe {
            let rows: [*const f32; M] = std::array::from_fn(|m| segment.a.add(m * segment.row));
            let mut at = 0;
            for _ in 0..segment.count {
                let columns: [S::V; N] = std::array::from_fn(|n| S::load(b.add(n * S::LANES)));
                for (row, a) in sums.iter_mut().zip(rows) {
                    let factor = S::splat(*a.add(at));
                    for (sum, column) in row.iter_mut().zip(columns) {
                        *sum = S::fma(factor, column, *sum);
                    }
                }
                at += step;
                b = b.add(stride);
            }
        }
        (sums, b)
    }
}

#[inline(always)]
unsafe fn fixed<S: Simd, const M: usize, const N: usize, T: Factor>(
    segments: &[Segment<T>],
    step: usize,
    panel: Panel<T>,
    finish: &impl Finish,
) {
    // SAFETY: the caller of `tile` promises that the segments, the panel and the target are in bounds.
    unsafe {
        let mut sums = [[S::splat(0.0); N]; M];
        for (m, row) in sums.iter_mut().enumerate() {
            for (n, sum) in row.iter_mut().enumerate() {
                *sum = finish.start::<S>(m, n);
            }
        }
        let mut b = panel.b;
        for segment in segments {
            (sums, b) = T::accumulate::<S, M, N>(sums, *segment, step, b, panel.stride);
        }
        for (m, row) in sums.iter().enumerate() {
            for (n, sum) in row.iter().enumerate() {
                finish.put::<S>(m, n, *sum);
            }
        }
    }
}

/// The products of `rows` ≤ `S::ROWS` rows and N vectors of columns.
///
/// # Safety
/// Every row of every segment can be read, as can as many rows of the panel, N vectors wide; the target has room for the
/// tile.
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd, const N: usize, T: Factor>(
    rows: usize,
    segments: &[Segment<T>],
    step: usize,
    panel: Panel<T>,
    finish: &impl Finish,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows.min(S::ROWS) {
            1 => fixed::<S, 1, N, T>(segments, step, panel, finish),
            2 => fixed::<S, 2, N, T>(segments, step, panel, finish),
            3 => fixed::<S, 3, N, T>(segments, step, panel, finish),
            4 => fixed::<S, 4, N, T>(segments, step, panel, finish),
            5 => fixed::<S, 5, N, T>(segments, step, panel, finish),
            6 => fixed::<S, 6, N, T>(segments, step, panel, finish),
            7 => fixed::<S, 7, N, T>(segments, step, panel, finish),
            8 => fixed::<S, 8, N, T>(segments, step, panel, finish),
            9 => fixed::<S, 9, N, T>(segments, step, panel, finish),
            10 => fixed::<S, 10, N, T>(segments, step, panel, finish),
            11 => fixed::<S, 11, N, T>(segments, step, panel, finish),
            12 => fixed::<S, 12, N, T>(segments, step, panel, finish),
            _ => {}
        }
    }
}

/// Cuts `count` rows into the fewest tiles of at most `most` rows, as equal as possible: the first row of each, and its
/// number of rows.
#[inline(always)]
pub(crate) fn cut(count: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let pieces = count.div_ceil(most);
    (0..pieces).map(move |i| {
        let from = i * count / pieces;
        (from, (i + 1) * count / pieces - from)
    })
}

/// The width of a panel of B with that many columns: that of the register tile, or one vector if that is enough.
pub(crate) fn panel_width<S: Simd>(columns: usize) -> usize {
    if columns <= S::LANES { S::LANES } else { S::VECTORS * S::LANES }
}

/// Calls `$f::<$S, N>(…)`, where N is the number of vectors in a panel of that width.
macro_rules! with_vectors {
    ($S:ident, $width:expr, $f:ident($($argument:expr),* $(,)?)) => {
        match $width / $S::LANES {
            1 => $f::<$S, 1>($($argument),*),
            2 => $f::<$S, 2>($($argument),*),
            _ => $f::<$S, 4>($($argument),*),
        }
    };
}
pub(crate) use with_vectors;

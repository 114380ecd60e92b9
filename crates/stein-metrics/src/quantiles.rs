//! Optimal transport on a line: the quantile functions of both sides are matched,
//!
//! ```text
//! W_p^p = ∫₀¹ |F⁻¹(q) − G⁻¹(q)|^p dq
//! ```
//!
//! (Villani 2003, theorem 2.18), exactly for any two numbers of points: both quantile functions are steps.

/// Sorts numbers.
pub(crate) fn sort(values: &mut [f64]) {
    values.sort_unstable_by(f64::total_cmp);
}

/// W_p^p between sorted points of equal weights.
pub(crate) fn distance_to_the_power(one: &[f64], other: &[f64], p: u32) -> f64 {
    let cost = |a: f64, b: f64| if p == 1 { (a - b).abs() } else { (a - b).powi(2) };
    if one.len() == other.len() {
        return one.iter().zip(other).map(|(&a, &b)| cost(a, b)).sum::<f64>() / one.len() as f64;
    }
    // In units of 1/(n m), a point of the first side has weight m and one of the second n.
    let (n, m) = (one.len() as u64, other.len() as u64);
    let (mut i, mut j, mut at, mut sum) = (0, 0, 0, 0.0);
    while i < one.len() && j < other.len() {
        let (end_i, end_j) = ((i as u64 + 1) * m, (j as u64 + 1) * n);
        let end = end_i.min(end_j);
        sum += (end - at) as f64 * cost(one[i], other[j]);
        i += usize::from(end == end_i);
        j += usize::from(end == end_j);
        at = end;
    }
    sum / (n as f64 * m as f64)
}

//! Clusters of rows: k-means by Lloyd's iterations from k-means++ starts (Arthur & Vassilvitskii 2007).

use stein_base::{Key, Result, random};

use crate::{Neighbor, Neighbors, Rows, measured::mean, subsets::PURPOSE};

/// The centers `[count, dim]` of the best of ten starts.
///
/// # Errors
/// Values that overflow.
pub(crate) fn centers(rows: &Rows, count: usize, seed: u64) -> Result<Rows> {
    const STARTS: u64 = 10;
    let mut best: Option<(f64, Rows)> = None;
    for start in 0..STARTS {
        let (cost, centers) = settled(rows, first_centers(rows, count, seed, start))?;
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, centers));
        }
    }
    Ok(best.expect("there is at least one start").1)
}

/// The number of the nearest center of each row.
pub(crate) fn nearest(centers: &Rows, rows: &Rows) -> Vec<Neighbor> {
    Neighbors::among(centers).of(rows, 1).into_iter().map(|near| near[0]).collect()
}

/// Rows, each drawn by its squared distance to those already drawn.
fn first_centers(rows: &Rows, count: usize, seed: u64, start: u64) -> Rows {
    let mut generator = Key::new(seed, PURPOSE).at(start).step(2 << 32).generator();
    let mut places = vec![random::below(&mut generator, rows.len())];
    while places.len() < count {
        let squared: Vec<f64> =
            nearest(&rows.select(places.iter().copied()), rows).iter().map(|near| near.squared).collect();
        let mut left = random::uniform(&mut generator) * squared.iter().sum::<f64>();
        let drawn = squared.iter().position(|squared| {
            left -= squared;
            left < 0.0
        });
        places.push(drawn.unwrap_or(rows.len() - 1));
    }
    rows.select(places)
}

/// Centers that are the means of their rows, with the mean squared distance to them.
fn settled(rows: &Rows, mut centers: Rows) -> Result<(f64, Rows)> {
    const MOST: usize = 300;
    let mut before: Vec<usize> = Vec::new();
    for _ in 0..MOST {
        let near = nearest(&centers, rows);
        let places: Vec<usize> = near.iter().map(|near| near.place).collect();
        if places == before {
            break;
        }
        let of = |center: usize| (0..rows.len()).filter(|&row| places[row] == center).collect::<Vec<_>>();
        let means: Vec<f64> = (0..centers.len())
            .flat_map(|center| match of(center) {
                // A center that nothing is near stays where it is.
                none if none.is_empty() => centers.block(center..center + 1),
                own => rows.select(own).mean(),
            })
            .collect();
        centers = Rows::of(rows.dim(), &means)?;
        before = places;
    }
    let squared: Vec<f64> = nearest(&centers, rows).iter().map(|near| near.squared).collect();
    Ok((mean(&squared), centers))
}

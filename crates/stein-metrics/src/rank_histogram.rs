//! Rank histogram (Talagrand et al. 1997; Hamill 2001): the rank of each observation among its m members, from 0, below all, to m.
//!
//! Where observations and members are draws of one law all m + 1 ranks are equally likely. The value is χ²/m of the counts, 1 in
//! that case and more the less even they are; the parts are the shares of the ranks: U-shaped where members are too alike,
//! a hump where they are too varied, a slope where they are biased. Where members equal the observation, it is spread evenly
//! over the ranks it may have. Numbers of one observation are counted one by one.
//!
//! The error √(2/m) is the standard deviation of the value where the law is right.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result};

use crate::{Better, Measured, Metric, Needs, Running, Sides, ensembles};

/// How evenly observations rank among their members.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct RankHistogram {}

impl Metric for RankHistogram {
    fn needs(&self) -> Needs {
        ensembles::NEEDS
    }

    fn better(&self) -> Better {
        Better::Near(1.0)
    }

    fn start(&self, _dim: usize) -> Result<Running> {
        Ok(Running::whole(|sides| Ok(of(sides))))
    }
}

fn of(sides: &Sides) -> Measured {
    let m = sides.samples.len() / sides.reference.len();
    let ranks = ensembles::each(sides, |observation, members| -> Vec<(usize, usize)> {
        ensembles::coordinates(observation, members).map(|(observed, members)| ranks(observed, &members)).collect()
    });
    let mut counts = vec![0.0; m + 1];
    let mut total = 0.0;
    for (lowest, highest) in ranks.into_iter().flatten() {
        let places = &mut counts[lowest..=highest];
        let share = 1.0 / places.len() as f64;
        places.iter_mut().for_each(|count| *count += share);
        total += 1.0;
    }
    let expected = total / (m + 1) as f64;
    let squares: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
    let measured = Measured::new(squares / m as f64, Some((2.0 / m as f64).sqrt())).noted_if(expected < 5.0, || {
        format!("{total} observed numbers are few for {} ranks: give at least five for each", m + 1)
    });
    let numbered = counts.into_iter().enumerate();
    numbered.fold(measured, |measured, (rank, count)| measured.with_part(format!("rank {rank}"), count / total))
}

/// The lowest and the highest rank an observation may have: how many members are below it, and how many are not above it.
pub fn ranks(observation: f64, members: &[f64]) -> (usize, usize) {
    let count = |holds: fn(f64, f64) -> bool| members.iter().filter(|&&member| holds(member, observation)).count();
    (count(|member, observed| member < observed), count(|member, observed| member <= observed))
}

//! The walk through a U-Net (Ronneberger et al., arXiv:1505.04597), which all of them here share.
//!
//! - Down: on every level `blocks` units, and between levels a change to half the size. Each of these leaves its output
//!   behind, and so does the start.
//! - Middle: two units.
//! - Up: on every level, the lowest first, `blocks` + 1 units, each given the latest output that is still left besides its
//!   own input, and between levels a change to twice the size.
//!
//! It is written once for whatever goes along: numbers of channels while a network is built, images while it runs. What
//! stands at each step is the network's own affair.

use std::{fmt, iter};

use stein::Result;

/// How far a walk goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    /// The number of levels, one more than of halvings.
    pub(super) levels: usize,
    /// The units per level on the way down.
    pub(super) blocks: usize,
}

/// A step of a walk. Levels are counted from the largest images, stages of the way up from the smallest.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    /// A unit on the way down.
    Down { level: usize, unit: usize },
    /// From a level to the next.
    Halve { level: usize },
    /// A unit in the middle.
    Middle { unit: usize },
    /// A unit on the way up, of two parts: its own input and what was left.
    Up { stage: usize, level: usize, unit: usize },
    /// From a level to the one before. Besides its input it is shown what the result will be joined to.
    Double { stage: usize },
}

impl At {
    /// The level of the images that the step gives.
    pub(super) fn level(self, walk: Walk) -> usize {
        match self {
            Self::Down { level, .. } | Self::Up { level, .. } => level,
            Self::Halve { level } => level + 1,
            Self::Middle { .. } => walk.halvings(),
            Self::Double { stage } => walk.halvings() - stage - 1,
        }
    }
}

/// The path of what stands there, in a network of stages with `units` and a `change`.
impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Down { level, unit } => write!(f, "down.{level}.units.{unit}"),
            Self::Halve { level } => write!(f, "down.{level}.change"),
            Self::Middle { unit } => write!(f, "middle.{unit}"),
            Self::Up { stage, unit, .. } => write!(f, "up.{stage}.units.{unit}"),
            Self::Double { stage } => write!(f, "up.{stage}.change"),
        }
    }
}

impl Walk {
    /// The number of halvings.
    pub(super) fn halvings(self) -> usize {
        self.levels - 1
    }

    /// An empty stage per level, to be filled on a walk.
    pub(super) fn stages<S: Default>(self) -> Vec<S> {
        (0..self.levels).map(|_| S::default()).collect()
    }

    /// The whole walk from `start`: what the last step gives.
    pub(super) fn all<T: Clone>(self, start: T, mut step: impl FnMut(At, Vec<T>) -> Result<T>) -> Result<T> {
        let mut left = vec![start.clone()];
        let h = self.down(start, |h| left.push(h.clone()), &mut step)?;
        let h = middle(h, &mut step)?;
        self.up(h, left, step)
    }

    /// The way down, with what every step leaves.
    pub(super) fn down<T>(
        self,
        start: T,
        mut leave: impl FnMut(&T),
        mut step: impl FnMut(At, Vec<T>) -> Result<T>,
    ) -> Result<T> {
        let mut h = start;
        for level in 0..self.levels {
            let units = (0..self.blocks).map(|unit| At::Down { level, unit });
            for at in units.chain((level + 1 < self.levels).then_some(At::Halve { level })) {
                h = step(at, vec![h])?;
                leave(&h);
            }
        }
        Ok(h)
    }

    /// The way up, which takes what was left from its end; of a decoder, nothing.
    pub(super) fn up<T: Clone>(
        self,
        start: T,
        mut left: Vec<T>,
        mut step: impl FnMut(At, Vec<T>) -> Result<T>,
    ) -> Result<T> {
        let mut h = start;
        for (stage, level) in (0..self.levels).rev().enumerate() {
            for unit in 0..=self.blocks {
                h = step(At::Up { stage, level, unit }, iter::once(h).chain(left.pop()).collect())?;
            }
            if level > 0 {
                h = step(At::Double { stage }, iter::once(h).chain(left.last().cloned()).collect())?;
            }
        }
        Ok(h)
    }
}

/// The middle of a walk.
pub(super) fn middle<T>(start: T, mut step: impl FnMut(At, Vec<T>) -> Result<T>) -> Result<T> {
    let h = step(At::Middle { unit: 0 }, vec![start])?;
    step(At::Middle { unit: 1 }, vec![h])
}

//! Pairs of pictures: a sample and the picture it should be, scored one by one as they come.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stein_base::{Explain, Result, ensure};

use crate::{Batch, Content, Measured, Needs, Pairing, Rows, Side, Streaming, Wanted};

/// Pictures with the ones they should be.
pub(crate) const NEEDS: Needs =
    Needs { reference: true, held_out: Wanted::No, labels: false, pairs: Pairing::Rows, content: Content::Picture };

/// In which order a picture's numbers stand in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// One plane after the other, `[channels, height, width]`.
    #[default]
    ChannelsFirst,
    /// One pixel after the other, `[height, width, channels]`.
    ChannelsLast,
}

/// The size of pictures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Size {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub layout: Layout,
}

impl Size {
    /// The size for rows of `dim` numbers: as given, `[channels, height, width]`, or square and gray or RGB if nothing is.
    pub fn of(dim: usize, given: &[usize], layout: Layout) -> Result<Self> {
        let square = |channels: usize| {
            let side = (dim / channels).isqrt();
            (side * side * channels == dim).then_some([channels, side, side])
        };
        let shape = match given {
            [] => square(1).or_else(|| square(3)).map(Vec::from),
            given => Some(given.to_vec()),
        };
        match shape.as_deref() {
            Some(&[channels, height, width]) if channels * height * width == dim => {
                Ok(Self { channels, height, width, layout })
            }
            _ => {
                ensure!(
                    Kind::Mismatch,
                    false,
                    "rows of {dim} values are no pictures of the shape {given:?}: set `shape` to [channels, height, width]"
                );
                unreachable!("the condition never holds")
            }
        }
    }

    /// The planes of a picture, one after the other.
    pub fn planes(&self, row: Vec<f64>) -> Vec<f64> {
        match self.layout {
            Layout::ChannelsFirst => row,
            Layout::ChannelsLast => {
                (0..self.channels).flat_map(|c| row[c..].iter().step_by(self.channels).copied()).collect()
            }
        }
    }
}

/// The score of two rows.
pub(crate) type Score = dyn Fn(Vec<f64>, Vec<f64>) -> f64 + Send + Sync;

/// Pairs that are scored as soon as both rows came; the number is the mean, its error s/√n over pairs.
pub(crate) struct Pairs {
    score: Box<Score>,
    /// Rows of the reference and samples from the first that was not scored yet.
    waiting: [Rows; 2],
    scored: usize,
    scores: Vec<f64>,
}

impl Pairs {
    pub fn new(dim: usize, score: Box<Score>) -> Self {
        Self { score, waiting: [Rows::new(dim), Rows::new(dim)], scored: 0, scores: Vec::new() }
    }
}

impl Streaming for Pairs {
    fn update(&mut self, side: Side, batch: &Batch) -> Result<()> {
        match side {
            Side::Reference => self.waiting[0].push(batch),
            Side::Samples => self.waiting[1].push(batch),
            Side::HeldOut => return Ok(()),
        }
        let [reference, samples] = &self.waiting;
        let ready = reference.len().min(samples.len());
        let score = |row: usize| (self.score)(reference.block(row..row + 1), samples.block(row..row + 1));
        let scores: Vec<f64> = (self.scored..ready).into_par_iter().map(score).collect();
        self.scores.extend(scores);
        self.scored = ready;
        // What is scored is let go of once all is, or half of a side is, so that each row is moved at most a few times.
        if ready > 0 && 2 * ready >= reference.len().max(samples.len()) {
            self.waiting = [0, 1].map(|side| self.waiting[side].select(ready..self.waiting[side].len()));
            self.scored = 0;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Measured> {
        Ok(Measured::mean_of(&self.scores))
    }
}

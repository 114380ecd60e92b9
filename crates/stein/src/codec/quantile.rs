//! Every column to a standard normal by its quantiles: y = Φ⁻¹(F(x)) with the empirical distribution F, piecewise linear between
//! knots; ln |det| = Σ ln slope.
//!
//! A value that occurs `count` times among n, with `below` smaller ones, stands at F = (below + count/2)/n, so that ties share the
//! middle of their part. Of the different values at most `knots` are kept, at equal steps of y. Beyond the ends the first and the last
//! piece go on, so that a value the sample did not have has a state and a density; decoding keeps to the range of the sample. A
//! constant column is only centered.

use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{AnyCodec, Codec, DataSample, FitCodec, check_width};
use crate::{Error, Keys, Result, ensure, numbers::ensure_within, rows};

/// Every column to a standard normal by its quantiles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Quantile {
    /// Most knots per column, from 2 to 1,048,576; default 1000.
    pub knots: usize,
}

impl Default for Quantile {
    fn default() -> Self {
        Self { knots: 1000 }
    }
}

impl FitCodec for Quantile {
    fn fit(&self, sample: &DataSample) -> Result<AnyCodec> {
        ensure_within("codec quantile: knots", self.knots, 2..=1 << 20)?;
        sample.check()?;
        let columns = (0..sample.dim).map(|column| knots(sample.column(column).collect(), self.knots));
        Ok(Quantiles { columns: columns.collect() }.into())
    }
}

/// The knots of one column.
fn knots(mut values: Vec<f64>, most: usize) -> Knots {
    values.sort_unstable_by(f64::total_cmp);
    let count = values.len() as f64;
    let mut below = 0;
    let all: Vec<(f64, f64)> = values
        .chunk_by(|a, b| a == b)
        .map(|ties| {
            let place = (below as f64 + 0.5 * ties.len() as f64) / count;
            below += ties.len();
            (ties[0], normal_quantile(place))
        })
        .collect();
    let (first, last) = (all[0].1, all[all.len() - 1].1);
    let mut kept: Vec<usize> = (0..most)
        .map(|k| first + (last - first) * k as f64 / (most - 1) as f64)
        .map(|normal| all.partition_point(|knot| knot.1 < normal).min(all.len() - 1))
        .collect();
    kept[most - 1] = all.len() - 1;
    kept.dedup();
    let (data, normal) = kept.into_iter().map(|place| all[place]).unzip();
    Knots { data, normal }
}

/// A rising broken line, from data to a standard normal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
struct Knots {
    data: Vec<f64>,
    normal: Vec<f64>,
}

/// [`Quantile`], fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(try_from = "Columns", into = "Columns")]
pub struct Quantiles {
    columns: Vec<Knots>,
}

#[derive(Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
struct Columns {
    columns: Vec<Knots>,
}

impl TryFrom<Columns> for Quantiles {
    type Error = Error;

    fn try_from(Columns { columns }: Columns) -> Result<Self> {
        ensure!(!columns.is_empty(), "codec quantile: it needs the knots of at least one column");
        let rises = |values: &[f64]| {
            values.windows(2).all(|pair| pair[0] < pair[1]) && values.iter().all(|value| value.is_finite())
        };
        for (column, Knots { data, normal }) in columns.iter().enumerate() {
            ensure!(
                !data.is_empty() && data.len() == normal.len() && rises(data) && rises(normal),
                "codec quantile: the knots of column {column} must be finite and rise, with a normal value for each"
            );
        }
        Ok(Self { columns })
    }
}

impl From<Quantiles> for Columns {
    fn from(Quantiles { columns }: Quantiles) -> Self {
        Self { columns }
    }
}

/// One column that is a standard normal already.
impl Default for Quantiles {
    fn default() -> Self {
        Self { columns: vec![Knots { data: vec![-1.0, 1.0], normal: vec![-1.0, 1.0] }] }
    }
}

/// Which way a broken line is followed.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Encode,
    Decode,
}

/// Pieces of all columns in one table, a power of two per column.
struct Pieces {
    size: usize,
    dim: usize,
    /// Which piece of the table each number lies on, `[rows · dim]`.
    place: Tensor<1, Int>,
}

impl Quantiles {
    /// A number of every piece, in a table of `size` pieces per column; `fill` where a column has fewer.
    fn table(&self, size: usize, fill: f64, f: impl Fn(&Knots, usize) -> f64) -> Vec<f64> {
        let piece = |knots: &Knots, k: usize| if k < knots.data.len().max(2) - 1 { f(knots, k) } else { fill };
        self.columns.iter().flat_map(|knots| (0..size).map(|k| piece(knots, k)).collect::<Vec<_>>()).collect()
    }

    /// The pieces that numbers lie on, by bisection of all at once.
    fn pieces(&self, x: &Tensor<2>, way: Way) -> Result<Pieces> {
        let [count, dim] = x.dims();
        check_width("quantile", self.columns.len(), dim)?;
        let most = self.columns.iter().map(|knots| knots.data.len()).max().unwrap_or(1);
        let size = (most.max(2) - 1).next_power_of_two();
        // No number is beyond a piece that is not there.
        let starts = self.table(
            size,
            f64::INFINITY,
            |knots, k| {
                if way == Way::Encode { knots.data[k] } else { knots.normal[k] }
            },
        );
        let starts = rows::vector(starts, x);
        let firsts: Vec<i64> = (0..count).flat_map(|_| (0..dim).map(|column| (column * size) as i64)).collect();
        let mut place = Tensor::<1, Int>::from_data(TensorData::new(firsts, [count * dim]), &x.device());
        let flat = x.clone().reshape([count * dim]);
        let mut step = size / 2;
        while step > 0 {
            let further = place.clone().add_scalar(step as i64);
            let beyond = flat.clone().greater_equal(starts.clone().select(0, further.clone()));
            place = place.mask_where(beyond, further);
            step /= 2;
        }
        Ok(Pieces { size, dim, place })
    }

    /// A number of the piece that each of the numbers lies on, `[rows, dim]`.
    fn picked(&self, x: &Tensor<2>, pieces: &Pieces, f: impl Fn(&Knots, usize) -> f64) -> Tensor<2> {
        let table = rows::vector(self.table(pieces.size, 0.0, f), x);
        table.select(0, pieces.place.clone()).reshape([x.dims()[0], pieces.dim])
    }
}

impl Knots {
    /// dy/dx on a piece; 1 on the only one of a constant column.
    fn slope(&self, k: usize) -> f64 {
        if self.data.len() == 1 {
            return 1.0;
        }
        (self.normal[k + 1] - self.normal[k]) / (self.data[k + 1] - self.data[k])
    }
}

impl Codec for Quantiles {
    fn state(&self, data: &[usize]) -> Result<Vec<usize>> {
        check_width("quantile", self.columns.len(), data.iter().product())?;
        Ok(data.to_vec())
    }

    fn encode(&self, x: Tensor<2>, _: &Keys) -> Result<Tensor<2>> {
        let pieces = self.pieces(&x, Way::Encode)?;
        let picked = |f: fn(&Knots, usize) -> f64| self.picked(&x, &pieces, f);
        let along = x.clone() - picked(|knots, k| knots.data[k]);
        Ok(along * picked(Knots::slope) + picked(|knots, k| knots.normal[k]))
    }

    fn decode(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        let pieces = self.pieces(&x, Way::Decode)?;
        let picked = |f: fn(&Knots, usize) -> f64| self.picked(&x, &pieces, f);
        let along = x.clone() - picked(|knots, k| knots.normal[k]);
        let y = along * picked(|knots, k| 1.0 / knots.slope(k)) + picked(|knots, k| knots.data[k]);
        let end = |f: fn(&Knots) -> f64| rows::matrix(self.columns.iter().map(f).collect(), pieces.dim, &x);
        let shape = y.dims();
        let (low, high) = (end(|knots| knots.data[0]), end(|knots| knots.data[knots.data.len() - 1]));
        Ok(y.max_pair(low.expand(shape)).min_pair(high.expand(shape)))
    }

    fn log_det(&self, x: &Tensor<2>, _: &Keys) -> Result<Option<Vec<f64>>> {
        let pieces = self.pieces(x, Way::Encode)?;
        let slopes = self.picked(x, &pieces, |knots, k| knots.slope(k).ln());
        Ok(Some(rows::host(&slopes.sum_dim(1))))
    }
}

/// Φ⁻¹(p), the quantile of the standard normal at p in (0, 1), to 16 digits (Wichura 1988, "Algorithm AS 241", PPND16).
pub fn normal_quantile(p: f64) -> f64 {
    let ratio = |r: f64, above: [f64; 8], below: [f64; 7]| {
        let above = above.iter().rev().fold(0.0, |sum, a| sum * r + a);
        above / (1.0 + below.iter().rev().fold(0.0, |sum, b| (sum + b) * r))
    };
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        return q * ratio(0.180_625 - q * q, CENTER.0, CENTER.1);
    }
    let r = (-p.min(1.0 - p).ln()).sqrt();
    let size = if r <= 5.0 { ratio(r - 1.6, MIDDLE.0, MIDDLE.1) } else { ratio(r - 5.0, TAIL.0, TAIL.1) };
    size.copysign(q)
}

/// Coefficients above and below the line of a rational function, from the constant on; the constant below is 1.
type Ratio = ([f64; 8], [f64; 7]);

#[rustfmt::skip]
#[allow(clippy::excessive_precision, reason = "as published")]
const CENTER: Ratio = (
    [3.387_132_872_796_366_608, 133.141_667_891_784_377_45, 1_971.590_950_306_551_442_7, 13_731.693_765_509_461_125,
     45_921.953_931_549_871_457, 67_265.770_927_008_700_853, 33_430.575_583_588_128_105, 2_509.080_928_730_122_672_7],
    [42.313_330_701_600_911_252, 687.187_007_492_057_908_3, 5_394.196_021_424_751_107_7, 21_213.794_301_586_595_867,
     39_307.895_800_092_710_61, 28_729.085_735_721_942_674, 5_226.495_278_852_854_561],
);

#[rustfmt::skip]
#[allow(clippy::excessive_precision, reason = "as published")]
const MIDDLE: Ratio = (
    [1.423_437_110_749_683_577_34, 4.630_337_846_156_545_295_9, 5.769_497_221_460_691_405_5, 3.647_848_324_763_204_605_04,
     1.270_458_252_452_368_382_58, 0.241_780_725_177_450_611_77, 0.022_723_844_989_269_184_583_3,
     7.745_450_142_783_414_076_4e-4],
    [2.053_191_626_637_758_821_87, 1.676_384_830_183_803_849_4, 0.689_767_334_985_100_004_55, 0.148_103_976_427_480_074_59,
     0.015_198_666_563_616_457_196_6, 5.475_938_084_995_344_946e-4, 1.050_750_071_644_416_843_24e-9],
);

#[rustfmt::skip]
#[allow(clippy::excessive_precision, reason = "as published")]
const TAIL: Ratio = (
    [6.657_904_643_501_103_777_2, 5.463_784_911_164_114_369_9, 1.784_826_539_917_291_335_8, 0.296_560_571_828_504_891_23,
     0.026_532_189_526_576_123_093, 1.242_660_947_388_078_438_6e-3, 2.711_555_568_743_487_578_15e-5,
     2.010_334_399_292_288_132_65e-7],
    [0.599_832_206_555_887_937_69, 0.136_929_880_922_735_805_31, 0.014_875_361_290_850_614_852_5,
     7.868_691_311_456_132_591e-4, 1.846_318_317_510_054_681_8e-5, 1.421_511_758_316_445_888_7e-7,
     2.044_263_103_389_939_785_64e-15],
);

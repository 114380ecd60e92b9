//! Columns of classes 0, 1, … as indicators: a column of k classes becomes k columns, 1 where the class is and 0 elsewhere. The other
//! columns stay, and keep their order, before the indicators. Decoding takes the largest indicator. It has no determinant.

use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{AnyCodec, Codec, DataSample, FitCodec, check_width};
use crate::{Error, Keys, Result, ensure, rows};

/// Columns of classes as indicators.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct OneHot {
    /// The columns that hold classes, from 0, rising.
    pub columns: Vec<usize>,
}

/// Most classes of a column.
const MOST: usize = 65_536;

impl FitCodec for OneHot {
    fn fit(&self, sample: &DataSample) -> Result<AnyCodec> {
        sample.check()?;
        ensure!(
            self.columns.windows(2).all(|pair| pair[0] < pair[1])
                && self.columns.last().is_none_or(|&last| last < sample.dim),
            "codec one_hot: columns = {:?} must rise and lie below the {} of the data",
            self.columns,
            sample.dim
        );
        let classes = self.columns.iter().map(|&column| {
            let largest = sample.column(column).try_fold(0.0, |largest: f64, class| {
                ensure!(
                    class >= 0.0 && class.fract() == 0.0 && class < MOST as f64,
                    "codec one_hot: column {column} has the value {class}, and classes are 0, 1, 2, …"
                );
                Ok(largest.max(class))
            })?;
            Ok(largest as usize + 1)
        });
        OneHots::new(sample.dim, self.columns.clone(), classes.collect::<Result<_>>()?).map(Into::into)
    }
}

/// [`OneHot`], fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(try_from = "Columns", into = "Columns")]
pub struct OneHots {
    dim: usize,
    columns: Vec<usize>,
    classes: Vec<usize>,
}

#[derive(Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
struct Columns {
    dim: usize,
    columns: Vec<usize>,
    classes: Vec<usize>,
}

impl TryFrom<Columns> for OneHots {
    type Error = Error;

    fn try_from(Columns { dim, columns, classes }: Columns) -> Result<Self> {
        Self::new(dim, columns, classes)
    }
}

impl From<OneHots> for Columns {
    fn from(OneHots { dim, columns, classes }: OneHots) -> Self {
        Self { dim, columns, classes }
    }
}

/// One column of two classes.
impl Default for OneHots {
    fn default() -> Self {
        Self { dim: 1, columns: vec![0], classes: vec![2] }
    }
}

impl OneHots {
    fn new(dim: usize, columns: Vec<usize>, classes: Vec<usize>) -> Result<Self> {
        ensure!(
            columns.len() == classes.len()
                && columns.windows(2).all(|pair| pair[0] < pair[1])
                && columns.last().is_none_or(|&last| last < dim)
                && dim > 0
                && classes.iter().all(|count| (1..=MOST).contains(count)),
            "codec one_hot: it needs rising columns below {dim} and a number of classes for each, from 1 to {MOST}"
        );
        Ok(Self { dim, columns, classes })
    }

    /// The columns that hold no classes.
    fn others(&self) -> Vec<usize> {
        (0..self.dim).filter(|column| !self.columns.contains(column)).collect()
    }

    /// Numbers in a state.
    fn width(&self) -> usize {
        (self.dim - self.columns.len()).saturating_add(self.classes.iter().sum())
    }
}

/// Some columns of a batch, in the order given.
fn columns(x: &Tensor<2>, which: &[usize]) -> Tensor<2> {
    let index: Vec<i64> = which.iter().map(|&column| column as i64).collect();
    x.clone().select(1, Tensor::<1, Int>::from_data(TensorData::new(index, [which.len()]), &x.device()))
}

impl Codec for OneHots {
    fn state(&self, data: &[usize]) -> Result<Vec<usize>> {
        ensure!(data.len() == 1, "codec one_hot: it is for rows of columns, not for data of shape {data:?}");
        check_width("one_hot", self.dim, data[0])?;
        Ok(vec![self.width()])
    }

    fn encode(&self, x: Tensor<2>, _: &Keys) -> Result<Tensor<2>> {
        check_width("one_hot", self.dim, x.dims()[1])?;
        let others = self.others();
        let mut parts: Vec<Tensor<2>> = Vec::new();
        if !others.is_empty() {
            parts.push(columns(&x, &others));
        }
        for (&column, &classes) in self.columns.iter().zip(&self.classes) {
            let class = x.clone().narrow(1, column, 1);
            let known = rows::matrix((0..classes).map(|class| class as f64).collect(), classes, &x);
            let apart = class.expand([x.dims()[0], classes]) - known;
            let hot = apart.zeros_like().mask_fill(apart.clone().equal_elem(0.0), 1.0);
            let found = rows::host(&hot.clone().sum_dim(1));
            if let Some(row) = found.iter().position(|found| *found != 1.0) {
                return Err(Error::new(format!(
                    "codec one_hot: column {column} of row {row} of the batch is none of the classes 0 to {}",
                    classes - 1
                )));
            }
            parts.push(hot);
        }
        Ok(Tensor::cat(parts, 1))
    }

    fn decode(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        check_width("one_hot", self.width(), x.dims()[1])?;
        let others = self.others();
        let mut first = others.len();
        // Every column in the order of the data.
        let (mut next, mut classes) = (0, self.classes.iter());
        let parts = (0..self.dim).map(|column| {
            if others.get(next) == Some(&column) {
                next += 1;
                return x.clone().narrow(1, next - 1, 1);
            }
            let count = *classes.next().expect("a column holds classes or not");
            first += count;
            let largest = x.clone().narrow(1, first - count, count).argmax(1);
            largest.float().cast(x.dtype())
        });
        Ok(Tensor::cat(parts.collect(), 1))
    }

    fn log_det(&self, _: &Tensor<2>, _: &Keys) -> Result<Option<Vec<f64>>> {
        Ok(None)
    }
}

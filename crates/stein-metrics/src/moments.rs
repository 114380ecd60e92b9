//! Mean and covariance of rows: what the Fréchet distance needs to know of a side.
//!
//! Rows are taken as they come. Blocks of a fixed size add Σ (x − s)(x − s)ᵀ, s the mean of the first block, so that neither a mean
//! that is far from zero nor the size of the batches changes the result. The covariance has the denominator N − 1.
//! Of as many rows as dimensions or fewer the covariance is singular; then the centered rows themselves, over √(N − 1),
//! are kept as its factor, which is smaller and exact.
//!
//! Files are numpy's `.npz` as pytorch-fid writes and reads them: `mu` `[dim]` and `sigma` `[dim, dim]` in double precision,
//! and beside them `about.json` with what such files do not say: the number of rows, the extractor of the features, and
//! the fingerprint of the rows.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use faer::{Mat, MatRef};
use npyz::WriterBuilder;
use serde::{Deserialize, Serialize};
use stein_base::{Error, Kind, Result, ensure, files, memory};

use crate::{Fingerprint, Values, matrix};

/// Rows of a block: at least as many as there are dimensions, so that few rows are still at hand at the end.
const BLOCK: usize = 256;

/// Mean and covariance of rows, with where they are from.
#[derive(Debug, Clone)]
pub struct Moments {
    /// How many rows there were; `None` in a file that does not say so.
    pub rows: Option<usize>,
    /// What made the rows out of data, such as the name of a network; empty if nobody said so.
    pub extractor: String,
    /// The fingerprint of the rows; of a file that does not say so that of the moments.
    pub fingerprint: String,
    mean: Vec<f64>,
    spread: Spread,
}

/// A covariance.
#[derive(Debug, Clone)]
enum Spread {
    /// All of it.
    Full(Mat<f64>),
    /// F `[rows, dim]` with Σ = Fᵀ F: the centered rows over √(N − 1).
    Factor(Mat<f64>),
}

impl Moments {
    /// The moments of rows of `dim` numbers.
    ///
    /// # Errors
    /// Fewer than two rows, values that are not finite.
    pub fn of<'a>(dim: usize, batch: impl Into<crate::Batch<'a>>) -> Result<Self> {
        let (batch, mut accumulator) = (batch.into(), Accumulator::new(dim)?);
        batch.check(dim, 0)?;
        accumulator.update(batch.values);
        accumulator.finish()
    }

    /// Those of a known mean `[dim]` and covariance `[dim, dim]`.
    ///
    /// # Errors
    /// Sizes that do not belong together, a covariance that is not symmetric, values that are not finite.
    pub fn known(mean: Vec<f64>, covariance: &[f64]) -> Result<Self> {
        let dim = mean.len();
        ensure!(
            Kind::Mismatch,
            dim > 0 && covariance.len() == dim * dim,
            "a mean of {dim} values and a covariance of {} do not belong together: give {dim} times {dim}",
            covariance.len()
        );
        let finite = mean.iter().chain(covariance).all(|value| value.is_finite());
        ensure!(Kind::NotFinite, finite, "a mean or covariance has values that are not finite numbers");
        let covariance = Mat::from_fn(dim, dim, |i, j| covariance[i * dim + j]);
        let largest = (0..dim).map(|i| covariance[(i, i)]).fold(0.0, f64::max);
        let odd = |i: usize, j: usize| (covariance[(i, j)] - covariance[(j, i)]).abs() > 1e-6 * largest;
        ensure!(!(0..dim).any(|i| (0..i).any(|j| odd(i, j))), "a covariance is not symmetric: give one that is");
        let mut moments = Self {
            rows: None,
            extractor: String::new(),
            fingerprint: String::new(),
            mean,
            spread: Spread::Full(covariance),
        };
        let mut hash = Fingerprint::new(dim);
        hash.update(Values::F64(&moments.mean));
        hash.update(Values::F64(&moments.covariance()));
        moments.fingerprint = hash.text();
        Ok(moments)
    }

    /// Numbers in a row.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// The mean row.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The covariance `[dim, dim]`.
    pub fn covariance(&self) -> Vec<f64> {
        let dim = self.dim();
        let full = match &self.spread {
            Spread::Full(full) => full.clone(),
            Spread::Factor(factor) => matrix::product(factor.transpose(), factor.as_ref()),
        };
        (0..dim * dim).map(|i| full[(i / dim, i % dim)]).collect()
    }

    /// tr Σ.
    pub(crate) fn trace(&self) -> f64 {
        match &self.spread {
            Spread::Full(full) => (0..self.dim()).map(|i| full[(i, i)]).sum(),
            Spread::Factor(factor) => factor.col_iter().map(|column| column.squared_norm_l2()).sum(),
        }
    }

    /// tr (Σ₁ Σ₂)^½, which is the sum of the singular values of F₁ F₂ᵀ for any factors Σ = Fᵀ F: no root of a matrix is taken.
    /// Of two full covariances it is the sum of the roots of the eigenvalues of F₁ Σ₂ F₁ᵀ, for half the work.
    ///
    /// # Errors
    /// Values that overflow.
    pub(crate) fn trace_of_root(&self, other: &Self) -> Result<f64> {
        match (&self.spread, &other.spread) {
            (Spread::Factor(one), Spread::Factor(two)) => {
                matrix::nuclear_norm(matrix::product(one.as_ref(), two.transpose()).as_ref())
            }
            (Spread::Factor(few), Spread::Full(full)) | (Spread::Full(full), Spread::Factor(few)) => {
                let factor = matrix::factor(full.as_ref())?;
                matrix::nuclear_norm(matrix::product(few.as_ref(), factor.transpose()).as_ref())
            }
            (Spread::Full(one), Spread::Full(two)) => {
                let factor = matrix::factor(one.as_ref())?;
                let values = matrix::eigenvalues(matrix::congruence(factor.as_ref(), two.as_ref()).as_ref())?;
                // Rounding leaves some that are zero a little below it.
                Ok(values.iter().map(|value| value.max(0.0).sqrt()).sum())
            }
        }
    }

    /// The matrix that turns rows minus the mean into their `count` first principal components `[dim, count]`.
    ///
    /// # Errors
    /// Values that overflow.
    pub(crate) fn principal_directions(&self, count: usize) -> Result<Mat<f64>> {
        let dim = self.dim();
        let covariance = self.covariance();
        let (_, vectors) = matrix::eigen(MatRef::from_row_major_slice(&covariance, dim, dim))?;
        // Eigenvalues rise.
        Ok(Mat::from_fn(dim, count, |i, j| vectors[(i, dim - 1 - j)]))
    }

    /// Writes them to an `.npz` file.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let dim = self.dim() as u64;
        let about = About { rows: self.rows, extractor: self.extractor.clone(), fingerprint: self.fingerprint.clone() };
        let covariance = self.covariance();
        files::write_atomically(path, |to| {
            let mut bytes = io::Cursor::new(Vec::new());
            let mut archive = zip::ZipWriter::new(&mut bytes);
            // Numbers hardly pack, and numpy does not pack them either.
            let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            for (name, shape, values) in [("mu", &[dim][..], &self.mean), ("sigma", &[dim, dim][..], &covariance)] {
                archive.start_file(format!("{name}.npy"), options).map_err(io::Error::other)?;
                let mut array =
                    npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut archive).begin_nd()?;
                array.extend(values.iter().copied())?;
                array.finish()?;
            }
            archive.start_file(About::FILE, options).map_err(io::Error::other)?;
            serde_json::to_writer(&mut archive, &about)?;
            archive.finish().map_err(io::Error::other)?;
            to.write_all(bytes.get_ref())
        })
    }

    /// Reads them from an `.npz` file of this program or of pytorch-fid.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else.
    pub fn load(path: &Path) -> Result<Self> {
        let broken = |what: &dyn std::fmt::Display| {
            Error::of(
                Kind::File,
                format!(
                    "{} cannot be read as moments: {what}; give an .npz file with `mu` and `sigma`",
                    path.display()
                ),
            )
        };
        let file = File::open(path).map_err(|error| broken(&error))?;
        let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(|error| broken(&error))?;
        let mut array = |name: &str| {
            let mut file = archive.by_name(&format!("{name}.npy")).map_err(|error| broken(&error))?;
            memory::ensure_fits(&path.display().to_string(), u128::from(file.size()))?;
            numbers(&mut file).map_err(|error| broken(&format_args!("array `{name}`: {error}")))
        };
        let (mean, covariance) = (array("mu")?, array("sigma")?);
        let mut moments = Self::known(mean, &covariance).map_err(|error| error.at(path.display()))?;
        if let Ok(mut file) = archive.by_name(About::FILE) {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(|error| broken(&error))?;
            let about: About = serde_json::from_str(&text).map_err(|error| broken(&error))?;
            (moments.rows, moments.extractor, moments.fingerprint) = (about.rows, about.extractor, about.fingerprint);
        }
        Ok(moments)
    }
}

/// What a file of pytorch-fid does not say.
#[derive(Serialize, Deserialize)]
struct About {
    rows: Option<usize>,
    extractor: String,
    fingerprint: String,
}

impl About {
    const FILE: &str = "about.json";
}

/// The numbers of an array of floats.
fn numbers(from: &mut impl Read) -> io::Result<Vec<f64>> {
    let array = npyz::NpyFile::new(from)?;
    ensure_c_order(&array)?;
    match array.dtype() {
        npyz::DType::Plain(kind) if kind.type_char() == npyz::TypeChar::Float && kind.size_field() == 4 => {
            array.data::<f32>().map_err(io::Error::other)?.map(|value| value.map(f64::from)).collect()
        }
        _ => array.data::<f64>().map_err(io::Error::other)?.collect(),
    }
}

/// A vector and a symmetric matrix are the same in either order, but anything else is none of these.
fn ensure_c_order<R: Read>(array: &npyz::NpyFile<R>) -> io::Result<()> {
    match array.shape() {
        [_] => Ok(()),
        [rows, columns] if rows == columns => Ok(()),
        shape => Err(io::Error::other(format!("it has the shape {shape:?}"))),
    }
}

/// Moments of rows that come in batches.
#[derive(Debug, Clone)]
pub struct Accumulator {
    dim: usize,
    /// Rows that are not added yet.
    block: Vec<f64>,
    capacity: usize,
    /// What is subtracted from each row, and Σ x and Σ x xᵀ of such rows, of the latter the lower triangle.
    shift: Vec<f64>,
    sum: Vec<f64>,
    products: Option<Mat<f64>>,
    rows: usize,
    hash: Fingerprint,
}

impl Accumulator {
    /// Those of rows of `dim` numbers.
    ///
    /// # Errors
    /// More numbers than a covariance fits into memory of.
    pub fn new(dim: usize) -> Result<Self> {
        ensure!(dim > 0, "rows have no values: give rows of at least one");
        // The rows of a block, the covariance, and a factor of it.
        memory::ensure_fits(&format!("the covariance of rows of {dim} values"), 3 * 8 * (dim as u128).pow(2))?;
        Ok(Self {
            dim,
            block: Vec::new(),
            capacity: dim.max(BLOCK) * dim,
            shift: Vec::new(),
            sum: vec![0.0; dim],
            products: None,
            rows: 0,
            hash: Fingerprint::new(dim),
        })
    }

    /// Takes the numbers of some rows.
    pub fn update(&mut self, values: Values) {
        self.hash.update(values);
        self.rows += values.len() / self.dim;
        let mut taken = 0;
        while taken < values.len() {
            // A full block waits for the row after it, since those of few rows are needed as they are.
            if self.block.len() == self.capacity {
                self.add_block();
            }
            let end = values.len().min(taken + self.capacity - self.block.len());
            values.part(taken..end).append_to(&mut self.block);
            taken = end;
        }
    }

    fn add_block(&mut self) {
        let dim = self.dim;
        if self.shift.is_empty() {
            self.shift = mean(&self.block, dim);
        }
        for row in self.block.chunks_exact_mut(dim) {
            row.iter_mut().zip(&self.shift).zip(&mut self.sum).for_each(|((value, shift), sum)| {
                *value -= shift;
                *sum += *value;
            });
        }
        let products = self.products.get_or_insert_with(|| Mat::zeros(dim, dim));
        matrix::add_gram(&self.block, products.as_mut());
        self.block.clear();
    }

    /// The moments of all rows.
    ///
    /// # Errors
    /// Fewer than two rows, and a covariance that does not fit into memory.
    pub fn finish(mut self) -> Result<Moments> {
        let (dim, rows) = (self.dim, self.rows);
        ensure!(rows > 1, "{rows} rows have no covariance: give at least two");
        let fingerprint = self.hash.text();
        let moments = |mean, spread| Moments { rows: Some(rows), extractor: String::new(), fingerprint, mean, spread };
        if rows <= dim {
            let mean = mean(&self.block, dim);
            let scale = ((rows - 1) as f64).sqrt();
            let factor = Mat::from_fn(rows, dim, |i, j| (self.block[i * dim + j] - mean[j]) / scale);
            return Ok(moments(mean, Spread::Factor(factor)));
        }
        self.add_block();
        let n = rows as f64;
        let offset: Vec<f64> = self.sum.iter().map(|sum| sum / n).collect();
        let mean = self.shift.iter().zip(&offset).map(|(shift, offset)| shift + offset).collect();
        let mut full = self.products.expect("a block was added");
        for j in 0..dim {
            for i in j..dim {
                let value = (full[(i, j)] - n * offset[i] * offset[j]) / (n - 1.0);
                (full[(i, j)], full[(j, i)]) = (value, value);
            }
        }
        Ok(moments(mean, Spread::Full(full)))
    }
}

fn mean(block: &[f64], dim: usize) -> Vec<f64> {
    let mut mean = vec![0.0; dim];
    for row in block.chunks_exact(dim) {
        mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    let rows = (block.len() / dim) as f64;
    mean.iter_mut().for_each(|sum| *sum /= rows);
    mean
}

//! y = some frequencies of a picture, as one or several coils see it: magnetic resonance imaging with Cartesian sampling.
//!
//! Coil c has y_c = M F (S_c x) with its sensitivity map S_c, F the orthonormal Fourier transform about the middle of the picture (row H/2,
//! column W/2, where frequency zero stands as well), and M the frequencies that are kept: whole columns, some in the middle and the others
//! drawn so that in all one of `acceleration` is kept (fastMRI, Zbontar et al. 2018). A frequency is two numbers, its real and imaginary
//! part. A picture's channels are measured alike, or with `complex` are the two parts of one complex picture.
//!
//! Of one coil with no map the decomposition is the Fourier basis: of complex pictures every kept frequency has the singular value 1; of
//! real ones, whose X_k and X_{−k} say the same, 1 if both are kept and √½ if one is. Simulated maps are Gaussians of position around a ring,
//! with a linear phase, and Σ_c |S_c|² = 1 at every pixel, so that all frequencies together are an isometry.

use std::{f64::consts::TAU, sync::Arc, sync::OnceLock};

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Files, Measurement, choose, picture};
use crate::{
    Key, Purpose, Result, ensure,
    inverse::{Complex, Dense, Fourier, FourierBasis, Linear, Operator, PerChannel, Spectrum, complex, pairs},
    numbers::ensure_within,
};

/// Some frequencies of a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Mri {
    /// Which columns are kept besides those in the middle; default `uniform`.
    pub lines: Lines,
    /// Columns there are for one that is kept, at least 1; default 4.
    pub acceleration: usize,
    /// The part of the columns that is kept in the middle, from 0 to 1; default 0.08, and 0.04 from an acceleration of 8 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub center_fraction: Option<f64>,
    /// A mask instead: a `.npy` file or a picture `[height, width]` with frequency zero in its middle; what is white, or 0.5 and more,
    /// is kept.
    pub mask: String,
    /// Coils, from 1 to 256, whose maps are simulated where they are several; default 1, whose map is 1.
    pub coils: usize,
    /// A `.npy` file of maps `[coils, height, width, 2]`, real and imaginary parts, instead.
    pub maps: String,
    /// Whether the two channels are the real and the imaginary part of one picture; default no.
    pub complex: bool,
    /// Seed of the columns; default 0.
    pub seed: u64,
}

/// Which columns are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Lines {
    /// Any, with equal chances.
    #[default]
    Uniform,
    /// At equal distances, from a random first one on.
    Equispaced,
    /// Any, with chances that fall off from the middle as a Gaussian of a tenth of the width, above a floor.
    Gaussian,
    /// All.
    All,
}

impl Default for Mri {
    fn default() -> Self {
        Self {
            lines: Lines::Uniform,
            acceleration: 4,
            center_fraction: None,
            mask: String::new(),
            coils: 1,
            maps: String::new(),
            complex: false,
            seed: 0,
        }
    }
}

/// Frequencies that are kept, by their places with frequency zero in the middle.
struct Kept {
    places: Vec<usize>,
    /// How many there are in every row, if as many.
    columns: Option<usize>,
}

impl Mri {
    /// Height, width, and channels that are measured alike.
    fn size(&self, shape: &[usize]) -> Result<[usize; 3]> {
        let [height, width, channels] = picture(shape, "mri")?;
        if !self.complex {
            return Ok([height, width, channels]);
        }
        ensure!(
            channels == 2,
            "measurement mri: complex = true is for pictures of two channels, a real and an imaginary part, and these have {channels}"
        );
        Ok([height, width, 1])
    }

    fn kept(&self, [height, width]: [usize; 2], files: &dyn Files) -> Result<Kept> {
        if self.mask.is_empty() {
            let columns = self.columns(width)?;
            let places = (0..height).flat_map(|row| columns.iter().map(move |column| row * width + column)).collect();
            return Ok(Kept { places, columns: Some(columns.len()) });
        }
        let file = &self.mask;
        let (values, size) = if file.ends_with(".npy") {
            files.array(file)?
        } else {
            let (values, size) = files.picture(file)?;
            (values, size.to_vec())
        };
        ensure!(
            size == [height, width],
            "measurement mri: the mask {file} has the shape {size:?}, and the pictures have {:?}: give one of that size",
            [height, width]
        );
        let places: Vec<usize> = (0..values.len()).filter(|&place| values[place] >= 0.5).collect();
        ensure!(!places.is_empty(), "measurement mri: the mask {file} keeps nothing: make some of it white");
        Ok(Kept { places, columns: None })
    }

    /// The columns that are kept, in ascending order.
    fn columns(&self, width: usize) -> Result<Vec<usize>> {
        ensure_within("measurement mri: acceleration", self.acceleration, 1..=width)?;
        let fraction = self.center_fraction.unwrap_or(if self.acceleration < 8 { 0.08 } else { 0.04 });
        ensure_within("measurement mri: center_fraction", fraction, 0.0..=1.0)?;
        if self.lines == Lines::All {
            return Ok((0..width).collect());
        }
        let centers = (fraction * width as f64) as usize;
        let first = width / 2 - centers / 2;
        let mut columns: Vec<usize> = (first..first + centers).collect();
        let others: Vec<usize> = (0..width).filter(|column| !columns.contains(column)).collect();
        let wanted = width / self.acceleration;
        ensure!(
            wanted >= centers,
            "measurement mri: center_fraction = {fraction} keeps {centers} columns in the middle, and acceleration = {} only {wanted} in \
             all: lower one of them",
            self.acceleration
        );
        let key = Key::new(self.seed, Purpose::Instrument);
        let chances: Vec<f64> = match self.lines {
            Lines::Gaussian => {
                let distance = |column: &usize| (*column as f64 - width as f64 / 2.0) / (width as f64 / 10.0);
                let floor = 0.5 / self.acceleration as f64;
                others.iter().map(|column| (-0.5 * distance(column).powi(2)).exp() + floor).collect()
            }
            _ => vec![1.0; others.len()],
        };
        let count = wanted - centers;
        match self.lines {
            Lines::Equispaced if count > 0 => {
                // Over what the middle leaves, so that columns it has already are not counted twice.
                let step = others.len() as f64 / count as f64;
                let start = stein_base::random::uniform(&mut key.generator());
                columns.extend((0..count).map(|line| others[((line as f64 + start) * step) as usize]));
            }
            _ => columns.extend(choose(key, &chances, count).into_iter().map(|number| others[number])),
        }
        columns.sort_unstable();
        Ok(columns)
    }

    /// The maps of the coils; none of one coil that sees everything alike.
    fn sensitivities(&self, [height, width]: [usize; 2], files: &dyn Files) -> Result<Vec<Vec<Complex<f64>>>> {
        if !self.maps.is_empty() {
            let (values, size) = files.array(&self.maps)?;
            ensure!(
                size.len() == 4 && size[0] > 0 && size[1..] == [height, width, 2],
                "measurement mri: the maps {} have the shape {size:?}, and pictures of {:?} need [coils, {height}, {width}, 2]",
                self.maps,
                [height, width]
            );
            return Ok(complex(&values).chunks(height * width).map(<[_]>::to_vec).collect());
        }
        ensure_within("measurement mri: coils", self.coils, 1..=256)?;
        Ok(if self.coils == 1 { Vec::new() } else { ring(self.coils, [height, width]) })
    }

    fn coils(&self, files: &dyn Files) -> Result<usize> {
        Ok(if self.maps.is_empty() { self.coils } else { files.array(&self.maps)?.1[0] })
    }
}

/// Smooth maps of coils on a ring around the picture.
fn ring(coils: usize, [height, width]: [usize; 2]) -> Vec<Vec<Complex<f64>>> {
    /// The ring's radius and the width of a map, in halves of the picture.
    const RADIUS: f64 = 1.0;
    const WIDTH: f64 = 0.8;
    let coordinate = |place: usize, side: usize| (2 * place + 1) as f64 / side as f64 - 1.0;
    let mut maps: Vec<Vec<Complex<f64>>> = (0..coils)
        .map(|coil| {
            let angle = TAU * coil as f64 / coils as f64;
            let (row, column) = (RADIUS * angle.sin(), RADIUS * angle.cos());
            let at = |place: usize| {
                let (y, x) = (coordinate(place / width, height), coordinate(place % width, width));
                let squared = (y - row).powi(2) + (x - column).powi(2);
                // The phase turns by a quarter from one side of the picture to the other, towards the coil.
                let phase = TAU / 8.0 * (y * angle.sin() + x * angle.cos());
                Complex::from_polar((-0.5 * squared / (WIDTH * WIDTH)).exp(), phase)
            };
            (0..height * width).map(at).collect()
        })
        .collect();
    for place in 0..height * width {
        let size = maps.iter().map(|map| map[place].norm_sqr()).sum::<f64>().sqrt();
        maps.iter_mut().for_each(|map| map[place] /= size);
    }
    maps
}

impl Measurement for Mri {
    fn operator(&self, shape: &[usize], files: &dyn Files) -> Result<Arc<dyn Operator>> {
        let [height, width, channels] = self.size(shape)?;
        let kept = self.kept([height, width], files)?;
        let maps = self.sensitivities([height, width], files)?;
        let fourier = Fourier::new([height, width]);
        let plane = KSpace {
            kept: kept.places.iter().map(|&place| fourier.centered(place)).collect(),
            fourier,
            maps,
            complex: self.complex,
            spectrum: OnceLock::new(),
        };
        Ok(Arc::new(PerChannel::new(Arc::new(plane), channels)))
    }

    /// Rows, columns and, for each, the coils' real and imaginary parts; frequencies instead of rows and columns for a mask of a file.
    fn shape(&self, shape: &[usize], files: &dyn Files) -> Result<Vec<usize>> {
        let [height, width, channels] = self.size(shape)?;
        let kept = self.kept([height, width], files)?;
        let numbers = 2 * self.coils(files)? * channels;
        Ok(match kept.columns {
            Some(columns) => vec![height, columns, numbers],
            None => vec![kept.places.len(), numbers],
        })
    }
}

/// Kept frequencies of one picture, real or complex, seen by coils: `[kept, coils, 2]`.
#[derive(Debug, Clone)]
struct KSpace {
    fourier: Fourier,
    /// Places of the transform.
    kept: Vec<usize>,
    /// Maps of the coils; none for one that is 1 everywhere.
    maps: Vec<Vec<Complex<f64>>>,
    complex: bool,
    spectrum: OnceLock<Result<Arc<dyn Spectrum>>>,
}

impl KSpace {
    fn coils(&self) -> usize {
        self.maps.len().max(1)
    }

    /// The phase that moves the origin of the picture from its first pixel to its middle.
    fn phase(&self, k: usize) -> Complex<f64> {
        let [height, width] = self.fourier.size();
        let turns = (k / width * (height / 2)) as f64 / height as f64 + (k % width * (width / 2)) as f64 / width as f64;
        Complex::from_polar(1.0, TAU * turns)
    }

    fn picture(&self, x: &[f64]) -> Vec<Complex<f64>> {
        if self.complex { complex(x) } else { x.iter().map(|x| Complex::new(*x, 0.0)).collect() }
    }

    fn numbers(&self, x: &[Complex<f64>]) -> Vec<f64> {
        if self.complex { pairs(x) } else { x.iter().map(|x| x.re).collect() }
    }
}

impl Operator for KSpace {
    fn inputs(&self) -> usize {
        self.fourier.count() * if self.complex { 2 } else { 1 }
    }

    fn outputs(&self) -> usize {
        self.kept.len() * self.coils() * 2
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let x = self.picture(x);
        let seen: Vec<Vec<Complex<f64>>> = if self.maps.is_empty() {
            vec![self.fourier.forward(x)]
        } else {
            let by = |map: &Vec<Complex<f64>>| self.fourier.forward(x.iter().zip(map).map(|(x, s)| x * s).collect());
            self.maps.iter().map(by).collect()
        };
        let all = self.kept.iter().flat_map(|&k| {
            let phase = self.phase(k);
            seen.iter().map(move |coil| coil[k] * phase)
        });
        pairs(&all.collect::<Vec<_>>())
    }

    fn push(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        self.apply(v)
    }

    fn pull(&self, _: &[f64], w: &[f64]) -> Vec<f64> {
        let w = complex(w);
        let mut x = vec![Complex::new(0.0, 0.0); self.fourier.count()];
        for coil in 0..self.coils() {
            let mut own = vec![Complex::new(0.0, 0.0); self.fourier.count()];
            for (number, &k) in self.kept.iter().enumerate() {
                own[k] = w[number * self.coils() + coil] * self.phase(k).conj();
            }
            let own = self.fourier.back(own);
            match self.maps.get(coil) {
                Some(map) => x.iter_mut().zip(own).zip(map).for_each(|((x, own), s)| *x += own * s.conj()),
                None => x = own,
            }
        }
        self.numbers(&x)
    }

    fn linear(&self) -> Option<&dyn Linear> {
        Some(self)
    }
}

impl Linear for KSpace {
    fn spectrum(&self) -> Result<Arc<dyn Spectrum>> {
        if !self.maps.is_empty() {
            return self.spectrum.get_or_init(|| Dense::of(self)?.spectrum()).clone();
        }
        let mut kept = vec![0.0_f64; self.fourier.count()];
        self.kept.iter().for_each(|&k| kept[k] = 1.0);
        let s =
            |k: usize| if self.complex { kept[k] } else { (0.5 * (kept[k] + kept[self.fourier.partner(k)])).sqrt() };
        let (basis, values) = FourierBasis::new(self.fourier.clone(), self.complex, s);
        Ok(Arc::new(Frequencies { of: self.clone(), basis, values }))
    }
}

/// The decomposition of one coil that sees everything alike: U = A V diag(1/s).
#[derive(Debug)]
struct Frequencies {
    of: KSpace,
    basis: FourierBasis,
    values: Vec<f64>,
}

impl Spectrum for Frequencies {
    fn values(&self) -> &[f64] {
        &self.values
    }

    fn sample(&self, c: &[f64]) -> Vec<f64> {
        self.basis.sample(c)
    }

    fn coordinates(&self, x: &[f64]) -> Vec<f64> {
        self.basis.coordinates(x)
    }

    fn measurement(&self, c: &[f64]) -> Vec<f64> {
        let c: Vec<f64> = c.iter().zip(&self.values).map(|(c, s)| c / s).collect();
        self.of.apply(&self.basis.sample(&c))
    }

    fn measured(&self, y: &[f64]) -> Vec<f64> {
        let c = self.basis.coordinates(&self.of.adjoint(y));
        c.iter().zip(&self.values).map(|(c, s)| c / s).collect()
    }

    fn dim(&self) -> usize {
        self.basis.dim()
    }
}

//! y = a picture after compression as JPEG (ITU-T T.81): in blocks of 8 × 8 pixels, the discrete cosine transform of luma and chroma is
//! rounded to multiples of the steps of a quality.
//!
//! ```text
//! D_kn = c_k cos(π (2n + 1) k/16),   c_0 = √(1/8), else 1/2;   c = D b Dᵀ of a block b,   ĉ = q · round(c/q)
//! ```
//!
//! with the tables of annex K, scaled to a quality Q as libjpeg does: by 50/Q below 50 and by 2 − Q/50 from there, rounded, from 1 to 255
//! gray levels of 255. Three channels become Y, C_b and C_r (JFIF), others are luma each. Borders are repeated up to whole blocks. What is
//! decoded is neither rounded to gray levels nor cut off at 0 and 1.
//!
//! The derivative is straight-through, that of all steps but the rounding, whose true derivative is 0 almost everywhere: the identity, or
//! with halved chroma its means.

use std::{f64::consts::PI, sync::Arc};

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Files, Measurement, picture, super_resolution::block_means};
use crate::{
    Result,
    inverse::{BlockDiagonal, Chain, Dense, Gather, Kronecker, Linear, Operator, Rounded, Transposed},
    numbers::ensure_within,
};

/// A picture after compression as JPEG.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Jpeg {
    /// Quality, from 1 to 100; default 10.
    pub quality: u32,
    /// The size of chroma; default `full`.
    pub chroma: Chroma,
}

/// The size of the planes of chroma.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Explain)]
#[serde(rename_all = "snake_case")]
pub enum Chroma {
    /// That of the picture, known as 4:4:4.
    #[default]
    Full,
    /// Half of its height and width, known as 4:2:0: means of 2 × 2 pixels, repeated.
    Half,
}

impl Default for Jpeg {
    fn default() -> Self {
        Self { quality: 10, chroma: Chroma::Full }
    }
}

/// Steps for luma at quality 50, by frequencies down and along (table K.1).
const LUMA: [u32; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, //
    12, 12, 14, 19, 26, 58, 60, 55, //
    14, 13, 16, 24, 40, 57, 69, 56, //
    14, 17, 22, 29, 51, 87, 80, 62, //
    18, 22, 37, 56, 68, 109, 103, 77, //
    24, 35, 55, 64, 81, 104, 113, 92, //
    49, 64, 78, 87, 103, 121, 120, 101, //
    72, 92, 95, 98, 112, 100, 103, 99,
];

/// Steps for chroma at quality 50 (table K.2).
const CHROMA: [u32; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, //
    18, 21, 26, 66, 99, 99, 99, 99, //
    24, 26, 56, 99, 99, 99, 99, 99, //
    47, 66, 99, 99, 99, 99, 99, 99, //
    99, 99, 99, 99, 99, 99, 99, 99, //
    99, 99, 99, 99, 99, 99, 99, 99, //
    99, 99, 99, 99, 99, 99, 99, 99, //
    99, 99, 99, 99, 99, 99, 99, 99,
];

/// The weights of red, green and blue in luma.
const WEIGHTS: [f64; 3] = [0.299, 0.587, 0.114];

/// Y, C_b and C_r of red, green and blue.
fn to_luma_and_chroma() -> [f64; 9] {
    let [r, g, b] = WEIGHTS;
    let (blue, red) = (0.5 / (1.0 - b), 0.5 / (1.0 - r));
    [r, g, b, -r * blue, -g * blue, (1.0 - b) * blue, (1.0 - r) * red, -g * red, -b * red]
}

/// The inverse of that.
fn to_colors() -> [f64; 9] {
    let [r, g, b] = WEIGHTS;
    let (blue, red) = (2.0 * (1.0 - b), 2.0 * (1.0 - r));
    [1.0, 0.0, red, 1.0, -b * blue / g, -r * red / g, 1.0, blue, 0.0]
}

impl Jpeg {
    /// The 64 steps of a table at this quality, in units of a picture in \[0, 1\].
    fn steps(&self, table: &[u32; 64]) -> [f64; 64] {
        let percent = if self.quality < 50 { 5000 / self.quality } else { 200 - 2 * self.quality };
        table.map(|step| f64::from(((step * percent + 50) / 100).clamp(1, 255)) / 255.0)
    }
}

/// The orthonormal cosine transform of stretches of 8 of a side, which is a multiple of that.
fn cosines(side: usize) -> Result<Kronecker> {
    let entry = |k: usize, n: usize| {
        let size = if k == 0 { 0.125f64.sqrt() } else { 0.5 };
        size * (PI * (2 * n + 1) as f64 * k as f64 / 16.0).cos()
    };
    let block: Vec<f64> = (0..64).map(|place| entry(place / 8, place % 8)).collect();
    Ok(Kronecker::new(Arc::new(Gather::all(side / 8)?), Arc::new(Dense::new(8, 8, &block)?)))
}

/// One of the planes a picture is coded as.
struct Component {
    /// From the plane to its coefficients.
    encode: Arc<dyn Operator>,
    /// Back, as if nothing were rounded.
    decode: Arc<dyn Operator>,
    /// The steps of the coefficients.
    steps: Vec<f64>,
    /// The coefficients of what is coded as 0.
    offsets: Vec<f64>,
}

impl Component {
    /// Of a plane of a height and width that is coded `shrink` times smaller.
    fn new([height, width]: [usize; 2], steps: [f64; 64], shrink: usize, luma: bool) -> Result<Self> {
        let whole = |side: usize| side.next_multiple_of(8 * shrink);
        let padded = [whole(height), whole(width)];
        let coded = padded.map(|side| side / shrink);
        let places = || (0..padded[0]).flat_map(|row| (0..padded[1]).map(move |column| (row, column)));
        let pad = places().map(|(row, column)| row.min(height - 1) * width + column.min(width - 1)).collect();
        let transform: Arc<dyn Linear> =
            Arc::new(Kronecker::new(Arc::new(cosines(coded[0])?), Arc::new(cosines(coded[1])?)));
        let mut encode: Vec<Arc<dyn Operator>> = vec![Arc::new(Gather::new(height * width, pad)?)];
        if shrink > 1 {
            encode.push(Arc::new(Kronecker::new(
                Arc::new(block_means(padded[0], shrink)),
                Arc::new(block_means(padded[1], shrink)),
            )));
        }
        encode.push(Arc::clone(&transform) as Arc<dyn Operator>);
        let repeat =
            (0..height * width).map(|place| place / width / shrink * coded[1] + place % width / shrink).collect();
        let repeat = Gather::new(coded[0] * coded[1], repeat)?;
        let frequency = |place: usize| place / coded[1] % 8 * 8 + place % coded[1] % 8;
        let frequencies = || (0..coded[0] * coded[1]).map(frequency);
        // Luma is coded as its difference from 128, whose transform is 8 times as much; chroma has no sign to get rid of.
        let middle = if luma { 8.0 * 128.0 / 255.0 } else { 0.0 };
        Ok(Self {
            encode: Arc::new(Chain::new(encode)),
            decode: Arc::new(Chain::new(vec![Arc::new(Transposed::new(transform)), Arc::new(repeat)])),
            steps: frequencies().map(|frequency| steps[frequency]).collect(),
            offsets: frequencies().map(|frequency| if frequency == 0 { middle } else { 0.0 }).collect(),
        })
    }
}

impl Measurement for Jpeg {
    fn operator(&self, shape: &[usize], _: &dyn Files) -> Result<Arc<dyn Operator>> {
        let [height, width, channels] = picture(shape, "jpeg")?;
        ensure_within("measurement jpeg: quality", self.quality, 1..=100)?;
        let places = height * width;
        let (luma, chroma) = (self.steps(&LUMA), self.steps(&CHROMA));
        let shrink = if self.chroma == Chroma::Half { 2 } else { 1 };
        let component = |channel: usize| match channel {
            1 | 2 if channels == 3 => Component::new([height, width], chroma, shrink, false),
            _ => Component::new([height, width], luma, 1, true),
        };
        let components = (0..channels).map(component).collect::<Result<Vec<Component>>>()?;
        // Planes one after the other, where a picture has the channels of a pixel together.
        let split = (0..places * channels).map(|at| at % places * channels + at / places).collect();
        let join = (0..places * channels).map(|at| at % channels * places + at / channels).collect();
        let colors = |matrix: [f64; 9]| -> Result<Option<Arc<dyn Operator>>> {
            let change = || -> Result<Arc<dyn Operator>> {
                let matrix = Dense::new(3, 3, &matrix)?;
                Ok(Arc::new(Kronecker::new(Arc::new(Gather::all(places)?), Arc::new(matrix))))
            };
            (channels == 3).then(change).transpose()
        };
        let coding: Vec<Arc<dyn Operator>> = vec![
            Arc::new(Gather::new(places * channels, split)?),
            Arc::new(BlockDiagonal::new(components.iter().map(|c| Arc::clone(&c.encode)).collect())),
            Arc::new(Rounded::new(
                components.iter().flat_map(|c| c.steps.clone()).collect(),
                components.iter().flat_map(|c| c.offsets.clone()).collect(),
            )),
            Arc::new(BlockDiagonal::new(components.iter().map(|c| Arc::clone(&c.decode)).collect())),
            Arc::new(Gather::new(places * channels, join)?),
        ];
        let links = colors(to_luma_and_chroma())?.into_iter().chain(coding).chain(colors(to_colors())?);
        Ok(Arc::new(Chain::new(links.collect())))
    }

    fn shape(&self, shape: &[usize], _: &dyn Files) -> Result<Vec<usize>> {
        Ok(picture(shape, "jpeg")?.to_vec())
    }
}

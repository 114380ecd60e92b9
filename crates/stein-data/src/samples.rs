//! Values of samples as files store them: 8-bit, 16-bit or floating-point.

use std::{fmt, ops::Range};

/// How a value is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    U8,
    U16,
    F32,
}

impl Depth {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::F32 => 4,
        }
    }

    /// The number of gray levels; `None` for real values.
    pub fn levels(self) -> Option<u32> {
        match self {
            Self::U8 => Some(1 << 8),
            Self::U16 => Some(1 << 16),
            Self::F32 => None,
        }
    }

    /// Values from little-endian bytes: integers over the largest one, floats as they are.
    ///
    /// # Panics
    /// If `bytes` is not as long as the values of `out`.
    pub fn widen(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * self.bytes(), "stored values must fill a row");
        match self {
            Self::U8 => out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = f32::from(byte) / 255.0),
            Self::U16 => {
                let words = bytes.as_chunks().0.iter().map(|&word| u16::from_le_bytes(word));
                out.iter_mut().zip(words).for_each(|(out, word)| *out = f32::from(word) / 65535.0);
            }
            Self::F32 => {
                let reals = bytes.as_chunks().0.iter().map(|&real| f32::from_le_bytes(real));
                out.iter_mut().zip(reals).for_each(|(out, real)| *out = real);
            }
        }
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "8-bit",
            Self::U16 => "16-bit",
            Self::F32 => "floating-point",
        })
    }
}

/// Values of one sample or of many, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Samples {
    U8(Vec<u8>),
    U16(Vec<u16>),
    F32(Vec<f32>),
}

/// The same expression for every kind of values.
macro_rules! each {
    ($samples:expr, $values:ident => $body:expr) => {
        match $samples {
            $crate::samples::Samples::U8($values) => $crate::samples::Samples::U8($body),
            $crate::samples::Samples::U16($values) => $crate::samples::Samples::U16($body),
            $crate::samples::Samples::F32($values) => $crate::samples::Samples::F32($body),
        }
    };
}
pub(crate) use each;

impl Samples {
    /// Room for this many values, and none yet.
    pub fn with_capacity(depth: Depth, values: usize) -> Self {
        match depth {
            Depth::U8 => Self::U8(Vec::with_capacity(values)),
            Depth::U16 => Self::U16(Vec::with_capacity(values)),
            Depth::F32 => Self::F32(Vec::with_capacity(values)),
        }
    }

    /// Values from little-endian bytes.
    pub fn from_bytes(depth: Depth, bytes: Vec<u8>) -> Self {
        match depth {
            Depth::U8 => Self::U8(bytes),
            Depth::U16 => Self::U16(bytes.as_chunks().0.iter().map(|&word| u16::from_le_bytes(word)).collect()),
            Depth::F32 => Self::F32(bytes.as_chunks().0.iter().map(|&real| f32::from_le_bytes(real)).collect()),
        }
    }

    pub fn depth(&self) -> Depth {
        match self {
            Self::U8(_) => Depth::U8,
            Self::U16(_) => Depth::U16,
            Self::F32(_) => Depth::F32,
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }

    /// Puts other values of the same depth behind these.
    ///
    /// # Panics
    /// If the depths differ.
    pub fn append(&mut self, other: &Self) {
        match (self, other) {
            (Self::U8(values), Self::U8(more)) => values.extend_from_slice(more),
            (Self::U16(values), Self::U16(more)) => values.extend_from_slice(more),
            (Self::F32(values), Self::F32(more)) => values.extend_from_slice(more),
            _ => panic!("values of two depths were put together"),
        }
    }

    /// The samples of `dim` values at these places.
    pub fn select(&self, dim: usize, places: &[usize]) -> Self {
        each!(self, values => places.iter().flat_map(|&i| &values[i * dim..(i + 1) * dim]).copied().collect())
    }

    /// Some of the values as [`Depth::widen`] gives them, where integers have `levels` levels.
    pub fn widen(&self, range: Range<usize>, levels: u32, out: &mut [f32]) {
        assert_eq!(range.len(), out.len(), "a row is as long as a sample");
        let top = levels.saturating_sub(1) as f32;
        match self {
            Self::U8(values) => out.iter_mut().zip(&values[range]).for_each(|(o, &v)| *o = f32::from(v) / top),
            Self::U16(values) => out.iter_mut().zip(&values[range]).for_each(|(o, &v)| *o = f32::from(v) / top),
            Self::F32(values) => out.copy_from_slice(&values[range]),
        }
    }

    /// The values as little-endian bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::U8(values) => values,
            Self::U16(values) => values.into_iter().flat_map(u16::to_le_bytes).collect(),
            Self::F32(values) => values.into_iter().flat_map(f32::to_le_bytes).collect(),
        }
    }

    /// Where a value stands that is not finite.
    pub fn not_finite(&self) -> Option<usize> {
        match self {
            Self::F32(values) => values.iter().position(|value| !value.is_finite()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_the_values_they_were() {
        for samples in [
            Samples::U8(vec![0, 51, 255]),
            Samples::U16(vec![0, 13107, 65535]),
            Samples::F32(vec![-1.5, 0.2, f32::MAX]),
        ] {
            let depth = samples.depth();
            let (mut held, mut stored) = ([0.0; 3], [0.0; 3]);
            samples.widen(0..3, depth.levels().unwrap_or(0), &mut held);
            assert_eq!(Samples::from_bytes(depth, samples.clone().into_bytes()), samples);
            depth.widen(&samples.into_bytes(), &mut stored);
            assert_eq!((held, held[1]), (stored, 0.2));
        }
    }
}

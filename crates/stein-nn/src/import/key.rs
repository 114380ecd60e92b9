//! Where a parameter of ours is in the file of a source, and how it lies there.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::repeat_n,
};

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use stein::{Result, ensure};

use crate::{
    state::{self, Tensors},
    trace::Trace,
};

/// How a parameter lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The same shape.
    Same,
    /// Ours `[inputs, outputs]`, theirs `[outputs, inputs]` and axes of size one at the end: a linear layer, or a convolution of
    /// one tap.
    Turned {
        /// Axes of size one at the end.
        ones: usize,
    },
    /// Ours `[height, width, inputs, outputs]`, theirs `[outputs, inputs, height, width]`.
    Conv,
    /// Ours `[channels]`, theirs `[1, channels, 1, 1]`.
    Channels,
}

impl Layout {
    /// Of a linear layer.
    pub const LINEAR: Self = Self::Turned { ones: 0 };
    /// Of a convolution of one tap over images.
    pub const POINTWISE: Self = Self::Turned { ones: 2 };
}

/// Where a parameter is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The name of the tensor.
    pub name: String,
    /// How it lies there.
    pub layout: Layout,
    /// Where it is only some of the first axis of the tensor: those, in our order, and how many there are.
    pub rows: Option<(Vec<usize>, usize)>,
}

impl Key {
    fn of(name: impl Into<String>, layout: Layout) -> Self {
        Self { name: name.into(), layout, rows: None }
    }

    /// A tensor of the same shape: vectors, tables.
    pub fn same(name: impl Into<String>) -> Self {
        Self::of(name, Layout::Same)
    }

    /// The weight of a linear layer.
    pub fn linear(name: impl Into<String>) -> Self {
        Self::pointwise(name, 0)
    }

    /// The weight of a convolution of one tap, over this many axes.
    pub fn pointwise(name: impl Into<String>, ones: usize) -> Self {
        Self::of(name, Layout::Turned { ones })
    }

    /// The weight of a convolution.
    pub fn conv(name: impl Into<String>) -> Self {
        Self::of(name, Layout::Conv)
    }

    /// A number for each channel of images.
    pub fn channels(name: impl Into<String>) -> Self {
        Self::of(name, Layout::Channels)
    }

    /// A parameter of a layer: its `weight` in a layout, or what stands there under `bias`; of a norm the scale `gamma`, which is
    /// called its weight there, and the shift `beta`.
    pub fn layer(module: &str, leaf: &str, weight: Layout) -> Self {
        match leaf {
            "weight" => Self::of(format!("{module}.weight"), weight),
            "gamma" => Self::same(format!("{module}.weight")),
            _ => Self::same(format!("{module}.bias")),
        }
    }

    /// A parameter of a norm: as [`layer`](Self::layer).
    pub fn norm(module: &str, leaf: &str) -> Self {
        Self::layer(module, leaf, Layout::Same)
    }

    /// Only these of the `of` rows of the tensor.
    #[must_use]
    pub fn rows(self, rows: Vec<usize>, of: usize) -> Self {
        Self { rows: Some((rows, of)), ..self }
    }

    /// The shape of the part of the tensor that is a parameter of shape `ours`.
    fn part(&self, ours: &[usize]) -> Vec<usize> {
        match (self.layout, ours) {
            (Layout::Turned { ones }, &[inputs, outputs]) => {
                [outputs, inputs].into_iter().chain(repeat_n(1, ones)).collect()
            }
            (Layout::Conv, &[height, width, inputs, outputs]) => vec![outputs, inputs, height, width],
            (Layout::Channels, &[channels]) => vec![1, channels, 1, 1],
            _ => ours.to_vec(),
        }
    }

    /// The shape of the whole tensor.
    fn whole(&self, ours: &[usize]) -> Vec<usize> {
        let mut shape = self.part(ours);
        if let (Some((_, of)), Some(first)) = (&self.rows, shape.first_mut()) {
            *first = *of;
        }
        shape
    }

    /// Our parameter from the whole tensor.
    fn take(&self, theirs: &TensorData, ours: &[usize]) -> TensorData {
        let part = match &self.rows {
            None => theirs.clone(),
            Some((rows, of)) => {
                let (bytes, wide) = (theirs.as_bytes(), theirs.as_bytes().len() / of);
                let part = rows.iter().flat_map(|row| &bytes[row * wide..(row + 1) * wide]).copied().collect();
                TensorData::from_bytes_vec(part, self.part(ours), theirs.dtype())
            }
        };
        self.turn(single(part), ours, true)
    }

    /// From their layout to ours, or back.
    fn turn(&self, data: TensorData, ours: &[usize], to_ours: bool) -> TensorData {
        let kind = data.dtype();
        let vector = |data| Tensor::<1>::from_data(flat(data), (&Device::flex(), kind));
        match (self.layout, ours) {
            (Layout::Turned { .. }, &[inputs, outputs]) => {
                let shape = if to_ours { [outputs, inputs] } else { [inputs, outputs] };
                vector(data).reshape(shape).transpose().into_data()
            }
            (Layout::Conv, &[height, width, inputs, outputs]) if to_ours => {
                vector(data).reshape([outputs, inputs, height, width]).permute([2, 3, 1, 0]).into_data()
            }
            (Layout::Conv, &[height, width, inputs, outputs]) => {
                vector(data).reshape([height, width, inputs, outputs]).permute([3, 2, 0, 1]).into_data()
            }
            (Layout::Channels, _) => flat(data),
            _ => data,
        }
    }
}

/// f32 for what is stored in half precision.
fn single(data: TensorData) -> TensorData {
    match data.dtype() {
        DType::F16 | DType::BF16 => data.convert_dtype(DType::F32),
        _ => data,
    }
}

/// The same numbers in one row.
pub(super) fn flat(data: TensorData) -> TensorData {
    let count = data.num_elements();
    let (bytes, _, kind) = data.into_parts();
    TensorData::from_bytes(bytes, [count], kind)
}

/// The names and layouts a source has for the parameters and modules of a network.
pub trait Names: Send + Sync {
    /// Where a parameter of ours, of that name and shape, is in the file. One that is not known keeps its name, under which it is
    /// reported as missing.
    fn key(&self, ours: &str, shape: &[usize]) -> Key;

    /// Whether a tensor of the file is no weight in use: a buffer that follows from the config.
    fn ignores(&self, _theirs: &str) -> bool {
        false
    }

    /// What a module of theirs returned, from what was noted on the way.
    fn seen(&self, module: &str, trace: &Trace) -> Option<TensorData>;
}

/// Weights for a network that is being imported.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// Under the names and in the layouts of the source.
    Theirs(&'a Tensors),
    /// Under ours.
    Ours(&'a Tensors),
}

/// Most faults that are told.
const SHOWN: usize = 30;

/// The network with the weights of a file.
///
/// # Errors
/// When tensors are missing, left over, or of another shape, with the first of them in one table; nothing is loaded then.
pub(super) fn load<M: Module>(network: M, weights: Weights, names: &dyn Names) -> Result<M> {
    let file = match weights {
        Weights::Ours(weights) => return state::load(network, weights),
        Weights::Theirs(file) => file,
    };
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    let mut weights = Tensors::new();
    for (name, ours) in state::shapes(&network) {
        let key = names.key(&name, &ours);
        used.insert(key.name.clone());
        let wanted = key.whole(&ours);
        match file.get(&key.name) {
            None => faults.push(format!("missing     {} (our {name})", key.name)),
            Some(theirs) if theirs.shape().to_vec() != wanted || !theirs.dtype().is_float() => {
                let (kind, shape) = (theirs.dtype(), theirs.shape().to_vec());
                faults.push(format!("misshapen   {} is {kind:?} {shape:?}, expected {wanted:?}", key.name));
            }
            Some(theirs) => {
                weights.insert(name, key.take(theirs, &ours));
            }
        }
    }
    let unexpected = file.keys().filter(|name| !used.contains(*name) && !names.ignores(name));
    faults.extend(unexpected.map(|name| format!("unexpected  {name}")));
    faults.dedup();
    let more = faults.len().saturating_sub(SHOWN);
    ensure!(
        Kind::Mismatch,
        faults.is_empty(),
        "the weights do not fit the network of this config; nothing was loaded:\n  {}{}",
        faults[..faults.len() - more].join("\n  "),
        if more > 0 { format!("\n  … and {more} more") } else { String::new() }
    );
    state::load(network, &weights)
}

/// Tensors of ours, by our names and in our layouts, as those of a source.
pub(super) fn joined(ours: Tensors, names: &dyn Names) -> Tensors {
    let mut whole: BTreeMap<String, (Vec<usize>, DType, Vec<u8>)> = BTreeMap::new();
    for (name, ours) in ours {
        let (shape, kind) = (ours.shape().to_vec(), ours.dtype());
        let key = names.key(&name, &shape);
        let (part, theirs) = (key.turn(ours, &shape, false), key.whole(&shape));
        let count = theirs.iter().product::<usize>() * kind.size();
        let (_, _, bytes) = whole.entry(key.name.clone()).or_insert_with(|| (theirs, kind, Vec::new()));
        match &key.rows {
            None => *bytes = part.as_bytes().to_vec(),
            Some((rows, of)) => {
                bytes.resize(count, 0);
                let wide = count / of;
                for (row, from) in rows.iter().zip(part.as_bytes().chunks_exact(wide)) {
                    bytes[row * wide..(row + 1) * wide].copy_from_slice(from);
                }
            }
        }
    }
    let data = |(shape, kind, bytes)| TensorData::from_bytes_vec(bytes, shape, kind);
    whole.into_iter().map(|(name, tensor)| (name, data(tensor))).collect()
}

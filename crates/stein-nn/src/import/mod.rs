//! Weights of other libraries: their names and layouts are translated here, one file a source, and nowhere else.
//!
//! An importer says for every parameter of ours which tensor of the file it is ([`Key`]); the same table loads and exports.

mod check;
pub mod consistency;
pub mod diffusers;
pub mod diffusers_adm;
pub mod diffusers_dit;
mod diffusers_scheduler;
pub mod edm;
pub mod guided_diffusion;
pub mod ncsn;
pub mod ncsn_v2;
pub mod pickle;
mod published;
mod refine_net;
pub mod score_sde;
mod setting;
mod source;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use stein::{Result, ensure};

use crate::state::{self, Tensors};

pub use check::{Case, Checked, Imported, Output, Reference, check};
pub use published::{Published, theirs};
pub use setting::{Role, Setting};
pub use source::{Kind, NOT_NUMBERS, Source};

/// How a parameter lies in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
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
}

/// Where a parameter is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The name of the tensor.
    pub name: String,
    /// How it lies there.
    pub form: Form,
    /// Where it is only some of the first axis of the tensor: those, in our order, and how many there are.
    pub rows: Option<(Vec<usize>, usize)>,
}

impl Key {
    /// A tensor of the same shape: vectors, tables.
    pub fn same(name: impl Into<String>) -> Self {
        Self { name: name.into(), form: Form::Same, rows: None }
    }

    /// The weight of a linear layer.
    pub fn linear(name: impl Into<String>) -> Self {
        Self { name: name.into(), form: Form::Turned { ones: 0 }, rows: None }
    }

    /// The weight of a convolution of one tap, with this many axes of places.
    pub fn pointwise(name: impl Into<String>, ones: usize) -> Self {
        Self { name: name.into(), form: Form::Turned { ones }, rows: None }
    }

    /// The weight of a convolution.
    pub fn conv(name: impl Into<String>) -> Self {
        Self { name: name.into(), form: Form::Conv, rows: None }
    }

    /// Only these of the `of` rows of the tensor.
    #[must_use]
    pub fn rows(self, rows: Vec<usize>, of: usize) -> Self {
        Self { rows: Some((rows, of)), ..self }
    }

    /// The shape of the part of the tensor that is a parameter of shape `ours`.
    fn part(&self, ours: &[usize]) -> Vec<usize> {
        match (&self.form, ours) {
            (Form::Turned { ones }, [inputs, outputs]) => {
                [*outputs, *inputs].into_iter().chain(std::iter::repeat_n(1, *ones)).collect()
            }
            (Form::Conv, [height, width, inputs, outputs]) => vec![*outputs, *inputs, *height, *width],
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
        turn(part, &self.form, ours, true)
    }
}

/// From their layout to ours, or back.
fn turn(data: TensorData, form: &Form, ours: &[usize], to_ours: bool) -> TensorData {
    let (device, kind) = (Device::flex(), data.dtype());
    match (form, ours) {
        (Form::Same, _) => data,
        (Form::Turned { .. }, &[inputs, outputs]) => {
            let shape = if to_ours { [outputs, inputs] } else { [inputs, outputs] };
            Tensor::<1>::from_data(flat(data), (&device, kind)).reshape(shape).transpose().into_data()
        }
        (Form::Conv, &[height, width, inputs, outputs]) => {
            let x = Tensor::<1>::from_data(flat(data), (&device, kind));
            if to_ours {
                x.reshape([outputs, inputs, height, width]).permute([2, 3, 1, 0]).into_data()
            } else {
                x.reshape([height, width, inputs, outputs]).permute([3, 2, 0, 1]).into_data()
            }
        }
        _ => data,
    }
}

fn flat(data: TensorData) -> TensorData {
    let count = data.num_elements();
    let (bytes, _, kind) = data.into_parts();
    TensorData::from_bytes(bytes, [count], kind)
}

/// Weights for a network that is being imported.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// Under the names and in the layouts of the source.
    Theirs(&'a Tensors),
    /// Under ours.
    Ours(&'a Tensors),
}

/// The network with the weights of a file. `ignored` are names of the file that are no weights: buffers that follow from the
/// config.
///
/// # Errors
/// When tensors are missing, left over, or of another shape, with all of them in one table; nothing is loaded then.
pub fn load<M: Module>(
    network: M,
    weights: Weights,
    key: impl Fn(&str) -> Key,
    ignored: impl Fn(&str) -> bool,
) -> Result<M> {
    let file = match weights {
        Weights::Ours(weights) => return state::load(network, weights),
        Weights::Theirs(file) => file,
    };
    let own = state::shapes(&network);
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    let mut weights = Tensors::new();
    for (name, ours) in &own {
        let key = key(name);
        used.insert(key.name.clone());
        let Some(theirs) = file.get(&key.name) else {
            faults.push(format!("missing     {} (our {name})", key.name));
            continue;
        };
        let shape = key.whole(ours);
        if theirs.shape().to_vec() != shape || !theirs.dtype().is_float() {
            faults.push(format!(
                "misshapen   {} is {:?} {:?}, expected {shape:?}",
                key.name,
                theirs.dtype(),
                theirs.shape().to_vec()
            ));
            continue;
        }
        weights.insert(name.clone(), key.take(theirs, ours));
    }
    faults.extend(
        file.keys().filter(|name| !used.contains(*name) && !ignored(name)).map(|name| format!("unexpected  {name}")),
    );
    faults.dedup();
    ensure!(
        faults.is_empty(),
        "the weights do not fit the network of this config; nothing was loaded:\n  {}",
        faults.join("\n  ")
    );
    state::load(network, &weights)
}

/// Tensors of ours, by our names and in our layouts, as those of a source.
fn joined(ours: Tensors, key: &dyn Fn(&str) -> Key) -> Tensors {
    let mut whole: BTreeMap<String, (Vec<usize>, DType, Vec<u8>)> = BTreeMap::new();
    for (name, ours) in ours {
        let key = key(&name);
        let (shape, kind) = (ours.shape().to_vec(), ours.dtype());
        let (part, theirs) = (turn(ours, &key.form, &shape, false), key.whole(&shape));
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

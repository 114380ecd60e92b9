//! A network against stored inputs and outputs of the implementation its weights come from.
//!
//! The files are those of `DIR/io.safetensors` and `DIR/grad.safetensors`: inputs and outputs by name, a case other than the main one
//! with its name and a dot before them; `NAME_f64` is an output computed in f64, `act.MODULE` what a module returned in the
//! main case; `grad.KEY` and `grad_f64.KEY` are gradients of Σ out · r.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use burn::{
    module::Module,
    tensor::{DType, Device, Gradients, Tensor, TensorData},
};
use stein::{Condition, Context, Error, Result};

use super::Key;
use crate::{
    files::read_tensors,
    ops::Dual,
    state::{self, Tensors},
    trace::{self, Trace},
};

/// The inputs of one case, by the names and in the layouts of the reference.
pub struct Case<'a> {
    /// `main` or the case's name.
    pub name: String,
    tensors: &'a Tensors,
    device: Device,
    kind: DType,
    /// Stands for the input `x`, so that its gradient can be asked for.
    leaf: Option<Tensor<4>>,
}

impl Case<'_> {
    /// Whether there is an input of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(&self.key(name))
    }

    fn key(&self, name: &str) -> String {
        if self.name == "main" { name.to_owned() } else { format!("{}.{name}", self.name) }
    }

    fn data(&self, name: &str) -> Result<TensorData> {
        let key = self.key(name);
        self.tensors.get(&key).cloned().ok_or_else(|| {
            Error::new(format!("the stored inputs lack {key}: this check needs them from the reference"))
        })
    }

    fn tensor<const D: usize>(&self, name: &str) -> Result<Tensor<D>> {
        let data = self.data(name)?;
        if data.shape().len() != D {
            return Err(Error::new(format!("the stored input {name} has shape {:?}: expected {D} axes", data.shape())));
        }
        Ok(Tensor::from_data(data.convert_dtype(self.kind), (&self.device, self.kind)))
    }

    /// Images `[N, C, H, W]` as ours `[N, H, W, C]`.
    ///
    /// # Errors
    /// When there is no such input, or it is of another rank; as the following.
    pub fn images(&self, name: &str) -> Result<Dual<4>> {
        let x = match (&self.leaf, name) {
            (Some(leaf), "x") => leaf.clone(),
            _ => self.tensor(name)?,
        };
        Ok(x.permute([0, 2, 3, 1]).into())
    }

    /// A number per sample.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn numbers(&self, name: &str) -> Result<Dual<1>> {
        Ok(self.tensor::<1>(name)?.into())
    }

    /// A vector per sample.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn rows(&self, name: &str) -> Result<Dual<2>> {
        Ok(self.tensor::<2>(name)?.into())
    }

    /// Tokens `[N, L, C]`.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn tokens(&self, name: &str) -> Result<Dual<3>> {
        Ok(self.tensor::<3>(name)?.into())
    }

    /// A context of the numbers under a name and a condition.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn context<'a>(&self, noise: &str, given: &'a Condition) -> Result<Context<'a>> {
        Ok(Context { noise: self.numbers(noise)?, second: None, given, dropout: None })
    }

    /// A class per sample.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn classes(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self.data(name)?.iter::<i64>().map(|class| class as u32).collect())
    }
}

/// An output in the order of the reference's numbers.
pub struct Output(Tensor<1>);

impl Output {
    /// Ours `[N, H, W, C]`, theirs `[N, C, H, W]`.
    pub fn images(x: Dual<4>) -> Self {
        Self(x.value.permute([0, 3, 1, 2]).reshape([-1]))
    }

    /// The same layout.
    pub fn plain<const D: usize>(x: Dual<D>) -> Self {
        Self(x.value.reshape([-1]))
    }
}

/// An imported network that can be compared with its reference.
pub trait Reference {
    /// Outputs by the reference's names.
    ///
    /// # Errors
    /// When inputs are missing or do not fit.
    fn run(&self, case: &Case) -> Result<Vec<(String, Output)>>;
    /// What a module of the reference returned, from what was noted on the way.
    fn activation(&self, module: &str, seen: &Trace) -> Option<TensorData>;
    /// Gradients by the file's keys, in the file's layout.
    fn gradients(&self, of: &Gradients) -> Tensors;
    /// The number of values in all parameters, frozen ones included.
    fn parameters(&self) -> usize;
    /// The weights by our names.
    fn weights(&self) -> Tensors;
    /// The file's keys of all parameters.
    fn keys(&self) -> BTreeSet<String>;
    /// The weights by the file's keys, in the file's layout.
    fn exported(&self) -> Tensors;
    /// The same in another float type, with or without autodiff.
    fn prepared(&self, kind: DType, tracked: bool) -> Box<dyn Reference>;
}

type Run<N> = Arc<dyn Fn(&N, &Case) -> Result<Vec<(String, Output)>> + Send + Sync>;
type Names = Arc<dyn Fn(&str) -> Key + Send + Sync>;
type Seen = Arc<dyn Fn(&str, &Trace) -> Option<TensorData> + Send + Sync>;

/// A network with its importer's tables.
#[derive(Clone)]
pub struct Imported<N> {
    /// The network, on an autodiff device.
    pub network: N,
    /// For our parameter, theirs.
    pub key: Names,
    /// Evaluates a stored case.
    pub run: Run<N>,
    /// What a module of the reference returned.
    pub seen: Seen,
}

impl<N: Module + Clone + 'static> Reference for Imported<N> {
    fn run(&self, case: &Case) -> Result<Vec<(String, Output)>> {
        (self.run)(&self.network, case)
    }

    fn activation(&self, module: &str, seen: &Trace) -> Option<TensorData> {
        (self.seen)(module, seen)
    }

    fn gradients(&self, of: &Gradients) -> Tensors {
        let found = state::gradients(&self.network, of);
        super::joined(found, &*self.key)
    }

    fn parameters(&self) -> usize {
        self.network.num_params()
    }

    fn weights(&self) -> Tensors {
        state::tensors(&self.network)
    }

    fn keys(&self) -> BTreeSet<String> {
        state::shapes(&self.network).keys().map(|name| (self.key)(name).name).collect()
    }

    fn exported(&self) -> Tensors {
        super::joined(self.weights(), &*self.key)
    }

    fn prepared(&self, kind: DType, tracked: bool) -> Box<dyn Reference> {
        let network = state::cast(self.network.clone(), kind);
        let network = if tracked { network } else { network.valid() };
        Box::new(Self { network, key: self.key.clone(), run: self.run.clone(), seen: self.seen.clone() })
    }
}

/// One tensor compared.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The tensor, with its case.
    pub name: String,
    /// The largest number of the reference.
    pub largest: f64,
    /// The largest absolute difference.
    pub absolute: f64,
    /// The largest difference allowed.
    pub bound: f64,
    /// Whether the reference computed it in f64.
    pub double: bool,
}

impl Checked {
    /// The difference over the largest number.
    pub fn relative(&self) -> f64 {
        self.absolute / self.largest.max(f64::MIN_POSITIVE)
    }

    /// Whether it is within its bound.
    pub fn passed(&self) -> bool {
        self.absolute <= self.bound
    }
}

fn compare(name: &str, found: &TensorData, wanted: &TensorData, gap: f64, double: bool) -> Checked {
    let largest = wanted.iter::<f64>().fold(0.0f64, |most, x| most.max(x.abs()));
    let absolute = if found.num_elements() == wanted.num_elements() {
        // A difference that is not a number is a failure, which `max` would hide.
        let differences = found.iter::<f64>().zip(wanted.iter::<f64>()).map(|(a, b)| (a - b).abs());
        differences.fold(0.0f64, |most, x| if x.is_nan() { f64::INFINITY } else { most.max(x) })
    } else {
        f64::INFINITY
    };
    Checked { name: name.to_owned(), largest, absolute, bound: (RELATIVE * largest).max(GAPS * gap), double }
}

/// The largest difference allowed, over the largest number; or that many times the reference's own difference of f32 from f64,
/// whichever is larger.
const RELATIVE: f64 = 1e-4;
const GAPS: f64 = 20.0;

fn gap(single: Option<&TensorData>, double: &TensorData) -> f64 {
    let Some(single) = single else { return 0.0 };
    single.iter::<f64>().zip(double.iter::<f64>()).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

/// Compares all that is stored in a folder with what the network gives, computing in `kind`.
///
/// # Errors
/// When the files cannot be read, or the network cannot be run on them.
pub fn check(reference: &dyn Reference, folder: &Path, kind: DType) -> Result<Vec<Checked>> {
    let stored = read_tensors(&folder.join("io.safetensors"))?;
    let plain = reference.prepared(kind, false);
    let mut cases: Vec<String> = Vec::new();
    for name in stored.keys().filter(|name| !name.starts_with("act.")) {
        let case = name.split_once('.').map_or("main", |(case, _)| case).to_owned();
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    let mut all = Vec::new();
    for name in cases {
        let case = Case { name: name.clone(), tensors: &stored, device: Device::flex(), kind, leaf: None };
        let (outputs, seen) = trace::record(|| plain.run(&case));
        let outputs = outputs?;
        let given = |key: &str| outputs.iter().any(|(output, _)| case.key(output) == key);
        let of_case = |key: &str| key.split_once('.').map_or("main", |(case, _)| case) == name;
        if let Some(missing) =
            stored.keys().filter(|key| of_case(key)).find(|key| key.strip_suffix("_f64").is_some_and(|key| !given(key)))
        {
            return Err(Error::new(format!("the reference stored {missing}, which this network does not compute")));
        }
        for (output, Output(found)) in outputs {
            let key = case.key(&output);
            let Some(wanted) = stored.get(&format!("{key}_f64")).or_else(|| stored.get(&key)) else { continue };
            let gap = gap(stored.get(&key), wanted);
            all.push(compare(
                &format!("{name}: {output}"),
                &found.into_data(),
                wanted,
                gap,
                stored.contains_key(&format!("{key}_f64")),
            ));
        }
        if name != "main" {
            continue;
        }
        for (key, wanted) in &stored {
            let Some(module) = key.strip_prefix("act.") else { continue };
            let found = plain.activation(module, &seen).ok_or_else(|| {
                Error::new(format!("nothing of this network is what the reference's module {module} returned"))
            })?;
            all.push(compare(key, &found, wanted, 0.0, false));
        }
    }
    let path = folder.join("grad.safetensors");
    if path.exists() {
        all.extend(check_gradients(reference, &stored, &read_tensors(&path)?, kind)?);
    }
    Ok(all)
}

fn check_gradients(reference: &dyn Reference, stored: &Tensors, wanted: &Tensors, kind: DType) -> Result<Vec<Checked>> {
    let lacks = |name: &str| Error::new(format!("the stored gradients lack {name}"));
    let device = Device::flex().autodiff();
    let tracked = reference.prepared(kind, true);
    let x = stored.get("x").ok_or_else(|| lacks("x"))?.clone().convert_dtype(kind);
    let leaf = Tensor::<4>::from_data(x, (&device, kind)).require_grad();
    let case =
        Case { name: "main".to_owned(), tensors: stored, device: device.clone(), kind, leaf: Some(leaf.clone()) };
    let outputs = tracked.run(&case)?;
    let (_, Output(out)) = outputs.into_iter().find(|(name, _)| name == "out").ok_or_else(|| lacks("out"))?;
    let r = wanted.get("r").ok_or_else(|| lacks("r"))?;
    let r = Tensor::<1>::from_data(super::flat(r.clone().convert_dtype(kind)), (&device, kind));
    let gradients = (out * r).sum().backward();
    let mut found = tracked.gradients(&gradients);
    found.insert("x".to_owned(), leaf.grad(&gradients).ok_or_else(|| lacks("x"))?.into_data());
    let mut all = Vec::new();
    for (name, single) in wanted {
        let Some(key) = name.strip_prefix("grad.") else { continue };
        let double = wanted.get(&format!("grad_f64.{key}"));
        let wanted = double.unwrap_or(single);
        let found = found.get(key).ok_or_else(|| Error::new(format!("no parameter of this network is {key}")))?;
        all.push(compare(name, found, wanted, gap(Some(single), wanted), double.is_some()));
    }
    Ok(all)
}

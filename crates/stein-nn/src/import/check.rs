//! A network against stored inputs and outputs of the implementation its weights come from.
//!
//! The files are those of `DIR/io.safetensors` and `DIR/grad.safetensors`: inputs and outputs by name, a case other than the main one
//! with its name and a dot before them; `NAME_f64` is an output computed in f64, `act.MODULE` what a module returned in the
//! main case; `grad.KEY` and `grad_f64.KEY` are gradients of Σ out · r. Those of a loss that is itself an output of the main case,
//! `bits_per_dim`, are in `io.safetensors`, as `grad.KEY` and `grad.KEY_f64`, and those of the output `loss` of another case as
//! `CASE.grad.KEY`, if the case does not give them itself.
//!
//! A case of a network with what surrounds it goes through the denoiser or flow map that is sampled: see [`Case::denoised`].

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use burn::{
    module::Module,
    tensor::{DType, Device, Gradients, Tensor, TensorData},
};
use stein::{
    AnySchedule, Condition, Context, Edm, FlowMap, Kernel, Levels, MapNetwork, MapSettings, Network, Precondition,
    Preconditioned, Result, Schedule, ensure, estimate,
};

use super::{
    Names, Weights,
    key::{flat, joined, load},
    mismatch, unsupported,
};
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

impl<'a> Case<'a> {
    /// The case of that name among stored tensors, to be computed in `kind`.
    pub fn new(name: &str, tensors: &'a Tensors, kind: DType) -> Self {
        Self { name: name.to_owned(), tensors, device: Device::flex(), kind, leaf: None }
    }

    /// Whether there is an input of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(&self.key(name))
    }

    fn key(&self, name: &str) -> String {
        if self.name == "main" { name.to_owned() } else { format!("{}.{name}", self.name) }
    }

    fn data(&self, name: &str) -> Result<TensorData> {
        let key = self.key(name);
        let lacks = || mismatch(format!("the stored inputs lack {key}: this check needs them from the reference"));
        self.tensors.get(&key).cloned().ok_or_else(lacks)
    }

    fn tensor<const D: usize>(&self, name: &str) -> Result<Tensor<D>> {
        let data = self.data(name)?;
        let shape = data.shape();
        ensure!(Kind::Mismatch, shape.len() == D, "the stored input {name} has shape {shape:?}: expected {D} axes");
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

    /// The context of the numbers under a name and a condition.
    ///
    /// # Errors
    /// As [`images`](Self::images).
    pub fn context<'g>(&self, noise: &str, given: &'g Condition) -> Result<Context<'g>> {
        Ok(Context::new(self.tensor(noise)?, given))
    }

    /// The classes under a name, one per sample; no condition where there are none.
    ///
    /// # Errors
    /// As [`images`](Self::images), and for what is no class.
    pub fn classes(&self, name: &str) -> Result<Condition> {
        if !self.has(name) {
            return Ok(Condition::none());
        }
        let class = |class: i64| {
            u32::try_from(class)
                .map_err(|_| mismatch(format!("the stored input {name} has {class}, which is no class")))
        };
        Ok(Condition::classes(self.data(name)?.iter::<i64>().map(class).collect::<Result<Vec<_>>>()?))
    }

    /// The same, where the class after the last of `known` stands for none.
    ///
    /// # Errors
    /// As [`classes`](Self::classes).
    pub fn classes_or_none(&self, name: &str, known: usize) -> Result<Condition> {
        let mut given = self.classes(name)?;
        for class in given.class.iter_mut().flatten() {
            *class = class.filter(|class| (*class as usize) < known);
        }
        Ok(given)
    }

    /// The output `out` of a network for the images `x` and the numbers under a name.
    ///
    /// # Errors
    /// As [`images`](Self::images), and those of the network.
    pub fn out(
        &self,
        noise: &str,
        given: &Condition,
        images: impl FnOnce(Dual<4>, &Context) -> Result<Dual<4>>,
    ) -> Result<Vec<Output>> {
        Ok(vec![Output::images("out", images(self.images("x")?, &self.context(noise, given)?)?)])
    }

    /// What a network gives for the images `x` = x_0 + σ ε and a `sigma` each within what surrounds it where it is sampled, and
    /// the estimate that is made of it.
    ///
    /// # Errors
    /// As [`images`](Self::images), and those of the network and of what surrounds it.
    pub fn denoised(
        &self,
        given: &Condition,
        images: impl Fn(Dual<4>, &Context) -> Result<Dual<4>> + Send + Sync,
        around: &Surroundings,
    ) -> Result<(Dual<4>, Dual<4>)> {
        let x = self.images("x")?;
        let [count, height, width, channels] = x.dims();
        let sigma = self.data("sigma")?;
        let kernels: Vec<Kernel> = sigma.iter::<f64>().map(|sigma| Edm::default().kernel(sigma)).collect();
        let levels = Levels::Each(&kernels);
        let network = OnRows { images, size: [height, width, channels], seen: Mutex::new(None) };
        let rows = x.reshape([count, height * width * channels]);
        let mean = match around {
            Surroundings::Denoiser(schedule, precondition) => {
                let denoiser = Preconditioned::new(&network, *precondition, schedule.clone())?;
                estimate(&denoiser, rows, levels, given)?.mean
            }
            Surroundings::FlowMap(schedule, consistency) => {
                let end = schedule.kernel(schedule.span().0);
                MapNetwork::new(&network, *consistency, schedule.clone())?.carry(
                    rows,
                    levels,
                    Levels::Same(&end),
                    given,
                )?
            }
        };
        let raw = network.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        let raw = raw.ok_or_else(|| unsupported("the network was not asked for anything"))?;
        Ok((raw, mean.reshape([count, height, width, channels])))
    }
}

/// What surrounds a network where it is sampled, with the schedule it was trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum Surroundings {
    /// Those of a denoiser.
    Denoiser(AnySchedule, Precondition),
    /// Those of a consistency function.
    FlowMap(AnySchedule, MapSettings),
}

/// A network of images on images of one size as rows, which keeps what it gave.
struct OnRows<F> {
    images: F,
    size: [usize; 3],
    seen: Mutex<Option<Dual<4>>>,
}

impl<F: Fn(Dual<4>, &Context) -> Result<Dual<4>> + Send + Sync> Network for OnRows<F> {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        let (count, [height, width, channels]) = (x.dims()[0], self.size);
        let y = (self.images)(x.reshape([count, height, width, channels]), context)?;
        let found = y.dims()[3];
        ensure!(
            Kind::Unsupported,
            [channels, 2 * channels].contains(&found),
            "the network gives {found} channels for {channels}: what surrounds it is compared only where it gives as many, or variances \
             too"
        );
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(y.clone());
        // The variances after all of what it predicts.
        let part =
            |from: usize| y.clone().linear(|y| y.narrow(3, from, channels).reshape([count, height * width * channels]));
        Ok(Dual::cat((0..found).step_by(channels).map(part).collect(), 1))
    }
}

/// An output by the reference's name, in the order of its numbers.
pub struct Output {
    name: String,
    values: Tensor<1>,
}

impl Output {
    /// Ours `[N, H, W, C]`, theirs `[N, C, H, W]`.
    pub fn images(name: impl Into<String>, x: Dual<4>) -> Self {
        Self { name: name.into(), values: x.value.permute([0, 3, 1, 2]).reshape([-1]) }
    }

    /// The same layout.
    pub fn plain<const D: usize>(name: impl Into<String>, x: Dual<D>) -> Self {
        Self { name: name.into(), values: x.value.reshape([-1]) }
    }
}

/// An imported network that can be compared with its reference.
pub trait Reference {
    /// Outputs by the reference's names, in the order of its numbers.
    ///
    /// # Errors
    /// When inputs are missing or do not fit.
    fn run(&self, case: &Case) -> Result<Vec<Output>>;
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

impl dyn Reference + '_ {
    /// The outputs of a case by name, and what modules noted on the way. The network has to be [prepared](Reference::prepared)
    /// in the float type of the case, without autodiff.
    ///
    /// # Errors
    /// As [`run`](Reference::run).
    pub fn outputs(&self, case: &Case) -> Result<(Tensors, Trace)> {
        let (outputs, seen) = trace::record(|| self.run(case));
        let outputs = outputs?.into_iter().map(|output| (output.name, output.values.into_data()));
        Ok((outputs.collect(), seen))
    }

    /// Of the main case among stored tensors, the gradients of Σ y · r, y being the output of that name, by all parameters and the
    /// images `x` if they are an input, by the file's keys and computed in `kind`.
    ///
    /// # Errors
    /// As [`run`](Reference::run).
    pub fn slopes(&self, stored: &Tensors, output: &str, r: &TensorData, kind: DType) -> Result<Tensors> {
        let lacks = |name: &str| mismatch(format!("the stored gradients lack {name}"));
        let device = Device::flex().autodiff();
        let tracked = self.prepared(kind, true);
        let x = stored.get("x").ok_or_else(|| lacks("x"))?.clone();
        ensure!(Kind::Mismatch, x.shape().len() == 4, "the stored input x has shape {:?}: expected images", x.shape());
        let leaf = Tensor::<4>::from_data(x.convert_dtype(kind), (&device, kind)).require_grad();
        let leaf = Some(leaf);
        let case = Case { device: device.clone(), leaf: leaf.clone(), ..Case::new("main", stored, kind) };
        let out = tracked.run(&case)?.into_iter().find(|found| found.name == output).ok_or_else(|| lacks(output))?;
        ensure!(
            Kind::Mismatch,
            out.values.dims()[0] == r.num_elements(),
            "the stored r has {} numbers for an output of {}",
            r.num_elements(),
            out.values.dims()[0]
        );
        let r = Tensor::<1>::from_data(flat(r.clone().convert_dtype(kind)), (&device, kind));
        let gradients = (out.values * r).sum().backward();
        let mut found = tracked.gradients(&gradients);
        found.extend(leaf.and_then(|leaf| leaf.grad(&gradients)).map(|slope| ("x".to_owned(), slope.into_data())));
        Ok(found)
    }

    /// The gradients of the output `loss` of a case by all parameters, by the file's keys.
    fn loss_slopes(&self, case: &Case) -> Result<Tensors> {
        let tracked = self.prepared(case.kind, true);
        let case = Case { device: Device::flex().autodiff(), ..Case::new(&case.name, case.tensors, case.kind) };
        let loss = tracked.run(&case)?.into_iter().find(|output| output.name == "loss");
        let loss = loss.ok_or_else(|| mismatch(format!("{} has gradients, but no output loss", case.name)))?;
        Ok(tracked.gradients(&loss.values.sum().backward()))
    }
}

type Run<N> = Arc<dyn Fn(&N, &Case) -> Result<Vec<Output>> + Send + Sync>;

/// A network with its importer's tables.
#[derive(Clone)]
pub struct Imported<N> {
    /// The network, on an autodiff device.
    pub network: N,
    names: Arc<dyn Names>,
    run: Run<N>,
}

impl<N: Module> Imported<N> {
    /// A network with the weights of a file under these names; `run` evaluates a stored case.
    ///
    /// # Errors
    /// When tensors are missing, left over, or of another shape, with all of them in one table.
    pub fn new(
        network: N,
        names: impl Names + 'static,
        weights: Weights,
        run: impl Fn(&N, &Case) -> Result<Vec<Output>> + Send + Sync + 'static,
    ) -> Result<Self> {
        Ok(Self { network: load(network, weights, &names)?, names: Arc::new(names), run: Arc::new(run) })
    }
}

impl<N: Module + Clone + 'static> Reference for Imported<N> {
    fn run(&self, case: &Case) -> Result<Vec<Output>> {
        (self.run)(&self.network, case)
    }

    fn activation(&self, module: &str, seen: &Trace) -> Option<TensorData> {
        self.names.seen(module, seen)
    }

    fn gradients(&self, of: &Gradients) -> Tensors {
        joined(state::gradients(&self.network, of), &*self.names)
    }

    fn parameters(&self) -> usize {
        self.network.num_params()
    }

    fn weights(&self) -> Tensors {
        state::tensors(&self.network)
    }

    fn keys(&self) -> BTreeSet<String> {
        state::shapes(&self.network).iter().map(|(name, shape)| self.names.key(name, shape).name).collect()
    }

    fn exported(&self) -> Tensors {
        joined(self.weights(), &*self.names)
    }

    fn prepared(&self, kind: DType, tracked: bool) -> Box<dyn Reference> {
        let network = state::cast(self.network.clone(), kind);
        let network = if tracked { network } else { network.valid() };
        Box::new(Self { network, names: self.names.clone(), run: self.run.clone() })
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

/// The output whose gradients lie beside it.
const LOSS: &str = "bits_per_dim";

/// The largest difference allowed, over the largest number; or that many times the reference's own difference of f32 from f64,
/// whichever is larger.
const RELATIVE: f64 = 1e-4;
const GAPS: f64 = 20.0;

/// What was found against the reference's number in f32, in f64, or both.
pub(super) fn compare(
    name: String,
    found: &TensorData,
    single: Option<&TensorData>,
    double: Option<&TensorData>,
) -> Option<Checked> {
    let wanted = double.or(single)?;
    let apart = |a: &TensorData, b: &TensorData| {
        if a.num_elements() != b.num_elements() {
            return f64::INFINITY;
        }
        // A difference that is not a number is a failure, which `max` would hide.
        let differences = a.iter::<f64>().zip(b.iter::<f64>()).map(|(a, b)| (a - b).abs());
        differences.fold(0.0f64, |most, x| if x.is_nan() { f64::INFINITY } else { most.max(x) })
    };
    let largest = wanted.iter::<f64>().fold(0.0f64, |most, x| most.max(x.abs()));
    let gap = single.map_or(0.0, |single| apart(single, wanted));
    let bound = (RELATIVE * largest).max(if gap.is_finite() { GAPS * gap } else { 0.0 });
    Some(Checked { name, largest, absolute: apart(found, wanted), bound, double: double.is_some() })
}

/// Compares all that is stored in a folder with what the network gives, computing in `kind`.
///
/// # Errors
/// When the files cannot be read, or the network cannot be run on them.
pub fn check(reference: &dyn Reference, folder: &Path, kind: DType) -> Result<Vec<Checked>> {
    let stored = read_tensors(&folder.join("io.safetensors"))?;
    let plain = reference.prepared(kind, false);
    let case_of = |key: &str| key.split_once('.').map_or("main", |(case, _)| case).to_owned();
    let cases: BTreeSet<String> =
        stored.keys().map(|key| case_of(key)).filter(|case| case != "act" && case != "grad").collect();
    let mut all = Vec::new();
    for name in cases {
        let case = Case::new(&name, &stored, kind);
        let (mut outputs, seen) = plain.outputs(&case)?;
        let slope = |key: &&String| key.starts_with(&format!("{name}.grad.")) && !key.ends_with("_f64");
        let slopes = stored.keys().filter(slope).filter_map(|key| key.strip_prefix(&format!("{name}.")));
        let slopes: Vec<&str> = slopes.filter(|key| !outputs.contains_key(*key)).collect();
        if !slopes.is_empty() {
            let mut all = reference.loss_slopes(&case)?;
            let found = |key: &str| Some((key.to_owned(), all.remove(key.strip_prefix("grad.")?)?));
            outputs.extend(slopes.into_iter().filter_map(found));
        }
        let missing = stored.keys().filter(|key| case_of(key) == name).filter_map(|key| key.strip_suffix("_f64"));
        if let Some(missing) = missing.into_iter().find(|key| !outputs.keys().any(|output| case.key(output) == *key)) {
            return Err(unsupported(format!("the reference stored {missing}, which this network does not compute")));
        }
        for (output, found) in &outputs {
            let key = case.key(output);
            let (single, double) = (stored.get(&key), stored.get(&format!("{key}_f64")));
            all.extend(compare(format!("{name}: {output}"), found, single, double));
        }
        if name != "main" {
            continue;
        }
        for (key, wanted) in &stored {
            let Some(module) = key.strip_prefix("act.") else { continue };
            let found = plain.activation(module, &seen).ok_or_else(|| no_module(module))?;
            all.extend(compare(key.clone(), &found, Some(wanted), None));
        }
    }
    let mut slopes = |wanted: &Tensors, output: &str, r: &TensorData, double: fn(&str) -> String| {
        let found = reference.slopes(&stored, output, r, kind)?;
        for (name, single) in wanted {
            let Some(key) = name.strip_prefix("grad.").filter(|key| !key.ends_with("_f64")) else { continue };
            let found = found.get(key);
            let found = found.ok_or_else(|| mismatch(format!("no parameter of this network is {key}")))?;
            all.extend(compare(name.clone(), found, Some(single), wanted.get(&double(key))));
        }
        Ok(())
    };
    let path = folder.join("grad.safetensors");
    if path.exists() {
        let wanted = read_tensors(&path)?;
        let r = wanted.get("r").ok_or_else(|| mismatch("the stored gradients lack r"))?;
        slopes(&wanted, "out", r, |key| format!("grad_f64.{key}"))?;
    }
    if stored.keys().any(|key| key.starts_with("grad.")) {
        slopes(&stored, LOSS, &TensorData::from([1f64]), |key| format!("grad.{key}_f64"))?;
    }
    Ok(all)
}

fn no_module(module: &str) -> stein::Error {
    unsupported(format!("nothing of this network is what the reference's module {module} returned"))
}

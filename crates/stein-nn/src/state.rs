//! The named weights of a network: out of it, into it, and through a function.
//!
//! A weight's name is its dotted path through the network's fields (`blocks.0.first.weight`); the variant of an enum
//! on the way is left out, so a network keeps its names inside and outside an [`AnyNetwork`](crate::AnyNetwork).

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Device, Gradients, Shape, Tensor, TensorData},
};
use stein::{Result, ensure};

/// Host copies of tensors by name, in the order of their names.
pub type Tensors = BTreeMap<String, TensorData>;

/// The shape of every parameter and its values as one vector without autodiff, by name.
pub(crate) type Flat = BTreeMap<String, (Shape, Tensor<1>)>;

/// The path from the root of a module to where a traversal stands.
#[derive(Default)]
struct Path(Vec<(String, bool)>);

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        self.0.push((name.to_owned(), !container.starts_with("Enum:")));
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn name(&self) -> String {
        self.0.iter().filter(|(_, kept)| *kept).map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".")
    }
}

/// What is looked at in a parameter of any rank.
pub(crate) trait Look {
    /// Looks at one, given by name.
    fn look<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>);
}

/// Looks at every float parameter of a module, frozen ones included.
pub(crate) fn visit<M: Module, L: Look>(module: &M, look: L) -> L {
    struct Visitor<L>(Path, L);
    impl<L: Look> ModuleVisitor for Visitor<L> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.look(self.0.name(), param);
        }
    }
    let mut visitor = Visitor(Path::default(), look);
    module.visit(&mut visitor);
    visitor.1
}

/// Every float parameter of a module, frozen ones included. The values share memory with the parameters.
pub(crate) fn flat<M: Module>(module: &M) -> Flat {
    struct Values(Flat);
    impl Look for Values {
        fn look<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
            let value = param.val().inner();
            self.0.insert(name, (value.shape(), value.reshape([-1])));
        }
    }
    visit(module, Values(Flat::new())).0
}

/// The shape of every float parameter of a module, frozen ones included.
pub(crate) fn shapes<M: Module>(module: &M) -> BTreeMap<String, Shape> {
    struct Shapes(BTreeMap<String, Shape>);
    impl Look for Shapes {
        fn look<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
            self.0.insert(name, param.val().shape());
        }
    }
    visit(module, Shapes(BTreeMap::new())).0
}

/// The module with the values of every float parameter replaced by a function of its name and its values.
///
/// The function gets and returns one vector without autodiff. A parameter that was a trainable leaf is one again.
pub(crate) fn map<M: Module>(module: M, value: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> M {
    struct Map<F>(Path, F);
    impl<F: FnMut(&str, Tensor<1>) -> Tensor<1>> ModuleMapper for Map<F> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, old, mapper) = param.consume();
            let (dims, trained, strategy) = (old.dims(), old.is_require_grad(), old.gradient_checkpointing_strategy());
            let new = (self.1)(&self.0.name(), old.inner().reshape([-1])).reshape(dims);
            let new = match strategy {
                Some(strategy) => {
                    new.autodiff().with_gradient_checkpointing_strategy(strategy).set_require_grad(trained)
                }
                None => new,
            };
            Param::from_mapped_value(id, new, mapper)
        }
    }
    module.map(&mut Map(Path::default(), value))
}

/// The module with every float parameter in another float type.
pub fn cast<M: Module>(module: M, kind: DType) -> M {
    map(module, |_, value| value.cast(kind))
}

/// The network with every weight w moved to μ w + (1 − μ) w', w' being that of another network of the same architecture.
///
/// # Panics
/// If the other is of another architecture.
pub fn follow<M: Module>(network: M, other: &M, decay: f64) -> M {
    if decay == 1.0 {
        return network;
    }
    let mut others = flat(other);
    map(network, |name, weight| {
        let (_, other) = others.remove(name).expect("a network follows one of its own architecture");
        if decay == 0.0 { other } else { other.clone() + (weight - other) * decay }
    })
}

/// The gradient of every parameter that has one, by name, in the shape of the parameter.
pub fn gradients<M: Module>(module: &M, gradients: &Gradients) -> Tensors {
    struct Found<'a>(&'a Gradients, Tensors);
    impl Look for Found<'_> {
        fn look<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.0) {
                self.1.insert(name, gradient.into_data());
            }
        }
    }
    visit(module, Found(gradients, Tensors::new())).1
}

/// A tensor of these values and the type of `like`, on its device and without autodiff.
pub(crate) fn vector_like(data: TensorData, like: &Tensor<1>) -> Tensor<1> {
    let count = data.num_elements();
    let data = TensorData::from_bytes(data.bytes().clone(), [count], data.dtype());
    Tensor::from_data(data, (&like.device(), like.dtype()))
}

/// Host copies of all weights of a network, frozen ones (the frequencies of its noise embedding) included.
pub fn tensors<M: Module>(network: &M) -> Tensors {
    flat(network).into_iter().map(|(name, (shape, value))| (name, shaped(value, shape))).collect()
}

/// A vector's values on the host in a shape of the same size.
pub(crate) fn shaped(value: Tensor<1>, shape: Shape) -> TensorData {
    let (bytes, _, kind) = value.into_data().into_parts();
    TensorData::from_bytes(bytes, shape, kind)
}

/// The network with all its weights replaced by named ones. Values are converted to the network's float type.
///
/// # Errors
/// When a name is missing, unexpected, or has another shape than the network's; nothing is loaded then.
pub fn load<M: Module>(network: M, weights: &Tensors) -> Result<M> {
    check(&shapes(&network), weights)?;
    Ok(map(network, |name, old| vector_like(weights[name].clone(), &old)))
}

/// The network with some of its weights replaced by named ones.
///
/// # Errors
/// When a name is unexpected or has another shape than the network's.
pub fn replace<M: Module>(network: M, mut weights: Tensors) -> Result<M> {
    if weights.is_empty() {
        return Ok(network);
    }
    let own = shapes(&network).into_iter().filter(|(name, _)| weights.contains_key(name)).collect();
    check(&own, &weights)?;
    Ok(map(network, |name, old| match weights.remove(name) {
        Some(new) => vector_like(new, &old),
        None => old,
    }))
}

/// Fails unless the names and shapes of two sets of weights are the same, with all differences in one sentence.
pub(crate) fn check(own: &BTreeMap<String, Shape>, given: &Tensors) -> Result<()> {
    let missing = own.keys().filter(|name| !given.contains_key(*name)).cloned().collect();
    let unexpected = given.keys().filter(|name| !own.contains_key(*name)).cloned().collect();
    let misshapen = own
        .iter()
        .filter_map(|(name, shape)| Some((name, shape, given.get(name)?)))
        .filter(|(_, shape, data)| data.shape() != *shape || !data.dtype().is_float())
        .map(|(name, shape, data)| format!("{name} ({:?} {} for {shape})", data.dtype(), data.shape()))
        .collect();
    let faults: Vec<String> = [("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)]
        .into_iter()
        .filter(|(_, names): &(_, Vec<String>)| !names.is_empty())
        .map(|(fault, names)| format!("{} {fault}: {}", names.len(), some(&names)))
        .collect();
    ensure!(
        Kind::Mismatch,
        faults.is_empty(),
        "the weights are not those of this network ({}): build the network with the config they were saved with",
        faults.join("; ")
    );
    Ok(())
}

/// The first few of many names.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let rest = if names.len() > SHOWN { ", …" } else { "" };
    names[..names.len().min(SHOWN)].join(", ") + rest
}

/// Whether tensors of a device live in host memory, where a plain loop over slices beats a chain of tensor operations.
pub(crate) fn on_host(device: &Device) -> bool {
    *device == Device::flex()
}

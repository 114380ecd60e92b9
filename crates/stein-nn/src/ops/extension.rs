//! How a kernel becomes an operation of the engine: one extension of its CPU backend, with and without autodiff.
//!
//! An [`Operation`] is a value with its sizes; its inputs and output are dense tensors of f32 in host memory. [`apply`]
//! runs it and, where a gradient can be asked for, puts its backward on the engine's tape.

use std::{
    fmt::Debug,
    sync::{Arc, OnceLock},
};

use burn::{
    backend::{
        Autodiff, Backend, Dispatch, ExtensionType, Flex,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        flex::FlexTensor,
        tensor::FloatTensor,
    },
    tensor::{DType, Tensor},
};

use stein_simd::Memory;

use super::buffer::tensor;

/// What an operation's forward keeps for its backward besides its inputs.
pub(super) type Saved = Vec<Vec<f32>>;

/// A differentiable function of dense tensors, on slices.
pub(super) trait Operation: Debug + Send + Sync {
    /// The shape of the output.
    fn shape(&self) -> Vec<usize>;
    /// Writes the output; returns what [`backward`](Self::backward) needs if any of the inputs is on the tape, by `tracked`.
    fn forward(&self, inputs: &[FlexTensor], tracked: &[bool], output: &mut [f32]) -> Saved;
    /// Whether the backward reads this input, given which inputs are on the tape.
    fn reads(&self, input: usize, tracked: &[bool]) -> bool;
    /// The gradients of the inputs that are wanted, from that of the output.
    fn backward(&self, inputs: &Read, saved: &Saved, dy: FlexTensor, wanted: &[bool]) -> Vec<Option<FlexTensor>>;
}

/// The inputs that a backward reads; no numbers stand for the others.
pub(super) struct Read<'a> {
    numbers: Vec<&'a [f32]>,
    tensors: &'a [Option<FlexTensor>],
}

impl<'a> Read<'a> {
    fn new(tensors: &'a [Option<FlexTensor>]) -> Self {
        Self { numbers: tensors.iter().map(|tensor| tensor.as_ref().map_or(&[][..], numbers)).collect(), tensors }
    }

    /// An input as the tensor it is.
    pub(super) fn tensor(&self, input: usize) -> &'a FlexTensor {
        self.tensors[input].as_ref().expect("a backward asks for the inputs that it says it reads")
    }
}

impl<'a> std::ops::Deref for Read<'a> {
    type Target = [&'a [f32]];

    fn deref(&self) -> &Self::Target {
        &self.numbers
    }
}

/// What the kernels of a value leave for those of its tangent: sums over the input, such as the moments of a normalization.
pub(super) type Left = Arc<OnceLock<Saved>>;

/// The inputs of an operation: the engine routes tensors it can see, one by one.
#[derive(ExtensionType)]
pub(super) enum Operands<B: Backend> {
    One(FloatTensor<B>),
    Two(FloatTensor<B>, FloatTensor<B>),
    Three(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    Four(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    Five(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    Six(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    Seven(
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
    ),
    Eight(
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
    ),
    Nine(
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
    ),
    Ten(
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
    ),
}

impl<B: Backend> Operands<B> {
    fn list(self) -> Vec<FloatTensor<B>> {
        match self {
            Self::One(a) => vec![a],
            Self::Two(a, b) => vec![a, b],
            Self::Three(a, b, c) => vec![a, b, c],
            Self::Four(a, b, c, d) => vec![a, b, c, d],
            Self::Five(a, b, c, d, e) => vec![a, b, c, d, e],
            Self::Six(a, b, c, d, e, f) => vec![a, b, c, d, e, f],
            Self::Seven(a, b, c, d, e, f, g) => vec![a, b, c, d, e, f, g],
            Self::Eight(a, b, c, d, e, f, g, h) => vec![a, b, c, d, e, f, g, h],
            Self::Nine(a, b, c, d, e, f, g, h, i) => vec![a, b, c, d, e, f, g, h, i],
            Self::Ten(a, b, c, d, e, f, g, h, i, j) => vec![a, b, c, d, e, f, g, h, i, j],
        }
    }

    fn of(list: Vec<FloatTensor<B>>) -> Self {
        let count = list.len();
        let mut list = list.into_iter();
        let mut next = || list.next().expect("it was counted");
        match count {
            1 => Self::One(next()),
            2 => Self::Two(next(), next()),
            3 => Self::Three(next(), next(), next()),
            4 => Self::Four(next(), next(), next(), next()),
            5 => Self::Five(next(), next(), next(), next(), next()),
            6 => Self::Six(next(), next(), next(), next(), next(), next()),
            7 => Self::Seven(next(), next(), next(), next(), next(), next(), next()),
            8 => Self::Eight(next(), next(), next(), next(), next(), next(), next(), next()),
            9 => Self::Nine(next(), next(), next(), next(), next(), next(), next(), next(), next()),
            10 => Self::Ten(next(), next(), next(), next(), next(), next(), next(), next(), next(), next()),
            _ => unreachable!("no operation has {count} inputs"),
        }
    }
}

/// The extension: any operation, on any tensors of one device.
#[backend_extension(Flex, Autodiff)]
pub(super) trait Kernels: Backend {
    /// Runs the operation.
    fn apply(operation: Arc<dyn Operation>, #[extension_type] inputs: Operands<Self>) -> FloatTensor<Self>;
}

/// The numbers of a dense tensor.
pub(super) fn numbers(of: &FlexTensor) -> &[f32] {
    of.as_slice().expect("inputs of operations are made dense f32 tensors by `run`")
}

fn run(operation: &dyn Operation, inputs: &[FlexTensor], tracked: &[bool]) -> (FlexTensor, Saved) {
    let shape = operation.shape();
    let mut output = Memory::new(shape.iter().product());
    let saved = operation.forward(inputs, tracked, &mut output);
    (tensor(output, shape), saved)
}

fn dense(inputs: impl IntoIterator<Item = FlexTensor>) -> Vec<FlexTensor> {
    inputs
        .into_iter()
        .map(|input| if input.as_slice::<f32>().is_some() { input } else { input.to_contiguous() })
        .collect()
}

impl Kernels for Flex {
    fn apply(operation: Arc<dyn Operation>, inputs: Operands<Self>) -> FlexTensor {
        let inputs = dense(inputs.list());
        run(&*operation, &inputs, &vec![false; inputs.len()]).0
    }
}

/// The tape's entry: the operation and what its backward reads.
#[derive(Debug)]
struct Record;

#[derive(Debug, Clone)]
struct State {
    operation: Arc<dyn Operation>,
    inputs: Vec<Option<FlexTensor>>,
    saved: Arc<Saved>,
}

impl<const N: usize> Backward<Flex, N> for Record {
    type State = State;

    fn backward(self, ops: Ops<State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let State { operation, inputs, saved } = ops.state;
        let dy = gradients.consume::<Flex>(&ops.node);
        let dy = dense([dy]).remove(0);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = operation.backward(&Read::new(&inputs), &saved, dy, &wanted);
        for (parent, gradient) in ops.parents.iter().zip(found) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

fn record<C: CheckpointStrategy, const N: usize>(
    operation: Arc<dyn Operation>,
    inputs: Vec<FloatTensor<Autodiff<Flex, C>>>,
) -> FloatTensor<Autodiff<Flex, C>> {
    let mut guards = Vec::with_capacity(N);
    let mut tensors = Vec::with_capacity(N);
    let mut tracked = [false; N];
    for (tracked, input) in tracked.iter_mut().zip(inputs) {
        *tracked = input.is_tracked();
        let (tensor, guard) = input.into_parts();
        guards.push(guard);
        tensors.push(tensor);
    }
    let tensors = dense(tensors);
    let guards = <[_; N]>::try_from(guards).expect("`apply` counted the inputs");
    match Record.prepare::<C>(guards).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let (output, saved) = run(&*operation, &tensors, &tracked);
            let reads = |(i, tensor)| operation.reads(i, &tracked).then_some(tensor);
            let inputs = tensors.into_iter().enumerate().map(reads).collect();
            prepared.finish(State { operation, inputs, saved: Arc::new(saved) }, output)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(run(&*operation, &tensors, &tracked).0),
    }
}

impl<C: CheckpointStrategy> Kernels for Autodiff<Flex, C> {
    fn apply(operation: Arc<dyn Operation>, inputs: Operands<Self>) -> FloatTensor<Self> {
        let inputs = inputs.list();
        match inputs.len() {
            1 => record::<C, 1>(operation, inputs),
            2 => record::<C, 2>(operation, inputs),
            3 => record::<C, 3>(operation, inputs),
            4 => record::<C, 4>(operation, inputs),
            5 => record::<C, 5>(operation, inputs),
            6 => record::<C, 6>(operation, inputs),
            7 => record::<C, 7>(operation, inputs),
            8 => record::<C, 8>(operation, inputs),
            9 => record::<C, 9>(operation, inputs),
            10 => record::<C, 10>(operation, inputs),
            count => unreachable!("`Operands` have no {count} tensors"),
        }
    }
}

/// The inputs of an operation, of different ranks.
#[derive(Default)]
pub(super) struct Inputs(Vec<FloatTensor<Dispatch>>);

impl Inputs {
    pub(super) fn with<const D: usize>(mut self, tensor: Tensor<D>) -> Self {
        self.0.push(tensor.into_dispatch());
        self
    }

    pub(super) fn and<const D: usize>(self, tensor: Option<Tensor<D>>) -> Self {
        match tensor {
            Some(tensor) => self.with(tensor),
            None => self,
        }
    }

    /// The result of an operation on them.
    pub(super) fn apply<const D: usize>(self, operation: impl Operation + 'static) -> Tensor<D> {
        Tensor::from_dispatch(Dispatch::apply(Arc::new(operation), Operands::of(self.0)))
    }
}

/// Whether the kernels take a tensor: f32 in host memory. Others go through the engine's own operations.
pub(super) fn takes<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && crate::state::on_host(&tensor.device().inner())
}

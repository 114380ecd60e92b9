//! Initial weights, a function of the seed and of the place of a parameter in the order of construction.
//!
//! Parameter number k of a network draws from stream k of the seed's initial weights ([`Purpose::Weights`]), so the same config
//! and seed give the same weights whatever else the process draws. Layers use W ~ N(0, 1/fan_in) and b = 0 (LeCun et al.,
//! "Efficient BackProp", 1998); the layers a network says start at zero do (Goyal et al.,
//! arXiv:1706.02677).

use burn::{
    module::{Param, ParamId},
    tensor::{Device, Tensor, TensorData},
};
use stein::{Key, Purpose, Result, ensure};
use stein_base::memory::{available, ensure_fits};

/// Most tensors a network's weights are in: the largest published have some thousands.
const MOST_TENSORS: usize = 1 << 16;
/// Most values a blank network has of its own in one tensor.
const MOST_BLANK: usize = 1 << 20;

/// Draws the parameters of one network in order.
///
/// ```
/// use stein_nn::{burn::tensor::Tensor, layers::{Init, Linear}};
///
/// let device = stein::Device::flex();
/// let mut init = Init::new(1, &device);
/// let (first, last) = (Linear::new(4, 8, &mut init), Linear::zero(8, 2, &mut init));
/// let y = last.forward(first.forward(Tensor::<2>::ones([3, 4], &device).into()));
/// assert_eq!(y.dims(), [3, 2]);
/// ```
pub struct Init<'a> {
    /// None for zeros.
    seed: Option<u64>,
    drawn: u64,
    device: &'a Device,
    /// Tensors and values of parameters that were asked for so far, and values that their layers give for one sample.
    tensors: usize,
    values: u128,
    outputs: u128,
    /// The axes of samples that halve, none for rows, and their positions.
    axes: (usize, u128),
    /// Positions of a sample where the next layers work.
    positions: u128,
    /// Most values that are spread out of one.
    most: u128,
}

impl<'a> Init<'a> {
    /// Parameters on a device, drawn from a seed. They are trainable if the device has autodiff.
    pub fn new(seed: u64, device: &'a Device) -> Self {
        Self { seed: Some(seed), ..Self::blank(device) }
    }

    /// All zeros, and one number in memory for each parameter: for weights that will be replaced, or only counted.
    pub(crate) fn blank(device: &'a Device) -> Self {
        let most = u128::from(available().unwrap_or(isize::MAX as u64)) / 4;
        Self { seed: None, drawn: 0, device, tensors: 0, values: 0, outputs: 0, axes: (0, 1), positions: 1, most }
    }

    /// The same for samples of this shape, whose last axis is that of channels.
    pub(crate) fn of_samples(self, shape: &[usize]) -> Self {
        let axes = &shape[..shape.len().saturating_sub(1)];
        Self { axes: (axes.len(), product(axes)), ..self }
    }

    /// Says that the next layers work on samples that were halved this many times.
    pub(crate) fn at_level(&mut self, level: usize) {
        let (axes, positions) = self.axes;
        self.positions = positions.checked_shr((axes * level) as u32).unwrap_or(0);
    }

    /// The values that layers give for one sample.
    ///
    /// # Errors
    /// When the weights do not fit into memory.
    pub(crate) fn fits(&self) -> Result<u128> {
        ensure_fits("this network", self.values.saturating_mul(4))?;
        Ok(self.outputs)
    }

    /// Fails when more was asked for than any network has: what builds layers in a loop that a setting counts asks in each turn.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.tensors < MOST_TENSORS,
            "this network has more than {MOST_TENSORS} tensors of weights: give fewer blocks or levels"
        );
        Ok(())
    }

    fn count(&mut self, shape: &[usize]) {
        self.values = self.values.saturating_add(product(shape));
        self.tensors += 1;
    }

    /// A trainable parameter of N(0, std²) values; zeros for `std = 0`.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f64) -> Param<Tensor<D>> {
        self.count(&shape);
        // The last axis of a matrix or a kernel is that of what the layer gives.
        let outputs = self.positions.saturating_mul(shape.last().map_or(0, |last| *last as u128));
        self.outputs = self.outputs.saturating_add(outputs);
        match self.seed {
            Some(seed) => Param::from_data(self.draw(seed, shape, std), self.device),
            None => self.zeros(shape),
        }
    }

    /// Whether parameters are made without values, so that nothing need be worked out for them.
    pub(crate) fn is_blank(&self) -> bool {
        self.seed.is_none()
    }

    /// A frozen parameter: saved with the weights, never trained.
    pub fn frozen<const D: usize>(&mut self, shape: [usize; D], values: Vec<f32>) -> Param<Tensor<D>> {
        self.count(&shape);
        let value = match self.seed {
            Some(_) => Tensor::from_data(TensorData::new(values, shape), self.device),
            None => self.zeros(shape).val().detach(),
        };
        Param::initialized(ParamId::new(), value.set_require_grad(false))
    }

    /// N(0, std²) values, to be made into a [frozen](Self::frozen) or a [trainable](Self::given) parameter.
    pub fn normals(&mut self, count: usize, std: f64) -> Vec<f32> {
        // What is only counted needs none.
        let Some(seed) = self.seed else { return vec![0.0; if count <= MOST_BLANK { count } else { 0 }] };
        self.draw(seed, [count], std).try_into_vec().expect("the values were drawn as f32 just now")
    }

    /// A trainable vector of one value.
    pub fn constant(&mut self, count: usize, value: f32) -> Param<Tensor<1>> {
        match self.seed {
            Some(_) => self.given([count], vec![value; count]),
            None => {
                self.count(&[count]);
                self.zeros([count])
            }
        }
    }

    /// A trainable parameter of these values.
    pub fn given<const D: usize>(&mut self, shape: [usize; D], values: Vec<f32>) -> Param<Tensor<D>> {
        self.count(&shape);
        match self.seed {
            Some(_) => Param::from_data(TensorData::new(values, shape), self.device),
            None => self.zeros(shape),
        }
    }

    /// A trainable parameter of zeros, all of them one number in memory: a config may be of anyone's making, and its sizes
    /// are compared with the weights before there is room for them.
    fn zeros<const D: usize>(&self, shape: [usize; D]) -> Param<Tensor<D>> {
        // A network too large to be is counted to its end, without its weights.
        let shape = if product(&shape) <= self.most { shape } else { [0; D] };
        // What has no values cannot be spread out of one.
        let one = shape.map(|size| size.min(1));
        let zero = Tensor::<D>::zeros(one, self.device);
        let strategy = zero.gradient_checkpointing_strategy();
        let zeros =
            if one.contains(&0) { Tensor::zeros(shape, &zero.inner().device()) } else { zero.inner().expand(shape) };
        let zeros = match strategy {
            Some(strategy) => zeros.autodiff().with_gradient_checkpointing_strategy(strategy).set_require_grad(true),
            None => zeros,
        };
        Param::initialized(ParamId::new(), zeros)
    }

    fn draw<const D: usize>(&mut self, seed: u64, shape: [usize; D], std: f64) -> TensorData {
        let mut values = vec![0.0; shape.iter().product()];
        Key::new(seed, Purpose::Weights).at(self.drawn).fill_normal(&mut values);
        self.drawn += 1;
        TensorData::new(values.into_iter().map(|value| (std * value) as f32).collect(), shape)
    }
}

fn product(shape: &[usize]) -> u128 {
    shape.iter().fold(1, |product: u128, size| product.saturating_mul(*size as u128))
}

//! A tensor and, where a Jacobian-vector product is asked for, its tangent beside it.

use burn::tensor::{Tensor, activation};

use crate::{Factors, rows};

/// A value x and a tangent ẋ: through an operation f goes f(x) and, if there is a tangent, J_f(x) ẋ.
///
/// Tangents are made of differentiable operations, so the gradient of a function of a Jacobian-vector product is exact.
#[derive(Debug, Clone)]
pub struct Dual<const D: usize> {
    /// The value.
    pub value: Tensor<D>,
    /// The tangent, of the same shape; none for a constant.
    pub tangent: Option<Tensor<D>>,
}

impl<const D: usize> From<Tensor<D>> for Dual<D> {
    fn from(value: Tensor<D>) -> Self {
        Self { value, tangent: None }
    }
}

impl<const D: usize> Dual<D> {
    /// A value with its tangent.
    ///
    /// # Panics
    /// If their shapes differ.
    pub fn new(value: Tensor<D>, tangent: Tensor<D>) -> Self {
        assert_eq!(value.dims(), tangent.dims(), "a tangent has the shape of its value");
        Self { value, tangent: Some(tangent) }
    }

    /// The size of every axis.
    pub fn dims(&self) -> [usize; D] {
        self.value.dims()
    }

    /// The result of a linear function.
    pub fn linear<const E: usize>(self, f: impl Fn(Tensor<D>) -> Tensor<E>) -> Dual<E> {
        Dual { value: f(self.value), tangent: self.tangent.map(f) }
    }

    /// The result of a function that moves the value and leaves the tangent as it is, such as adding a constant.
    pub fn shift(self, f: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Self {
        Self { value: f(self.value), tangent: self.tangent }
    }

    /// The result of a function of every number by itself, with that derivative.
    pub fn map(self, f: impl FnOnce(Tensor<D>) -> Tensor<D>, slope: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Self {
        let tangent = self.tangent.map(|tangent| slope(self.value.clone()) * tangent);
        Self { value: f(self.value), tangent }
    }

    /// The same numbers in another shape.
    pub fn reshape<const E: usize>(self, shape: [usize; E]) -> Dual<E> {
        self.linear(|x| x.reshape(shape))
    }

    /// The tangent, or zeros for a constant.
    pub fn tangent_or_zero(&self) -> Tensor<D> {
        self.tangent.clone().unwrap_or_else(|| self.value.zeros_like())
    }

    /// Tensors side by side along an axis.
    ///
    /// # Panics
    /// If there are none, or their other axes differ.
    pub fn cat(parts: Vec<Self>, axis: usize) -> Self {
        let tangent = parts.iter().any(|part| part.tangent.is_some());
        let tangent = tangent.then(|| Tensor::cat(parts.iter().map(Self::tangent_or_zero).collect(), axis));
        let mut values: Vec<_> = parts.into_iter().map(|part| part.value).collect();
        let value = if values.len() == 1 { values.remove(0) } else { Tensor::cat(values, axis) };
        Self { value, tangent }
    }
}

impl Dual<2> {
    /// Every row times its own factor.
    #[must_use]
    pub fn scale(self, by: &Factors) -> Self {
        self.linear(|x| rows::scale(x, by))
    }

    /// The softmax of every row: with P = softmax(x), Ṗ = P ⊙ (ẋ − Σ P ⊙ ẋ).
    #[must_use]
    pub fn softmax(self) -> Self {
        let value = activation::softmax(self.value, 1);
        let tangent = self.tangent.map(|tangent| {
            let turned = value.clone() * tangent;
            turned.clone() - value.clone() * turned.sum_dim(1)
        });
        Self { value, tangent }
    }

    /// The logarithm of the softmax of every row: its tangent is ẋ − Σ softmax(x) ⊙ ẋ.
    #[must_use]
    pub fn log_softmax(self) -> Self {
        let value = activation::log_softmax(self.value, 1);
        let tangent = self.tangent.map(|tangent| tangent.clone() - (value.clone().exp() * tangent).sum_dim(1));
        Self { value, tangent }
    }
}

impl<const D: usize> std::ops::Mul for Dual<D> {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let left = self.tangent.map(|tangent| tangent * other.value.clone());
        let right = other.tangent.map(|tangent| self.value.clone() * tangent);
        Self { value: self.value * other.value, tangent: sum(left, right) }
    }
}

impl<const D: usize> std::ops::Add for Dual<D> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { value: self.value + other.value, tangent: sum(self.tangent, other.tangent) }
    }
}

impl<const D: usize> std::ops::Sub for Dual<D> {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { value: self.value - other.value, tangent: sum(self.tangent, other.tangent.map(|tangent| -tangent)) }
    }
}

fn sum<const D: usize>(left: Option<Tensor<D>>, right: Option<Tensor<D>>) -> Option<Tensor<D>> {
    match (left, right) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

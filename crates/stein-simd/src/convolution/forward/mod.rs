//! The value of a convolution, and the gradient of its input, which is a convolution too.

mod band;
mod bf16;
mod direct;
mod winograd;

use super::{epilogue::Epilogue, input::Input, method::Method, shape::Shape, weights::Weights};
use crate::{memory::Target, vector::Isa};

/// The convolution of an input with packed weights into y `[samples, height, width, outputs]`.
///
/// # Panics
/// If the sizes do not match.
pub fn convolve(isa: Isa, shape: &Shape, input: &Input, weights: &Weights, epilogue: &Epilogue, y: &mut [f32]) {
    input.check(shape);
    weights.check(isa, shape);
    epilogue.check(shape, y);
    let y = Target::new(y);
    match weights.method() {
        Method::Direct => direct::convolve(isa, shape, input, weights, epilogue, y),
        Method::Bf16 => bf16::convolve(isa, shape, input, weights, epilogue, y),
        Method::Winograd2 => winograd::convolve::<2, 4>(isa, shape, input, weights, epilogue, y),
        Method::Winograd4 => winograd::convolve::<4, 6>(isa, shape, input, weights, epilogue, y),
    }
}

/// The gradient `dx` `[samples, height, width, count]` of the `count` input channels that `weights` were packed for
/// ([`Weights::transposed`]), from `dy` of the output's shape.
///
/// # Panics
/// If the sizes do not match.
pub fn input_gradient(isa: Isa, shape: &Shape, weights: &Weights, dy: &[f32], dx: &mut [f32]) {
    let adjoint = shape.adjoint(weights.outputs());
    let parts = [dy];
    let input = Input { spread: shape.stride, ..Input::new(&parts) };
    convolve(isa, &adjoint, &input, weights, &Epilogue::default(), dx);
}

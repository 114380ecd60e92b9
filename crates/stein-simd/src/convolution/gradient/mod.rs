//! The gradient of a convolution's weights: a product over pixels, for every tap or every position of Winograd's method.
//!
//! The work is cut into blocks of input channels, and if there are few channels into ranges of rows too, whose sums are
//! added in order: the cuts depend on the sizes alone, so the result does not depend on the number of threads.

mod bf16;
mod direct;
mod part;
mod sums;
mod winograd;

use super::{input::Input, method::Method, shape::Shape};
use crate::vector::Isa;

/// The gradient `dw` `[kernel height, kernel width, inputs, outputs]` of the weights, from the convolution's input and the
/// gradient `dy` of its output, by the fastest method in f32.
///
/// # Panics
/// If the sizes do not match.
pub fn weight_gradient(isa: Isa, shape: &Shape, input: &Input, dy: &[f32], dw: &mut [f32]) {
    weight_gradient_by(isa, shape, Method::of(shape), input, dy, dw);
}

/// Like [`weight_gradient`], by a given method.
///
/// # Panics
/// If the sizes do not match.
pub fn weight_gradient_by(isa: Isa, shape: &Shape, method: Method, input: &Input, dy: &[f32], dw: &mut [f32]) {
    input.check(shape);
    let [height, width] = shape.output();
    let [kh, kw] = shape.kernel;
    assert_eq!(dy.len(), shape.samples * height * width * shape.outputs, "the gradient of a convolution's output");
    assert_eq!(dw.len(), kh * kw * shape.inputs * shape.outputs, "the gradient of a convolution's weights");
    match method {
        Method::Direct => direct::weight_gradient(isa, shape, input, dy, dw),
        Method::Bf16 => bf16::weight_gradient(isa, shape, input, dy, dw),
        Method::Winograd2 => winograd::weight_gradient::<2, 4>(isa, shape, input, dy, dw),
        Method::Winograd4 => winograd::weight_gradient::<4, 6>(isa, shape, input, dy, dw),
    }
}

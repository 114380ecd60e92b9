//! The sizes of a convolution.

/// The sizes of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Images in the batch.
    pub samples: usize,
    /// Height of the input, after upsampling.
    pub height: usize,
    /// Width of the input, after upsampling.
    pub width: usize,
    /// Channels of the input, all parts together.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Input pixels from one output to the next, 1 or 2.
    pub stride: usize,
    /// Zeros above, below, left and right of the input.
    pub pad: [usize; 4],
}

impl Shape {
    /// A linear layer as a 1 × 1 convolution of `rows` images of one pixel each.
    pub fn dense(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self { samples: rows, height: 1, width: 1, inputs, outputs, kernel: [1, 1], stride: 1, pad: [0; 4] }
    }

    /// Height and width of the output.
    pub fn output(&self) -> [usize; 2] {
        let [top, bottom, left, right] = self.pad;
        [
            (self.height + top + bottom - self.kernel[0]) / self.stride + 1,
            (self.width + left + right - self.kernel[1]) / self.stride + 1,
        ]
    }

    /// Multiplications and additions of the direct method.
    pub fn operations(&self) -> f64 {
        let [height, width] = self.output();
        let pixels = (self.samples * height * width) as f64;
        2.0 * pixels * (self.kernel[0] * self.kernel[1] * self.inputs * self.outputs) as f64
    }

    /// The convolution that computes the gradient of `count` of the input's channels from that of the output, whose
    /// pixels it reads `stride` apart, with zeros in between.
    ///
    /// # Panics
    /// If the padding on any side is as large as the kernel or larger, so that some outputs see only zeros.
    pub fn adjoint(&self, count: usize) -> Self {
        let [height, width] = self.output();
        let dilated = [(height - 1) * self.stride + 1, (width - 1) * self.stride + 1];
        let [kh, kw] = self.kernel;
        assert!(
            self.pad.iter().zip([kh, kh, kw, kw]).all(|(pad, taps)| *pad < taps),
            "a kernel of {kh} x {kw} taps is padded by {:?}",
            self.pad
        );
        let (top, left) = (kh - 1 - self.pad[0], kw - 1 - self.pad[2]);
        Self {
            samples: self.samples,
            height: dilated[0],
            width: dilated[1],
            inputs: self.outputs,
            outputs: count,
            kernel: self.kernel,
            stride: 1,
            pad: [top, self.height + kh - 1 - dilated[0] - top, left, self.width + kw - 1 - dilated[1] - left],
        }
    }
}

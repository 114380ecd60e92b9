//! A kernel's memory as that of one of the engine's tensors.

use std::{mem::MaybeUninit, slice};

use burn::{
    backend::flex::{FlexTensor, Layout},
    tensor::{Bytes, DType, Shape},
};
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty};
use stein_simd::Memory;

/// Memory that goes back to where it came from when the last tensor on it is dropped.
struct Buffer(Memory);

/// The tensor of this shape with these numbers.
pub(super) fn tensor(memory: Memory, shape: impl Into<Shape>) -> FlexTensor {
    let shape = shape.into();
    assert_eq!(shape.num_elements(), memory.len(), "a kernel's result has the size of its shape");
    let bytes = size_of_val(&memory[..]);
    // SAFETY: the controller has that many initialized bytes.
    let bytes = unsafe { Bytes::from_controller(Box::new(Buffer(memory)), bytes) };
    FlexTensor::new(bytes, Layout::contiguous(shape), DType::F32)
}

impl AllocationController for Buffer {
    fn alloc_align(&self) -> usize {
        align_of::<f32>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(&mut self, _: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        // SAFETY: numbers are bytes, and the caller writes initialized ones only.
        Ok(unsafe { slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), size_of_val(&self.0[..])) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        // SAFETY: numbers are bytes.
        Ok(unsafe { slice::from_raw_parts(self.0.as_ptr().cast(), size_of_val(&self.0[..])) })
    }
}

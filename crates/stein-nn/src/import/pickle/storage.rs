//! The numbers of a `torch.save` archive that its tensors are views of.

use std::sync::Arc;

use burn::tensor::DType;
use stein::Result;

use crate::files::fault;

/// The numbers tensors are views of.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    pub(super) key: Arc<str>,
    pub(super) kind: DType,
    pub(super) count: usize,
}

impl Storage {
    /// How many bytes it takes.
    pub(super) fn bytes(&self) -> Result<usize> {
        let bytes = self.count.checked_mul(self.kind.size());
        bytes.ok_or_else(|| fault(format!("has a storage {} of {} numbers", self.key, self.count)))
    }
}

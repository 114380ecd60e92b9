//! y = x: the sample itself, for denoising.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{Files, Measurement};
use crate::{
    Result,
    inverse::{Gather, Operator},
};

/// The sample itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Identity {}

impl Measurement for Identity {
    fn operator(&self, shape: &[usize], _: &dyn Files) -> Result<Arc<dyn Operator>> {
        Ok(Arc::new(Gather::all(shape.iter().product())?))
    }

    fn shape(&self, shape: &[usize], _: &dyn Files) -> Result<Vec<usize>> {
        Ok(shape.to_vec())
    }
}

//! stub
use serde::{Deserialize, Serialize};
use stein_base::Explain;
use burn::tensor::Tensor;
use crate::{Keys, Result};
/// stub
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Explain)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Coupling {
    /// a
    Independent {},
    /// b
    OptimalTransport {
        /// c
        #[serde(default)]
        within_class: bool },
}
impl Default for Coupling { fn default() -> Self { Self::Independent {} } }
impl Coupling {
    /// d
    pub fn check(&self) -> Result<()> { Ok(()) }
    /// e
    pub fn within_class(&self) -> bool { matches!(self, Self::OptimalTransport { within_class: true }) }
    /// f
    pub fn pair(&self, data: &Tensor<2>, _: &Tensor<2>, _: Option<(&[Option<u32>], &[Option<u32>])>, _: &Keys) -> Result<Vec<usize>> { Ok((0..data.dims()[0]).collect()) }
}

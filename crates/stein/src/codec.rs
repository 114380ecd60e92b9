//! TEMPORARY
#![allow(missing_docs)]
use crate::{Keys, Result, Tensor};
use serde::{Deserialize, Serialize};
pub trait Codec: std::fmt::Debug + Send + Sync {
    fn state(&self, data: &[usize]) -> Result<Vec<usize>>;
    fn encode(&self, x: Tensor<2>, keys: &Keys) -> Result<Tensor<2>>;
    fn decode(&self, x: Tensor<2>) -> Result<Tensor<2>>;
}
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnyCodec {
    scale: Vec<f64>,
    shift: Vec<f64>,
}
impl AnyCodec {
    pub fn symmetric() -> Self {
        Self { scale: vec![2.0], shift: vec![-1.0] }
    }
}
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CodecConfig {
    kind: String,
    #[serde(default)]
    std: f64,
}
impl CodecConfig {
    pub fn names() -> Vec<String> {
        vec!["quantile".into()]
    }
}
pub struct DataSample<'a> {
    pub values: &'a [f32],
    pub shape: &'a [usize],
    pub levels: Option<u32>,
}
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Chain(pub Vec<AnyCodec>);
impl Chain {
    pub fn fit(c: &[CodecConfig], s: &DataSample) -> Result<Self> {
        Ok(Self(
            c.iter()
                .map(|c| {
                    if c.kind == "symmetric" {
                        AnyCodec::symmetric()
                    } else {
                        let _ = s;
                        AnyCodec { scale: vec![1.0], shift: vec![0.0] }
                    }
                })
                .collect(),
        ))
    }
    pub fn range(&self, r: (f64, f64)) -> Option<(f64, f64)> {
        Some(self.0.iter().fold(r, |r, c| (r.0 * c.scale[0] + c.shift[0], r.1 * c.scale[0] + c.shift[0])))
    }
}
impl Codec for Chain {
    fn state(&self, data: &[usize]) -> Result<Vec<usize>> {
        Ok(data.to_vec())
    }
    fn encode(&self, x: Tensor<2>, _: &Keys) -> Result<Tensor<2>> {
        Ok(self.0.iter().fold(x, |x, c| x * c.scale[0] + c.shift[0]))
    }
    fn decode(&self, x: Tensor<2>) -> Result<Tensor<2>> {
        Ok(self.0.iter().rev().fold(x, |x, c| (x - c.shift[0]) / c.scale[0]))
    }
}

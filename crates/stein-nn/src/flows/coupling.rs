//! Coupling layers (Dinh et al., arXiv:1605.08803, section 3.2; with splines: Durkan et al., arXiv:1906.04032, section 3.2).
//!
//! Some numbers of a row stay; each of the others goes through a monotonic map whose parameters a network makes of those that stay. The
//! Jacobian is triangular, and the inverse asks the same network for the same parameters.

use burn::{
    module::Module,
    tensor::{Int, Tensor, TensorData},
};
use stein::{Condition, Result, ensure};

use super::{Conditioner, ConditionerForm, Mapped, Transform, check_width};
use crate::init::Init;

/// A coupling of rows.
#[derive(Module, Debug)]
pub struct Coupling {
    conditioner: Conditioner,
    #[module(skip)]
    transform: Transform,
    #[module(skip)]
    kept: Vec<usize>,
    #[module(skip)]
    moved: Vec<usize>,
}

impl Coupling {
    /// Of rows of `dim` numbers, of which those at `moved` are mapped.
    ///
    /// # Errors
    /// When all or none of them move, or one is named twice or is none of the row.
    pub fn new(
        dim: usize,
        moved: Vec<usize>,
        transform: Transform,
        form: ConditionerForm,
        init: &mut Init,
    ) -> Result<Self> {
        let kept: Vec<usize> = (0..dim).filter(|number| !moved.contains(number)).collect();
        ensure!(
            !kept.is_empty() && !moved.is_empty() && kept.len() + moved.len() == dim,
            "a coupling of {dim} numbers that moves {} and keeps {} is none: a part has to move and a part to stay; rows of one number \
             take an autoregressive layer",
            moved.len(),
            kept.len()
        );
        let conditioner = Conditioner::new([kept.len(), moved.len()], transform.parameters(), false, form, init)?;
        Ok(Self { conditioner, transform, kept, moved })
    }

    /// y of `x` `[rows, dim]`.
    ///
    /// # Errors
    /// Rows of another width, and classes it does not know.
    pub fn forward(&self, x: Tensor<2>, given: &Condition) -> Result<Mapped<2>> {
        self.through(x, given, |moved, parameters| self.transform.forward(moved, parameters, self.conditioner.hidden()))
    }

    /// x of `y` `[rows, dim]`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn inverse(&self, y: Tensor<2>, given: &Condition) -> Result<Mapped<2>> {
        self.through(y, given, |moved, parameters| self.transform.inverse(moved, parameters, self.conditioner.hidden()))
    }

    fn through(
        &self,
        x: Tensor<2>,
        given: &Condition,
        map: impl FnOnce(Tensor<2>, Tensor<3>) -> Result<Mapped<2>>,
    ) -> Result<Mapped<2>> {
        let (kept, moved) = (&self.kept, &self.moved);
        check_width(&x, kept.len() + moved.len())?;
        let device = x.device();
        let index = |of: &[usize]| {
            let of: Vec<i64> = of.iter().map(|&number| number as i64).collect();
            let count = of.len();
            Tensor::<1, Int>::from_data(TensorData::new(of, [count]), &device)
        };
        let stays = x.clone().select(1, index(kept));
        let parameters = self.conditioner.forward(stays.clone(), given)?;
        let (goes, log_det) = map(x.select(1, index(moved)), parameters)?;
        let mut places: Vec<usize> = (0..kept.len() + moved.len()).collect();
        let order = [&kept[..], moved].concat();
        places.sort_by_key(|&place| order[place]);
        Ok((Tensor::cat(vec![stays, goes], 1).select(1, index(&places)), log_det))
    }
}

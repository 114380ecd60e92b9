//! Conditions composed (Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion Models", arXiv:2206.01714, eq. 11 and
//! 13): D = D_∅ + Σ_i w_i (D_i − D_∅), with w_i above 0 for what is wanted together ("and") and below for what is not ("not").
//!
//! It samples, up to what is lost between the levels, p(x) Π_i p(i given x)^{w_i}. The class of a row is one of the conditions, with
//! the weight `scale`, so that without any other this is classifier-free guidance. All are evaluated in one batch.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein_base::Explain;

use super::{
    ClassName, Scale, Surroundings, Wrapper,
    classifier_free::{ensure_knows_no_class, under},
};
use crate::{Condition, Denoiser, Dual, Estimate, Levels, Result, ensure};

/// Classes that are wanted and not wanted together, for a model trained with label dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Compose {
    /// The weight of the class of each row, where it has one; default 1.
    pub scale: Scale,
    /// What is wanted besides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub and: Vec<Term>,
    /// What is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not: Vec<Term>,
}

impl Default for Compose {
    fn default() -> Self {
        Self { scale: Scale::Same(1.0), and: Vec::new(), not: Vec::new() }
    }
}

/// A class and its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// The class, by name or number.
    pub class: ClassName,
    /// How much it weighs, at least 0; a number up to 1e6, or one that varies with the level; default 1.
    #[serde(default = "one")]
    pub scale: Scale,
}

fn one() -> Scale {
    Scale::Same(1.0)
}

impl Wrapper for Compose {
    fn wrap(
        &self,
        inner: Arc<dyn Denoiser>,
        _: &Arc<dyn Denoiser>,
        around: &dyn Surroundings,
    ) -> Result<Arc<dyn Denoiser>> {
        self.scale.check()?;
        ensure_knows_no_class(around)?;
        let signed = self.and.iter().map(|term| (term, 1.0)).chain(self.not.iter().map(|term| (term, -1.0)));
        let terms = signed.map(|(term, sign)| {
            term.scale.check()?;
            ensure!(
                !term.scale.is_negative(),
                "the scale of class {} must be at least 0: what is not wanted stands in `not`",
                term.class
            );
            Ok((around.class(&term.class, None)?, sign, term.scale))
        });
        Ok(Arc::new(Composed { inner, own: self.scale, terms: terms.collect::<Result<_>>()? }))
    }
}

/// A denoiser of several conditions at once.
struct Composed {
    inner: Arc<dyn Denoiser>,
    own: Scale,
    /// Class, sign and weight.
    terms: Vec<(u32, f64, Scale)>,
}

impl Denoiser for Composed {
    fn estimate(&self, x: Dual<2>, at: Levels, given: &Condition) -> Result<Estimate> {
        let rows = x.dims()[0];
        let given = Condition { class: given.class.clone().or_else(|| Some(vec![None; rows])), ..given.clone() };
        let others = self.terms.iter().map(|(class, ..)| given.with_class(rows, *class));
        let all: Vec<Condition> = [given.without_label(), given.clone()].into_iter().chain(others).collect();
        let mut all = under(&self.inner, x, at, &all)?.into_iter();
        let (free, told) = (all.next().expect("no class is asked about"), all.next().expect("and that of the row"));
        let from = free.mean.clone();
        let mut mean = Estimate::extrapolate(free, told, &self.own.factors(at));
        for (other, (_, sign, scale)) in all.zip(&self.terms) {
            let weight = at.factors(|level| sign * scale.at(level));
            mean.mean = mean.mean + (other.mean - from.clone()).scale(&weight);
        }
        Ok(mean)
    }
}

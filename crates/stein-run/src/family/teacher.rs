//! Teachers: a trained denoiser that a family learns from and that does not change.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stein::{AnySchedule, AnyWrapper, Denoiser, Device, Error, Result, ensure};
use stein_base::Explain;

use crate::{
    Model, SampleConfig, Subject,
    family::{Capability, lacks},
};

/// A teacher in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields)]
pub struct Teacher {
    /// The model: a run directory, a checkpoint file, or `exact:FILE.json`.
    pub model: String,
    /// What is wrapped around it, such as guidance; default nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrap: Vec<AnyWrapper>,
    /// Whether training begins with its weights; default true.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub start: bool,
}

fn yes() -> bool {
    true
}

impl Teacher {
    /// Fails if no model is named.
    ///
    /// # Errors
    /// See above.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(!self.model.is_empty(), "family.teacher.model is empty: give a run directory or a checkpoint file");
        Ok(())
    }

    /// Opens it, and checks that it is a denoiser of the same data whose levels hold those of the student.
    ///
    /// # Errors
    /// See above: which of it, and what to do.
    pub(crate) fn open(
        &self,
        subject: &Subject,
        schedule: Option<&AnySchedule>,
        device: &Device,
    ) -> Result<Arc<dyn Denoiser>> {
        let model = Model::open(&self.model, device)?;
        if model.learned.denoiser.is_none() {
            return Err(lacks(&model.name, &model.family, model.serves, Capability::Denoiser, "a student"));
        }
        let theirs = &model.subject;
        let exact = !model.trained;
        ensure!(
            Kind::Mismatch,
            theirs.dim() == subject.dim() && (exact || theirs.shape == subject.shape),
            "{} is a model of {}, and the data are {}: take a teacher of the same data",
            self.model,
            theirs.shape,
            subject.shape
        );
        ensure!(
            Kind::Mismatch,
            theirs.classes == subject.classes || (subject.classes.is_empty() && model.learned.knows_no_class),
            "{} was trained with {}, and the student is with {}: take a teacher with the same classes, or change data.conditional",
            self.model,
            classes(theirs),
            classes(subject)
        );
        ensure!(
            Kind::Mismatch,
            exact || theirs.codec == subject.codec,
            "the states of {} are made otherwise than those of the student: give data.codec as in the teacher's experiment",
            self.model
        );
        if let (Some(theirs), Some(own), false) = (&model.schedule, schedule, exact) {
            let noise = |schedule: &AnySchedule| {
                let (first, last) = schedule.span();
                (schedule.kernel(first).noise_to_signal(), schedule.kernel(last).noise_to_signal())
            };
            let ((first, last), (own_first, own_last)) = (noise(theirs), noise(own));
            ensure!(
                Kind::Mismatch,
                first <= own_first * (1.0 + 1e-6) && own_last <= last * (1.0 + 1e-6),
                "{} was trained from sigma/alpha = {first} to {last}, and the student learns from {own_first} to {own_last}: give \
                 family.schedule levels that the teacher knows",
                self.model
            );
        }
        model
            .denoiser(&SampleConfig { wrap: self.wrap.clone(), ..model.sample.clone() })
            .map_err(|error: Error| error.at("family.teacher"))
    }
}

/// The classes of a subject, in a sentence.
fn classes(of: &Subject) -> String {
    match of.classes.len() {
        0 => "no classes".to_owned(),
        count => format!("{count} classes"),
    }
}

//! What goes through a network on its way, by name: for checks against a reference, and for looking inside.

use std::{cell::RefCell, collections::BTreeMap};

use burn::tensor::{Tensor, TensorData};

use crate::ops::Dual;

/// Values by the names networks give the places they were noted at. Images are `[N, C, H, W]`, as the references have them.
pub type Trace = BTreeMap<String, TensorData>;

/// What is being recorded, and what stands before every name noted now.
#[derive(Default)]
struct Recording {
    trace: Trace,
    prefix: String,
}

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// Does some work on this thread and returns, besides its result, what networks noted on the way.
pub fn record<R>(work: impl FnOnce() -> R) -> (R, Trace) {
    let before = RECORDING.replace(Some(Recording::default()));
    let result = work();
    let recording = RECORDING.replace(before).unwrap_or_default();
    (result, recording.trace)
}

/// Whether someone records: for values that are computed only to be noted.
pub fn is_on() -> bool {
    RECORDING.with_borrow(Option::is_some)
}

/// Does some work with this name and a dot before every name noted by it.
pub fn within<R>(name: impl FnOnce() -> String, work: impl FnOnce() -> R) -> R {
    let before = RECORDING.with_borrow_mut(|recording| {
        let prefix = &mut recording.as_mut()?.prefix;
        let before = prefix.len();
        *prefix += &(name() + ".");
        Some(before)
    });
    let result = work();
    RECORDING.with_borrow_mut(|recording| {
        if let Some((recording, before)) = recording.as_mut().zip(before) {
            recording.prefix.truncate(before);
        }
    });
    result
}

/// Notes a value, where someone records.
pub fn note<const D: usize>(name: impl FnOnce() -> String, x: &Dual<D>) {
    RECORDING.with_borrow_mut(|recording| {
        let Some(Recording { trace, prefix }) = recording else { return };
        trace.insert(prefix.clone() + &name(), reference(x.value.clone()));
    });
}

/// The values of a tensor in the layout of the references.
fn reference<const D: usize>(x: Tensor<D>) -> TensorData {
    if D == 4 {
        let dims = x.dims();
        return x.reshape([dims[0], dims[1], dims[2], dims[3]]).permute([0, 3, 1, 2]).into_data();
    }
    x.into_data()
}

//! What the Python thread does: takes what has come, has it answered, and takes again. The interpreter is held for the answering only.

use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use slateloop_wire::frames::framed;
use slateloop_wire::status::{Status, INTERNAL};

use crate::call_state::Call;
use crate::inbox::{Other, Waiting};
use crate::reply::{Answered, Outcome, Reply};
use crate::shared::Shared;

/// Answers until the inbox is closed. Of each gathered method there is one `answer_all(messages, waited_s, overdue, metadata)`, which gives
/// bytes, or (code, message, trailers), for each message; `begin(call)` takes a call that is not gathered, and must not block.
pub fn run(py: Python<'_>, shared: &Shared, answer_all: &[Bound<'_, PyAny>], begin: &Bound<'_, PyAny>) {
    while let Some(taken) = py.detach(|| shared.inbox.take(|| shared.arrived.notify_one())) {
        for other in taken.others {
            hear(py, other, begin);
        }
        for (batch, answer_all) in taken.batches.into_iter().zip(answer_all) {
            let Some(first) = batch.first() else { continue };
            let begun = Instant::now();
            shared.stages.wait.record(begun.saturating_duration_since(first.arrived));
            let replies = answered(py, batch, answer_all, shared.limits.with_metadata);
            let at = Instant::now();
            shared.stages.answer.record(at - begun);
            // Nobody is left to send them where the I/O thread has ended.
            let _ = shared.outbox.send(Answered { replies, at });
        }
    }
}

fn hear(py: Python<'_>, other: Other, begin: &Bound<'_, PyAny>) {
    match other {
        Other::Begun(state) => {
            let call = state.clone();
            if let Err(error) = begin.call1((Call(state),)) {
                call.finish(internal());
                error.write_unraisable(py, Some(begin));
            }
        }
        Other::Ended(state) => {
            for callback in state.take_callbacks() {
                if let Err(error) = callback.call0(py) {
                    error.write_unraisable(py, None);
                }
            }
        }
    }
}

fn answered(py: Python<'_>, waiting: Vec<Waiting>, answer_all: &Bound<'_, PyAny>, with_metadata: bool) -> Vec<(Reply, Outcome)> {
    let outcomes = asked(py, &waiting, answer_all, with_metadata).unwrap_or_else(|error| {
        error.write_unraisable(py, Some(answer_all));
        waiting.iter().map(|_| Err(internal())).collect()
    });
    waiting.into_iter().map(|call| call.reply).zip(outcomes).collect()
}

fn asked(py: Python<'_>, waiting: &[Waiting], answer_all: &Bound<'_, PyAny>, with_metadata: bool) -> PyResult<Vec<Outcome>> {
    let now = Instant::now();
    let messages = PyList::new(py, waiting.iter().map(|call| PyBytes::new(py, &call.message)))?;
    let waited_s: Vec<f64> = waiting.iter().map(|call| now.duration_since(call.arrived).as_secs_f64()).collect();
    let late = |call: &Waiting| call.deadline.is_some_and(|deadline| deadline <= now);
    let overdue: Vec<usize> = waiting.iter().enumerate().filter(|(_, call)| late(call)).map(|(place, _)| place).collect();
    let metadata: Vec<Vec<(&str, Bound<'_, PyBytes>)>> =
        if with_metadata { waiting.iter().map(|call| own_metadata(py, call)).collect() } else { Vec::new() };
    let answers = answer_all.call1((messages, waited_s, overdue, metadata))?;
    let answers = answers.cast::<PyList>()?;
    if answers.len() != waiting.len() {
        return Err(pyo3::exceptions::PyValueError::new_err(format!("{} answers for {} calls", answers.len(), waiting.len())));
    }
    answers.iter().map(|answer| outcome(&answer)).collect()
}

fn own_metadata<'py>(py: Python<'py>, call: &'py Waiting) -> Vec<(&'py str, Bound<'py, PyBytes>)> {
    call.metadata.iter().map(|(name, value)| (name.as_str(), PyBytes::new(py, value))).collect()
}

fn outcome(answer: &Bound<'_, PyAny>) -> PyResult<Outcome> {
    if let Ok(message) = answer.cast::<PyBytes>() {
        return Ok(Ok(framed(message.as_bytes())));
    }
    let (code, message, trailers) = answer.extract()?;
    Ok(Err(Status { code, message, trailers }))
}

fn internal() -> Status {
    Status::new(INTERNAL, "internal error; what it was stands on the server's standard error")
}

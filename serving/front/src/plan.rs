//! The plain requests of a batch on their way to decisions, and what becomes of them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use slateloop_wire::made::{batch_response, body_hash, log_frames, Decision, Id, Slot};
use slateloop_wire::plain::{Listed, Request};

/// A request that was read: its place in the batch, whose it is, and where it lies.
pub struct Item {
    pub place: usize,
    pub number: usize,
    pub arm: usize,
    pub request: Request,
    pub message: Py<PyBytes>,
    pub span: Range<usize>,
}

/// Decisions as Python hears of them, see `Plan::made`.
type Made<'py> =
    (Option<Bound<'py, PyBytes>>, Bound<'py, PyBytes>, Vec<Bound<'py, PyBytes>>, Vec<Bound<'py, PyBytes>>, Bound<'py, PyBytes>);

/// A request id: where the caller's own lies, or the one that was drawn.
pub enum RequestId {
    Own(Range<usize>),
    Drawn([u8; 32]),
}

impl RequestId {
    pub fn text<'a>(&'a self, data: &'a [u8]) -> &'a [u8] {
        match self {
            RequestId::Own(place) => &data[place.clone()],
            RequestId::Drawn(text) => text,
        }
    }
}

/// A request whose decision has a name.
pub struct Decided {
    pub item: Item,
    pub features: Vec<u8>,
    pub request_id: RequestId,
    pub id: Id,
}

/// Requests of one task, arm and compiled shape.
pub struct Group {
    pub number: usize,
    pub arm: usize,
    pub width: usize,
    pub slots: usize,
    pub rows: Vec<u8>,
    pub items: Vec<Decided>,
}

#[derive(Default)]
struct State {
    items: Vec<Item>,
    groups: Vec<Group>,
    bodies: Vec<Vec<u8>>,
    responses: Vec<Option<Vec<u8>>>,
    /// Places of those that are not to be decided here.
    left: Vec<bool>,
}

/// The plain requests of a batch, on their way to decisions: read, then grouped (planner.rs), made, framed and answered.
#[pyclass(frozen)]
pub struct Plan {
    state: Mutex<State>,
}

#[pymethods]
impl Plan {
    /// Places of the requests of a task, and their units.
    fn units<'py>(&self, py: Python<'py>, number: usize) -> Vec<(usize, Bound<'py, PyBytes>)> {
        let state = self.state();
        let mine = state.items.iter().filter(|item| item.number == number);
        mine.map(|item| (item.place, PyBytes::new(py, &item.data(py)[item.request.unit.clone()]))).collect()
    }

    /// Puts requests in arms, given as (place, arm) in the order of `units`; before, all are in the first.
    fn put(&self, arms: Vec<(usize, usize)>) {
        let mut state = self.state();
        let mut arms = arms.into_iter().peekable();
        for item in &mut state.items {
            if let Some((_, arm)) = arms.next_if(|(place, _)| *place == item.place) {
                item.arm = arm;
            }
        }
    }

    /// Place, task, request id and hash of the body of each request that has an id of its own.
    fn own_ids<'py>(&self, py: Python<'py>) -> Vec<(usize, usize, Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let state = self.state();
        let named = state.items.iter().filter_map(|item| item.request.own_id.clone().map(|place| (item, place)));
        named
            .map(|(item, place)| {
                let data = item.data(py);
                (item.place, item.number, PyBytes::new(py, &data[place]), PyBytes::new(py, &body_hash(data)))
            })
            .collect()
    }

    /// Answers a request as it was answered before.
    fn remember(&self, place: usize, answer: Vec<u8>) -> PyResult<()> {
        let mut state = self.state();
        let cell = state.responses.get_mut(place).ok_or_else(|| PyValueError::new_err(format!("place: there is no {place}")))?;
        *cell = Some(answer);
        state.left[place] = true;
        Ok(())
    }

    /// Leaves a request to others.
    fn leave(&self, place: usize) -> PyResult<()> {
        let mut state = self.state();
        *state.left.get_mut(place).ok_or_else(|| PyValueError::new_err(format!("place: there is no {place}")))? = true;
        Ok(())
    }

    /// Makes records and answers of what was decided for n requests of a group from `start` on: `answers`, n rows of words as the compiled
    /// program gives them (bandits/packed.py); `decision` and `response`: what all of them share, serialised. A request without a decision is
    /// left to others.
    fn make(&self, py: Python<'_>, group: usize, start: usize, answers: &[u8], decision: &[u8], response: &[u8]) -> PyResult<()> {
        let mut state = self.state();
        let State { groups, bodies, responses, .. } = &mut *state;
        let group =
            groups.get(group).ok_or_else(|| PyValueError::new_err(format!("group: there is no {group}; give one of the plan's")))?;
        let size = 4 * answer_words(group.slots);
        if answers.len() % size != 0 {
            return Err(PyValueError::new_err(format!("answers: {} bytes are no rows of {size}", answers.len())));
        }
        let Some(items) = group.items.get(start..start.saturating_add(answers.len() / size)) else {
            return Err(PyValueError::new_err(format!("start: {start} of {} requests", group.items.len())));
        };
        for (answer, decided) in answers.chunks_exact(size).zip(items) {
            let slots = drawn(answer, group.slots);
            if slots.is_empty() || slots.iter().any(|slot| slot.candidate >= decided.item.request.listed.count) {
                continue;
            }
            let data = decided.item.data(py);
            let made = decided.with(data, &slots);
            bodies.push(made.body(decision));
            responses[decided.item.place] = Some(made.response(response));
        }
        Ok(())
    }

    /// The decisions that were made of a group, as columns: their rows (u32; None = all of them), their ids, their units if they are asked
    /// for, the fields `actions` of the lists of candidates that occur, and which of those each has (u32).
    fn made<'py>(&self, py: Python<'py>, group: usize, with_units: bool) -> PyResult<Made<'py>> {
        let state = self.state();
        let found = state.groups.get(group).ok_or_else(|| PyValueError::new_err(format!("group: there is no {group}")))?;
        let (mut rows, mut ids, mut units, mut which) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut lists: Vec<&Arc<Listed>> = Vec::new();
        let made = found.items.iter().zip(0u32..).filter(|(decided, _)| state.responses[decided.item.place].is_some());
        for (decided, row) in made {
            let request = &decided.item.request;
            rows.extend(row.to_le_bytes());
            ids.extend(decided.id);
            which.extend(place_of(&mut lists, &request.listed).to_le_bytes());
            if with_units {
                units.push(PyBytes::new(py, &decided.item.data(py)[request.unit.clone()]));
            }
        }
        let lists = lists.into_iter().map(|listed| PyBytes::new(py, &listed.encoded)).collect();
        let some = ids.len() < found.items.len() * std::mem::size_of::<Id>();
        Ok((some.then(|| PyBytes::new(py, &rows)), PyBytes::new(py, &ids), units, lists, PyBytes::new(py, &which)))
    }

    /// Decisions that were made.
    #[getter]
    fn decided(&self) -> usize {
        self.state().bodies.len()
    }

    /// The records of all of them, framed for the log, as they happen at a time: microseconds since the epoch.
    fn framed<'py>(&self, py: Python<'py>, now_us: u64) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &log_frames(self.state().bodies.iter(), now_us))
    }

    /// The answer to each request of the batch; None for those that are left to others.
    fn responses<'py>(&self, py: Python<'py>) -> Vec<Option<Bound<'py, PyBytes>>> {
        self.state().responses.iter().map(|found| found.as_ref().map(|response| PyBytes::new(py, response))).collect()
    }

    /// All answers as a serialised SelectBatchResponse; None where one is left to others.
    fn batch_response<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let state = self.state();
        let whole = state.responses.iter().all(Option::is_some);
        whole.then(|| PyBytes::new(py, &batch_response(state.responses.iter().flatten())))
    }
}

impl Plan {
    pub fn new(items: Vec<Item>, count: usize) -> Self {
        Plan { state: Mutex::new(State { items, responses: vec![None; count], left: vec![false; count], ..State::default() }) }
    }

    /// What is still to be decided here.
    pub fn take_items(&self) -> Vec<Item> {
        let mut state = self.state();
        let State { items, left, .. } = &mut *state;
        items.retain(|item| !left[item.place]);
        std::mem::take(items)
    }

    pub fn set_groups(&self, groups: Vec<Group>) {
        self.state().groups = groups;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Item {
    fn data<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        &self.message.as_bytes(py)[self.span.clone()]
    }
}

impl Decided {
    fn with<'a>(&'a self, data: &'a [u8], slots: &'a [Slot]) -> Decision<'a> {
        let request = &self.item.request;
        Decision {
            id: &self.id,
            unit: &data[request.unit.clone()],
            request_id: self.request_id.text(data),
            context: &data[request.context.clone()],
            listed: &request.listed,
            features: &self.features,
            slots,
        }
    }
}

/// The place of a list among those that were met, to which it is added where it is new.
fn place_of<'a>(met: &mut Vec<&'a Arc<Listed>>, listed: &'a Arc<Listed>) -> u32 {
    let found = met.iter().position(|one| Arc::ptr_eq(one, listed));
    let place = found.unwrap_or_else(|| {
        met.push(listed);
        met.len() - 1
    });
    place as u32
}

/// Words of an answer with so many slots: slates i32, numerators u32, means and scales f64, and two of which the first says whether the
/// request was sound.
fn answer_words(slots: usize) -> usize {
    6 * slots + 2
}

/// The slots of an answer, up to the end of its slate; none where the request was not sound.
fn drawn(answer: &[u8], slots: usize) -> Vec<Slot> {
    let four = |at: usize| [answer[4 * at], answer[4 * at + 1], answer[4 * at + 2], answer[4 * at + 3]];
    let word = |at: usize| u32::from_le_bytes(four(at));
    if word(6 * slots) == 0 {
        return Vec::new();
    }
    let slot = |at: usize| {
        let candidate = usize::try_from(i32::from_le_bytes(four(at))).ok()?;
        let (low, high) = (word(2 * slots + 2 * at), word(2 * slots + 2 * at + 1));
        Some(Slot { candidate, numerator: word(slots + at), score: f64::from_bits(u64::from(high) << 32 | u64::from(low)) })
    };
    (0..slots).map_while(slot).collect()
}

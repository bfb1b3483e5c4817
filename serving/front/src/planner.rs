//! Batches of plain requests without a Python object a request: read to rows of words, and written to records and answers.
//!
//! Python says once what is known of a task and of the policy that decides it; what isn't plain it answers itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use slateloop_wire::made::{add_row, log_frames, Around, Decision, Id, Slot};
use slateloop_wire::plain::{head_end, Listed, Request, Task};

/// (candidates of the compiled shape, words, how slots begin in records and in answers)
type LookedUp = (usize, Vec<u8>, Vec<Vec<u8>>, Vec<Vec<u8>>);

struct Known {
    task: Task,
    around: Around,
    /// Slots of the compiled shape, by the size of the slate.
    slot_counts: Vec<usize>,
    look_up: Py<PyAny>,
}

/// Reads the plain requests of the tasks that it was told of. One thread uses it at a time.
#[pyclass(frozen)]
#[derive(Default)]
pub struct Planner {
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    known: HashMap<usize, Known>,
    heads: HashMap<Vec<u8>, usize>,
}

#[pymethods]
impl Planner {
    #[new]
    fn new() -> Self {
        Planner::default()
    }

    /// Takes in, or replaces, a task by its number. `own`: the field `actions` of its catalogue, and the features of all of them.
    #[pyo3(signature = (number, *, heads, before_context, context_bytes, behind_context, default_features, own, default_size, max_slots, max_candidates, slot_counts, id_before, id_behind, look_up))]
    #[allow(clippy::too_many_arguments)]
    fn keep(
        &self,
        py: Python<'_>,
        number: usize,
        heads: Vec<Vec<u8>>,
        before_context: Vec<u8>,
        context_bytes: usize,
        behind_context: Vec<u8>,
        default_features: Vec<u8>,
        own: Option<(Vec<u8>, Vec<u8>)>,
        default_size: usize,
        max_slots: usize,
        max_candidates: usize,
        slot_counts: Vec<usize>,
        id_before: Vec<u8>,
        id_behind: Vec<u8>,
        look_up: Py<PyAny>,
    ) -> PyResult<()> {
        let own = match own {
            Some((encoded, features)) => listed(py, &look_up, &encoded)?.map(|found| (Arc::new(found), features)),
            None => None,
        };
        let mut tasks = self.tasks();
        for head in &heads {
            tasks.heads.insert(head.clone(), number);
        }
        let task =
            Task::new(heads, before_context, context_bytes, behind_context, default_features, own, default_size, max_slots, max_candidates);
        let around = Around { before: id_before, behind: id_behind };
        tasks.known.insert(number, Known { task, around, slot_counts, look_up });
        Ok(())
    }

    /// Reads the requests that are plain. Raises what a `look_up` raises.
    fn plan(&self, py: Python<'_>, messages: &Bound<'_, PyList>) -> PyResult<Plan> {
        let mut tasks = self.tasks();
        let (mut groups, mut rest): (Vec<Group>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut randoms = vec![0; 16 * messages.len()];
        getrandom::fill(&mut randoms).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        for (place, message) in messages.iter().enumerate() {
            let message = message.cast_into::<PyBytes>()?;
            match tasks.read(py, message.as_bytes())? {
                None => rest.push(place),
                Some((number, request)) => {
                    let known = &tasks.known[&number];
                    let (width, slots) = (request.listed.width, known.slot_counts.get(request.slate_size).copied().unwrap_or(0));
                    let at = groups.iter().position(|group| (group.number, group.width, group.slots) == (number, width, slots));
                    let at = at.unwrap_or_else(|| {
                        groups.push(Group { number, width, slots, rows: Vec::new(), items: Vec::new() });
                        groups.len() - 1
                    });
                    let random = hex(&randoms[16 * place..16 * (place + 1)]);
                    groups[at].add(known, place, request, message.unbind(), random, py);
                }
            }
        }
        Ok(Plan { groups, count: messages.len(), state: Mutex::new(Made { rest, ..Made::default() }) })
    }
}

impl Planner {
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tasks {
    fn read(&mut self, py: Python<'_>, data: &[u8]) -> PyResult<Option<(usize, Request)>> {
        let Some((at, number)) = head_end(data).and_then(|at| self.heads.get(&data[..at]).map(|number| (at, *number))) else {
            return Ok(None);
        };
        let Some(Known { task, look_up, .. }) = self.known.get_mut(&number) else { return Ok(None) };
        let mut failed = None;
        let found = task.read(data, at, &mut |encoded| {
            listed(py, look_up, encoded).unwrap_or_else(|error| {
                failed = Some(error);
                None
            })
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(found.map(|request| (number, request))),
        }
    }
}

fn listed(py: Python<'_>, look_up: &Py<PyAny>, encoded: &[u8]) -> PyResult<Option<Listed>> {
    let found: Option<LookedUp> = look_up.call1(py, (PyBytes::new(py, encoded),))?.extract(py)?;
    Ok(found.map(|(width, words, logged_heads, answered_heads)| {
        let count = logged_heads.len();
        Listed { encoded: encoded.to_vec(), count, width, words, logged_heads, answered_heads }
    }))
}

struct Item {
    place: usize,
    request: Request,
    message: Py<PyBytes>,
    features: Vec<u8>,
    request_id: [u8; 32],
    id: Id,
}

/// Requests of one task and compiled shape.
struct Group {
    number: usize,
    width: usize,
    slots: usize,
    rows: Vec<u8>,
    items: Vec<Item>,
}

impl Group {
    fn add(&mut self, known: &Known, place: usize, request: Request, message: Py<PyBytes>, request_id: [u8; 32], py: Python<'_>) {
        let id = known.around.decision_id(&request_id);
        let data = message.as_bytes(py);
        let features = known.task.features(&request, data).into_owned();
        add_row(&mut self.rows, &known.task, &request, data, &features, &id);
        self.items.push(Item { place, request, message, features, request_id, id });
    }
}

#[derive(Default)]
struct Made {
    rest: Vec<usize>,
    bodies: Vec<Vec<u8>>,
    responses: Vec<(usize, Vec<u8>)>,
}

/// The plain requests of a batch, on their way to decisions.
#[pyclass(frozen)]
pub struct Plan {
    groups: Vec<Group>,
    count: usize,
    state: Mutex<Made>,
}

#[pymethods]
impl Plan {
    /// (task, candidates and slots of the compiled shape, rows as bytes) of each group.
    #[getter]
    fn groups<'py>(&self, py: Python<'py>) -> Vec<(usize, usize, usize, Bound<'py, PyBytes>)> {
        self.groups.iter().map(|group| (group.number, group.width, group.slots, PyBytes::new(py, &group.rows))).collect()
    }

    /// Makes records and answers of what was decided for a group: `slates` i32, `numerators` u32, `scores` f64 [n, L] and `sound` bool [n],
    /// as little-endian bytes; `decision` and `response`: what all of them share, serialised. A request without a decision joins the rest.
    fn make(
        &self,
        py: Python<'_>,
        group: usize,
        slates: &[u8],
        numerators: &[u8],
        scores: &[u8],
        sound: &[u8],
        decision: &[u8],
        response: &[u8],
    ) -> PyResult<()> {
        let group =
            self.groups.get(group).ok_or_else(|| PyValueError::new_err(format!("group: there is no {group}; give one of the plan's")))?;
        let cells = group.items.len() * group.slots;
        if (slates.len(), numerators.len(), scores.len(), sound.len()) != (4 * cells, 4 * cells, 8 * cells, group.items.len()) {
            return Err(PyValueError::new_err(format!("make: the columns do not have {} x {} cells", group.items.len(), group.slots)));
        }
        let mut made = self.state();
        for (row, item) in group.items.iter().enumerate() {
            let slots = drawn(row * group.slots..(row + 1) * group.slots, slates, numerators, scores);
            if sound[row] == 0 || slots.is_empty() || slots.iter().any(|slot| slot.candidate >= item.request.listed.count) {
                made.rest.push(item.place);
                continue;
            }
            let data = item.message.as_bytes(py);
            let decided = Decision {
                id: &item.id,
                unit: &data[item.request.unit.clone()],
                request_id: &item.request_id,
                context: &data[item.request.context.clone()],
                listed: &item.request.listed,
                features: &item.features,
                slots: &slots,
            };
            made.bodies.push(decided.body(decision));
            made.responses.push((item.place, decided.response(response)));
        }
        Ok(())
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

    /// The answer to each request of the batch; None for those that are left to Python.
    fn responses<'py>(&self, py: Python<'py>) -> Vec<Option<Bound<'py, PyBytes>>> {
        let mut found: Vec<Option<Bound<'py, PyBytes>>> = vec![None; self.count];
        for (place, response) in &self.state().responses {
            found[*place] = Some(PyBytes::new(py, response));
        }
        found
    }
}

impl Plan {
    fn state(&self) -> MutexGuard<'_, Made> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slots of a row, up to the end of its slate.
fn drawn(cells: std::ops::Range<usize>, slates: &[u8], numerators: &[u8], scores: &[u8]) -> Vec<Slot> {
    let slot = |cell: usize| {
        let candidate = usize::try_from(i32::from_le_bytes(four(slates, cell))).ok()?;
        let (low, high) = (u32::from_le_bytes(four(scores, 2 * cell)), u32::from_le_bytes(four(scores, 2 * cell + 1)));
        let score = f64::from_bits(u64::from(high) << 32 | u64::from(low));
        Some(Slot { candidate, numerator: u32::from_le_bytes(four(numerators, cell)), score })
    };
    cells.map_while(slot).collect()
}

fn four(column: &[u8], word: usize) -> [u8; 4] {
    let mut found = [0; 4];
    found.copy_from_slice(&column[4 * word..4 * word + 4]);
    found
}

fn hex(bytes: &[u8]) -> [u8; 32] {
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    text
}

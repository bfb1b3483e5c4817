//! Batches of plain requests without a Python object a request: read to rows of words, and written to records and answers.
//!
//! Python says once what is known of a task and of the policies that decide it, and in whose arm a unit is; what isn't plain it answers
//! itself.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use slateloop_wire::made::{add_row, Around};
use slateloop_wire::plain::{head_end, spans, Listed, Request, Task};

use crate::plan::{Decided, Group, Item, Plan, RequestId};

/// (candidates of the compiled shape, how slots begin in records and in answers)
type LookedUp = (usize, Vec<Vec<u8>>, Vec<Vec<u8>>);
/// (task, arm, candidates and slots of the compiled shape, rows as bytes)
type Rows<'py> = (usize, usize, usize, usize, Bound<'py, PyBytes>);

/// Lists whose words are kept for an arm.
const KEPT_LISTS: usize = 1024;
/// Requests that a SelectBatch may hold; see serving/servicer.py.
const BATCH_REQUESTS: Range<usize> = 1..1025;

/// Who may decide: its ids, and the words (scores and actions) of the lists of candidates that it has met.
struct Arm {
    around: Around,
    words: HashMap<Vec<u8>, Arc<Vec<u8>>>,
}

struct Known {
    task: Task,
    /// Of tasks whose draws stick to the unit.
    sticky: Option<Around>,
    /// Slots of the compiled shape, by the size of the slate.
    slot_counts: Vec<usize>,
    look_up: Py<PyAny>,
    words_of: Py<PyAny>,
    arms: Vec<Arm>,
}

/// Reads the plain requests of the tasks that it was told of. One thread uses it at a time: it calls Python while it is locked.
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

    /// Takes in, or replaces, a task by its number; it has no arms yet. `own`: the field `actions` of its catalogue, and the features of all
    /// of them. `look_up(actions)` and `words_of(arm, actions)` work out what is not known of a list of candidates; None = it is not plain.
    #[pyo3(signature = (number, *, heads, before_context, context_bytes, behind_context, default_features, own, default_size, max_slots, max_candidates, slot_counts, sticky, look_up, words_of))]
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
        sticky: Option<(Vec<u8>, Vec<u8>)>,
        look_up: Py<PyAny>,
        words_of: Py<PyAny>,
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
        let sticky = sticky.map(|(before, behind)| Around { before, behind });
        tasks.known.insert(number, Known { task, sticky, slot_counts, look_up, words_of, arms: Vec::new() });
        Ok(())
    }

    /// Adds an arm of a task, and gives its number: what is hashed before and behind the request id for its decisions' ids.
    fn add_arm(&self, number: usize, before: Vec<u8>, behind: Vec<u8>) -> PyResult<usize> {
        let mut tasks = self.tasks();
        let known = tasks.known.get_mut(&number).ok_or_else(|| PyValueError::new_err(format!("task: {number} was not kept before")))?;
        known.arms.push(Arm { around: Around { before, behind }, words: HashMap::new() });
        Ok(known.arms.len() - 1)
    }

    /// Reads the requests that are plain. Raises what a `look_up` raises.
    fn read(&self, py: Python<'_>, messages: &Bound<'_, PyList>) -> PyResult<Plan> {
        let mut tasks = self.tasks();
        let mut items = Vec::with_capacity(messages.len());
        for (place, message) in messages.iter().enumerate() {
            let message = message.cast_into::<PyBytes>()?;
            let all = 0..message.as_bytes().len();
            items.extend(tasks.item(py, place, message, all)?);
        }
        Ok(Plan::new(items, messages.len()))
    }

    /// Reads a serialised SelectBatchRequest; None where not all of it is plain.
    fn read_batch(&self, py: Python<'_>, data: &Bound<'_, PyBytes>) -> PyResult<Option<Plan>> {
        let Some(places) = spans(data.as_bytes()).filter(|found| BATCH_REQUESTS.contains(&found.len())) else { return Ok(None) };
        let (mut tasks, count) = (self.tasks(), places.len());
        let mut items = Vec::with_capacity(count);
        for (place, span) in places.into_iter().enumerate() {
            match tasks.item(py, place, data.clone(), span)? {
                Some(item) => items.push(item),
                None => return Ok(None),
            }
        }
        Ok(Some(Plan::new(items, count)))
    }

    /// Lays out what is still to be decided of a plan, by task, arm and compiled shape. Raises what a `words_of` raises.
    fn group<'py>(&self, py: Python<'py>, plan: &Plan) -> PyResult<Vec<Rows<'py>>> {
        let items = plan.take_items();
        let mut randoms = vec![0; 16 * items.len()];
        getrandom::fill(&mut randoms).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        let (mut tasks, mut groups): (_, Vec<Group>) = (self.tasks(), Vec::new());
        for (item, random) in items.into_iter().zip(randoms.chunks_exact(16)) {
            tasks.add(py, &mut groups, item, random)?;
        }
        let rows = groups.iter_mut().map(|group| {
            let rows = std::mem::take(&mut group.rows);
            (group.number, group.arm, group.width, group.slots, PyBytes::new(py, &rows))
        });
        let rows = rows.collect();
        plan.set_groups(groups);
        Ok(rows)
    }
}

impl Planner {
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tasks {
    /// The request in a part of a message, if it is plain.
    fn item(&mut self, py: Python<'_>, place: usize, message: Bound<'_, PyBytes>, span: Range<usize>) -> PyResult<Option<Item>> {
        let found = self.read(py, &message.as_bytes()[span.clone()])?;
        Ok(found.map(|(number, request)| Item { place, number, arm: 0, request, message: message.unbind(), span }))
    }

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

    /// Adds a request to the group of its like.
    fn add(&mut self, py: Python<'_>, groups: &mut Vec<Group>, item: Item, random: &[u8]) -> PyResult<()> {
        let known = self.known.get_mut(&item.number).ok_or_else(|| PyValueError::new_err("task: was not kept"))?;
        let arms = known.arms.len();
        let arm = known.arms.get_mut(item.arm).ok_or_else(|| PyValueError::new_err(format!("arm: {} of {arms}", item.arm)))?;
        let (width, slots) = (item.request.listed.width, known.slot_counts.get(item.request.slate_size).copied().unwrap_or(0));
        let group = group_of(groups, (item.number, item.arm, width, slots));
        let data = &item.message.as_bytes(py)[item.span.clone()];
        let request_id = item.request.own_id.clone().map_or_else(|| RequestId::Drawn(hex(random)), RequestId::Own);
        let id = arm.around.id(request_id.text(data));
        let sticky = known.sticky.as_ref().map(|around| around.id(&data[item.request.unit.clone()]));
        let words = words(py, &known.words_of, item.arm, &mut arm.words, &item.request.listed.encoded)?;
        let features = known.task.features(&item.request, data).into_owned();
        add_row(&mut group.rows, &known.task, &item.request, data, &features, &words, &sticky.unwrap_or(id)[..8]);
        group.items.push(Decided { item, features, request_id, id });
        Ok(())
    }
}

fn group_of(groups: &mut Vec<Group>, kind: (usize, usize, usize, usize)) -> &mut Group {
    let (number, arm, width, slots) = kind;
    let found = groups.iter().position(|group| (group.number, group.arm, group.width, group.slots) == kind);
    let at = found.unwrap_or_else(|| {
        groups.push(Group { number, arm, width, slots, rows: Vec::new(), items: Vec::new() });
        groups.len() - 1
    });
    &mut groups[at]
}

fn listed(py: Python<'_>, look_up: &Py<PyAny>, encoded: &[u8]) -> PyResult<Option<Listed>> {
    let found: Option<LookedUp> = look_up.call1(py, (PyBytes::new(py, encoded),))?.extract(py)?;
    Ok(found.map(|(width, logged_heads, answered_heads)| {
        let count = logged_heads.len();
        Listed { encoded: encoded.to_vec(), count, width, logged_heads, answered_heads }
    }))
}

fn words(
    py: Python<'_>,
    words_of: &Py<PyAny>,
    arm: usize,
    kept: &mut HashMap<Vec<u8>, Arc<Vec<u8>>>,
    encoded: &[u8],
) -> PyResult<Arc<Vec<u8>>> {
    if let Some(found) = kept.get(encoded) {
        return Ok(found.clone());
    }
    if kept.len() >= KEPT_LISTS {
        kept.clear();
    }
    let found: Arc<Vec<u8>> = Arc::new(words_of.call1(py, (arm, PyBytes::new(py, encoded)))?.extract(py)?);
    kept.insert(encoded.to_vec(), found.clone());
    Ok(found)
}

fn hex(bytes: &[u8]) -> [u8; 32] {
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    text
}

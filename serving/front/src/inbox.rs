//! Where the I/O thread leaves calls, and the one thread that runs Python takes them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use slateloop_wire::headers::Metadata;

use crate::call_state::CallState;
use crate::reply::Reply;

/// A call of a gathered method that waits for its answer.
pub struct Waiting {
    pub message: Bytes,
    pub arrived: Instant,
    pub deadline: Option<Instant>,
    pub metadata: Metadata,
    pub reply: Reply,
}

/// What else Python must hear of.
pub enum Other {
    Begun(Arc<CallState>),
    Ended(Arc<CallState>),
}

/// What Python takes at once.
#[derive(Default)]
pub struct Taken {
    /// A batch of each gathered method, in their order; of a method that nobody called it is empty.
    pub batches: Vec<Vec<Waiting>>,
    pub others: Vec<Other>,
}

/// Calls of one gathered method, and how many are taken at once.
struct Queue {
    waiting: VecDeque<Waiting>,
    most: usize,
}

impl Queue {
    fn batch(&mut self) -> Vec<Waiting> {
        let count = self.most.min(self.waiting.len());
        self.waiting.drain(..count).collect()
    }
}

struct State {
    queues: Vec<Queue>,
    others: Vec<Other>,
    /// The Python thread wants what there is, and nobody is about to hand it over.
    asks: bool,
    /// It may take what there is now.
    ready: bool,
    closed: bool,
}

impl State {
    fn is_empty(&self) -> bool {
        self.others.is_empty() && self.queues.iter().all(|queue| queue.waiting.is_empty())
    }
}

pub struct Inbox {
    state: Mutex<State>,
    come: Condvar,
}

impl Inbox {
    /// `most`: calls that are taken at once, of each gathered method.
    pub fn new(most: impl Iterator<Item = usize>) -> Self {
        let queues = most.map(|most| Queue { waiting: VecDeque::new(), most }).collect();
        let state = State { queues, others: Vec::new(), asks: false, ready: false, closed: false };
        Inbox { state: Mutex::new(state), come: Condvar::new() }
    }

    /// Leaves a call of a gathered method, by its place among them. True: the Python thread asks for it, and the caller is the one to see to
    /// it that it is handed over.
    pub fn put(&self, method: usize, call: Waiting) -> bool {
        let mut state = self.lock();
        state.queues[method].waiting.push_back(call);
        std::mem::take(&mut state.asks)
    }

    /// As `put`, for what else there is.
    pub fn tell(&self, other: Other) -> bool {
        let mut state = self.lock();
        state.others.push(other);
        std::mem::take(&mut state.asks)
    }

    /// Hands over what there is.
    pub fn wake(&self) {
        self.lock().ready = true;
        self.come.notify_one();
    }

    /// Whatever has come, once something has; None where nothing will come any more. `ask` is called where something waits already, and has
    /// to see to it that `wake` is called.
    pub fn take(&self, ask: impl FnOnce()) -> Option<Taken> {
        let mut state = self.lock();
        if state.is_empty() {
            state.asks = true;
        } else {
            ask();
        }
        while !state.ready && !state.closed {
            state = self.come.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (state.asks, state.ready) = (false, false);
        if state.is_empty() {
            return (!state.closed).then(Taken::default);
        }
        let batches = state.queues.iter_mut().map(Queue::batch).collect();
        Some(Taken { batches, others: std::mem::take(&mut state.others) })
    }

    /// Nothing more will come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.come.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

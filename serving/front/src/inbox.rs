//! Where the I/O thread leaves calls, and the one thread that runs Python takes them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use slateloop_wire::headers::Metadata;

use crate::call_state::CallState;
use crate::reply::Reply;

/// A call of the gathered method that waits for its answer.
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
    pub waiting: Vec<Waiting>,
    pub others: Vec<Other>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    others: Vec<Other>,
    /// The Python thread wants what there is, and nobody is about to hand it over.
    asks: bool,
    /// It may take what there is now.
    ready: bool,
    closed: bool,
}

impl State {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.others.is_empty()
    }
}

pub struct Inbox {
    state: Mutex<State>,
    come: Condvar,
    most: usize,
}

impl Inbox {
    /// `most`: calls of the gathered method that are taken at once.
    pub fn new(most: usize) -> Self {
        Inbox { state: Mutex::default(), come: Condvar::new(), most }
    }

    /// Leaves a call. True: the Python thread asks for it, and the caller is the one to see to it that it is handed over.
    pub fn put(&self, call: Waiting) -> bool {
        let mut state = self.lock();
        state.waiting.push_back(call);
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
        let count = self.most.min(state.waiting.len());
        Some(Taken { waiting: state.waiting.drain(..count).collect(), others: std::mem::take(&mut state.others) })
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

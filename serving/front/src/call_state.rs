//! A call that Python answers by itself, as both sides see it: what it reads and writes, from any thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use slateloop_wire::frames::framed;
use slateloop_wire::headers::{metadata, timeout, Metadata};
use slateloop_wire::status::Status;
use tokio::sync::{mpsc, Notify};

use crate::inbox::Other;
use crate::shared::Shared;

/// Messages that wait on either side, and bytes of those that came, before the other is made to wait.
const AHEAD: usize = 16;
const AHEAD_BYTES: usize = 1 << 18;

pub enum Sent {
    Message(Bytes),
    End(Status),
}

#[derive(Default)]
pub struct Flow {
    pub received: VecDeque<Bytes>,
    /// Bytes of what was received and not read.
    pub held: usize,
    /// No message will follow.
    pub read_out: bool,
    /// Python has heard of the call.
    begun: bool,
    pub unsent: usize,
    pub ended: bool,
    callbacks: Vec<Py<PyAny>>,
}

pub struct CallState {
    method: String,
    metadata: Metadata,
    arrived: Instant,
    pub deadline: Option<Instant>,
    flow: Mutex<Flow>,
    pub moved: Condvar,
    taken: Notify,
    sender: mpsc::UnboundedSender<Sent>,
    pub receiver: Mutex<Option<mpsc::UnboundedReceiver<Sent>>>,
    pub shared: Arc<Shared>,
}

impl CallState {
    pub fn new(method: &str, headers: &HeaderMap, shared: Arc<Shared>) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let arrived = Instant::now();
        CallState {
            method: method.to_owned(),
            metadata: metadata(headers),
            arrived,
            deadline: timeout(headers).map(|left| arrived + left),
            flow: Mutex::default(),
            moved: Condvar::new(),
            taken: Notify::new(),
            sender,
            receiver: Mutex::new(Some(receiver)),
            shared,
        }
    }

    /// Ends the call with a status. Does nothing where it has ended.
    pub fn finish(&self, status: Status) {
        let _ = self.sender.send(Sent::End(status));
    }

    /// Those who want to know that the call has ended.
    pub fn take_callbacks(&self) -> Vec<Py<PyAny>> {
        std::mem::take(&mut self.flow().callbacks)
    }

    pub fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, flow: MutexGuard<'a, Flow>) -> MutexGuard<'a, Flow> {
        self.moved.wait(flow).unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, other: Other) {
        if self.shared.inbox.tell(other) {
            self.shared.arrived.notify_one();
        }
    }

    /// Tells Python of the call, once.
    pub fn begin(self: &Arc<Self>) {
        if !std::mem::replace(&mut self.flow().begun, true) {
            self.tell(Other::Begun(self.clone()));
        }
    }

    /// Returns once another message may be read; how many bytes are held then.
    pub async fn room(&self) -> usize {
        loop {
            {
                let flow = self.flow();
                if flow.received.len() < AHEAD && flow.held < AHEAD_BYTES {
                    return flow.held;
                }
            }
            self.taken.notified().await;
        }
    }

    /// The call has ended, however it did.
    pub fn end(self: &Arc<Self>) {
        self.flow().ended = true;
        self.moved.notify_all();
        if !self.flow().callbacks.is_empty() {
            self.tell(Other::Ended(self.clone()));
        }
    }
}

/// A call that Python answers by itself. Safe to use from any thread.
#[pyclass(frozen)]
pub struct Call(pub Arc<CallState>);

#[pymethods]
impl Call {
    #[getter]
    fn method(&self) -> &str {
        &self.0.method
    }

    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> Vec<(String, Bound<'py, PyBytes>)> {
        self.0.metadata.iter().map(|(name, value)| (name.clone(), PyBytes::new(py, value))).collect()
    }

    /// Seconds since the call arrived.
    fn waited_s(&self) -> f64 {
        self.0.arrived.elapsed().as_secs_f64()
    }

    /// Seconds that the caller still waits; None: for ever.
    fn left_s(&self) -> Option<f64> {
        self.0.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()).as_secs_f64())
    }

    fn is_active(&self) -> bool {
        !self.0.flow().ended
    }

    /// Is a message here, or known not to come?
    fn is_begun(&self) -> bool {
        let flow = self.0.flow();
        !flow.received.is_empty() || flow.read_out || flow.ended
    }

    /// The next message; None where none follows, or the call has ended. Waits for it.
    fn read<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let state = &self.0;
        let found = py.detach(|| {
            let mut flow = state.flow();
            while flow.received.is_empty() && !flow.read_out && !flow.ended {
                flow = state.wait(flow);
            }
            let found = flow.received.pop_front();
            flow.held -= found.as_ref().map_or(0, Bytes::len);
            found
        });
        state.taken.notify_one();
        found.map(|message| PyBytes::new(py, &message))
    }

    /// Sends a message. Waits while the caller is slow to take those before it, unless `wait` is false. False: the call has ended.
    #[pyo3(signature = (message, *, wait = true))]
    fn write(&self, py: Python<'_>, message: &[u8], wait: bool) -> bool {
        let (state, data) = (&self.0, framed(message));
        py.detach(|| {
            let mut flow = state.flow();
            while wait && flow.unsent >= AHEAD && !flow.ended {
                flow = state.wait(flow);
            }
            flow.unsent += 1;
            !flow.ended && state.sender.send(Sent::Message(data)).is_ok()
        })
    }

    /// Ends the call with a status and trailers; names that end in "-bin" have bytes. Does nothing where it has ended.
    fn finish(&self, code: u32, message: String, trailers: Vec<(String, Vec<u8>)>) {
        self.0.finish(Status { code, message, trailers });
    }

    /// Has `callback` called when the call has ended, however it did. False: it has already, and it won't be.
    fn when_ended(&self, callback: Py<PyAny>) -> bool {
        let mut flow = self.0.flow();
        if !flow.ended {
            flow.callbacks.push(callback);
        }
        !flow.ended
    }
}

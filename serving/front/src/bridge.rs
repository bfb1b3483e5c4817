//! A call that Python answers by itself: what it reads and writes, from any thread, and how that meets the stream.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use slateloop_wire::frames::{framed, Messages};
use slateloop_wire::headers::{metadata, timeout, Metadata};
use slateloop_wire::status::{Status, DEADLINE_EXCEEDED};
use tokio::sync::{mpsc, Notify};

use crate::call::{next_message, Lost};
use crate::inbox::Other;
use crate::reply::{begun, refuse, trailers};
use crate::shared::{Shared, Ticket};

/// Messages that wait on either side before the other is made to wait.
const AHEAD: usize = 16;

enum Sent {
    Message(Bytes),
    End(Status),
}

#[derive(Default)]
struct Flow {
    received: VecDeque<Bytes>,
    /// No message will follow.
    read_out: bool,
    unsent: usize,
    ended: bool,
    callbacks: Vec<Py<PyAny>>,
}

pub struct CallState {
    method: String,
    metadata: Metadata,
    arrived: Instant,
    deadline: Option<Instant>,
    flow: Mutex<Flow>,
    moved: Condvar,
    taken: Notify,
    sender: mpsc::UnboundedSender<Sent>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<Sent>>>,
    shared: Arc<Shared>,
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

    fn flow(&self) -> MutexGuard<'_, Flow> {
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

    fn end(self: &Arc<Self>) {
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

    /// The next message; None where none follows, or the call has ended. Waits for it.
    fn read<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let state = &self.0;
        let found = py.detach(|| {
            let mut flow = state.flow();
            while flow.received.is_empty() && !flow.read_out && !flow.ended {
                flow = state.wait(flow);
            }
            flow.received.pop_front()
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

/// Brings the messages of a stream to Python and Python's to the stream, until either ends the call.
pub async fn converse(
    state: Arc<CallState>,
    mut body: RecvStream,
    mut messages: Messages,
    mut respond: SendResponse<Bytes>,
    ticket: Ticket,
) {
    let taken = state.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut receiver) = taken else { return };
    let mut stream = None;
    let early = tokio::select! {
        biased;
        early = read_in(&state, &mut body, &mut messages) => early,
        () = write_out(&state, &mut respond, &mut stream, &mut receiver) => None,
        () = passed(state.deadline) => Some(Status::new(DEADLINE_EXCEEDED, "the caller's deadline has passed; send fewer at once")),
    };
    if let Some(status) = early {
        match stream.as_mut() {
            Some(stream) => drop(stream.send_trailers(trailers(&status))),
            None => refuse(&mut respond, &status),
        }
    }
    state.end();
    drop(ticket);
}

/// Reads until the call ends; a status where the call must end because of what was read. Python hears of the call with its first message,
/// so that a slow sender keeps none of its threads.
async fn read_in(state: &Arc<CallState>, body: &mut RecvStream, messages: &mut Messages) -> Option<Status> {
    let mut begun = false;
    loop {
        while state.flow().received.len() >= AHEAD {
            state.taken.notified().await;
        }
        let read_out = match next_message(body, messages).await {
            Ok(Some(message)) => {
                state.flow().received.push_back(message);
                false
            }
            Ok(None) => true,
            Err(Lost::Refused(status)) => return Some(status),
            Err(Lost::Gone) => return None,
        };
        state.flow().read_out = read_out;
        state.moved.notify_all();
        if !std::mem::replace(&mut begun, true) {
            state.tell(Other::Begun(state.clone()));
        }
        if read_out {
            std::future::pending::<()>().await;
        }
    }
}

/// Writes what Python sends until it ends the call, or the caller does.
async fn write_out(
    state: &CallState,
    respond: &mut SendResponse<Bytes>,
    stream: &mut Option<SendStream<Bytes>>,
    receiver: &mut mpsc::UnboundedReceiver<Sent>,
) {
    loop {
        let sent = tokio::select! {
            sent = receiver.recv() => sent,
            () = reset(respond, stream) => None,
        };
        let written = match sent {
            None => return,
            Some(Sent::End(status)) => {
                match stream {
                    Some(stream) => drop(stream.send_trailers(trailers(&status))),
                    None => refuse(respond, &status),
                }
                return;
            }
            Some(Sent::Message(data)) => write(respond, stream, data).await,
        };
        if written.is_err() {
            return;
        }
        state.flow().unsent -= 1;
        state.moved.notify_all();
    }
}

async fn write(respond: &mut SendResponse<Bytes>, stream: &mut Option<SendStream<Bytes>>, mut data: Bytes) -> Result<(), h2::Error> {
    let stream = match stream {
        Some(stream) => stream,
        None => stream.insert(respond.send_response(begun(), false)?),
    };
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(granted) => stream.send_data(data.split_to(granted?.min(data.len())), false)?,
            None => return Err(h2::Reason::CANCEL.into()),
        }
    }
    Ok(())
}

async fn reset(respond: &mut SendResponse<Bytes>, stream: &mut Option<SendStream<Bytes>>) {
    let _ = match stream {
        Some(stream) => poll_fn(|context| stream.poll_reset(context)).await,
        None => poll_fn(|context| respond.poll_reset(context)).await,
    };
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

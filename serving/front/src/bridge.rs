//! How a call that Python answers by itself meets its stream.

use std::future::{poll_fn, Future};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use slateloop_wire::frames::Messages;
use slateloop_wire::status::{Status, DEADLINE_EXCEEDED};
use tokio::sync::mpsc;

use crate::call::{next_message, Lost};
use crate::call_state::{CallState, Sent};
use crate::reply::{begun, refuse, trailers};
use crate::shared::Ticket;

/// A caller that takes nothing of an answer for so long is let go.
const STALLED: Duration = Duration::from_secs(20);

/// Brings the messages of a stream to Python and Python's to the stream, until either ends the call.
pub async fn converse(
    state: Arc<CallState>,
    mut body: RecvStream,
    mut messages: Messages,
    mut respond: SendResponse<Bytes>,
    mut ticket: Ticket,
) {
    let taken = state.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut receiver) = taken else { return };
    let _ending = Ending(state.clone());
    let mut stream = None;
    let early = tokio::select! {
        biased;
        early = read_in(&state, &mut body, &mut messages, &mut ticket) => early,
        () = write_out(&state, &mut respond, &mut stream, &mut receiver) => None,
        () = passed(state.deadline) => Some(Status::new(DEADLINE_EXCEEDED, "the caller's deadline has passed; send fewer at once")),
    };
    if let Some(status) = early {
        match stream.as_mut() {
            Some(stream) => drop(stream.send_trailers(trailers(&status))),
            None => refuse(&mut respond, &status),
        }
    }
}

/// Ends a call when its conversation does, also where that is dropped with the runtime: a thread of Python may wait for it.
struct Ending(Arc<CallState>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Reads until the call ends; a status where the call must end because of what was read. Python hears of the call with its first message,
/// so that a slow sender keeps none of its threads; of one whose first message is late, once it is, and decides what becomes of it.
async fn read_in(state: &Arc<CallState>, body: &mut RecvStream, messages: &mut Messages, ticket: &mut Ticket) -> Option<Status> {
    let mut begun = false;
    loop {
        let held = state.room().await;
        let next = next_message(body, messages, ticket, held);
        let found = if begun {
            next.await
        } else {
            let found = first(state, next).await;
            begun = true;
            found
        };
        let read_out = match found {
            Ok(Some(message)) => {
                let mut flow = state.flow();
                flow.held += message.len();
                flow.received.push_back(message);
                false
            }
            Ok(None) => true,
            Err(Lost::Refused(status)) => return Some(status),
            Err(Lost::Gone) => return None,
        };
        state.flow().read_out = read_out;
        state.moved.notify_all();
        state.begin();
        if read_out {
            std::future::pending::<()>().await;
        }
    }
}

/// Waits for the first message; Python hears of the call if it is late.
async fn first<T>(state: &Arc<CallState>, next: impl Future<Output = T>) -> T {
    tokio::pin!(next);
    match tokio::time::timeout(state.shared.limits.deadline_cap, &mut next).await {
        Ok(found) => found,
        Err(_) => {
            state.begin();
            next.await
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
        match tokio::time::timeout(STALLED, poll_fn(|context| stream.poll_capacity(context))).await {
            Ok(Some(granted)) => stream.send_data(data.split_to(granted?.min(data.len())), false)?,
            Ok(None) | Err(_) => {
                stream.send_reset(h2::Reason::CANCEL);
                return Err(h2::Reason::CANCEL.into());
            }
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

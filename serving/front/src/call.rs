//! A call where it arrives: what its headers say, and its first message.

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::RecvStream;
use http::{HeaderMap, Method, Request, StatusCode};
use slateloop_wire::frames::Messages;
use slateloop_wire::headers::{encoding, is_grpc, metadata, size, timeout};
use slateloop_wire::status::{Status, DEADLINE_EXCEEDED, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED};

use crate::bridge::converse;
use crate::call_state::CallState;
use crate::connection::HANDSHAKE;
use crate::inbox::Waiting;
use crate::reply::{refuse, refuse_http, Reply};
use crate::shared::{Limits, Shared, Ticket};

/// Why a call has no message: a status to answer with, or nobody who waits for one.
pub enum Lost {
    Refused(Status),
    Gone,
}

/// Takes a call: reads as much of it as is here, and leaves the rest to a task.
pub async fn begin(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, shared: &Arc<Shared>, connection: &Arc<()>) {
    if request.method() != Method::POST || !is_grpc(request.headers()) {
        tokio::spawn(refuse_other(request.into_body(), respond));
        return;
    }
    let (messages, ticket) = match admitted(request.headers(), shared, connection) {
        Ok(found) => found,
        Err(status) => return refuse(&mut respond, &status),
    };
    let path = request.uri().path();
    let Some(method) = shared.limits.gathered.iter().position(|gathered| gathered.path == path) else {
        let state = CallState::new(path, request.headers(), shared.clone());
        tokio::spawn(converse(Arc::new(state), request.into_body(), messages, respond, ticket));
        return;
    };
    let mut reading = Box::pin(gather(method, request, messages, respond, ticket, shared.clone()));
    // Mostly the whole call is here already, and no task is needed for it.
    let read = std::future::poll_fn(|context| Poll::Ready(reading.as_mut().poll(context).is_ready())).await;
    if !read {
        tokio::spawn(reading);
    }
}

/// Answers what is no gRPC call, once all of it has come: what is wrong with it is then answered by HTTP/2 first.
async fn refuse_other(mut body: RecvStream, mut respond: SendResponse<Bytes>) {
    let read = async {
        while let Some(data) = body.data().await {
            let _ = body.flow_control().release_capacity(data?.len());
        }
        body.trailers().await
    };
    if let Ok(Ok(_)) = tokio::time::timeout(HANDSHAKE, read).await {
        refuse_http(&mut respond, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
}

fn admitted(headers: &HeaderMap, shared: &Arc<Shared>, connection: &Arc<()>) -> Result<(Messages, Ticket), Status> {
    let limits = &shared.limits;
    if size(headers) > limits.max_metadata_bytes {
        return Err(Status::new(RESOURCE_EXHAUSTED, format!("metadata: is too large; send at most {} bytes", limits.max_metadata_bytes)));
    }
    let Some(encoding) = encoding(headers) else {
        let mut status = Status::new(UNIMPLEMENTED, "grpc-encoding: is not known here; send identity, gzip or deflate");
        status.trailers.push(("grpc-accept-encoding".into(), b"identity,gzip,deflate".to_vec()));
        return Err(status);
    };
    let Some(ticket) = shared.ticket(connection) else {
        let text = format!("max_concurrent_rpcs: {} calls run or wait; send fewer at once", limits.max_concurrent_rpcs);
        return Err(Status::new(RESOURCE_EXHAUSTED, text));
    };
    Ok((Messages::new(encoding, limits.max_message_bytes), ticket))
}

/// Reads the message of a gathered call, and leaves it for Python. `method`: its place among the gathered ones.
async fn gather(
    method: usize,
    request: Request<RecvStream>,
    mut messages: Messages,
    mut respond: SendResponse<Bytes>,
    mut ticket: Ticket,
    shared: Arc<Shared>,
) {
    let arrived = Instant::now();
    let (head, mut body) = request.into_parts();
    let deadline = timeout(&head.headers).map(|left| arrived + left.min(shared.limits.deadline_cap));
    let metadata = if shared.limits.with_metadata { metadata(&head.headers) } else { Vec::new() };
    match in_time(&mut body, &mut messages, &mut ticket, &shared.limits).await {
        Ok(message) => {
            let reply = Reply::new(respond, ticket);
            if shared.inbox.put(method, Waiting { message, arrived, deadline, metadata, reply }) {
                shared.arrived.notify_one();
            }
        }
        Err(Lost::Refused(status)) => refuse(&mut respond, &status),
        Err(Lost::Gone) => {}
    }
}

/// The only message; who sends it too slowly gives its place to others.
async fn in_time(body: &mut RecvStream, messages: &mut Messages, ticket: &mut Ticket, limits: &Limits) -> Result<Bytes, Lost> {
    match tokio::time::timeout(limits.deadline_cap, only_message(body, messages, ticket)).await {
        Ok(found) => found,
        Err(_) => Err(Lost::Refused(late(limits))),
    }
}

/// The answer to who has not sent a message in time.
fn late(limits: &Limits) -> Status {
    Status::new(DEADLINE_EXCEEDED, format!("message: has not come within {:?} (deadline_cap_s); send it whole", limits.deadline_cap))
}

async fn only_message(body: &mut RecvStream, messages: &mut Messages, ticket: &mut Ticket) -> Result<Bytes, Lost> {
    let found = next_message(body, messages, ticket, 0).await?;
    let more = next_message(body, messages, ticket, found.as_ref().map_or(0, Bytes::len)).await?;
    match (found, more) {
        (Some(message), None) => Ok(message),
        (None, _) => Err(Lost::Refused(Status::new(INVALID_ARGUMENT, "message: none came; send one"))),
        (_, Some(_)) => Err(Lost::Refused(Status::new(INVALID_ARGUMENT, "message: more than one came; send one a call"))),
    }
}

/// The next message of a call; None at its end. `held`: bytes of its messages that came before and are held.
pub async fn next_message(body: &mut RecvStream, messages: &mut Messages, ticket: &mut Ticket, held: usize) -> Result<Option<Bytes>, Lost> {
    loop {
        if let Some(message) = messages.next().map_err(Lost::Refused)? {
            return Ok(Some(message));
        }
        match body.data().await {
            Some(Ok(data)) => {
                let _ = body.flow_control().release_capacity(data.len());
                messages.push(data);
                if !ticket.hold(held + messages.len()) {
                    return Err(Lost::Refused(Status::new(RESOURCE_EXHAUSTED, "message: too much has come at once; send it again later")));
                }
            }
            Some(Err(_)) => return Err(Lost::Gone),
            None if messages.is_empty() => return Ok(None),
            None => return Err(Lost::Refused(Status::new(INVALID_ARGUMENT, "message: ends before its length; send it whole"))),
        }
    }
}

//! The end of a call as the wire has it.

use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use slateloop_wire::status::{Status, OK};

use crate::shared::Ticket;

/// The answer to a call of one message: its bytes with their prefix, or a status.
pub type Outcome = Result<Bytes, Status>;

/// The answers to a batch, and since when they are there.
pub struct Answered {
    pub replies: Vec<(Reply, Outcome)>,
    pub at: Instant,
}

/// Who waits for an answer.
pub struct Reply {
    respond: SendResponse<Bytes>,
    _ticket: Ticket,
}

impl Reply {
    pub fn new(respond: SendResponse<Bytes>, ticket: Ticket) -> Self {
        Reply { respond, _ticket: ticket }
    }

    /// Sends the answer. Where the caller has gone there is nobody to tell.
    pub fn send(mut self, outcome: Outcome) {
        match outcome {
            Err(status) => refuse(&mut self.respond, &status),
            Ok(data) => {
                if let Ok(mut stream) = self.respond.send_response(begun(), false) {
                    if stream.send_data(data, false).is_ok() {
                        let _ = stream.send_trailers(trailers(&Status::new(OK, "")));
                    }
                }
            }
        }
    }
}

/// Ends a call of which nothing was sent yet with a status alone.
pub fn refuse(respond: &mut SendResponse<Bytes>, status: &Status) {
    let mut response = begun();
    status.write_to(response.headers_mut());
    let _ = respond.send_response(response, true);
}

/// Answers what is no gRPC call.
pub fn refuse_http(respond: &mut SendResponse<Bytes>, code: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = code;
    if let Ok(mut stream) = respond.send_response(response, false) {
        let _ = stream.send_data(Bytes::from_static(b"gRPC is spoken here, and nothing else\n"), true);
    }
}

/// The headers with which every answer begins.
pub fn begun() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The headers with which an answer that has begun ends.
pub fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(4);
    status.write_to(&mut trailers);
    trailers
}

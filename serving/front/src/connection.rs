//! One connection: its HTTP/2 settings, its calls, and its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::call::begin;
use crate::shared::Shared;

/// Longest that a connection may take to say that it speaks HTTP/2.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
// Streams that a connection may have open: far above what is answered at once, so that it is calls that are refused, with a status, and
// not streams, without one.
const STREAMS: u32 = 4096;
// A stream that is reset before it was answered costs work and is counted against none of the caller's limits (CVE-2023-44487): beyond so
// many that wait to be taken or forgotten, the connection is closed.
const RESETS: usize = 64;
const STREAM_WINDOW: u32 = 1 << 18;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Serves a connection until its caller or, with notice, the server closes it.
pub async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>, mut drain: watch::Receiver<bool>) {
    let handshake = builder(&shared).handshake::<_, Bytes>(io);
    let Ok(Ok(mut connection)) = timeout(HANDSHAKE, handshake).await else { return };
    loop {
        let draining = *drain.borrow_and_update();
        if draining {
            connection.graceful_shutdown();
        }
        tokio::select! {
            call = connection.accept() => match call {
                Some(Ok((request, respond))) => begin(request, respond, &shared).await,
                _ => return,
            },
            Ok(()) = drain.changed(), if !draining => {}
        }
    }
}

fn builder(shared: &Shared) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // Beyond it the caller's own library refuses; within it, the call is refused by name.
        .max_header_list_size(4 * shared.limits.max_metadata_bytes as u32)
        .max_pending_accept_reset_streams(RESETS)
        .max_concurrent_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(RESETS));
    builder
}

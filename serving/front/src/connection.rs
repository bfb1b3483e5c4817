//! One connection: its HTTP/2 settings, its calls, and its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout, Instant};

use crate::call::begin;
use crate::shared::{Limits, Shared};

/// Longest that a connection may take to say that it speaks HTTP/2.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
// Streams that a connection may have open: far above what is answered at once, so that it is calls that are refused, with a status, and
// not streams, without one.
const STREAMS: u32 = 4096;
// A stream that is reset before it was answered costs work and is counted against none of the caller's limits (CVE-2023-44487): beyond so
// many that wait to be taken or forgotten, the connection is closed.
const RESETS: usize = 64;
// Longer than any process lives, and short enough to be added to a time.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const STREAM_WINDOW: u32 = 1 << 18;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Serves a connection until its caller or, with notice, the server closes it.
pub async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>, mut drain: watch::Receiver<bool>) {
    let handshake = builder(&shared).handshake::<_, Bytes>(io);
    let Ok(Ok(mut connection)) = timeout(HANDSHAKE, handshake).await else { return };
    let mut life = Life::new(&shared.limits);
    let look = sleep_until(life.next_look());
    tokio::pin!(look);
    let mut closing = false;
    loop {
        let draining = *drain.borrow_and_update();
        if !closing && (draining || life.is_over()) {
            closing = true;
            connection.graceful_shutdown();
            look.as_mut().reset(Instant::now() + HANDSHAKE);
        }
        tokio::select! {
            call = connection.accept() => match call {
                Some(Ok((request, respond))) => {
                    life.called = Instant::now();
                    begin(request, respond, &shared, &life.calls).await;
                }
                _ => return,
            },
            Ok(()) = drain.changed(), if !draining => {}
            () = &mut look => {
                // Whoever does not answer a farewell is not waited for.
                if closing && life.has_no_call() {
                    return;
                }
                look.as_mut().reset(if closing { Instant::now() + HANDSHAKE } else { life.next_look() });
            }
        }
    }
}

/// How long a connection stays.
struct Life {
    begun: Instant,
    called: Instant,
    max_idle: Duration,
    max_age: Duration,
    /// Held once more by each call that runs.
    calls: Arc<()>,
}

impl Life {
    fn new(limits: &Limits) -> Self {
        let now = Instant::now();
        let max_age = limits.max_age.unwrap_or(FOREVER);
        Life { begun: now, called: now, max_idle: limits.max_idle.min(FOREVER), max_age, calls: Arc::new(()) }
    }

    fn is_over(&self) -> bool {
        (self.has_no_call() && self.called.elapsed() >= self.max_idle) || self.begun.elapsed() >= self.max_age
    }

    fn has_no_call(&self) -> bool {
        Arc::strong_count(&self.calls) == 1
    }

    /// When it may be over; a call that runs then is looked at again later.
    fn next_look(&self) -> Instant {
        let idle = self.called + self.max_idle;
        let idle = if idle <= Instant::now() { Instant::now() + self.max_idle } else { idle };
        idle.min(self.begun + self.max_age)
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

//! What the threads of a front share: its limits, the calls that run, and the ways between I/O and Python.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, Notify};

use crate::inbox::Inbox;
use crate::reply::{Outcome, Reply};

/// The limits of a front, as the server's own config names them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Path of the method whose calls are answered together.
    pub gathered: String,
    /// Calls of one batch.
    pub most: usize,
    pub max_message_bytes: usize,
    pub max_metadata_bytes: usize,
    pub max_concurrent_rpcs: usize,
    /// Longest that a call waits for its answer to begin.
    pub deadline_cap: Duration,
    /// Does Python want the metadata of gathered calls?
    pub with_metadata: bool,
}

pub struct Shared {
    pub limits: Limits,
    pub inbox: Inbox,
    /// Told when a call came while the Python thread sleeps.
    pub arrived: Notify,
    pub outbox: mpsc::UnboundedSender<Vec<(Reply, Outcome)>>,
    running: AtomicUsize,
}

impl Shared {
    pub fn new(limits: Limits, outbox: mpsc::UnboundedSender<Vec<(Reply, Outcome)>>) -> Self {
        let inbox = Inbox::new(limits.most);
        Shared { limits, inbox, arrived: Notify::new(), outbox, running: AtomicUsize::new(0) }
    }

    /// Leave to run one more call, until the ticket is dropped; None where as many run as may.
    pub fn ticket(self: &Arc<Self>) -> Option<Ticket> {
        if self.running.fetch_add(1, Ordering::Relaxed) < self.limits.max_concurrent_rpcs {
            return Some(Ticket(self.clone()));
        }
        self.running.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Calls that run or wait now.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }
}

/// One call that runs.
pub struct Ticket(Arc<Shared>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

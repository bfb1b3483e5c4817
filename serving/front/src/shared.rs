//! What the threads of a front share: its limits, the calls that run, and the ways between I/O and Python.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, Notify};

use crate::inbox::Inbox;
use crate::reply::Answered;
use crate::stages::Stages;

// As many messages of the largest size; of usual ones it is far more than run at once.
const HELD_MESSAGES: usize = 16;

/// A method whose calls are answered together: its path, and how many calls a batch of it has at most.
#[derive(Clone, Debug)]
pub struct Gathered {
    pub path: String,
    pub most: usize,
}

/// The limits of a front, as the server's own config names them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The methods whose calls are answered together.
    pub gathered: Vec<Gathered>,
    pub max_message_bytes: usize,
    pub max_metadata_bytes: usize,
    pub max_concurrent_rpcs: usize,
    /// Longest that a call waits for its answer to begin.
    pub deadline_cap: Duration,
    /// A connection is closed that has had no call for so long, and any after its age once its calls have ended.
    pub max_idle: Duration,
    pub max_age: Option<Duration>,
    /// Does Python want the metadata of gathered calls?
    pub with_metadata: bool,
}

impl Limits {
    /// Bytes of messages that all calls together may hold: without it, few callers with a large message each take all of the memory.
    pub fn most_held(&self) -> usize {
        HELD_MESSAGES * self.max_message_bytes
    }
}

pub struct Shared {
    pub limits: Limits,
    pub inbox: Inbox,
    /// Told when a call came while the Python thread sleeps.
    pub arrived: Notify,
    pub outbox: mpsc::UnboundedSender<Answered>,
    pub stages: Stages,
    running: AtomicUsize,
    /// Bytes of messages that have come and are not answered.
    held: AtomicUsize,
}

impl Shared {
    pub fn new(limits: Limits, outbox: mpsc::UnboundedSender<Answered>) -> Self {
        let inbox = Inbox::new(limits.gathered.iter().map(|method| method.most));
        let (arrived, stages) = (Notify::new(), Stages::default());
        Shared { limits, inbox, arrived, outbox, stages, running: AtomicUsize::new(0), held: AtomicUsize::new(0) }
    }

    /// Leave to run one more call, until the ticket is dropped; None where as many run as may.
    pub fn ticket(self: &Arc<Self>, connection: &Arc<()>) -> Option<Ticket> {
        if self.running.fetch_add(1, Ordering::Relaxed) < self.limits.max_concurrent_rpcs {
            return Some(Ticket { shared: self.clone(), held: 0, _connection: connection.clone() });
        }
        self.running.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Calls that run or wait now.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }
}

/// One call that runs, and the bytes of its messages that are held for it.
pub struct Ticket {
    shared: Arc<Shared>,
    held: usize,
    /// Tells its connection that a call runs.
    _connection: Arc<()>,
}

impl Ticket {
    /// Holds so many bytes for the call from now on. False: the calls that run would hold more than they may together.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let (shared, own) = (&self.shared, std::mem::replace(&mut self.held, bytes));
        let before = shared.held.fetch_add(bytes, Ordering::Relaxed);
        shared.held.fetch_sub(own, Ordering::Relaxed);
        bytes <= own || before + bytes - own <= shared.limits.most_held()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.held.fetch_sub(self.held, Ordering::Relaxed);
        self.shared.running.fetch_sub(1, Ordering::Relaxed);
    }
}

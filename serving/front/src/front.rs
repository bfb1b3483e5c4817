//! The front as Python sees it: bound, started, run, stopped.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};

use crate::listen::{acceptor, bind, serve_all, Bound as Listening};
use crate::python;
use crate::reply::{Outcome, Reply};
use crate::shared::{Limits, Shared};

/// PEM of a certificate chain, of its key, and of those who sign clients (None: clients need no certificate).
type Tls = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

#[derive(Default)]
struct Stage {
    bound: Option<Listening>,
    outbox: Option<mpsc::UnboundedReceiver<Vec<(Reply, Outcome)>>>,
    io: Option<JoinHandle<()>>,
}

/// A server front: `bind`, `start`, `run` in a thread of Python's own, and `stop`.
#[pyclass(frozen)]
pub struct Front {
    shared: Arc<Shared>,
    stage: Mutex<Stage>,
    stopping: watch::Sender<Option<Duration>>,
}

#[pymethods]
impl Front {
    #[new]
    #[pyo3(signature = (*, gathered, most, max_message_bytes, max_metadata_bytes, max_concurrent_rpcs, deadline_cap_s, with_metadata))]
    fn new(
        gathered: String,
        most: usize,
        max_message_bytes: usize,
        max_metadata_bytes: usize,
        max_concurrent_rpcs: usize,
        deadline_cap_s: f64,
        with_metadata: bool,
    ) -> PyResult<Self> {
        let deadline_cap = Duration::try_from_secs_f64(deadline_cap_s)
            .map_err(|error| PyValueError::new_err(format!("deadline_cap_s: {deadline_cap_s} is refused ({error}); give seconds")))?;
        let limits = Limits { gathered, most, max_message_bytes, max_metadata_bytes, max_concurrent_rpcs, deadline_cap, with_metadata };
        let (outbox, replies) = mpsc::unbounded_channel();
        let stage = Stage { outbox: Some(replies), ..Stage::default() };
        Ok(Front { shared: Arc::new(Shared::new(limits, outbox)), stage: Mutex::new(stage), stopping: watch::Sender::new(None) })
    }

    /// Listens at "host:port" and returns the port. Nothing is answered before `start`.
    #[pyo3(signature = (address, *, shares_port = false, tls = None))]
    fn bind(&self, address: &str, shares_port: bool, tls: Option<Tls>) -> PyResult<u16> {
        let tls = tls.map(|(chain, key, clients)| acceptor(&chain, &key, clients.as_deref())).transpose();
        let tls = tls.map_err(|error| PyValueError::new_err(format!("tls: {error}; give PEM files that belong together")))?;
        let failed = |error: std::io::Error| PyRuntimeError::new_err(format!("{address}: {error}"));
        let socket = bind(address, shares_port).map_err(failed)?;
        let port = socket.local_addr().map_err(failed)?.port();
        self.stage().bound = Some(Listening { socket, tls });
        Ok(port)
    }

    /// Takes connections, in a thread of its own.
    fn start(&self) -> PyResult<()> {
        let mut stage = self.stage();
        let (Some(bound), Some(outbox)) = (stage.bound.take(), stage.outbox.take()) else {
            return Err(PyRuntimeError::new_err("start: the front is not bound, or was started before"));
        };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (shared, stop) = (self.shared.clone(), self.stopping.subscribe());
        let serve = move || {
            // An address that was bound can be listened at; if not, nobody is ever answered, and health tells.
            let _ = runtime.block_on(serve_all(bound, shared.clone(), outbox, stop));
            shared.inbox.close();
        };
        stage.io = Some(std::thread::Builder::new().name("front-io".into()).spawn(serve)?);
        Ok(())
    }

    /// Answers calls in this thread until the front has stopped; see python.rs for the two callables.
    fn run(&self, py: Python<'_>, answer_all: &Bound<'_, PyAny>, begin: &Bound<'_, PyAny>) {
        python::run(py, &self.shared, answer_all, begin);
    }

    /// Takes no more connections, lets running calls finish for `grace_s`, and closes. Returns when that is done.
    fn stop(&self, py: Python<'_>, grace_s: f64) {
        let grace = Duration::try_from_secs_f64(grace_s).unwrap_or_default();
        let (io, unbound) = {
            let mut stage = self.stage();
            (stage.io.take(), stage.bound.take())
        };
        drop(unbound);
        self.stopping.send_replace(Some(grace));
        if let Some(io) = io {
            py.detach(|| drop(io.join()));
        }
        self.shared.inbox.close();
    }

    /// Calls that run or wait now.
    #[getter]
    fn running(&self) -> usize {
        self.shared.running()
    }
}

impl Front {
    fn stage(&self) -> std::sync::MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The front as Python sees it: bound, started, run, stopped.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};

use crate::listen::{bind, serve_all, Bound as Listening};
use crate::python;
use crate::reply::Answered;
use crate::shared::{Gathered, Limits, Shared};
use crate::tls::{Pem, Tls};

/// Buckets (upper bound in seconds, how many lie in it or below) and sum of seconds.
type Read = (Vec<(f64, u64)>, f64);

#[derive(Default)]
struct Stage {
    bound: Option<Listening>,
    outbox: Option<mpsc::UnboundedReceiver<Answered>>,
    io: Option<JoinHandle<()>>,
}

/// A server front: `bind`, `start`, `run` in a thread of Python's own, and `stop`.
#[pyclass(frozen)]
pub struct Front {
    shared: Arc<Shared>,
    tls: Arc<Tls>,
    stage: Mutex<Stage>,
    stopping: watch::Sender<Option<Duration>>,
}

#[pymethods]
impl Front {
    /// `gathered`: path and largest batch of each method whose calls are answered together.
    #[new]
    #[pyo3(signature = (*, gathered, max_message_bytes, max_metadata_bytes, max_concurrent_rpcs, deadline_cap_s, max_idle_s = 900.0, max_age_s = None, with_metadata))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        gathered: Vec<(String, usize)>,
        max_message_bytes: usize,
        max_metadata_bytes: usize,
        max_concurrent_rpcs: usize,
        deadline_cap_s: f64,
        max_idle_s: f64,
        max_age_s: Option<f64>,
        with_metadata: bool,
    ) -> PyResult<Self> {
        let (deadline_cap, max_idle) = (seconds("deadline_cap_s", deadline_cap_s)?, seconds("max_idle_s", max_idle_s)?);
        let max_age = max_age_s.map(|given| seconds("max_age_s", given)).transpose()?;
        let limits = Limits {
            gathered: gathered.into_iter().map(|(path, most)| Gathered { path, most }).collect(),
            max_message_bytes,
            max_metadata_bytes,
            max_concurrent_rpcs,
            deadline_cap,
            max_idle,
            max_age,
            with_metadata,
        };
        let (outbox, replies) = mpsc::unbounded_channel();
        let stage = Stage { outbox: Some(replies), ..Stage::default() };
        let (shared, stopping) = (Arc::new(Shared::new(limits, outbox)), watch::Sender::new(None));
        Ok(Front { shared, tls: Arc::default(), stage: Mutex::new(stage), stopping })
    }

    /// Listens at "host:port" and returns the port. Nothing is answered before `start`.
    #[pyo3(signature = (address, *, shares_port = false, tls = None))]
    fn bind(&self, address: &str, shares_port: bool, tls: Option<Pem>) -> PyResult<u16> {
        if let Some(pem) = tls {
            self.renew(pem)?;
        }
        let failed = |error: std::io::Error| PyRuntimeError::new_err(format!("{address}: {error}"));
        let socket = bind(address, shares_port).map_err(failed)?;
        let port = socket.local_addr().map_err(failed)?.port();
        self.stage().bound = Some(Listening { socket, tls: self.tls.clone() });
        Ok(port)
    }

    /// Encrypts new connections by another certificate; those that stand keep theirs. Raises ValueError, and then nothing has changed.
    fn renew(&self, tls: Pem) -> PyResult<()> {
        self.tls.renew(&tls).map_err(|error| PyValueError::new_err(format!("tls: {error}; give PEM files that belong together")))
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
            // However it ends, the Python thread must not wait for more.
            let _closing = Closing(shared.clone());
            let _ = runtime.block_on(serve_all(bound, shared, outbox, stop));
        };
        stage.io = Some(std::thread::Builder::new().name("front-io".into()).spawn(serve)?);
        Ok(())
    }

    /// Answers calls in this thread until the front has stopped; see python.rs for the two callables.
    fn run(&self, py: Python<'_>, answer_all: Vec<Bound<'_, PyAny>>, begin: &Bound<'_, PyAny>) {
        python::run(py, &self.shared, &answer_all, begin);
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

    /// Of each stage of a batch, by name: how long it took. See stages.rs.
    fn stages(&self) -> [(&'static str, Read); 3] {
        let stages = &self.shared.stages;
        [("wait", stages.wait.read()), ("answer", stages.answer.read()), ("send", stages.send.read())]
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

fn seconds(name: &str, given: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(given).map_err(|error| PyValueError::new_err(format!("{name}: {given} is refused ({error}); give seconds")))
}

/// Closes the inbox when the I/O thread ends.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.inbox.close();
    }
}

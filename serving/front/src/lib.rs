//! The native front end of the server. Rust threads take HTTP/2 and gRPC; one Python thread answers, a batch of calls at a time.
//!
//! A call of a gathered method (Select, Assign) waits in the inbox until the Python thread comes back for more: so calls are answered
//! together that arrived while the batches before were being answered, and no clock makes anybody wait. Every other call is handed to Python
//! by itself.

mod bridge;
mod call;
mod call_state;
mod connection;
mod front;
mod inbox;
mod listen;
mod plan;
mod planner;
mod python;
mod reply;
mod shared;
mod stages;
mod tls;

use pyo3::prelude::*;

#[pymodule]
mod slateloop_front {
    #[pymodule_export]
    use crate::call_state::Call;
    #[pymodule_export]
    use crate::front::Front;
    #[pymodule_export]
    use crate::plan::Plan;
    #[pymodule_export]
    use crate::planner::Planner;
}

//! Sets up what a Berth process tells about itself: log lines on standard error,
//! metrics as text, and one line before a panic ends the process. It starts no
//! server and decides nothing about what is logged or measured.
//!
//! A process that cannot write its log must go on working: a blocked log pipe
//! once stalled every read of a well-known store while its health check still
//! passed. So lines go through a bounded queue to a thread of their own, and what
//! does not fit is dropped and counted.
#![forbid(unsafe_code)]

mod filter;
mod log;
mod metrics_registry;
mod panic;
mod queue;

pub use filter::{FilterError, parse_filter};
pub use log::{LogFilter, LogFormat, LogHandle, LogInitError, dropped_log_lines, init_log};
pub use metrics_registry::{Metrics, MetricsInitError};
pub use panic::abort_on_panic;
pub use queue::{QUEUE_BYTES_MAX, QUEUE_LINES_MAX};

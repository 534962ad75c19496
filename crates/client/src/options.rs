//! How patient a client is.

use std::time::Duration;

use berth_identity::Dialer;

/// Settings of a [`Client`](crate::Client).
#[derive(Debug, Clone)]
pub struct Options {
    /// The schedulers, `HOST:PORT`, asked in this order. At least one.
    pub servers: Vec<String>,
    /// How they are reached.
    pub dialer: Dialer,
    /// Sent as a bearer token with every call.
    pub token: Option<String>,
    /// One call, with all its attempts.
    pub deadline: Duration,
    /// One attempt, after which another scheduler is asked.
    pub attempt: Duration,
}

impl Options {
    /// Long enough for an election of the slowest profile, short enough that a
    /// person at a terminal learns of a dead cluster within five seconds.
    pub const DEADLINE: Duration = Duration::from_millis(4_500);
    /// A healthy leader answers within milliseconds; a frozen one holds a call
    /// open for ever.
    pub const ATTEMPT: Duration = Duration::from_millis(1_500);

    /// The usual patience with `servers`.
    #[must_use]
    pub fn new(servers: Vec<String>) -> Options {
        Options {
            servers,
            dialer: Dialer::PlainText,
            token: None,
            deadline: Options::DEADLINE,
            attempt: Options::ATTEMPT,
        }
    }
}

//! A call to whichever scheduler can answer it.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tracing::debug;

use crate::attempt::{self, Missed};
use crate::backoff;
use crate::connect::Connections;
use crate::error::{ClientError, Failure, Refusal, Tried};
use crate::options::Options;

/// A client of one cluster; cheap to clone, and its clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    connections: Connections,
    /// Who answered last. The lock guards this value alone.
    preferred: Mutex<Option<String>>,
}

/// Whether a call may be made again although it may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Nothing changes, so no outcome is ever unknown.
    Read,
    /// A change that is the same twice as once.
    Harmless,
    /// A second effect would be another one.
    Harmful,
}

/// Redirects that are followed at once; more are a quarrel about who leads, and
/// the next one waits its turn.
const REDIRECTS_MAX: u32 = 3;

/// No further attempt begins with less of the call's time left. What is cut off may
/// have taken effect, so that a definite answer would end as an unknown outcome.
const ATTEMPT_MIN: Duration = Duration::from_millis(200);
/// The same as a part of the call's time, for calls that have little.
const ATTEMPT_MIN_PART: u32 = 8;

impl Client {
    /// A client that will connect when it is first used.
    #[must_use]
    pub fn new(options: Options) -> Client {
        let connections = Connections::through(options.dialer.clone());
        let shared = Shared { options, connections, preferred: Mutex::new(None) };
        Client { shared: Arc::new(shared) }
    }

    /// Makes a call until there is an answer, a refusal, or no time left.
    pub(crate) async fn call<Q, A, F, R>(
        &self,
        repeat: Repeat,
        request: Q,
        send: F,
    ) -> Result<A, ClientError>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Instant::now() + self.shared.options.deadline;
        let mut search = Search::new(self.next_address(), &self.shared.options.servers);
        loop {
            let address = search.address.clone();
            let missed = match self.attempt(&address, search.round, deadline, &request, &send).await
            {
                Ok(answer) => {
                    self.prefer(Some(address));
                    return Ok(answer.into_inner());
                }
                Err(missed) => missed,
            };
            self.prefer(None);
            if let Missed::Refused(refusal) = missed {
                // The version that the caller wanted may have gone by its own
                // first attempt.
                if search.may_have_happened && refusal.code == Code::Aborted {
                    return Err(search.give_up());
                }
                return Err(ClientError::Refused(Box::new(refusal)));
            }
            debug!(address, ?missed, "call not answered");
            search.learn(missed);
            match repeat {
                Repeat::Read => search.may_have_happened = false,
                Repeat::Harmful if search.may_have_happened => return Err(search.give_up()),
                Repeat::Harmless | Repeat::Harmful => {}
            }
            let wait_until = Instant::now() + search.wait;
            if wait_until + self.shortest_attempt() > deadline {
                return Err(search.give_up());
            }
            if !search.wait.is_zero() {
                sleep_until(wait_until).await;
            }
        }
    }

    fn shortest_attempt(&self) -> Duration {
        ATTEMPT_MIN.min(self.shared.options.deadline / ATTEMPT_MIN_PART)
    }

    async fn attempt<Q, A, F, R>(
        &self,
        address: &str,
        round: u32,
        deadline: Instant,
        request: &Q,
        send: &F,
    ) -> Result<Response<A>, Missed>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = backoff::connect_limit(round).min(left);
        let channel = self
            .shared
            .connections
            .get(address, limit)
            .await
            .map_err(|failure| Missed::Untouched { failure, after: None })?;
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = self.shared.options.attempt.min(left);
        match timeout(limit, send(channel, self.request(request.clone(), Some(limit)))).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(status)) => {
                let missed = attempt::read(&status);
                if let Missed::Unknown { .. } = missed {
                    self.shared.connections.drop(address);
                }
                Err(missed)
            }
            Err(_) => {
                // The host may be frozen: what else is on this connection would
                // wait for it too.
                self.shared.connections.drop(address);
                Err(Missed::Unknown { failure: Failure::TimedOut })
            }
        }
    }

    /// `message` with the token, and with its time limit for the server.
    pub(crate) fn request<Q>(&self, message: Q, limit: Option<Duration>) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        let token = self.shared.options.token.as_ref();
        if let Some(value) = token.and_then(|token| format!("Bearer {token}").parse().ok()) {
            request.metadata_mut().insert("authorization", value);
        }
        request
    }

    fn next_address(&self) -> String {
        let preferred = self.shared.preferred.lock().unwrap_or_else(PoisonError::into_inner);
        let first = self.shared.options.servers.first();
        preferred.as_ref().or(first).cloned().unwrap_or_default()
    }

    fn prefer(&self, address: Option<String>) {
        *self.shared.preferred.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }
}

/// The way through the schedulers during one call.
struct Search<'a> {
    servers: &'a [String],
    /// Whom to ask next.
    address: String,
    /// Position in `servers` of whom to ask after that.
    position: usize,
    round: u32,
    redirects: u32,
    /// Before the next attempt.
    wait: Duration,
    may_have_happened: bool,
    /// What the last attempt heard, if that was that there is no room now.
    crowded: Option<Refusal>,
    tried: Vec<Tried>,
}

impl<'a> Search<'a> {
    fn new(address: String, servers: &'a [String]) -> Search<'a> {
        let position = usize::from(servers.first() == Some(&address));
        Search {
            servers,
            address,
            position,
            round: 0,
            redirects: 0,
            wait: Duration::ZERO,
            may_have_happened: false,
            crowded: None,
            tried: Vec::new(),
        }
    }

    fn learn(&mut self, missed: Missed) {
        self.wait = Duration::ZERO;
        self.crowded = None;
        match missed {
            // The caller has returned it.
            Missed::Refused(_) => {}
            // Whoever was crowded out together must not come back together.
            Missed::Crowded { refusal, after } => {
                self.wait = backoff::spread(after, backoff::chance());
                self.crowded = Some(refusal);
            }
            Missed::Redirected { leader, message } => {
                self.record(Failure::Unavailable(message));
                if self.redirects < REDIRECTS_MAX && leader != self.address {
                    self.redirects += 1;
                    self.address = leader;
                } else {
                    self.advance();
                }
            }
            Missed::Untouched { failure, after } => {
                self.record(failure);
                self.advance();
                self.wait = self.wait.max(after.unwrap_or_default());
            }
            Missed::Unknown { failure } => {
                // What did not reach a scheduler, or reached none, did nothing.
                self.may_have_happened |=
                    failure != Failure::ConnectionRefused && failure != Failure::NotBerth;
                self.record(failure);
                self.advance();
            }
        }
    }

    /// On to the next scheduler; after the last one, a wait and another round.
    fn advance(&mut self) {
        if self.position >= self.servers.len() {
            self.wait = backoff::wait(self.round, backoff::chance());
            self.round = self.round.saturating_add(1);
            self.redirects = 0;
            self.position = 0;
        }
        if let Some(next) = self.servers.get(self.position) {
            self.address.clone_from(next);
        }
        self.position += 1;
    }

    /// Keeps the last failure of each scheduler. What was heard of it is not given up
    /// for a silence that followed: the end of the time makes one of every last attempt.
    fn record(&mut self, failure: Failure) {
        let is_known = self.tried.iter().any(|tried| tried.address == self.address);
        if failure == Failure::TimedOut && is_known {
            return;
        }
        self.tried.retain(|tried| tried.address != self.address);
        self.tried.push(Tried { address: self.address.clone(), failure });
    }

    fn give_up(self) -> ClientError {
        let tried = self.tried;
        if self.may_have_happened {
            ClientError::OutcomeUnknown { key: None, tried }
        } else if let Some(refusal) = self.crowded {
            ClientError::Refused(Box::new(refusal))
        } else if tried.iter().any(|tried| tried.failure.is_answer()) {
            ClientError::NoLeader { tried }
        } else {
            ClientError::Unreachable { tried }
        }
    }
}

//! Whom to dial next and when.

use std::time::Duration;

use berth_identity::Dialer;
use tonic::transport::Channel;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// More schedulers than any cluster has.
const LEARNED_MAX: usize = 16;
/// Redirects followed at once; more means that schedulers disagree about who
/// leads, and a moment lets them settle it.
const REDIRECTS_MAX: u32 = 3;

/// Opens a connection.
///
/// # Errors
/// Why not, in one sentence.
pub async fn connect(dialer: &Dialer, address: &str) -> Result<Channel, String> {
    let endpoint = Dialer::endpoint(address)
        .map_err(|error| format!("`{address}` is no address: {error}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5));
    dialer.connect(&endpoint).await.map_err(|error| {
        // The innermost source says what the system said.
        let mut source: &dyn std::error::Error = &error;
        while let Some(inner) = source.source() {
            source = inner;
        }
        source.to_string()
    })
}

/// When to dial again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    Now,
    After(Duration),
}

/// The addresses in turn, with growing waits between failures.
pub struct Turns {
    /// Those that the agent was started with.
    servers: Vec<String>,
    /// Those that the cluster named last, of which it was not told before.
    learned: Vec<String>,
    position: usize,
    /// Where a redirect points, until it fails.
    leader: Option<String>,
    redirects: u32,
    failures: u32,
    retry_min: Duration,
    retry_max: Duration,
}

impl Turns {
    pub fn new(servers: Vec<String>, retry_min: Duration, retry_max: Duration) -> Turns {
        // Agents that start together should not all ask the same scheduler.
        let position = usize::try_from(random()).unwrap_or(0) % servers.len().max(1);
        Turns {
            servers,
            learned: Vec::new(),
            position,
            leader: None,
            redirects: 0,
            failures: 0,
            retry_min,
            retry_max,
        }
    }

    /// Whom to dial now.
    pub fn address(&self) -> String {
        let count = self.servers.len() + self.learned.len();
        let turn = || {
            let mut all = self.servers.iter().chain(&self.learned);
            all.nth(self.position % count.max(1)).cloned()
        };
        self.leader.clone().or_else(turn).unwrap_or_default()
    }

    /// Where the schedulers are now. The ones that the agent was started with stay:
    /// what it was told may be old one day, too.
    pub fn learn(&mut self, schedulers: Vec<String>) {
        if schedulers.is_empty() {
            return;
        }
        let new = schedulers.into_iter().filter(|one| !self.servers.contains(one));
        self.learned = new.take(LEARNED_MAX).collect();
    }

    /// Somebody else leads; an empty address means that nobody is known to.
    pub fn redirected(&mut self, leader: String) -> Next {
        self.redirects += 1;
        if leader.is_empty() || self.redirects > REDIRECTS_MAX {
            self.redirects = 0;
            return self.failed();
        }
        self.leader = Some(leader);
        Next::Now
    }

    /// A session was up and is to begin anew where it was.
    pub fn anew(&mut self, leader: String) -> Next {
        (self.redirects, self.failures) = (0, 0);
        self.leader = Some(leader);
        Next::Now
    }

    /// A session was up and ended: whoever held it may be back at once.
    pub fn broken(&mut self) -> Next {
        self.redirects = 0;
        self.failures = 0;
        self.failed()
    }

    /// The address did not work.
    pub fn failed(&mut self) -> Next {
        if self.leader.take().is_none() {
            self.position = self.position.wrapping_add(1);
        }
        let doubled = self.retry_min.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        Next::After(jittered(doubled.min(self.retry_max)))
    }
}

/// Between a half and the whole of `wait`.
fn jittered(wait: Duration) -> Duration {
    let half = wait / 2;
    let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros(random() % micros)
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without chance all agents wait alike, which is slow and not wrong.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_tried_in_turn_with_growing_waits() {
        let servers = ["a:1", "b:1", "c:1"].map(str::to_owned).to_vec();
        let mut turns = Turns::new(servers, Duration::from_millis(20), Duration::from_secs(1));
        let mut tried = Vec::new();
        let mut waits = Vec::new();
        for _ in 0..9 {
            tried.push(turns.address());
            let Next::After(wait) = turns.failed() else { panic!("no wait") };
            waits.push(wait.as_millis());
        }
        for chunk in tried.chunks(3) {
            let mut chunk = chunk.to_vec();
            chunk.sort();
            assert_eq!(chunk, ["a:1", "b:1", "c:1"]);
        }
        assert!((10..=20).contains(&waits[0]), "{waits:?}");
        assert!((40..=80).contains(&waits[2]), "{waits:?}");
        assert!((500..=1000).contains(&waits[8]), "{waits:?}");
    }

    #[test]
    fn whom_the_cluster_named_is_tried_as_well() {
        let servers = vec!["a:1".to_owned()];
        let mut turns = Turns::new(servers, Duration::from_millis(20), Duration::from_secs(1));
        turns.learn(["b:1", "a:1", "c:1"].map(str::to_owned).to_vec());
        let mut tried: Vec<String> = (0..3)
            .map(|_| {
                let address = turns.address();
                turns.failed();
                address
            })
            .collect();
        tried.sort();
        assert_eq!(tried, ["a:1", "b:1", "c:1"]);
        // An answer without names takes nothing back; a newer one does.
        turns.learn(Vec::new());
        assert_eq!(turns.learned, ["b:1", "c:1"]);
        turns.learn(vec!["d:1".to_owned()]);
        assert_eq!(turns.learned, ["d:1"]);
    }

    #[test]
    fn a_redirect_is_followed_at_once_but_not_for_ever() {
        let mut turns =
            Turns::new(vec!["a:1".to_owned()], Duration::from_millis(20), Duration::from_secs(1));
        for _ in 0..REDIRECTS_MAX {
            assert_eq!(turns.redirected("b:1".to_owned()), Next::Now);
            assert_eq!(turns.address(), "b:1");
        }
        assert!(matches!(turns.redirected("b:1".to_owned()), Next::After(_)));
        assert_eq!(turns.address(), "a:1");
        assert!(matches!(turns.redirected(String::new()), Next::After(_)));
    }
}

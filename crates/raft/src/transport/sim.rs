//! A network inside one process, driven by the runtime's clock: partitions,
//! one-way loss, delays. The same seed gives the same run.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::stream;
use openraft::AsyncRuntime;

use super::{
    CallError, CallKind, Cutter, Lane, OutgoingSnapshot, PeerConnection, PeerHandler, PeerHeader,
    PeerRefusal, PeerTransport,
};

struct Inner {
    nodes: BTreeMap<u64, Arc<dyn PeerHandler>>,
    cut: BTreeSet<(u64, u64)>,
    delay: (Duration, Duration),
    lost_per_mille: u64,
    chance: u64,
    calls: u64,
}

impl Inner {
    /// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    fn draw(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.chance;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn draw_delay(&mut self) -> Duration {
        let (least, most) = self.delay;
        let span = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX);
        least + Duration::from_nanos(self.draw() % span.max(1))
    }

    fn passes(&mut self, from: u64, to: u64) -> bool {
        let lost = self.draw() % 1000 < self.lost_per_mille;
        !lost && !self.cut.contains(&(from, to))
    }
}

/// The network itself.
#[derive(Clone)]
pub struct SimNetwork(Arc<Mutex<Inner>>);

impl SimNetwork {
    /// A whole network without loss, each way taking 0.2 to 1 ms.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            nodes: BTreeMap::new(),
            cut: BTreeSet::new(),
            delay: (Duration::from_micros(200), Duration::from_millis(1)),
            lost_per_mille: 0,
            chance: seed,
            calls: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a node on the network, or replaces the one with its id.
    pub fn join(&self, node_id: u64, handler: Arc<dyn PeerHandler>) {
        self.lock().nodes.insert(node_id, handler);
    }

    /// Takes a node off; calls to it are refused at once.
    pub fn leave(&self, node_id: u64) {
        self.lock().nodes.remove(&node_id);
    }

    /// Loses everything from one node to another, one way.
    pub fn cut(&self, from: u64, to: u64) {
        self.lock().cut.insert((from, to));
    }

    /// Cuts a node off from all the others, both ways.
    pub fn isolate(&self, node_id: u64) {
        let mut inner = self.lock();
        let others: Vec<_> = inner.nodes.keys().copied().collect();
        for other in others.into_iter().filter(|other| *other != node_id) {
            inner.cut.extend([(node_id, other), (other, node_id)]);
        }
    }

    /// Mends every cut.
    pub fn heal(&self) {
        self.lock().cut.clear();
    }

    /// How long one way takes.
    pub fn set_delay(&self, least: Duration, most: Duration) {
        self.lock().delay = (least, most);
    }

    /// How many of a thousand messages are lost.
    pub fn set_loss(&self, per_mille: u64) {
        self.lock().lost_per_mille = per_mille;
    }

    /// How many calls were begun.
    #[must_use]
    pub fn call_count(&self) -> u64 {
        self.lock().calls
    }

    /// A node's access to the network.
    #[must_use]
    pub fn transport<RT>(&self) -> SimTransport<RT> {
        SimTransport { network: self.clone(), runtime: PhantomData }
    }
}

/// A node's access to a [`SimNetwork`].
pub struct SimTransport<RT> {
    network: SimNetwork,
    runtime: PhantomData<fn() -> RT>,
}

impl<RT> Clone for SimTransport<RT> {
    fn clone(&self) -> Self {
        Self { network: self.network.clone(), runtime: PhantomData }
    }
}

impl<RT: AsyncRuntime> PeerTransport for SimTransport<RT> {
    type Connection = Self;

    fn connect(&self, _: u64, _: &str, _: Lane) -> Self {
        self.clone()
    }
}

impl<RT: AsyncRuntime> SimTransport<RT> {
    /// One message there and its answer back; what the receiver does goes on
    /// when the caller no longer waits, as it would on a real network.
    async fn exchange(
        &self,
        header: PeerHeader,
        work: impl FnOnce(Arc<dyn PeerHandler>) -> Work + Send,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let (from, to) = (header.from_node, header.to_node);
        let trip = async {
            let (delay, passes) = {
                let mut inner = self.network.lock();
                inner.calls += 1;
                (inner.draw_delay(), inner.passes(from, to))
            };
            RT::sleep(delay).await;
            if !passes {
                return std::future::pending().await;
            }
            let handler = self.network.lock().nodes.get(&to).cloned();
            let Some(handler) = handler else {
                return Err(CallError::Unreachable("connection refused".to_owned()));
            };
            let (sender, answered) = oneshot::channel();
            let work = work(handler);
            drop(RT::spawn(async move {
                // The caller may have stopped waiting.
                let _unheard = sender.send(work.await);
            }));
            let answer = answered.await;
            let (delay, passes) = {
                let mut inner = self.network.lock();
                (inner.draw_delay(), inner.passes(to, from))
            };
            RT::sleep(delay).await;
            if !passes {
                return std::future::pending().await;
            }
            let gone = |_| CallError::Unreachable("connection closed".to_owned());
            Ok(answer.map_err(gone)??)
        };
        let answered = RT::timeout(deadline, trip).await;
        answered.unwrap_or(Err(CallError::Timeout(deadline)))
    }
}

type Work = std::pin::Pin<Box<dyn Future<Output = Result<Bytes, PeerRefusal>> + Send>>;

impl<RT: AsyncRuntime> PeerConnection for SimTransport<RT> {
    async fn call(
        &self,
        kind: CallKind,
        header: PeerHeader,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let to_handle = header.clone();
        let work = move |handler: Arc<dyn PeerHandler>| -> Work {
            Box::pin(async move { handler.handle_peer(kind as u32, to_handle, payload).await })
        };
        self.exchange(header, work, deadline).await
    }

    async fn send_snapshot(&self, snapshot: OutgoingSnapshot) -> Result<Bytes, CallError> {
        let mut cutter = Cutter::new(snapshot.source);
        let mut pieces = Vec::new();
        while let Some(piece) =
            cutter.next().map_err(|error| CallError::Unreachable(error.to_string()))?
        {
            pieces.push(Ok(piece));
        }
        let (header, meta) = (snapshot.header.clone(), snapshot.meta);
        let work = move |handler: Arc<dyn PeerHandler>| -> Work {
            let pieces = Box::pin(stream::iter(pieces));
            Box::pin(async move { handler.handle_snapshot(header, meta, pieces).await })
        };
        self.exchange(snapshot.header, work, snapshot.patience).await
    }
}

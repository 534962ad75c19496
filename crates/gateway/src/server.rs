//! Connections of callers.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use berth_model::AllocationId;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::hearing::{self, Heard};
use crate::making::{Making, Witness};
use crate::outgoing;
use crate::probe::{self, Looked};
use crate::proxy::Proxy;
use crate::routes::Routes;
use crate::service::{Leaver, Newcomer, Service};
use crate::table::Table;
use crate::view::ServiceView;

const HEADER_BYTES_MAX: usize = 64 << 10;
const HEADER_COUNT_MAX: usize = 100;
const STREAMS_MAX: u32 = 250;
/// The system has no more descriptors, or the like: it is tried again after that.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GatewayOptions {
    /// The largest body of a request of OpenAI's API in bytes.
    pub body_bytes_max: usize,
    /// How long answers that are being given may take to end when the gateway is stopped.
    pub drain: Duration,
    pub patience: Patience,
}

/// How slow a caller may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// The headers of a request come within that.
    pub headers: Duration,
    /// A body that is read before it is sent on comes at least at a kilobyte a second after that,
    /// and never pauses for longer.
    pub body: Duration,
    /// A caller that takes nothing of what waits for it for so long is cut off.
    pub stalled: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            headers: Duration::from_secs(10),
            body: Duration::from_secs(10),
            stalled: Duration::from_secs(60),
        }
    }
}

impl Default for GatewayOptions {
    fn default() -> GatewayOptions {
        let (drain, patience) = (Duration::from_secs(30), Patience::default());
        GatewayOptions { body_bytes_max: 32 << 20, drain, patience }
    }
}

/// One gateway.
#[derive(Clone)]
pub struct Gateway {
    id: Arc<str>,
    making: Arc<Making>,
    proxy: Arc<Proxy>,
    options: GatewayOptions,
    /// Replicas that are asked no more and may still answer.
    leaving: Arc<Mutex<Vec<Leaver>>>,
    /// How many there are, this one among them.
    gateways: Arc<AtomicU32>,
}

impl Gateway {
    /// Without routes yet. A witness hears of every decision.
    ///
    /// # Errors
    /// Where the system has no chance to give.
    pub fn new(
        options: GatewayOptions,
        witness: Option<Arc<dyn Witness>>,
    ) -> anyhow::Result<Gateway> {
        let clock = Arc::new(Clock::new()?);
        let making = Arc::new(Making::new(Arc::clone(&clock), witness));
        let proxy = Proxy {
            table: RwLock::new(Arc::new(Table::default())),
            upstream: outgoing::client(),
            clock,
            body_bytes_max: options.body_bytes_max,
            body_grace: options.patience.body,
        };
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(|error| anyhow::anyhow!("draw an id: {error}"))?;
        let id = format!("{:016x}", u64::from_le_bytes(id)).into();
        let (leaving, gateways) = (Arc::default(), Arc::new(AtomicU32::new(1)));
        Ok(Gateway { id, making, proxy: Arc::new(proxy), options, leaving, gateways })
    }

    /// Routes by those from now on. Requests that are being answered go on. Called within a runtime
    /// of tokio: replicas that are new are looked at from then on.
    pub fn route(&self, routes: &Routes) {
        let mut table = self.proxy.table.write().unwrap_or_else(PoisonError::into_inner);
        let gateways = self.gateways.load(Ordering::Relaxed);
        let next = table.with(routes, gateways, &self.making);
        *table = Arc::new(next.table);
        drop(table);
        self.leaving().extend(next.leavers.into_iter().filter(Leaver::is_busy));
        for (service, newcomer) in next.newcomers {
            self.watch(&service, newcomer);
        }
    }

    /// So many gateways are there, this one among them: limits are divided among them.
    pub fn set_gateways(&self, gateways: u32) {
        // While the table is taken no other takes its place.
        let table = self.proxy.table.write().unwrap_or_else(PoisonError::into_inner);
        self.gateways.store(gateways, Ordering::Relaxed);
        table.services().for_each(|service| service.set_gateways(gateways));
    }

    fn watch(&self, service: &Arc<Service>, newcomer: Newcomer) {
        let Newcomer { id, authority, health, metrics, left } = newcomer;
        if let Some(path) = health {
            let (service, upstream) = (Arc::clone(service), self.proxy.upstream.clone());
            let looked = Looked { id, authority: authority.clone(), path, left: left.clone() };
            drop(tokio::spawn(probe::look(service, looked, upstream)));
        }
        if let Some(path) = metrics {
            let (service, upstream) = (Arc::clone(service), self.proxy.upstream.clone());
            let heard = Heard { id, authority, path, left };
            drop(tokio::spawn(hearing::keep(service, heard, upstream)));
        }
    }

    /// What tells it from others and from itself before it was started again.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it was ever told who serves what.
    pub fn has_routes(&self) -> bool {
        self.proxy.table().is_told
    }

    /// All services, in the order of their namespaces and names, with those of their replicas that
    /// are asked no more and still answer.
    pub fn services(&self) -> Vec<ServiceView> {
        let mut views: Vec<ServiceView> =
            self.proxy.table().services().map(|service| service.view()).collect();
        for leaver in self.leaving().iter().filter(|leaver| leaver.is_busy()) {
            let key = |view: &ServiceView| (view.namespace.clone(), view.name.clone());
            if let Ok(place) = views.binary_search_by_key(&leaver.service, key) {
                views[place].replicas.push(leaver.view());
            }
        }
        views
    }

    /// Replicas that are asked no more and still answer, in order.
    pub fn busy(&self) -> Vec<AllocationId> {
        let mut leaving = self.leaving();
        leaving.retain(Leaver::is_busy);
        let busy: BTreeSet<AllocationId> = leaving.iter().map(|leaver| leaver.id).collect();
        busy.into_iter().collect()
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Leaver>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that are counted at any replica of any service.
    pub fn in_flight(&self) -> u64 {
        self.proxy.table().services().map(|service| service.in_flight()).sum()
    }

    /// Serves until `stop`, and then until what is being answered has ended, or the time for that
    /// is over.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => self.connection(stream, peer, &graceful),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        tokio::select! {
            () = graceful.shutdown() => {}
            () = tokio::time::sleep(self.options.drain) => {
                tracing::warn!(in_flight = self.in_flight(), "answers are cut off");
            }
        }
    }

    fn connection(&self, stream: TcpStream, peer: SocketAddr, graceful: &GracefulShutdown) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection without nodelay");
        }
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.options.patience.headers)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADER_COUNT_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX));
        let proxy = Arc::clone(&self.proxy);
        let service = service_fn(move |request: Request<Incoming>| {
            let proxy = Arc::clone(&proxy);
            async move { Ok::<_, Infallible>(proxy.handle(request, peer).await) }
        });
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.options.patience.stalled));
        let stream = TokioIo::new(Box::pin(stream));
        let connection = builder.serve_connection(stream, service).into_owned();
        let connection = graceful.watch(connection);
        drop(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%peer, error = %error, "a connection ended with an error");
            }
        }));
    }
}

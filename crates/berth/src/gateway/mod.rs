//! `berth gateway`: from settings to a running gateway.

mod kept;
mod record;
mod report;
mod routes;
mod uses;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use berth_client::{Client, Options};
use berth_config::{Flags, Setting};
use berth_gateway::{Gateway, GatewayOptions, Witness};
use berth_identity::folder::Folder;
use berth_identity::tls::Trust;
use berth_identity::{Dialer, Page};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::arguments::GatewayArguments;
use crate::limits::raise_open_files;
use crate::process::Process;
use crate::scheduler::socket;
use crate::{settings, stop};
use kept::Kept;
use record::Recording;

/// After a scheduler has ended its stream, or none could be reached.
const PAUSE: Duration = Duration::from_millis(250);

pub fn run(arguments: &GatewayArguments, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let (loaded, inputs) = settings::load(config, &arguments.process, flags(arguments))?;
    let wanted = &loaded.config.gateway;
    let listen = socket(&wanted.listen.value)?;
    let http = wanted.http.as_ref().map(|http| socket(&http.value)).transpose()?;
    for (key, address) in [("gateway.listen", Some(listen)), ("gateway.http", http)] {
        refuse_open(wanted, key, address)?;
    }
    let client = client(wanted)?;
    let kept = wanted.data_dir.as_ref().map(|folder| Kept::new(&folder.value)).transpose()?;
    let recording = wanted.record.as_ref().map(|file| Recording::begin(&file.value)).transpose()?;
    let (recording, written) = recording.unzip();
    let recording = recording.map(Arc::new);
    let options = GatewayOptions {
        body_bytes_max: usize::try_from(wanted.body_max.value).unwrap_or(usize::MAX),
        drain: Duration::from_millis(wanted.drain.value),
        ..GatewayOptions::default()
    };
    raise_open_files();
    let process = Process::start("gateway", loaded, inputs)?;
    let owner = stop::owner_pipe(arguments.process.stop_on_fd_close)?;
    let metrics = Arc::clone(&process.metrics_text);
    let serving =
        Serving { client, kept, recording: recording.clone(), options, listen, http, metrics };
    let code = process.run(async {
        let stop = CancellationToken::new();
        let asked = stop.clone();
        drop(tokio::spawn(async move {
            tokio::select! {
                _ = stop::on_signal() => {}
                _ = stop::on_close(owner) => {}
            }
            asked.cancel();
        }));
        serve(serving, stop).await
    });
    if let Some(recording) = recording {
        recording.stop();
    }
    if let Some(written) = written {
        // A panic there has been told already.
        let _ = written.join();
    }
    code
}

struct Serving {
    client: Client,
    kept: Option<Kept>,
    recording: Option<Arc<Recording>>,
    options: GatewayOptions,
    listen: SocketAddr,
    http: Option<SocketAddr>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

async fn serve(serving: Serving, stop: CancellationToken) -> anyhow::Result<()> {
    let Serving { client, kept, recording, options, listen, http, metrics } = serving;
    let witness = recording.map(|recording| recording as Arc<dyn Witness>);
    let gateway = Gateway::new(options, witness)?;
    if let Some(known) = kept.as_ref().and_then(Kept::read) {
        tracing::info!(index = known.index, "routing by the routes of before");
        gateway.route(&routes::of(known));
    }
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let address = listener.local_addr().context("read the address")?;
    tracing::info!(%address, "the gateway listens");
    if let Some(http) = http {
        let pages = TcpListener::bind(http).await.with_context(|| format!("listen on {http}"))?;
        let stopped = stop.clone().cancelled_owned();
        let pages = axum::serve(pages, pages_of(&gateway, metrics));
        drop(tokio::spawn(pages.with_graceful_shutdown(stopped).into_future()));
    }
    let (routed, routes) = watch::channel(0);
    let following = tokio::spawn(follow(client.clone(), gateway.clone(), kept, routed));
    let reporting = tokio::spawn(report::keep_telling(client, gateway.clone(), routes));
    gateway.serve(listener, stop).await;
    // Whoever waits for it hears until the end what it still has under way.
    following.abort();
    reporting.abort();
    Ok(())
}

fn pages_of(gateway: &Gateway, metrics: Arc<dyn Fn() -> String + Send + Sync>) -> Router {
    let gateway = gateway.clone();
    let ready = move || {
        let is_ready = gateway.has_routes();
        async move {
            match is_ready {
                true => (StatusCode::OK, "ok\n"),
                false => (StatusCode::SERVICE_UNAVAILABLE, "no scheduler has told routes yet\n"),
            }
        }
    };
    Router::new()
        .route(Page::Live.path(), get(|| async { "ok\n" }))
        .route(Page::Ready.path(), get(ready))
        .route(Page::Metrics.path(), get(move || async move { metrics() }))
}

/// For ever: what the schedulers tell, and what they told last while none of them does.
async fn follow(client: Client, gateway: Gateway, kept: Option<Kept>, routed: watch::Sender<u64>) {
    loop {
        match client.watch_routes().await {
            Ok(mut stream) => {
                while let Ok(Some(told)) = stream.message().await {
                    let index = told.index;
                    if !told.unchanged {
                        if let Some(kept) = &kept {
                            kept.write(&told);
                        }
                        gateway.route(&routes::of(told));
                    }
                    metrics::gauge!("berth_gateway_routes_index").set(index as f64);
                    routed.send_replace(index);
                }
                tracing::info!("a scheduler ended the stream of routes");
            }
            Err(error) => tracing::warn!(%error, "no scheduler tells the routes"),
        }
        metrics::counter!("berth_gateway_routes_lost_total").increment(1);
        tokio::time::sleep(PAUSE).await;
    }
}

fn flags(arguments: &GatewayArguments) -> Flags {
    let mut flags = Flags::new();
    let given = [
        ("gateway.servers", "--servers", &arguments.servers),
        ("gateway.listen", "--listen", &arguments.listen),
        ("gateway.http", "--http", &arguments.http),
        ("gateway.data_dir", "--data-dir", &arguments.data_dir),
        ("gateway.record", "--record", &arguments.record),
        ("gateway.tls_dir", "--tls-dir", &arguments.tls_dir),
    ];
    for (key, flag, value) in given {
        flags.set_if_given(key, flag, value.clone());
    }
    if arguments.plain_text {
        flags.set("gateway.plain_text", "--plain-text", "true");
    }
    flags
}

/// Callers are not asked who they are, and nothing is encrypted.
fn refuse_open(
    wanted: &berth_config::Gateway,
    key: &str,
    address: Option<SocketAddr>,
) -> Result<(), settings::BadSettings> {
    let beyond = address.filter(|address| !address.ip().is_loopback());
    let Some(address) = beyond.filter(|_| !wanted.plain_text.value) else { return Ok(()) };
    Err(settings::BadSettings(format!(
        "`{key}` {address} is not on loopback, and callers would be answered without \
         encryption and without being asked who they are; give --plain-text on a network that \
         you trust, or listen on loopback behind what does that"
    )))
}

fn client(wanted: &berth_config::Gateway) -> anyhow::Result<Client> {
    let servers = wanted.servers.value.iter().map(ToString::to_string).collect();
    let mut options = Options::new(servers);
    if let Some(Setting { value: folder, .. }) = &wanted.tls_dir {
        let credentials = Folder::new(folder.clone()).credentials()?;
        options.dialer =
            Dialer::tls(Trust::Member(Arc::new(credentials))).context("prepare TLS")?;
    }
    Ok(Client::new(options))
}

//! The daemon's life: start, serve, wait for a signal, drain, end.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_actors::kept::Kept;
use mesh_actors::mesh::{Mesh, MeshOptions, MeshStartError};
use mesh_api::Tls;
use mesh_config::{Config, Origins};
use mesh_messages::system::{AtRest, Caller, Role};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};

use crate::cli::{RunArgs, StartArgs};
use crate::courier::couriers;
use crate::endpoint::Endpoint;
use crate::exit::{Exit, Failure};
use crate::identity::Identity;
use crate::notary::Notary;
use crate::storage::Storage;
use crate::telemetry::{self, Export, Resource};
use crate::{bundles, identity, natives, renewal, settings, show};

/// What parts may still take for their end when nobody wants to wait for it.
const AT_ONCE: Duration = Duration::from_secs(1);

/// `meshd run`.
///
/// # Errors
/// Why it does not run, with the exit code.
pub(crate) fn run(args: &StartArgs) -> Result<Exit, Failure> {
    let (config, origins) = show::load(&args.run)?;
    let (mut node, storage) = Node::open(config, origins)?;
    node.accept_cut_log = args.accept_cut_log;
    let export = node.telemetry()?;
    if identity::is_open_to_others(&node.data) {
        tracing::warn!(data = %node.data.display(), "others may look into the data directory; consider chmod 700");
    }
    raise_descriptor_limit();
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let serving = Serving::start(node, Some(&args.run)).await?;
        serving.deploy().await;
        announce(&serving.url);
        Ok(serving.until_signal(&mut signals, &export).await)
    });
    // A blocked thread, as of a disk that hangs, must not keep meshd from ending.
    runtime.shutdown_timeout(AT_ONCE);
    // Nothing of the data directory is open any more, so the kernel can forget all of it.
    drop(storage);
    export.flush();
    outcome
}

/// Reads the configuration again, and knows the clients that it names now.
fn clients_again(args: RunArgs, mesh: &Mesh) -> renewal::TakeClients {
    let mesh = mesh.clone();
    Arc::new(move || {
        let read = show::load(&args);
        let (config, _) = read.map_err(|failure| format!("{:#}", failure.error))?;
        mesh.know_certificates(&settings::certificates(&config));
        Ok(())
    })
}

/// Everything that is known before anything runs.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) origins: Origins,
    pub(crate) data: PathBuf,
    pub(crate) identity: Identity,
    run_id: String,
    at_rest: AtRest,
    /// Whether a log is taken that is shorter than what was signed of it.
    pub(crate) accept_cut_log: bool,
}

impl Node {
    /// Opens the data directory and the key. The directory is meshd's, and readable, for as long as the second is held.
    pub(crate) fn open(config: Config, origins: Origins) -> Result<(Self, Storage), Failure> {
        let data = identity::data_dir(&config.data)?;
        let storage = Storage::open(&config, &data)?;
        let identity = identity::identity(&data)?;
        let run_id = uuid::Uuid::now_v7().simple().to_string();
        let node = Self {
            config,
            origins,
            data,
            identity,
            run_id,
            at_rest: storage.at_rest().clone(),
            accept_cut_log: false,
        };
        Ok((node, storage))
    }

    /// Starts logging and exporting.
    pub(crate) fn telemetry(&self) -> Result<Export, Failure> {
        let named = self.config.node.name.clone();
        let node = named.unwrap_or_else(|| self.identity.name.to_string());
        telemetry::start(&self.config.telemetry, Resource { node })
            .map_err(|error| Failure::new(Exit::Config, error))
    }
}

/// The runtime of everything that is asynchronous.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    let built = Builder::new_multi_thread()
        .enable_all()
        .thread_name("meshd")
        .build();
    built.map_err(|error| Failure::io("cannot start the runtime", error))
}

/// A mesh that is reachable.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) url: String,
    pub(crate) mesh: Mesh,
    config: Config,
    endpoint: Endpoint,
    notary: Option<(Arc<Mutex<Notary>>, JoinHandle<()>)>,
    // Tell as long as they are held.
    _couriers: JoinSet<()>,
    renewal: Option<JoinHandle<()>>,
}

impl Serving {
    /// Takes the address, starts the mesh, and serves. With the arguments that the configuration was read by, clients are read
    /// from it again at SIGHUP.
    ///
    /// # Errors
    /// Why not, with the exit code; nothing runs then.
    pub(crate) async fn start(node: Node, args: Option<&RunArgs>) -> Result<Self, Failure> {
        let Node {
            config,
            origins,
            data,
            identity,
            run_id,
            at_rest,
            accept_cut_log,
        } = node;
        let source = identity.name.to_string();
        let files = settings::tls(&config);
        let tls = files.as_ref().map(Tls::load).transpose();
        let tls = tls.map_err(|error| Failure::new(Exit::Config, error))?;
        // Before anything is recorded: a second daemon on the same port leaves no trace in the log.
        let (listener, address) = bind(&config.listen, tls.is_some()).await?;
        let tree = settings::tree(&config, &origins, data.clone(), run_id, at_rest);
        let options = MeshOptions {
            settings: tree.map_err(|error| Failure::new(Exit::Config, error))?,
            key: identity.key,
            natives: natives::all(),
            sandbox_helper: None,
            kept: Kept {
                file: config.audit.witness.file.clone(),
                accept: accept_cut_log,
            },
        };
        let mesh = Mesh::start(options).await.map_err(start_failure)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        let certificate = files.as_ref().map(|files| files.cert.as_path());
        let endpoint = Endpoint::publish(&data, &url, certificate).map_err(|error| {
            Failure::io(format!("cannot write {}/endpoint", data.display()), error)
        })?;
        let listener = listener
            .into_std()
            .map_err(|error| Failure::io("cannot hand over the listener", error))?;
        let renewal = tls.clone().zip(files);
        let clients = args.map(|args| clients_again(args.clone(), &mesh));
        let renewal = renewal
            .map(|(tls, files)| renewal::renew(tls, files.cert, data.clone(), clients.clone()));
        let renewal = match renewal.transpose() {
            Ok(renewal) => renewal.map(tokio::spawn),
            Err(error) => {
                mesh.stop().await;
                return Err(Failure::io("cannot listen for signals", error));
            }
        };
        let surface = mesh_api::ApiConfig {
            tls,
            ..settings::api(&config)
        };
        let api = mesh_api::child(listener, mesh.operations(), surface);
        if let Err(error) = mesh.add_edge(api).await {
            mesh.stop().await;
            return Err(Failure::new(Exit::Escalated, error));
        }
        let couriers = match couriers(&config.alerts, &data, source, &mesh) {
            Ok(couriers) => couriers,
            Err(error) => {
                mesh.stop().await;
                let exit = error.downcast_ref().map_or(Exit::Config, Exit::of_io);
                return Err(Failure::new(exit, error));
            }
        };
        let witness = config.audit.witness.clone();
        let notary = Notary::new(witness, &data, mesh.operations()).map(|notary| {
            (
                Arc::clone(&notary),
                tokio::spawn(Notary::publish_regularly(notary)),
            )
        });
        Ok(Self {
            url,
            mesh,
            config,
            endpoint,
            notary,
            _couriers: couriers,
            renewal,
        })
    }

    /// Deploys the bundles of the configured directory, all at once. One that fails does not stop the others.
    pub(crate) async fn deploy(&self) {
        let Some(dir) = &self.config.agents else {
            return;
        };
        let found = match bundles::find(dir) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(dir = %dir.display(), %error, "cannot read the directory of agents");
                return;
            }
        };
        if found.is_empty() {
            tracing::warn!(dir = %dir.display(), "there is no bundle in the directory of agents");
        }
        let mut deployments = JoinSet::new();
        for path in found {
            let operations = self.mesh.operations();
            deployments
                .spawn(async move { bundles::deploy(&*operations, &operator(), path).await });
        }
        while deployments.join_next().await.is_some() {}
    }

    /// Serves until a signal comes or the mesh ends by itself.
    pub(crate) async fn until_signal(self, signals: &mut Signals, export: &Export) -> Exit {
        let operations = self.mesh.operations();
        tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "stopping; a second signal does not wait for work in progress");
            }
            reason = self.mesh.failed() => {
                tracing::error!(reason, "the mesh has failed");
                self.stop_at_once().await;
                return Exit::Escalated;
            }
            () = export.measure(operations) => {}
        }
        self.stop(signals).await;
        Exit::Ok
    }

    async fn stop_at_once(&self) {
        if tokio::time::timeout(AT_ONCE, self.mesh.stop())
            .await
            .is_err()
        {
            // Sandboxes end with this process, whatever they are doing.
            tracing::warn!("not everything ended in order");
        }
    }

    /// Ends in order: work in progress, then connections, then the tree. A signal cuts it short.
    pub(crate) async fn stop(self, signals: &mut Signals) {
        let limit = self.config.api.drain_timeout.duration();
        let mesh = self.mesh.clone();
        let (notary, renewal) = (self.notary, self.renewal);
        let in_order = async move {
            // While agents finish, whoever waits for their results can still get them; the tree then ends from the edge
            // inwards, so the HTTP surface first.
            mesh.drain(limit).await;
            if let Some((notary, regularly)) = notary {
                regularly.abort();
                // What agents did last is witnessed, too.
                notary.lock().await.publish().await;
            }
            if let Some(renewal) = renewal {
                renewal.abort();
            }
            mesh.stop().await
        };
        tokio::select! {
            ended = in_order => tracing::info!(?ended, "stopped"),
            name = signals.next() => tracing::warn!(signal = name, "stopping at once"),
        }
        drop(self.endpoint);
    }
}

/// Who deploys what the operator's own configuration names.
pub(crate) fn operator() -> Caller {
    Caller {
        name: "user:operator".to_owned(),
        role: Role::Admin,
        loopback: true,
        narrowed: Vec::new(),
    }
}

/// The two signals that end meshd.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they no longer kill.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::io("cannot listen for signals", error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// The next one's name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

async fn bind(listen: &str, encrypted: bool) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |error| Failure::io(format!("listen: cannot serve on {listen}"), error);
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    if !address.ip().is_loopback() && !encrypted {
        tracing::warn!(%address, "reachable from other hosts without encryption; set api.tls, or put a TLS proxy in front");
    }
    Ok((listener, address))
}

/// The line that scripts wait for.
fn announce(url: &str) {
    let mut stdout = io::stdout();
    if let Err(error) = writeln!(stdout, "meshd ready at {url}").and_then(|()| stdout.flush()) {
        tracing::warn!(%error, "nobody hears that meshd is ready");
    }
    tracing::info!(url, "ready");
}

/// A fleet needs more descriptors than the usual soft limit of 1024; raising it up to the hard one is anybody's right.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open descriptors stays");
    }
}

fn start_failure(error: MeshStartError) -> Failure {
    let exit = match &error {
        MeshStartError::InUse(_) => Exit::InUse,
        MeshStartError::Newer(_) | MeshStartError::Store(_) => Exit::Config,
        MeshStartError::NotWritable(_) | MeshStartError::Disk(_) => Exit::TryAgain,
        // What this machine cannot do, and what is a bug; `meshd doctor` tells them apart.
        _ => Exit::Escalated,
    };
    Failure::new(exit, error)
}

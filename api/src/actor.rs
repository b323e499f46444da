//! The surface as a part of the tree: the actor that owns the serving and ends it in order.
//!
//! The listening socket outlives the actor, so that a restart refuses nobody: connections wait in the kernel meanwhile.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use mesh_actors::operations::Operations;
use mesh_supervision::{Child, Shutdown, StartContext, Started};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::ApiConfig;
use crate::server::{Drained, serve};

/// The name of the part.
pub const API: &str = "api";

/// What the end of the serving may take beyond its own drain time.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// The surface as a child of a supervisor.
pub fn child(listener: StdListener, ops: Arc<dyn Operations>, config: ApiConfig) -> Child {
    let limit = config.drain_timeout + STOP_GRACE;
    let args = ApiArgs {
        listener: Arc::new(listener),
        ops,
        config,
    };
    Child::worker(API, move |context: StartContext| {
        let args = args.clone();
        async move {
            let spawned = ApiActor::spawn_linked(None, ApiActor, args, context.supervisor).await?;
            Ok(Started::from(spawned))
        }
    })
    .shutdown(Shutdown::Timeout(limit))
}

#[derive(Clone)]
struct ApiArgs {
    listener: Arc<StdListener>,
    ops: Arc<dyn Operations>,
    config: ApiConfig,
}

#[derive(Debug, RactorMessage)]
enum ApiMessage {
    /// The serving has ended by itself.
    Ended(String),
}

#[derive(Debug)]
struct ApiActor;

struct Serving {
    close: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl Actor for ApiActor {
    type Msg = ApiMessage;
    type State = Serving;
    type Arguments = ApiArgs;

    async fn pre_start(
        &self,
        me: ActorRef<ApiMessage>,
        args: ApiArgs,
    ) -> Result<Serving, ActorProcessingErr> {
        let listener = args.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (close, closed) = oneshot::channel();
        let server = ractor::concurrency::spawn(async move {
            let shutdown = async {
                // An error means that nobody can close any more, which is the same.
                let _closed = closed.await;
            };
            let ended = match serve(listener, args.ops, args.config, shutdown).await {
                Ok(Drained { cut: 0 }) => "closed".to_owned(),
                Ok(Drained { cut }) => {
                    tracing::warn!(cut, "connections were cut");
                    "closed".to_owned()
                }
                Err(error) => error.to_string(),
            };
            let _gone = me.cast(ApiMessage::Ended(ended));
        });
        Ok(Serving {
            close: Some(close),
            server,
        })
    }

    async fn handle(
        &self,
        _me: ActorRef<ApiMessage>,
        ApiMessage::Ended(why): ApiMessage,
        _state: &mut Serving,
    ) -> Result<(), ActorProcessingErr> {
        Err(format!("the HTTP surface has ended: {why}").into())
    }

    async fn post_stop(
        &self,
        _me: ActorRef<ApiMessage>,
        state: &mut Serving,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(close) = state.close.take() {
            // Fails only when the server has ended already.
            let _ended = close.send(());
        }
        // Requests in progress end within the drain time; the supervisor's limit lies beyond it.
        let _panicked = (&mut state.server).await;
        Ok(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.server.abort();
    }
}

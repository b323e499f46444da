//! The router, made from the route table.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::routing::{MethodFilter, MethodRouter};
use mesh_actors::operations::Operations;
use tokio::sync::{Semaphore, watch};

use crate::config::ApiConfig;
use crate::dispatch::{dispatch, unknown};
use crate::guard::guard;
use crate::route::Route;
use crate::shared::Shared;
use crate::{openapi, routes};

/// The whole surface as a service.
///
/// Requests without a [`Peer`](crate::Peer) among their extensions count as coming from elsewhere.
pub fn router(ops: Arc<dyn Operations>, config: ApiConfig) -> Router {
    let (_, closing) = watch::channel(false);
    build(ops, config, None, closing)
}

/// The `OpenAPI` document, as `GET /openapi.json` answers it.
pub fn openapi_document() -> serde_json::Value {
    openapi::document(&routes::table())
}

/// Every route, as method and path; a name in braces stands for a segment, with `*` for the rest of the path.
pub fn route_list() -> Vec<(Method, &'static str)> {
    routes::table()
        .into_iter()
        .map(|route| (route.method, route.path))
        .collect()
}

/// The surface of one server.
pub(crate) fn build(
    ops: Arc<dyn Operations>,
    config: ApiConfig,
    bound: Option<SocketAddr>,
    closing: watch::Receiver<bool>,
) -> Router {
    let table = routes::table();
    let streams = Arc::new(Semaphore::new(config.streams_max));
    let shared = Arc::new(Shared {
        ops,
        config,
        streams,
        bound,
        closing,
    });

    let mut paths: BTreeMap<&'static str, MethodRouter> = BTreeMap::new();
    for route in table {
        let methods = paths.remove(route.path).unwrap_or_default();
        paths.insert(route.path, add(methods, route, &shared));
    }
    let router = paths
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| {
            router.route(path, methods)
        });
    let (nowhere, refused, guarded) = (Arc::clone(&shared), Arc::clone(&shared), shared);
    router
        .fallback(move |request: Request| unknown(Arc::clone(&nowhere), request, "unknown_path"))
        .method_not_allowed_fallback(move |request: Request| {
            unknown(Arc::clone(&refused), request, "method_not_allowed")
        })
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            guard(Arc::clone(&guarded), request, next)
        }))
}

fn add(methods: MethodRouter, route: Route, shared: &Arc<Shared>) -> MethodRouter {
    // The table's methods are the four of its constructors.
    let filter = match route.method {
        Method::POST => MethodFilter::POST,
        Method::PUT => MethodFilter::PUT,
        Method::DELETE => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    };
    let (route, shared) = (Arc::new(route), Arc::clone(shared));
    methods.on(filter, move |request: Request| {
        dispatch(Arc::clone(&shared), Arc::clone(&route), request)
    })
}

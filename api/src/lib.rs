//! The HTTP surface of meshd.
//!
//! One table of routes (`routes`) makes both the router and the `OpenAPI` document, so neither can know a path that the
//! other does not. A request passes `guard` (name, span, host, panics), `dispatch` (who, may they, what, the body) and
//! then its handler, which speaks to [`Operations`](mesh_actors::Operations) and to nothing else.
//!
//! Deliberately absent: any decision about agents or tasks, any state but open streams, CORS.

mod actor;
pub mod codes;
mod config;
mod decode;
mod dispatch;
mod events;
mod guard;
mod openapi;
mod problem;
mod query;
mod route;
mod router;
mod routes;
mod server;
mod shared;
mod tls;
mod topic;
mod withheld;

pub use actor::{API, child};
pub use config::ApiConfig;
pub use problem::ProblemDocument;
pub use router::{openapi_document, route_list, router};
pub use routes::tasks::WAIT_MAX;
pub use server::{Drained, ServeError, serve};
pub use shared::Peer;
pub use tls::{Tls, TlsError, TlsFiles};

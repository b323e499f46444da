//! One row of the route table: all that the router, the dispatcher and the document need to know of a route.

use std::fmt;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use mesh_actors::operations::{Action, Operations};
use mesh_messages::system::Caller;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use crate::config::ApiConfig;
use crate::decode;
use crate::problem::{Answer, Refusal};
use crate::query::{Param, Query};
use crate::shared::Shared;

/// Makes the schema of a type.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// JSON.
pub(crate) const JSON: &str = "application/json";
/// Text.
pub(crate) const TEXT: &str = "text/plain";
/// A bundle.
pub(crate) const TAR: &str = "application/x-tar";

/// Largest body of a verb: its fields are a few words.
const SMALL_BODY_MAX: usize = 64 * 1024;
/// Largest envelope: KLP's own limit.
const ENVELOPE_MAX: usize = 1024 * 1024;

/// A route.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// `operationId` in the document.
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) handler: Handler,
    pub(crate) query: &'static [Param],
    pub(crate) headers: &'static [Param],
    pub(crate) body: Option<BodyRule>,
    pub(crate) replies: Vec<Reply>,
    /// Statuses of refusals beside those that follow from the rest of the row.
    pub(crate) refusals: &'static [u16],
}

/// What serves a route.
pub(crate) enum Handler {
    /// For everybody; never waits.
    Open(fn(&Shared) -> Answer),
    /// For those whose role permits the action.
    Guarded(Action, Run),
}

/// What serves a request that is allowed.
pub(crate) type Run = Arc<dyn Fn(Call) -> BoxFuture<'static, Answer> + Send + Sync>;

/// What a route takes as its body.
#[derive(Clone)]
pub(crate) struct BodyRule {
    /// Media types and their schemas.
    pub(crate) media: Vec<(&'static str, SchemaOf)>,
    /// Whether nothing at all will do.
    pub(crate) optional: bool,
    /// Its limit.
    pub(crate) size: BodySize,
}

/// Which limit a body has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BodySize {
    /// A verb's few fields.
    Small,
    /// One KLP envelope.
    Envelope,
    /// A checkpoint and a proof: text.
    Checkpoint,
    /// Tasks, memory values.
    Json,
    /// A bundle.
    Bundle,
}

impl BodySize {
    /// In bytes.
    pub(crate) fn bytes_max(self, config: &ApiConfig) -> usize {
        match self {
            Self::Small | Self::Checkpoint => SMALL_BODY_MAX,
            Self::Envelope => ENVELOPE_MAX,
            Self::Json => config.body_bytes_max,
            Self::Bundle => config.bundle_bytes_max,
        }
    }
}

/// One answer that a route may give.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) about: &'static str,
    pub(crate) media: &'static str,
    /// Absent where the media type has no JSON Schema.
    pub(crate) schema: Option<SchemaOf>,
}

impl Route {
    /// A route for everybody.
    pub(crate) fn open(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        run: fn(&Shared) -> Answer,
    ) -> Self {
        Self::new(Method::GET, path, id, summary, Handler::Open(run))
    }

    /// A `GET`.
    pub(crate) fn get<F>(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        run: fn(Call) -> F,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::guarded(Method::GET, path, id, summary, run)
    }

    /// A `POST`.
    pub(crate) fn post<F>(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        run: fn(Call) -> F,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::guarded(Method::POST, path, id, summary, run)
    }

    /// A `PUT`.
    pub(crate) fn put<F>(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        run: fn(Call) -> F,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::guarded(Method::PUT, path, id, summary, run)
    }

    /// A `DELETE`.
    pub(crate) fn delete<F>(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        run: fn(Call) -> F,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::guarded(Method::DELETE, path, id, summary, run)
    }

    fn guarded<F>(
        method: Method,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        run: fn(Call) -> F,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let run = Arc::new(move |call| -> BoxFuture<'static, Answer> { Box::pin(run(call)) });
        // Reading is the least that a route can ask for; whatever does more says so.
        Self::new(
            method,
            path,
            id,
            summary,
            Handler::Guarded(Action::Read, run),
        )
    }

    fn new(
        method: Method,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: Handler,
    ) -> Self {
        Self {
            method,
            path,
            id,
            summary,
            handler,
            query: &[],
            headers: &[],
            body: None,
            replies: Vec::new(),
            refusals: &[],
        }
    }

    /// The action that the caller's role must permit; without this, [`Action::Read`].
    pub(crate) fn needs(mut self, action: Action) -> Self {
        if let Handler::Guarded(needed, _) = &mut self.handler {
            *needed = action;
        }
        self
    }

    /// The query parameters it takes.
    pub(crate) fn query(mut self, params: &'static [Param]) -> Self {
        self.query = params;
        self
    }

    /// The headers it reads.
    pub(crate) fn headers(mut self, params: &'static [Param]) -> Self {
        self.headers = params;
        self
    }

    /// A JSON body that has to be there.
    pub(crate) fn takes<T: JsonSchema>(mut self, size: BodySize) -> Self {
        self.body = Some(BodyRule {
            media: vec![(JSON, schema_of::<T>)],
            optional: false,
            size,
        });
        self
    }

    /// A JSON body that may be missing.
    pub(crate) fn may_take<T: JsonSchema>(mut self) -> Self {
        let size = BodySize::Small;
        self.body = Some(BodyRule {
            media: vec![(JSON, schema_of::<T>)],
            optional: true,
            size,
        });
        self
    }

    /// A body of text.
    pub(crate) fn takes_text(mut self, size: BodySize) -> Self {
        self.body = Some(BodyRule {
            media: vec![(TEXT, schema_of::<String>)],
            optional: false,
            size,
        });
        self
    }

    /// A body of another media type, beside JSON.
    pub(crate) fn or_takes(mut self, media: &'static str, schema: SchemaOf) -> Self {
        if let Some(body) = &mut self.body {
            body.media.push((media, schema));
        }
        self
    }

    /// A JSON answer.
    pub(crate) fn answers<T: JsonSchema>(mut self, status: u16, about: &'static str) -> Self {
        self.replies.push(Reply {
            status,
            about,
            media: JSON,
            schema: Some(schema_of::<T>),
        });
        self
    }

    /// An answer of another media type.
    pub(crate) fn answers_as(mut self, media: &'static str, about: &'static str) -> Self {
        self.replies.push(Reply {
            status: 200,
            about,
            media,
            schema: None,
        });
        self
    }

    /// Further statuses that refusals may have.
    pub(crate) fn refuses(mut self, statuses: &'static [u16]) -> Self {
        self.refusals = statuses;
        self
    }

    /// The names in the path's braces.
    pub(crate) fn path_params(&self) -> impl Iterator<Item = &'static str> {
        self.path
            .split('/')
            .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| name.trim_start_matches('*'))
    }

    /// The path as `OpenAPI` writes it, which knows no wildcards.
    pub(crate) fn document_path(&self) -> String {
        self.path.replace("{*", "{")
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// A request that passed authentication, authorisation and everything that its row asks for.
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    pub(crate) caller: Caller,
    pub(crate) params: Vec<(String, String)>,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// The body and its media type, one of the row's.
    pub(crate) body: Bytes,
    pub(crate) media: &'static str,
}

impl Call {
    /// What can be asked of the mesh.
    pub(crate) fn ops(&self) -> &dyn Operations {
        &*self.shared.ops
    }

    /// A part of the path, percent-decoded.
    pub(crate) fn param(&self, name: &str) -> &str {
        self.params
            .iter()
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value)
    }

    /// The body.
    pub(crate) fn json<T: decode::Body>(&self) -> Result<T, Refusal> {
        decode::body(&self.body)
    }

    /// The body; nothing at all is the same as `{}`.
    pub(crate) fn json_or_empty<T: decode::Body>(&self) -> Result<T, Refusal> {
        if self.body.is_empty() {
            decode::body(b"{}")
        } else {
            self.json()
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("caller", &self.caller)
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}

/// A JSON answer.
#[expect(
    clippy::unnecessary_wraps,
    reason = "it ends handlers, and these answer with a Result"
)]
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    Ok((status, axum::Json(value)).into_response())
}

/// 200 with JSON.
pub(crate) fn ok<T: Serialize>(value: &T) -> Answer {
    json(StatusCode::OK, value)
}

/// 200 with something else.
#[expect(
    clippy::unnecessary_wraps,
    reason = "it ends handlers, and these answer with a Result"
)]
pub(crate) fn text(media: &'static str, body: impl Into<Body>) -> Answer {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(
        axum::http::header::CONTENT_TYPE,
        axum::http::HeaderValue::from_static(media),
    );
    Ok(response)
}

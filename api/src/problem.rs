//! Refusals on the wire: RFC 9457 problem documents.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mesh_messages::problem::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;

/// A problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Problem")]
pub struct ProblemDocument {
    /// `urn:meshd:problem:` + the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong and what to do, for people.
    pub detail: String,
    /// Stable; see `docs/errors.md`.
    pub code: String,
    /// Path of the field, parameter or header that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// All that is wrong, `path: message` each, when there is more to say than `detail` does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// A refusal on its way out.
///
/// HTTP has more statuses than [`mesh_messages::problem::ProblemKind`] has kinds, so what only this layer refuses
/// takes its status from [`codes::CODES`].
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    detail: String,
    field: Option<String>,
    errors: Vec<String>,
    retry_after_s: Option<u32>,
}

/// What every handler answers.
pub(crate) type Answer = Result<Response, Refusal>;

impl Refusal {
    /// A refusal with the status that its code has.
    pub(crate) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let status = codes::find(code).map_or(500, |entry| entry.status);
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code,
            detail: detail.into(),
            field: None,
            errors: Vec::new(),
            retry_after_s: None,
        }
    }

    /// The same, about a field.
    pub(crate) fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same, with all that is wrong.
    pub(crate) fn errors(mut self, errors: Vec<String>) -> Self {
        self.errors = errors;
        self
    }

    /// The same without what was sent, when that is what is wrong: the usual words would repeat it.
    pub(crate) fn discreet(mut self, instead: &str) -> Self {
        if self.code == "invalid_value" {
            instead.clone_into(&mut self.detail);
        }
        self.errors.clear();
        self
    }

    /// The same, saying when to try again.
    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The one answer to every failed authentication: whatever was wrong with the token must not show.
    pub(crate) fn unauthenticated() -> Self {
        Self::new("unauthenticated", "Invalid authentication")
    }

    /// Whether it says that nobody knows who asks.
    pub(crate) fn is_unauthenticated(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    /// Its code, when what was asked for could not be taken as it came: neither for want of a right or of a rate, which
    /// are remembered where they are found wanting, nor by a fault of meshd.
    pub(crate) fn unacceptable(&self) -> Option<&'static str> {
        let elsewhere = [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS];
        let theirs = self.status.is_client_error() && !elsewhere.contains(&self.status);
        theirs.then_some(self.code)
    }

    /// The document.
    pub(crate) fn document(self) -> ProblemDocument {
        let title = codes::find(self.code).map_or_else(
            || self.status.canonical_reason().unwrap_or("Error"),
            |entry| entry.title,
        );
        ProblemDocument {
            kind: format!("urn:meshd:problem:{}", self.code),
            title: title.to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code.to_owned(),
            field: self.field,
            errors: self.errors,
        }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self {
            status: StatusCode::from_u16(problem.kind.status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code: problem.code,
            detail: problem.detail,
            field: problem.field,
            errors: problem.errors,
            retry_after_s: problem.retry_after_s,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, retry_after_s) = (self.status, self.retry_after_s);
        let mut response = (status, Json(self.document())).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

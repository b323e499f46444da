//! What meshd answers: documents and refusals.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::http::HeaderMap;
use ureq::http::header::{CONTENT_TYPE, RETRY_AFTER};

use crate::endpoint::Endpoint;
use crate::exit::{Exit, Failure};

/// A successful answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    text: String,
    is_json: bool,
}

impl Answer {
    pub(super) fn new(text: String, headers: &HeaderMap) -> Self {
        let kind = headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default();
        Self {
            text,
            is_json: kind.starts_with("application/json"),
        }
    }

    /// A document put together from several answers, or from none.
    pub(crate) fn from_value(value: &Value) -> Self {
        Self {
            text: value.to_string(),
            is_json: true,
        }
    }

    /// The document as it came.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The document as JSON: itself, or `{name: text}` when it is plain text.
    pub(crate) fn value(&self, name: &str) -> Result<Value, Failure> {
        if self.is_json {
            self.read()
        } else {
            Ok(json!({ name: self.text }))
        }
    }

    /// The document as one of meshd's types.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.text).map_err(|error| {
            Failure::new(
                Exit::Bug,
                format!("meshd's answer has another form than expected: {error}"),
            )
            .hint("do meshd and meshctl have the same version? `-o json` shows the answer as it is")
        })
    }

    /// The rows of a listing.
    pub(crate) fn rows<T: DeserializeOwned>(&self) -> Result<Vec<T>, Failure> {
        Ok(self.read::<Listing<T>>()?.items)
    }
}

/// A listing, as every route gives it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listing<T> {
    /// The rows.
    pub(crate) items: Vec<T>,
    /// Where the next page begins.
    #[serde(default)]
    pub(crate) next_cursor: Option<String>,
}

/// meshd said no: an RFC 9457 problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The stable code.
    pub(crate) code: String,
    /// What is wrong.
    pub(crate) detail: String,
    field: Option<String>,
    errors: Vec<String>,
    retry_after: Option<String>,
    token_origin: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: Option<String>,
    title: Option<String>,
    detail: Option<String>,
    field: Option<String>,
    errors: Vec<String>,
}

impl Refusal {
    pub(super) fn new(status: u16, text: &str, headers: &HeaderMap) -> Self {
        let problem: Problem = serde_json::from_str(text).unwrap_or_default();
        Self {
            status,
            code: problem.code.unwrap_or_default(),
            detail: problem
                .detail
                .or(problem.title)
                .unwrap_or_else(|| format!("meshd answered {status}")),
            field: problem.field,
            errors: problem.errors,
            retry_after: headers
                .get(RETRY_AFTER)
                .and_then(|s| s.to_str().ok())
                .map(str::to_owned),
            token_origin: String::new(),
        }
    }

    pub(super) fn about(mut self, endpoint: &Endpoint) -> Self {
        self.token_origin.clone_from(&endpoint.token_origin);
        self
    }

    /// How it is told, and how meshctl ends.
    pub(super) fn into_failure(self) -> Failure {
        let mut message = match &self.field {
            Some(field) if !self.detail.starts_with(field.as_str()) => {
                format!("{field}: {}", self.detail)
            }
            Some(_) | None => self.detail.clone(),
        };
        // Each of them stands on a line of its own below.
        if self.errors.len() > 1 && self.detail == self.errors.join("; ") {
            message = format!("{} errors", self.errors.len());
        }
        if !self.code.is_empty() {
            message = format!("{message} ({})", self.code);
        }
        let hint = self.next_step();
        // One error that says what the message says already is noise.
        let errors = if self.errors.len() == 1 && message.contains(&self.errors[0]) {
            Vec::new()
        } else {
            self.errors
        };
        let mut failure = Failure::new(Exit::of_status(self.status), message).details(errors);
        failure.hint = hint;
        failure
    }

    fn next_step(&self) -> Option<String> {
        let hint = match (self.status, self.code.as_str()) {
            (401, _) => format!(
                "the token is {}; name another with --token-file or MESH_TOKEN, or the daemon's data directory with --data",
                self.token_origin
            ),
            (403, "insufficient_signatures" | "invalid_admin_authority") => {
                "`meshctl governance show` says who has to sign, and how many of them".to_owned()
            }
            (403, _) => {
                "it takes a token of another role; an admin issues one with `meshctl token issue`"
                    .to_owned()
            }
            (404, "agent_not_found") => {
                "`meshctl agent list` shows the agents there are".to_owned()
            }
            (404, "task_not_found") => "`meshctl task list` shows the latest tasks".to_owned(),
            (429 | 503, _) => match &self.retry_after {
                Some(seconds) => format!("try again in {seconds} s"),
                None => "try again later".to_owned(),
            },
            _ => return None,
        };
        Some(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, text: &str) -> Failure {
        Refusal::new(status, text, &HeaderMap::new()).into_failure()
    }

    #[test]
    fn a_problem_is_told_with_field_code_and_all_errors() {
        let failure = refusal(
            422,
            r#"{"type":"about:blank","status":422,"code":"invalid_task","detail":"is empty","field":"requirements",
                "errors":["requirements: is empty","input: too large"]}"#,
        );
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(failure.message, "requirements: is empty (invalid_task)");
        assert_eq!(
            failure.details,
            ["requirements: is empty", "input: too large"]
        );
    }

    #[test]
    fn errors_that_the_detail_repeats_are_told_once() {
        let failure = refusal(
            422,
            r#"{"code":"invalid_workflow","detail":"a: wrong; b: wrong","field":"a","errors":["a: wrong","b: wrong"]}"#,
        );
        assert_eq!(failure.message, "2 errors (invalid_workflow)");
        assert_eq!(failure.details, ["a: wrong", "b: wrong"]);
    }

    #[test]
    fn an_answer_that_is_no_problem_keeps_its_status() {
        let failure = refusal(404, "<html>not here</html>");
        assert_eq!(
            (failure.exit, failure.message.as_str()),
            (Exit::NotFound, "meshd answered 404")
        );
    }

    #[test]
    fn a_busy_daemon_says_when_to_come_back() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "3".parse().unwrap());
        let failure = Refusal::new(503, "{}", &headers).into_failure();
        assert_eq!(
            (failure.exit, failure.hint.as_deref()),
            (Exit::TryAgain, Some("try again in 3 s"))
        );
    }

    #[test]
    fn plain_text_becomes_json_under_a_name() {
        let text = Answer::new("note\n".into(), &HeaderMap::new());
        assert_eq!(
            text.value("checkpoint").unwrap(),
            json!({"checkpoint": "note\n"})
        );
    }
}

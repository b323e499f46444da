//! The payloads of a task and of its result.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::budget::{TaskBudget, Usage};
use crate::claim::TaskClaim;
use crate::escalation::EscalationStep;
use crate::failure::{Failure, FailureClass};
use crate::trust::TrustNeed;
use crate::workflow::ApprovalSpec;

/// `TASK_REQUEST`: from meshd, the task; from an agent, a delegation.
#[derive(Debug, Clone, PartialEq, Default, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub struct TaskRequest {
    /// The task's type, or its first requirement.
    pub action: Option<String>,
    /// Capabilities that are needed; with `action` alone, that one.
    #[schemars(default)]
    pub requirements: Vec<String>,
    /// What to work on. Without it, whatever else the payload holds, such as `{target, params}`.
    #[schemars(default)]
    pub input: Value,
    /// Time until which it must have ended, from now.
    pub deadline_ms: Option<u64>,
    /// Time that one attempt may take.
    pub timeout_ms: Option<u64>,
    /// A person is asked instead of an agent.
    pub approval: Option<ApprovalSpec>,
    /// What it and everything under it may use; of a delegation, a part of what is left of its parent's.
    pub budget: Option<TaskBudget>,
    /// Who takes a delegated task up when it has failed for good.
    pub escalate: Option<Vec<EscalationStep>>,
    /// Resources that it has for itself until it ends: from meshd each with its token, in a delegation without.
    #[schemars(default)]
    pub claims: Vec<TaskClaim>,
    /// Of a delegation, trust that the agent must have earned: `true` for the configuration's `trust_threshold`, or the
    /// least level, 0 to 1. Read only beside `input`, as `escalate` and `claims` are.
    pub trust: Option<TrustNeed>,
}

impl<'de> Deserialize<'de> for TaskRequest {
    fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let mut rest = Map::<String, Value>::deserialize(reader)?;
        let action = take(&mut rest, "action")?;
        let requirements = take(&mut rest, "requirements")?.unwrap_or_default();
        let deadline_ms = take(&mut rest, "deadlineMs")?;
        let timeout_ms = take(&mut rest, "timeoutMs")?;
        let approval = take(&mut rest, "approval")?;
        let budget = take(&mut rest, "budget")?;
        // Without `input` it is part of the input, like everything else.
        let (claims, escalate, trust) = if rest.contains_key("input") {
            let claims = take(&mut rest, "claims")?.unwrap_or_default();
            let escalate = take(&mut rest, "escalate")?;
            (claims, escalate, take(&mut rest, "trust")?)
        } else {
            (Vec::new(), None, None)
        };
        let input = match (rest.remove("input"), rest.keys().next()) {
            (Some(input), None) => input,
            (None, Some(_)) => Value::Object(rest),
            (None, None) => Value::Null,
            (Some(_), Some(other)) => {
                let message =
                    format!("unknown field `{other}` beside `input`; put it into `input`");
                return Err(serde::de::Error::custom(message));
            }
        };
        Ok(Self {
            action,
            requirements,
            input,
            deadline_ms,
            timeout_ms,
            approval,
            budget,
            escalate,
            claims,
            trust,
        })
    }
}

impl Serialize for TaskRequest {
    fn serialize<S: serde::Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let mut map = writer.serialize_map(None)?;
        if let Some(action) = &self.action {
            map.serialize_entry("action", action)?;
        }
        if !self.requirements.is_empty() {
            map.serialize_entry("requirements", &self.requirements)?;
        }
        map.serialize_entry("input", &self.input)?;
        if let Some(ms) = self.deadline_ms {
            map.serialize_entry("deadlineMs", &ms)?;
        }
        if let Some(ms) = self.timeout_ms {
            map.serialize_entry("timeoutMs", &ms)?;
        }
        if let Some(approval) = &self.approval {
            map.serialize_entry("approval", approval)?;
        }
        if let Some(budget) = &self.budget {
            map.serialize_entry("budget", budget)?;
        }
        if let Some(escalate) = &self.escalate {
            map.serialize_entry("escalate", escalate)?;
        }
        if !self.claims.is_empty() {
            map.serialize_entry("claims", &self.claims)?;
        }
        if let Some(trust) = &self.trust {
            map.serialize_entry("trust", trust)?;
        }
        map.end()
    }
}

fn take<T: DeserializeOwned, E: serde::de::Error>(
    map: &mut Map<String, Value>,
    key: &str,
) -> Result<Option<T>, E> {
    let Some(value) = map.remove(key) else {
        return Ok(None);
    };
    T::deserialize(value)
        .map(Some)
        .map_err(|error| E::custom(format_args!("{key}: {error}")))
}

/// `TASK_RESULT`: `{ok: true, output}` or `{ok: false, error}`.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskResult {
    /// It is done.
    Done {
        /// What came out.
        output: Value,
        /// What the attempt used, as the agent says.
        usage: Option<Usage>,
    },
    /// It failed.
    Failed {
        /// Why.
        error: Failure,
        /// What the attempt used, as the agent says.
        usage: Option<Usage>,
    },
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "TaskResult")]
struct WireResult {
    ok: bool,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    output: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<WireFailure>,
    /// What the attempt used: totals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

/// Tells `null` from absent.
fn present<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(reader).map(Some)
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireFailure {
    class: FailureClass,
    #[serde(default)]
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retryable: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl<'de> Deserialize<'de> for TaskResult {
    fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        match WireResult::deserialize(reader)? {
            WireResult {
                ok: true,
                output,
                error: None,
                usage,
            } => Ok(Self::Done {
                output: output.unwrap_or(Value::Null),
                usage,
            }),
            WireResult {
                ok: true,
                error: Some(_),
                ..
            } => Err(D::Error::custom("`error` contradicts `ok: true`")),
            WireResult {
                ok: false,
                output: None,
                error: Some(wire),
                usage,
            } => {
                let mut error = Failure::new(wire.class, wire.message);
                error.retryable = wire.retryable.unwrap_or(error.retryable);
                error.retry_after_ms = wire.retry_after_ms;
                if wire.retry_after_ms.is_some() && wire.class != FailureClass::Quota {
                    let message = "error.retryAfterMs: only an error of class `quota` has one";
                    return Err(D::Error::custom(message));
                }
                Ok(Self::Failed { error, usage })
            }
            WireResult {
                ok: false,
                output: Some(_),
                ..
            } => Err(D::Error::custom("`output` contradicts `ok: false`")),
            WireResult {
                ok: false,
                error: None,
                ..
            } => Err(D::Error::missing_field("error")),
        }
    }
}

impl Serialize for TaskResult {
    fn serialize<S: serde::Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        let wire = match self.clone() {
            Self::Done { output, usage } => WireResult {
                ok: true,
                output: Some(output),
                error: None,
                usage,
            },
            Self::Failed {
                error:
                    Failure {
                        class,
                        message,
                        retryable,
                        retry_after_ms,
                        unchecked: _,
                    },
                usage,
            } => {
                let error = WireFailure {
                    class,
                    message,
                    retryable: Some(retryable),
                    retry_after_ms,
                };
                WireResult {
                    ok: false,
                    output: None,
                    error: Some(error),
                    usage,
                }
            }
        };
        wire.serialize(writer)
    }
}

impl JsonSchema for TaskResult {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TaskResult".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        WireResult::json_schema(generator)
    }
}

//! Whether a task makes sense, apart from the tasks around it.

use std::collections::BTreeSet;

use mesh_messages::budget::{Dimension, TaskBudget};
use mesh_messages::claim::{TASK_CLAIMS_MAX, not_a_resource};
use mesh_messages::escalation::{ESCALATION_STEPS_MAX, EscalationStep};
use mesh_messages::inbox::{ANSWER_BYTES_MAX, AskKind, CHOICES_MAX};
use mesh_messages::schema::{Checker, FieldError};
use mesh_messages::task::{
    AcceptanceCheck, CHECK_NAME_MAX, CHECK_WORD_BYTES_MAX, CHECK_WORDS_MAX, CHECKS_MAX,
    REQUIREMENTS_MAX, RetrySpec, TASK_DATA_MAX, TaskContract, TaskSpec,
};
use mesh_messages::trust::{TrustLevel, TrustNeed};
use mesh_messages::workflow::{APPROVAL_TEXT_MAX, ApprovalSpec};

use crate::access::limits::WITHIN_MAX;

use super::config::{ATTEMPTS_MAX, RETRY_DELAY_MAX};

/// Longest capability or type, as manifests have it.
const NAME_MAX: usize = 128;
/// Longest time that a task or an attempt may be given: 30 days. What runs longer should be several tasks.
pub const SPAN_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;
/// Longest idempotency key, in bytes: a UUID or a digest with a prefix fits many times over.
pub const IDEMPOTENCY_KEY_MAX: usize = 255;
/// Most tasks that one task may depend on.
pub const DEPENDENCIES_MAX: usize = 256;
/// Most labels of one task, and the longest key and value in bytes: they are marks, not data.
pub const LABELS_MAX: (usize, usize, usize) = (64, 63, 256);
/// Longest time that a check may be given: an hour. What verifies for longer is a task of its own.
const CHECK_TIMEOUT_MS_MAX: u64 = 60 * 60 * 1000;
/// Largest output schema in bytes of JSON: it is compiled for every result.
pub const SCHEMA_MAX: usize = 64 * 1024;

/// Collects what is wrong with one task of a submission.
pub(crate) struct Report<'a> {
    prefix: String,
    errors: &'a mut Vec<FieldError>,
}

impl<'a> Report<'a> {
    /// For the task at `index` of an array, or for a single task.
    pub(crate) fn new(index: Option<usize>, errors: &'a mut Vec<FieldError>) -> Self {
        Self {
            prefix: index.map_or_else(String::new, |index| format!("[{index}].")),
            errors,
        }
    }

    pub(crate) fn add(&mut self, field: &str, message: impl Into<String>) {
        self.errors
            .push(FieldError::new(format!("{}{field}", self.prefix), message));
    }
}

/// Checks everything that the specification alone tells. Returns its size in bytes of JSON.
pub(crate) fn validate(spec: &TaskSpec, report: &mut Report<'_>) -> usize {
    names(spec, report);
    spans(spec, report);
    if let Some(retry) = &spec.retry {
        retries(retry, report);
    }
    if let Some(contract) = &spec.contract {
        check_contract(contract, report);
    }
    if let Some(why) = super::teams::misfit(spec) {
        report.add("team", why);
    }
    if let Some(TrustNeed::Least(least)) = spec.trust
        && TrustLevel::try_from(least).is_err()
    {
        report.add("trust", "must be true or false, or a number from 0 to 1");
    }
    if spec.trust.is_some() && spec.approval.is_some() {
        report.add(
            "trust",
            "a person's answer needs no trusted agent; leave it out",
        );
    }
    if spec.budget.is_some() && spec.approval.is_some() {
        report.add("budget", "a person's answer costs nothing; leave it out");
    } else if let Some((field, why)) = spec.budget.as_ref().and_then(misfit) {
        report.add(&format!("budget{field}"), why);
    }
    if spec.within.len() > WITHIN_MAX {
        report.add("within", format!("has at most {WITHIN_MAX} limits"));
    }
    for (nth, why) in spec
        .within
        .iter()
        .enumerate()
        .filter_map(|(n, l)| Some((n, l.misfit()?)))
    {
        report.add(&format!("within[{nth}]"), why);
    }
    escalation(spec, report);
    claims(spec, report);
    marks(spec, report);
    let input = json_len(&spec.input);
    if input > TASK_DATA_MAX {
        report.add(
            "input",
            format!("has {input} bytes as JSON; at most {TASK_DATA_MAX} are accepted"),
        );
    }
    json_len(spec)
}

/// Why a budget is none that can be had: the dimension, and what is wrong.
fn misfit(budget: &TaskBudget) -> Option<(String, String)> {
    if budget.limits().is_empty() {
        let why = "name at least one of calls, tokens, money, wallTimeMs, attempts, restarts";
        return Some((String::new(), why.to_owned()));
    }
    if let Some((d, why)) = budget.limits().misfit() {
        return Some((format!(".{d}"), why));
    }
    let reserve = budget.reserve?;
    Dimension::ALL.into_iter().find_map(|d| {
        let (set_aside, bound) = (reserve.get(d)?, budget.limits().get(d)?);
        (set_aside > bound).then(|| {
            let why = format!("must be at most the budget's own {}", d.show(bound));
            (format!(".reserve.{d}"), why)
        })
    })
}

/// Who takes it up when it has failed for good.
fn escalation(spec: &TaskSpec, report: &mut Report<'_>) {
    if spec.escalates.is_some() {
        report.add("escalates", "is written by meshd alone; leave it out");
    }
    let Some(steps) = &spec.escalate else {
        return;
    };
    if spec.approval.is_some() {
        report.add("escalate", "a person is asked already; leave it out");
    } else if let Some((at, why)) = EscalationStep::misfit_of(steps) {
        report.add(&format!("escalate{at}"), why);
    }
    for (nth, step) in steps.iter().take(ESCALATION_STEPS_MAX).enumerate() {
        let names = step.requirements.iter().take(REQUIREMENTS_MAX).enumerate();
        for (index, wrong) in names.filter_map(|(n, name)| Some((n, not_a_name(name)?))) {
            report.add(&format!("escalate[{nth}].requirements[{index}]"), wrong);
        }
    }
}

/// What it claims as a whole.
fn claims(spec: &TaskSpec, report: &mut Report<'_>) {
    if spec.approval.is_some() && !spec.claims.is_empty() {
        report.add("claims", "a person's answer claims nothing; leave it out");
    }
    if spec.claims.len() > TASK_CLAIMS_MAX {
        let count = spec.claims.len();
        let text = format!("has {count} entries; at most {TASK_CLAIMS_MAX} are accepted");
        report.add("claims", text);
    }
    for (nth, claim) in spec.claims.iter().take(TASK_CLAIMS_MAX).enumerate() {
        let mut wrong = |field: &str, why: String| {
            report.add(&format!("claims[{nth}].{field}"), why);
        };
        if let Some(why) = not_a_resource(&claim.resource) {
            wrong("resource", why);
        } else if spec.claims[..nth]
            .iter()
            .any(|one| one.resource == claim.resource)
        {
            wrong("resource", "is there twice".to_owned());
        }
        if claim.token.is_some() {
            let why = "is given out with each attempt; leave it out";
            wrong("token", why.to_owned());
        }
    }
}

fn names(spec: &TaskSpec, report: &mut Report<'_>) {
    if let Some(approval) = &spec.approval {
        asks(spec, approval, report);
    } else if spec.kind.is_none() && spec.requirements.is_empty() {
        report.add("requirements", "name at least one capability, or a type");
    }
    if let Some(kind) = &spec.kind
        && let Some(wrong) = not_a_name(kind)
    {
        report.add("type", wrong);
    }
    if spec.requirements.len() > REQUIREMENTS_MAX {
        let count = spec.requirements.len();
        report.add(
            "requirements",
            format!("has {count} entries; at most {REQUIREMENTS_MAX} are accepted"),
        );
    }
    for (index, requirement) in spec.requirements.iter().take(REQUIREMENTS_MAX).enumerate() {
        if let Some(wrong) = not_a_name(requirement) {
            report.add(&format!("requirements[{index}]"), wrong);
        }
    }
}

/// What asks a person goes to no agent and waits for nothing else.
fn asks(spec: &TaskSpec, approval: &ApprovalSpec, report: &mut Report<'_>) {
    if !spec.requirements.is_empty() {
        report.add("requirements", "an approval goes to no agent; leave it out");
    }
    if spec
        .contract
        .as_ref()
        .is_some_and(|contract| !contract.checks.is_empty())
    {
        report.add("contract.checks", "an approval is no work; leave them out");
    }
    if !spec.depends_on.is_empty() {
        report.add(
            "dependsOn",
            "an approval waits for a person alone; leave it out",
        );
    }
    if approval.message.len() > APPROVAL_TEXT_MAX {
        report.add(
            "approval.message",
            format!("must have at most {APPROVAL_TEXT_MAX} bytes"),
        );
    }
    what_is_asked(approval, report);
}

/// A permission names what it permits, and only a question has answers to choose from.
fn what_is_asked(ask: &ApprovalSpec, report: &mut Report<'_>) {
    match (&ask.permission, ask.kind) {
        (None, AskKind::Permission) => report.add(
            "approval.permission",
            "a permission names the action that would be allowed",
        ),
        (Some(_), AskKind::Approval | AskKind::Question) => report.add(
            "approval.permission",
            "belongs to the kind `permission`; leave it out",
        ),
        (Some(permission), AskKind::Permission) => {
            if let Some(wrong) = not_a_name(&permission.action) {
                report.add("approval.permission.action", wrong);
            }
            if permission.resource.len() > ANSWER_BYTES_MAX {
                let message = format!("must have at most {ANSWER_BYTES_MAX} bytes");
                report.add("approval.permission.resource", message);
            }
        }
        (None, AskKind::Approval | AskKind::Question) => {}
    }
    if ask.kind != AskKind::Question && !ask.choices.is_empty() {
        report.add(
            "approval.choices",
            "belong to the kind `question`; leave them out",
        );
    }
    if ask.choices.len() > CHOICES_MAX {
        let count = ask.choices.len();
        let message = format!("has {count} entries; at most {CHOICES_MAX} are accepted");
        report.add("approval.choices", message);
    }
    for (index, choice) in ask.choices.iter().take(CHOICES_MAX).enumerate() {
        let path = format!("approval.choices[{index}]");
        if choice.is_empty() || choice.len() > ANSWER_BYTES_MAX {
            report.add(&path, format!("must have 1 to {ANSWER_BYTES_MAX} bytes"));
        } else if ask.choices[..index].contains(choice) {
            report.add(&path, "is there twice");
        }
    }
}

fn not_a_name(text: &str) -> Option<String> {
    let ok = !text.is_empty()
        && text.len() <= NAME_MAX
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._:/-".contains(&b));
    (!ok).then(|| {
        format!("must be 1 to {NAME_MAX} characters out of A-Z a-z 0-9 . _ : / -, starting with a letter or digit")
    })
}

fn spans(spec: &TaskSpec, report: &mut Report<'_>) {
    for (field, value) in [
        ("deadlineMs", spec.deadline_ms),
        ("timeoutMs", spec.timeout_ms),
    ] {
        if value.is_some_and(|ms| ms == 0 || ms > SPAN_MS_MAX) {
            report.add(field, format!("must be from 1 to {SPAN_MS_MAX} (30 days)"));
        }
    }
}

fn retries(retry: &RetrySpec, report: &mut Report<'_>) {
    if retry
        .max_attempts
        .is_some_and(|n| n == 0 || n > ATTEMPTS_MAX)
    {
        report.add(
            "retry.maxAttempts",
            format!("must be from 1 to {ATTEMPTS_MAX}"),
        );
    }
    let longest = u64::try_from(RETRY_DELAY_MAX.as_millis()).unwrap_or(u64::MAX);
    if retry.base_delay_ms.is_some_and(|ms| ms > longest) {
        report.add("retry.baseDelayMs", format!("must be at most {longest}"));
    }
}

fn check_checks(checks: &[AcceptanceCheck], report: &mut Report<'_>) {
    if checks.len() > CHECKS_MAX {
        let count = checks.len();
        let text = format!("{count} checks; at most {CHECKS_MAX} are accepted");
        report.add("contract.checks", text);
    }
    let mut names = BTreeSet::new();
    for (index, check) in checks.iter().take(CHECKS_MAX).enumerate() {
        let mut wrong = |field: &str, text: String| {
            report.add(&format!("contract.checks[{index}]{field}"), text);
        };
        if check.name.is_empty() || check.name.len() > CHECK_NAME_MAX {
            wrong(".name", format!("must have 1 to {CHECK_NAME_MAX} bytes"));
        } else if !names.insert(check.name.as_str()) {
            wrong(
                ".name",
                format!("there is a check \"{}\" before it", check.name),
            );
        }
        if check.command.is_empty() == check.requirements.is_empty() {
            wrong("", "must have either a command or requirements".to_owned());
        }
        let words = &check.command;
        if words.len() > CHECK_WORDS_MAX
            || words.iter().any(|word| word.len() > CHECK_WORD_BYTES_MAX)
        {
            let text = format!("at most {CHECK_WORDS_MAX} words of {CHECK_WORD_BYTES_MAX} bytes");
            wrong(".command", text);
        }
        if words.first().is_some_and(String::is_empty) || words.iter().any(|w| w.contains('\0')) {
            wrong(
                ".command",
                "must name a program, and hold no NUL".to_owned(),
            );
        }
        if check.requirements.len() > REQUIREMENTS_MAX {
            wrong(
                ".requirements",
                format!("at most {REQUIREMENTS_MAX} are accepted"),
            );
        }
        for (number, name) in check.requirements.iter().take(REQUIREMENTS_MAX).enumerate() {
            if let Some(text) = not_a_name(name) {
                wrong(&format!(".requirements[{number}]"), text);
            }
        }
        if check
            .timeout_ms
            .is_some_and(|ms| ms == 0 || ms > CHECK_TIMEOUT_MS_MAX)
        {
            wrong(
                ".timeoutMs",
                format!("must be from 1 to {CHECK_TIMEOUT_MS_MAX}"),
            );
        }
    }
}

fn check_contract(contract: &TaskContract, report: &mut Report<'_>) {
    check_checks(&contract.checks, report);
    let Some(schema) = &contract.output_schema else {
        return;
    };
    if json_len(schema) > SCHEMA_MAX {
        report.add(
            "contract.outputSchema",
            format!("must have at most {SCHEMA_MAX} bytes as JSON"),
        );
    } else if let Err(error) = Checker::new(schema.clone()) {
        report.add("contract.outputSchema", error.to_string());
    }
}

fn marks(spec: &TaskSpec, report: &mut Report<'_>) {
    if spec
        .idempotency_key
        .as_ref()
        .is_some_and(|k| k.is_empty() || k.len() > IDEMPOTENCY_KEY_MAX)
    {
        report.add(
            "idempotencyKey",
            format!("must have 1 to {IDEMPOTENCY_KEY_MAX} bytes"),
        );
    }
    if spec.depends_on.len() > DEPENDENCIES_MAX {
        let count = spec.depends_on.len();
        report.add(
            "dependsOn",
            format!("has {count} entries; at most {DEPENDENCIES_MAX} are accepted"),
        );
    }
    let (count, key_max, value_max) = LABELS_MAX;
    if spec.labels.len() > count {
        report.add(
            "labels",
            format!(
                "has {} entries; at most {count} are accepted",
                spec.labels.len()
            ),
        );
    }
    for (key, value) in spec.labels.iter().take(count) {
        if key.is_empty() || key.len() > key_max {
            let shown: String = key.chars().take(key_max).collect();
            report.add(
                &format!("labels.{shown}"),
                format!("a label's key must have 1 to {key_max} bytes"),
            );
        } else if value.len() > value_max {
            report.add(
                &format!("labels.{key}"),
                format!("must have at most {value_max} bytes"),
            );
        }
    }
}

/// Labels by which the mesh says of which run a task is a step; nobody else sets them.
const OWN_LABELS: [&str; 2] = ["workflow", "step"];

/// Refuses labels that would pass a task off as a step of a run.
pub(crate) fn own_labels(spec: &TaskSpec, report: &mut Report<'_>) {
    for key in OWN_LABELS {
        if spec.labels.contains_key(key) {
            let message = "is set by the mesh, on steps of workflows; choose another name";
            report.add(&format!("labels.{key}"), message);
        }
    }
}

/// Bytes of a value as JSON, without making the text.
pub(crate) fn json_len(value: &impl serde::Serialize) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        // What cannot be written must not pass a bound.
        Err(_) => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn refused(spec: serde_json::Value, expected: &[&str]) {
        let spec: TaskSpec = serde_json::from_value(spec).unwrap();
        let mut errors = Vec::new();
        validate(&spec, &mut Report::new(None, &mut errors));
        let fields: Vec<_> = errors.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(fields, expected, "{errors:?}");
    }

    #[test]
    fn a_plain_task_passes() {
        refused(json!({"requirements": ["scrape.web/v2"]}), &[]);
        refused(
            json!({"type": "scrape", "input": {"a": [1, 2]}, "deadlineMs": 1}),
            &[],
        );
    }

    #[test]
    fn every_wrong_field_is_named() {
        refused(json!({}), &["requirements"]);
        refused(
            json!({"requirements": ["ok", "not ok", ""]}),
            &["requirements[1]", "requirements[2]"],
        );
        refused(json!({"type": "-x"}), &["type"]);
        refused(
            json!({"type": "x", "requirements": vec!["y"; 33]}),
            &["requirements"],
        );
        refused(
            json!({"type": "x", "deadlineMs": 0, "timeoutMs": SPAN_MS_MAX + 1}),
            &["deadlineMs", "timeoutMs"],
        );
        refused(
            json!({"type": "x", "retry": {"maxAttempts": 0, "baseDelayMs": 600_001}}),
            &["retry.maxAttempts", "retry.baseDelayMs"],
        );
        refused(
            json!({"type": "x", "retry": {"maxAttempts": 101}}),
            &["retry.maxAttempts"],
        );
        refused(
            json!({"type": "x", "idempotencyKey": ""}),
            &["idempotencyKey"],
        );
        refused(
            json!({"type": "x", "labels": {"": "v", "k": "x".repeat(257)}}),
            &["labels.", "labels.k"],
        );
        refused(
            json!({"type": "x", "input": "x".repeat(TASK_DATA_MAX)}),
            &["input"],
        );
    }

    #[test]
    fn a_budget_bounds_something_and_sets_aside_no_more_than_it_has() {
        let with = |budget: serde_json::Value| json!({"type": "x", "budget": budget});
        refused(with(json!({"calls": 1, "money": "0.5"})), &[]);
        refused(with(json!({"tokens": 9, "reserve": {"tokens": 9}})), &[]);
        refused(with(json!({})), &["budget"]);
        refused(with(json!({"reserve": {"calls": 1}})), &["budget"]);
        refused(with(json!({"calls": 0})), &["budget.calls"]);
        refused(with(json!({"money": 0})), &["budget.money"]);
        refused(
            with(json!({"tokens": 9, "reserve": {"tokens": 10}})),
            &["budget.reserve.tokens"],
        );
    }

    #[test]
    fn trust_is_a_yes_or_a_level() {
        for fine in [json!(true), json!(false), json!(0), json!(0.7), json!(1)] {
            refused(json!({"type": "x", "trust": fine}), &[]);
        }
        for wrong in [json!(-0.1), json!(1.000_001), json!(70)] {
            refused(json!({"type": "x", "trust": wrong}), &["trust"]);
        }
    }

    #[test]
    fn a_check_is_a_command_or_an_agent_and_has_a_name_of_its_own() {
        let with = |checks: serde_json::Value| json!({"type": "x", "contract": {"checks": checks}});
        refused(
            with(
                json!([{"name": "a", "command": ["true"]}, {"name": "b", "requirements": ["review"]}]),
            ),
            &[],
        );
        refused(
            with(json!([
                {"name": "", "command": ["true"]},
                {"name": "a"},
                {"name": "a", "command": ["true"], "requirements": ["review"]},
                {"name": "c", "command": ["", "x\0"]},
                {"name": "d", "requirements": ["not ok"]},
                {"name": "e", "command": ["true"], "timeoutMs": 0},
            ])),
            &[
                "contract.checks[0].name",
                "contract.checks[1]",
                "contract.checks[2].name",
                "contract.checks[2]",
                "contract.checks[3].command",
                "contract.checks[4].requirements[0]",
                "contract.checks[5].timeoutMs",
            ],
        );
        let many: Vec<_> = (0..17)
            .map(|n| json!({"name": format!("{n}"), "command": ["true"]}))
            .collect();
        refused(with(json!(many)), &["contract.checks"]);
    }

    #[test]
    fn an_output_schema_must_compile_and_stay_within_itself() {
        let with =
            |schema: serde_json::Value| json!({"type": "x", "contract": {"outputSchema": schema}});
        refused(with(json!({"type": "object", "required": ["a"]})), &[]);
        refused(
            with(json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}})),
            &[],
        );
        refused(
            with(json!({"type": "no such type"})),
            &["contract.outputSchema"],
        );
        refused(
            with(json!({"$ref": "https://example.com/schema.json"})),
            &["contract.outputSchema"],
        );
        refused(
            with(json!({"$ref": "file:///etc/passwd"})),
            &["contract.outputSchema"],
        );
        refused(
            with(json!({"description": "x".repeat(SCHEMA_MAX)})),
            &["contract.outputSchema"],
        );
    }
}

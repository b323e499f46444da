//! Tasks of steps: what the task machine would say later, said now; and whether those they are for are there.

use mesh_messages::AgentId;
use mesh_messages::schema::FieldError;
use mesh_messages::task::TaskSpec;
use mesh_messages::team::TeamWish;

use super::{Surroundings, join};
use crate::task::{Report, own_labels, validate};

/// What can be done about a name that nobody has.
const HINT: &str = "(deploy one first, or submit with deployLater=true)";

/// What is wrong with the task of a step.
pub(super) fn task_parts(
    spec: &TaskSpec,
    at: &str,
    around: Surroundings<'_>,
    errors: &mut Vec<FieldError>,
) {
    let mut own = Vec::new();
    validate(spec, &mut Report::new(None, &mut own));
    own_labels(spec, &mut Report::new(None, &mut own));
    if own.is_empty() && spec.approval.is_none() {
        for (field, needs) in capabilities(spec) {
            let Some(offered) = around.offered.filter(|offered| !offered(&needs)) else {
                continue;
            };
            let alone = |need: &&String| !offered(std::slice::from_ref(*need));
            let nobodys: Vec<&str> = needs.iter().filter(alone).map(String::as_str).collect();
            // What several have between them, a team does, where one may form.
            let may_team = field == "requirements" && spec.team != Some(TeamWish::Never);
            let named = match (nobodys.is_empty(), may_team) {
                (true, true) => continue,
                (true, false) => needs.join(" and "),
                (false, _) => nobodys.join(" or "),
            };
            let message = format!("unknown capability: no registered agent has {named} {HINT}");
            own.push(FieldError::new(field, message));
        }
        for (field, agent) in agents(spec) {
            if around.registered.is_some_and(|known| !known(agent)) {
                let message = format!("unknown agent: {agent} is not registered {HINT}");
                own.push(FieldError::new(field, message));
            }
        }
    }
    let own = own.into_iter();
    errors.extend(own.map(|e| FieldError::new(join(at, &e.path), e.message)));
}

/// What agents have to be able to do: for the task, for its checks, and for those who take it up when it fails.
fn capabilities(spec: &TaskSpec) -> Vec<(String, Vec<String>)> {
    let field = if spec.requirements.is_empty() {
        "type"
    } else {
        "requirements"
    };
    let mut all = vec![(field.to_owned(), spec.needs())];
    let checks = spec.contract.iter().flat_map(|contract| &contract.checks);
    for (index, check) in checks.enumerate() {
        let field = format!("contract.checks[{index}].requirements");
        all.push((field, check.requirements.clone()));
    }
    for (index, step) in spec.escalate.iter().flatten().enumerate() {
        let field = format!("escalate[{index}].requirements");
        all.push((field, step.requirements.clone()));
    }
    // A check may be a command, and a task may be taken up by a person or by one that is named.
    all.retain(|(field, needs)| !needs.is_empty() || field == "type");
    all
}

/// The agents that a task names.
fn agents(spec: &TaskSpec) -> Vec<(String, &AgentId)> {
    let own = [("agent", &spec.agent), ("prefer", &spec.prefer)];
    let own = own
        .into_iter()
        .filter_map(|(field, agent)| Some((field.to_owned(), agent.as_ref()?)));
    let steps = spec.escalate.iter().flatten().enumerate();
    let steps = steps.filter_map(|(index, step)| {
        Some((format!("escalate[{index}].agent"), step.agent.as_ref()?))
    });
    own.chain(steps).collect()
}

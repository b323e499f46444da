//! What a narrowed token leaves of its bearer's rights, and what is handed on with a task that it submitted.

use mesh_messages::Timestamp;
use mesh_messages::access::{AccessVerb, TaskFacts, speaks_of};
use mesh_messages::capability::Limits;

use super::About;

/// Most limits that a task is held to: a token's own, and those of tokens with which it was handed on.
pub const WITHIN_MAX: usize = 64;

/// What is asked of a token.
#[derive(Debug, Clone, Copy)]
pub struct Use<'a> {
    /// What is done.
    pub verb: AccessVerb,
    /// To which tasks.
    pub about: &'a About,
    /// To which agent.
    pub agent: Option<&'a str>,
}

/// Whether one block leaves this.
pub fn leaves(limits: &Limits, act: Use<'_>) -> bool {
    // Whoever could do these could give themselves what was taken away.
    if matches!(
        act.verb,
        AccessVerb::Tokens | AccessVerb::Keys | AccessVerb::Policy | AccessVerb::Governance
    ) {
        return false;
    }
    let of_tasks = limits.task_types.is_some() || limits.requirements.is_some();
    let named = match &limits.verbs {
        Some(verbs) => verbs.contains(&act.verb),
        // A limit on tasks or agents that left everything else would be none.
        None if of_tasks => act.verb.is_about_tasks(),
        None if limits.agents.is_some() => {
            act.verb.is_about_tasks() || act.verb == AccessVerb::AgentControl
        }
        None => true,
    };
    named
        && (!act.verb.is_about_tasks() || leaves_tasks(limits, act.about))
        && leaves_agent(limits, act)
}

fn leaves_tasks(limits: &Limits, about: &About) -> bool {
    let limited =
        limits.task_types.is_some() || limits.requirements.is_some() || limits.agents.is_some();
    match about {
        // They are asked about again when they are known.
        About::Later => true,
        About::Nothing | About::Unknown => !limited,
        About::Tasks(tasks) => tasks.iter().all(|task| leaves_task(limits, task)),
    }
}

fn leaves_task(limits: &Limits, task: &TaskFacts) -> bool {
    let among = |patterns: &[String], name: &str| patterns.iter().any(|one| speaks_of(one, name));
    let kind = limits
        .task_types
        .as_ref()
        .is_none_or(|types| among(types, &task.kind));
    let needs = limits.requirements.as_ref().is_none_or(|names| {
        !task.needs.is_empty() && task.needs.iter().all(|need| among(names, need))
    });
    let agent = limits.agents.as_ref().is_none_or(|names| {
        let only = task.agent.as_ref();
        only.is_some_and(|agent| among(names, agent.as_str()))
    });
    kind && needs && agent
}

fn leaves_agent(limits: &Limits, act: Use<'_>) -> bool {
    match (&limits.agents, act.agent) {
        (Some(names), Some(agent)) => names.iter().any(|name| speaks_of(name, agent)),
        // What does not say to which agent it is done may be done to any. Tasks name theirs themselves.
        (Some(_), None) => act.verb.is_about_tasks() || act.verb == AccessVerb::Read,
        (None, _) => true,
    }
}

/// Whether it is too late for a block.
pub fn is_over(limits: &Limits, now: Timestamp) -> bool {
    limits.expires.is_some_and(|end| now >= end)
}

/// What a task hands on to one that is submitted on its behalf.
///
/// # Errors
/// The place, among the limits, of the one that does not leave it.
pub fn handed_on(
    within: &[Limits],
    now: Timestamp,
    task: &TaskFacts,
) -> Result<Vec<Limits>, usize> {
    let about = About::Tasks(vec![task.clone()]);
    let act = Use {
        verb: AccessVerb::TaskSubmit,
        about: &about,
        agent: None,
    };
    let mut handed = Vec::with_capacity(within.len());
    for (nth, limits) in within.iter().enumerate() {
        let hops = match limits.hops {
            hops if task.check => hops,
            Some(0) => return Err(nth),
            Some(hops) => Some(hops - 1),
            None => None,
        };
        if is_over(limits, now) || !leaves(limits, act) {
            return Err(nth);
        }
        handed.push(Limits {
            hops,
            ..limits.clone()
        });
    }
    Ok(handed)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn limits(value: Value) -> Limits {
        serde_json::from_value(value).unwrap()
    }

    fn task(kind: &str, needs: &[&str], agent: Option<&str>) -> TaskFacts {
        TaskFacts {
            kind: kind.to_owned(),
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
            agent: agent.map(|id| id.parse().unwrap()),
            claims: Vec::new(),
            check: false,
        }
    }

    fn tasks(facts: TaskFacts) -> About {
        About::Tasks(vec![facts])
    }

    #[track_caller]
    fn check(value: Value, verb: AccessVerb, about: &About, agent: Option<&str>, expected: bool) {
        let limits = limits(value);
        let act = Use { verb, about, agent };
        assert_eq!(leaves(&limits, act), expected, "{limits:?} {act:?}");
    }

    #[test]
    fn what_would_give_everything_back_is_left_to_no_narrowed_token() {
        for verb in AccessVerb::ALL {
            let void = matches!(
                verb,
                AccessVerb::Tokens | AccessVerb::Keys | AccessVerb::Policy | AccessVerb::Governance
            );
            for value in [
                json!({}),
                json!({"hops": 3}),
                json!({"verbs": [verb.name()]}),
            ] {
                check(value, verb, &About::Nothing, None, !void);
            }
        }
    }

    #[test]
    fn a_limit_on_tasks_or_agents_leaves_only_what_depends_on_them_unless_verbs_are_named() {
        use AccessVerb::{AgentControl, AgentGovern, Backup, MessageSend, Read, TaskSubmit};
        let (types, agents) = (json!({"taskTypes": ["a"]}), json!({"agents": ["x"]}));
        for verb in [Read, Backup, MessageSend, AgentControl, AgentGovern] {
            check(types.clone(), verb, &About::Nothing, Some("x"), false);
        }
        check(
            types,
            TaskSubmit,
            &tasks(task("a", &["a"], None)),
            None,
            true,
        );
        for verb in [Read, Backup, MessageSend, AgentGovern] {
            check(agents.clone(), verb, &About::Nothing, Some("x"), false);
        }
        check(
            agents.clone(),
            AgentControl,
            &About::Nothing,
            Some("x"),
            true,
        );
        check(
            agents.clone(),
            AgentControl,
            &About::Nothing,
            Some("y"),
            false,
        );
        check(agents, AgentControl, &About::Nothing, None, false);
        // Named, too, they are not left where it does not show which agent is meant.
        for verb in AccessVerb::ALL {
            let limit = json!({"agents": ["x"], "verbs": [verb.name()]});
            let left = verb == Read;
            if !verb.is_about_tasks() {
                check(limit, verb, &About::Nothing, None, left);
            }
        }
        let both = json!({"taskTypes": ["a"], "verbs": ["read", "task.submit"]});
        check(both.clone(), Read, &About::Nothing, None, true);
        check(
            both.clone(),
            TaskSubmit,
            &tasks(task("a", &[], None)),
            None,
            true,
        );
        check(both, TaskSubmit, &tasks(task("b", &[], None)), None, false);
    }

    #[test]
    fn all_of_a_task_has_to_be_left() {
        use AccessVerb::{TaskControl, TaskSubmit};
        let needs = json!({"requirements": ["e*"]});
        for (facts, left) in [
            (task("x", &["echo"], None), true),
            (task("x", &["echo", "each"], None), true),
            (task("x", &["echo", "shell"], None), false),
            (task("x", &[], None), false),
        ] {
            check(needs.clone(), TaskSubmit, &tasks(facts), None, left);
        }
        let agent = json!({"agents": ["a"]});
        check(
            agent.clone(),
            TaskSubmit,
            &tasks(task("x", &["x"], Some("a"))),
            None,
            true,
        );
        check(
            agent.clone(),
            TaskSubmit,
            &tasks(task("x", &["x"], Some("b"))),
            None,
            false,
        );
        check(
            agent,
            TaskSubmit,
            &tasks(task("x", &["x"], None)),
            None,
            false,
        );
        let two = About::Tasks(vec![task("a", &["a"], None), task("b", &["b"], None)]);
        check(json!({"taskTypes": ["a"]}), TaskSubmit, &two, None, false);
        check(json!({"taskTypes": []}), TaskSubmit, &two, None, false);
        for about in [About::Nothing, About::Unknown] {
            check(
                json!({"taskTypes": ["a"]}),
                TaskControl,
                &about,
                None,
                false,
            );
            check(json!({}), TaskControl, &about, None, true);
        }
        check(
            json!({"taskTypes": ["a"]}),
            TaskSubmit,
            &About::Later,
            None,
            true,
        );
    }

    #[test]
    fn what_is_handed_on_is_counted_down_and_never_more_than_before() {
        let now = Timestamp::from_millis(1_000);
        let facts = task("a", &["a"], None);
        let within = [
            limits(json!({"hops": 2})),
            limits(json!({"taskTypes": ["a"]})),
        ];
        let once = handed_on(&within, now, &facts).unwrap();
        assert_eq!(once[0].hops, Some(1));
        let twice = handed_on(&once, now, &facts).unwrap();
        assert_eq!(handed_on(&twice, now, &facts), Err(0));
        assert_eq!(handed_on(&within, now, &task("b", &["a"], None)), Err(1));
        let until = Limits {
            expires: Some(now),
            ..Limits::default()
        };
        assert_eq!(handed_on(&[until], now, &facts), Err(0));
        assert_eq!(handed_on(&[], now, &facts), Ok(Vec::new()));
        // Checking a result is no hop, but has to be left like any other task.
        let last = [limits(json!({"hops": 0, "requirements": ["a"]}))];
        let check = TaskFacts {
            check: true,
            ..facts.clone()
        };
        assert_eq!(handed_on(&last, now, &facts), Err(0));
        assert_eq!(handed_on(&last, now, &check), Ok(last.to_vec()));
        let shell = TaskFacts {
            check: true,
            ..task("shell", &["shell"], None)
        };
        assert_eq!(handed_on(&last, now, &shell), Err(0));
    }
}

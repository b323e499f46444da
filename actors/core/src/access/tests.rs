use mesh_messages::policy::OperatorPolicy;
use serde_json::{Value, json};

use super::*;

fn rule(value: Value) -> AccessRule {
    serde_json::from_value(value).unwrap()
}

fn policy(rules: &[Value]) -> PolicyDocument {
    PolicyDocument {
        default: Some(OperatorPolicy {
            access: rules.iter().cloned().map(rule).collect(),
            ..OperatorPolicy::default()
        }),
        ..PolicyDocument::default()
    }
}

fn task(kind: &str, needs: &[&str]) -> TaskFacts {
    TaskFacts {
        check: false,
        kind: kind.to_owned(),
        needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        agent: None,
        claims: Vec::new(),
    }
}

const ROLES: [Role; 5] = [
    Role::Viewer,
    Role::Operator,
    Role::Admin,
    Role::Agent,
    Role::Publisher,
];

fn denied(rule: &str) -> Verdict {
    Verdict::Denied(Some(rule.to_owned()))
}

/// What a rule says in words, worked out without the code under test: whether it matches one task.
fn means(
    rule: &AccessRule,
    who: Who<'_>,
    verb: AccessVerb,
    own: Option<bool>,
    task: &TaskFacts,
) -> bool {
    let starts = |pattern: &str, name: &str| {
        pattern == name
            || (pattern.ends_with('*') && name.starts_with(&pattern[..pattern.len() - 1]))
    };
    let deny = rule.decision == AccessDecision::Deny;
    if !rule.verbs.contains(&verb) {
        return false;
    }
    if !rule.roles.is_empty() && !rule.roles.contains(&who.role.unwrap()) {
        return false;
    }
    if !rule.subjects.is_empty()
        && !rule
            .subjects
            .iter()
            .any(|s| who.name == format!("user:{s}"))
    {
        return false;
    }
    match rule.owner {
        AccessOwner::Own if own != Some(true) => return false,
        AccessOwner::Other if own != Some(false) => return false,
        AccessOwner::Any | AccessOwner::Own | AccessOwner::Other => {}
    }
    let kind = rule.task_types.is_empty() || rule.task_types.iter().any(|p| starts(p, &task.kind));
    let hit = |need: &String| rule.requirements.iter().any(|p| starts(p, need));
    let needs = rule.requirements.is_empty()
        || if deny {
            task.needs.iter().any(hit)
        } else {
            !task.needs.is_empty() && task.needs.iter().all(hit)
        };
    kind && needs
}

/// Every combination of two rules out of a set that has each condition alone and some together, with every role, two
/// people, two verbs, three owners and tasks that meet all, some and none of the conditions.
#[test]
fn every_combination_is_decided_as_the_words_say() {
    let mut conditions = vec![json!({})];
    for types in [None, Some(json!(["billing.*"])), Some(json!(["echo"]))] {
        for needs in [None, Some(json!(["pay*"]))] {
            for roles in [None, Some(json!(["viewer", "operator"]))] {
                for subjects in [None, Some(json!(["ada"]))] {
                    for owner in ["any", "self", "other"] {
                        let mut rule = json!({"owner": owner});
                        for (name, value) in [
                            ("taskTypes", &types),
                            ("requirements", &needs),
                            ("roles", &roles),
                            ("subjects", &subjects),
                        ] {
                            if let Some(value) = value {
                                rule[name] = value.clone();
                            }
                        }
                        conditions.push(rule);
                    }
                }
            }
        }
    }
    let tasks = [
        task("billing.run", &["pay"]),
        task("billing.run", &["pay", "print"]),
        task("echo", &["print"]),
        task("other", &[]),
    ];
    let mut decided = [0_u32; 2];
    for (nth, first) in conditions.iter().enumerate() {
        for (mth, second) in conditions.iter().enumerate() {
            // Each pair once in each order of decisions; a third of them keeps the test short and meets every condition.
            if (nth * 7 + mth) % 3 != 0 {
                continue;
            }
            let with = |conditions: &Value, decision: &str| {
                let mut rule = conditions.clone();
                rule["decision"] = json!(decision);
                rule["verbs"] = json!(["task.control"]);
                rule
            };
            let policy = policy(&[with(first, "allow"), with(second, "deny")]);
            let rules = &policy.default.as_ref().unwrap().access;
            for role in ROLES {
                for name in ["user:ada", "user:ben"] {
                    let who = Who {
                        name,
                        role: Some(role),
                    };
                    for verb in [AccessVerb::TaskControl, AccessVerb::TaskSubmit] {
                        for own in [None, Some(true), Some(false)] {
                            for task in &tasks {
                                let permitted = matches!(role, Role::Operator | Role::Admin);
                                let expected = if means(&rules[1], who, verb, own, task) {
                                    denied("default.access[1]")
                                } else if permitted || means(&rules[0], who, verb, own, task) {
                                    Verdict::Allowed
                                } else {
                                    Verdict::Denied(None)
                                };
                                let about = About::Tasks(vec![task.clone()]);
                                let act = Act {
                                    verb,
                                    about: &about,
                                    own,
                                    to: None,
                                };
                                let found = decide(&policy, permitted, who, act);
                                assert_eq!(
                                    found, expected,
                                    "{rules:?} {who:?} {verb:?} {own:?} {task:?}"
                                );
                                decided[usize::from(found == Verdict::Allowed)] += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(decided.iter().all(|times| *times > 1000), "{decided:?}");
}

#[test]
fn without_rules_the_role_alone_decides() {
    let none = PolicyDocument::default();
    for verb in AccessVerb::ALL {
        for permitted in [true, false] {
            for about in [
                About::Nothing,
                About::Later,
                About::Unknown,
                About::Tasks(vec![task("a", &["a"])]),
            ] {
                let who = Who {
                    name: "user:ada",
                    role: Some(Role::Viewer),
                };
                let act = Act {
                    verb,
                    about: &about,
                    own: None,
                    to: None,
                };
                let expected = if permitted {
                    Verdict::Allowed
                } else {
                    Verdict::Denied(None)
                };
                assert_eq!(decide(&none, permitted, who, act), expected);
            }
        }
    }
    assert!(!has_rules(&none));
}

#[test]
fn one_task_that_is_denied_denies_all_and_all_have_to_be_allowed() {
    let who = Who {
        name: "user:ada",
        role: Some(Role::Viewer),
    };
    let both = About::Tasks(vec![task("billing.run", &["pay"]), task("echo", &["echo"])]);
    let act = |about| Act {
        verb: AccessVerb::TaskSubmit,
        about,
        own: None,
        to: None,
    };
    let deny =
        policy(&[json!({"decision": "deny", "verbs": ["task.submit"], "taskTypes": ["echo"]})]);
    assert_eq!(
        decide(&deny, true, who, act(&both)),
        denied("default.access[0]")
    );
    let allow = json!({"decision": "allow", "verbs": ["task.submit"], "taskTypes": ["billing.*"]});
    let one = policy(std::slice::from_ref(&allow));
    assert_eq!(decide(&one, false, who, act(&both)), Verdict::Denied(None));
    let more = json!({"decision": "allow", "verbs": ["task.submit"], "requirements": ["echo"]});
    let two = policy(&[allow, more]);
    assert_eq!(decide(&two, false, who, act(&both)), Verdict::Allowed);
    assert_eq!(
        decide(&two, false, who, act(&About::Tasks(Vec::new()))),
        Verdict::Denied(None)
    );
}

#[test]
fn what_is_not_known_yet_is_asked_again_and_what_cannot_be_known_is_taken_as_denied() {
    let who = Who {
        name: "user:ada",
        role: Some(Role::Viewer),
    };
    let rules = |decision: &str| {
        policy(&[json!({"decision": decision, "verbs": ["task.submit"], "taskTypes": ["a"]})])
    };
    let ask = |policy: &PolicyDocument, permitted, about: &About| {
        let act = Act {
            verb: AccessVerb::TaskSubmit,
            about,
            own: None,
            to: None,
        };
        decide(policy, permitted, who, act)
    };
    let (allow, deny) = (rules("allow"), rules("deny"));
    assert_eq!(ask(&allow, false, &About::Later), Verdict::Open);
    assert_eq!(ask(&deny, true, &About::Later), Verdict::Allowed);
    assert_eq!(ask(&allow, false, &About::Unknown), Verdict::Denied(None));
    assert_eq!(
        ask(&deny, true, &About::Unknown),
        denied("default.access[0]")
    );
    assert_eq!(ask(&deny, true, &About::Nothing), Verdict::Allowed);
    // An unconditional rule needs no body.
    let plain =
        policy(&[json!({"decision": "allow", "verbs": ["task.submit"], "subjects": ["a*"]})]);
    assert_eq!(ask(&plain, false, &About::Later), Verdict::Allowed);
}

#[test]
fn an_agents_own_rules_are_its_own_and_those_for_all_hold_too() {
    let mut both = policy(&[
        json!({"decision": "deny", "verbs": ["task.submit"], "agents": ["plan*"], "taskTypes": ["b"]}),
    ]);
    let own = OperatorPolicy {
        access: vec![rule(
            json!({"decision": "deny", "verbs": ["task.submit"], "taskTypes": ["a"]}),
        )],
        ..OperatorPolicy::default()
    };
    both.agents.insert("planner".parse().unwrap(), own);
    let ask = |name, kind| {
        let about = About::Tasks(vec![task(kind, &[kind])]);
        let who = Who {
            name,
            role: Some(Role::Agent),
        };
        decide(
            &both,
            true,
            who,
            Act {
                verb: AccessVerb::TaskSubmit,
                about: &about,
                own: None,
                to: None,
            },
        )
    };
    assert_eq!(
        ask("agent:planner", "a"),
        denied("agents.planner.access[0]")
    );
    assert_eq!(ask("agent:planner", "b"), denied("default.access[0]"));
    assert_eq!(ask("agent:planner2", "a"), Verdict::Allowed);
    assert_eq!(ask("agent:planner2", "b"), denied("default.access[0]"));
    // A person of an agent's name is not the agent.
    assert_eq!(ask("user:planner", "a"), Verdict::Allowed);
    assert_eq!(ask("user:planner", "b"), Verdict::Allowed);
}

#[test]
fn what_goes_on_in_somebodys_name_is_not_judged_by_a_role_that_is_not_known() {
    let rules = [
        json!({"decision": "deny", "verbs": ["task.submit"], "roles": ["operator"], "taskTypes": ["a"]}),
        json!({"decision": "deny", "verbs": ["task.submit"], "subjects": ["ada"], "taskTypes": ["b"]}),
    ];
    let policy = policy(&rules);
    let ask = |role, kind| {
        let about = About::Tasks(vec![task(kind, &[kind])]);
        let who = Who {
            name: "user:ada",
            role,
        };
        decide(
            &policy,
            true,
            who,
            Act {
                verb: AccessVerb::TaskSubmit,
                about: &about,
                own: None,
                to: None,
            },
        )
    };
    assert_eq!(ask(None, "a"), Verdict::Allowed);
    assert_eq!(ask(Some(Role::Operator), "a"), denied("default.access[0]"));
    assert_eq!(ask(None, "b"), denied("default.access[1]"));
}

fn of_agent(id: &str, can: &[&str]) -> Recipient {
    Recipient::Agent(
        id.to_owned(),
        can.iter().map(|&one| one.to_owned()).collect(),
    )
}

#[test]
fn a_rule_says_whom_a_message_may_reach() {
    let rules = [
        json!({"decision": "deny", "verbs": ["message.send"], "agents": ["a"], "toOthersThan": ["agent:b", "topic:report.*", "capability:print"]}),
        json!({"decision": "deny", "verbs": ["message.send"], "to": ["agent:secret-*", "user:root"], "toOthersThan": ["agent:secret-santa"]}),
    ];
    let policy = policy(&rules);
    let ask = |name: &str, to: Option<&Recipient>| {
        let who = Who {
            name,
            role: Some(Role::Agent),
        };
        let act = Act {
            verb: AccessVerb::MessageSend,
            about: &About::Nothing,
            own: None,
            to,
        };
        decide(&policy, true, who, act)
    };
    let (first, second) = (denied("default.access[0]"), denied("default.access[1]"));
    let topic = |name: &str| Recipient::Topic(name.to_owned());
    let person = |name: &str| Recipient::Person(name.to_owned());
    for (name, to, verdict) in [
        ("agent:a", of_agent("b", &[]), Verdict::Allowed),
        ("agent:a", of_agent("bb", &[]), first.clone()),
        ("agent:a", of_agent("c", &["print"]), Verdict::Allowed),
        ("agent:a", topic("report.daily"), Verdict::Allowed),
        ("agent:a", topic("other"), first.clone()),
        ("agent:a", person("b"), first.clone()),
        ("agent:x", topic("other"), Verdict::Allowed),
        ("agent:x", of_agent("secret-1", &[]), second.clone()),
        ("agent:x", of_agent("secret-santa", &[]), Verdict::Allowed),
        ("agent:x", person("root"), second.clone()),
        ("agent:x", person("secret-1"), Verdict::Allowed),
        ("user:ada", of_agent("secret-1", &[]), second),
    ] {
        assert_eq!(ask(name, Some(&to)), verdict, "{name} {to:?}");
    }
    assert_eq!(ask("agent:a", None), Verdict::Allowed, "it reaches nobody");
}

#[test]
fn a_rule_says_to_whom_a_task_may_go() {
    let rules = [
        json!({"decision": "deny", "verbs": ["task.submit"], "agents": ["a"], "toOthersThan": ["agent:b"]}),
        json!({"decision": "deny", "verbs": ["task.submit"], "to": ["capability:pay"], "requirements": ["x"]}),
    ];
    let policy = policy(&rules);
    let named = |kind: &str, agent: Option<&str>| TaskFacts {
        agent: agent.map(|id| mesh_messages::AgentId::new(id).unwrap()),
        ..task(kind, &[kind])
    };
    let ask = |name: &str, agent: Option<&str>| {
        let who = Who {
            name,
            role: Some(Role::Agent),
        };
        let about = About::Tasks(vec![named("x", agent)]);
        let act = Act {
            verb: AccessVerb::TaskSubmit,
            about: &about,
            own: None,
            to: None,
        };
        decide(&policy, true, who, act)
    };
    let first = denied("default.access[0]");
    assert_eq!(ask("agent:a", Some("b")), Verdict::Allowed);
    assert_eq!(ask("agent:a", Some("c")), first);
    assert_eq!(ask("agent:z", Some("c")), Verdict::Allowed);
    // Who gets it is not known yet; the choice leaves out who may not.
    assert_eq!(ask("agent:a", None), Verdict::Allowed);
    assert!(has_recipients(&policy, "agent:a"));
    assert!(!tells_people_apart(&policy));
    let of_ada = json!({"decision": "deny", "verbs": ["task.submit"], "subjects": ["ada"], "to": ["agent:b"]});
    assert!(tells_people_apart(&self::policy(&[of_ada])));
    let keeps = |by: &str, kind: &str, id: &str, can: &[&str]| {
        keeps_from(&policy, by, &named(kind, None), &of_agent(id, can))
    };
    assert_eq!(keeps("agent:a", "y", "b", &["y"]), None);
    let why = keeps("agent:a", "y", "c", &["y"]);
    assert_eq!(why.as_deref(), Some("denied by default.access[0]"));
    let why = keeps("user:ada", "x", "b", &["x", "pay"]);
    assert_eq!(why.as_deref(), Some("denied by default.access[1]"));
    assert_eq!(keeps("user:ada", "y", "b", &["y", "pay"]), None);
    assert_eq!(keeps("user:ada", "x", "b", &["x"]), None);
}

#[test]
fn recipients_are_for_what_reaches_somebody_and_for_rules_that_deny() {
    for (value, field) in [
        (
            json!({"decision": "allow", "verbs": ["message.send"], "to": ["agent:b"]}),
            "decision",
        ),
        (
            json!({"decision": "deny", "verbs": ["message.send", "read"], "to": ["agent:b"]}),
            "verbs[1]",
        ),
        (
            json!({"decision": "deny", "verbs": ["message.send"], "to": ["agent:b", "b"]}),
            "to[1]",
        ),
        (
            json!({"decision": "deny", "verbs": ["message.send"], "toOthersThan": ["role:b"]}),
            "toOthersThan[0]",
        ),
        (
            json!({"decision": "deny", "verbs": ["task.submit"], "roles": ["operator"], "to": ["agent:b"]}),
            "roles",
        ),
    ] {
        let (at, _) = rule(value.clone()).misfit().unwrap();
        assert_eq!(at, field, "{value}");
    }
    for (verb, role) in [("task.submit", "agent"), ("message.send", "operator")] {
        let value =
            json!({"decision": "deny", "verbs": [verb], "roles": [role], "to": ["agent:b"]});
        assert_eq!(rule(value.clone()).misfit(), None, "{value}");
    }
}

use proptest::prelude::*;

use super::*;
use crate::workflow::{Surroundings, check};

fn candidate(name: &str, capabilities: &[&str]) -> Candidate {
    Candidate {
        agent: AgentId::new(name).unwrap(),
        capabilities: capabilities.iter().map(|&one| one.to_owned()).collect(),
        serves: true,
        merits: BTreeMap::new(),
    }
}

fn order(pattern: TeamPattern, requirements: &[&str]) -> TeamOrder {
    TeamOrder {
        pattern,
        requirements: requirements.iter().map(|&one| one.to_owned()).collect(),
        goal: None,
        lead: matches!(pattern, TeamPattern::Hierarchical | TeamPattern::Debate)
            .then(|| "lead".to_owned()),
        size: None,
        rounds: None,
        agreement: None,
        target: None,
    }
}

fn names(found: &Cover) -> Vec<(&str, Vec<&str>)> {
    found
        .members
        .iter()
        .map(|(agent, list)| (agent.as_str(), list.iter().map(String::as_str).collect()))
        .collect()
}

fn fleet() -> Vec<Candidate> {
    vec![
        candidate("ann", &["research", "lead"]),
        candidate("bob", &["write", "draw"]),
        candidate("cid", &["write"]),
        candidate("dan", &["write", "research"]),
    ]
}

fn paths(result: Result<Value, Vec<FieldError>>) -> Vec<String> {
    let errors = result.unwrap_err();
    errors.into_iter().map(|error| error.path).collect()
}

#[test]
fn few_agents_cover_what_is_needed_and_what_nobody_has_is_named() {
    let needs = |list: &[&str]| list.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
    let found = cover(&needs(&["research", "write"]), &fleet());
    assert_eq!(names(&found), [("dan", vec!["research", "write"])]);
    let found = cover(&needs(&["research", "draw", "write"]), &fleet());
    assert_eq!(
        names(&found),
        [("bob", vec!["draw", "write"]), ("ann", vec!["research"])]
    );
    let found = cover(&needs(&["write", "write", "fly"]), &fleet());
    assert_eq!(names(&found), [("bob", vec!["write"])]);
    assert_eq!(found.missing, ["fly"]);

    let mut fleet = fleet();
    fleet[1].serves = false;
    let found = cover(&needs(&["write"]), &fleet);
    assert_eq!(
        names(&found),
        [("cid", vec!["write"])],
        "one that serves comes first"
    );
}

#[test]
fn what_makes_no_sense_in_a_pattern_is_refused_by_its_path() {
    let fleet = fleet();
    let refused = |order: &TeamOrder| paths(draft(order, "", &fleet));
    for pattern in [TeamPattern::Hierarchical, TeamPattern::CrossFunctional] {
        let wrong = TeamOrder {
            size: Some(3),
            rounds: Some(1),
            agreement: Some(Agreement::Unanimous),
            target: Some(1.0),
            ..order(pattern, &[])
        };
        let paths = refused(&wrong);
        assert_eq!(
            paths,
            ["requirements", "size", "rounds", "agreement", "target"]
        );
    }
    let wrong = TeamOrder {
        lead: Some("lead".to_owned()),
        size: Some(10),
        rounds: Some(21),
        ..order(TeamPattern::Peer, &["write"])
    };
    assert_eq!(refused(&wrong), ["lead", "size", "rounds"]);
    let wrong = TeamOrder {
        lead: None,
        ..order(TeamPattern::Hierarchical, &["write"])
    };
    assert_eq!(refused(&wrong), ["lead"]);
    let wrong = TeamOrder {
        target: Some(f64::NAN),
        ..order(TeamPattern::Swarm, &["write"])
    };
    assert_eq!(refused(&wrong), ["target"]);
    let wrong = TeamOrder {
        lead: None,
        size: Some(1),
        ..order(TeamPattern::Debate, &["write"])
    };
    assert_eq!(refused(&wrong), ["lead", "size"]);
    let wrong = TeamOrder {
        rounds: Some(1),
        ..order(TeamPattern::Auction, &["write"])
    };
    assert_eq!(refused(&wrong), ["rounds"]);
    // What the fleet lacks.
    assert_eq!(
        refused(&order(TeamPattern::CrossFunctional, &["write", "fly"])),
        ["requirements[1]"]
    );
    assert_eq!(
        refused(&order(TeamPattern::Swarm, &["fly"])),
        ["requirements"]
    );
    let text = draft(&order(TeamPattern::Peer, &["research"]), "", &fleet).unwrap_err();
    assert_eq!(
        text[0].message,
        "3 different agents with research are needed; there are ann, dan"
    );
}

/// Every order either is refused or gives a document that a submission would be accepted with.
fn any_order() -> impl Strategy<Value = TeamOrder> {
    let pattern = prop_oneof![
        Just(TeamPattern::Hierarchical),
        Just(TeamPattern::Peer),
        Just(TeamPattern::CrossFunctional),
        Just(TeamPattern::Swarm),
        Just(TeamPattern::Debate),
        Just(TeamPattern::Auction),
    ];
    let capability = prop::sample::select(vec!["research", "write", "draw", "lead"]);
    let requirements = prop::collection::vec(capability.prop_map(str::to_owned), 0..5);
    let agreement = prop::option::of(prop_oneof![
        Just(Agreement::Majority),
        Just(Agreement::Unanimous)
    ]);
    (
        pattern,
        requirements,
        prop::option::of(Just("lead".to_owned())),
        prop::option::of(0_u32..12),
        prop::option::of(0_u32..25),
        agreement,
        prop::option::of(any::<f64>()),
    )
        .prop_map(
            |(pattern, requirements, lead, size, rounds, agreement, target)| TeamOrder {
                pattern,
                requirements,
                goal: None,
                lead,
                size,
                rounds,
                agreement,
                target,
            },
        )
}

proptest! {
    #[test]
    fn a_draft_is_a_document_that_is_accepted(order in any_order(), goal in ".{0,40}") {
        let mut fleet = fleet();
        fleet.extend((0..9).map(|nth| candidate(&format!("more-{nth}"), &["write", "draw"])));
        if let Ok(document) = draft(&order, &goal, &fleet) {
            let named = |_: &str| None;
            let around = Surroundings { named: &named, offered: None, registered: None, services: None, fleet: None };
            let plan = check(&document, around).map_err(|e| TestCaseError::fail(format!("{e:?}\n{document:#}")))?;
            prop_assert!(plan.size() >= 1);
        }
    }
}

#[test]
fn the_largest_teams_are_accepted() {
    let fleet: Vec<_> = (0..9)
        .map(|nth| candidate(&format!("a{nth}"), &["write", "lead"]))
        .collect();
    let all = [
        TeamPattern::Peer,
        TeamPattern::Swarm,
        TeamPattern::Debate,
        TeamPattern::Auction,
    ];
    for pattern in all {
        let order = TeamOrder {
            size: Some(SIZE_MAX),
            rounds: (pattern != TeamPattern::Auction).then_some(ROUNDS_MAX),
            ..order(pattern, &["write"])
        };
        let document = draft(&order, "", &fleet).unwrap();
        let named = |_: &str| None;
        check(
            &document,
            Surroundings {
                services: None,
                fleet: None,
                named: &named,
                offered: None,
                registered: None,
            },
        )
        .unwrap();
    }
}

fn measured(name: &str, capabilities: &[&str], seen: [u64; 3], trust: u32) -> Candidate {
    let [verified, passed_first, passed] = seen;
    let merit = Merit {
        trust: mesh_messages::trust::TrustLevel::from_millionths(trust),
        quality: mesh_messages::quality::Quality {
            verified,
            passed_first,
            passed,
        },
    };
    let mut candidate = candidate(name, capabilities);
    candidate.merits = capabilities
        .iter()
        .map(|one| ((*one).to_owned(), merit))
        .collect();
    candidate
}

#[test]
fn of_those_who_can_the_one_with_the_better_verified_results_is_taken() {
    let needs = ["write".to_owned()];
    let who = |fleet: &[Candidate]| names(&cover(&needs, fleet))[0].0.to_owned();
    // Nobody is known: by name. Then what was measured counts, of first results more than of last ones alone.
    let unknown = candidate("a", &["write"]);
    assert_eq!(who(&[candidate("b", &["write"]), unknown.clone()]), "a");
    let good = measured("b", &["write"], [3, 3, 3], 800_000);
    assert_eq!(who(&[unknown.clone(), good.clone()]), "b");
    let bad = measured("a", &["write"], [1, 0, 0], 562_500);
    assert_eq!(who(&[bad.clone(), candidate("b", &["write"])]), "b");
    let late = measured("a", &["write"], [3, 0, 3], 800_000);
    assert_eq!(who(&[late, good.clone()]), "b");
    let distrusted = measured("a", &["write"], [3, 3, 3], 100_000);
    assert_eq!(who(&[distrusted, unknown.clone()]), "a");
    // One that does not serve comes after one that does, however good it is.
    let away = Candidate {
        serves: false,
        ..good
    };
    assert_eq!(who(&[away, bad]), "a");
}

#[test]
fn few_members_are_not_worth_bad_results() {
    let needs = ["research".to_owned(), "write".to_owned()];
    let mut fleet = vec![
        candidate("all", &["research", "write"]),
        candidate("r", &["research"]),
        candidate("w", &["write"]),
    ];
    assert_eq!(names(&cover(&needs, &fleet)).len(), 1);
    // It failed again and again at one of them: it keeps the other, and somebody else does that one.
    fleet[0] = measured("all", &["write"], [3, 0, 0], 300_000);
    fleet[0].capabilities.insert("research".to_owned());
    let found = cover(&needs, &fleet);
    assert_eq!(
        names(&found),
        [("all", vec!["research"]), ("w", vec!["write"])]
    );
    // Where nobody else is, it is better than nobody.
    fleet.truncate(2);
    let found = cover(&needs, &fleet);
    assert!(found.missing.is_empty(), "{found:?}");
}

#[test]
fn a_draft_prefers_its_members_and_says_why_they_are_in_it() {
    let fleet = [
        measured("ann", &["write", "lead"], [2, 0, 0], 400_000),
        measured("bob", &["write", "lead"], [2, 1, 2], 790_000),
        candidate("cid", &["write"]),
    ];
    let hierarchical = order(TeamPattern::Hierarchical, &["write"]);
    let document = draft(&hierarchical, "g", &fleet).unwrap();
    let preferred: Vec<&Value> = document["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| &step["prefer"])
        .collect();
    assert_eq!(preferred, ["bob", "bob", "bob"]);
    let why = document["description"].as_str().unwrap();
    let part = "part-1: bob (write: 2 of 2 verified passed, 1 at first, trust 0.79) before cid (write: no verified results, trust 0.75).";
    assert!(why.contains(part), "{why}");
    let mut peers = order(TeamPattern::Peer, &["write"]);
    peers.size = Some(2);
    let document = draft(&peers, "g", &fleet).unwrap();
    let table = &document["steps"][0]["workflow"]["steps"];
    assert_eq!(
        (&table[0]["agent"], &table[1]["agent"]),
        (&json!("bob"), &json!("cid"))
    );
    let around = Surroundings {
        services: None,
        named: &|_| None,
        offered: None,
        registered: None,
        fleet: None,
    };
    assert!(check(&document, around).is_ok());
    // The same inputs, the same team.
    assert_eq!(draft(&peers, "g", &fleet).unwrap(), document);
}

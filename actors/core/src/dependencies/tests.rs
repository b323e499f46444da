use mesh_messages::manifest::{ManifestFormat, parse_manifest};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

fn manifest(agent: &str, version: &str, needs: serde_json::Value) -> Arc<AgentManifest> {
    let text = json!({
        "id": agent, "version": version, "capabilities": ["x"], "entry": "run.sh", "dependencies": needs,
    });
    let parsed = parse_manifest(text.to_string().as_bytes(), ManifestFormat::Json);
    Arc::new(parsed.unwrap().manifest)
}

fn node(agent: &str, needs: &[&str], ready: bool) -> (AgentId, Node) {
    let needs: Vec<_> = needs
        .iter()
        .map(|name| json!({"name": name, "type": "agent"}))
        .collect();
    let node = Node {
        manifest: manifest(agent, "1.0.0", json!(needs)),
        running: true,
        fault: FaultState::Running,
        ready,
    };
    (id(agent), node)
}

fn told(graph: &Graph, agent: &str) -> Vec<String> {
    let unmet = graph.unmet(&id(agent));
    unmet.iter().map(ToString::to_string).collect()
}

fn texts(waves: &[Vec<AgentId>]) -> Vec<Vec<&str>> {
    let wave = |wave: &Vec<AgentId>| -> Vec<&'static str> {
        wave.iter()
            .map(|id| &*Box::leak(id.to_string().into_boxed_str()))
            .collect()
    };
    waves.iter().map(wave).collect()
}

#[test]
fn an_agent_waits_for_what_it_requires_and_says_what_that_lacks() {
    let (a, mut a_node) = node("a", &["b"], false);
    assert_eq!(
        told(&Graph::new([(a.clone(), a_node.clone())]), "a"),
        ["agent b is not registered"]
    );
    for (change, said) in [
        (None, None),
        (Some((true, FaultState::Running)), Some("is not ready yet")),
        (Some((true, FaultState::Backoff)), Some("is not ready yet")),
        (Some((false, FaultState::Stopped)), Some("is stopped")),
        (
            Some((true, FaultState::Stopped)),
            Some("is stopped after a failure"),
        ),
        (
            Some((true, FaultState::Quarantined)),
            Some("is in quarantine"),
        ),
        (
            Some((false, FaultState::Terminated)),
            Some("has ended for good"),
        ),
    ] {
        let (b, mut b_node) = node("b", &[], change.is_none());
        if let Some((running, fault)) = change {
            (b_node.running, b_node.fault) = (running, fault);
        }
        let graph = Graph::new([(a.clone(), a_node.clone()), (b, b_node)]);
        let lacks = graph.unmet(&a);
        let expected: Vec<_> = said.into_iter().collect();
        let found: Vec<&str> = lacks.iter().map(|unmet| unmet.detail.as_str()).collect();
        assert_eq!(found, expected);
        let comes = said == Some("is not ready yet");
        assert!(lacks.iter().all(|unmet| unmet.coming == comes), "{lacks:?}");
    }
    // A version that is not taken is as good as none; what is optional or a module is not waited for.
    a_node.manifest = manifest(
        "a",
        "1.0.0",
        json!([
            {"name": "b", "type": "agent", "version": "^2"},
            {"name": "c", "type": "agent", "required": false},
            {"name": "d", "type": "service"},
            {"name": "numpy", "type": "module"},
        ]),
    );
    let graph = Graph::new([(a, a_node), node("b", &[], true)]);
    assert_eq!(
        told(&graph, "a"),
        [
            "agent b is version 1.0.0, which ^2 does not take",
            "service d is not registered"
        ]
    );
    let lack = |detail: &str, coming| {
        let detail = detail.to_owned();
        Some(ServiceLack { detail, coming })
    };
    for (lack, said) in [
        (None, vec![]),
        (lack("is inactive", false), vec![("is inactive", false)]),
        (
            lack("is in error: no", true),
            vec![("is in error: no", true)],
        ),
    ] {
        let services = Arc::new(Services::from([("d".to_owned(), lack)]));
        let unmet = graph.clone().with_services(services).unmet(&id("a"));
        let unmet = unmet.iter().filter(|unmet| unmet.agent == "d");
        let found: Vec<_> = unmet
            .map(|unmet| (unmet.detail.as_str(), unmet.coming))
            .collect();
        assert_eq!(found, said);
    }
    let shown = &graph.view().agents[0];
    let met: Vec<_> = shown.needs.iter().map(|need| need.met).collect();
    assert_eq!(met, [Some(false), Some(false), Some(false), None]);
    assert_eq!(shown.waiting_for.len(), 2);
}

#[test]
fn a_circle_is_named_as_a_whole_and_who_is_in_one_does_not_wait_for_ever() {
    let graph = Graph::new([
        node("a", &["b"], false),
        node("b", &["c"], false),
        node("c", &["d", "a"], false),
        node("d", &[], false),
        node("above", &["a"], false),
    ]);
    let way = graph.cycle(&id("a")).unwrap();
    assert_eq!(way, [id("a"), id("b"), id("c"), id("a")]);
    assert_eq!(graph.cycle(&id("d")), None);
    assert_eq!(graph.cycle(&id("above")), None);
    // Within the circle nobody waits for the others, but still for what is outside.
    assert_eq!(told(&graph, "a"), Vec::<String>::new());
    assert_eq!(told(&graph, "c"), ["agent d is not ready yet"]);
    assert_eq!(told(&graph, "above"), ["agent a is not ready yet"]);
    assert_eq!(
        texts(&graph.waves()),
        [vec!["d"], vec!["a", "above", "b", "c"]]
    );
    assert_eq!(graph.view().cycles, [way]);
}

#[test]
fn a_stop_names_who_needs_it_and_a_start_whom_it_needs() {
    let mut agents = vec![
        node("store", &[], true),
        node("index", &["store"], true),
        node("search", &["index", "store"], true),
        node("asleep", &["store"], false),
        node("other", &[], true),
    ];
    agents[3].1.running = false;
    let graph = Graph::new(agents.clone());
    assert_eq!(
        texts(&graph.breaks(&id("store"))),
        [vec!["search"], vec!["index"]]
    );
    assert!(graph.breaks(&id("search")).is_empty());
    for stopped in &mut agents {
        stopped.1.running = false;
    }
    let graph = Graph::new(agents);
    assert_eq!(graph.to_start(&id("search")), [id("store"), id("index")]);
    assert!(graph.breaks(&id("store")).is_empty());
}

#[test]
fn a_stop_breaks_who_requires_it_and_orders_by_all_that_is_named() {
    let (front, mut front_node) = node("front", &[], true);
    front_node.manifest = manifest(
        "front",
        "1.0.0",
        json!([
            {"name": "cache", "type": "agent", "required": false},
            {"name": "store", "type": "agent"},
        ]),
    );
    let (asleep, mut asleep_node) = node("asleep", &["store"], false);
    asleep_node.running = false;
    let graph = Graph::new([
        (front, front_node),
        (asleep, asleep_node),
        node("cache", &["store"], true),
        node("store", &[], true),
        // What it needs is stopped already, so that it gets nothing by way of that any more.
        node("beyond", &["asleep"], true),
    ]);
    assert!(graph.breaks(&id("cache")).is_empty());
    assert_eq!(
        texts(&graph.breaks(&id("store"))),
        [vec!["front"], vec!["cache"]]
    );
    assert_eq!(texts(&graph.breaks(&id("asleep"))), [vec!["beyond"]]);
}

#[test]
fn around_an_agent_is_all_that_it_needs_and_nothing_else() {
    let all: BTreeMap<String, Node> = [
        node("a", &["b"], false),
        node("b", &["c"], false),
        node("c", &["a"], true),
        node("z", &["a"], true),
    ]
    .map(|(id, node)| (id.to_string(), node))
    .into();
    let graph = Graph::around(&all["a"].manifest, |id| all.get(id).cloned());
    assert_eq!(graph.0.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(graph.cycle(&id("a")).is_some());
}

proptest! {
    /// However agents need each other, every one is in exactly one wave, and whatever is in no circle and above none needs
    /// only agents of waves before its own; a stop names exactly those that reach the agent, each before what it needs.
    #[test]
    fn waves_hold_every_agent_once_and_after_all_that_it_needs(
        edges in prop::collection::vec((0_u8..9, 0_u8..9), 0..20)
    ) {
        let name = |no: u8| format!("a{no}");
        let agents = (0..9).map(|no| {
            let needs: BTreeSet<String> = edges
                .iter()
                .filter(|(from, to)| *from == no && from != to)
                .map(|(_, to)| name(*to))
                .collect();
            let needs: Vec<&str> = needs.iter().map(String::as_str).collect();
            node(&name(no), &needs, true)
        });
        let graph = Graph::new(agents);
        let waves = graph.waves();
        let mut place = BTreeMap::new();
        for (no, wave) in waves.iter().enumerate() {
            for agent in wave {
                prop_assert_eq!(place.insert(agent.to_string(), no), None);
            }
        }
        prop_assert_eq!(place.len(), 9);
        let circular: BTreeSet<&String> = graph.0.keys().filter(|a| graph.leads(a, a)).collect();
        for agent in graph.0.keys() {
            let held = circular.iter().any(|c| *c == agent || graph.leads(agent, c));
            for needed in graph.needed(agent) {
                prop_assert!(held || place[needed] < place[agent], "{agent} {needed}");
            }
            let breaks: Vec<AgentId> = graph.breaks(&id(agent)).into_iter().flatten().collect();
            for other in graph.0.keys().filter(|other| *other != agent) {
                let at = breaks.iter().filter(|found| found.as_str() == other).count();
                prop_assert_eq!(at == 1, graph.leads(other, agent), "{} {}", other, agent);
            }
            prop_assert_eq!(graph.cycle(&id(agent)).is_some(), circular.contains(agent));
        }
    }
}

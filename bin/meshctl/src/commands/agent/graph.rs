//! What agents need of each other, as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use mesh_messages::AgentId;
use mesh_messages::dependency::{DependencyGraph, DependencyNode};
use mesh_messages::manifest::DependencyType;

use crate::client::Request;
use crate::exit::Failure;
use crate::output::Screen;
use crate::session::Session;

/// Lines of a tree at most: agents that share what they need show it once for each of them.
const LINES_MAX: usize = 2000;

pub(super) const HELP: &str = "\
Each agent stands above what it needs; agents start from the bottom up and stop from the top down. What an agent waits
for is named. `-o json` gives all of it, with the waves in which agents start.

Examples:
  meshctl agent graph
  meshctl agent graph search
  meshctl agent graph --form mermaid
  meshctl agent graph --form dot | dot -Tsvg > agents.svg";

/// Which agents, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Graph {
    /// Only this agent and what it needs
    id: Option<AgentId>,
    /// How to show it: tree, mermaid or dot
    #[arg(long, value_name = "FORM", default_value = "tree", hide_possible_values = true,
          value_parser = ["tree", "mermaid", "dot"])]
    form: String,
}

pub(super) fn graph(arguments: &Graph, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "dependencies"]))?;
    session.out.show(&answer, || {
        let graph: DependencyGraph = answer.read()?;
        let drawn = Drawn::new(&graph, arguments.id.as_ref());
        let lines = match arguments.form.as_str() {
            "mermaid" => drawn.mermaid(),
            "dot" => drawn.dot(),
            _ => drawn.tree(),
        };
        let screen = Screen::new().named(drawn.agents.keys().copied());
        Ok(lines.into_iter().fold(screen, Screen::line))
    })
}

/// The agents to be drawn, by id.
struct Drawn<'a> {
    agents: BTreeMap<&'a str, &'a DependencyNode>,
    roots: Vec<&'a str>,
    cycles: &'a [Vec<AgentId>],
}

impl<'a> Drawn<'a> {
    fn new(graph: &'a DependencyGraph, only: Option<&'a AgentId>) -> Self {
        let all: BTreeMap<&str, &DependencyNode> =
            graph.agents.iter().map(|n| (n.id.as_str(), n)).collect();
        let Some(only) = only else {
            let mut roots: Vec<&str> = all
                .values()
                .filter(|node| node.needed_by.is_empty())
                .map(|node| node.id.as_str())
                .collect();
            // Nobody outside needs a circle: it is drawn from its first agent on.
            roots.extend(
                graph
                    .cycles
                    .iter()
                    .filter_map(|c| Some(c.first()?.as_str())),
            );
            let (agents, cycles) = (all, &graph.cycles[..]);
            return Self {
                agents,
                roots,
                cycles,
            };
        };
        let mut agents = BTreeMap::new();
        let mut open = vec![only.as_str()];
        while let Some(id) = open.pop() {
            let Some(node) = all.get(id).filter(|_| !agents.contains_key(id)) else {
                continue;
            };
            agents.insert(id, *node);
            open.extend(needed(node).map(|(name, _)| name));
        }
        Self {
            agents,
            roots: vec![only.as_str()],
            cycles: &[],
        }
    }

    fn tree(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for root in &self.roots {
            self.branch(root, "", &mut Vec::new(), &mut lines);
        }
        if lines.len() > LINES_MAX {
            lines.truncate(LINES_MAX);
            lines.push("… more than fits a screen; name an agent, or use -o json".to_owned());
        }
        if lines.is_empty() {
            lines.push("no agents".to_owned());
        }
        for cycle in self.cycles {
            let way: Vec<&str> = cycle.iter().map(AgentId::as_str).collect();
            lines.push(format!("circle: {}", way.join(" → ")));
        }
        lines
    }

    /// An agent, and below it what it needs. `above` is the way to it: a circle is not followed twice.
    fn branch(&self, id: &'a str, indent: &str, above: &mut Vec<&'a str>, lines: &mut Vec<String>) {
        if lines.len() > LINES_MAX {
            return;
        }
        let Some(node) = self.agents.get(id) else {
            return lines.push(format!("{indent}{id} (not registered)"));
        };
        let stands = match (node.ready, node.running) {
            (true, _) => "ready".to_owned(),
            (false, false) => "stopped".to_owned(),
            (false, true) if node.waiting_for.is_empty() => "not ready".to_owned(),
            (false, true) => {
                let waits: Vec<String> = node.waiting_for.iter().map(ToString::to_string).collect();
                format!("waits: {}", waits.join(", "))
            }
        };
        lines.push(format!("{indent}{id} {} ({stands})", node.version));
        if above.contains(&id) {
            return;
        }
        above.push(id);
        let deeper = format!("{indent}  ");
        for (name, required) in needed(node) {
            if required || self.agents.contains_key(name) {
                self.branch(name, &deeper, above, lines);
            } else {
                lines.push(format!("{deeper}{name} (not registered, optional)"));
            }
        }
        above.pop();
    }

    /// All agents that are named, whether or not they are there.
    fn names(&self) -> BTreeSet<&str> {
        let needs = self.agents.values().flat_map(|node| needed(node));
        let needs = needs.map(|(name, _)| name);
        self.agents.keys().copied().chain(needs).collect()
    }

    fn mermaid(&self) -> Vec<String> {
        let mut lines = vec!["flowchart TD".to_owned()];
        let names: Vec<&str> = self.names().into_iter().collect();
        let place = |name: &str| names.iter().position(|other| *other == name).unwrap_or(0);
        for (no, name) in names.iter().enumerate() {
            let missing = if self.agents.contains_key(name) {
                ""
            } else {
                " (not registered)"
            };
            lines.push(format!("  n{no}[\"{}{missing}\"]", quoted(name, "#quot;")));
        }
        for node in self.agents.values() {
            for (name, required) in needed(node) {
                let arrow = if required { "-->" } else { "-.->" };
                let (from, to) = (place(node.id.as_str()), place(name));
                lines.push(format!("  n{from} {arrow} n{to}"));
            }
        }
        lines
    }

    fn dot(&self) -> Vec<String> {
        let mut lines = vec!["digraph agents {".to_owned()];
        for name in self.names() {
            let mut line = format!("  \"{}\"", quoted(name, "\\\""));
            if !self.agents.contains_key(name) {
                // Writing to a string does not fail.
                let _written = write!(line, " [style=dashed]");
            }
            lines.push(format!("{line};"));
        }
        for node in self.agents.values() {
            for (name, required) in needed(node) {
                let (from, to) = (node.id.as_str(), quoted(name, "\\\""));
                let style = if required { "" } else { " [style=dotted]" };
                lines.push(format!("  \"{from}\" -> \"{to}\"{style};"));
            }
        }
        lines.push("}".to_owned());
        lines
    }
}

/// The agents that an agent names, and whether each is required.
fn needed(node: &DependencyNode) -> impl Iterator<Item = (&str, bool)> {
    let agents = node.needs.iter();
    let agents = agents.filter(|need| need.kind == DependencyType::Agent);
    agents.map(|need| (need.name.as_str(), need.required))
}

/// A name within quotation marks. One that no agent can have may still stand in a manifest.
fn quoted(name: &str, mark: &str) -> String {
    let plain = name.chars().filter(|c| !c.is_control() && *c != '\\');
    plain.collect::<String>().replace('"', mark)
}

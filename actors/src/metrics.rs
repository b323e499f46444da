//! Counters and histograms, under the names of the documentation.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use mesh_messages::AgentId;
use mesh_messages::quality::Quality;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper edges of durations, in seconds: from a hundred microseconds to ten minutes.
const SECONDS: [f64; 16] = [
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0,
    600.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAgent {
    agent: String,
}

/// All metrics of this node. What can be read from the state is set when it is asked for; the rest is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    tasks_total: Gauge,
    tasks_completed: Gauge,
    tasks_failed: Gauge,
    success_rate: Gauge<f64, AtomicU64>,
    routing: Histogram,
    completion: Histogram,
    starts: Counter,
    refused: Family<Kind, Counter>,
    egress_denied: Family<Kind, Counter>,
    egress_opened: Counter,
    gates: Family<State, Counter>,
    budgets: Family<State, Counter>,
    agents: Family<State, Gauge>,
    tasks: Family<State, Gauge>,
    verified: Family<OfAgent, Gauge>,
    passed_first: Family<OfAgent, Gauge>,
    passed: Family<OfAgent, Gauge>,
    journal_records: Gauge,
    // The same refusals in plain numbers, for `/status`.
    refused_by_kind: Mutex<BTreeMap<&'static str, u64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let histogram = || Histogram::new(SECONDS);
        let metrics = Self {
            tasks_total: Gauge::default(),
            tasks_completed: Gauge::default(),
            tasks_failed: Gauge::default(),
            success_rate: Gauge::default(),
            routing: histogram(),
            completion: histogram(),
            starts: Counter::default(),
            refused: Family::default(),
            egress_denied: Family::default(),
            egress_opened: Counter::default(),
            gates: Family::default(),
            budgets: Family::default(),
            agents: Family::default(),
            tasks: Family::default(),
            verified: Family::default(),
            passed_first: Family::default(),
            passed: Family::default(),
            journal_records: Gauge::default(),
            refused_by_kind: Mutex::default(),
            registry: Mutex::default(),
        };
        registry.register(
            "tasks_total",
            "Tasks that were accepted",
            metrics.tasks_total.clone(),
        );
        registry.register(
            "tasks_completed",
            "Tasks that ended well",
            metrics.tasks_completed.clone(),
        );
        registry.register(
            "tasks_failed",
            "Tasks that failed for good or were dead-lettered; cancelled ones are neither",
            metrics.tasks_failed.clone(),
        );
        registry.register(
            "tasks_success_rate",
            "Share of tasks_completed in tasks_completed and tasks_failed; 1 while both are 0",
            metrics.success_rate.clone(),
        );
        registry.register(
            "task_routing_duration",
            "Seconds from acceptance to the first assignment",
            metrics.routing.clone(),
        );
        registry.register(
            "task_completion_duration",
            "Seconds from acceptance to the end",
            metrics.completion.clone(),
        );
        registry.register(
            "agent_starts",
            "Starts of instances",
            metrics.starts.clone(),
        );
        registry.register(
            "messages_refused",
            "Stale or malformed messages",
            metrics.refused.clone(),
        );
        registry.register(
            "egress_denied",
            "Connections of agents to the outside that did not go through, by the reason's code",
            metrics.egress_denied.clone(),
        );
        registry.register(
            "egress_connections",
            "Connections of agents to the outside",
            metrics.egress_opened.clone(),
        );
        registry.register(
            "provider_gate_moves",
            "Moves of the gates before providers' accounts, by the state that followed",
            metrics.gates.clone(),
        );
        registry.register(
            "budget_moves",
            "What happened to accounts of budgets: reserved, told, settled, exhausted, raised",
            metrics.budgets.clone(),
        );
        registry.register("agents", "Agents by status", metrics.agents.clone());
        registry.register("tasks_by_state", "Tasks by state", metrics.tasks.clone());
        metrics.register_quality(&mut registry);
        registry.register(
            "journal_records",
            "Durable records",
            metrics.journal_records.clone(),
        );
        Self {
            registry: Mutex::new(registry),
            ..metrics
        }
    }
}

impl Metrics {
    fn register_quality(&self, registry: &mut Registry) {
        registry.register(
            "tasks_verified",
            "Tasks at which an agent handed in a result that was verified: by checks, or by an output schema",
            self.verified.clone(),
        );
        registry.register(
            "tasks_verified_passed_first",
            "Those at which the agent's first result passed",
            self.passed_first.clone(),
        );
        registry.register(
            "tasks_verified_passed",
            "Those at which one of the agent's results passed in the end",
            self.passed.clone(),
        );
    }

    /// A task was assigned for the first time, this long after it was accepted.
    pub fn routed(&self, seconds: f64) {
        self.routing.observe(seconds);
    }
    /// A task ended, this long after it was accepted.
    pub fn ended(&self, seconds: f64) {
        self.completion.observe(seconds);
    }
    /// An instance is being started.
    pub fn started(&self) {
        self.starts.inc();
    }
    /// A message was refused.
    pub fn refused(&self, kind: &'static str) {
        self.refused
            .get_or_create(&Kind {
                kind: kind.to_owned(),
            })
            .inc();
        *self
            .refused_by_kind
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(kind)
            .or_default() += 1;
    }
    /// An agent was not let out.
    pub fn egress_denied(&self, kind: &'static str) {
        let kind = kind.to_owned();
        self.egress_denied.get_or_create(&Kind { kind }).inc();
    }
    /// An agent was let out.
    pub fn egress_opened(&self) {
        self.egress_opened.inc();
    }
    /// The gate before a provider's account moved.
    pub fn gate_moved(&self, state: &'static str) {
        let state = state.to_owned();
        self.gates.get_or_create(&State { state }).inc();
    }
    /// Something happened to an account of a budget.
    pub fn budget_moved(&self, state: &'static str) {
        let state = state.to_owned();
        self.budgets.get_or_create(&State { state }).inc();
    }
    /// How good each agent's verified results are.
    pub fn set_quality(&self, agents: impl IntoIterator<Item = (AgentId, Quality)>) {
        let set = |family: &Family<OfAgent, Gauge>, agent: &AgentId, count: u64| {
            let agent = agent.to_string();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            family.get_or_create(&OfAgent { agent }).set(count);
        };
        for (agent, quality) in agents {
            set(&self.verified, &agent, quality.verified);
            set(&self.passed_first, &agent, quality.passed_first);
            set(&self.passed, &agent, quality.passed);
        }
    }
    /// Refusals since the start, by kind.
    pub fn refusals(&self) -> BTreeMap<String, u64> {
        let kinds = self
            .refused_by_kind
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        kinds.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect()
    }
    /// The whole registry as Prometheus text, after setting what is read from the state.
    pub fn render(
        &self,
        agents: &BTreeMap<String, u64>,
        tasks: &BTreeMap<String, u64>,
        records: u64,
    ) -> String {
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        for (family, counts) in [(&self.agents, agents), (&self.tasks, tasks)] {
            for (state, count) in counts {
                family
                    .get_or_create(&State {
                        state: state.clone(),
                    })
                    .set(gauge(*count));
            }
        }
        let of = |state: &str| gauge(tasks.get(state).copied().unwrap_or(0));
        // Taken from the table itself, so that they agree with it also after a restart.
        self.tasks_total.set(gauge(tasks.values().sum()));
        let completed = of("succeeded");
        let failed = of("failed").saturating_add(of("dead_lettered"));
        self.tasks_completed.set(completed);
        self.tasks_failed.set(failed);
        self.success_rate.set(success_rate(completed, failed));
        self.journal_records.set(gauge(records));
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail.
        let _infallible = encode(&mut text, &registry);
        text
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn success_rate(completed: i64, failed: i64) -> f64 {
    match completed.saturating_add(failed) {
        0 => 1.0,
        ended => completed as f64 / ended as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_the_rate_of_success_are_those_of_the_table() {
        let tasks = [
            ("succeeded", 6),
            ("failed", 1),
            ("dead_lettered", 1),
            ("cancelled", 3),
            ("queued", 4),
        ];
        let tasks = tasks.map(|(state, n)| (state.to_owned(), n)).into();
        let text = Metrics::default().render(&BTreeMap::new(), &tasks, 9);
        let lines: Vec<&str> = text.lines().collect();
        for line in [
            "tasks_total 15",
            "tasks_completed 6",
            "tasks_failed 2",
            "tasks_success_rate 0.75",
            "journal_records 9",
        ] {
            assert!(lines.contains(&line), "{line} is not in:\n{text}");
        }
    }
}

//! What tests ask of a running daemon again and again.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::daemon::Daemon;
use crate::http::Client;
use crate::wait::eventually;

/// Time for an agent to be ready: an interpreter's start, several at once.
const AGENT_READY_MAX: Duration = Duration::from_secs(30);
/// The states after which nothing follows.
const TERMINAL: [&str; 4] = ["succeeded", "failed", "cancelled", "dead_lettered"];

impl Daemon {
    /// Deploys an agent and waits until all its instances serve.
    #[track_caller]
    pub fn deploy(&self, bundle: &Bundle) {
        self.register(bundle);
        let wanted = bundle.manifest()["replicas"].as_u64().unwrap_or(1);
        self.executing(bundle.id(), wanted, AGENT_READY_MAX);
    }

    /// Waits until this many instances of an agent serve.
    #[track_caller]
    pub fn executing(&self, agent: &str, wanted: u64, within: Duration) {
        eventually(&format!("{agent} is ready"), within, || {
            let status = self.status(agent);
            if executing(&status) == wanted {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    }

    /// Registers an agent, which starts it, and does not wait for it.
    #[track_caller]
    pub fn register(&self, bundle: &Bundle) -> Value {
        let tar = bundle.tar();
        self.client()
            .send(
                "POST",
                "/v1/agents",
                &[("content-type", "application/x-tar")],
                Some(&tar),
            )
            .ok(201)
    }

    /// An agent's status.
    #[track_caller]
    pub fn status(&self, agent: &str) -> Value {
        self.client()
            .get(&format!("/v1/agents/{agent}/status"))
            .ok(200)
    }

    /// Waits until an agent's fault policy is in this state; returns its status.
    #[track_caller]
    pub fn fault_state(&self, agent: &str, state: &str, within: Duration) -> Value {
        eventually(&format!("{agent} is {state}"), within, || {
            let status = self.status(agent);
            if status["fault"]["state"] == state {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
    }

    /// Waits until no instance of an agent is left; returns its status.
    #[track_caller]
    pub fn gone(&self, agent: &str, within: Duration) -> Value {
        eventually(&format!("no instance of {agent} is left"), within, || {
            let status = self.status(agent);
            if status["instances"] == json!([]) {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
    }

    /// Submits a task and returns its id.
    #[track_caller]
    pub fn submit(&self, task: &Value) -> String {
        let receipt = self.client().post("/v1/tasks", task).ok(202);
        receipt["id"]
            .as_str()
            .expect("a receipt names its task")
            .to_owned()
    }

    /// Submits a task for the agent with this capability.
    #[track_caller]
    pub fn ask(&self, capability: &str, input: &Value) -> String {
        self.submit(&json!({"requirements": [capability], "input": input}))
    }

    /// A task as it is.
    #[track_caller]
    pub fn task(&self, id: &str) -> Value {
        self.client().get(&format!("/v1/tasks/{id}")).ok(200)
    }

    /// Waits until a task is in this state; returns it.
    #[track_caller]
    pub fn task_state(&self, id: &str, state: &str, within: Duration) -> Value {
        eventually(&format!("task {id} is {state}"), within, || {
            let task = self.task(id);
            if task["state"] == state {
                Ok(task)
            } else {
                Err(task.to_string())
            }
        })
    }

    /// Waits for the end of a task and returns it.
    #[track_caller]
    pub fn ended(&self, id: &str, within: Duration) -> Value {
        eventually(&format!("task {id} has ended"), within, || {
            let task = self
                .client()
                .get(&format!("/v1/tasks/{id}?wait=1s"))
                .ok(200);
            let state = task["state"].as_str().unwrap_or_default();
            if TERMINAL.contains(&state) {
                Ok(task)
            } else {
                Err(task.to_string())
            }
        })
    }

    /// Submits a task, waits for its success and returns the output.
    #[track_caller]
    pub fn output(&self, capability: &str, input: &Value) -> Value {
        let id = self.ask(capability, input);
        let task = self.ended(&id, Duration::from_secs(30));
        assert_eq!(task["state"], "succeeded", "{task}");
        task["output"].clone()
    }

    /// Audit records of one kind, oldest first.
    #[track_caller]
    pub fn audit(&self, query: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self
                .client()
                .get(&format!("/v1/audit?limit=1000&{query}{cursor}"))
                .ok(200);
            all.extend(page["items"].as_array().expect("a page").iter().cloned());
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    }

    /// A client with a token of this role, made out to this subject.
    #[track_caller]
    pub fn of_role(&self, role: &str, subject: &str) -> Client {
        let body = json!({"role": role, "subject": subject});
        let issued = self.client().post("/v1/tokens", &body).ok(201);
        self.client().with_token(issued["token"].as_str())
    }

    /// What waits for a person.
    #[track_caller]
    pub fn inbox(&self) -> Vec<Value> {
        let page = self.client().get("/v1/inbox").ok(200);
        page["items"].as_array().expect("a page").clone()
    }

    /// The one request to a person that is open, once there is one.
    #[track_caller]
    pub fn asked(&self, within: Duration) -> Value {
        eventually("a person is asked", within, || match &self.inbox()[..] {
            [one] => Ok(one.clone()),
            other => Err(format!("{other:?}")),
        })
    }
}

/// Instances that serve.
fn executing(status: &Value) -> u64 {
    let instances = status["instances"]
        .as_array()
        .map_or(&[] as &[Value], Vec::as_slice);
    instances
        .iter()
        .filter(|instance| instance["lifecycle"] == "executing")
        .count() as u64
}

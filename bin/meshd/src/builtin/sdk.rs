//! Everything an agent needs to speak KLP on its standard input and output: read a line, write a line.

use std::io::{self, BufRead, Write};

use serde_json::{Value, json};

/// A task as the agent gets it.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) task_id: String,
    pub(super) input: Value,
}

/// What an agent does with what it is told.
pub(super) trait Agent {
    /// Its name and capabilities, for the handshake.
    fn profile(&self) -> (&'static str, &'static [&'static str]);
    /// It got a task. The answer may come later, by [`Out::succeed`] or [`Out::fail`].
    fn on_task(&mut self, job: Job, out: &mut Out) -> io::Result<()>;
    /// A task that it had delegated under `request` has ended.
    fn on_reply(
        &mut self,
        _request: &str,
        _result: Result<Value, String>,
        _out: &mut Out,
    ) -> io::Result<()> {
        Ok(())
    }
    /// A task was cancelled; no answer to it is wanted any more.
    fn on_cancel(&mut self, _task_id: &str) {}
}

/// The agent's side of the channel.
#[derive(Debug)]
pub(super) struct Out {
    stdout: io::Stdout,
}

impl Out {
    fn line(&mut self, message: &Value) -> io::Result<()> {
        let mut lock = self.stdout.lock();
        serde_json::to_writer(&mut lock, message)?;
        lock.write_all(b"\n")?;
        lock.flush()
    }

    /// Ends a task well.
    pub(super) fn succeed(&mut self, task_id: &str, output: &Value) -> io::Result<()> {
        self.line(&json!({"type": "TASK_RESULT", "task_id": task_id, "payload": {"ok": true, "output": output}}))
    }

    /// Ends a task badly.
    pub(super) fn fail(&mut self, task_id: &str, class: &str, message: &str) -> io::Result<()> {
        let error = json!({"class": class, "message": message, "retryable": class != "refusal"});
        self.line(&json!({"type": "TASK_RESULT", "task_id": task_id, "payload": {"ok": false, "error": error}}))
    }

    /// Says how far it is.
    pub(super) fn progress(&mut self, task_id: &str, fraction: f64, note: &str) -> io::Result<()> {
        let payload = json!({"progress": fraction, "note": note});
        self.line(&json!({"type": "STATUS_UPDATE", "task_id": task_id, "payload": payload}))
    }

    /// Asks the mesh to have something done for a task; the answer comes to [`Agent::on_reply`].
    pub(super) fn delegate(
        &mut self,
        parent: &str,
        request: &str,
        requirement: &str,
        input: &Value,
    ) -> io::Result<()> {
        let payload = json!({"requirements": [requirement], "input": input});
        self.line(
            &json!({"type": "TASK_REQUEST", "id": request, "task_id": parent, "payload": payload}),
        )
    }
}

/// Writes a line to the agent's log.
pub(super) fn log(text: &str) {
    // A log that nobody reads any more is no reason to fail.
    let _lost = writeln!(io::stderr(), "{text}");
}

/// Shakes hands, then serves until the input ends or a shutdown is ordered.
pub(super) fn serve(agent: &mut dyn Agent) -> io::Result<()> {
    let mut out = Out {
        stdout: io::stdout(),
    };
    let (name, capabilities) = agent.profile();
    out.line(&json!({"type": "HANDSHAKE", "payload": {
        "name": name, "version": env!("CARGO_PKG_VERSION"), "capabilities": capabilities, "hooks": []
    }}))?;
    for line in io::stdin().lock().lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else {
            continue;
        };
        let payload = &message["payload"];
        let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str() {
            Some("TASK_REQUEST") => {
                let job = Job {
                    task_id: text("task_id"),
                    input: payload["input"].clone(),
                };
                agent.on_task(job, &mut out)?;
            }
            Some("TASK_RESULT") => {
                let result = if payload["ok"] == json!(true) {
                    Ok(payload["output"].clone())
                } else {
                    Err(payload["error"]["message"]
                        .as_str()
                        .unwrap_or("failed")
                        .to_owned())
                };
                agent.on_reply(&text("in_reply_to"), result, &mut out)?;
            }
            Some("CONTROL") if payload["verb"] == json!("shutdown") => return Ok(()),
            Some("CONTROL") if payload["verb"] == json!("cancel") => {
                agent.on_cancel(&text("task_id"));
            }
            Some("ERROR") => log(&format!("meshd says: {payload}")),
            // Later kinds of messages are none of its business.
            _ => {}
        }
    }
    Ok(())
}

//! Following the event stream.

use serde_json::json;

use crate::run::Meshctl;
use crate::stub::{Reply, Stub};

fn event(id: u64) -> String {
    let data = json!({ "id": id, "topic": "agent.echo.started", "time": "2026-01-02T03:04:05Z", "data": { "n": id } });
    format!("id: {id}\ndata: {data}\n\n")
}

#[test]
fn an_interrupted_stream_resumes_where_it_ended() {
    let stub = Stub::new(|_, before| match before {
        0 => Reply::Text("text/event-stream", event(1) + ": ping\nid: 4\n\n"),
        1 => Reply::Lost,
        _ => Reply::Text("text/event-stream", event(5) + &event(6)),
    });
    let ran = Meshctl::at(&stub.url).run(&[
        "events", "--topic", "agent.*", "--since", "0", "--count", "2",
    ]);
    assert_eq!(ran.code, 0);
    assert_eq!(
        ran.out,
        "2026-01-02T03:04:05.000Z agent.echo.started {\"n\":1}\n2026-01-02T03:04:05.000Z agent.echo.started {\"n\":5}\n"
    );
    let after: Vec<_> = stub
        .seen()
        .iter()
        .map(|seen| seen.header("last-event-id").map(str::to_owned))
        .collect();
    assert_eq!(
        after,
        [Some("0".into()), Some("4".into()), Some("4".into())]
    );
    assert_eq!(stub.seen()[0].target, "/v1/events?topic=agent.%2A");
}

#[test]
fn events_are_lines_of_json() {
    let stub = Stub::new(|_, _| Reply::Text("text/event-stream", event(1)));
    let ran = Meshctl::at(&stub.url).run(&["events", "--count", "1", "-o", "json"]);
    assert_eq!(
        (ran.json()["topic"].as_str(), ran.out.lines().count()),
        (Some("agent.echo.started"), 1)
    );
}

#[test]
fn a_refused_stream_is_a_failure() {
    let stub = Stub::new(|_, _| Reply::Problem(403, "forbidden"));
    assert_eq!(Meshctl::at(&stub.url).run(&["events"]).code, 4);
}

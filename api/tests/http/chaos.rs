//! Blows over HTTP: what is read, what is refused before anything is asked of the mesh.

use crate::fake::Fake;
use crate::support::ask;

#[tokio::test]
async fn a_blow_is_handed_on_as_it_was_ordered_and_answered_with_what_was_done() {
    let fake = Fake::new();
    let order = r#"{"action":"pause","agent":"echo","instance":1,"durationMs":1500}"#;
    let answer = ask("POST", "/v1/chaos").json(order).send(&fake).await;
    let blow = &answer.answered(200)["blow"];
    assert_eq!(blow["target"]["agent"], "echo");
    assert_eq!(blow["durationMs"], 1500);
    let calls = fake.calls();
    assert_eq!(calls[0], "authorize chaos /v1/chaos");
    assert!(
        calls[1].contains("action: Pause") && calls[1].contains("InstanceNo(1)"),
        "{calls:?}"
    );
}

#[tokio::test]
async fn an_order_beyond_its_bounds_is_refused_before_the_mesh_is_asked() {
    let fake = Fake::new();
    for (order, code, field) in [
        (r#"{"agent":"echo"}"#, "missing_field", "action"),
        (
            r#"{"action":"explode","agent":"echo"}"#,
            "invalid_value",
            "action",
        ),
        (
            r#"{"action":"kill","host":"echo"}"#,
            "unknown_field",
            "host",
        ),
        (
            r#"{"action":"hang","agent":"echo","durationMs":300001}"#,
            "invalid_value",
            "durationMs",
        ),
        (
            r#"{"action":"flood","agent":"echo","lines":0}"#,
            "invalid_value",
            "lines",
        ),
    ] {
        let answer = ask("POST", "/v1/chaos").json(order).send(&fake).await;
        answer.refused(422, code, Some(field));
    }
    assert!(fake.calls().iter().all(|call| !call.starts_with("strike")));
}

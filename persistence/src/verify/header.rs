//! A record's header as far as it is compared, its texts where they stand: nearly all records need no more of it.

use std::borrow::Cow;

use mesh_messages::{AgentId, Position, TaskId, Timestamp};
use serde::Deserialize;

/// Whatever is no `RecordHeader` is none of these, and the other way round.
#[derive(Deserialize)]
pub(super) struct Header<'a> {
    pub(super) v: u16,
    #[serde(borrow, rename = "ns")]
    _ns: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) log: Cow<'a, str>,
    pub(super) position: Position,
    #[serde(borrow)]
    pub(super) partition: Cow<'a, str>,
    pub(super) seq: u64,
    pub(super) time: Timestamp,
    pub(super) lc: u32,
    #[serde(borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(rename = "kv")]
    _kv: u16,
    #[serde(default)]
    pub(super) agent: Option<AgentId>,
    #[serde(default, rename = "task")]
    _task: Option<TaskId>,
    #[serde(borrow, rename = "actor")]
    _actor: Cow<'a, str>,
    #[serde(default, rename = "cause")]
    _cause: Option<Position>,
    #[serde(borrow, default, rename = "correlation")]
    _correlation: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) payload: Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use mesh_messages::RecordHeader;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::Header;

    fn whole() -> Value {
        json!({
            "v": 1, "ns": "default", "log": "did:key:z6Mk", "position": 7, "partition": "tasks/0", "seq": 3,
            "time": "2026-01-02T03:04:05.678Z", "lc": 1, "kind": "task.submitted", "kv": 1, "agent": "echo", "task": "t1",
            "actor": "user:ada", "cause": 6, "correlation": "c", "payload": "sha256:00",
        })
    }

    fn same(text: &str) -> Result<(), TestCaseError> {
        let (full, view) = (
            serde_json::from_str::<RecordHeader>(text),
            serde_json::from_str::<Header<'_>>(text),
        );
        match (full, view) {
            (Ok(full), Ok(view)) => {
                prop_assert_eq!(view.v, full.v);
                prop_assert_eq!(view.log, full.log);
                prop_assert_eq!(view.position, full.position);
                prop_assert_eq!(&*view.partition, full.partition.as_str());
                prop_assert_eq!(
                    (view.seq, view.time, view.lc),
                    (full.seq, full.time, full.lc)
                );
                prop_assert_eq!(view.kind, full.kind);
                prop_assert_eq!(view.agent, full.agent);
                prop_assert_eq!(view.payload, full.payload);
            }
            (Err(_), Err(_)) => {}
            (full, view) => prop_assert!(false, "{text}: {:?} {:?}", full.err(), view.err()),
        }
        Ok(())
    }

    fn value() -> impl Strategy<Value = Value> {
        let some = [
            json!(null),
            json!(""),
            json!("x \"quoted\" \u{1F600}\n"),
            json!(-1),
            json!(65_536),
            json!(1.5),
            json!([]),
            json!({}),
            json!(u64::MAX),
            json!("2026-01-02T03:04:05Z"),
        ];
        prop::sample::select(some.to_vec())
    }

    proptest! {
        #[test]
        fn it_takes_what_a_header_is_and_nothing_else(at in 0usize..17, value in value(), drop in any::<bool>()) {
            let mut header = whole();
            same(&header.to_string())?;
            let members = header.as_object_mut().unwrap();
            let name = members.keys().nth(at).cloned().unwrap_or_else(|| "another".to_owned());
            if drop {
                members.remove(&name);
            } else {
                members.insert(name.clone(), value.clone());
            }
            same(&header.to_string())?;
            let twice = whole().to_string().replacen('{', &format!("{{\"{name}\":{value},"), 1);
            same(&twice)?;
        }
    }
}

//! The log as JSON lines: `time`, `level`, `target`, `message`, and whatever the event and the spans around it say, such
//! as `agent`, `task` and `epoch`, all at the top.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// The format.
#[derive(Debug)]
pub(super) struct Lines;

impl<S> FormatEvent<S, JsonFields> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Map::new();
        // From the outermost span inwards: what is nearer to the event wins.
        for span in ctx
            .event_scope()
            .into_iter()
            .flat_map(tracing_subscriber::registry::Scope::from_root)
        {
            let extensions = span.extensions();
            let told = extensions.get::<FormattedFields<JsonFields>>();
            if let Some(Ok(Value::Object(told))) =
                told.map(|told| serde_json::from_str(&told.fields))
            {
                fields.extend(told);
            }
        }
        event.record(&mut Fields(&mut fields));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = now.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        });
        let meta = event.metadata();
        let own = [
            (
                "time",
                mesh_messages::Timestamp::from_millis(millis).to_string(),
            ),
            ("level", meta.level().as_str().to_ascii_lowercase()),
            ("target", meta.target().to_owned()),
        ];
        let mut line: Map<String, Value> = own
            .into_iter()
            .map(|(name, text)| (name.to_owned(), Value::from(text)))
            .collect();
        for (name, value) in fields {
            // A field of the event never passes for one of ours.
            let taken = line.contains_key(&name);
            line.insert(if taken { format!("{name}_") } else { name }, value);
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(
            field.name().trim_start_matches("r#").to_owned(),
            value.into(),
        );
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        self.set(field, text);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> Vec<Value> {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(Lines)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = buffer.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn agent_task_and_epoch_of_the_spans_around_stand_at_the_top() {
        let lines = logged(|| {
            let _agent = tracing::info_span!("agent", agent = "a", epoch = 3).entered();
            let _task = tracing::info_span!("attempt", task = "t1", epoch = 4).entered();
            tracing::warn!(count = 2_u64, "it \"fell\"\nover");
        });
        let line = &lines[0];
        assert_eq!(line["level"], "warn");
        assert_eq!(line["message"], "it \"fell\"\nover");
        assert_eq!((&line["agent"], &line["task"]), (&json!("a"), &json!("t1")));
        assert_eq!((&line["epoch"], &line["count"]), (&json!(4), &json!(2)));
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    #[test]
    fn a_field_cannot_pass_for_the_level() {
        let lines = logged(|| tracing::info!(level = "error", "x"));
        assert_eq!(
            (&lines[0]["level"], &lines[0]["level_"]),
            (&json!("info"), &json!("error"))
        );
    }
}

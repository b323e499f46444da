//! Traces and metrics over OTLP/HTTP, in batches, from threads of their own.

use std::sync::Arc;
use std::time::Duration;

use mesh_actors::Operations;
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, Protocol, SpanExporter, WithExportConfig,
};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

/// How long one export may take. A collector that is slower is as good as gone, and the end of meshd waits for one.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often metrics are sent, and read before that.
const METRICS_EVERY: Duration = Duration::from_secs(10);
/// The start of the targets of our own crates; the exporter's own traffic is not traced.
const OURS: &str = "mesh";

/// Why no exporter could be made.
pub(crate) type ExportError = ExporterBuildError;

/// What is said of this process with everything that is sent.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    /// The node's name for people, or its key.
    pub(crate) node: String,
}

/// The way out, or none.
#[derive(Debug)]
pub(crate) struct Export(Option<Providers>);

#[derive(Debug)]
struct Providers {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

impl Export {
    /// Sends nothing.
    pub(crate) const fn off() -> Self {
        Self(None)
    }

    /// Sends to the collector at `endpoint`, such as `http://127.0.0.1:4318`.
    pub(crate) fn to(endpoint: &str, resource: Resource) -> Result<Self, ExportError> {
        let base = endpoint.trim_end_matches('/');
        let resource = opentelemetry_sdk::Resource::builder()
            .with_service_name("meshd")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", resource.node))
            .build();
        let spans = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{base}/v1/traces"))
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let metrics = MetricExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{base}/v1/metrics"))
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let reader = PeriodicReader::builder(metrics)
            .with_interval(METRICS_EVERY)
            .build();
        Ok(Self(Some(Providers {
            traces: SdkTracerProvider::builder()
                .with_batch_exporter(spans)
                .with_resource(resource.clone())
                .build(),
            metrics: SdkMeterProvider::builder()
                .with_reader(reader)
                .with_resource(resource)
                .build(),
        })))
    }

    /// What hands spans over.
    pub(super) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let tracer = self.0.as_ref()?.traces.tracer("meshd");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        Some(layer.with_filter(Targets::new().with_target(OURS, LevelFilter::DEBUG)))
    }

    /// Reads the mesh's numbers every [`METRICS_EVERY`], for as long as it is polled. Without a collector it only waits.
    pub(crate) async fn measure(&self, operations: Arc<dyn Operations>) {
        let Some(providers) = &self.0 else {
            return std::future::pending().await;
        };
        let gauges = Gauges::new(&providers.metrics);
        loop {
            if let Ok(status) = operations.status().await {
                gauges.agents(&status.agents);
                gauges.tasks(&status.tasks);
                gauges.journal.record(status.journal.records, &[]);
            }
            tokio::time::sleep(METRICS_EVERY).await;
        }
    }

    /// Sends what is left. Blocks for at most a few seconds; call it when no runtime is left.
    pub(crate) fn flush(self) {
        let Some(providers) = self.0 else { return };
        let ends = [
            (
                "traces",
                providers.traces.shutdown_with_timeout(EXPORT_TIMEOUT),
            ),
            (
                "metrics",
                providers.metrics.shutdown_with_timeout(EXPORT_TIMEOUT),
            ),
        ];
        for (what, end) in ends {
            if let Err(error) = end {
                tracing::warn!(%error, "the last {what} were not exported");
            }
        }
    }
}

/// Under the names that `/metrics` uses.
struct Gauges {
    agents: opentelemetry::metrics::Gauge<u64>,
    tasks: opentelemetry::metrics::Gauge<u64>,
    journal: opentelemetry::metrics::Gauge<u64>,
}

impl Gauges {
    fn new(provider: &SdkMeterProvider) -> Self {
        let meter = provider.meter("meshd");
        let gauge = |name: &'static str, description: &'static str| {
            meter.u64_gauge(name).with_description(description).build()
        };
        Self {
            agents: gauge("agents", "Agents by status"),
            tasks: gauge("tasks_by_state", "Tasks by state"),
            journal: gauge("journal_records", "Durable records"),
        }
    }

    fn agents(&self, counts: &std::collections::BTreeMap<String, u64>) {
        by_state(&self.agents, counts);
    }

    fn tasks(&self, counts: &std::collections::BTreeMap<String, u64>) {
        by_state(&self.tasks, counts);
    }
}

fn by_state(
    gauge: &opentelemetry::metrics::Gauge<u64>,
    counts: &std::collections::BTreeMap<String, u64>,
) {
    for (state, count) in counts {
        gauge.record(*count, &[KeyValue::new("state", state.clone())]);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// A collector that answers every request and says which path got how many bytes.
    fn collector() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (sender, received) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (sender, mut stream) = (sender.clone(), stream.unwrap());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let mut line = String::new();
                    while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                        let mut length = 0;
                        line.clear();
                        while reader.read_line(&mut line).is_ok() && line.trim() != "" {
                            if let Some(value) = line.to_lowercase().strip_prefix("content-length:")
                            {
                                length = value.trim().parse().unwrap();
                            }
                            line.clear();
                        }
                        line.clear();
                        let mut body = vec![0; length];
                        reader.read_exact(&mut body).unwrap();
                        sender.send((path, body)).unwrap();
                        stream
                            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                            .unwrap();
                    }
                });
            }
        });
        (endpoint, received)
    }

    fn trace_and_measure(export: &Export) {
        let subscriber = tracing_subscriber::registry().with(export.layer());
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!(target: "mesh_test", "a_span_of_ours", agent = "a");
            span.in_scope(|| tracing::info!(target: "mesh_test", "inside"));
            tracing::info_span!(target: "hyper", "a_span_of_others").in_scope(|| ());
        });
        let gauges = Gauges::new(&export.0.as_ref().unwrap().metrics);
        gauges.tasks(&BTreeMap::from([("queued".to_owned(), 7)]));
    }

    #[test]
    fn spans_of_ours_and_metrics_reach_the_collector_by_the_end() {
        let (endpoint, received) = collector();
        let export = Export::to(
            &endpoint,
            Resource {
                node: "node-1".to_owned(),
            },
        )
        .unwrap();
        trace_and_measure(&export);
        export.flush();
        let sent: BTreeMap<String, Vec<u8>> = received.try_iter().collect();
        let holds = |path: &str, text: &str| {
            sent[path]
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        assert!(holds("/v1/traces", "a_span_of_ours"));
        assert!(!holds("/v1/traces", "a_span_of_others"));
        assert!(holds("/v1/traces", "node-1"));
        assert!(holds("/v1/metrics", "tasks_by_state"));
    }

    #[test]
    fn a_collector_that_is_not_there_harms_nobody() {
        let gone = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let export = Export::to(
            &format!("http://{gone}/"),
            Resource {
                node: "n".to_owned(),
            },
        )
        .unwrap();
        trace_and_measure(&export);
        export.flush();
    }
}

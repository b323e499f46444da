//! Logs to standard error; traces and metrics to an OTLP collector when one is named.
//!
//! Nothing here can harm what meshd is for: a log that cannot be written is lost, an export that fails is dropped.

use std::io::{self, IsTerminal};

use mesh_config::{LogFormat, TelemetryConfig};
use tracing_subscriber::filter::Directive;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Registry, fmt};

mod json;
mod otlp;

pub(crate) use otlp::{Export, Resource};

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    /// The directives make no sense.
    #[error(
        "telemetry.log_level: {text:?} is neither a level nor directives such as info,mesh_api=debug"
    )]
    Level {
        /// What was written.
        text: String,
        /// Why not.
        source: ParseError,
    },
    /// The exporter could not be made.
    #[error("telemetry.otlp_endpoint: cannot export to {endpoint}")]
    Export {
        /// Where to.
        endpoint: String,
        /// Why not.
        source: otlp::ExportError,
    },
    /// Something else logs in this process already. A bug.
    #[error("telemetry is set up already")]
    Again(#[from] TryInitError),
}

/// Starts logging and, when configured, exporting. Call it before any runtime exists: exporters bring their own threads.
///
/// # Errors
/// [`TelemetryError`]; nothing is set up then.
pub(crate) fn start(
    config: &TelemetryConfig,
    resource: Resource,
) -> Result<Export, TelemetryError> {
    let filter = EnvFilter::try_new(&config.log_level).map_err(|source| TelemetryError::Level {
        text: config.log_level.clone(),
        source,
    })?;
    // What it writes in full beyond this is the query of each address, and a secret may be in it.
    let quiet = ["ureq=debug", "ureq_proto=debug"].map(str::parse::<Directive>);
    let filter = quiet
        .into_iter()
        .flatten()
        .fold(filter, EnvFilter::add_directive);
    let export = match &config.otlp_endpoint {
        None => Export::off(),
        Some(endpoint) => {
            Export::to(endpoint, resource).map_err(|source| TelemetryError::Export {
                endpoint: endpoint.clone(),
                source,
            })?
        }
    };
    tracing_subscriber::registry()
        .with(log_layer(config.log_format, filter))
        .with(export.layer())
        .try_init()?;
    Ok(export)
}

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

fn log_layer(format: LogFormat, filter: EnvFilter) -> Boxed {
    let terminal = io::stderr().is_terminal();
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let layer = fmt::layer().with_writer(io::stderr);
    if human {
        layer
            .with_ansi(terminal && no_color_unset())
            .with_target(false)
            .with_filter(filter)
            .boxed()
    } else {
        layer
            .fmt_fields(JsonFields::new())
            .event_format(json::Lines)
            .with_filter(filter)
            .boxed()
    }
}

/// Whether colours are welcome.
pub(crate) fn no_color_unset() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

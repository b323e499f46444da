//! From the configuration, as an operator writes it, to what the tree and the HTTP surface take.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mesh_actors::context::{DefaultLimits, FileBounds, KeySource, LivenessLimits, Settings};
use mesh_actors::desk::unfit;
use mesh_actors::outbound::{EgressSettings, ServiceSettings};
use mesh_api::TlsFiles;
use mesh_config::{Config, Degradable, HomeKind, Origin, Origins};
use mesh_egress::{Limits as EgressLimits, Pattern, ServicePolicy, grants_from};
use mesh_messages::certificate::KnownCertificate;
use mesh_messages::schema::FieldError;
use mesh_messages::service::{ServiceDefinition, ServiceFile};
use mesh_messages::system::AtRest;
use mesh_messages::task::RetrySpec;
use mesh_messages::trust::TrustLevel;
use mesh_messages::units::{ByteCount, Span};
use mesh_sandbox::PlanPolicy;
use mesh_supervision_core::fault::{FaultConfig, Ladder};

/// Keys of an agent's policy, and the keys of the configuration that they default to.
const POLICY: [(&str, &str); 28] = [
    (
        "lifecycle.max_crashes",
        "default_policy.lifecycle.max_crashes",
    ),
    ("lifecycle.crash_window_ms", "supervision.crash_window"),
    (
        "lifecycle.auto_restart",
        "default_policy.lifecycle.auto_restart",
    ),
    (
        "lifecycle.quarantine_threshold",
        "default_policy.lifecycle.quarantine_threshold",
    ),
    ("lifecycle.failures_per_hour", "supervision.hourly_max"),
    (
        "resource_limits.cpu_millicores",
        "default_policy.resource_limits.cpu",
    ),
    (
        "resource_limits.memory_bytes",
        "default_policy.resource_limits.memory",
    ),
    (
        "resource_limits.disk_bytes",
        "default_policy.resource_limits.disk",
    ),
    ("resource_limits.pids", "sandbox.pids"),
    (
        "resource_limits.io_bytes_per_second",
        "default_policy.resource_limits.io",
    ),
    (
        "security.sandbox_required",
        "orchestrator.security.sandbox_required",
    ),
    (
        "security.sandbox_level",
        "default_policy.security.sandbox_level",
    ),
    (
        "security.crypto_required",
        "default_policy.security.crypto_required",
    ),
    ("security.open_network", "sandbox.open_network"),
    ("network.max_connections", "sandbox.egress.max_connections"),
    (
        "network.bytes_per_second",
        "sandbox.egress.bytes_per_second",
    ),
    ("network.ports", "sandbox.egress.ports"),
    ("network.allowed_domains", "sandbox.egress.allowed_domains"),
    ("network.blocked_domains", "sandbox.egress.blocked_domains"),
    (
        "liveness.silence_ms",
        "default_policy.liveness.silence.limit",
    ),
    (
        "liveness.silence_action",
        "default_policy.liveness.silence.action",
    ),
    ("liveness.stall_ms", "default_policy.liveness.stall.limit"),
    (
        "liveness.stall_action",
        "default_policy.liveness.stall.action",
    ),
    (
        "liveness.repetition",
        "default_policy.liveness.repetition.limit",
    ),
    (
        "liveness.repetition_over_ms",
        "default_policy.liveness.repetition.over",
    ),
    (
        "liveness.repetition_action",
        "default_policy.liveness.repetition.action",
    ),
    (
        "liveness.call_max_ms",
        "default_policy.liveness.overrun.max",
    ),
    (
        "liveness.overrun_action",
        "default_policy.liveness.overrun.action",
    ),
];

/// Where each value of an agent's policy comes from, as far as somebody set it.
fn policy_origins(origins: &Origins) -> BTreeMap<&'static str, String> {
    let set = |key: &str| {
        let under = format!("{key}.");
        origins
            .iter()
            .find(|(known, entry)| {
                (*known == key || known.starts_with(&under)) && entry.origin != Origin::Default
            })
            .map(|(_, entry)| entry.origin.to_string())
    };
    POLICY
        .into_iter()
        .filter_map(|(policy, key)| Some((policy, set(key)?)))
        .collect()
}

/// The threshold as a level. The configuration was checked to hold a number from 0 to 1; of anything else the strictest would
/// be the safe reading.
fn trust_threshold(value: f64) -> TrustLevel {
    TrustLevel::try_from(value).unwrap_or(TrustLevel::FULL)
}

/// What the tree needs to know; `data` is the data directory, absolute, and `run_id` names this run.
///
/// # Errors
/// See [`check`].
pub(crate) fn tree(
    config: &Config,
    origins: &Origins,
    data: PathBuf,
    run_id: String,
    encryption: AtRest,
) -> anyhow::Result<Settings> {
    let (orchestrator, supervision) = (&config.orchestrator, &config.supervision);
    let (retry, uids) = (&orchestrator.retry, config.sandbox.uid_range);
    Ok(Settings {
        data,
        run_id,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        retry: RetrySpec {
            max_attempts: Some(retry.max_attempts),
            delay_strategy: Some(retry.delay_strategy),
            base_delay_ms: Some(retry.base_delay_ms),
            jitter: Some(retry.jitter),
        },
        fallback_on_error: orchestrator.policies.fallback_on_error,
        allow_cross_agent: orchestrator.policies.allow_cross_agent,
        max_parallel_tasks: orchestrator.policies.max_parallel_tasks,
        trust_threshold: trust_threshold(orchestrator.security.trust_threshold),
        sandbox_required: orchestrator.security.sandbox_required,
        home_images: config.sandbox.homes == HomeKind::Image,
        sandbox: sandbox(config),
        sandbox_level: config.default_policy.security.sandbox_level,
        open_network: config.sandbox.open_network.iter().cloned().collect(),
        files: files(config),
        egress: egress(config),
        services: services(config)?,
        encryption,
        vault_key: vault_key(config),
        uids: (uids.first, uids.count),
        audit_all_actions: orchestrator.security.audit_all_actions,
        certificates: certificates(config),
        fault: fault(config),
        limits: limits(config),
        liveness: liveness(config),
        policy_origins: policy_origins(origins),
        crypto_required: config.default_policy.security.crypto_required,
        signature_required: config.default_policy.security.signature_required,
        chaos: config.chaos.enabled,
        start_timeout: supervision.start_timeout.duration(),
        stop_timeout: supervision.stop_timeout.duration(),
        cancel_timeout: supervision.cancel_timeout.duration(),
        drain_timeout: config.api.drain_timeout.duration(),
        api_rate: (
            config.api.rate_limit.per_second,
            config.api.rate_limit.burst,
        ),
        agent_rate: supervision.lines_per_second,
        retention: mesh_actors::context::Retention {
            age: config.journal.retention.max_age.map(Span::duration),
            tasks: config.journal.retention.max_tasks,
            bytes: config
                .journal
                .retention
                .max_size
                .map(mesh_messages::units::ByteCount::bytes),
        },
        journal_segment_bytes: config.journal.segment_size.bytes(),
    })
}

/// What service steps may call.
///
/// # Errors
/// The key that cannot be read, and why.
fn services(config: &Config) -> anyhow::Result<ServiceSettings> {
    let services = &config.services;
    let networks = grants_from(services.networks.iter().map(String::as_str));
    let policy = ServicePolicy {
        allowed: services
            .allowed_domains
            .as_deref()
            .map(|texts| patterns("services.allowed_domains", texts))
            .transpose()?,
        blocked: patterns("services.blocked_domains", &services.blocked_domains)?,
        ports: services.ports.as_ref().map(|p| p.iter().copied().collect()),
        networks: networks
            .map_err(|text| anyhow::anyhow!("services.networks: {text:?} is no network"))?,
    };
    let mut settings = ServiceSettings {
        policy,
        http: patterns("services.http_domains", &services.http_domains)?,
        definitions: Vec::new(),
        ca_file: services.ca_file.clone(),
    };
    if let Some(path) = &services.definitions {
        settings.definitions = definitions(path, &settings)?;
    }
    Ok(settings)
}

/// Longest file of service definitions, in bytes.
const DEFINITIONS_MAX: u64 = 4 * 1024 * 1024;

/// The services that a file defines. What is wrong with one refuses them all, and is told with all that is wrong.
fn definitions(path: &Path, settings: &ServiceSettings) -> anyhow::Result<Vec<ServiceDefinition>> {
    let at = |why: String| anyhow::anyhow!("services.definitions: {}: {why}", path.display());
    let size = std::fs::metadata(path)
        .map_err(|error| at(error.to_string()))?
        .len();
    if size > DEFINITIONS_MAX {
        return Err(at(format!("has more than {DEFINITIONS_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| at(error.to_string()))?;
    let told = |errors: &[FieldError]| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        at(lines.join("; "))
    };
    let services = ServiceFile::read(&text)
        .map_err(|errors| told(&errors))?
        .services;
    let numbered = services.iter().enumerate();
    let errors = numbered.flat_map(|(index, service)| {
        let own = unfit(settings, service).into_iter();
        own.map(move |error| {
            FieldError::new(format!("services[{index}].{}", error.path), error.message)
        })
    });
    let errors: Vec<FieldError> = errors.collect();
    if errors.is_empty() {
        Ok(services)
    } else {
        Err(told(&errors))
    }
}

/// Hosts as an operator lists them.
fn patterns(key: &str, texts: &[String]) -> anyhow::Result<Vec<Pattern>> {
    let read = |(index, text): (usize, &String)| {
        Pattern::parse(text).with_context(|| {
            format!(
                "{key}[{index}]: {text:?} is not a host such as api.example.com or *.example.com"
            )
        })
    };
    texts.iter().enumerate().map(read).collect()
}

/// What neither its form nor its values show, but what it is used for.
///
/// # Errors
/// The key that cannot be used, and why.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    let egress = &config.sandbox.egress;
    if let Some(allowed) = &egress.allowed_domains {
        patterns("sandbox.egress.allowed_domains", allowed)?;
    }
    patterns("sandbox.egress.blocked_domains", &egress.blocked_domains)?;
    services(config).map(|_| ())
}

/// Which files of the host may be granted.
fn files(config: &Config) -> FileBounds {
    let files = &config.sandbox.files;
    let paths = |texts: &[String]| texts.iter().map(PathBuf::from).collect();
    FileBounds {
        allowed: files.allowed_paths.as_deref().map(paths),
        blocked: paths(&files.blocked_paths),
        as_owner: paths(&files.as_owner),
    }
}

/// What no agent's connections get beyond.
fn egress(config: &Config) -> EgressSettings {
    let egress = &config.sandbox.egress;
    let rate = egress.bytes_per_second.map(ByteCount::bytes);
    EgressSettings {
        ports: egress.ports.iter().copied().collect(),
        allowed: egress.allowed_domains.clone(),
        blocked: egress.blocked_domains.clone(),
        networks: egress.networks.clone(),
        hosts: egress.hosts.clone(),
        limits: EgressLimits {
            connections: egress.max_connections,
            bytes_per_second: rate.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX)),
            head: egress.head_timeout.duration(),
            connect: egress.connect_timeout.duration(),
            idle: egress.idle_timeout.duration(),
            total: egress.total_timeout.duration(),
        },
        extra_ca: egress.extra_ca.as_ref().map(PathBuf::from),
    }
}

/// Where the vault's key is, when not in the data directory.
pub(crate) fn vault_key(config: &Config) -> Option<KeySource> {
    let vault = &config.vault;
    key_source(
        vault.key_file.as_ref(),
        vault.passphrase_file.as_ref(),
        vault.keyring.as_ref(),
    )
}

/// Where the key comes from that the data directory's is derived from.
pub(crate) fn storage_key(config: &Config) -> Option<KeySource> {
    let storage = &config.storage;
    key_source(
        storage.key_file.as_ref(),
        storage.passphrase_file.as_ref(),
        storage.keyring.as_ref(),
    )
}

fn key_source(
    key_file: Option<&String>,
    passphrase_file: Option<&String>,
    keyring: Option<&String>,
) -> Option<KeySource> {
    let file = |path: Option<&String>, source: fn(PathBuf) -> KeySource| {
        path.map(|path| source(PathBuf::from(path)))
    };
    file(passphrase_file, KeySource::Passphrase)
        .or_else(|| file(key_file, KeySource::File))
        .or_else(|| keyring.cloned().map(KeySource::Keyring))
}

/// What the operator demands of every sandbox.
pub(crate) fn sandbox(config: &Config) -> PlanPolicy {
    let degradable = |control: &Degradable| match control {
        Degradable::Cpu => mesh_sandbox::Degradable::Cpu,
        Degradable::Memory => mesh_sandbox::Degradable::Memory,
        Degradable::Pids => mesh_sandbox::Degradable::Pids,
        Degradable::Disk => mesh_sandbox::Degradable::Disk,
        Degradable::User => mesh_sandbox::Degradable::User,
        Degradable::Io => mesh_sandbox::Degradable::Io,
    };
    PlanPolicy {
        required: config.orchestrator.security.sandbox_required,
        degradable: config.sandbox.degradable.iter().map(degradable).collect(),
    }
}

/// Bounds of an agent whose manifest names none.
pub(crate) fn limits(config: &Config) -> DefaultLimits {
    let limits = &config.default_policy.resource_limits;
    DefaultLimits {
        cpu_millicores: limits.cpu.millicores(),
        memory_bytes: limits.memory.bytes(),
        disk_bytes: limits.disk.bytes(),
        io_bytes_per_second: limits.io.map(ByteCount::bytes),
        pids: config.sandbox.pids,
        nofile: config.sandbox.open_files,
    }
}

/// When an agent counts as getting nowhere whose manifest says nothing.
fn liveness(config: &Config) -> LivenessLimits {
    let said = &config.default_policy.liveness;
    LivenessLimits {
        silence: said.silence.limit.map(Span::duration),
        on_silence: said.silence.action,
        stall: said.stall.limit.duration(),
        on_stall: said.stall.action,
        repetition: said.repetition.limit,
        repetition_over: said.repetition.over.duration(),
        on_repetition: said.repetition.action,
        call_max: said.overrun.max.duration(),
        on_overrun: said.overrun.action,
    }
}

fn fault(config: &Config) -> FaultConfig {
    let (lifecycle, supervision) = (&config.default_policy.lifecycle, &config.supervision);
    FaultConfig {
        max_crashes: lifecycle.max_crashes,
        crash_window: supervision.crash_window.duration(),
        quarantine_threshold: lifecycle.quarantine_threshold,
        auto_restart: lifecycle.auto_restart,
        hourly_max: supervision.hourly_max,
        backoff: Ladder {
            base: supervision.backoff_base.duration(),
            cap: supervision.backoff_max.duration(),
        },
        cool_down: Ladder {
            base: supervision.cool_down_base.duration(),
            cap: supervision.cool_down_max.duration(),
        },
        half_open_idle: supervision.half_open_idle.duration(),
        stable_min: supervision.stable_after.duration(),
        recovering: supervision.recovering.duration(),
        // Only a manifest can say that the mesh cannot do without its agent.
        essential: false,
    }
}

/// The bounds of the HTTP surface.
pub(crate) fn api(config: &Config) -> mesh_api::ApiConfig {
    let api = &config.api;
    let bytes = |size: ByteCount| usize::try_from(size.bytes()).unwrap_or(usize::MAX);
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    mesh_api::ApiConfig {
        body_bytes_max: bytes(api.body_size_max),
        bundle_bytes_max: bytes(api.bundle_size_max),
        header_timeout: api.header_timeout.duration(),
        body_timeout: api.body_timeout.duration(),
        answer_timeout: api.answer_timeout.duration(),
        streams_max: count(api.streams_max),
        connections_max: count(api.connections_max),
        ping_interval: api.ping_interval.duration(),
        stall_timeout: api.stall_timeout.duration(),
        drain_timeout: api.drain_timeout.duration(),
        hosts: api.hosts.clone(),
        tls: None,
    }
}

/// The files of TLS, where it is to be spoken.
pub(crate) fn tls(config: &Config) -> Option<TlsFiles> {
    let tls = &config.api.tls;
    let (cert, key) = tls.cert.as_ref().zip(tls.key.as_ref())?;
    Some(TlsFiles {
        cert: PathBuf::from(cert),
        key: PathBuf::from(key),
        client_ca: tls.client_ca.as_ref().map(PathBuf::from),
        client_crl: tls.client_crl.as_ref().map(PathBuf::from),
        require_client_cert: tls.require_client_cert,
    })
}

/// The callers that are known by their certificates.
pub(crate) fn certificates(config: &Config) -> Vec<KnownCertificate> {
    let clients = config.api.tls.clients.iter();
    clients
        .map(|client| KnownCertificate {
            subject: client.subject.clone(),
            name: client.name.clone(),
            role: client.role,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_that_each_part_ships_with() {
        let config = Config::default();
        assert_eq!(fault(&config), FaultConfig::default());
        assert_eq!(liveness(&config), LivenessLimits::default());
        assert_eq!(api(&config), mesh_api::ApiConfig::default());
        assert_eq!(egress(&config).limits, EgressLimits::default());
        fault(&config).check().unwrap();
    }

    #[test]
    fn what_may_degrade_is_what_the_file_says() {
        let mut config = Config::default();
        assert_eq!(sandbox(&config).degradable.len(), 5);
        config.sandbox.degradable = vec![Degradable::Memory];
        assert_eq!(
            sandbox(&config).degradable,
            [mesh_sandbox::Degradable::Memory]
        );
    }
}

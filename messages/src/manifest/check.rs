//! What a schema cannot say: contradictions, paths, versions, references between parts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::permission;
use super::read::part;
use super::runtime::{BUILTINS, builtin, service, stays_inside};
use super::{
    AgentManifest, AgentMetadata, AgentPolicy, Budget, CapabilityProfile, Crypto, Dependency,
    DependencyType, Heartbeat, MemoryBackend, MemoryConfig, MemoryType, RuntimeKind, RuntimeSpec,
    SecretMode, SecretSpec, SecurityConfig,
};
use crate::budget::Dimension;
use crate::ids::{AgentId, ServiceId};
use crate::schema::{Checker, FieldError};
use crate::workflow::RegisteredCall;

type Errors = Vec<FieldError>;

/// Checks a manifest whose every part could be read.
pub(super) fn check(manifest: &AgentManifest, errors: &mut Errors, notices: &mut Errors) {
    start(manifest.entry.as_deref(), manifest.runtime.as_ref(), errors);
    memory(&manifest.memory, errors, notices);
    security(&manifest.security, errors, notices);
    if !manifest.security.sandbox && manifest.policy.overrides().sandbox == Some(true) {
        errors.push(FieldError::new(
            "security.sandbox",
            "is false, and policy.sandbox is true; leave one of them out",
        ));
    }
    if manifest.policy.overrides().sandbox == Some(false) {
        notices.push(FieldError::new("policy.sandbox", NO_SANDBOX));
    }
    conversation(manifest, errors);
    dependencies(&manifest.dependencies, Some(&manifest.id), errors);
    metadata(&manifest.metadata, errors);
    profiles(&manifest.profiles, &manifest.capabilities, errors);
    heartbeat(manifest.heartbeat.as_ref(), errors);
    manifest.policy.check(&manifest.id, errors);
    budget(manifest.budget.as_ref(), errors);
    secrets(&manifest.secrets, errors);
    permission::secrets(&manifest.security, &manifest.secrets, errors);
}

/// Checks those parts that can be read when others cannot, so that one report names everything.
pub(super) fn check_readable_parts(source: &Value, errors: &mut Errors) {
    let ignored = &mut Vec::new();
    let id: Option<AgentId> = source
        .get("id")
        .and_then(|id| serde::Deserialize::deserialize(id).ok());
    if let (Some(entry), Some(runtime)) = (
        part::<Option<String>>(source, "entry"),
        part(source, "runtime"),
    ) {
        start(
            entry.as_deref(),
            Option::<RuntimeSpec>::as_ref(&runtime),
            errors,
        );
    }
    if let Some(config) = part(source, "memory") {
        memory(&config, errors, ignored);
    }
    if let Some(config) = part(source, "security") {
        security(&config, errors, ignored);
    }
    if let Some(list) = part::<Vec<Dependency>>(source, "dependencies") {
        dependencies(&list, id.as_ref(), errors);
    }
    if let Some(config) = part(source, "metadata") {
        metadata(&config, errors);
    }
    if let (Some(map), Some(capabilities)) = (
        part(source, "profiles"),
        source
            .get("capabilities")
            .and_then(|list| serde::Deserialize::deserialize(list).ok()),
    ) {
        let capabilities: Vec<String> = capabilities;
        profiles(&map, &capabilities, errors);
    }
    if let Some(config) = part::<Option<Heartbeat>>(source, "heartbeat") {
        heartbeat(config.as_ref(), errors);
    }
    if let (Some(id), Some(policy)) = (id, part::<AgentPolicy>(source, "policy")) {
        policy.check(&id, errors);
    }
    if let Some(config) = part::<Option<Budget>>(source, "budget") {
        budget(config.as_ref(), errors);
    }
    if let Some(list) = part::<Vec<SecretSpec>>(source, "secrets") {
        secrets(&list, errors);
    }
}

/// An agent that is a registered service has nothing that is started.
fn service_start(call: &RegisteredCall, runtime: Option<&RuntimeSpec>, errors: &mut Errors) {
    let named = |text: &str| {
        let plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
        !text.is_empty() && text.bytes().all(plain)
    };
    if ServiceId::new(call.id.as_str()).is_err() || !call.endpoint.as_deref().is_none_or(named) {
        let text =
            "after service: the id of a service is expected, and /<endpoint> where it has several";
        errors.push(FieldError::new("entry", text));
    }
    let idle = RuntimeSpec::default();
    let given = runtime.map(|runtime| RuntimeSpec {
        kind: RuntimeKind::Klp,
        ..runtime.clone()
    });
    if given.is_some_and(|given| given != idle) {
        errors.push(FieldError::new(
            "runtime",
            "contradicts entry, which names a service: only `kind: native` may be given",
        ));
    }
}

fn start(entry: Option<&str>, runtime: Option<&RuntimeSpec>, errors: &mut Errors) {
    match entry.and_then(service) {
        Some(call) => service_start(&call, runtime, errors),
        None => program_start(entry, runtime, errors),
    }
}

fn program_start(entry: Option<&str>, runtime: Option<&RuntimeSpec>, errors: &mut Errors) {
    let command = runtime.and_then(|runtime| runtime.command.as_deref());
    if entry.is_none() && command.is_none() {
        errors.push(FieldError::new(
            "entry",
            "required, but missing; give entry, or runtime with a command",
        ));
    }
    match entry.map(|entry| (entry, builtin(entry))) {
        Some((_, Some(name))) => {
            let named = !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if !named {
                errors.push(FieldError::new(
                    "entry",
                    "after builtin: a name out of A-Z a-z 0-9 - _ is expected",
                ));
            } else if !BUILTINS.contains(&name)
                && runtime.is_none_or(|runtime| runtime.kind != RuntimeKind::Native)
            {
                let there = BUILTINS.join(", ");
                errors.push(FieldError::new(
                    "entry",
                    format!("meshd brings no agent {name:?}; there are {there}"),
                ));
            }
            if command.is_some() {
                errors.push(FieldError::new(
                    "runtime.command",
                    "contradicts entry, which names a part of meshd",
                ));
            }
        }
        Some((entry, None)) if !stays_inside(entry) => {
            let message =
                format!("{entry:?} leaves the bundle; give a path relative to it, without ..");
            errors.push(FieldError::new("entry", message));
        }
        Some(_) | None => {}
    }
    let Some(runtime) = runtime else { return };
    if runtime.kind == RuntimeKind::Native && entry.and_then(builtin).is_none() {
        errors.push(FieldError::new(
            "runtime.kind",
            "native runs parts of meshd only; entry must be builtin:<name>",
        ));
    }
    if let Some(path) = command
        .and_then(|command| command.strip_prefix("./"))
        .filter(|path| !stays_inside(path))
    {
        errors.push(FieldError::new(
            "runtime.command",
            format!("{path:?} leaves the bundle"),
        ));
    } else if command
        .is_some_and(|command| !command.starts_with(['.', '/']) && command.contains('/'))
    {
        let message =
            "expected a program's name, an absolute path, or ./ and a path within the bundle";
        errors.push(FieldError::new("runtime.command", message));
    } else if command.is_some_and(|command| command.contains("..") || command.contains('\0')) {
        errors.push(FieldError::new("runtime.command", "must not contain .."));
    }
    if let Some(workdir) = runtime
        .workdir
        .as_deref()
        .filter(|path| !stays_inside(path))
    {
        errors.push(FieldError::new(
            "runtime.workdir",
            format!("{workdir:?} leaves the bundle"),
        ));
    }
    for (name, value) in &runtime.env {
        let head = name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !head
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            || value.contains('\0')
        {
            let message = "not an environment variable; expected A-Z a-z 0-9 _ in its name and no NUL in its value";
            errors.push(FieldError::new(format!("runtime.env.{name}"), message));
        }
        if name.to_ascii_uppercase().starts_with("MESH_") {
            let message = "names that begin with MESH_ are meshd's own";
            errors.push(FieldError::new(format!("runtime.env.{name}"), message));
        }
    }
    if let Some(index) = runtime.args.iter().position(|arg| arg.contains('\0')) {
        errors.push(FieldError::new(
            format!("runtime.args[{index}]"),
            "must not contain NUL",
        ));
    }
}

fn memory(config: &MemoryConfig, errors: &mut Errors, notices: &mut Errors) {
    if config.max_size.is_some_and(|size| size.bytes() == 0) {
        errors.push(FieldError::new(
            "memory.maxSize",
            "must be more than nothing; leave it out for the mesh's own limit",
        ));
    }
    let (kind, durable) = match config.kind {
        MemoryType::Volatile => ("volatile", false),
        MemoryType::Persistent => ("persistent", true),
        MemoryType::Hybrid => ("hybrid", true),
    };
    if let Some(persistent) = config
        .persistent
        .filter(|persistent| *persistent != durable)
    {
        errors.push(FieldError::new(
            "memory.persistent",
            format!("{persistent} contradicts type {kind}"),
        ));
    }
    match config.backend {
        Some(MemoryBackend::Memory) if durable => {
            errors.push(FieldError::new(
                "memory.backend",
                format!("memory does not survive what type {kind} promises"),
            ));
        }
        Some(MemoryBackend::Memory) | None => {}
        Some(_) if !durable => {
            errors.push(FieldError::new(
                "memory.backend",
                "a durable backend contradicts type volatile",
            ));
        }
        Some(MemoryBackend::Embedded) => {}
        Some(MemoryBackend::Indexeddb) => notices.push(FieldError::new(
            "memory.backend",
            "indexeddb lives in browsers; meshd keeps this memory in its embedded durable store",
        )),
        Some(MemoryBackend::Sqlite | MemoryBackend::Redis) => notices.push(FieldError::new(
            "memory.backend",
            "no such server is used; meshd keeps this memory in its embedded durable store",
        )),
    }
}

/// What only an agent can do that speaks for itself.
fn conversation(manifest: &AgentManifest, errors: &mut Errors) {
    let converses = manifest.resolved_runtime().kind == RuntimeKind::Klp;
    if manifest.security.session && !converses {
        let message = "only an agent of runtime klp shakes hands, and is given a token";
        errors.push(FieldError::new("security.session", message));
    }
    if !manifest.signs_itself() {
        return;
    }
    let field = "policy.security.crypto_required";
    if !converses {
        let message = "only an agent of runtime klp signs what it says";
        errors.push(FieldError::new(field, message));
    }
    if manifest.security.crypto == Crypto::None {
        let message = "needs security.crypto to say with what kind of key: none signs nothing";
        errors.push(FieldError::new(field, message));
    }
}

/// What asking for no sandbox comes to.
const NO_SANDBOX: &str =
    "asks for no sandbox: it gets the weakest profile, `basic`; refused where policy requires more";

fn security(config: &SecurityConfig, errors: &mut Errors, notices: &mut Errors) {
    if !config.sandbox {
        notices.push(FieldError::new("security.sandbox", NO_SANDBOX));
    }
    match config.crypto {
        Crypto::Ed25519 => {}
        Crypto::None => {
            notices.push(FieldError::new(
                "security.crypto",
                "signs nothing; refused where policy requires signatures",
            ));
        }
        foreign @ (Crypto::Secp256k1 | Crypto::Rsa) => {
            let name = foreign.name();
            let message = format!(
                "{name} is only verified, for agents that bring their own key; meshd signs with ed25519"
            );
            notices.push(FieldError::new("security.crypto", message));
        }
    }
    permission::lint(config, errors, notices);
    let network = &config.network_access;
    let allowed = network.allowed_domains.as_deref().unwrap_or_default();
    let blocked: BTreeSet<_> = network
        .blocked_domains
        .iter()
        .flatten()
        .map(|domain| domain.to_ascii_lowercase())
        .collect();
    if !network.allow_outbound && !allowed.is_empty() {
        let message = "has no effect while allowOutbound is false";
        notices.push(FieldError::new(
            "security.networkAccess.allowedDomains",
            message,
        ));
    }
    for (index, domain) in allowed.iter().enumerate() {
        if blocked.contains(&domain.to_ascii_lowercase()) {
            let path = format!("security.networkAccess.allowedDomains[{index}]");
            errors.push(FieldError::new(
                path,
                format!("{domain} is in blockedDomains, too"),
            ));
        }
    }
    for (index, path) in config.file_access.allowed_paths.iter().enumerate() {
        if !path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..")
        {
            let at = format!("security.fileAccess.allowedPaths[{index}]");
            errors.push(FieldError::new(
                at,
                format!("{path:?} is not an absolute path without .."),
            ));
        }
    }
}

fn dependencies(list: &[Dependency], id: Option<&AgentId>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, dependency) in list.iter().enumerate() {
        if let Err(error) = semver::VersionReq::parse(&dependency.version) {
            let message = format!(
                "{:?} is not a version requirement such as ^2.29.0: {error}",
                dependency.version
            );
            errors.push(FieldError::new(
                format!("dependencies[{index}].version"),
                message,
            ));
        }
        let kind = match dependency.kind {
            DependencyType::Module => 0,
            DependencyType::Service => 1,
            DependencyType::Agent => 2,
        };
        if !seen.insert((kind, &dependency.name)) {
            errors.push(FieldError::new(
                format!("dependencies[{index}]"),
                format!("{} is listed twice", dependency.name),
            ));
        }
        if dependency.kind == DependencyType::Agent
            && id.is_some_and(|id| id.as_str() == dependency.name)
        {
            errors.push(FieldError::new(
                format!("dependencies[{index}].name"),
                "an agent cannot depend on itself",
            ));
        }
    }
}

fn metadata(config: &AgentMetadata, errors: &mut Errors) {
    if let (Some(created), Some(updated)) = (config.created, config.updated)
        && updated < created
    {
        errors.push(FieldError::new(
            "metadata.updated",
            format!("{updated} is before created, {created}"),
        ));
    }
}

fn profiles(
    profiles: &BTreeMap<String, CapabilityProfile>,
    capabilities: &[String],
    errors: &mut Errors,
) {
    for (name, profile) in profiles {
        if !capabilities.contains(name) {
            errors.push(FieldError::new(
                format!("profiles.{name}"),
                "not a capability of this manifest",
            ));
        }
        for (field, schema) in [("input", &profile.input), ("output", &profile.output)] {
            if let Some(Err(error)) = schema.clone().map(Checker::new) {
                errors.push(FieldError::new(
                    format!("profiles.{name}.{field}"),
                    error.to_string(),
                ));
            }
        }
        if profile
            .timeout
            .is_some_and(|timeout| timeout.as_millis() == 0)
        {
            errors.push(FieldError::new(
                format!("profiles.{name}.timeout"),
                "must be longer than nothing",
            ));
        }
    }
}

fn heartbeat(config: Option<&Heartbeat>, errors: &mut Errors) {
    let Some(Heartbeat { interval, ttl }) = config else {
        return;
    };
    if interval.as_millis() == 0 {
        errors.push(FieldError::new(
            "heartbeat.interval",
            "must be longer than nothing",
        ));
    }
    if ttl <= interval {
        errors.push(FieldError::new(
            "heartbeat.ttl",
            format!("{ttl} is not longer than the interval, {interval}"),
        ));
    }
}

fn budget(config: Option<&Budget>, errors: &mut Errors) {
    let Some(budget) = config else {
        return;
    };
    let mut wrong = |field: &str, why: &str| {
        errors.push(FieldError::new(format!("budget.{field}"), why));
    };
    for (field, span) in [("per", budget.per), ("window", budget.window)] {
        if span.is_some_and(|span| span.as_millis() == 0) {
            wrong(field, "must be longer than nothing");
        }
    }
    if budget.per.is_some() && budget.window.is_some() {
        wrong("window", "is another name of `per`; leave one of them out");
    }
    if budget.max_starts.is_some() {
        wrong("maxStarts", "is not offered; say `restarts`");
    }
    if budget.max_cost.is_some() {
        wrong("maxCost", "is not offered; say `money`");
    }
    let limits = budget.account().map(|account| account.limits());
    if let Some((dimension, why)) = limits.and_then(|limits| limits.misfit()) {
        wrong(
            if dimension == Dimension::Attempts {
                "maxAttempts"
            } else {
                dimension.name()
            },
            &why,
        );
    }
}

fn secrets(list: &[SecretSpec], errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, secret) in list.iter().enumerate() {
        let is_file_name = secret
            .name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !is_file_name || secret.name.starts_with('.') {
            let message = "expected A-Z a-z 0-9 - _ ., not starting with a full stop";
            errors.push(FieldError::new(format!("secrets[{index}].name"), message));
        }
        if !seen.insert(&secret.name) {
            errors.push(FieldError::new(
                format!("secrets[{index}].name"),
                format!("{} is listed twice", secret.name),
            ));
        }
        if secret.mode == SecretMode::Brokered && secret.domains.is_empty() {
            let message = "a brokered secret names the domains whose requests it is added to";
            errors.push(FieldError::new(
                format!("secrets[{index}].domains"),
                message,
            ));
        }
    }
}

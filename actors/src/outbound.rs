//! The way out of an instance's sandbox: what its manifest and the operator allow, and who is told of refusals.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use mesh_egress::{
    Act, Binding, Bounds, Credentials, Denial, Digest, DomainRules, HeaderTemplate, Host, Limits,
    Noted, Observer, Pattern, Permit, Policy, Protocol, Proxy, ProxyParts, RequestRule,
    ServicePolicy, SystemResolver, grants_from, tls_config,
};
use mesh_messages::agent::PolicyValue;
use mesh_messages::events::EgressDenial;
use mesh_messages::manifest::{
    Action, AgentManifest, NetworkGrant, NetworkPolicy, SecretMode, SecretSpec,
};
use mesh_messages::policy::OperatorNetwork;
use mesh_messages::service::ServiceDefinition;
use mesh_messages::units::ByteCount;
use mesh_messages::{AgentId, Epoch, InstanceNo};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::agents::policy::WayOut;
use crate::agents::services::Services;
use crate::clock::now;
use crate::context::{Context, Settings};
use crate::secrets::Blotter;

/// The header of a credential whose manifest names none.
const BEARER: &str = "Authorization: Bearer {secret}";

/// What no agent's connections get beyond, as the operator wrote it.
#[derive(Debug, Clone, Default)]
pub struct EgressSettings {
    /// The only ports.
    pub ports: BTreeSet<u16>,
    /// The only domains; any when absent.
    pub allowed: Option<Vec<String>>,
    /// Never these.
    pub blocked: Vec<String>,
    /// Networks that are not public and open all the same.
    pub networks: Vec<String>,
    /// Names that are not looked up.
    pub hosts: BTreeMap<String, Vec<String>>,
    /// Bounds of one instance.
    pub limits: Limits,
    /// Further authorities.
    pub extra_ca: Option<PathBuf>,
}

/// What services may be called; meshd does so itself.
#[derive(Debug, Clone, Default)]
pub struct ServiceSettings {
    /// Whom.
    pub policy: ServicePolicy,
    /// Hosts that registered services may have beyond this one without TLS.
    pub http: Vec<Pattern>,
    /// What the file of static definitions says.
    pub definitions: Vec<ServiceDefinition>,
    /// A PEM file of the authorities that certificates are checked against; those that browsers know when absent.
    pub ca_file: Option<PathBuf>,
}

/// What all ways out share.
#[derive(Debug, Default)]
pub struct Outbound {
    tls: OnceLock<Arc<mesh_egress::TlsConfig>>,
}

impl Outbound {
    pub(crate) fn tls(
        &self,
        settings: &EgressSettings,
    ) -> Result<Arc<mesh_egress::TlsConfig>, String> {
        if let Some(made) = self.tls.get() {
            return Ok(Arc::clone(made));
        }
        let made = tls_config(settings.extra_ca.as_deref()).map_err(|error| error.to_string())?;
        Ok(Arc::clone(self.tls.get_or_init(|| made)))
    }
}

/// What an agent of this manifest may reach.
///
/// # Errors
/// The field that cannot be read, and why.
pub(crate) fn policy_of(ctx: &Context, manifest: &AgentManifest) -> Result<Policy, String> {
    let settings = &ctx.settings.egress;
    ctx.outbound.tls(settings)?;
    let access = &manifest.security.network_access;
    let own = "security.networkAccess";
    let manifest_rules = rules(
        own,
        access.allowed_domains.as_deref(),
        access.blocked_domains.as_deref(),
    )?;
    let operator = "sandbox.egress";
    let operator_rules = rules(
        operator,
        settings.allowed.as_deref(),
        Some(&settings.blocked),
    )?;
    let asked: Option<BTreeSet<u16>> = access
        .allowed_ports
        .as_ref()
        .map(|ports| ports.iter().copied().collect());
    let networks = grants_from(settings.networks.iter().map(String::as_str));
    Ok(Policy {
        domains: vec![manifest_rules, operator_rules],
        ports: match asked {
            Some(asked) => asked.intersection(&settings.ports).copied().collect(),
            None => settings.ports.clone(),
        },
        protocols: manifest
            .policy
            .overrides()
            .network
            .and_then(|network| network.allowed_protocols)
            .map(|names| {
                let known = names.iter().filter_map(|name| Protocol::named(name));
                known.collect()
            }),
        requests: requests(access)?,
        permits: permits(manifest)?,
        networks: networks
            .map_err(|text| format!("sandbox.egress.networks: {text:?} is no network"))?,
        hosts: hosts(settings)?,
        brokered: brokered(&manifest.secrets)?,
    })
}

fn rules(
    origin: &str,
    allowed: Option<&[String]>,
    blocked: Option<&[String]>,
) -> Result<DomainRules, String> {
    let read = |list: &str, texts: &[String]| {
        let one = |text: &String| {
            Pattern::parse(text).map_err(|error| format!("{origin}.{list}: {text:?}: {error}"))
        };
        texts.iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    Ok(DomainRules {
        origin: origin.to_owned(),
        allowed: allowed
            .map(|texts| read("allowedDomains", texts))
            .transpose()?,
        blocked: read("blockedDomains", blocked.unwrap_or_default())?,
    })
}

fn requests(access: &NetworkPolicy) -> Result<Vec<RequestRule>, String> {
    let read = |(index, request): (usize, &mesh_messages::manifest::RequestPolicy)| {
        RequestRule::parse(
            &request.domains,
            request.methods.as_deref(),
            request.paths.as_deref(),
        )
        .map_err(|error| format!("security.networkAccess.requests[{index}]: {error}"))
    };
    access.requests.iter().enumerate().map(read).collect()
}

/// What the permissions leave of its way out.
fn permits(manifest: &AgentManifest) -> Result<Option<Vec<Permit>>, String> {
    let act = |action: &Action| match action {
        Action::Read => Act::Read,
        Action::Write => Act::Write,
        Action::Delete => Act::Delete,
        Action::Execute => Act::Tunnel,
    };
    let read = |grant: &NetworkGrant| {
        let domain = grant.domain.as_deref();
        Permit::parse(domain, grant.actions.iter().map(act)).map_err(|error| {
            format!(
                "security.permissions: network {:?}: {error}",
                domain.unwrap_or_default()
            )
        })
    };
    let grants = manifest.security.network_grants();
    grants
        .map(|grants| grants.iter().map(read).collect())
        .transpose()
}

fn hosts(settings: &EgressSettings) -> Result<BTreeMap<String, Vec<IpAddr>>, String> {
    let read = |(name, addresses): (&String, &Vec<String>)| {
        let wrong = || format!("sandbox.egress.hosts.{name}: expected a name and its addresses");
        let Ok(Host::Name(name)) = Host::parse(name) else {
            return Err(wrong());
        };
        let addresses = addresses
            .iter()
            .map(|text| text.parse().map_err(|_| wrong()));
        Ok((name, addresses.collect::<Result<_, _>>()?))
    };
    settings.hosts.iter().map(read).collect()
}

fn brokered(secrets: &[SecretSpec]) -> Result<Vec<Binding>, String> {
    let read = |(index, spec): (usize, &SecretSpec)| {
        let at = |field: &str, text: String| format!("secrets[{index}].{field}: {text}");
        let requests = RequestRule::parse(
            &spec.domains,
            spec.methods.as_deref(),
            spec.paths.as_deref(),
        );
        let header = HeaderTemplate::parse(spec.header.as_deref().unwrap_or(BEARER));
        Ok(Binding {
            secret: spec.vault_name().to_owned(),
            requests: requests.map_err(|error| at("domains, methods, paths", error.to_string()))?,
            header: header.map_err(|error| at("header", error.to_string()))?,
            tls: spec.tls,
        })
    };
    secrets
        .iter()
        .enumerate()
        .filter(|(_, spec)| spec.mode == SecretMode::Brokered)
        .map(read)
        .collect()
}

/// Who goes out.
#[derive(Debug, Clone)]
pub(crate) struct Traveller {
    pub(crate) agent: AgentId,
    pub(crate) instance: InstanceNo,
    pub(crate) epoch: Epoch,
}

/// Serves a listener of an instance's, within bounds that all of them share, until the returned future is dropped; without a listener it only waits.
pub(crate) fn serve(
    ctx: &Arc<Context>,
    services: &Arc<dyn Services>,
    manifest: &AgentManifest,
    who: Traveller,
    (listener, bounds): (Option<OwnedFd>, Arc<Bounds>),
) -> impl Future<Output = ()> + Send + 'static + use<> {
    let prepare = |listener| prepare(ctx, services, manifest, who.clone(), (listener, bounds));
    let prepared = listener.map(prepare);
    async move {
        match prepared {
            None => {}
            Some(Ok((proxy, listener, watch))) => {
                tokio::join!(proxy.serve(listener), watch.flush());
            }
            // The listener is gone, so the agent has no network: the safe end of a failure that cannot happen to a policy
            // that was accepted when the start was planned.
            Some(Err(reason)) => {
                tracing::error!(agent = %who.agent, reason, "this instance has no way out");
            }
        }
        std::future::pending::<()>().await;
    }
}

type Prepared = (Arc<Proxy>, tokio::net::TcpListener, Arc<Watch>);

fn prepare(
    ctx: &Arc<Context>,
    services: &Arc<dyn Services>,
    manifest: &AgentManifest,
    who: Traveller,
    (listener, bounds): (OwnedFd, Arc<Bounds>),
) -> Result<Prepared, String> {
    let settings = &ctx.settings.egress;
    let watch = Arc::new(Watch {
        ctx: Arc::clone(ctx),
        services: Arc::clone(services),
        who: who.clone(),
        blotter: Blotter::new(&ctx.secrets, manifest),
        digest: Mutex::default(),
        begun: tokio::sync::Notify::new(),
    });
    let listener = std::net::TcpListener::from(listener);
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| tokio::net::TcpListener::from_std(listener))
        .map_err(|error| format!("its listener cannot be used: {error}"))?;
    let proxy = Proxy::new(ProxyParts {
        policy: policy_of(ctx, manifest)?,
        limits: settings.limits,
        bounds,
        resolver: Arc::new(SystemResolver),
        credentials: Arc::new(Purse {
            ctx: Arc::clone(ctx),
            agent: who.agent,
        }),
        observer: Arc::clone(&watch) as Arc<dyn Observer>,
        tls: ctx.outbound.tls(settings)?,
    });
    Ok((Arc::new(proxy), listener, watch))
}

/// Bytes in what a manifest calls a kilobyte.
const KILOBYTE: u32 = 1000;

/// What the operator decided while the mesh runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said<'a> {
    /// For this agent: it holds, whatever others say.
    pub(crate) agent: &'a OperatorNetwork,
    /// How that is called where values are shown.
    pub(crate) agent_origin: &'a str,
    /// For all agents, in the place of the configuration.
    pub(crate) all: &'a OperatorNetwork,
}

/// One bound out of what the operator said of this agent, of all, the configuration, and what the manifest lowers it to.
fn bound<T: Ord>(
    agent: Option<T>,
    (manifest, all): (Option<T>, Option<T>),
    configured: Option<T>,
    origins: [&str; 2],
) -> (Option<T>, String) {
    let [agent_origin, configured_origin] = origins;
    if agent.is_some() {
        return (agent, agent_origin.to_owned());
    }
    let (most, origin) = match all {
        Some(all) => (Some(all), "policy"),
        None => (configured, configured_origin),
    };
    match (manifest, most) {
        (Some(own), None) => (Some(own), "manifest".to_owned()),
        (Some(own), Some(most)) if own < most => (Some(own), "manifest".to_owned()),
        (_, most) => (most, origin.to_owned()),
    }
}

/// What holds for connections to the outside, and where each value comes from. Where both the manifest and the operator
/// bound something, the tighter bound holds, unless the operator said it of this agent; where both list domains, both lists
/// have to agree, and both are shown.
pub(crate) fn values(
    settings: &Settings,
    manifest: Option<&AgentManifest>,
    said: Said<'_>,
) -> (WayOut, Vec<PolicyValue>) {
    let egress = &settings.egress;
    let access = manifest.map(|manifest| &manifest.security.network_access);
    let own = manifest
        .and_then(|manifest| manifest.policy.overrides().network)
        .unwrap_or_default();
    let configured = |key: &str| {
        let set = settings.policy_origins.get(key);
        set.map_or_else(|| "default".to_owned(), Clone::clone)
    };
    let rate = |bandwidth: Option<ByteCount>| {
        bandwidth.map(|bandwidth| u32::try_from(bandwidth.bytes()).unwrap_or(u32::MAX))
    };
    let asked = access.and_then(|access| access.max_connections);
    let key = "network.max_connections";
    let (connections, connections_by) = bound(
        said.agent.max_connections,
        (
            asked.into_iter().chain(own.max_connections).min(),
            said.all.max_connections,
        ),
        Some(egress.limits.connections),
        [said.agent_origin, &configured(key)],
    );
    let lowered = own
        .bandwidth_limit
        .map(|limit| limit.saturating_mul(KILOBYTE));
    let key = "network.bytes_per_second";
    let (bytes_per_second, rate_by) = bound(
        rate(said.agent.bandwidth),
        (lowered, rate(said.all.bandwidth)),
        egress.limits.bytes_per_second,
        [said.agent_origin, &configured(key)],
    );
    let way_out = WayOut {
        connections: connections.unwrap_or(egress.limits.connections),
        bytes_per_second,
    };
    let value = |key: &str, value: Value, by_manifest: bool| PolicyValue {
        key: key.to_owned(),
        value,
        origin: if by_manifest {
            "manifest".to_owned()
        } else {
            configured(key)
        },
    };
    let asked = access.and_then(|access| access.allowed_ports.as_ref());
    let ports: BTreeSet<u16> = match asked {
        Some(asked) => asked
            .iter()
            .copied()
            .filter(|port| egress.ports.contains(port))
            .collect(),
        None => egress.ports.clone(),
    };
    let bounded = |key: &str, value: Value, origin: String| PolicyValue {
        key: key.to_owned(),
        value,
        origin,
    };
    let mut values = vec![
        bounded(
            "network.max_connections",
            json!(way_out.connections),
            connections_by,
        ),
        bounded("network.bytes_per_second", json!(bytes_per_second), rate_by),
        value("network.ports", json!(ports), asked.is_some()),
    ];
    if let Some(protocols) = &own.allowed_protocols {
        values.push(value("network.allowed_protocols", json!(protocols), true));
    }
    for (key, manifest, operator) in [
        (
            "network.allowed_domains",
            access.and_then(|access| access.allowed_domains.as_ref()),
            egress.allowed.as_ref(),
        ),
        (
            "network.blocked_domains",
            access.and_then(|access| access.blocked_domains.as_ref()),
            Some(&egress.blocked),
        ),
    ] {
        values.extend(manifest.map(|list| value(key, json!(list), true)));
        values.push(value(key, json!(operator), false));
    }
    if let Some(access) = access {
        let asked = access.allow_outbound;
        values.push(value("network.allow_outbound", json!(asked), asked));
    }
    (way_out, values)
}

/// The vault, as one agent may use it on its way out. Asked for each request: a new value holds from the next one on.
#[derive(Debug)]
struct Purse {
    ctx: Arc<Context>,
    agent: AgentId,
}

impl Credentials for Purse {
    fn secret(&self, name: &str, host: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.ctx.secrets.brokered(name, self.agent.as_str(), host)
    }
}

/// Tells the metrics and the audit.
#[derive(Debug)]
struct Watch {
    ctx: Arc<Context>,
    services: Arc<dyn Services>,
    who: Traveller,
    /// The agent chose the names that are recorded.
    blotter: Blotter,
    digest: Mutex<Digest>,
    /// A window of the digest has begun.
    begun: tokio::sync::Notify,
}

impl Observer for Watch {
    fn denied(&self, denial: &Denial) {
        self.ctx.metrics.egress_denied(denial.code.name());
        if !denial.code.is_refusal() {
            return;
        }
        let mut denial = denial.clone();
        for text in [&mut denial.host, &mut denial.reason] {
            self.blotter.text(text);
        }
        let noted = self.digest().note(now().as_millis(), denial);
        if let Some(noted) = noted {
            self.tell(noted);
            self.begun.notify_one();
        }
    }

    fn opened(&self) {
        self.ctx.metrics.egress_opened();
    }
}

impl Watch {
    fn digest(&self) -> std::sync::MutexGuard<'_, Digest> {
        self.digest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, noted: Noted) {
        let Noted { denial, count } = noted;
        let Traveller {
            agent,
            instance,
            epoch,
        } = self.who.clone();
        tracing::info!(
            %agent, %instance, %epoch, code = denial.code.name(), host = denial.host, port = denial.port, count,
            "an agent was not let out"
        );
        self.services.egress_denied(EgressDenial {
            agent,
            instance,
            epoch,
            code: denial.code.name().to_owned(),
            host: denial.host,
            port: denial.port,
            rule: denial.rule,
            reason: denial.reason,
            count,
        });
    }

    /// Records what was only counted, at the end of each window.
    async fn flush(&self) {
        loop {
            self.begun.notified().await;
            let end = self.digest().ends_at();
            let Some(end) = end else { continue };
            let wait = end.saturating_sub(now().as_millis());
            tokio::time::sleep(Duration::from_millis(wait)).await;
            self.settle();
        }
    }

    fn settle(&self) {
        let rest = self.digest().end();
        for noted in rest {
            self.tell(noted);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The instance ends within a window: what was counted in it is told now.
        self.settle();
    }
}

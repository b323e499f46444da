//! From a manifest to a sandbox plan: what is asked for, and what this machine and the operator allow.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mesh_messages::agent::{ControlLevel, ControlView, SandboxView};
use mesh_messages::manifest::{
    AgentManifest, FileGrant, FileGrants, FileRights, Program as Wanted, ResourceKind,
    SandboxLevel, SecretMode,
};
use mesh_messages::policy::PolicyDocument;
use mesh_messages::problem::Problem;
use mesh_messages::{AgentId, Epoch, Failure, FailureClass, InstanceNo};
use mesh_sandbox::{
    BUNDLE_INSIDE, Execution, Ids, Level, Narrowed, NetworkAccess, Plan, PlanPolicy, Program,
    Rights, SandboxReport, SandboxSpec, SecretFile, TempAccess, interpreter_paths, plan,
};

use super::bundle::{bundle_dir, manifest_name};
use super::grants::{allowed_paths, former_users, is_forgotten};
use super::home;
use super::policy::{InstanceBounds, degradable, execution, resolve};
use super::users::{next_uid, users_at_work, write_next_uid};
use crate::context::{Context, Settings};
use crate::outbound::policy_of;

/// Where programs are looked for inside the sandbox.
const PATH_INSIDE: &str = "/usr/local/bin:/usr/bin:/bin";

/// Former users whose files are looked for in one start; a start does not wait for more.
const LOOKED_FOR_MAX: usize = 4;

/// Two starts must not be given the same user.
static UIDS: Mutex<()> = Mutex::new(());

/// Why a version cannot be started here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpawnRefusal {
    /// What it may reach cannot be worked out.
    #[error("{0}")]
    Network(String),
    /// The machine cannot enforce what is demanded, or the manifest's wishes cannot be.
    #[error("{0}")]
    Sandbox(String),
    /// Its interpreter is not here.
    #[error("runtime.command: {0}")]
    Interpreter(String),
    /// Secrets cannot be delivered.
    #[error("secrets[{index}]: {reason}")]
    Secrets {
        /// Which of the manifest's.
        index: usize,
        /// Why not.
        reason: String,
    },
    /// A path of the host is not granted.
    #[error("{field}: {text}")]
    Files {
        /// The manifest's field.
        field: String,
        /// What is wrong.
        text: String,
        /// Whether it is the operator who does not let it, rather than that it is not there.
        policy: bool,
    },
    /// Its home or user could not be prepared.
    #[error("its home cannot be prepared: {0}")]
    Home(String),
}

impl From<SpawnRefusal> for Problem {
    fn from(refusal: SpawnRefusal) -> Self {
        let code = match &refusal {
            SpawnRefusal::Files { policy: true, .. } => "policy_refused",
            _ => "start_refused",
        };
        let field = match &refusal {
            SpawnRefusal::Files { field, .. } => field.as_str(),
            SpawnRefusal::Network(_) => "security.networkAccess",
            SpawnRefusal::Sandbox(_) | SpawnRefusal::Home(_) => "security",
            SpawnRefusal::Interpreter(_) => "runtime.command",
            SpawnRefusal::Secrets { .. } => "secrets",
        };
        Problem::invalid(code, field, refusal.to_string())
    }
}

impl From<SpawnRefusal> for Failure {
    /// What is not there now may be there later, and is no fault of the agent's.
    fn from(refusal: SpawnRefusal) -> Self {
        let class = match &refusal {
            SpawnRefusal::Files { .. } => FailureClass::Unavailable,
            SpawnRefusal::Network(_)
            | SpawnRefusal::Sandbox(_)
            | SpawnRefusal::Interpreter(_)
            | SpawnRefusal::Secrets { .. }
            | SpawnRefusal::Home(_) => FailureClass::Start,
        };
        Self::new(class, refusal.to_string())
    }
}

/// One start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start<'a> {
    /// The manifest to run.
    pub(crate) manifest: &'a AgentManifest,
    /// Its bundle.
    pub(crate) digest: &'a str,
    /// Which replica.
    pub(crate) instance: InstanceNo,
    /// Which incarnation.
    pub(crate) epoch: Epoch,
    /// Tells several processes of one incarnation apart, as the `command` runtime has them.
    pub(crate) process: u64,
}

/// Plans the sandbox of a start. Looks at the disk, changes nothing.
///
/// # Errors
/// [`SpawnRefusal`].
pub(crate) fn plan_start(ctx: &Context, start: Start<'_>) -> Result<Plan, SpawnRefusal> {
    plan_under(ctx, start, &ctx.policy.load()).map(|(plan, _)| plan)
}

/// The same under this policy of the operator's, and all bounds that hold then.
///
/// # Errors
/// [`SpawnRefusal`].
pub(crate) fn plan_under(
    ctx: &Context,
    start: Start<'_>,
    policy: &PolicyDocument,
) -> Result<(Plan, InstanceBounds), SpawnRefusal> {
    let asked = asked(ctx, start, policy)?;
    Ok((planned(ctx, &asked)?, asked.bounds))
}

/// The same for a start that is to happen: once the plan stands, the instance gets a home and a user of its own. What is
/// refused leaves nothing behind.
///
/// # Errors
/// [`SpawnRefusal`].
pub(crate) fn plan_launch(
    ctx: &Context,
    start: Start<'_>,
) -> Result<(Plan, InstanceBounds), SpawnRefusal> {
    let mut asked = asked(ctx, start, &ctx.policy.load())?;
    let mut plan = planned(ctx, &asked)?;
    let own = own_user(ctx, &asked.spec.home)?;
    if own != asked.spec.ids {
        asked.spec.ids = own;
        plan = planned(ctx, &asked)?;
    }
    Ok((plan, asked.bounds))
}

/// What a start asks of the machine.
struct Asked {
    spec: SandboxSpec,
    demand: PlanPolicy,
    bounds: InstanceBounds,
}

fn planned(ctx: &Context, asked: &Asked) -> Result<Plan, SpawnRefusal> {
    plan(&asked.spec, ctx.launcher.probe(), &asked.demand).map_err(|refused| {
        let mut text = refused.to_string();
        let mut source = std::error::Error::source(&refused);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        SpawnRefusal::Sandbox(text)
    })
}

fn asked(ctx: &Context, start: Start<'_>, policy: &PolicyDocument) -> Result<Asked, SpawnRefusal> {
    let settings = &ctx.settings;
    let manifest = start.manifest;
    let policy = resolve(Some(manifest), settings, policy);
    let secrets = secrets(ctx, manifest)?;
    let granted = settings.open_network.contains(&manifest.id);
    let narrowed = manifest.security.narrows(ResourceKind::Network);
    let network = match (manifest.security.reaches_out(), granted) {
        (false, _) => NetworkAccess::None,
        (true, true) if narrowed => {
            let text = "security.permissions narrow its network, and sandbox.open_network opens it unfiltered; one of them has to go";
            return Err(SpawnRefusal::Network(text.to_owned()));
        }
        (true, true) if policy.profile == SandboxLevel::Maximum => {
            let text = "its profile is `maximum`, and sandbox.open_network names it; one of them has to go";
            return Err(SpawnRefusal::Network(text.to_owned()));
        }
        (true, true) => NetworkAccess::Open,
        (true, false) => {
            policy_of(ctx, manifest).map_err(SpawnRefusal::Network)?;
            NetworkAccess::Proxy
        }
    };
    let runtime = manifest.resolved_runtime();
    let (program, args, runtime_paths) = program(&runtime.program, runtime.args)?;
    let home = home_dir(&settings.data, manifest, start.instance);
    let bundle = bundle_dir(&settings.data, start.digest);
    let files = manifest.security.file_grants();
    let spec = SandboxSpec {
        label: manifest.id.to_string(),
        run_id: settings.run_id.clone(),
        name: sandbox_name(&start),
        program,
        args,
        env: environment(manifest, &bundle, runtime.env),
        workdir: Some(match runtime.workdir {
            Some(dir) => Path::new(BUNDLE_INSIDE).join(dir),
            None => PathBuf::from(BUNDLE_INSIDE),
        }),
        bundle: Some(bundle),
        ids: likely_user(ctx, &home)?,
        home_form: home::form(ctx, &home)?,
        home,
        state: settings.data.clone(),
        allowed_paths: allowed_paths(ctx, manifest)?,
        runtime_paths,
        temp: if files.temp.is_some() {
            TempAccess::Private
        } else {
            TempAccess::None
        },
        execution: match execution(policy.profile) {
            Execution::Anything if !files.execute() => Execution::Withheld,
            of_profile => of_profile,
        },
        narrowed: narrowed_to(&files),
        network,
        secrets,
        limits: policy.limits.kernel,
    };
    let demand = PlanPolicy {
        required: policy.sandbox_required,
        degradable: degradable(policy.profile, &settings.sandbox.degradable),
    };
    Ok(Asked {
        spec,
        demand,
        bounds: policy.limits,
    })
}

/// What of its files it may not do, although it sees them.
fn narrowed_to(files: &FileGrants) -> Narrowed {
    let rights = |rights: FileRights| Rights {
        write: rights.write,
        execute: rights.execute,
        delete: rights.delete,
    };
    let of_path = |grant: &FileGrant| (PathBuf::from(&grant.path), rights(grant.rights));
    // Without files of its own there, only what its processes share is left, and follows its home.
    let temp = files.temp.unwrap_or(FileRights {
        execute: files.home.execute,
        ..FileRights::ALL
    });
    Narrowed {
        home: rights(files.home),
        temp: rights(temp),
        paths: files.paths.iter().map(of_path).collect(),
    }
}

/// The files of those secrets that the agent gets as such; the others must at least be there for it.
fn secrets(ctx: &Context, manifest: &AgentManifest) -> Result<Vec<SecretFile>, SpawnRefusal> {
    let proxied =
        manifest.security.reaches_out() && !ctx.settings.open_network.contains(&manifest.id);
    let agent = manifest.id.as_str();
    let mut files = Vec::new();
    for (index, spec) in manifest.secrets.iter().enumerate() {
        let refused = |reason: String| SpawnRefusal::Secrets { index, reason };
        let name = spec.vault_name();
        match spec.mode {
            SecretMode::Mount => files.push(SecretFile {
                name: spec.name.clone(),
                content: ctx.secrets.mounted(name, agent).map_err(refused)?,
            }),
            SecretMode::Brokered if !proxied => {
                let reason = "a brokered secret is added by the egress proxy; set security.networkAccess.allowOutbound, and do \
                              not name the agent in sandbox.open_network";
                return Err(refused(reason.to_owned()));
            }
            SecretMode::Brokered => ctx.secrets.permits(name, agent).map_err(refused)?,
        }
    }
    Ok(files)
}

/// What would be enforced around a start of this agent, as the API shows it.
pub(crate) fn sandbox_view(
    ctx: &Context,
    manifest: &AgentManifest,
    report: &SandboxReport,
) -> SandboxView {
    let holds = resolve(Some(manifest), &ctx.settings, &ctx.policy.load());
    let degraded = report.degraded.iter();
    SandboxView {
        profile: holds.profile.name().to_owned(),
        degraded: degraded.map(|one| one.name().to_owned()).collect(),
        controls: report
            .controls
            .iter()
            .map(|e| ControlView {
                control: e.control.name().to_owned(),
                requested: e.requested.clone(),
                mechanism: e.mechanism.clone(),
                level: control_level(e.level),
                detail: e.detail.clone(),
            })
            .collect(),
    }
}

/// A level, as the API shows it.
pub(crate) const fn control_level(level: Level) -> ControlLevel {
    match level {
        Level::None => ControlLevel::None,
        Level::Advisory => ControlLevel::Advisory,
        Level::Kernel => ControlLevel::Kernel,
    }
}

/// Agents' ids may hold upper-case letters, which names of sandboxes may not; the epoch keeps them apart all the same.
fn sandbox_name(start: &Start<'_>) -> String {
    let id = start.manifest.id.as_str().to_ascii_lowercase();
    let tag = blake3::hash(start.manifest.id.as_str().as_bytes()).to_hex();
    let Start {
        instance,
        epoch,
        process,
        ..
    } = start;
    format!("{id}-{}-{instance}-{epoch}-{process}", &tag.as_str()[..6])
}

fn program(
    wanted: &Wanted,
    args: Vec<String>,
) -> Result<(Program, Vec<String>, Vec<PathBuf>), SpawnRefusal> {
    match wanted {
        Wanted::Builtin(name) => {
            let all = [crate::BUILTIN_VERB.to_owned(), name.clone()]
                .into_iter()
                .chain(args)
                .collect();
            Ok((Program::Image, all, Vec::new()))
        }
        Wanted::Bundle(path) => Ok((
            Program::Path(Path::new(BUNDLE_INSIDE).join(path)),
            args,
            Vec::new(),
        )),
        Wanted::Host(name) => {
            let search = search_path();
            let found = interpreter_paths(name, OsStr::new(&search))
                .map_err(|error| SpawnRefusal::Interpreter(error.to_string()))?;
            Ok((Program::Path(found.program), args, found.paths))
        }
    }
}

/// The operator's own search path: agents get the programs that the operator has.
fn search_path() -> String {
    std::env::var("PATH").unwrap_or_else(|_| PATH_INSIDE.to_owned())
}

fn environment(
    manifest: &AgentManifest,
    bundle: &Path,
    own: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH_INSIDE.to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        // Interpreters that buffer their output would never answer.
        ("PYTHONUNBUFFERED".to_owned(), "1".to_owned()),
        ("MESH_AGENT".to_owned(), manifest.id.to_string()),
        (
            "AGENT_CONFIG".to_owned(),
            format!("{BUNDLE_INSIDE}/{}", manifest_name(bundle)),
        ),
    ]);
    env.extend(own);
    env
}

/// Where an instance's home lies on the host. `#` is in no agent's id, so replicas cannot collide with other agents.
pub(crate) fn home_dir(data: &Path, manifest: &AgentManifest, instance: InstanceNo) -> PathBuf {
    let persona = serde_json::to_value(manifest.persona);
    let persona = persona
        .as_ref()
        .ok()
        .and_then(|p| p.as_str())
        .unwrap_or("utility");
    let name = match instance.0 {
        0 => manifest.id.to_string(),
        n => format!("{}#{n}", manifest.id),
    };
    data.join("home/agents").join(persona).join(name)
}

/// All homes of an agent.
pub(crate) fn homes_of(data: &Path, agent: &AgentId) -> Vec<PathBuf> {
    let ours = |name: &str| {
        name == agent.as_str()
            || name
                .strip_prefix(agent.as_str())
                .is_some_and(|rest| rest.starts_with('#'))
    };
    all_homes(data)
        .into_iter()
        .filter(|home| home.file_name().and_then(OsStr::to_str).is_some_and(ours))
        .collect()
}

fn all_homes(data: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(|e| Some(e.ok()?.path()))
            .collect()
    };
    entries(&data.join("home/agents"))
        .iter()
        .flat_map(|persona| entries(persona))
        .collect()
}

/// Removes the homes of agents that nobody knows, as a start that went no further leaves them, and with them the hold on
/// their users. Only empty ones: what was written is not for a rule to judge.
pub(crate) fn forget_unused_homes(data: &Path, known: impl Fn(&str) -> bool) {
    for home in all_homes(data) {
        let name = home.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if known(name.split('#').next().unwrap_or(name)) {
            continue;
        }
        // The kernel refuses for whatever holds anything; that an image does is not looked into.
        let removed = if home::is_image(data, &home) {
            Err(std::io::ErrorKind::DirectoryNotEmpty.into())
        } else {
            std::fs::remove_dir(&home)
        };
        match removed {
            Ok(()) => tracing::info!(home = %home.display(), "an unused home is removed"),
            Err(error) => tracing::warn!(
                home = %home.display(),
                %error,
                "a home belongs to no registered agent and is kept, with its user; remove it when nobody needs its files"
            ),
        }
    }
}

/// The user of a home: its owner, else the one that it would get now. Changes nothing.
fn likely_user(ctx: &Context, home: &Path) -> Result<Option<Ids>, SpawnRefusal> {
    user_of(ctx, home, |_| Ok(()))
}

/// The user of a home, which is made and given to it if it is not there.
fn own_user(ctx: &Context, home: &Path) -> Result<Option<Ids>, SpawnRefusal> {
    let data = &ctx.settings.data;
    user_of(ctx, home, |uid| {
        // Before anything is the user's: what is forgotten is at worst a user that nobody got.
        write_next_uid(data, uid + 1)?;
        create_home(data, home)?;
        std::os::unix::fs::chown(home, Some(uid), Some(uid))
    })
}

/// The owner of a home, else the first of the range that owns no home and is `taken` for it.
fn user_of(
    ctx: &Context,
    home: &Path,
    take: impl FnOnce(u32) -> std::io::Result<()>,
) -> Result<Option<Ids>, SpawnRefusal> {
    let settings: &Settings = &ctx.settings;
    if !ctx.launcher.probe().root {
        return Ok(None);
    }
    let (first, count) = settings.uids;
    let range = first..first.saturating_add(count);
    let _one_at_a_time = UIDS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Ok(meta) = std::fs::metadata(home)
        && range.contains(&meta.uid())
    {
        return Ok(Some(Ids {
            uid: meta.uid(),
            gid: meta.gid(),
        }));
    }
    let mut taken: BTreeSet<u32> = all_homes(&settings.data)
        .iter()
        .filter_map(|home| Some(std::fs::metadata(home).ok()?.uid()))
        .collect();
    let next = next_uid(&settings.data, &range, &taken);
    let former = former_users(&settings.data);
    // Another meshd of this host may give out the same range.
    taken.extend(users_at_work(&range));
    let free = || {
        let all = (next..range.end).chain(range.start..next);
        all.filter(|uid| !taken.contains(uid))
    };
    // Those whose files may lie somewhere come last, as that takes looking there.
    let uid = free()
        .find(|uid| !former.contains(uid))
        .or_else(|| {
            free()
                .take(LOOKED_FOR_MAX)
                .find(|uid| is_forgotten(&settings.data, *uid))
        })
        .ok_or_else(|| {
            SpawnRefusal::Home(format!(
                "no user id is free in {range:?}, as those without a home may have files where they were granted to write; raise \
                 sandbox.uid_range.count"
            ))
        })?;
    take(uid).map_err(|error| SpawnRefusal::Home(format!("{}: {error}", home.display())))?;
    Ok(Some(Ids { uid, gid: uid }))
}

/// Writes a small file of meshd's own, whole or not at all, and on the disk when this returns.
pub(super) fn write_kept(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path.parent().unwrap_or(path))?;
    let draft = path.with_extension("draft");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(draft, path)
}

fn create_home(data: &Path, home: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(home.parent().unwrap_or(data))?;
    match std::fs::DirBuilder::new().mode(0o700).create(home) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_homes_of_agents_that_nobody_knows_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let homes = dir.path().join("home/agents/utility");
        for name in ["kept", "kept#1", "gone", "gone#2", "wrote"] {
            std::fs::create_dir_all(homes.join(name)).unwrap();
        }
        std::fs::write(homes.join("wrote/note"), "x").unwrap();
        forget_unused_homes(dir.path(), |agent| agent == "kept");
        let left = |name: &str| homes.join(name).exists();
        let all = ["kept", "kept#1", "gone", "gone#2", "wrote"].map(left);
        assert_eq!(all, [true, true, false, false, true]);
    }
}

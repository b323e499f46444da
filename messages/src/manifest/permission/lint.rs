//! What is wrong with permissions: each names something that is enforced, or the manifest is refused.

use super::files::{HOME, TEMP, within};
use super::{Action, Permission, ResourceKind, SecurityConfig};
use crate::access::AccessVerb;
use crate::address::TopicPattern;
use crate::manifest::security::SecretSpec;
use crate::schema::FieldError;

/// A name that differs from that of a kind by so many letters is taken for a slip of the pen.
const SLIP_MAX: usize = 2;

/// Checks the permissions of a manifest, and what else of it they leave.
pub(in crate::manifest) fn lint(
    config: &SecurityConfig,
    errors: &mut Vec<FieldError>,
    notices: &mut Vec<FieldError>,
) {
    let Some(list) = config.permissions.as_deref() else {
        return;
    };
    for (index, permission) in list.iter().enumerate() {
        let at = |field: &str| format!("security.permissions[{index}].{field}");
        match permission.kind() {
            Some(kind) => {
                let wrong = [
                    ("actions", actions(kind, permission)),
                    ("scope", scope(kind, permission)),
                ];
                let wrong = wrong
                    .into_iter()
                    .filter_map(|(field, why)| Some((field, why?)));
                errors.extend(wrong.map(|(field, why)| FieldError::new(at(field), why)));
            }
            None => named(permission, at, errors, notices),
        }
    }
    void(config, notices);
}

/// What a kind does not know.
fn actions(kind: ResourceKind, permission: &Permission) -> Option<String> {
    let known = kind.actions();
    let unknown = permission.actions.iter().find(|one| !known.contains(one));
    if let Some(unknown) = unknown {
        let known: Vec<&str> = known.iter().map(|one| one.name()).collect();
        return Some(format!(
            "nothing of `{}` is a matter of `{}`; there are {}",
            kind.name(),
            unknown.name(),
            known.join(", ")
        ));
    }
    let blind = kind == ResourceKind::File && !permission.actions.contains(&Action::Read);
    let own = matches!(permission.scope.as_deref(), Some(HOME | TEMP));
    (blind && !own).then(|| "files that it may not read are not shown to it; add read".to_owned())
}

fn scope(kind: ResourceKind, permission: &Permission) -> Option<String> {
    let scope = permission.scope.as_deref()?;
    match kind {
        ResourceKind::File => {
            let plain = scope.starts_with('/')
                && !scope.contains('\0')
                && !scope.split('/').any(|part| part == "." || part == "..");
            let known = plain || scope == HOME || scope == TEMP;
            (!known)
                .then(|| format!("{scope:?} is no absolute path without .., nor `home` or `temp`"))
        }
        ResourceKind::Network => {
            let name = scope.strip_prefix("*.").unwrap_or(scope);
            let legal =
                |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
            (name.is_empty() || !name.bytes().all(legal))
                .then(|| format!("{scope:?} is no domain such as example.com or *.example.com"))
        }
        ResourceKind::Topic => scope
            .parse::<TopicPattern>()
            .is_err()
            .then(|| format!("{scope:?} is no topic such as orders.new or orders.>")),
        ResourceKind::Api => {
            let known = match scope.strip_suffix('*') {
                Some(_) => true,
                None => AccessVerb::named(scope).is_some(),
            };
            (!known).then(|| {
                let names = AccessVerb::ALL.map(AccessVerb::name).join(", ");
                format!("there is no action {scope:?}; there are {names}")
            })
        }
        ResourceKind::Secret
        | ResourceKind::Memory
        | ResourceKind::Capability
        | ResourceKind::Agent
        | ResourceKind::Claim => {
            let inside = scope.strip_suffix('*').unwrap_or(scope).contains('*');
            inside.then(|| "`*` stands at the end only".to_owned())
        }
    }
}

/// A permission for an agent, or a capability, that it calls by name.
fn named(
    permission: &Permission,
    at: impl Fn(&str) -> String,
    errors: &mut Vec<FieldError>,
    notices: &mut Vec<FieldError>,
) {
    let kinds = ResourceKind::ALL.map(ResourceKind::name);
    let lower = permission.resource.to_ascii_lowercase();
    let slip = kinds
        .iter()
        .find(|kind| strsim::osa_distance(kind, &lower) <= SLIP_MAX);
    if let Some(kind) = slip {
        let text = format!("no kind of resource that is enforced; did you mean \"{kind}\"?");
        errors.push(FieldError::new(at("resource"), text));
        return;
    }
    if permission.actions.contains(&Action::Delete) {
        let text =
            "no agent and no capability is anybody's to delete; there are read, write, execute";
        errors.push(FieldError::new(at("actions"), text));
    }
    if permission.scope.is_some() {
        let text = "belongs to a kind of resource; an agent or a capability is named as a whole";
        errors.push(FieldError::new(at("scope"), text));
    }
    let text = format!(
        "is taken for the agent or the capability {:?}, as it is none of {}",
        permission.resource,
        kinds.join(", ")
    );
    notices.push(FieldError::new(at("resource"), text));
}

/// Secrets that it could not have: it would start and not find what it was written to need.
pub(in crate::manifest) fn secrets(
    config: &SecurityConfig,
    secrets: &[SecretSpec],
    errors: &mut Vec<FieldError>,
) {
    for (index, secret) in secrets.iter().enumerate() {
        if let Some(need) = config.missing([SecurityConfig::secret_need(secret)]) {
            let text = format!("{need} is not among security.permissions");
            errors.push(FieldError::new(format!("secrets[{index}]"), text));
        }
    }
}

/// Sections of which nothing is left.
fn void(config: &SecurityConfig, notices: &mut Vec<FieldError>) {
    if config.network_access.allow_outbound && !config.reaches_out() {
        let text = "has no effect: security.permissions has nothing of `network`";
        notices.push(FieldError::new("security.networkAccess", text));
    }
    let left = config.file_grants();
    for (index, path) in config.file_access.allowed_paths.iter().enumerate() {
        let some =
            |grant: &super::FileGrant| within(path, &grant.path) || within(&grant.path, path);
        if !left.paths.iter().any(some) {
            let at = format!("security.fileAccess.allowedPaths[{index}]");
            let text = "has no effect: security.permissions has no `file` to read there";
            notices.push(FieldError::new(at, text));
        }
    }
}

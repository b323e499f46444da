//! Which version an upgrade or a rollback leads to.

use super::AgentState;

/// Why a version cannot be exchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionRefusal {
    /// It was never registered.
    #[error("version {0} is not registered; deploy it first")]
    Unknown(String),
    /// It is in force already.
    #[error("version {0} is in force already")]
    Same(String),
    /// It is older, and nobody insisted.
    #[error("version {to} is older than {from}; use rollback, or forceful")]
    Older {
        /// In force.
        from: String,
        /// Asked for.
        to: String,
    },
    /// There is nothing to go back to, or to go on to.
    #[error("no other version is registered")]
    Nothing,
}

/// The version that an upgrade leads to: the one named, else the highest.
///
/// # Errors
/// [`VersionRefusal`].
pub fn pick_upgrade(
    state: &AgentState,
    target: Option<&str>,
    forceful: bool,
) -> Result<String, VersionRefusal> {
    let current = state.version().ok_or(VersionRefusal::Nothing)?;
    let (text, version) = match target {
        Some(text) => state
            .versions
            .get_key_value(text)
            .ok_or_else(|| VersionRefusal::Unknown(text.to_owned()))?,
        None => state
            .versions
            .iter()
            .max_by(|a, b| a.1.manifest.version.cmp_precedence(&b.1.manifest.version))
            .ok_or(VersionRefusal::Nothing)?,
    };
    if Some(text) == state.current.as_ref() {
        return Err(VersionRefusal::Same(text.clone()));
    }
    if version
        .manifest
        .version
        .cmp_precedence(&current.manifest.version)
        .is_lt()
        && !forceful
    {
        return Err(VersionRefusal::Older {
            from: current.manifest.version.to_string(),
            to: text.clone(),
        });
    }
    Ok(text.clone())
}

/// The version that a rollback leads to: the one named, else the one that was in force before.
///
/// # Errors
/// [`VersionRefusal`].
pub fn pick_rollback(state: &AgentState, target: Option<&str>) -> Result<String, VersionRefusal> {
    let text = match target {
        Some(text) => text.to_owned(),
        None => state.past.last().cloned().ok_or(VersionRefusal::Nothing)?,
    };
    if !state.versions.contains_key(&text) {
        return Err(VersionRefusal::Unknown(text));
    }
    if state.current.as_deref() == Some(&text) {
        return Err(VersionRefusal::Same(text));
    }
    Ok(text)
}

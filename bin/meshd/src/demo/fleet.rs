//! The demo's agents: the same manifests that lie in `config/agents`, as anybody could deploy them.

use std::path::Path;

use anyhow::Context as _;
use mesh_messages::agent::{ControlLevel, SandboxView};
use mesh_messages::manifest::{ManifestFormat, parse_manifest};
use serde_json::{Value, json};

/// Who is in it: manifest, whether it gets to read the files, and what it is for.
const FLEET: [(&str, bool, &str, &str); 4] = [
    (
        include_str!("../../../../config/agents/planner/manifest.yaml"),
        true,
        "planner",
        "splits the tree and delegates file by file",
    ),
    (
        include_str!("../../../../config/agents/analyst/manifest.yaml"),
        true,
        "analyst ×3",
        "measures one file at a time",
    ),
    (
        include_str!("../../../../config/agents/fragile-analyst/manifest.yaml"),
        true,
        "fragile-analyst",
        "tries the same, but crashes on the files it gets",
    ),
    (
        include_str!("../../../../config/agents/reporter/manifest.yaml"),
        false,
        "reporter",
        "joins the findings into a report; it sees no file",
    ),
];

/// Columns of a list: what every terminal has, less the indentation.
const WIDTH: usize = 76;

/// The agent whose sandbox is shown.
pub(super) const EXAMPLE: &str = "analyst";

/// The agent that fails.
pub(super) const FRAGILE: &str = "fragile-analyst";

/// Who is who, for a reader who has never seen this.
pub(super) fn introduction() -> String {
    FLEET
        .map(|(_, _, name, task)| format!("{name:<16} {task}"))
        .join("\n")
}

/// The manifests, with leave to read what is below `root` for those who need it.
pub(super) fn manifests(root: &Path) -> anyhow::Result<Vec<Value>> {
    let root = root.to_str().context("the path is not UTF-8")?;
    FLEET
        .into_iter()
        .map(|(text, reads, _, _)| manifest(text, reads.then_some(root)))
        .collect()
}

fn manifest(text: &str, readable: Option<&str>) -> anyhow::Result<Value> {
    let mut manifest = parse_manifest(text.as_bytes(), ManifestFormat::Yaml)?.source;
    if let Some(path) = readable {
        manifest["security"]["fileAccess"] = json!({"allowedPaths": [path], "readOnly": true});
    }
    Ok(manifest)
}

/// Which controls hold, and by whom.
pub(super) fn sandbox(view: &SandboxView) -> String {
    let of = |level: ControlLevel| -> Vec<&str> {
        view.controls
            .iter()
            .filter(|c| c.level == level)
            .map(|c| c.control.as_str())
            .collect()
    };
    let rows = [
        ("by the kernel", of(ControlLevel::Kernel)),
        ("advisory", of(ControlLevel::Advisory)),
        ("not enforced", of(ControlLevel::None)),
    ];
    let rows = rows
        .into_iter()
        .filter(|(_, controls)| !controls.is_empty());
    let mut text: Vec<String> = rows
        .flat_map(|(by, controls)| wrapped(by, &controls))
        .collect();
    if view
        .controls
        .iter()
        .any(|control| control.level != ControlLevel::Kernel)
    {
        text.push(format!("{:<14} says how to get the rest", "meshd doctor"));
    }
    text.join("\n")
}

/// A name, and beside it a list that is broken where a line is full.
fn wrapped(name: &str, items: &[&str]) -> Vec<String> {
    let mut lines = vec![format!("{name:<14} ")];
    for (index, item) in items.iter().enumerate() {
        let comma = if index + 1 < items.len() { ", " } else { "" };
        if let Some(line) = lines
            .last_mut()
            .filter(|line| line.len() + item.len() < WIDTH)
        {
            line.push_str(item);
            line.push_str(comma);
        } else {
            lines.push(format!("{:<14} {item}{comma}", ""));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_agent_that_is_shipped_has_a_manifest_that_holds() {
        let agents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/agents");
        let mut seen = Vec::new();
        for bundle in fs::read_dir(agents).unwrap() {
            let bundle = bundle.unwrap().path();
            let named = ["manifest.json", "manifest.yaml"].map(|name| bundle.join(name));
            let path = named
                .iter()
                .find(|path| path.exists())
                .unwrap_or_else(|| panic!("{}", bundle.display()));
            let parsed = parse_manifest(&fs::read(path).unwrap(), ManifestFormat::of_path(path))
                .unwrap_or_else(|errors| panic!("{}: {errors}", path.display()));
            let id = parsed.manifest.id.to_string();
            assert_eq!(bundle.file_name().unwrap(), id.as_str());
            match parsed
                .manifest
                .entry
                .as_deref()
                .unwrap()
                .strip_prefix("builtin:")
            {
                Some(name) => assert!(crate::builtin::NAMES.contains(&name), "{id}: {name}"),
                None => assert!(bundle.join(parsed.manifest.entry.unwrap()).exists(), "{id}"),
            }
            seen.push(id);
        }
        seen.sort();
        let all = [
            "analyst",
            "author",
            "calendarAgent",
            "echo",
            "echo-node",
            "echo-python",
            "fragile-analyst",
            "planner",
            "reporter",
            "responder",
            "word-counter",
        ];
        assert_eq!(seen, all);
    }

    #[test]
    fn only_who_needs_the_files_may_read_them_and_nobody_may_write() {
        let manifests = manifests(Path::new("/tree")).unwrap();
        let access = |id: &str| {
            let of = manifests
                .iter()
                .find(|manifest| manifest["id"] == id)
                .unwrap();
            let parsed = parse_manifest(of.to_string().as_bytes(), ManifestFormat::Json).unwrap();
            parsed.manifest.security.file_access
        };
        for id in ["planner", "analyst", "fragile-analyst"] {
            assert_eq!(access(id).allowed_paths, ["/tree"], "{id}");
            assert!(access(id).read_only);
        }
        assert!(access("reporter").allowed_paths.is_empty());
    }
}

//! How many there are: agents by status, tasks by state, all agents on this node.

use std::collections::BTreeMap;

use serde_json::Value;

use mesh_actors_core::projection;
use mesh_messages::problem::Problem;
use mesh_messages::system::NodeInfo;
use mesh_messages::task::TaskState;

use super::Mesh;
use super::views::status_of;
use crate::clock::now;
use crate::reads::{self, LookupError, StoreReader};

impl Mesh {
    /// This node, as the list of nodes shows it.
    pub(super) fn node_infos(&self) -> Vec<NodeInfo> {
        let url =
            std::fs::read_to_string(self.ctx.settings.data.join("endpoint")).unwrap_or_default();
        vec![NodeInfo {
            id: self.ctx.node.did.to_string(),
            state: "up".to_owned(),
            version: self.ctx.settings.version.clone(),
            url: url.trim().to_owned(),
            agents: self.agent_counts().values().sum(),
        }]
    }

    pub(super) fn agent_counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        let at = now();
        for entry in self.ctx.directory.all() {
            let status = status_of(&entry, at).status;
            if let Ok(Value::String(name)) = serde_json::to_value(status) {
                *counts.entry(name).or_insert(0) += 1;
            }
        }
        counts.remove("not_found");
        counts
    }

    pub(super) async fn task_counts(&self) -> Result<BTreeMap<String, u64>, Problem> {
        let store = self.ctx.store.get()?;
        reads::caught_up(&store).await?;
        let counts = reads::blocking(store, |store| {
            projection::task_counts(&StoreReader(store)).map_err(LookupError::from)
        })
        .await?;
        Ok(counts
            .into_iter()
            .map(|(state, n): (TaskState, u64)| (state.name().to_owned(), n))
            .collect())
    }
}

//! What the past says of agents, as it is shown: how much they completed, and how good it was.

use std::collections::BTreeMap;

use mesh_actors_core::routing::TypeRecord;
use mesh_messages::problem::Problem;

use super::Mesh;
use crate::directory::AgentEntry;
use crate::operations::{AgentInsights, CapabilityInsight, TypeInsight};

impl Mesh {
    /// What its past tasks say of an agent.
    pub(super) async fn insights_of(&self, entry: &AgentEntry) -> Result<AgentInsights, Problem> {
        let record = self.orchestrator.stats(&entry.id).await?;
        let quality = record.quality;
        let mut types: BTreeMap<String, TypeRecord> = record.types.into_iter().collect();
        // What was verified may have been tried by somebody else first, or reported from outside.
        for kind in quality.types.keys() {
            types.entry(kind.clone()).or_default();
        }
        let by_type: Vec<TypeInsight> = types
            .into_iter()
            .map(|(kind, record)| TypeInsight {
                attempts: record.attempts(),
                succeeded: record.succeeded,
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "milliseconds of an attempt fit a float"
                )]
                mean_duration_ms: record.mean_duration_ms().map(|ms| ms as f64),
                quality: quality.types.get(&kind).copied().unwrap_or_default(),
                kind,
            })
            .collect();
        let by_capability = quality.capabilities.into_iter();
        Ok(AgentInsights {
            attempts: by_type.iter().map(|t| t.attempts).sum(),
            succeeded: by_type.iter().map(|t| t.succeeded).sum(),
            by_type,
            quality: quality.all,
            by_capability: by_capability
                .map(|(capability, quality)| CapabilityInsight {
                    capability,
                    quality,
                })
                .collect(),
        })
    }

    /// All metrics, as text.
    pub(super) async fn metrics_text(&self) -> Result<String, Problem> {
        let tasks = self.task_counts().await?;
        let records = self.ctx.store.get()?.journal.durable().borrow().size();
        let quality = self.orchestrator.qualities().await?;
        let sums = quality.into_iter().map(|(agent, known)| (agent, known.all));
        self.ctx.metrics.set_quality(sums);
        let agents = self.agent_counts();
        Ok(self.ctx.metrics.render(&agents, &tasks, records))
    }
}

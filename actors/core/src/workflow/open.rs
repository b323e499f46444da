//! What has to be under way, as far as the state tells.

use super::decide::Effect;
use super::plan::Work;
use super::state::Workflows;
use super::units::effect_of;

impl Workflows {
    /// What has to be under way: after a restart, everything is asked for again and finds what is there.
    pub fn open_work(&self) -> Vec<Effect> {
        let mut work = Vec::new();
        for (task, place) in &self.index.open {
            let Some(run) = self.run(&place.run) else {
                continue;
            };
            let step = &run.steps[place.step];
            let stopping = !place.undo && (run.ending.is_some() || step.error.is_some());
            if stopping {
                work.push(Effect::Cancel {
                    task: task.clone(),
                    reason: "the step has failed".to_owned(),
                });
            } else {
                work.extend(effect_of(run, place.step, place.index, place.undo));
            }
        }
        // What waits for its draft has no task yet.
        for run in self
            .runs()
            .filter(|run| run.ended.is_none() && run.ending.is_none())
        {
            for (number, (plan, step)) in run.plan.steps.iter().zip(&run.steps).enumerate() {
                let waits = step.is_running() && step.error.is_none();
                if waits && matches!(plan.work, Work::Team(_)) {
                    let units = 0..step.units.len();
                    work.extend(units.filter_map(|index| effect_of(run, number, index, false)));
                }
            }
        }
        work
    }
}

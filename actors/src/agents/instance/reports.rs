//! What an instance reports of its attempts, in order.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use mesh_messages::{AgentId, InstanceNo};

use crate::agents::delivery::AttemptNews;
use crate::agents::services::Services;

/// How long the end of an instance waits for what it reported before. The task machine takes a report as soon as it is
/// durable, which a busy disk may delay for seconds; a result overtaken by the end of its instance would be lost. While
/// the task machine is being restarted, the agent should not wait for ever.
const TAKEN_MAX: Duration = Duration::from_secs(15);

/// Passes reports on one after the other, so that an attempt does not end before it started, and its result is not
/// overtaken by the end of its instance. Also what was reported last is passed on when the instance is gone.
#[derive(Debug)]
pub(super) struct Reports {
    // Not bounded by itself: a start and an end for each attempt that the task machine has given out, which gives out
    // no more than the agent's concurrency before it has taken them.
    queue: mpsc::UnboundedSender<AttemptNews>,
    done: JoinHandle<()>,
}

impl Reports {
    pub(super) fn start(
        services: &Arc<dyn Services>,
        agent: &AgentId,
        instance: InstanceNo,
    ) -> Self {
        let (queue, mut news) = mpsc::unbounded_channel();
        let (services, agent) = (Arc::clone(services), agent.clone());
        let done = ractor::concurrency::spawn(async move {
            while let Some(news) = news.recv().await {
                services.report(&agent, instance, news).await;
            }
        });
        Self { queue, done }
    }

    pub(super) fn send(&self, news: AttemptNews) {
        // The task ends only after its queue.
        let _never_closed = self.queue.send(news);
    }

    /// Waits until all reports were taken, but not for ever.
    pub(super) async fn finish(self) {
        self.finish_within(TAKEN_MAX).await;
    }

    async fn finish_within(self, limit: Duration) {
        drop(self.queue);
        let _late = tokio::time::timeout(limit, self.done).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use tokio::sync::Semaphore;

    use mesh_messages::klp::{Envelope, KlpError, MemoryOp, MemoryReply};
    use mesh_messages::{AttemptNo, Epoch, Failure, TaskId};

    use super::*;
    use crate::agents::services::Delegation;
    use crate::directory::AgentEntry;

    /// A task machine that takes a report for each permit.
    #[derive(Debug)]
    struct Slow {
        permits: Semaphore,
        taken: Mutex<Vec<&'static str>>,
    }

    #[async_trait]
    impl Services for Slow {
        async fn report(&self, _: &AgentId, _: InstanceNo, news: AttemptNews) {
            self.permits.acquire().await.unwrap().forget();
            self.taken.lock().unwrap().push(match news {
                AttemptNews::Started { .. } => "started",
                AttemptNews::Progress { .. } => "progress",
                AttemptNews::Ended { .. } => "ended",
            });
        }
        async fn delegate(&self, _: Delegation) -> Result<TaskId, KlpError> {
            unreachable!("nobody delegates here")
        }
        async fn memory(&self, _: &AgentId, _: &AgentId, _: MemoryOp) -> MemoryReply {
            unreachable!("nobody remembers here")
        }
        async fn pass_on(
            &self,
            _: &AgentId,
            _: Epoch,
            _: Envelope,
        ) -> Result<Option<Envelope>, KlpError> {
            Ok(None)
        }
        fn fleet_changed(&self, _: &AgentEntry) {}
        fn fleet_gone(&self, _: &AgentId) {}
        fn fleet_complete(&self) {}
        fn agent_ready(&self, _: &AgentId) {}
        fn instance_down(&self, _: &AgentId, _: InstanceNo, _: Epoch, _: Failure) {}
        fn idle(&self, _: &AgentId) {}
        fn isolate(&self, _: &AgentId) {}
        fn release(&self, _: &AgentId) {}
        fn seal(&self, _: &AgentId) {}
        fn escalate(&self, _: &AgentId, _: &str) {}
        fn egress_denied(&self, _: mesh_messages::events::EgressDenial) {}
        fn upgrade_done(&self, _: &AgentId, _: Option<String>) {}
    }

    fn reported(permits: usize) -> (Arc<Slow>, Reports) {
        let slow = Arc::new(Slow {
            permits: Semaphore::new(permits),
            taken: Mutex::default(),
        });
        let services: Arc<dyn Services> = Arc::clone(&slow) as Arc<dyn Services>;
        let agent = AgentId::new("a").unwrap();
        let reports = Reports::start(&services, &agent, InstanceNo(0));
        let (task, attempt, epoch) = (TaskId::new("t1").unwrap(), AttemptNo(1), Epoch(1));
        reports.send(AttemptNews::Started {
            task: task.clone(),
            attempt,
            epoch,
        });
        reports.send(AttemptNews::Ended {
            task,
            attempt,
            epoch,
            result: Ok(serde_json::Value::Null),
        });
        (slow, reports)
    }

    #[tokio::test]
    async fn the_end_waits_until_everything_was_taken_in_order() {
        let (slow, reports) = reported(2);
        reports.finish().await;
        assert_eq!(*slow.taken.lock().unwrap(), ["started", "ended"]);
    }

    #[tokio::test]
    async fn a_task_machine_that_is_away_holds_up_the_end_for_a_moment_only_and_gets_all_later() {
        let (slow, reports) = reported(1);
        reports.finish_within(Duration::from_millis(20)).await;
        assert_eq!(*slow.taken.lock().unwrap(), ["started"]);
        slow.permits.add_permits(1);
        crate::testing::until("the last report", || slow.taken.lock().unwrap().len() == 2).await;
    }
}

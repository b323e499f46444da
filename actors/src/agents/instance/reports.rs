//! What an instance reports of its attempts, in order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use mesh_messages::{AgentId, InstanceNo};

use crate::agents::delivery::AttemptNews;
use crate::agents::services::Services;

/// How long the end of an instance waits for what it reported before. The task machine takes a report as soon as it is
/// durable, which a busy disk may delay for seconds; a result overtaken by the end of its instance would be lost. While
/// the task machine is being restarted, the agent should not wait for ever.
const TAKEN_MAX: Duration = Duration::from_secs(15);

/// Most reports that are passed on at once. Whatever came while the last ones became durable goes together: so a sync of
/// the disk is shared by all that waits for it, and an agent with many tasks in hand is not held to one task a sync.
const REPORTS_AT_ONCE: usize = 256;

/// Passes reports on in order, so that an attempt does not end before it started, and its result is not
/// overtaken by the end of its instance. Also what was reported last is passed on when the instance is gone.
///
/// Nothing is there while there is nothing to report. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Reports(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    services: Arc<dyn Services>,
    agent: AgentId,
    instance: InstanceNo,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    // Not bounded by itself: a start, a word and an end for each attempt that the task machine has given out, which gives out
    // no more than the agent's concurrency before it has taken them.
    news: VecDeque<AttemptNews>,
    // Passes it on, until nothing is left.
    passing: Option<JoinHandle<()>>,
}

impl Reports {
    pub(super) fn new(services: &Arc<dyn Services>, agent: &AgentId, instance: InstanceNo) -> Self {
        Self(Arc::new(Inner {
            services: Arc::clone(services),
            agent: agent.clone(),
            instance,
            queue: Mutex::default(),
        }))
    }

    pub(super) fn send(&self, news: AttemptNews) {
        let mut queue = self.0.lock();
        queue.news.push_back(news);
        if queue.passing.is_none() {
            let inner = Arc::clone(&self.0);
            queue.passing = Some(ractor::concurrency::spawn(inner.pass_on()));
        }
    }

    /// Waits until all reports were taken, but not for ever.
    pub(super) async fn finish(self) {
        self.finish_within(TAKEN_MAX).await;
    }

    async fn finish_within(self, limit: Duration) {
        let passing = self.0.lock().passing.take();
        if let Some(passing) = passing {
            let _late = tokio::time::timeout(limit, passing).await;
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass_on(self: Arc<Self>) {
        loop {
            let news = {
                let mut queue = self.lock();
                if queue.news.is_empty() {
                    // Whoever sends next starts anew.
                    queue.passing = None;
                    return;
                }
                let count = queue.news.len().min(REPORTS_AT_ONCE);
                queue.news.drain(..count).collect()
            };
            self.services.report(&self.agent, self.instance, news).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::sync::Semaphore;

    use mesh_messages::address::Address;
    use mesh_messages::klp::{ClaimReply, Envelope, KlpError, MemoryOp, MemoryReply};
    use mesh_messages::manifest::Need;
    use mesh_messages::problem::Problem;
    use mesh_messages::{AttemptNo, Epoch, Failure, TaskId};

    use super::*;
    use crate::agents::services::{ClaimRequest, Delegation};
    use crate::directory::AgentEntry;
    use crate::operations::Action;

    /// A task machine that takes a report for each permit.
    #[derive(Debug)]
    struct Slow {
        permits: Semaphore,
        taken: Mutex<Vec<&'static str>>,
    }

    #[async_trait]
    impl Services for Slow {
        async fn report(&self, _: &AgentId, _: InstanceNo, news: Vec<AttemptNews>) {
            for news in news {
                self.permits.acquire().await.unwrap().forget();
                self.taken.lock().unwrap().push(match news {
                    AttemptNews::Said { .. } => "said",
                    AttemptNews::Started { .. } => "started",
                    AttemptNews::Progress { .. } => "progress",
                    AttemptNews::Checking { .. } => "checking",
                    AttemptNews::Checked { .. } => "checked",
                    AttemptNews::Used { .. } => "used",
                    AttemptNews::Ended { .. } => "ended",
                });
            }
        }
        async fn delegate(&self, _: Delegation) -> Result<TaskId, KlpError> {
            unreachable!("nobody delegates here")
        }
        async fn stands_still(&self, _: &TaskId) -> bool {
            false
        }
        fn give_up(&self, _: TaskId, _: String) {}
        async fn claim(&self, _: ClaimRequest) -> Option<ClaimReply> {
            unreachable!("nobody claims here")
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
        async fn answered(
            &self,
            _: &AgentId,
            _: Epoch,
            (_, envelope): (&Address, Envelope),
        ) -> Result<Envelope, KlpError> {
            Ok(envelope)
        }
        fn heard(&self, _: &AgentId, _: &Envelope) {}
        fn open_session(
            &self,
            _: &AgentId,
            _: Epoch,
        ) -> Result<mesh_messages::klp::SessionToken, KlpError> {
            unreachable!("nobody asks for a token here")
        }
        fn close_session(&self, _: &AgentId, _: Epoch) {}
        fn key_of(&self, _: &AgentId) -> Option<mesh_messages::identity::DidKey> {
            None
        }
        fn fleet_changed(&self, _: &AgentEntry) {}
        fn fleet_gone(&self, _: &AgentId) {}
        fn fleet_complete(&self) {}
        fn agent_ready(&self, _: &AgentId) {}
        fn instance_down(
            &self,
            _: mesh_actors_core::routing::InstanceKey,
            _: Failure,
            _: Option<mesh_messages::Position>,
        ) {
        }
        fn idle(&self, _: &AgentId) {}
        fn isolate(&self, _: &AgentId) {}
        fn release(&self, _: &AgentId) {}
        fn seal(&self, _: &AgentId) {}
        fn escalate(&self, _: &AgentId, _: &str) {}
        fn called(
            &self,
            _: mesh_messages::events::SentinelEvent,
            _: Option<crate::partition::Cause>,
        ) {
        }
        fn line_refused(&self, _: &AgentId, _: &str) {}
        fn lacks(&self, _: &AgentId, _: Action, _: &str, _: &Need) -> Problem {
            Problem::internal("nothing asks")
        }
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
        let reports = Reports::new(&services, &agent, InstanceNo(0));
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

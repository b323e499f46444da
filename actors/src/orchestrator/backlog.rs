//! News of agents that come faster than they can be taken in: put aside, and taken in many at once.
//!
//! When thousands of agents crash in one moment, each has several things to tell, and a task that somebody submits
//! meanwhile would wait for all of them. What waits in the mailbox is therefore looked at first, and only put aside when it
//! is news of agents; then a batch of those gets its turn, then again what has come since.
//!
//! An agent's news stay in their order. That reports on attempts and new tasks overtake them is nothing new: they come from
//! other actors, and the news of an instance's end are sent only when its reports were taken.

use std::collections::VecDeque;

use ractor::ActorProcessingErr;

use mesh_actors_core::task::{Command, FleetChange, FleetNews};
use mesh_messages::AgentId;

use super::{Message, Shell};
use crate::partition::Cause;

/// News between two looks at the mailbox that are taken in as they come: what happens in the quiet is decided at once.
const AT_ONCE_MAX: u32 = 8;

/// News that are taken in together; and attempts that end with them, each of which is a record or two of a group that may
/// hold 4096. So many take about as long as two submissions.
const BATCH_NEWS_MAX: usize = 64;
const BATCH_ATTEMPTS_MAX: usize = 256;

/// What was put aside.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    // Not bounded by itself: an agent tells a handful of things for each start, which its policy limits.
    waiting: VecDeque<FleetNews>,
    /// Whether [`Message::Backlog`] is on its way.
    is_called: bool,
    /// How many were taken in at once since that was sent.
    at_once: u32,
}

/// What a command tells of agents, if that is what it does.
pub(super) fn news(command: Command) -> Result<FleetNews, Command> {
    match command {
        Command::Fleet(change) => Ok(FleetNews::Changed(change)),
        Command::InstanceDown { key, failure } => Ok(FleetNews::Down { key, failure }),
        command => Err(command),
    }
}

/// While meshd ends, no instance takes work: what waits stays where it is and goes on in the next life.
pub(super) fn closed_to_work(command: Command) -> Command {
    let closed = |mut change| {
        if let FleetChange::Agent(_, fleet) = &mut change {
            for instance in fleet.instances.values_mut() {
                instance.closed = Some("meshd is shutting down".to_owned());
            }
        }
        change
    };
    match command {
        Command::Fleet(change) => Command::Fleet(closed(change)),
        Command::News(news) => {
            let news = news.into_iter().map(|news| match news {
                FleetNews::Changed(change) => FleetNews::Changed(closed(change)),
                down @ FleetNews::Down { .. } => down,
            });
            Command::News(news.collect())
        }
        command => command,
    }
}

impl Shell {
    /// Takes news in, or puts them aside while there are many.
    pub(super) async fn heard(&mut self, news: FleetNews) -> Result<(), ActorProcessingErr> {
        self.call_for_backlog()?;
        if self.backlog.waiting.is_empty() && self.backlog.at_once < AT_ONCE_MAX {
            self.backlog.at_once += 1;
            return self.take_in(vec![news]).await;
        }
        self.backlog.waiting.push_back(news);
        Ok(())
    }

    /// Everything that was in the mailbox has been looked at: it is the backlog's turn.
    pub(super) async fn work_off(&mut self) -> Result<(), ActorProcessingErr> {
        self.backlog.is_called = false;
        self.backlog.at_once = 0;
        let mut attempts = 0;
        let mut batch = Vec::new();
        while batch.len() < BATCH_NEWS_MAX
            && attempts < BATCH_ATTEMPTS_MAX
            && let Some(news) = self.backlog.waiting.pop_front()
        {
            if let FleetNews::Down { key, .. } = &news {
                attempts += self.partition.state().in_hand_of(key);
            }
            batch.push(news);
        }
        self.take_in(batch).await?;
        if self.backlog.waiting.is_empty() {
            return Ok(());
        }
        self.call_for_backlog()
    }

    /// Behind all that is in the mailbox by now.
    fn call_for_backlog(&mut self) -> Result<(), ActorProcessingErr> {
        if !std::mem::replace(&mut self.backlog.is_called, true) {
            self.me.cast(Message::Backlog)?;
        }
        Ok(())
    }

    async fn take_in(&mut self, news: Vec<FleetNews>) -> Result<(), ActorProcessingErr> {
        let mut batch = Vec::with_capacity(news.len());
        for news in news {
            if let FleetNews::Changed(FleetChange::Agent(id, _)) = &news
                && self.is_another_actor(id)
            {
                let id = id.clone();
                // In this order: what its last actor told, what that left, what the new one tells.
                self.decide_on(std::mem::take(&mut batch)).await?;
                self.after_restart_of(id).await?;
            }
            batch.push(news);
        }
        self.decide_on(batch).await
    }

    async fn decide_on(&mut self, batch: Vec<FleetNews>) -> Result<(), ActorProcessingErr> {
        if batch.is_empty() {
            return Ok(());
        }
        let ends = batch.iter().filter_map(|news| match news {
            FleetNews::Down { key, .. } => Some((key.0.clone(), key.2)),
            FleetNews::Changed(_) => None,
        });
        let ends: Vec<_> = ends.collect();
        self.command(Command::News(batch), &Cause::meshd(), None)
            .await?;
        for end in ends {
            self.downs.remove(&end);
        }
        Ok(())
    }

    /// Whether an agent's actor is not the one that it was when it was looked at last.
    fn is_another_actor(&self, agent: &AgentId) -> bool {
        match self.args.ctx.directory.get(agent.as_str()) {
            Some(entry) => self.actors.get(agent) != Some(&entry.actor_no()),
            None => self.actors.contains_key(agent),
        }
    }
}

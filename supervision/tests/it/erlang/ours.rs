//! Our supervisor, led through the same history, with real actors in virtual time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use mesh_supervision::{
    Child, ChildInfo, ChildSpec, ChildStatus, End, Ended, Flags, Incarnation, Refusal,
    RequestError, Restart, Started, Strategy, Supervisor, SupervisorHandle, SupervisorSpec,
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, ActorStatus};

use super::{
    oracle::normal,
    story::{Cause, How, Meanwhile, Step, Story},
};

/// What the children and their stage director share.
#[derive(Clone, Default)]
struct Stage(Arc<Mutex<StageState>>);

#[derive(Default)]
struct StageState {
    events: Vec<String>,
    /// Who leaves, and how, when the start of a child has begun.
    meanwhile: Option<Meanwhile>,
    actors: BTreeMap<String, ActorCell>,
    /// What the next starts of a child come to.
    next: BTreeMap<String, (Outcome, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Starts,
    Fails,
    Ignores,
}

impl Stage {
    fn note(&self, what: &str, id: &str) {
        self.0.lock().unwrap().events.push(format!("{what} {id}"));
    }

    fn next(&self, id: &str) -> Outcome {
        match self.0.lock().unwrap().next.get_mut(id) {
            Some((outcome, left)) if *left > 0 => {
                *left -= 1;
                *outcome
            }
            _ => Outcome::Starts,
        }
    }

    fn set_next(&self, id: &str, outcome: Outcome, times: u32) -> String {
        let mut state = self.0.lock().unwrap();
        state.next.insert(id.to_owned(), (outcome, times));
        "ok".to_owned()
    }

    /// Lets the child leave that is to leave while this one is being started.
    async fn meanwhile(&self, starting: &str) {
        let leaving = {
            let mut state = self.0.lock().unwrap();
            let due = state.meanwhile.take_if(|it| it.starting == starting);
            due.and_then(|it| Some((state.actors.get(&it.leaves)?.clone(), it)))
        };
        if let Some((actor, Meanwhile { how, leaves, .. })) = leaving
            && actor.get_status() == ActorStatus::Running
        {
            self.note("exit", &leaves);
            actor.send_message(Leave(how)).unwrap();
            actor.wait(None).await.unwrap();
        }
    }

    fn child(&self, spec: ChildSpec) -> Child {
        let (stage, id) = (self.clone(), spec.id.to_string());
        Child::new(spec, move |context| {
            let player = Player(id.clone(), stage.clone());
            async move {
                player.1.meanwhile(&player.0).await;
                match player.1.next(&player.0) {
                    Outcome::Fails => {
                        player.1.note("fail", &player.0);
                        Err("no luck".into())
                    }
                    Outcome::Ignores => {
                        player.1.note("ignore", &player.0);
                        Ok(Started::ignored())
                    }
                    Outcome::Starts => {
                        let (id, stage) = (player.0.clone(), player.1.clone());
                        let spawned =
                            Actor::spawn_linked(None, player, (), context.supervisor).await?;
                        let cell = spawned.0.get_cell();
                        stage.0.lock().unwrap().actors.insert(id, cell);
                        Ok(Started::from(spawned))
                    }
                }
            }
        })
    }
}

struct Player(String, Stage);

struct Leave(How);

impl ractor::Message for Leave {}

impl Actor for Player {
    type Msg = Leave;
    /// Whether it leaves by itself.
    type State = bool;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Leave>, (): ()) -> Result<bool, ActorProcessingErr> {
        self.1.note("start", &self.0);
        Ok(false)
    }

    async fn handle(
        &self,
        myself: ActorRef<Leave>,
        Leave(how): Leave,
        leaves: &mut bool,
    ) -> Result<(), ActorProcessingErr> {
        *leaves = true;
        match how {
            How::Normal => myself.stop(None),
            How::Shutdown => myself.stop(Some("shutdown".to_owned())),
            How::Remark => myself.stop(Some("shutdown: done".to_owned())),
            How::Crash => return Err("boom".into()),
            How::Kill => myself.kill(),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Leave>,
        leaves: &mut bool,
    ) -> Result<(), ActorProcessingErr> {
        if !*leaves {
            self.1.note("stop", &self.0);
        }
        Ok(())
    }
}

pub(super) struct Ours {
    stage: Stage,
    flags: Flags,
    supervisor: Option<SupervisorHandle>,
}

impl Ours {
    /// Leads one through a history: a line for each step.
    pub(super) fn tell(story: &Story) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut ours = Self {
                stage: Stage::default(),
                flags: story.flags,
                supervisor: None,
            };
            let mut lines = Vec::new();
            for step in &story.steps {
                lines.push(ours.line(story, step).await);
            }
            lines
        })
    }

    async fn line(&mut self, story: &Story, step: &Step) -> String {
        let outcome = match (step, self.supervisor.clone()) {
            (Step::Meanwhile(meanwhile), None) if matches!(meanwhile.cause, Cause::Boot) => {
                let leaver = |child: &&ChildSpec| child.id.as_str() == meanwhile.leaves;
                let leaver = story.children.iter().find(leaver);
                if leaver.is_some_and(|leaver| leaver.restart != Restart::Permanent) {
                    self.stage.0.lock().unwrap().meanwhile = Some(meanwhile.clone());
                }
                self.boot(story).await
            }
            (Step::Boot, _) => self.boot(story).await,
            (Step::Fail(n, id), _) => self.stage.set_next(id, Outcome::Fails, *n),
            (Step::Ignore(n, id), _) => self.stage.set_next(id, Outcome::Ignores, *n),
            (_, None) => "gone".to_owned(),
            (_, Some(supervisor)) => self.step(&supervisor, step).await,
        };
        let listing = self.settled().await;
        self.stage.0.lock().unwrap().meanwhile = None;
        let events = std::mem::take(&mut self.stage.0.lock().unwrap().events).join(", ");
        let is_pool = self.flags.strategy == Strategy::Dynamic;
        let line = format!("{outcome} | {events} | {listing}");
        normal(line.trim_end(), is_pool)
    }

    async fn boot(&mut self, story: &Story) -> String {
        let mut spec = SupervisorSpec::new(story.flags);
        if story.flags.strategy != Strategy::Dynamic {
            for child in &story.children {
                spec = spec.child(self.stage.child(child.clone()));
            }
        }
        let Ok((supervisor, _join)) = Supervisor::spawn(None, spec).await else {
            return "invalid".to_owned();
        };
        match supervisor.ready().await {
            // It was up first: that one of its children left early is no failed boot.
            Ok(()) | Err(Ended::InOrder(End::AutoShutdown)) => {}
            Err(_) => return "failed".to_owned(),
        }
        self.supervisor = Some(supervisor);
        "ok".to_owned()
    }

    async fn step(&mut self, supervisor: &SupervisorHandle, step: &Step) -> String {
        match step {
            Step::Boot | Step::Fail(..) | Step::Ignore(..) => "ok".to_owned(),
            Step::Stop => {
                supervisor.stop(Duration::from_mins(1)).await;
                "ok".to_owned()
            }
            Step::Add(spec) => started(supervisor.add(self.stage.child(spec.clone())).await),
            Step::Start(id) => match supervisor.start_child(id.as_str()).await {
                Err(RequestError::Refused(Refusal::AlreadyStarted { .. })) => "running".to_owned(),
                other => started(other),
            },
            Step::Terminate(id) => plain(supervisor.terminate_child(id.as_str()).await),
            Step::Delete(id) => plain(supervisor.delete_child(id.as_str()).await),
            Step::Meanwhile(meanwhile) => {
                let Cause::Kill(killed) = &meanwhile.cause else {
                    return "ok".to_owned();
                };
                let leaver = supervisor.child(meanwhile.leaves.as_str()).await.unwrap();
                let stays = |leaver: ChildInfo| leaver.spec.restart == Restart::Permanent;
                if self.flags.strategy == Strategy::OneForOne || leaver.is_none_or(stays) {
                    return "none".to_owned();
                }
                self.stage.0.lock().unwrap().meanwhile = Some(meanwhile.clone());
                self.exit(supervisor, How::Kill, killed).await
            }
            Step::Exit(how, id) => self.exit(supervisor, *how, id).await,
            Step::Both(one, two) => {
                let chosen = running(supervisor, &[one, two]).await;
                if chosen.len() != 2 || self.flags.strategy == Strategy::OneForOne {
                    return "none".to_owned();
                }
                for (id, actor) in &chosen {
                    self.stage.note("exit", id);
                    actor.kill();
                }
                for (_, actor) in &chosen {
                    actor.wait(None).await.unwrap();
                }
                "ok".to_owned()
            }
            Step::Change(flags, specs) => {
                let children = specs.iter().map(|spec| self.stage.child(spec.clone()));
                let changed = supervisor.change(*flags, children.collect()).await;
                if changed.is_ok() {
                    self.flags = *flags;
                }
                plain(changed)
            }
        }
    }

    async fn exit(&self, supervisor: &SupervisorHandle, how: How, id: &str) -> String {
        let Some(actor) = running(supervisor, &[id]).await.pop() else {
            return "none".to_owned();
        };
        self.stage.note("exit", id);
        if how == How::Kill {
            actor.1.kill();
        } else {
            actor.1.send_message(Leave(how)).unwrap();
        }
        actor.1.wait(None).await.unwrap();
        "ok".to_owned()
    }

    /// What there is once nothing more will happen by itself.
    async fn settled(&mut self) -> String {
        let Some(supervisor) = &self.supervisor else {
            return String::new();
        };
        let children = loop {
            match supervisor.children().await {
                Err(RequestError::NotRunning) => {
                    supervisor.terminated().await;
                    self.stage.note("ended", "supervisor");
                    self.supervisor = None;
                    return String::new();
                }
                Err(error) => panic!("{error}"),
                Ok(children) if children.iter().all(is_settled) => break children,
                Ok(_) => tokio::task::yield_now().await,
            }
        };
        let mut texts: Vec<String> = children
            .iter()
            .map(|child| {
                let is_running = child.status == ChildStatus::Running;
                format!("{}{}", child.spec.id, if is_running { "+" } else { "-" })
            })
            .collect();
        if self.flags.strategy == Strategy::Dynamic {
            texts.sort();
        }
        texts.join(" ")
    }
}

fn is_settled(child: &ChildInfo) -> bool {
    match child.status {
        ChildStatus::Down => true,
        ChildStatus::Running => child
            .actor
            .as_ref()
            .is_some_and(|actor| actor.get_status() == ActorStatus::Running),
        ChildStatus::Starting | ChildStatus::Restarting | ChildStatus::Stopping => false,
    }
}

/// Those of these children that run, in the order of their starts.
async fn running(supervisor: &SupervisorHandle, ids: &[&str]) -> Vec<(String, ActorCell)> {
    let children = supervisor.children().await.unwrap();
    children
        .into_iter()
        .filter(|child| child.status == ChildStatus::Running)
        .map(|child| (child.spec.id.to_string(), child.actor.unwrap()))
        .filter(|(id, _)| ids.contains(&id.as_str()))
        .collect()
}

fn started(result: Result<Option<Incarnation>, RequestError>) -> String {
    let text = match result {
        Ok(Some(_)) => "ok",
        Ok(None) => "ignored",
        Err(error) => refused(&error),
    };
    text.to_owned()
}

fn plain(result: Result<(), RequestError>) -> String {
    let text = match result {
        Ok(()) => "ok",
        Err(error) => refused(&error),
    };
    text.to_owned()
}

/// Erlang's word for it.
fn refused(error: &RequestError) -> &'static str {
    match error {
        RequestError::Refused(refusal) => match refusal {
            Refusal::NotFound(_) => "not_found",
            Refusal::AlreadyStarted { .. } => "already_started",
            Refusal::AlreadyPresent(_) => "already_present",
            Refusal::Running(_) => "running",
            Refusal::Restarting(_) => "restarting",
            Refusal::Pool => "simple_one_for_one",
            Refusal::Spec(_) => "invalid",
            Refusal::StartFailed { .. } => "failed",
            other => panic!("{other}"),
        },
        RequestError::NotRunning => "gone",
        other => panic!("{other}"),
    }
}

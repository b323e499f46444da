//! An actor that panics when it is told to, and whoever watches it come back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_supervision::{Child, Started};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;

/// A restart: how long it took from the panic to the first message that the new incarnation handled.
pub(crate) struct Back {
    pub(crate) took: Option<Duration>,
    pub(crate) victim: ActorRef<Tell>,
}

/// What is known of one victim over all its incarnations.
#[derive(Clone)]
pub(crate) struct Probe(Arc<ProbeState>);

struct ProbeState {
    panicked: Mutex<Option<Instant>>,
    back: mpsc::UnboundedSender<Back>,
}

impl ractor::Message for Probe {}

impl Probe {
    /// A probe whose victims report there.
    pub(crate) fn new(back: &mpsc::UnboundedSender<Back>) -> Self {
        Self(Arc::new(ProbeState {
            panicked: Mutex::new(None),
            back: back.clone(),
        }))
    }

    fn panics(&self) {
        let now = Instant::now();
        *self
            .0
            .panicked
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    fn is_back(&self, victim: ActorRef<Tell>) {
        let now = Instant::now();
        let mut panicked = self
            .0
            .panicked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let took = panicked.take().map(|then| now - then);
        // Who does not listen any more has seen enough.
        drop(self.0.back.send(Back { took, victim }));
    }

    /// The victim as a child of ours.
    pub(crate) fn child(&self, id: String) -> Child {
        let probe = self.clone();
        Child::worker(id, move |context| {
            let probe = probe.clone();
            async move {
                let spawned = Actor::spawn_linked(None, Victim, probe, context.supervisor).await?;
                Ok(Started::from(spawned))
            }
        })
    }
}

pub(crate) enum Tell {
    /// Sent by itself at its start: the first message.
    Hello,
    /// Panic.
    Panic,
}

impl ractor::Message for Tell {}

/// The same for every supervisor.
pub(crate) struct Victim;

impl Actor for Victim {
    type Msg = Tell;
    type State = Probe;
    type Arguments = Probe;

    async fn pre_start(
        &self,
        myself: ActorRef<Tell>,
        probe: Probe,
    ) -> Result<Probe, ActorProcessingErr> {
        myself.send_message(Tell::Hello)?;
        Ok(probe)
    }

    #[expect(clippy::panic, reason = "it is what is measured")]
    async fn handle(
        &self,
        myself: ActorRef<Tell>,
        tell: Tell,
        probe: &mut Probe,
    ) -> Result<(), ActorProcessingErr> {
        match tell {
            Tell::Hello => probe.is_back(myself),
            Tell::Panic => {
                probe.panics();
                panic!("told to")
            }
        }
        Ok(())
    }
}

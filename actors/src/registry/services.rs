//! Services in the registry: decided, recorded, published to the desk.

use mesh_actors_core::dependencies::ServiceLack;
use mesh_actors_core::service::{ServiceBook, ServiceCommand};
use mesh_messages::problem::Problem;
use mesh_messages::service::{ServiceCalled, ServiceStatus};
use ractor::{ActorProcessingErr, RpcReplyPort};

use super::{ANSWER_MAX, RegistryHandle, RegistryMessage, RegistryShell, Released};
use crate::clock::now;
use crate::context::Context;
use crate::partition::Cause;

impl RegistryHandle {
    /// Changes which services there are, or what is known of one, and waits until that is durable.
    ///
    /// # Errors
    /// It is refused, or the registry is not there.
    pub(crate) async fn service(
        &self,
        command: ServiceCommand,
        cause: Cause,
    ) -> Result<(), Problem> {
        self.slot
            .call(ANSWER_MAX, |reply| RegistryMessage::Service {
                command: Box::new(command),
                cause,
                reply,
            })
            .await?
    }

    /// Puts on record that a service was called, and waits until that is durable.
    ///
    /// # Errors
    /// The registry is not there.
    pub(crate) async fn service_called(
        &self,
        called: ServiceCalled,
        cause: Cause,
    ) -> Result<(), Problem> {
        self.service(ServiceCommand::Called(Box::new(called)), cause)
            .await
    }
}

/// From here on callers see it, and agents that waited for one of them start.
pub(super) fn publish(ctx: &Context, book: &ServiceBook) {
    ctx.desk.publish(book);
    let services = book.all().map(|(id, kept)| {
        let lack = match (kept.status(), &kept.fault) {
            (ServiceStatus::Active, _) if kept.unchecked => Some(ServiceLack {
                detail: "is not checked yet".to_owned(),
                coming: true,
            }),
            (ServiceStatus::Active, _) => None,
            (ServiceStatus::Inactive, _) | (ServiceStatus::Error, None) => Some(ServiceLack {
                detail: "is inactive".to_owned(),
                coming: false,
            }),
            (ServiceStatus::Error, Some(fault)) => Some(ServiceLack {
                detail: format!("is in error: {}", fault.reason),
                coming: true,
            }),
        };
        (id.to_string(), lack)
    });
    ctx.directory.set_services(services.collect());
}

impl RegistryShell {
    pub(super) async fn serve(
        &mut self,
        command: ServiceCommand,
        cause: &Cause,
        reply: RpcReplyPort<Result<(), Problem>>,
    ) -> Result<(), ActorProcessingErr> {
        let changes_nothing = matches!(command, ServiceCommand::Called(_));
        let decided = self.partition.state().services.decide(command, now());
        let events = match decided {
            Ok(events) => events,
            Err(refusal) => {
                let _caller_gone = reply.send(Err(refusal.into()));
                return Ok(());
            }
        };
        let book = (!changes_nothing && !events.is_empty()).then(|| {
            let mut book: ServiceBook = self.partition.state().services.clone();
            for event in &events {
                book.apply(event);
            }
            Box::new(book)
        });
        self.commit(events, cause, Released::Service(book, reply))
            .await
    }
}

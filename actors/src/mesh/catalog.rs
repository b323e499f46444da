//! Services, as the outside registers and calls them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;

use mesh_actors_core::service::ServiceCommand;
use mesh_messages::ServiceId;
use mesh_messages::manifest::AgentManifest;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::schema::FieldError;
use mesh_messages::service::{
    ServiceCallOrder, ServiceDefinition, ServiceOrigin, ServiceReply, ServiceStatus, ServiceView,
};
use mesh_messages::system::Caller;
use mesh_messages::workflow::{RegisteredCall, ServiceTarget, SubWorkflow, WorkflowDocument};

use super::Mesh;
use crate::desk::{Ask, Patience, Served, check, service_call, unfit};
use crate::operations::{Action, ServiceOperations};
use crate::partition::Cause;
use crate::sentinel::Facts;

#[async_trait]
impl ServiceOperations for Mesh {
    async fn services(&self) -> Result<Vec<ServiceView>, Problem> {
        Ok(self
            .ctx
            .desk
            .all()
            .iter()
            .map(|served| served.view())
            .collect())
    }

    async fn service(&self, id: &str) -> Result<ServiceView, Problem> {
        Ok(self.served(id)?.view())
    }

    async fn add_service(
        &self,
        caller: &Caller,
        definition: ServiceDefinition,
    ) -> Result<(ServiceView, bool), Problem> {
        self.fit(&definition)?;
        let id = definition.id.clone();
        let version = |mesh: &Self| {
            mesh.ctx
                .desk
                .get(id.as_str())
                .map(|served| served.kept.version)
        };
        let before = version(self);
        let command = ServiceCommand::Register {
            definition: Box::new(definition),
            by: caller.name.clone(),
        };
        self.registry
            .service(command, Cause::by(&caller.name))
            .await?;
        let replayed = before.is_some() && before == version(self);
        Ok((self.checked(id.as_str()).await?, replayed))
    }

    async fn replace_service(
        &self,
        caller: &Caller,
        id: &str,
        definition: ServiceDefinition,
    ) -> Result<ServiceView, Problem> {
        if definition.id.as_str() != id {
            let detail = format!("id: must be {id}, as in the path");
            return Err(Problem::invalid("invalid_service", "id", detail));
        }
        self.served(id)?;
        self.fit(&definition)?;
        let command = ServiceCommand::Replace {
            definition: Box::new(definition),
            by: caller.name.clone(),
        };
        self.registry
            .service(command, Cause::by(&caller.name))
            .await?;
        self.checked(id).await
    }

    async fn remove_service(&self, caller: &Caller, id: &str) -> Result<(), Problem> {
        let command = ServiceCommand::Remove {
            service: ServiceId::new(id).map_err(|_| not_found(id))?,
            by: caller.name.clone(),
        };
        self.registry
            .service(command, Cause::by(&caller.name))
            .await
    }

    async fn check_service(&self, _caller: &Caller, id: &str) -> Result<ServiceView, Problem> {
        self.not_halted()?;
        self.checked(id).await
    }

    async fn call_service(
        &self,
        caller: &Caller,
        id: &str,
        order: ServiceCallOrder,
    ) -> Result<ServiceReply, Problem> {
        let fresh = || format!("call-{}", uuid::Uuid::now_v7());
        let ask = Ask {
            service: id.to_owned(),
            endpoint: order.endpoint,
            params: order.params,
            key: order.idempotency_key.unwrap_or_else(fresh),
            by: caller.name.clone(),
            limit: None,
            patience: Patience::None,
        };
        Ok(service_call(&self.ctx, &self.registry, ask).await?)
    }
}

impl Mesh {
    fn served(&self, id: &str) -> Result<Arc<Served>, Problem> {
        self.ctx.desk.get(id).ok_or_else(|| not_found(id))
    }

    /// Checks a service that is to be called, and shows it.
    async fn checked(&self, id: &str) -> Result<ServiceView, Problem> {
        let served = self.served(id)?;
        let halted = self.ctx.governance.load().halted.is_some();
        if served.kept.status() != ServiceStatus::Inactive && !halted {
            let (ctx, registry) = (Arc::clone(&self.ctx), self.registry.clone());
            // On its own: a caller who hangs up leaves no check without its result.
            let checking = tokio::spawn(async move { check(&ctx, &registry, &served).await });
            let gone = |error| Problem::internal(format!("the check was given up: {error}"));
            checking.await.map_err(gone)??;
        }
        Ok(self.served(id)?.view())
    }

    /// How many services stand how.
    pub(super) fn service_counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for served in self.ctx.desk.all() {
            let status = served.kept.status().name().to_owned();
            *counts.entry(status).or_default() += 1;
        }
        counts
    }

    /// Whether the caller may call all services that a document names: a workflow is no way around that.
    ///
    /// # Errors
    /// `forbidden`.
    pub(super) fn may_call_services(
        &self,
        caller: &Caller,
        document: &WorkflowDocument,
    ) -> Result<(), Problem> {
        let mut named = BTreeSet::new();
        services_of(document, &mut named);
        for id in named {
            let resource = format!("/v1/services/{id}/call");
            self.sentinel
                .judge(caller, Action::ServiceCall, &resource, &Facts::default())?;
        }
        Ok(())
    }

    /// Whether the caller may bring in an agent that is a service: only who may call that, too.
    ///
    /// # Errors
    /// `forbidden`.
    pub(super) fn may_call_as(
        &self,
        caller: &Caller,
        manifest: &AgentManifest,
    ) -> Result<(), Problem> {
        let Some(call) = manifest.service() else {
            return Ok(());
        };
        let resource = format!("/v1/services/{}/call", call.id);
        self.sentinel
            .judge(caller, Action::ServiceCall, &resource, &Facts::default())
    }

    /// Whether there is such a service with such an endpoint; what is missing, in words.
    pub(super) fn serves(&self, call: &RegisteredCall) -> Result<(), String> {
        const HINT: &str = "(register it first, or submit with deployLater=true)";
        let id = &call.id;
        let Some(served) = self.ctx.desk.get(id) else {
            return Err(format!("unknown service: {id} is not registered {HINT}"));
        };
        if served
            .kept
            .definition
            .endpoint(call.endpoint.as_deref())
            .is_some()
        {
            return Ok(());
        }
        Err(match &call.endpoint {
            Some(endpoint) => format!("unknown endpoint: service {id} has no {endpoint} {HINT}"),
            None => format!("service {id} has several endpoints; name one, as in {id}/ENDPOINT"),
        })
    }

    /// Refuses a definition as a whole, with all that is wrong with it.
    fn fit(&self, definition: &ServiceDefinition) -> Result<(), Problem> {
        let errors = unfit(&self.ctx.settings.services, definition);
        let Some(first) = errors.first() else {
            return Ok(());
        };
        let problem = Problem::invalid("invalid_service", first.path.clone(), first.to_string());
        let told = errors.iter().map(FieldError::to_string);
        Err(problem.errors(told.collect()))
    }

    /// Has the services of the configuration registered, and those forgotten that it names no more.
    ///
    /// # Errors
    /// There are too many. What cannot be written now is told in the log: what was there before goes on.
    pub(super) async fn load_services(&self) -> Result<(), Problem> {
        let definitions = self.ctx.settings.services.definitions.clone();
        let is_configured = |served: &Arc<Served>| served.kept.origin == ServiceOrigin::Config;
        if definitions.is_empty() && !self.ctx.desk.all().iter().any(is_configured) {
            return Ok(());
        }
        let command = ServiceCommand::Load { definitions };
        let loaded = self.registry.service(command, Cause::by("config")).await;
        match loaded {
            Err(problem)
                if matches!(
                    problem.kind,
                    ProblemKind::Unavailable | ProblemKind::Timeout
                ) =>
            {
                tracing::warn!(%problem, "services.definitions: not registered");
                Ok(())
            }
            loaded => loaded,
        }
    }
}

/// The registered services that a document names, those of documents inside it included.
fn services_of(document: &WorkflowDocument, named: &mut BTreeSet<String>) {
    for step in &document.steps {
        let undo = step
            .compensate
            .as_ref()
            .and_then(|undo| undo.service.as_ref());
        for service in step.service.iter().chain(undo) {
            if let ServiceTarget::Registered(call) = service.target() {
                named.insert(call.id);
            }
        }
        if let Some(SubWorkflow::Inline(inner)) = &step.workflow {
            services_of(inner, named);
        }
    }
}

fn not_found(id: &str) -> Problem {
    let detail = format!("Service {id} not found");
    Problem::new(ProblemKind::NotFound, "service_not_found", detail)
}

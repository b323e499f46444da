//! What is asked of services.

use async_trait::async_trait;
use mesh_messages::problem::Problem;
use mesh_messages::service::{ServiceCallOrder, ServiceDefinition, ServiceReply, ServiceView};
use mesh_messages::system::Caller;

/// Services beside the agents.
#[async_trait]
pub trait ServiceOperations: Send + Sync + 'static {
    /// All services, by name.
    async fn services(&self) -> Result<Vec<ServiceView>, Problem>;
    /// One service.
    async fn service(&self, id: &str) -> Result<ServiceView, Problem>;
    /// Registers a service and checks it; the service, and whether the same one was there before. One whose check fails is
    /// registered all the same, as one in error.
    async fn add_service(
        &self,
        caller: &Caller,
        definition: ServiceDefinition,
    ) -> Result<(ServiceView, bool), Problem>;
    /// Replaces the definition of a service, and checks it.
    async fn replace_service(
        &self,
        caller: &Caller,
        id: &str,
        definition: ServiceDefinition,
    ) -> Result<ServiceView, Problem>;
    /// Removes a service.
    async fn remove_service(&self, caller: &Caller, id: &str) -> Result<(), Problem>;
    /// Checks a service now.
    async fn check_service(&self, caller: &Caller, id: &str) -> Result<ServiceView, Problem>;
    /// Calls a service.
    async fn call_service(
        &self,
        caller: &Caller,
        id: &str,
        order: ServiceCallOrder,
    ) -> Result<ServiceReply, Problem>;
}

//! Services beside the agents: which there are, whether their last check passed, and when calls are held back. Pure.
//!
//! ```text
//!  register ─► active ─┬─ check fails ──► error ─── check passes ──► active
//!                      └─ status: inactive ──► neither called nor checked
//! ```
//!
//! What a definition says and what checks found is recorded. The [`Breaker`] is not: it follows from calls, and begins
//! closed with each start.

use std::collections::{BTreeMap, BTreeSet};

use mesh_messages::events::RegistryEvent;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::service::{
    SERVICES_MAX, ServiceCalled, ServiceDefinition, ServiceFault, ServiceOrigin, ServiceStatus,
};
use mesh_messages::{ServiceId, Timestamp};
use serde::{Deserialize, Serialize};

mod breaker;

pub use breaker::{Breaker, Held, OPEN_MS, OPENS_AFTER};

/// A service that is registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptService {
    /// What it is.
    pub definition: ServiceDefinition,
    /// From 1; each change of the definition is another one.
    pub version: u32,
    /// Where the definition comes from.
    pub origin: ServiceOrigin,
    /// Who wrote this version.
    pub by: String,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// When this version was written.
    pub updated_at: Timestamp,
    /// What the last check found, if it failed.
    #[serde(default)]
    pub fault: Option<ServiceFault>,
    /// Whether no check of it has ended yet. It is called all the same; who waits for it waits.
    #[serde(default)]
    pub unchecked: bool,
}

impl KeptService {
    /// How it stands.
    pub fn status(&self) -> ServiceStatus {
        match (self.definition.status, &self.fault) {
            (ServiceStatus::Inactive, _) => ServiceStatus::Inactive,
            (ServiceStatus::Active | ServiceStatus::Error, None) => ServiceStatus::Active,
            (ServiceStatus::Active | ServiceStatus::Error, Some(_)) => ServiceStatus::Error,
        }
    }
}

/// The services of a node, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServiceBook(BTreeMap<ServiceId, KeptService>);

/// What can be asked of the book. What is wrong with a definition itself is told before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceCommand {
    /// Register one. The same one again changes nothing.
    Register {
        /// What it is.
        definition: Box<ServiceDefinition>,
        /// By whom.
        by: String,
    },
    /// Replace the definition of one. The same one again changes nothing.
    Replace {
        /// What it is from now on.
        definition: Box<ServiceDefinition>,
        /// By whom.
        by: String,
    },
    /// Remove one.
    Remove {
        /// Which.
        service: ServiceId,
        /// By whom.
        by: String,
    },
    /// Those of the configuration are these, and no others.
    Load {
        /// All of them.
        definitions: Vec<ServiceDefinition>,
    },
    /// A check has ended. It counts if it was of the definition that holds.
    Checked {
        /// Of which.
        service: ServiceId,
        /// Of which version of it.
        version: u32,
        /// What is wrong, if anything.
        found: Result<(), String>,
    },
    /// A call has ended.
    Called(Box<ServiceCalled>),
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceRefusal {
    /// Nobody knows it.
    #[error("Service {0} not found")]
    NotFound(ServiceId),
    /// Another one has this name.
    #[error(
        "service {0} is there already, and is another one; replace it with PUT, or use another id"
    )]
    Exists(ServiceId),
    /// It is the configuration's.
    #[error("service {0} stands in the file that `services.definitions` names; change it there")]
    Configured(ServiceId),
    /// There are too many.
    #[error("{SERVICES_MAX} services are registered, which is the most; remove one first")]
    Full,
}

impl From<ServiceRefusal> for Problem {
    fn from(refusal: ServiceRefusal) -> Self {
        let detail = refusal.to_string();
        let (kind, code) = match refusal {
            ServiceRefusal::NotFound(_) => (ProblemKind::NotFound, "service_not_found"),
            ServiceRefusal::Exists(_) => (ProblemKind::Conflict, "service_exists"),
            ServiceRefusal::Configured(_) => (ProblemKind::Conflict, "service_configured"),
            ServiceRefusal::Full => (ProblemKind::Conflict, "too_many_services"),
        };
        let problem = Self::new(kind, code, detail);
        if code == "service_exists" {
            return problem.field("id");
        }
        problem
    }
}

impl ServiceBook {
    /// One of them.
    pub fn get(&self, id: &str) -> Option<&KeptService> {
        self.0.get(id)
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = (&ServiceId, &KeptService)> {
        self.0.iter()
    }

    /// Takes an event in; those that are about something else change nothing.
    pub fn apply(&mut self, event: &RegistryEvent) {
        match event {
            RegistryEvent::ServiceRegistered {
                definition,
                origin,
                by,
                at,
            }
            | RegistryEvent::ServiceUpdated {
                definition,
                origin,
                by,
                at,
            } => self.write(definition, *origin, by, *at),
            RegistryEvent::ServiceRemoved { service, .. } => {
                self.0.remove(service);
            }
            RegistryEvent::ServiceUnhealthy {
                service,
                reason,
                at,
            } => {
                if let Some(kept) = self.0.get_mut(service) {
                    let (reason, since) = (reason.clone(), *at);
                    kept.fault = Some(ServiceFault { reason, since });
                    kept.unchecked = false;
                }
            }
            RegistryEvent::ServiceRecovered { service, .. } => {
                if let Some(kept) = self.0.get_mut(service) {
                    kept.fault = None;
                    kept.unchecked = false;
                }
            }
            RegistryEvent::ServiceCalled(_)
            | RegistryEvent::Listed { .. }
            | RegistryEvent::Unlisted { .. }
            | RegistryEvent::PolicyApplied { .. }
            | RegistryEvent::BudgetApplied { .. }
            | RegistryEvent::Governed { .. } => {}
        }
    }

    fn write(
        &mut self,
        definition: &ServiceDefinition,
        origin: ServiceOrigin,
        by: &str,
        at: Timestamp,
    ) {
        let before = self.0.remove(&definition.id);
        let version = before
            .as_ref()
            .map_or(1, |kept| kept.version.saturating_add(1));
        let kept = KeptService {
            definition: definition.clone(),
            version,
            origin,
            by: by.to_owned(),
            registered_at: before.as_ref().map_or(at, |kept| kept.registered_at),
            updated_at: at,
            unchecked: before.as_ref().is_none_or(|kept| kept.unchecked),
            // What was found of the one before stands until this one is checked.
            fault: before.and_then(|kept| kept.fault),
        };
        self.0.insert(definition.id.clone(), kept);
    }

    /// What a command leads to; nothing when it is so already.
    ///
    /// # Errors
    /// [`ServiceRefusal`]; nothing is done then.
    pub fn decide(
        &self,
        command: ServiceCommand,
        at: Timestamp,
    ) -> Result<Vec<RegistryEvent>, ServiceRefusal> {
        let origin = ServiceOrigin::Api;
        match command {
            ServiceCommand::Register { mut definition, by } => {
                settle(&mut definition);
                match self.0.get(&definition.id) {
                    Some(kept) if kept.definition == *definition => Ok(Vec::new()),
                    Some(_) => Err(ServiceRefusal::Exists(definition.id)),
                    None if self.0.len() >= SERVICES_MAX => Err(ServiceRefusal::Full),
                    None => Ok(vec![RegistryEvent::ServiceRegistered {
                        definition,
                        origin,
                        by,
                        at,
                    }]),
                }
            }
            ServiceCommand::Replace { mut definition, by } => {
                settle(&mut definition);
                let kept = self.changeable(&definition.id)?;
                if kept.definition == *definition {
                    return Ok(Vec::new());
                }
                Ok(vec![RegistryEvent::ServiceUpdated {
                    definition,
                    origin,
                    by,
                    at,
                }])
            }
            ServiceCommand::Remove { service, by } => {
                self.changeable(&service)?;
                Ok(vec![RegistryEvent::ServiceRemoved { service, by, at }])
            }
            ServiceCommand::Load { definitions } => self.load(definitions, at),
            ServiceCommand::Checked {
                service,
                version,
                found,
            } => {
                let Some(kept) = self.0.get(&service).filter(|kept| kept.version == version) else {
                    return Ok(Vec::new());
                };
                Ok(match (found, &kept.fault) {
                    (Ok(()), Some(_)) => vec![RegistryEvent::ServiceRecovered { service, at }],
                    (Err(reason), None) => vec![RegistryEvent::ServiceUnhealthy {
                        service,
                        reason,
                        at,
                    }],
                    (Ok(()), None) if kept.unchecked => {
                        vec![RegistryEvent::ServiceRecovered { service, at }]
                    }
                    (Ok(()), None) | (Err(_), Some(_)) => Vec::new(),
                })
            }
            ServiceCommand::Called(called) => Ok(vec![RegistryEvent::ServiceCalled(called)]),
        }
    }

    fn changeable(&self, id: &ServiceId) -> Result<&KeptService, ServiceRefusal> {
        match self.0.get(id) {
            None => Err(ServiceRefusal::NotFound(id.clone())),
            Some(kept) if kept.origin == ServiceOrigin::Config => {
                Err(ServiceRefusal::Configured(id.clone()))
            }
            Some(kept) => Ok(kept),
        }
    }

    /// What the configuration says takes the place of what anybody else said of the same name.
    fn load(
        &self,
        definitions: Vec<ServiceDefinition>,
        at: Timestamp,
    ) -> Result<Vec<RegistryEvent>, ServiceRefusal> {
        let (by, origin) = (|| "config".to_owned(), ServiceOrigin::Config);
        let named: BTreeSet<ServiceId> = definitions
            .iter()
            .map(|definition| definition.id.clone())
            .collect();
        let gone = self
            .0
            .iter()
            .filter(|(id, kept)| kept.origin == origin && !named.contains(*id));
        let gone: Vec<_> = gone.map(|(id, _)| id.clone()).collect();
        let new = named.iter().filter(|id| !self.0.contains_key(*id)).count();
        if self.0.len() - gone.len() + new > SERVICES_MAX {
            return Err(ServiceRefusal::Full);
        }
        let mut events: Vec<_> = gone
            .into_iter()
            .map(|service| RegistryEvent::ServiceRemoved {
                service,
                by: by(),
                at,
            })
            .collect();
        for mut definition in definitions {
            settle(&mut definition);
            let definition = Box::new(definition);
            match self.0.get(&definition.id) {
                Some(kept) if kept.definition == *definition && kept.origin == origin => {}
                Some(_) => events.push(RegistryEvent::ServiceUpdated {
                    definition,
                    origin,
                    by: by(),
                    at,
                }),
                None => events.push(RegistryEvent::ServiceRegistered {
                    definition,
                    origin,
                    by: by(),
                    at,
                }),
            }
        }
        Ok(events)
    }
}

/// `error` is what checks find, and nothing that an author says.
fn settle(definition: &mut ServiceDefinition) {
    if definition.status == ServiceStatus::Error {
        definition.status = ServiceStatus::Active;
    }
}

#[cfg(test)]
mod tests;

//! An OTP supervisor for ractor.
//!
//! Strategies, restart intensity, permanent, transient and temporary children, ordered and timed shutdown, significant
//! children, dynamic children, change at run time. All decisions are those of the pure machine in
//! [`mesh_supervision_core::supervisor`]; this crate starts, stops and watches the actors for it.
//!
//! ```
//! use mesh_supervision::{Child, Flags, Started, Strategy, Supervisor, SupervisorSpec};
//! use ractor::{Actor, ActorProcessingErr, ActorRef};
//!
//! /// An actor that does nothing but be there.
//! struct Idle;
//!
//! impl Actor for Idle {
//!     type Msg = ();
//!     type State = ();
//!     type Arguments = ();
//!     async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
//!         Ok(())
//!     }
//! }
//!
//! fn idle(id: &str) -> Child {
//!     Child::worker(id, |context| async move {
//!         Ok(Started::from(Actor::spawn_linked(None, Idle, (), context.supervisor).await?))
//!     })
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let flags = Flags { strategy: Strategy::RestForOne, intensity: 3, ..Flags::default() };
//! let spec = SupervisorSpec::new(flags).child(idle("database")).child(idle("cache"));
//! let (supervisor, _join) = Supervisor::spawn(None, spec).await?;
//! supervisor.ready().await.expect("both have been started");
//! assert_eq!(supervisor.counts().await?.active, 2);
//!
//! supervisor.terminate_child("cache").await?;
//! assert_eq!(supervisor.counts().await?.active, 1);
//! let ended = supervisor.stop(std::time::Duration::from_secs(5)).await;
//! assert!(!ended.is_abnormal());
//! # Ok(())
//! # }
//! ```
//!
//! # Where it differs from OTP
//!
//! | OTP | here | why |
//! |---|---|---|
//! | An inner supervisor that exceeds its intensity exits `shutdown`; a transient one is then not restarted. | It leaves with an error ([`Escalation`]), and is restarted. | A subtree must not vanish silently. |
//! | The supervisor is blocked by every start and stop. | Only a restart of a group, and the boot, make requests wait; looking is always answered. A start can be given up, and has a limit. | One slow child must not hold up the others. |
//! | A crash during a group's restart is handled when that is over. | At once: the restart begins anew from there. | A sibling's start may depend on the crashed child. |
//! | `infinity` waits for ever, and so does a kill. | Both have a cap ([`Flags::infinity_cap`], [`Flags::kill_limit`]). | Nothing waits without a deadline. |
//! | Members of a pool are the same child with other arguments, known by pid. | Each brings its own spec and has an id. | Like Elixir's `DynamicSupervisor`. |
//!
//! # What ractor does not allow
//!
//! A supervisor that is *killed* runs no code: ractor then kills its descendants, in no order. Stop it through its
//! [`SupervisorHandle`] instead. A plain `stop` of its actor stops the children in order too, but without reports.

mod exit;
mod handle;
mod observer;
mod shell;
mod spec;
mod start;

pub use exit::{Escalation, SHUTDOWN, classify_stop};
pub use handle::{ChildInfo, Ended, REQUEST_LIMIT, REQUESTS_MAX, RequestError, SupervisorHandle};
pub use mesh_supervision_core::supervisor::{
    AutoShutdown, ChildId, ChildKind, ChildSpec, ChildStatus, Counts, End, ExitReason, Flags,
    Incarnation, Refusal, Report, Restart, Shutdown, SpecError, Strategy,
};
pub use observer::{Log, Observer};
pub use shell::{SpawnError, Supervisor};
pub use spec::{Child, START_LIMIT, StartContext, Started, SupervisorSpec};

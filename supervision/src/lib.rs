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
//! # How to use it
//!
//! A [`Child`] is a [`ChildSpec`] and the code that starts it, which is called for each start anew and gives a
//! [`Started`]. Children are known by their ids; each start of one has an [`Incarnation`], and whatever names an older
//! one is dropped. A supervisor is a child like any other ([`Child::supervisor`]), so trees are built from the inside.
//!
//! | Erlang | here |
//! |---|---|
//! | `supervisor:start_link`, which returns when all children run | [`Supervisor::spawn_linked`], then [`SupervisorHandle::ready`] |
//! | `init/1` | the [`SupervisorSpec`], made by the caller |
//! | `start_child` | [`SupervisorHandle::add`] |
//! | `restart_child` | [`SupervisorHandle::start_child`]; [`SupervisorHandle::restart_child`] stops a running one first |
//! | `terminate_child`, `delete_child` | the same |
//! | `which_children`, youngest first | [`SupervisorHandle::children`], oldest first |
//! | `get_childspec`, `count_children` | [`SupervisorHandle::child`], [`SupervisorHandle::counts`] |
//! | `check_childspecs` | [`Flags::check_all`] |
//! | `code_change` | [`SupervisorHandle::change`] |
//! | `simple_one_for_one` | [`Strategy::Dynamic`]; like Elixir's `DynamicSupervisor`, each member brings its own spec and has an id |
//! | `ignore` | [`Started::ignored`] |
//! | `{ok, Pid, Info}` | has no counterpart: what a start has to tell, it sends or leaves with whoever made the [`Child`] |
//! | reports to the logger | an [`Observer`] |
//! | exit reasons | a child's stop reason: none or `normal`, `shutdown`, `shutdown: …`, or a failure, see [`classify_stop`] |
//!
//! A pool whose members come and go:
//!
//! ```
//! use mesh_supervision::{Child, Flags, Restart, Started, Strategy, Supervisor, SupervisorSpec};
//! # use ractor::{Actor, ActorProcessingErr, ActorRef};
//! # struct Idle;
//! # impl Actor for Idle {
//! #     type Msg = ();
//! #     type State = ();
//! #     type Arguments = ();
//! #     async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
//! #         Ok(())
//! #     }
//! # }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let flags = Flags { strategy: Strategy::Dynamic, intensity: 100, ..Flags::default() };
//! let (pool, _join) = Supervisor::spawn(None, SupervisorSpec::new(flags)).await?;
//! for n in 0..100 {
//!     let member = Child::worker(format!("connection-{n}"), |context| async move {
//!         Ok(Started::from(Actor::spawn_linked(None, Idle, (), context.supervisor).await?))
//!     });
//!     pool.add(member.restart(Restart::Temporary)).await?;
//! }
//! let first = pool.child("connection-0").await?.and_then(|member| member.actor).expect("it runs");
//! first.stop_and_wait(None, None).await?;
//! while pool.counts().await?.active != 99 {
//!     tokio::task::yield_now().await;
//! }
//! assert_eq!(pool.child("connection-0").await?, None, "temporary children are forgotten");
//! # pool.stop(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - No handler of a supervisor waits for a child: it answers while children block in their starts and ends. Only what
//!   blocks its *thread* in the very poll in which ractor tells the supervisor that it runs may hold the supervisor up: tokio
//!   keeps the task that was woken last for that thread. Blocking code belongs into `spawn_blocking`.
//! - Each end of a child counts once, for the incarnation that ended. Killed, cancelled, or gone without a word are
//!   failures.
//! - Stops are in the reverse order of starts, each waited for, and every wait has a limit.
//! - Requests that wait are bounded by [`REQUESTS_MAX`]; more are refused as [`RequestError::Busy`].
//!
//! Its tests run the same random histories on a real Erlang supervisor and compare, step by step, what happens.
//!
//! # Where it differs from OTP
//!
//! | OTP | here | why |
//! |---|---|---|
//! | An inner supervisor that exceeds its intensity exits `shutdown`; a transient one is then not restarted. | It leaves with an error ([`Escalation`]), and is restarted. | A subtree must not vanish silently. |
//! | The supervisor is blocked by every start and stop. | Only a restart of a group, and the boot, make requests wait; looking is always answered. A start can be given up, and has a limit ([`START_LIMIT`]). | One slow child must not hold up the others. |
//! | A crash during the boot or a group's restart is handled when that is over. | At once: the restart begins anew from there. One restart too many before all children are up, and a group's restart that fails then, is a failed boot. | A sibling's start may depend on the crashed child. |
//! | `infinity` waits for ever, and so does a kill. | Both have a cap ([`Flags::infinity_cap`], [`Flags::kill_limit`]). | Nothing waits without a deadline. |
//! | A running supervisor can change to and from `simple_one_for_one`. | Refused ([`SpecError::StrategyFixed`]). | Its children would have to change their nature. |
//!
//! # What ractor does not allow
//!
//! A supervisor that is *killed* runs no code: ractor then kills its descendants, in no order. Stop it through its
//! [`SupervisorHandle`] instead. A plain `stop` of its actor stops the children in order too, but without reports.
//!
//! Names of actors are known to the whole process: two supervisors made by [`Child::supervisor`] must not have the same
//! id, wherever they are. The second one's start fails and says so.
//!
//! ractor's feature `cluster` changes what a message is for a whole build. This crate expects it to be on.

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

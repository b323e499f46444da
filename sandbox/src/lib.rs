//! Runs an untrusted program in a sandbox: an own user, own namespaces, a read-only root with only what was
//! granted, Landlock, seccomp, no privileges, bounded resources; and ends its whole tree, however meshd ends.
//!
//! Three steps, each usable without the next:
//!
//! 1. [`Launcher::start`] finds out what the machine gives, by doing it ([`Probe`]).
//! 2. [`plan`] decides how a [`SandboxSpec`] is enforced here, or refuses ([`Refused`]). Pure.
//! 3. [`Launcher::launch`] builds exactly that ([`Child`]), or fails without having run the program.
//!
//! [`fscrypt`] is beside it: the kernel's calls for directories that it encrypts, because this crate alone makes calls that no
//! safe wrapper offers.
//!
//! The sandbox is built by this very binary, executed anew ([`sandbox_main`]): between `fork` and `execve` a
//! process with threads may do next to nothing, and the helper has to do a lot.

mod balloon;
mod cgroup;
mod child;
pub mod fscrypt;
mod helper;
mod homes;
mod image;
mod interpreter;
mod launch;
mod order;
mod owned;
mod plan;
mod probe;
mod seccomp;
mod spec;
mod sweep;
mod sys;
mod wire;

pub use balloon::Balloon;
pub use child::{Child, ChildHandle, ExitStatus, LimitSet, Strain, Usage};
pub use helper::{is_helper_invocation, sandbox_main};
pub use homes::{HomeUsage, home_usage, remove_home};
pub use image::image_usage;
pub use interpreter::{Interpreter, InterpreterError, interpreter_paths};
pub use launch::{LaunchError, Launcher, LauncherConfig, StartError};
pub use owned::owned_below;
pub use plan::{
    Control, Degradable, Enforcement, Level, NotDegradable, Plan, PlanPolicy, Refused,
    SandboxReport, Shortfall, plan,
};
pub use probe::{CgroupKind, Controller, Finding, Probe};
pub use spec::{
    AllowedPath, BUNDLE_INSIDE, Execution, HOME_INSIDE, HomeForm, Ids, Limits, Narrowed,
    NetworkAccess, PROXY_PORT, Program, Rights, SECRETS_BYTES_MAX, SECRETS_INSIDE, SandboxSpec,
    SecretFile, SpecError, TempAccess,
};
pub use sweep::SweepReport;
pub use wire::Stage;
#[cfg(feature = "fuzzing")]
pub use wire::fuzz as fuzz_wire;

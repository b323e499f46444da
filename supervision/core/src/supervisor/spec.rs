//! What a supervisor is told about itself and its children.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

/// The longest child id that is accepted. Ids appear in every report and log line.
pub const CHILD_ID_LEN_MAX: usize = 256;

/// Which child of a supervisor; stable over restarts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId(Arc<str>);

impl ChildId {
    /// An id; whether it is acceptable is checked with the spec that carries it.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ChildId {
    fn from(id: &str) -> Self {
        Self::new(id)
    }
}

impl From<String> for ChildId {
    fn from(id: String) -> Self {
        Self::new(id)
    }
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// When an ended child is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// However it ended.
    #[default]
    Permanent,
    /// When it ended abnormally.
    Transient,
    /// Never; its spec is forgotten when it ends.
    Temporary,
}

/// How a child is brought to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Killed without being asked.
    BrutalKill,
    /// Asked, then killed when it is still there after so long. Zero asks and kills in one go.
    Timeout(Duration),
    /// Asked, and given as long as [`Flags::infinity_cap`] or the order's deadline allows.
    Infinity,
}

impl Shutdown {
    /// What a worker gets unless it says otherwise.
    pub const WORKER: Self = Self::Timeout(Duration::from_secs(5));
}

/// What a child is; decides its default [`Shutdown`] and how it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ChildKind {
    /// It works.
    #[default]
    Worker,
    /// It supervises.
    Supervisor,
}

/// One child, but for the code that starts it, which the shell keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildSpec {
    /// Which child.
    pub id: ChildId,
    /// When it is restarted.
    pub restart: Restart,
    /// How it is stopped.
    pub shutdown: Shutdown,
    /// Whether its own end may end the supervisor, see [`AutoShutdown`].
    pub significant: bool,
    /// Worker or supervisor.
    pub kind: ChildKind,
}

impl ChildSpec {
    /// A permanent worker that is given five seconds to stop.
    pub fn worker(id: impl Into<ChildId>) -> Self {
        Self {
            id: id.into(),
            restart: Restart::Permanent,
            shutdown: Shutdown::WORKER,
            significant: false,
            kind: ChildKind::Worker,
        }
    }

    /// A permanent supervisor that is given all the time that its own children need.
    pub fn supervisor(id: impl Into<ChildId>) -> Self {
        Self {
            shutdown: Shutdown::Infinity,
            kind: ChildKind::Supervisor,
            ..Self::worker(id)
        }
    }
}

/// Whom the failure of one child concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Only itself.
    #[default]
    OneForOne,
    /// All: the others are stopped in reverse order, then all are started in order.
    OneForAll,
    /// Those that were started after it: like [`Strategy::OneForAll`], from the failed child on.
    RestForOne,
    /// Only itself; children come and go at run time and are forgotten when they end.
    Dynamic,
}

/// Whether the own, final end of significant children ends the supervisor.
///
/// An end during the boot or the restart of a group counts when that is over. With [`AutoShutdown::AllSignificant`] the
/// outcome of a significant child's start or stop that is under way is awaited as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoShutdown {
    /// No. Significant children are then refused.
    #[default]
    Never,
    /// The first that ends does.
    AnySignificant,
    /// The last that ends does.
    AllSignificant,
}

/// How a supervisor behaves. [`Flags::default`] holds OTP's defaults and bounds of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags {
    /// Whom a failure concerns.
    pub strategy: Strategy,
    /// How many restarts within [`Flags::period`] are granted; the next one ends the supervisor. Zero grants none.
    pub intensity: u32,
    /// The window in which restarts are counted, both edges included.
    pub period: Duration,
    /// What the end of significant children means.
    pub auto_shutdown: AutoShutdown,
    /// How many specs are kept at most.
    pub children_max: usize,
    /// What [`Shutdown::Infinity`] means in the end: nothing waits without a deadline.
    pub infinity_cap: Duration,
    /// How long a killed child may take to be gone before it is given up. Only code that blocks its thread gets there.
    pub kill_limit: Duration,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            strategy: Strategy::OneForOne,
            intensity: 1,
            period: Duration::from_secs(5),
            auto_shutdown: AutoShutdown::Never,
            children_max: 100_000,
            infinity_cap: Duration::from_mins(5),
            kill_limit: Duration::from_secs(5),
        }
    }
}

/// Why flags or specs were refused. Nothing was started or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The id is empty.
    #[error("a child has no id")]
    MissingId,
    /// The id is longer than [`CHILD_ID_LEN_MAX`] bytes.
    #[error("the id of child {id} is longer than {CHILD_ID_LEN_MAX} bytes")]
    LongId {
        /// Its start.
        id: String,
    },
    /// Two specs have the same id.
    #[error("child {id} is specified twice")]
    DuplicateId {
        /// The id.
        id: ChildId,
    },
    /// The restart period is zero.
    #[error("the restart period is zero; use an intensity of zero to forbid restarts")]
    EmptyPeriod,
    /// A significant child under a supervisor that never shuts down by itself.
    #[error("child {id} is significant, but auto_shutdown is never")]
    SignificantWithoutAutoShutdown {
        /// The child.
        id: ChildId,
    },
    /// A significant child that is always restarted, and so never ends for good.
    #[error("child {id} is significant and permanent; make it transient or temporary")]
    SignificantPermanent {
        /// The child.
        id: ChildId,
    },
    /// More specs than [`Flags::children_max`].
    #[error("{given} children are more than the allowed {max}")]
    TooMany {
        /// How many there would be.
        given: usize,
        /// How many are allowed.
        max: usize,
    },
    /// A running supervisor cannot become, or cease to be, dynamic.
    #[error("the strategy of a running supervisor cannot change to or from dynamic")]
    StrategyFixed,
    /// A change of a dynamic supervisor lists a child that it does not have. Add the child instead.
    #[error("child {id} is not a member of the dynamic supervisor; add it instead")]
    NotAMember {
        /// The child.
        id: ChildId,
    },
}

impl Flags {
    /// Checks the flags alone.
    ///
    /// # Errors
    /// [`SpecError::EmptyPeriod`].
    pub fn check(&self) -> Result<(), SpecError> {
        if self.period.is_zero() {
            Err(SpecError::EmptyPeriod)
        } else {
            Ok(())
        }
    }

    /// Checks one spec against the flags.
    ///
    /// # Errors
    /// All of [`SpecError`] that concern a single spec.
    pub fn check_spec(&self, spec: &ChildSpec) -> Result<(), SpecError> {
        let id = &spec.id;
        if id.as_str().is_empty() {
            return Err(SpecError::MissingId);
        }
        if id.as_str().len() > CHILD_ID_LEN_MAX {
            return Err(SpecError::LongId {
                id: id.as_str().chars().take(32).collect(),
            });
        }
        if spec.significant && self.auto_shutdown == AutoShutdown::Never {
            return Err(SpecError::SignificantWithoutAutoShutdown { id: id.clone() });
        }
        if spec.significant && spec.restart == Restart::Permanent {
            return Err(SpecError::SignificantPermanent { id: id.clone() });
        }
        Ok(())
    }

    /// Checks the flags and a whole list of specs.
    ///
    /// # Errors
    /// The first [`SpecError`] found.
    pub fn check_all(&self, specs: &[ChildSpec]) -> Result<(), SpecError> {
        self.check()?;
        if specs.len() > self.children_max {
            return Err(SpecError::TooMany {
                given: specs.len(),
                max: self.children_max,
            });
        }
        let mut seen = BTreeSet::new();
        for spec in specs {
            self.check_spec(spec)?;
            if !seen.insert(&spec.id) {
                return Err(SpecError::DuplicateId {
                    id: spec.id.clone(),
                });
            }
        }
        Ok(())
    }
}

/// What Erlang refuses at run time and cannot be written here at all: none of this compiles.
///
/// `otp_015_a_negative_time_to_stop`, and what is meant instead:
///
/// ```compile_fail
/// let shutdown = mesh_supervision_core::supervisor::Shutdown::Timeout(-10);
/// ```
/// ```
/// use std::time::Duration;
/// let shutdown = mesh_supervision_core::supervisor::Shutdown::Timeout(Duration::from_millis(10));
/// ```
///
/// `otp_019_an_intensity_that_is_negative_or_endless`, and what is meant instead:
///
/// ```compile_fail
/// let flags = mesh_supervision_core::supervisor::Flags { intensity: -1, ..Default::default() };
/// ```
/// ```compile_fail
/// let flags = mesh_supervision_core::supervisor::Flags { intensity: f64::INFINITY, ..Default::default() };
/// ```
/// ```
/// let flags = mesh_supervision_core::supervisor::Flags { intensity: 0, ..Default::default() };
/// ```
///
/// A restart type, a strategy, a type of child and a kind of auto-shutdown that there are not, and those that there are:
///
/// ```compile_fail
/// let restart = mesh_supervision_core::supervisor::Restart::from("prmanent");
/// ```
/// ```compile_fail
/// let flags = mesh_supervision_core::supervisor::Flags { strategy: "one_for_two", ..Default::default() };
/// ```
/// ```compile_fail
/// use mesh_supervision_core::supervisor::ChildSpec;
/// let spec = ChildSpec { kind: "wrker", ..ChildSpec::worker("a") };
/// ```
/// ```compile_fail
/// let flags = mesh_supervision_core::supervisor::Flags { auto_shutdown: true, ..Default::default() };
/// ```
/// ```
/// use mesh_supervision_core::supervisor::{AutoShutdown, ChildKind, ChildSpec, Flags, Restart, Strategy};
/// let spec = ChildSpec { kind: ChildKind::Worker, restart: Restart::Permanent, ..ChildSpec::worker("a") };
/// let flags = Flags {
///     strategy: Strategy::OneForOne,
///     auto_shutdown: AutoShutdown::Never,
///     ..Default::default()
/// };
/// ```
#[cfg(doctest)]
struct RefusedByTheCompiler;

//! Who gets a task: what is known of the agents, what their past says, and the choice.
//!
//! Everything here is a pure function of the fleet as it was announced, the slots as the task machine holds them, and
//! the statistics as they were folded from the journal. Ties are broken by load, then by the past, then by name.

mod choose;
mod fleet;
mod quality;
mod stats;

pub(crate) use choose::reports;
pub use choose::{CANDIDATES_MAX, Choice, Chosen, Demand, Load, Needed, Occupancy, choose};
pub use fleet::{Fleet, FleetAgent, FleetInstance, Gate, InstanceKey, Outlook};
pub use quality::{AgentQuality, Qualities};
pub use stats::{PAIRS_MAX, Stats, TypeRecord};

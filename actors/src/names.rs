//! Registered names of the tree's actors.
//!
//! ractor's registry is global to the process and confuses local names with those of other nodes; so each name carries
//! the run that it belongs to.

use crate::context::Context;

/// The registered name of a part of this mesh.
pub(crate) fn registered(ctx: &Context, part: &str) -> String {
    format!("{}/{part}", ctx.settings.run_id)
}

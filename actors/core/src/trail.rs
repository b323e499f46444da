//! Where the log stands with something that goes on: its last record, and the request that it all began with.
//!
//! What happens next to a task or a run is caused by what happened last to it, unless somebody asks for it. The state keeps
//! that place, so that every record can name the one that led to it, over restarts, too.

use mesh_messages::{Position, RecordHeader};
use serde::{Deserialize, Serialize};

/// The last record of something, and the request that it began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// Its last record.
    pub last: Position,
    /// The request that it all follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Box<str>>,
}

impl Trail {
    /// Goes on by one record. The first one says for which request.
    pub fn advance(trail: &mut Option<Self>, position: Position, correlation: Option<&str>) {
        match trail {
            Some(trail) => trail.last = position,
            None => {
                *trail = Some(Self {
                    last: position,
                    correlation: correlation.map(Into::into),
                });
            }
        }
    }

    /// The same, by a record's header.
    pub fn follow(trail: &mut Option<Self>, header: &RecordHeader) {
        Self::advance(trail, header.position, header.correlation.as_deref());
    }
}

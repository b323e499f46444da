//! The one place of the actors that reads the wall clock.

use mesh_messages::Timestamp;

/// Now. A clock before 1970 counts as 1970.
#[must_use]
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_millis(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

/// A random number for decisions that take one.
#[must_use]
pub fn random() -> u64 {
    let bytes = uuid::Uuid::new_v4();
    bytes.as_u64_pair().0 ^ bytes.as_u64_pair().1.rotate_left(17)
}

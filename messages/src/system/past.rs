//! Places in the past, as people name them.

use crate::ids::Position;
use crate::time::Timestamp;

/// A place in the past: the position of a record, or a date and time such as `2025-06-20T22:04:00Z`, which stands for the last
/// record until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PastAt {
    /// This record is the last one to take in.
    Record(Position),
    /// The last record that is not younger is.
    Moment(Timestamp),
}

impl std::str::FromStr for PastAt {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Record(Position(position)));
        }
        text.parse().map(Self::Moment).map_err(|_| {
            "expected the position of a record, or a date and time such as 2025-06-20T22:04:00Z"
        })
    }
}

impl std::fmt::Display for PastAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Record(position) => write!(f, "{position}"),
            Self::Moment(moment) => write!(f, "{moment}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_position_or_a_moment() {
        assert_eq!("17".parse(), Ok(PastAt::Record(Position(17))));
        let moment = "2025-06-20T22:04:00Z".parse::<PastAt>().unwrap();
        assert_eq!(moment.to_string().parse(), Ok(moment));
        for text in ["", "-1", "yesterday", "2025-06-20", "1.5"] {
            assert!(text.parse::<PastAt>().is_err(), "{text}");
        }
    }
}

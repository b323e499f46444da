//! The times that a pattern stands for, in its time zone.
//!
//! On days on which the clocks are set: a pattern of one minute and one hour is a time of day, and fires once on each day it
//! is for. Where the clock jumps over it, it fires at the first moment after the jump; where it comes twice, the first time.
//! Any other pattern follows the clock: times that do not exist do not fire, times that come twice fire twice.
//!
//! Zones are those compiled into this build, so the same pattern means the same on every machine.

use std::sync::LazyLock;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp as Instant, Zoned};
use mesh_messages::Timestamp;
use mesh_messages::schedule::CRON_BYTES_MAX;

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Why a pattern or zone stands for no times.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimingError {
    /// Nobody can read the pattern. Correct it.
    #[error(
        "\"{pattern}\" is no cron pattern (minute, hour, day of month, month, day of week): {why}"
    )]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// It stands for no time at all. Correct it.
    #[error("\"{pattern}\" never comes")]
    Never {
        /// The pattern.
        pattern: String,
    },
    /// There is no such zone. Use one of the IANA database.
    #[error("\"{zone}\" is no time zone of the IANA database, such as Europe/Berlin or UTC")]
    Zone {
        /// Its name.
        zone: String,
    },
}

impl TimingError {
    /// The field that is wrong.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Pattern { .. } | Self::Never { .. } => "cron",
            Self::Zone { .. } => "timeZone",
        }
    }
}

/// A pattern in a time zone.
#[derive(Debug, Clone)]
pub struct Timing {
    cron: Cron,
    zone: TimeZone,
}

impl Timing {
    /// Reads both.
    ///
    /// # Errors
    /// [`TimingError`].
    pub fn read(pattern: &str, zone: &str) -> Result<Self, TimingError> {
        let wrong = |why: String| TimingError::Pattern {
            pattern: pattern.chars().take(CRON_BYTES_MAX).collect(),
            why,
        };
        if pattern.len() > CRON_BYTES_MAX {
            return Err(wrong(format!("it has more than {CRON_BYTES_MAX} bytes")));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser
            .parse(pattern)
            .map_err(|error| wrong(error.to_string()))?;
        let found = ZONES.get(zone).map_err(|_| TimingError::Zone {
            zone: zone.chars().take(CRON_BYTES_MAX).collect(),
        })?;
        let timing = Self { cron, zone: found };
        match timing.after(Timestamp::ZERO) {
            Some(_) => Ok(timing),
            None => Err(TimingError::Never {
                pattern: pattern.to_owned(),
            }),
        }
    }

    fn zoned(&self, at: Timestamp) -> Option<Zoned> {
        // Patterns count whole minutes; nothing is lost with the fraction of a second.
        let seconds = i64::try_from(at.as_millis() / 1000).ok()?;
        let instant = Instant::from_second(seconds).ok()?;
        Some(instant.to_zoned(self.zone.clone()))
    }

    /// The first time after `at`; none when there is none any more.
    pub fn after(&self, at: Timestamp) -> Option<Timestamp> {
        let next = self.cron.find_next_occurrence(&self.zoned(at)?, false);
        timestamp(&next.ok()?)
    }

    /// The times from `from` up to `to`, both included, oldest first: the latest `max` of them.
    pub fn between(&self, from: Timestamp, to: Timestamp, max: usize) -> Vec<Timestamp> {
        let mut times = Vec::new();
        let mut place = self.zoned(to);
        let mut inclusive = true;
        while times.len() < max
            && let Some(before) = place.take()
            && let Ok(found) = self.cron.find_previous_occurrence(&before, inclusive)
            && let Some(at) = timestamp(&found).filter(|at| *at >= from)
        {
            times.push(at);
            inclusive = false;
            place = Some(found);
        }
        times.reverse();
        times
    }

    /// The name of its zone, as the database writes it.
    pub fn zone(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// A time as the clocks of the zone show it.
    pub fn local(&self, at: Timestamp) -> String {
        self.zoned(at)
            .map(|zoned| zoned.to_string())
            .unwrap_or_default()
    }
}

fn timestamp(zoned: &Zoned) -> Option<Timestamp> {
    let seconds = u64::try_from(zoned.timestamp().as_second()).ok()?;
    Some(Timestamp::from_millis(seconds.checked_mul(1000)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(pattern: &str, zone: &str, from: &str, expected: &[&str]) {
        let timing = Timing::read(pattern, zone).unwrap();
        let mut place = at(from);
        let mut times = Vec::new();
        for _ in expected {
            place = timing.after(place).unwrap();
            times.push(timing.local(place));
        }
        assert_eq!(times, expected);
    }

    #[test]
    fn a_time_of_day_that_the_clock_jumps_over_fires_right_after_the_jump() {
        let local = [
            "2026-03-28T02:30:00+01:00[Europe/Berlin]",
            "2026-03-29T03:00:00+02:00[Europe/Berlin]",
            "2026-03-30T02:30:00+02:00[Europe/Berlin]",
        ];
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00:00Z",
            &local,
        );
    }

    #[test]
    fn a_time_of_day_that_comes_twice_fires_the_first_time_alone() {
        let local = [
            "2026-10-24T02:30:00+02:00[Europe/Berlin]",
            "2026-10-25T02:30:00+02:00[Europe/Berlin]",
            "2026-10-26T02:30:00+01:00[Europe/Berlin]",
        ];
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T00:00:00Z",
            &local,
        );
    }

    #[test]
    fn a_pattern_of_every_half_hour_follows_the_clock() {
        let jump = [
            "2026-03-29T01:30:00+01:00[Europe/Berlin]",
            "2026-03-29T03:00:00+02:00[Europe/Berlin]",
            "2026-03-29T03:30:00+02:00[Europe/Berlin]",
        ];
        check(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:00:00Z",
            &jump,
        );
        let twice = [
            "2026-10-25T02:30:00+02:00[Europe/Berlin]",
            "2026-10-25T02:00:00+01:00[Europe/Berlin]",
            "2026-10-25T02:30:00+01:00[Europe/Berlin]",
            "2026-10-25T03:00:00+01:00[Europe/Berlin]",
        ];
        check(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:00:00Z",
            &twice,
        );
    }

    #[test]
    fn the_time_zone_decides_when_nine_o_clock_is() {
        check(
            "0 9 * * mon-fri",
            "America/New_York",
            "2026-07-04T00:00:00Z",
            &["2026-07-06T09:00:00-04:00[America/New_York]"],
        );
        check(
            "@daily",
            "utc",
            "2026-07-04T00:00:00Z",
            &["2026-07-05T00:00:00+00:00[UTC]"],
        );
    }

    #[test]
    fn what_stands_for_no_time_is_refused_by_name() {
        let field = |pattern: &str, zone: &str| {
            let error = Timing::read(pattern, zone).unwrap_err();
            (error.field(), error.to_string())
        };
        assert_eq!(field("0 0 30 2 *", "UTC").1, "\"0 0 30 2 *\" never comes");
        for pattern in [
            "",
            "* * * *",
            "61 * * * *",
            "* * * * * *",
            "@reboot",
            "a b c d e",
            "* * * * * * *",
        ] {
            assert_eq!(field(pattern, "UTC").0, "cron", "{pattern}");
        }
        assert_eq!(field("* * * * *", "Europe/Berin").0, "timeZone");
        assert_eq!(field(&"1,".repeat(1000), "UTC").0, "cron");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// What a restart finds missed is what would have fired.
        #[test]
        fn looking_back_finds_what_going_forward_passes(
            minute in prop_oneof![Just("*/7"), Just("0"), Just("30"), Just("15,45"), Just("*/30")],
            hour in prop_oneof![Just("*"), Just("2"), Just("1-3"), Just("*/5"), Just("0")],
            day in prop_oneof![Just("* * *"), Just("1 * *"), Just("* * sun"), Just("L * *")],
            zone in prop_oneof![
                Just("Europe/Berlin"), Just("America/New_York"), Just("Australia/Lord_Howe"), Just("UTC"),
                Just("America/Sao_Paulo"), Just("Pacific/Apia"), Just("Africa/Casablanca"),
            ],
            year in 2010_u64..2030,
            offset in 0_u64..31_536_000,
            hours in 1_u64..400,
        ) {
            let timing = Timing::read(&format!("{minute} {hour} {day}"), zone).unwrap();
            let from = Timestamp::from_millis(((year - 1970) * 31_557_600 + offset) * 1000);
            let to = from.plus(Duration::from_secs(hours * 3600));
            let mut forward = Vec::new();
            let mut place = from;
            while let Some(next) = timing.after(place).filter(|next| *next <= to) {
                prop_assert!(next > place);
                forward.push(next);
                place = next;
            }
            let first = from.plus(Duration::from_secs(1));
            prop_assert_eq!(timing.between(first, to, usize::MAX), forward);
        }
    }
}

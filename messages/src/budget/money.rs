//! Money: whole millionths of a unit that is the operator's own.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An amount of money, from 0 to 999 999 999.999999, in steps of a millionth.
///
/// On the wire a decimal text such as `"1.25"`; a number is accepted, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(u64);

impl Money {
    /// One unit, in millionths.
    pub const UNIT: u64 = 1_000_000;
    /// The largest amount, in millionths.
    pub const MICROS_MAX: u64 = 1_000_000_000 * Self::UNIT - 1;

    /// So many millionths, at most [`Money::MICROS_MAX`].
    pub const fn from_micros(micros: u64) -> Self {
        if micros > Self::MICROS_MAX {
            Self(Self::MICROS_MAX)
        } else {
            Self(micros)
        }
    }

    /// In millionths.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// The price of something that is declared as a number, rounded up; `None` when it is no amount of money.
    pub fn from_price(price: f64) -> Option<Self> {
        let micros = (price * 1e6).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "within the bounds of an amount, as is checked in the same expression"
        )]
        (micros >= 0.0 && micros <= Self::MICROS_MAX as f64).then_some(Self(micros as u64))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / Self::UNIT, self.0 % Self::UNIT);
        let digits = format!("{rest:06}");
        match digits.trim_end_matches('0') {
            "" => write!(f, "{whole}"),
            digits => write!(f, "{whole}.{digits}"),
        }
    }
}

impl FromStr for Money {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str =
            "expected an amount such as 1.25: digits, and at most six of them after a point";
        let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(rest) || rest.len() > 6 {
            return Err(WRONG);
        }
        let whole: u64 = whole.parse().map_err(|_| WRONG)?;
        let rest: u64 = format!("{rest:0<6}").parse().map_err(|_| WRONG)?;
        let micros = whole
            .checked_mul(Self::UNIT)
            .and_then(|w| w.checked_add(rest));
        micros
            .filter(|m| *m <= Self::MICROS_MAX)
            .map(Self)
            .ok_or(WRONG)
    }
}

impl Serialize for Money {
    fn serialize<S: serde::Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        writer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct Reader;
        impl serde::de::Visitor<'_> for Reader {
            type Value = Money;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of money, such as \"1.25\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Money, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Money, E> {
                number.to_string().parse().map_err(E::custom)
            }
            // The shortest text that means this number is the one that was written. What is finer is rounded up.
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Money, E> {
                let exact = number.to_string().parse().ok();
                let price = exact.or_else(|| Money::from_price(number));
                price.ok_or_else(|| E::custom("expected an amount of money from 0 to 999999999"))
            }
        }
        reader.deserialize_any(Reader)
    }
}

impl JsonSchema for Money {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Money".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": ["string", "number"],
            "pattern": "^[0-9]{1,9}([.][0-9]{1,6})?$",
            "minimum": 0, "maximum": 999_999_999,
            "description": "An amount of money in a unit that is the operator's own, as decimal text with at most six digits after the point; a number is accepted, too.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_exact_text_or_a_number() {
        for (text, micros) in [
            ("0", 0),
            ("1", 1_000_000),
            ("1.25", 1_250_000),
            ("0.000001", 1),
            ("999999999.999999", Money::MICROS_MAX),
        ] {
            let money: Money = text.parse().unwrap();
            assert_eq!(money.micros(), micros);
            assert_eq!(money.to_string(), text);
        }
        for number in ["0.1", "3", "1.1", "2.675"] {
            let read: Money = serde_json::from_str(number).unwrap();
            assert_eq!(read.to_string(), number);
        }
        for wrong in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "1e3",
            "1.0000001",
            "1000000000",
            "1,5",
        ] {
            assert!(wrong.parse::<Money>().is_err(), "{wrong}");
        }
        for wrong in ["-1", "1e300", "null", "true"] {
            assert!(serde_json::from_str::<Money>(wrong).is_err(), "{wrong}");
        }
    }
}

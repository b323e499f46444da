//! Sizes, shares of a processor and spans of time, as people write them in manifests and configuration.
//!
//! Each type states its spellings in its JSON Schema, and the schema's pattern and the parser accept the same texts.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Why a text is not a quantity: what was expected instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct InvalidQuantity(&'static str);

const BYTES_EXPECTED: &str = "a size such as 512MB, 1GiB, or a number of megabytes";
const CPU_EXPECTED: &str = "a share of a processor such as 1.5 (cores), 500m (millicores) or 50%";
const PERCENT_EXPECTED: &str = "a percentage of one core such as 150 or 150%, or 500m (millicores)";
const SPAN_EXPECTED: &str =
    "a duration such as 500ms, 5s, 10m, 24h, 7d, or a number of milliseconds";

/// Longest span that is accepted, 3650 days: a longer one is a slip of the pen, and sums of spans must not overflow.
const SPAN_MS_MAX: u64 = 3650 * 24 * 3600 * 1000;
/// Most cores that are accepted, as millicores; more than any machine has.
const CPU_MILLICORES_MAX: u32 = 4_096_000;
/// Largest size that is accepted, 2^53 bytes, so that every size is exact in JSON.
const BYTES_MAX: u64 = crate::json::NUMBER_MAX;

/// `digits[.digits]` and the rest; three decimals at most, scaled by 1000, so that no rounding is involved.
fn decimal(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 3 || fraction.contains('.') {
        return None;
    }
    let thousandths: u64 = format!("{fraction:0<3}").parse().ok()?;
    Some((
        whole
            .parse::<u64>()
            .ok()?
            .checked_mul(1000)?
            .checked_add(thousandths)?,
        rest,
    ))
}

/// A non-negative JSON number in thousandths, rounded.
fn thousandths(number: f64) -> Option<u64> {
    let scaled = (number * 1000.0).round();
    #[expect(clippy::cast_precision_loss, reason = "2^53 is exact")]
    let fits = scaled >= 0.0 && scaled <= crate::json::NUMBER_MAX as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be within 0 and 2^53"
    )]
    fits.then_some(scaled as u64)
}

/// A number of bytes. Text has a unit (`512MB` is 512·10⁶, `512MiB` is 512·2²⁰); a bare number counts megabytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteCount(u64);

impl ByteCount {
    const UNITS: [(&'static str, u64); 9] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("KB", 1_000),
        ("B", 1),
    ];

    /// This many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }
    /// This many megabytes, of 10⁶ bytes.
    pub const fn from_megabytes(megabytes: u64) -> Self {
        Self(megabytes.saturating_mul(1_000_000))
    }
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteCount {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let parse = || {
            let (thousandths, unit) = decimal(text)?;
            let factor = match unit {
                "kB" => 1_000,
                _ => Self::UNITS.iter().find(|(name, _)| *name == unit)?.1,
            };
            let bytes = u128::from(thousandths) * u128::from(factor) / 1000;
            u64::try_from(bytes)
                .ok()
                .filter(|bytes| *bytes <= BYTES_MAX)
                .map(Self)
        };
        parse().ok_or(InvalidQuantity(BYTES_EXPECTED))
    }
}

impl fmt::Display for ByteCount {
    /// The largest unit that needs no fraction; decimal units first, as the manifest's are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: &&(&str, u64)| self.0 >= unit.1 && self.0.is_multiple_of(unit.1);
        let (decimal, binary) = (&Self::UNITS[4..8], &Self::UNITS[..4]);
        match decimal
            .iter()
            .find(fits)
            .or_else(|| binary.iter().find(fits))
        {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A share of processors, in thousandths of a core. Text: `1.5`, `500m`, `50%`; a bare number counts cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cpu(u32);

impl Cpu {
    /// This many thousandths of a core.
    pub const fn from_millicores(millicores: u32) -> Self {
        Self(millicores)
    }
    /// Thousandths of a core.
    pub const fn millicores(self) -> u32 {
        self.0
    }

    fn checked(millicores: u64) -> Option<Self> {
        u32::try_from(millicores)
            .ok()
            .filter(|m| (1..=CPU_MILLICORES_MAX).contains(m))
            .map(Self)
    }
}

impl FromStr for Cpu {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let parse = || match decimal(text)? {
            (thousandths, "") => Self::checked(thousandths),
            (thousandths, "m") => Self::checked(thousandths / 1000),
            (thousandths, "%") => Self::checked(thousandths / 100),
            _ => None,
        };
        parse().ok_or(InvalidQuantity(CPU_EXPECTED))
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}m", self.0)
    }
}

/// The same as [`Cpu`], where a bare number counts percent of one core (`cpuLimit`): 150 is one and a half cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CpuPercent(pub Cpu);

impl FromStr for CpuPercent {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let parse = || match decimal(text)? {
            (thousandths, "m") => Cpu::checked(thousandths / 1000),
            (thousandths, "%") => Cpu::checked(thousandths / 100),
            _ => None,
        };
        parse().map(Self).ok_or(InvalidQuantity(PERCENT_EXPECTED))
    }
}

/// A span of time to the millisecond. Text: `500ms`, `5s`, `10m`, `24h`, `7d`; a bare number counts milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(u64);

impl Span {
    const UNITS: [(&'static str, u64); 5] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];

    /// This many milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms)
    }
    /// This many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }
    /// Milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
    /// As a [`Duration`].
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl FromStr for Span {
    type Err = InvalidQuantity;
    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let parse = || {
            let (thousandths, unit) = decimal(text)?;
            let factor = Self::UNITS.iter().find(|(name, _)| *name == unit)?.1;
            let ms = u128::from(thousandths) * u128::from(factor) / 1000;
            u64::try_from(ms)
                .ok()
                .filter(|ms| *ms <= SPAN_MS_MAX)
                .map(Self)
        };
        parse().ok_or(InvalidQuantity(SPAN_EXPECTED))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: &&(&str, u64)| self.0 >= unit.1 && self.0.is_multiple_of(unit.1);
        // Days and hours would hide what was meant by a minute's setting; 24h stays 24h, 60s becomes 1m.
        match Self::UNITS[1..].iter().find(fits) {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}ms", self.0),
        }
    }
}

/// Serialisation and schema of a quantity that is read from text or from a number.
macro_rules! quantity {
    ($name:ident, $expected:expr, $pattern:expr, $minimum:expr, $maximum:expr, $number:expr, $write:expr) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
                struct Read;
                impl Visitor<'_> for Read {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_f64<E: de::Error>(self, number: f64) -> Result<$name, E> {
                        let read: fn(u64) -> Option<$name> = $number;
                        thousandths(number).and_then(read).ok_or_else(|| E::custom(InvalidQuantity($expected)))
                    }
                    #[expect(clippy::cast_precision_loss, reason = "what it would lose is far above the maximum")]
                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        self.visit_f64(number as f64)
                    }
                    fn visit_i64<E: de::Error>(self, _: i64) -> Result<$name, E> {
                        Err(E::custom(InvalidQuantity($expected)))
                    }
                }
                reader.deserialize_any(Read)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
                let write: fn(&Self, S) -> Result<S::Ok, S::Error> = $write;
                write(self, writer)
            }
        }
        impl schemars::JsonSchema for $name {
            // Inline, so that an optional one is simply of one more type.
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": ["string", "number"],
                    "pattern": $pattern,
                    "minimum": $minimum,
                    "maximum": $maximum,
                    "x-expected": $expected,
                })
            }
        }
    };
}

quantity!(
    ByteCount,
    BYTES_EXPECTED,
    r"^[0-9]{1,9}(\.[0-9]{1,3})?([KMGT]i?B|kB|B)$",
    0,
    1_000_000_000,
    |thousandths| Some(ByteCount::from_bytes(thousandths.checked_mul(1000)?)),
    |size, writer| writer.collect_str(size)
);
quantity!(
    Cpu,
    CPU_EXPECTED,
    r"^[0-9]{1,7}(\.[0-9]{1,3})?[m%]?$",
    0.001,
    4096,
    Cpu::checked,
    |cpu, writer| writer.serialize_f64(f64::from(cpu.0) / 1000.0)
);
quantity!(
    CpuPercent,
    PERCENT_EXPECTED,
    r"^[0-9]{1,7}(\.[0-9]{1,3})?[m%]$",
    0.1,
    409_600,
    |thousandths| Cpu::checked(thousandths / 100).map(CpuPercent),
    |cpu, writer| writer.serialize_f64(f64::from(cpu.0.0) / 10.0)
);
quantity!(
    Span,
    SPAN_EXPECTED,
    r"^[0-9]{1,12}(\.[0-9]{1,3})?(ms|s|m|h|d)$",
    0,
    SPAN_MS_MAX,
    |thousandths| Some(Span::from_millis(thousandths / 1000)),
    |span, writer| writer.collect_str(span)
);

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn sizes_are_read_in_every_spelling() {
        for (json, bytes) in [
            ("50", 50_000_000),
            ("0.5", 500_000),
            (r#""512MB""#, 512_000_000),
            (r#""1.5GiB""#, 1_610_612_736),
            (r#""1GB""#, 1_000_000_000),
            (r#""0B""#, 0),
        ] {
            assert_eq!(read::<ByteCount>(json).unwrap().bytes(), bytes, "{json}");
        }
        for json in [
            r#""512""#,
            r#""-1MB""#,
            r#""1 MB""#,
            r#""MB""#,
            r#""1.MB""#,
            "-1",
            "true",
            r#""9999999TB""#,
        ] {
            assert!(read::<ByteCount>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn cores_percent_and_millicores_are_one_quantity() {
        assert_eq!(read::<Cpu>("1.5").unwrap().millicores(), 1500);
        assert_eq!(read::<Cpu>(r#""150%""#).unwrap().millicores(), 1500);
        assert_eq!(read::<Cpu>(r#""1500m""#).unwrap().millicores(), 1500);
        assert_eq!(read::<CpuPercent>("150").unwrap().0.millicores(), 1500);
        assert!(
            read::<CpuPercent>(r#""1.5""#).is_err(),
            "ambiguous: cores or percent"
        );
        assert!(read::<Cpu>("0").is_err());
    }

    #[test]
    fn spans_are_read_in_every_spelling() {
        for (json, ms) in [
            ("250", 250),
            (r#""5s""#, 5000),
            (r#""1.5s""#, 1500),
            (r#""10m""#, 600_000),
            (r#""7d""#, 604_800_000),
        ] {
            assert_eq!(read::<Span>(json).unwrap().as_millis(), ms, "{json}");
        }
        for json in [r#""5""#, r#""5 s""#, r#""s""#, "-5", r#""9999999d""#] {
            assert!(read::<Span>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        for bytes in [
            0,
            1,
            999,
            1024,
            1_000_000,
            512_000_000,
            1 << 30,
            123_456_789,
        ] {
            let size = ByteCount::from_bytes(bytes);
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        for ms in [0, 1, 1500, 60_000, 86_400_000] {
            let span = Span::from_millis(ms);
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        assert_eq!(ByteCount::from_bytes(512_000_000).to_string(), "512MB");
        assert_eq!(Span::from_secs(86_400).to_string(), "24h");
    }
}

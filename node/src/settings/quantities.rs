//! Quantities as people write them: spans of time, sizes, and how far clocks drift.

use engine::time::Micros;
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// A span of time as people write it: `150ms`, `2s`, `10m`, `12h`, `500us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Micros);

const SPAN_UNITS: [(&str, u64); 5] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];

/// A number of bytes as people write it: `65536`, `64KiB`, `1MiB`, `2GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

const SIZE_UNITS: [(&str, u64); 4] =
    [("B", 1), ("KiB", 1024), ("MiB", 1024 * 1024), ("GiB", 1024 * 1024 * 1024)];

/// Splits `150ms` into its number and unit and multiplies them.
fn parse_quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Writes a quantity in the largest unit that leaves no fraction.
fn write_quantity(f: &mut fmt::Formatter<'_>, quantity: u64, units: &[(&str, u64)]) -> fmt::Result {
    let whole = |(_, factor): &&(&str, u64)| quantity != 0 && quantity.is_multiple_of(*factor);
    let (unit, factor) = units.iter().rev().find(whole).unwrap_or(&units[0]);
    write!(f, "{}{unit}", quantity / factor)
}

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let micros = parse_quantity(text, &SPAN_UNITS);
        let error =
            || format!("`{text}` is not a span of time; write 500us, 150ms, 2s, 10m or 12h");
        micros.map(|micros| Self(Micros(micros))).ok_or_else(error)
    }
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = match text.parse() {
            Ok(bytes) => Some(bytes),
            Err(_) => parse_quantity(text, &SIZE_UNITS),
        };
        bytes.map(Self).ok_or_else(|| format!("`{text}` is not a size; write 65536, 64KiB or 1MiB"))
    }
}

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_quantity(f, self.0.0, &SPAN_UNITS)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_quantity(f, self.0, &SIZE_UNITS)
    }
}

/// How much clocks drift apart, in a million, as people write it: `500ppm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Drift(pub u32);

impl FromStr for Drift {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let ppm = parse_quantity(text, &[("ppm", 1)]).and_then(|ppm| u32::try_from(ppm).ok());
        ppm.map(Self).ok_or_else(|| format!("`{text}` is not a drift of clocks; write 500ppm"))
    }
}

impl TryFrom<String> for Drift {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ppm", self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_read_and_written_alike() {
        for text in ["500us", "150ms", "2s", "10m", "12h"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in ["17B", "64KiB", "1MiB", "2GiB"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("65536".parse(), Ok(Size(65_536)));
        for text in ["", "ms", "150", "1.5s", "-1s", "99999999999999999999s", "1 fortnight"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        for text in ["", "MiB", "1MB", "-1", "99999999999999999999"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!("500ppm".parse::<Drift>().unwrap().to_string(), "500ppm");
        for text in ["", "500", "ppm", "0.05%", "5000000000ppm"] {
            assert!(text.parse::<Drift>().is_err(), "{text}");
        }
    }
}

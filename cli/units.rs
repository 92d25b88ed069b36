//! Sizes and times as people write them: `2G`, `30d`.

use std::ops::RangeInclusive;

/// A size with its unit, of 1024 or of 1000.
const SIZES: [(&str, u64); 13] = [
    ("", 1),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("T", 1 << 40),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
];

/// A time with its unit, in seconds.
const TIMES: [(&str, u64); 5] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86400), ("w", 7 * 86400)];

/// Bytes: a whole number, and a unit as GNU's coreutils have them.
pub fn bytes(text: &str) -> Result<u64, String> {
    number(text, &SIZES).ok_or_else(|| "must be a size like 500M, 2G or 1TB".to_owned())
}

/// Seconds: a whole number and a unit.
pub fn seconds(text: &str) -> Result<u64, String> {
    let none = (text == "0").then_some(0);
    none.or_else(|| number(text, &TIMES)).ok_or_else(|| "must be a time like 30d, 12h, 90m or 6w".to_owned())
}

/// A parser of whole numbers within limits.
pub fn whole(limits: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> + Clone {
    move |text| match text.parse() {
        Ok(number) if limits.contains(&number) => Ok(number),
        _ => Err(format!("must be a whole number from {} to {}", limits.start(), limits.end())),
    }
}

fn number(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_the_limits_are_refused_with_the_limits() {
        let wrong = Err("must be a whole number from 1 to 9".to_owned());
        for (text, expect) in
            [("1", Ok(1)), ("9", Ok(9)), ("0", wrong.clone()), ("many", wrong.clone()), ("-1", wrong)]
        {
            assert_eq!(whole(1..=9)(text), expect, "{text}");
        }
    }

    #[test]
    fn sizes_have_units_of_1024_or_1000() {
        for (text, expect) in [("0", 0), ("512", 512), ("2G", 2 << 30), ("1GiB", 1 << 30), ("3MB", 3_000_000)]
        {
            assert_eq!(bytes(text), Ok(expect), "{text}");
        }
        for text in ["", "G", "-1", "1.5G", "2 G", "2g", "2X", "99999999999999999999", "99999999T"] {
            assert!(bytes(text).unwrap_err().contains("like 500M"), "{text}");
        }
    }

    #[test]
    fn times_have_units() {
        for (text, expect) in [("0", 0), ("90m", 5400), ("30d", 30 * 86400), ("1w", 7 * 86400), ("0s", 0)] {
            assert_eq!(seconds(text), Ok(expect), "{text}");
        }
        for text in ["", "d", "30", "1y", "1.5d", "-1d", "30 d", "99999999999999999999s"] {
            assert!(seconds(text).unwrap_err().contains("like 30d"), "{text}");
        }
    }
}

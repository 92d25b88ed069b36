//! Numbers and lists as people write them.

use chrono::DateTime;

/// A time in seconds since 1970, to the minute, in UTC.
pub fn moment(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    moment.map_or(String::new(), |moment| moment.format("%-d %B %Y, %H:%M UTC").to_string())
}

/// The same as digits, which can be sorted.
pub fn minute(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    moment.map_or(String::new(), |moment| moment.format("%Y-%m-%d %H:%M UTC").to_string())
}

/// A span of time, in at most two units.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A number with its noun: `1 module`, `2 modules`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_day_and_a_time_in_utc() {
        assert_eq!(moment(1_795_360_320), "22 November 2026, 15:12 UTC");
        assert_eq!(moment(u64::MAX), "");
    }

    #[test]
    fn a_span_has_one_or_two_units() {
        let check = |seconds, expect: &str| assert_eq!(duration(seconds), expect);
        check(0.04, "0.0 s");
        check(3.26, "3.3 s");
        check(9.99, "10 s");
        check(51.7, "52 s");
        check(312.0, "5 min 12 s");
        check(3599.9, "1 h 00 min");
        check(7500.0, "2 h 05 min");
    }
}

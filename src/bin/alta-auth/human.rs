//! Numbers as people write and read them.

use std::time::Duration;

use hdrhistogram::Histogram;

/// `20ms`, `1.5s`, `2m`. At most a day: longer is a slip of the keyboard.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = match &text[digits..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err("write a number and its unit: 20ms, 1.5s, 2m".to_owned()),
    };
    let number: f64 = text[..digits].parse().map_err(|_| "write a number and its unit: 20ms, 1.5s, 2m")?;
    let seconds = number * unit;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err("at most a day".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// `5%` as 0.05.
pub(crate) fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').ok_or("write a percentage: 5%")?;
    match number.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("write a percentage from 0% to 100%".to_owned()),
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `count` with its noun, which takes an `s` unless there is one of it.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Three digits that matter: `0.042 ms`, `1.50 ms`, `312 ms`, `4.21 s`.
pub(crate) fn time(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ..0.1 => format!("{ms:.3} ms"),
        ..10.0 => format!("{ms:.2} ms"),
        ..100.0 => format!("{ms:.1} ms"),
        ..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1000.0),
    }
}

/// How many a second, rounded.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "shown to people, three digits matter"
)]
pub(crate) fn per_second(number: u64, time: Duration) -> u64 {
    (number as f64 / time.as_secs_f64().max(0.000_001)) as u64
}

/// Latencies from 1 us to 10 minutes with three digits; 100 KiB, whatever is put in.
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 600_000_000, 3).expect("1 < 600,000,000 and 3 digits are valid"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// `p50 0.80 ms  p90 …  p99 …  p99.9 …  max …`
    pub(crate) fn line(&self) -> String {
        if self.0.is_empty() {
            return "nothing measured".to_owned();
        }
        let at = |quantile| time(Duration::from_micros(self.0.value_at_quantile(quantile)));
        format!(
            "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            time(Duration::from_micros(self.0.max()))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_their_unit() {
        assert_eq!(parse_duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        for bad in ["", "20", "ms", "1h", "-1s", "1.2.3s", "9999999m", "1 s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn percentages_stay_between_0_and_100() {
        assert_eq!(parse_percent("5%"), Ok(0.05));
        assert_eq!(parse_percent("100%"), Ok(1.0));
        for bad in ["5", "-1%", "101%", "NaN%", "%"] {
            assert!(parse_percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "check"), "1 check");
        assert_eq!(counted(2, "check"), "2 checks");
    }
}

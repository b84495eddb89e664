//! When to try again (RFC 5321 §4.5.4.1). Pure: the caller brings the clock and the randomness.

use std::time::Duration;

/// Delay after failed attempt `n` (1-based), jittered by ±10 %, so that a thousand messages
/// deferred together do not come back together.
/// Starts at `first`, doubles with each attempt, ends at `max`.
pub fn retry_delay(n: u32, first: Duration, max: Duration, entropy: u64) -> Duration {
    let doublings = n.saturating_sub(1).min(32);
    let plain = first.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(max);
    // 900 to 1100 thousandths.
    let thousandths = 900 + u32::try_from(entropy % 201).unwrap_or(100);
    (plain / 1_000).saturating_mul(thousandths)
}

/// The time of the attempt after `n`, or `None` when the message has been in the queue too long.
/// Times are milliseconds since 1970. The last attempt is made when the lifetime ends.
pub(crate) fn next_attempt(n: u32, now_ms: i64, accepted_at_ms: i64, limits: &Limits, entropy: u64) -> Option<i64> {
    let expiry = limits.expiry(accepted_at_ms);
    if now_ms >= expiry {
        return None;
    }
    let delay = millis(retry_delay(n, limits.first, limits.max, entropy)).max(1_000);
    Some(now_ms.saturating_add(delay).min(expiry.max(now_ms.saturating_add(1_000))))
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub first: Duration,
    pub max: Duration,
    pub lifetime: Duration,
    /// The sender is told of a delay that lasts longer.
    pub delay_report: Option<Duration>,
}

impl Limits {
    /// When the message is given up.
    pub fn expiry(&self, accepted_at_ms: i64) -> i64 {
        accepted_at_ms.saturating_add(millis(self.lifetime))
    }

    /// Whether the sender is to be told about the delay now.
    pub fn is_delayed(&self, now_ms: i64, accepted_at_ms: i64) -> bool {
        self.delay_report.is_some_and(|delay| now_ms >= accepted_at_ms.saturating_add(millis(delay)))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const LIMITS: Limits = Limits {
        first: MINUTE,
        max: Duration::from_secs(7_200),
        lifetime: Duration::from_secs(5 * 86_400),
        delay_report: Some(Duration::from_secs(14_400)),
    };

    fn delay(n: u32, entropy: u64) -> f64 {
        retry_delay(n, LIMITS.first, LIMITS.max, entropy).as_secs_f64()
    }

    #[test]
    fn doubles_from_a_minute_to_two_hours() {
        // 100 is the middle of the jitter.
        let middle: Vec<f64> = (1..=10).map(|n| delay(n, 100)).collect();
        assert_eq!(middle, [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3840.0, 7200.0, 7200.0, 7200.0]);
        assert_eq!(delay(0, 100), 60.0);
        assert_eq!(delay(u32::MAX, 100), 7200.0);
    }

    #[test]
    fn a_delay_is_told_after_four_hours() {
        assert!(!LIMITS.is_delayed(14_399_999, 0));
        assert!(LIMITS.is_delayed(14_400_000, 0));
        assert!(!Limits { delay_report: None, ..LIMITS }.is_delayed(i64::MAX, 0));
    }

    #[test]
    fn jitter_is_ten_percent_either_way() {
        let all: Vec<f64> = (0..1_000).map(|entropy| delay(1, entropy)).collect();
        assert!(all.iter().all(|d| (54.0..=66.0).contains(d)));
        assert!(all.contains(&54.0) && all.contains(&66.0));
        assert!((54.0..=66.0).contains(&delay(1, u64::MAX)));
    }

    #[test]
    fn the_last_attempt_is_at_the_end_of_the_lifetime() {
        let day = 86_400_000;
        let next = |now| next_attempt(20, now, 0, &LIMITS, 100);
        assert_eq!(next(0), Some(7_200_000));
        assert_eq!(next(5 * day - 60_000), Some(5 * day));
        assert_eq!(next(5 * day - 10), Some(5 * day + 990));
        assert_eq!(next(5 * day), None);
        assert_eq!(next(i64::MAX), None);
    }
}

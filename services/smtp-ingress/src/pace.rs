//! How slow a client may be: a whole command in its time, content at a least rate.
//!
//! A timeout for each read alone (RFC 5321 §4.5.3.2) would let a client hold a session for days
//! with an octet now and then.

use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub struct Pace {
    /// When the wait for the running command began.
    command: Option<Instant>,
    /// The window that runs, and the octets of content in it.
    window: Option<(Instant, u64)>,
}

impl Pace {
    /// The client has done something whole; the next wait is a new one.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// What is left of a command's time.
    pub fn command_patience(&mut self, now: Instant, limit: Duration) -> Duration {
        let began = *self.command.get_or_insert(now);
        limit.saturating_sub(now.saturating_duration_since(began))
    }

    /// Counts octets of content; `false` when a whole window has brought fewer than `rate` a second.
    pub fn keeps_up(&mut self, now: Instant, octets: usize, rate: u64, window: Duration) -> bool {
        let (began, sum) = self.window.get_or_insert((now, 0));
        *sum = sum.saturating_add(octets as u64);
        let elapsed = now.saturating_duration_since(*began);
        if elapsed < window {
            return true;
        }
        let enough = (*sum as f64) >= rate as f64 * elapsed.as_secs_f64();
        self.window = Some((now, 0));
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_command_has_one_time_however_many_reads_it_takes() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.command_patience(start, 10 * SECOND), 10 * SECOND);
        assert_eq!(pace.command_patience(start + 7 * SECOND, 10 * SECOND), 3 * SECOND);
        assert_eq!(pace.command_patience(start + 11 * SECOND, 10 * SECOND), Duration::ZERO);
        pace.reset();
        assert_eq!(pace.command_patience(start + 12 * SECOND, 10 * SECOND), 10 * SECOND);
    }

    #[test]
    fn content_keeps_its_rate_in_every_window() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(pace.keeps_up(start, 1_000_000, 100, 10 * SECOND));
        assert!(pace.keeps_up(start + 10 * SECOND, 0, 100, 10 * SECOND), "a fast start");
        assert!(pace.keeps_up(start + 15 * SECOND, 1, 100, 10 * SECOND));
        assert!(!pace.keeps_up(start + 20 * SECOND, 1, 100, 10 * SECOND), "then a trickle");
    }
}

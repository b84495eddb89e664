//! A bar on the terminal; now and then a line where there is none.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

const WIDTH: u64 = 30;

pub struct Progress {
    messages: u64,
    bytes: u64,
    done_messages: u64,
    done_bytes: u64,
    started: Instant,
    drawn: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    pub fn new(messages: u64, bytes: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { messages, bytes, done_messages: 0, done_bytes: 0, started: Instant::now(), drawn: None, is_terminal }
    }

    pub fn advance(&mut self, mailbox: &str, messages: u64, bytes: u64) {
        self.done_messages += messages;
        self.done_bytes += bytes;
        let every = if self.is_terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        if self.drawn.is_none_or(|at| at.elapsed() >= every) {
            self.draw(mailbox);
        }
    }

    pub fn finish(&mut self) {
        self.draw("");
        if self.is_terminal {
            eprintln!();
        }
    }

    fn draw(&mut self, mailbox: &str) {
        self.drawn = Some(Instant::now());
        let line = self.line(mailbox, self.started.elapsed());
        let mut out = std::io::stderr().lock();
        // Nobody misses a bar that cannot be drawn.
        let _ = if self.is_terminal {
            write!(out, "\r\x1b[K{line}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }

    fn line(&self, mailbox: &str, elapsed: Duration) -> String {
        let share = |n: u64| (n * self.done_bytes.min(self.bytes)).checked_div(self.bytes).unwrap_or(n);
        let filled = usize::try_from(share(WIDTH)).unwrap_or_default();
        let rest = usize::try_from(WIDTH).unwrap_or_default().saturating_sub(filled);
        let rate = self.done_bytes as f64 / 1e6 / elapsed.as_secs_f64().max(0.001);
        let left = match (self.done_bytes, self.bytes.saturating_sub(self.done_bytes)) {
            (0, _) | (_, 0) => String::new(),
            (done, left) => format!("  {} s left", (elapsed.as_secs_f64() * left as f64 / done as f64).ceil()),
        };
        format!(
            "[{}{}] {:>3} %  {} of {} messages  {rate:.1} MB/s{left}  {}",
            "#".repeat(filled),
            ".".repeat(rest),
            share(100),
            self.done_messages,
            self.messages,
            crate::text::printable(mailbox)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar() {
        let mut progress = Progress::new(10, 4_000_000);
        progress.done_messages = 5;
        progress.done_bytes = 2_000_000;
        let line = progress.line("INBOX", Duration::from_secs(2));
        assert_eq!(line, "[###############...............]  50 %  5 of 10 messages  1.0 MB/s  2 s left  INBOX");
        assert!(Progress::new(0, 0).line("", Duration::ZERO).contains("0 of 0"));
    }
}

use std::borrow::Cow;

const MAX_LINES: usize = 200;
const MAX_BYTES: usize = 16 * 1024;
const MAX_LINE: usize = 512;

/// The dialogue of a connection as `C: …` and `S: …` lines, for the journey.
///
/// Bounded by 200 lines and 16 KiB; what comes after is counted, not kept. Whoever records
/// leaves out content and credentials.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    lines: Vec<String>,
    bytes: usize,
    dropped: usize,
    /// Lines of the session's opening, which each message's transcript begins with.
    opening: usize,
}

impl Transcript {
    pub fn client(&mut self, line: &str) {
        self.push("C: ", line);
    }

    pub fn server(&mut self, line: &str) {
        self.push("S: ", line);
    }

    /// What was said so far opens every transaction's transcript.
    pub fn mark_opening(&mut self) {
        // Half of the room stays for the transactions, however often a client says hello.
        self.opening = self.lines.len().min(MAX_LINES / 2);
    }

    /// Forgets earlier transactions.
    pub fn begin_transaction(&mut self) {
        self.lines.truncate(self.opening);
        self.bytes = self.lines.iter().map(String::len).sum();
        self.dropped = 0;
    }

    /// The kept lines; a last one tells how many were dropped.
    pub fn lines(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let dropped = (self.dropped > 0).then(|| Cow::Owned(format!("… {} more lines", self.dropped)));
        self.lines.iter().map(|l| Cow::Borrowed(l.as_str())).chain(dropped)
    }

    fn push(&mut self, who: &str, line: &str) {
        let line: String =
            who.chars().chain(line.chars().take(MAX_LINE).map(|c| if c.is_control() { '?' } else { c })).collect();
        if self.lines.len() >= MAX_LINES || self.bytes + line.len() > MAX_BYTES {
            self.dropped += 1;
        } else {
            self.bytes += line.len();
            self.lines.push(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_bounded_and_keeps_the_opening() {
        let mut transcript = Transcript::default();
        transcript.server("220 mx.example");
        transcript.mark_opening();
        for round in 0..3 {
            transcript.begin_transaction();
            for n in 0..1000 {
                transcript.client(&format!("RCPT {round} {n} {}\r\n", "x".repeat(20)));
            }
        }
        let lines: Vec<_> = transcript.lines().collect();
        assert_eq!(lines.len(), 201);
        assert_eq!(lines[0], "S: 220 mx.example");
        assert!(lines[1].starts_with("C: RCPT 2 0 x") && lines[1].ends_with("x??"));
        assert_eq!(lines[200], "… 801 more lines");
        assert!(transcript.bytes <= MAX_BYTES);
    }
}

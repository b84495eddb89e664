//! The messages: plain text that compresses about as mail does, the same in every run.

/// 76 characters (RFC 2045 §6.8 for encoded text, RFC 5322 §2.1.1 wants at most 78) and CRLF.
const LINE: usize = 78;
const LINES: usize = 20_000;
const WORDS: usize = 4_096;

/// A text that messages take their bodies from, each its own part of it.
pub struct Text(Vec<u8>);

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

impl Text {
    pub fn generate() -> Self {
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let mut word = |_| (0..2 + random.below(8)).map(|_| b'a' + random.below(26) as u8).collect::<Vec<u8>>();
        let words: Vec<Vec<u8>> = (0..WORDS).map(&mut word).collect();
        let mut text = Vec::with_capacity(LINE * LINES);
        while text.len() < LINE * LINES {
            let start = text.len();
            while text.len() - start < LINE {
                // Some words come often, as in a language.
                let rank = random.below(WORDS).min(random.below(WORDS));
                text.extend_from_slice(&words[rank]);
                text.push(b' ');
            }
            text.truncate(start + LINE - 2);
            text.extend_from_slice(b"\r\n");
        }
        Self(text)
    }

    /// Message `number` of some `run`, header and body, to `recipient`: at most `size` bytes and
    /// less than a line below it. No line begins with a dot.
    pub fn message(&self, run: &str, number: usize, recipient: &str, size: usize) -> Vec<u8> {
        let mut message = format!(
            "Date: Mon, 05 Jan 2026 10:00:00 +0000\r\nFrom: News <news@{domain}>\r\nTo: <{recipient}>\r\n\
             Subject: Number {number} of {run}\r\nMessage-ID: <{number}.{run}@{domain}>\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n\r\n",
            domain = super::SENDER_DOMAIN
        )
        .into_bytes();
        let lines = size.saturating_sub(message.len()) / LINE;
        let start = number * 7_919 % (LINES - lines) * LINE;
        message.extend_from_slice(&self.0[start..start + lines * LINE]);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_size_and_are_never_the_same() {
        let text = Text::generate();
        for size in [1_000, 10_000, 100_000] {
            let message = text.message("test", 1, "a@b", size);
            assert!((size - LINE..=size).contains(&message.len()), "{}", message.len());
            assert!(message.ends_with(b"\r\n") && !message.windows(3).any(|w| w == b"\r\n."));
            assert!(message.split(|b| *b == b'\n').all(|line| line.len() <= LINE));
            assert_ne!(message, text.message("test", 2, "a@b", size));
        }
    }
}

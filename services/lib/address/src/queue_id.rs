use std::{fmt, str::FromStr};

/// Names one accepted message everywhere: in the 250 reply, `Received:`, logs, the journey.
///
/// 128 bits whose first 48 are milliseconds since 1970 (the layout of a UUIDv7), written as
/// 26 characters of Crockford's base32, so that it sorts by time and survives a phone call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId([u8; 16]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a queue id is 26 characters of 0-9 and A-Z without I, L, O and U")]
pub struct QueueIdError;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl QueueId {
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        let mut text = [0u8; 26];
        for (i, slot) in text.iter_mut().enumerate() {
            *slot = ALPHABET[(bits >> (125 - 5 * i)) as usize & 31];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for QueueId {
    type Err = QueueIdError;

    fn from_str(text: &str) -> Result<Self, QueueIdError> {
        // 26 × 5 bits are 130: the first character may only carry three.
        if text.len() != 26 || text.as_bytes()[0] > b'7' {
            return Err(QueueIdError);
        }
        let mut bits = 0u128;
        for c in text.bytes() {
            let digit = ALPHABET.iter().position(|a| *a == c.to_ascii_uppercase()).ok_or(QueueIdError)?;
            bits = bits << 5 | digit as u128;
        }
        Ok(Self(bits.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_sorts_by_time() {
        let low = QueueId::from_bytes([1; 16]);
        let high = QueueId::from_bytes([0xff; 16]);
        for id in [low, high, QueueId::from_bytes([0; 16])] {
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.to_string().to_lowercase().parse(), Ok(id));
        }
        assert!(low.to_string() < high.to_string());
    }

    #[test]
    fn refuses_other_text() {
        for text in [
            "",
            "8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "0123456789ABCDEFGHJKMNPQRU",
            "not-a-queue-id",
            "é123456789ABCDEFGHJKMNPQR",
        ] {
            assert_eq!(text.parse::<QueueId>(), Err(QueueIdError), "{text}");
        }
    }
}

//! Whatever arrives, in whatever pieces: no panic, no growth, and an end (invariant 8).
#![allow(clippy::unwrap_used)]

use pop3::{Answer, Config, Effect, Message, Refusal, Session, UniqueId};

/// xorshift64*: the same bytes in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

const PIECES: [&[u8]; 28] = [
    b"USER a",
    b"PASS b",
    b"AUTH PLAIN",
    b"AUTH LOGIN AAAA",
    b"AUTH",
    b"*",
    b"=",
    b"STLS",
    b"CAPA",
    b"UTF8",
    b"LANG de",
    b"STAT",
    b"LIST",
    b"RETR 1",
    b"DELE 2",
    b"TOP 1 4294967295",
    b"UIDL",
    b"RSET",
    b"NOOP",
    b"\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"99999999999999999999",
    b"\xff\xfe",
    b"AGEAYg==",
];

#[test]
fn garbage_never_panics_and_never_hangs() {
    let mut noise = Noise(0x5EED);
    for _ in 0..3000 {
        let config = Config {
            hostname: "mx.example".into(),
            starttls: noise.below(2) == 0,
            plaintext_login: noise.below(4) > 0,
            mechanisms: vec!["PLAIN".into(), "LOGIN".into()],
        };
        let mut session = Session::new(config, noise.below(2) == 0);
        let mut closed = false;
        for _ in 0..60 {
            let mut bytes = Vec::new();
            for _ in 0..noise.below(12) {
                if noise.below(20) == 0 {
                    let length = noise.below(20_000);
                    bytes.extend((0..length).map(|_| noise.next() as u8));
                } else {
                    bytes.extend_from_slice(PIECES[noise.below(PIECES.len())]);
                }
            }
            session.receive(&bytes);
            let mut steps = 0;
            while let Some(effect) = session.next_effect() {
                steps += 1;
                assert!(steps < 100_000, "does not come to an end");
                let answer = match effect {
                    Effect::Reply { text, .. } => {
                        assert!(text.ends_with(b"\r\n"));
                        continue;
                    }
                    Effect::CancelExchange => continue,
                    Effect::Close => {
                        closed = true;
                        continue;
                    }
                    Effect::StartTls => {
                        session.tls_started();
                        continue;
                    }
                    Effect::Authenticate { .. } | Effect::Respond(_) => match noise.below(4) {
                        0 => Answer::Refused(Refusal::Temporary),
                        1 => Answer::Challenge(vec![0; noise.below(100)]),
                        _ => Answer::Opened(
                            (0..3).map(|uid| Message { uid, size: u64::MAX, uidl: UniqueId::Own(uid) }).collect(),
                        ),
                    },
                    Effect::Retrieve { .. } => {
                        [Answer::Sent, Answer::Refused(Refusal::Gone)].into_iter().nth(noise.below(2)).unwrap()
                    }
                    Effect::Expunge(_) => Answer::Expunged,
                };
                session.answer(answer);
            }
            if closed {
                session.receive(b"NOOP\r\n");
                assert_eq!(session.next_effect(), None, "closed is closed");
                break;
            }
        }
    }
}

//! Everything else that reads a peer's octets.

use sasl::{Mechanism, Server, Step, scram::Verifier};

use super::generator::Generator;

pub fn proxy_header(_: &mut Generator, input: &[u8]) {
    for start in [0, input.len() / 2] {
        let input = input.get(start..).unwrap_or_default();
        if let Ok(Some(header)) = listener::parse_proxy_header(input) {
            assert!(header.length <= input.len(), "no more than there is");
            let head = input.get(..header.length).unwrap_or_default();
            assert_eq!(listener::parse_proxy_header(head), Ok(Some(header)), "what follows changes nothing");
        }
    }
}

/// Nobody is proven without the password.
pub fn sasl(generator: &mut Generator, input: &[u8]) {
    let mechanism = Mechanism::ALL[generator.below(Mechanism::ALL.len())];
    let pieces = generator.pieces(input);
    let mut pieces = pieces.into_iter();
    let initial = if generator.below(2) == 0 { pieces.next() } else { None };
    let (mut server, mut step) = Server::start_bound(mechanism, initial, b"binding");
    for _ in 0..10 {
        step = match step {
            Step::Challenge(_) => match pieces.next() {
                Some(piece) => server.step(piece),
                None => return,
            },
            Step::FindVerifier { authcid, .. } => server.verifier(Verifier::invent(b"secret", &authcid), "nonce"),
            Step::CheckToken(_) => server.token_refused(),
            Step::Proven => panic!("proven without a password"),
            Step::Verify(login) => {
                assert!(!login.authcid.is_empty() && !login.password.is_empty());
                return;
            }
            Step::CheckCertificate { authzid } => return assert!(!authzid.contains('\0')),
            Step::Failed(_) => return,
        };
    }
    let _ = std::str::from_utf8(input).map(str::parse::<Verifier>);
}

pub fn message(_: &mut Generator, input: &[u8]) {
    let header = message::split(input);
    assert!(header <= input.len());
    let head = input.get(..header).unwrap_or_default();
    let _ = message::from_addresses(head);
    let fields: Vec<_> = message::fields(head).collect();
    let kept = message::remove_fields(head, |f| f.is("Bcc"));
    assert!(message::field(&kept, "Bcc").is_none(), "removed is removed");
    for field in fields {
        let _ = message::decode_words(&message::unfold(field.value));
    }
    let _ = message::Structure::parse(input);
}

pub fn imap(_: &mut Generator, input: &[u8]) {
    for line in input.split(|b| *b == b'\n').take(100) {
        let _ = imap::parse(line, imap::Names::Utf7);
        let _ = imap::decode_utf7(line);
    }
    let _ = imap::parse(input, imap::Names::Utf8);
    let _ = imap::tag_of(input);
}

pub fn pop3(_: &mut Generator, input: &[u8]) {
    for line in input.split(|b| *b == b'\n').take(200) {
        let _ = pop3::Command::parse(line);
    }
    let _ = pop3::surrogate(input);
}

/// A filter's octets, in whatever pieces: what it adds stays one field, what it says one reply.
pub fn milter(generator: &mut Generator, input: &[u8]) {
    let mut whole = Vec::new();
    let mut packet = vec![0; 4];
    packet.extend_from_slice(&[b"achirqyO+"[generator.below(9)]]);
    packet.extend_from_slice(input.get(..generator.below(input.len() + 1)).unwrap_or_default());
    let length = u32::try_from(packet.len() - 4).unwrap_or_default();
    packet[..4].copy_from_slice(&length.to_be_bytes());
    for pieces in [vec![&packet[..]], generator.pieces(&packet)] {
        let mut client = milter::Client::new();
        let mut buffer = bytes::BytesMut::new();
        let mut answer = Ok(None);
        for piece in pieces {
            buffer.extend_from_slice(piece);
            if answer == Ok(None) {
                answer = client.answer(&mut buffer);
            }
        }
        if let Ok(Some(milter::Answer::Add(field))) = &answer {
            let text = format!("{}: {}\r\n\r\n", field.name, field.value);
            assert_eq!(message::fields(text.as_bytes()).count(), 1, "{text:?}");
            assert_eq!(message::split(text.as_bytes()), text.len(), "{text:?}");
        }
        whole.push(answer);
    }
    assert_eq!(whole.first(), whole.last());
}

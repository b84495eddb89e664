//! Sieve and ManageSieve: scripts of the language's own words over messages of anything.

use managesieve::{Answer, Effect};
use sieve::{Limits, Script, Stop, World};

use super::generator::Generator;

/// What scripts are made from, so that many are well-formed.
const WORDS: [&str; 56] = [
    "require [\"fileinto\",\"variables\",\"body\",\"imap4flags\",\"relational\",\"date\",\"index\",\"copy\",\"vacation\",\"duplicate\",\"mailbox\",\"encoded-character\",\"envelope\",\"subaddress\",\"comparator-i;ascii-numeric\"];",
    "if ",
    "elsif ",
    "else ",
    "{ ",
    "} ",
    "; ",
    "(",
    ") ",
    ", ",
    "[",
    "] ",
    "true ",
    "false ",
    "not ",
    "allof ",
    "anyof ",
    "header ",
    "address ",
    "envelope ",
    "body ",
    "date ",
    "currentdate ",
    "string ",
    "size :over 1K ",
    "exists \"to\" ",
    "hasflag ",
    "duplicate ",
    "mailboxexists \"a\" ",
    ":matches ",
    ":contains ",
    ":is ",
    ":count \"gt\" ",
    ":value \"lt\" ",
    ":comparator \"i;ascii-numeric\" ",
    ":comparator \"i;octet\" ",
    ":raw ",
    ":text ",
    ":content \"text\" ",
    ":index 1 ",
    ":last ",
    ":detail ",
    "\"subject\" ",
    "\"to\" ",
    "\"*a*?\" ",
    "\"${1}${a}\" ",
    "\"year\" ",
    "\"${hex:40}${unicode:20ac}\" ",
    "keep; ",
    "discard; ",
    "stop; ",
    "fileinto \"${1}x\"; ",
    "set :upper :length \"a\" \"${a}${a}b\"; ",
    "addflag \"\\\\Seen x\"; ",
    "redirect \"a@b.org\"; ",
    "vacation \"${a}\"; ",
];

struct Known<'a> {
    header: &'a [u8],
    content: Option<&'a [u8]>,
}

impl World for Known<'_> {
    fn header(&self) -> &[u8] {
        self.header
    }

    fn size(&self) -> u64 {
        self.header.len() as u64
    }

    fn content(&self) -> Option<&[u8]> {
        self.content
    }

    fn reverse_path(&self) -> &str {
        "a+b@else.org"
    }

    fn forward_path(&self) -> &str {
        "bob@example.com"
    }

    fn now(&self) -> i64 {
        1_000_000_000
    }

    fn has_mailbox(&self, name: &str) -> Option<bool> {
        Some(name.len().is_multiple_of(2))
    }

    fn is_tracked(&self, key: &str) -> Option<bool> {
        Some(key.len().is_multiple_of(2))
    }

    fn environment(&self, _: &str) -> Option<String> {
        None
    }
}

/// Any text is a script or an error with a place in it; a script ends, in its limits, and with what
/// it knows more it comes to the same.
pub fn sieve(generator: &mut Generator, input: &[u8]) {
    let mut script = String::new();
    for _ in 0..generator.below(60) {
        script.push_str(WORDS[generator.below(WORDS.len())]);
    }
    for text in [script, String::from_utf8_lossy(input).into_owned()] {
        let script = match Script::compile(&text) {
            Ok(script) => script,
            Err(e) => {
                assert!(e.line >= 1 && e.line <= text.matches('\n').count() + 1 && e.column >= 1, "{e}");
                continue;
            }
        };
        let limits = Limits { steps: 20_000, actions: 5, redirects: 1 };
        let header = input.get(..message::split(input)).unwrap_or_default();
        let told = script.run(&Known { header, content: Some(input) }, limits);
        if let Ok(outcome) = &told {
            // The implicit keep may come on top.
            assert!(outcome.actions.len() <= 6 && outcome.tracked.len() <= 32);
        }
        assert!(!matches!(told, Err(Stop::Needs(_))), "everything is known");
        match script.run(&Known { header, content: None }, limits) {
            Err(Stop::Needs(_)) => {}
            without => assert_eq!(without, told, "who does not ask for the content does not depend on it"),
        }
    }
}

/// The same octets in other pieces are the same dialogue.
pub fn managesieve(generator: &mut Generator, input: &[u8]) {
    let pieces = generator.pieces(input);
    assert_eq!(dialogue(&[input]), dialogue(&pieces));
}

fn dialogue(pieces: &[&[u8]]) -> Vec<u8> {
    let config = managesieve::Config {
        hostname: "x".into(),
        extensions: sieve::capabilities(),
        starttls: false,
        plaintext_login: true,
        mechanisms: vec!["PLAIN".into()],
        max_script: 1_000,
        max_redirects: 1,
    };
    let mut session = managesieve::Session::new(config, false, false);
    session.receive(b"AUTHENTICATE \"PLAIN\" \"AAAA\"\r\n");
    let mut said = Vec::new();
    for piece in [&[&b""[..]], pieces].concat() {
        session.receive(piece);
        while let Some(effect) = session.next_effect() {
            match effect {
                Effect::Write(octets) => said.extend(octets),
                Effect::Authenticate { .. } | Effect::Respond(_) => session.answer(Answer::LoggedIn),
                Effect::Scripts(_) => session.answer(Answer::Done),
                Effect::StartTls | Effect::CancelExchange | Effect::Close => {}
            }
        }
    }
    said
}

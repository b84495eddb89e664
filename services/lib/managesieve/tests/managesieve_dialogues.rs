//! ManageSieve as dialogues.

use managesieve::{Answer, Command, Config, Effect, Refusal, Session};

fn config() -> Config {
    Config {
        hostname: "imap.example.com".into(),
        extensions: vec!["fileinto", "vacation"],
        starttls: true,
        plaintext_login: false,
        mechanisms: vec!["SCRAM-SHA-256-PLUS".into(), "SCRAM-SHA-256".into(), "PLAIN".into()],
        max_script: 100_000,
        max_redirects: 4,
    }
}

/// Feeds a line and gives what was written; effects are answered by a small server of its own.
fn say(session: &mut Session, octets: &[u8]) -> String {
    session.receive(octets);
    let mut out = String::new();
    while let Some(effect) = session.next_effect() {
        match effect {
            Effect::Write(bytes) => out.push_str(&String::from_utf8(bytes).expect("UTF-8")),
            Effect::StartTls => session.tls_started(true),
            Effect::Authenticate { initial: Some(initial), .. } if initial == b"\0bob\0secret" => {
                session.answer(Answer::LoggedIn)
            }
            Effect::Authenticate { initial: None, .. } => session.answer(Answer::Challenge(b"say".to_vec())),
            Effect::Respond(response) if response == b"\0bob\0secret" => session.answer(Answer::LoggedIn),
            Effect::Authenticate { .. } | Effect::Respond(_) => session.answer(Answer::Refused(Refusal::credentials())),
            Effect::CancelExchange => {}
            Effect::Scripts(Command::ListScripts) => {
                session.answer(Answer::Listed(vec![("a \"b\"".into(), false), ("main".into(), true)]))
            }
            Effect::Scripts(Command::GetScript(name)) if name == "main" => {
                session.answer(Answer::Script(b"keep;\r\n".to_vec()))
            }
            Effect::Scripts(Command::PutScript { script, .. } | Command::CheckScript(script)) if script == b"bad" => {
                session.answer(Answer::Refused(Refusal::new("", "line 1, column 4:\nexpected \";\"")));
            }
            Effect::Scripts(Command::GetScript(_)) => {
                session.answer(Answer::Refused(Refusal::new("NONEXISTENT", "no such script")))
            }
            Effect::Scripts(_) => session.answer(Answer::Done),
            Effect::Close => out.push_str("<closed>"),
        }
    }
    out
}

fn session(tls: bool) -> Session {
    let mut session = Session::new(config(), tls, false);
    assert!(say(&mut session, b"").contains("\"SIEVE\" \"fileinto vacation\"\r\n"));
    session
}

fn logged_in() -> Session {
    let mut session = session(true);
    let said = say(&mut session, b"AUTHENTICATE \"PLAIN\" \"AGJvYgBzZWNyZXQ=\"\r\n");
    assert_eq!(said, "OK \"Logged in.\"\r\n");
    session
}

#[test]
fn no_password_before_tls() {
    let mut s = session(false);
    assert!(say(&mut s, b"CAPABILITY\r\n").contains("\"SASL\" \"\"\r\n\"STARTTLS\"\r\n"));
    assert!(say(&mut s, b"AUTHENTICATE \"PLAIN\" \"AGJvYgBzZWNyZXQ=\"\r\n").starts_with("NO (ENCRYPT-NEEDED)"));
    // What was sent along with STARTTLS was not protected.
    let said = say(&mut s, b"STARTTLS\r\nLOGOUT\r\n");
    assert!(said.starts_with("OK") && said.contains("SCRAM-SHA-256-PLUS") && !said.contains("STARTTLS"), "{said}");
    assert!(!said.contains("Goodbye"), "{said}");
    assert!(say(&mut s, b"STARTTLS\r\n").starts_with("NO"));
}

#[test]
fn sasl_goes_back_and_forth() {
    let mut s = session(true);
    assert!(say(&mut s, b"LISTSCRIPTS\r\n").starts_with("NO"), "not before a login");
    assert!(say(&mut s, b"AUTHENTICATE \"SCRAM-SHA-256-PLUS\"\r\n").starts_with("NO"), "nothing to bind to");
    assert_eq!(say(&mut s, b"AUTHENTICATE \"PLAIN\"\r\n"), "\"c2F5\"\r\n");
    assert!(say(&mut s, b"\"*\"\r\n").starts_with("NO"));
    assert_eq!(say(&mut s, b"authenticate \"plain\"\r\n"), "\"c2F5\"\r\n");
    assert_eq!(say(&mut s, b"{16+}\r\nAGJvYgBzZWNyZXQ=\r\n"), "OK \"Logged in.\"\r\n");
    assert!(say(&mut s, b"AUTHENTICATE \"PLAIN\"\r\n").starts_with("NO"));
    assert!(say(&mut s, b"UNAUTHENTICATE\r\n").starts_with("OK"));
    let mut s = session(true);
    for _ in 0..2 {
        assert_eq!(say(&mut s, b"AUTHENTICATE \"PLAIN\" \"AAAA\"\r\n"), "NO \"Authentication failed.\"\r\n");
    }
    assert!(say(&mut s, b"AUTHENTICATE \"PLAIN\" \"AAAA\"\r\n").ends_with("<closed>"));
}

#[test]
fn scripts_are_put_listed_and_read() {
    let mut s = logged_in();
    assert!(say(&mut s, b"HAVESPACE \"main\" 999\r\n").starts_with("OK"));
    assert!(say(&mut s, b"PUTSCRIPT \"main\" {7+}\r\nkeep;\r\n\r\n").starts_with("OK"));
    assert!(say(&mut s, b"PUTSCRIPT \"main\" \"bad\"\r\n").starts_with("NO {"), "two lines are a literal");
    assert_eq!(say(&mut s, b"LISTSCRIPTS\r\n"), "\"a \\\"b\\\"\"\r\n\"main\" ACTIVE\r\nOK \"Listed.\"\r\n");
    assert_eq!(say(&mut s, b"GETSCRIPT \"main\"\r\n"), "{7}\r\nkeep;\r\n\r\nOK \"Here it is.\"\r\n");
    assert_eq!(say(&mut s, b"GETSCRIPT {4+}\r\nnone\r\n"), "NO (NONEXISTENT) \"no such script\"\r\n");
    for command in ["SETACTIVE \"\"", "RENAMESCRIPT \"a\" \"b\"", "DELETESCRIPT \"b\"", "CHECKSCRIPT \"keep;\""] {
        assert!(say(&mut s, format!("{command}\r\n").as_bytes()).starts_with("OK"), "{command}");
    }
    assert_eq!(say(&mut s, b"NOOP \"x\"\r\n"), "OK (TAG \"x\") \"Done.\"\r\n");
    assert!(say(&mut s, b"LOGOUT\r\n").ends_with("<closed>"));
    assert_eq!(say(&mut s, b"NOOP\r\n"), "");
}

#[test]
fn pipelined_and_dripped_octets_come_to_the_same() {
    let octets = b"PUTSCRIPT \"m\" {7+}\r\nkeep;\r\n\r\nLISTSCRIPTS\r\nNOOP\r\n";
    let whole = say(&mut logged_in(), octets);
    let mut s = logged_in();
    let dripped: String = octets.iter().map(|b| say(&mut s, &[*b])).collect();
    assert_eq!(whole, dripped);
}

#[test]
fn what_is_too_large_or_nonsense_ends() {
    let mut s = logged_in();
    assert!(say(&mut s, b"PUTSCRIPT \"m\" {100001+}\r\n").starts_with("BYE"));
    let mut s = session(true);
    assert!(say(&mut s, b"AUTHENTICATE \"PLAIN\" {20000+}\r\n").ends_with("<closed>"));
    let mut s = session(true);
    assert!(say(&mut s, &vec![b'x'; 20_000]).ends_with("<closed>"));
    let mut s = session(true);
    let said: String = (0..30).map(|_| say(&mut s, b"WHAT\r\n")).collect();
    assert_eq!(said.matches("NO ").count(), 20);
    for nonsense in ["", "\"x\"", "PUTSCRIPT", "PUTSCRIPT \"a", "PUTSCRIPT {x+}", "NOOP 5", "\u{e4}", "GETSCRIPT main"]
    {
        let mut s = logged_in();
        assert!(say(&mut s, format!("{nonsense}\r\n").as_bytes()).starts_with("NO"), "{nonsense}");
        assert!(say(&mut s, b"NOOP\r\n").starts_with("OK"), "after {nonsense}");
    }
}

//! How a session begins and ends.

use super::support::System;

#[tokio::test]
async fn login_and_logout() {
    let system = System::start().await;
    system
        .connect()
        .await
        .play(
            "C: a1 CAPABILITY
             S: * CAPABILITY IMAP4rev1 IMAP4rev2 …AUTH=PLAIN…
             S: a1 OK …
             C: a2 SELECT INBOX
             S: a2 BAD Log in first.
             C: a3 LOGIN bob wrong
             S: a3 NO [AUTHENTICATIONFAILED] …
             C: a4 AUTHENTICATE PLAIN
             S: + 
             C: *
             S: a4 BAD …
             C: a5 AUTHENTICATE PLAIN
             S: + 
             C: AGJvYgBzZWNyZXQ=
             S: a5 OK [CAPABILITY …IDLE…] …
             C: a6 LOGIN bob secret
             S: a6 BAD Already logged in.
             C: a7 ID (\"name\" \"test\")
             S: * ID (\"name\" \"Postroad\")
             S: a7 OK …
             C: a8 NAMESPACE
             S: * NAMESPACE ((\"\" \"/\")) ((\"Other Users/\" \"/\")) NIL
             S: a8 OK …
             C: a9 LOGOUT
             S: * BYE …
             S: a9 OK …
             S: closed",
        )
        .await;
    system.connect().await.play("C: a AUTHENTICATE PLAIN AGJvYgBzZWNyZXQ=\nS: a OK …").await;
    let mut literals = system.connect().await;
    literals.raw(b"a LOGIN {3}\r\n").await;
    literals.play("S: + …").await;
    literals.raw(b"bob {6+}\r\nsecret\r\n").await;
    literals.play("S: a OK …").await;
}

#[tokio::test]
async fn no_password_without_tls() {
    let system = System::with(|c| c.allow_cleartext_login = false).await;
    system
        .connect()
        .await
        .play(
            "C: a CAPABILITY
             S: * CAPABILITY …LOGINDISABLED
             S: a OK …
             C: b LOGIN bob secret
             S: b NO [PRIVACYREQUIRED] …
             C: c AUTHENTICATE PLAIN AGJvYgBzZWNyZXQ=
             S: c NO [PRIVACYREQUIRED] …
             C: d STARTTLS
             S: d NO …",
        )
        .await;
}

#[tokio::test]
async fn starttls_forgets_what_came_in_plain_text() {
    let folder = std::env::temp_dir().join(format!("imap-gateway-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let made = rcgen::generate_simple_self_signed(vec!["imap.example".to_owned()]).expect("a certificate");
    std::fs::write(&cert, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let system = System::with(|c| {
        c.allow_cleartext_login = false;
        c.imaps_listen = "127.0.0.1:0".parse().expect("an address");
        c.listener.tls_cert = Some(cert);
        c.listener.tls_key = Some(key);
    })
    .await;
    let mut plain = system.connect().await;
    plain.raw(b"a STARTTLS\r\nb NOOP\r\n").await;
    plain.play("S: a OK …").await;
    let mut secure = plain.start_tls(made.cert.der().clone()).await;
    secure
        .play(
            "C: c CAPABILITY
             S: * CAPABILITY …AUTH=PLAIN…
             S: c OK …
             C: d STARTTLS
             S: d BAD …
             C: e LOGIN bob secret
             S: e OK …",
        )
        .await;
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[tokio::test]
async fn who_guesses_passwords_or_talks_nonsense_is_turned_away() {
    let system = System::start().await;
    let mut client = system.connect().await;
    for _ in 0..5 {
        client.play("C: a LOGIN bob wrong\nS: a NO [AUTHENTICATIONFAILED] …").await;
    }
    client.play("S: * BYE …\nS: closed").await;
    let mut http = system.connect().await;
    http.raw(&b"GET / HTTP/1.1\r\n".repeat(20)).await;
    assert!(http.until("* BYE").await.len() == 21);
}

#[tokio::test]
async fn shutdown_says_goodbye() {
    let system = System::start().await;
    let mut waiting = system.selected().await;
    let mut idling = system.selected().await;
    idling.play("C: a IDLE\nS: + idling").await;
    system.gateway.shutdown.cancel();
    waiting.play("S: * BYE …\nS: closed").await;
    idling.play("S: * BYE …\nS: closed").await;
}

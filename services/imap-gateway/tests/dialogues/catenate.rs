//! CATENATE (RFC 4469), ACL's words (RFC 4314), and what is refused at the door.

use super::support::System;

const PARTS: &[u8] = b"Subject: parts\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b--\r\n";

#[tokio::test]
async fn a_message_is_made_of_others() {
    let system = System::start().await;
    system.fake.deliver(PARTS);
    system.fake.deliver(&[b"Subject: large\r\n\r\n".as_slice(), &vec![b'x'; 2 << 20]].concat());
    let mut client = system.selected().await;
    client
        .raw(b"a APPEND Sent (\\Seen) CATENATE (URL \"/INBOX;UIDVALIDITY=7/;UID=1/;SECTION=HEADER\" TEXT {5+}\r\n")
        .await;
    client.raw(b"--b\r\n URL \"/INBOX/;UID=1/;SECTION=1/;PARTIAL=1.2\" TEXT {2}\r\n").await;
    client.play("S: + …").await;
    client.raw(b"!!) (\\Flagged) CATENATE (URL ;UID=2/;PARTIAL=0.2000000)\r\n").await;
    client
        .play(
            "S: a OK [APPENDUID 7 1:2] …
             C: b SELECT Sent
             S: * OK [CLOSED] …",
        )
        .await;
    client.until("b OK").await;
    let header = PARTS.windows(4).position(|w| w == b"\r\n\r\n").expect("a header") + 4;
    let expected = format!("{}--b\r\nne!!", String::from_utf8_lossy(&PARTS[..header]));
    client.send("c FETCH 1 (FLAGS BODY.PEEK[])").await;
    client.play(&format!("S: * 1 FETCH (FLAGS (\\Seen) BODY[] {{{}}}", expected.len())).await;
    assert_eq!(String::from_utf8_lossy(&client.exactly(expected.len()).await), expected);
    client.play("S: )\nS: c OK …").await;
    client
        .play("C: d FETCH 2 (FLAGS RFC822.SIZE)\nS: * 2 FETCH (FLAGS (\\Flagged) RFC822.SIZE 2000000)\nS: d OK …")
        .await;
}

#[tokio::test]
async fn a_url_that_leads_nowhere_appends_nothing() {
    let system = System::start().await;
    system.fake.deliver(PARTS);
    let mut client = system.selected().await;
    for url in [
        "/INBOX/;UID=9",
        "/INBOX;UIDVALIDITY=8/;UID=1",
        "/None/;UID=1",
        "imap://x/INBOX/;UID=1",
        "/INBOX/;UID=1/;SECTION=7",
    ] {
        client.play(&format!("C: a APPEND Sent CATENATE (URL \"{url}\")\nS: a NO [BADURL \"{url}\"] …")).await;
    }
    client.raw(b"b APPEND Sent CATENATE (TEXT {3+}\r\nabc URL /x)\r\n").await;
    client.play("S: b NO [BADURL \"/x\"] …").await;
    client.raw(b"c APPEND Sent CATENATE (URL /x TEXT {3+}\r\nabc URL /y TEXT {2+}\r\nde) {3+}\r\nxyz\r\n").await;
    client.play("S: c NO [BADURL \"/x\"] …\nC: d NOOP\nS: d OK …").await;
    client.play("C: e STATUS Sent (MESSAGES)\nS: * STATUS \"Sent\" (MESSAGES 0)\nS: e OK …").await;
}

#[tokio::test]
async fn two_gigabytes_end_with_bye() {
    let system = System::start().await;
    for rude in ["x APPEND INBOX {2147483648+}", "x LOGIN {2147483648+}", "x APPEND INBOX CATENATE (TEXT {2147483648+}"]
    {
        let mut client = system.selected().await;
        client.send(rude).await;
        client.play("S: * BYE [TOOBIG] …\nS: closed").await;
    }
    let mut client = system.selected().await;
    client.raw(b"a APPEND INBOX {4+}\r\nA: b (\\Seen) {2147483648+}\r\n").await;
    client.play("S: * BYE [TOOBIG] …\nS: closed").await;
}

#[tokio::test]
async fn rights_in_words() {
    System::start()
        .await
        .selected()
        .await
        .play(
            "C: a NAMESPACE
             S: * NAMESPACE ((\"\" \"/\")) ((\"Other Users/\" \"/\")) NIL
             S: a OK …
             C: b SETACL INBOX alice@example.com lrk
             S: b OK …
             C: c GETACL inbox
             S: * ACL \"INBOX\" bob@example.com lrswipkxteacd alice@example.com lrkc
             S: c OK …
             C: d MYRIGHTS INBOX
             S: * MYRIGHTS \"INBOX\" lrswipkxteacd
             S: d OK …
             C: e LISTRIGHTS INBOX alice@example.com
             S: * LISTRIGHTS \"INBOX\" alice@example.com \"\" l r s w i p kc x t e a
             S: e OK …
             C: f MYRIGHTS None
             S: f NO [NONEXISTENT] …
             C: g SELECT \"Other Users/alice@example.com/INBOX\"
             S: * OK [CLOSED] …
             S: g NO [NONEXISTENT] …
             C: h SETACL INBOX -alice@example.com lr
             S: h NO [CANNOT] …
             C: i SETACL INBOX alice@example.com lrq
             S: i BAD …",
        )
        .await;
}

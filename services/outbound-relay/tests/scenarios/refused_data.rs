//! 5xx and 4xx on DATA, at the final dot, and in the middle of the content.

use crate::support::{CONTENT, Peer, Script, delivery, site, told};

const ZONE: [&str; 2] = ["example.com. MX 10 mx.example.com.", "mx.example.com. A 127.0.0.1"];

async fn outcome(script: Script, content: &[u8]) -> (&'static str, String, usize) {
    let peer = Peer::start("127.0.0.1:0", script).await;
    let site = site(&ZONE, peer.address.port(), |_| ()).await;
    site.submit_content(vec![delivery("bob@example.com"), delivery("carol@example.com")], content).await;
    let outcomes = site.outcomes(2).await;
    assert_eq!(told(&outcomes[0]), told(&outcomes[1]));
    let reports = site.mda.0.lock().unwrap().accepted.len();
    site.stop().await;
    let (name, text) = told(&outcomes[0]);
    (name, text, reports)
}

#[tokio::test(flavor = "multi_thread")]
async fn data_itself() {
    let script = Script { data: "554 5.7.1 not from you", ..Script::default() };
    let expected = ("bounced", "mx.example.com: 554 5.7.1 not from you".to_owned(), 1);
    assert_eq!(outcome(script, CONTENT.as_bytes()).await, expected);
    let script = Script { data: "451 4.3.0 later", ..Script::default() };
    let expected = ("deferred", "mx.example.com: 451 4.3.0 later".to_owned(), 0);
    assert_eq!(outcome(script, CONTENT.as_bytes()).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_final_dot() {
    let script = Script { final_dot: "552 5.3.4 too big", ..Script::default() };
    assert_eq!(outcome(script, CONTENT.as_bytes()).await.0, "bounced");
    let script = Script { final_dot: "452 4.3.1 disk full", ..Script::default() };
    assert_eq!(outcome(script, CONTENT.as_bytes()).await.0, "deferred");
}

/// The peer says 552 and reads no further: its answer must be heard though we could not write
/// everything, long before a time-out.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_the_content() {
    let script = Script { enough: Some((100_000, "552 5.3.4 enough")), ..Script::default() };
    let line = [b'x'; 100];
    let mut content = b"Subject: big\r\n\r\n".to_vec();
    while content.len() < 40 << 20 {
        content.extend_from_slice(&line);
        content.extend_from_slice(b"\r\n");
    }
    let expected = ("bounced", "mx.example.com: 552 5.3.4 enough".to_owned(), 1);
    assert_eq!(outcome(script, &content).await, expected);
}

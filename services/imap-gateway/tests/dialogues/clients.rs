//! What real clients do, as they do it, and what once made them trip.

use super::support::{Client, System};

fn mail(subject: &str) -> Vec<u8> {
    format!("From: a@x.example\r\nSubject: {subject}\r\n\r\nhello\r\n").into_bytes()
}

async fn logged_in(system: &System) -> Client {
    let mut client = system.connect().await;
    client.play("C: l LOGIN bob secret\nS: l OK …").await;
    client
}

/// iOS Mail says who it is, selects by CONDSTORE, asks for headers of the newest by UID, and moves to
/// Trash by COPY, \\Deleted and UID EXPUNGE.
#[tokio::test]
async fn ios() {
    let system = System::start().await;
    for n in 1..=3 {
        system.fake.deliver(&mail(&n.to_string()));
    }
    let mut client = logged_in(&system).await;
    client
        .play(
            "C: 1 ID (\"name\" \"iPhone Mail\" \"version\" \"21F90\" \"os\" \"iOS\" \"os-version\" \"17.5.1 (21F90)\")
             S: * ID (\"name\" \"Postroad\")
             S: 1 OK …
             C: 2 LIST \"\" \"\"
             S: * LIST (\\Noselect) \"/\" \"\"
             S: 2 OK …
             C: 3 LIST (SPECIAL-USE) \"\" \"*\"
             S: * LIST (\\HasNoChildren \\Sent) \"/\" \"Sent\"
             S: * LIST (\\HasNoChildren \\Trash) \"/\" \"Trash\"
             S: 3 OK …
             C: 4 SELECT INBOX (CONDSTORE)",
        )
        .await;
    client.until("4 OK [READ-WRITE]").await;
    client
        .play(
            "C: 5 FETCH 2:3 (FLAGS UID)
             S: * 2 FETCH (UID 2 FLAGS ())
             S: * 3 FETCH (UID 3 FLAGS ())
             S: 5 OK …
             C: 6 UID FETCH 1:* (FLAGS) (CHANGEDSINCE 3)
             S: * 3 FETCH (UID 3 FLAGS () MODSEQ (4))
             S: 6 OK …
             C: 7 UID COPY 2 \"Trash\"
             S: 7 OK [COPYUID 7 2 1] …
             C: 8 UID STORE 2 +FLAGS.SILENT (\\Deleted)
             S: * 2 FETCH (UID 2 MODSEQ (5))
             S: 8 OK …
             C: 9 UID EXPUNGE 2
             S: * 2 EXPUNGE
             S: 9 OK …
             C: 10 IDLE
             S: + idling",
        )
        .await;
    system.fake.deliver(&mail("4"));
    client.play("S: * 3 EXISTS\nS: * 0 RECENT\nC: DONE\nS: 10 OK …").await;
}

/// Outlook lists with LSUB, asks for one message many times by UID, and repeats NOOP in between; it
/// gives up when a UID range beyond the last is an error.
#[tokio::test]
async fn outlook() {
    let system = System::start().await;
    system.fake.deliver(&mail("one"));
    let mut client = logged_in(&system).await;
    client
        .play(
            "C: a LSUB \"\" \"*\"
             S: * LSUB () \"/\" \"INBOX\"
             S: * LSUB () \"/\" \"Sent\"
             S: * LSUB () \"/\" \"Trash\"
             S: a OK …
             C: b STATUS \"INBOX\" (UIDNEXT UIDVALIDITY UNSEEN RECENT MESSAGES)
             S: * STATUS \"INBOX\" (UIDNEXT 2 UIDVALIDITY 7 UNSEEN 1 RECENT 1 MESSAGES 1)
             S: b OK …
             C: c SELECT \"INBOX\"",
        )
        .await;
    client.until("c OK").await;
    client
        .play(
            "C: d UID FETCH 2:* (UID FLAGS)
             S: * 1 FETCH (UID 1 FLAGS ())
             S: d OK …
             C: e UID FETCH 5:7 (UID FLAGS)
             S: e OK …
             C: f UID FETCH 1 (UID RFC822.SIZE INTERNALDATE ENVELOPE BODYSTRUCTURE)
             S: * 1 FETCH (UID 1 RFC822.SIZE …
             S: f OK …
             C: g UID SEARCH DELETED
             S: * SEARCH
             S: g OK …
             C: h NOOP
             S: h OK …",
        )
        .await;
}

/// Thunderbird sends several commands at once, and marks junk by keywords of its own.
#[tokio::test]
async fn thunderbird() {
    let system = System::start().await;
    system.fake.deliver(&mail("one"));
    system.fake.deliver(&mail("two"));
    let mut client = logged_in(&system).await;
    client
        .raw(b"2 enable UTF8=ACCEPT\r\n3 namespace\r\n4 list (subscribed) \"\" \"*\" return (special-use)\r\n5 select \"INBOX\" (CONDSTORE)\r\n")
        .await;
    client
        .play("S: * ENABLED UTF8=ACCEPT\nS: 2 OK …\nS: * NAMESPACE …\nS: 3 OK …\nS: * LIST (\\HasNoChildren \\Subscribed) \"/\" \"INBOX\"")
        .await;
    client.until("5 OK").await;
    client
        .play(
            "C: 6 UID fetch 1:* (FLAGS)
             S: * 1 FETCH (UID 1 FLAGS ())
             S: * 2 FETCH (UID 2 FLAGS ())
             S: 6 OK …
             C: 7 uid store 2 +Flags (NonJunk $label1)
             S: * FLAGS (…NonJunk…)
             S: * OK [PERMANENTFLAGS (…NonJunk…\\*)] …
             S: * 2 FETCH (UID 2 FLAGS (NonJunk $label1) MODSEQ (4))
             S: 7 OK …
             C: 8 uid move 1 \"Trash\"
             S: * OK [COPYUID 7 1 1] …
             S: * 1 EXPUNGE
             S: 8 OK …
             C: 9 getquotaroot \"INBOX\"
             S: * QUOTAROOT \"INBOX\" \"\"
             S: * QUOTA \"\" ()
             S: 9 OK …",
        )
        .await;
}

/// Samsung's mail enables QRESYNC and comes back with a UIDVALIDITY that is none any more, then with
/// a mod-sequence from the future of another server.
#[tokio::test]
async fn samsung() {
    let system = System::start().await;
    system.fake.deliver(&mail("one"));
    system.fake.deliver(&mail("two"));
    system.fake.remove(1);
    let mut client = logged_in(&system).await;
    client.play("C: a ENABLE QRESYNC CONDSTORE\nS: * ENABLED QRESYNC CONDSTORE\nS: a OK …").await;
    client.send("b SELECT INBOX (QRESYNC (6 1 1:2))").await;
    assert!(!client.until("b OK").await.iter().any(|line| line.contains("VANISHED") || line.contains("FETCH")));
    client.send("c SELECT INBOX (QRESYNC (7 99999 1:2))").await;
    assert!(!client.until("c OK").await.iter().any(|line| line.contains("VANISHED")));
    client.send("d SELECT INBOX (QRESYNC (7 1 1:2 (1,2 1,2)))").await;
    let told = client.until("d OK").await;
    assert!(told.contains(&"* VANISHED (EARLIER) 1".to_owned()), "{told:?}");
    client
        .play("C: e UID STORE 2 +FLAGS (\\Deleted)\nS: * 1 FETCH (UID 2 FLAGS (\\Deleted) MODSEQ (5))\nS: e OK …")
        .await;
    client.play("C: f EXPUNGE\nS: * VANISHED 2\nS: f OK [HIGHESTMODSEQ 6] …").await;
}

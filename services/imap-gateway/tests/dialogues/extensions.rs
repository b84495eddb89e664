//! Extensions, as dialogues; the clients that use them are named where one is known for it.

use std::{sync::atomic::Ordering, time::Duration};

use super::support::System;

fn mail(subject: &str, more: &str) -> Vec<u8> {
    format!("Subject: {subject}\r\n{more}\r\nhello {subject}\r\n").into_bytes()
}

/// eM Client and Samsung's mail come back like this.
#[tokio::test]
async fn qresync_tells_what_happened_meanwhile() {
    let system = System::start().await;
    for n in 1..=5 {
        system.fake.deliver(&mail(&n.to_string(), ""));
    }
    system.fake.remove(2);
    system.fake.flag(4, 1);
    let mut client = system.connect().await;
    client
        .play(
            "C: l LOGIN bob secret
             S: l OK …
             C: x SELECT INBOX (QRESYNC (7 1))
             S: x BAD ENABLE QRESYNC first.
             C: e ENABLE QRESYNC
             S: * ENABLED QRESYNC
             S: e OK …
             C: s SELECT INBOX (CONDSTORE QRESYNC (7 6 1:5))
             S: * FLAGS …
             S: * OK [PERMANENTFLAGS …
             S: * 4 EXISTS
             S: * 0 RECENT
             S: * OK [UNSEEN 1] …
             S: * OK [UIDVALIDITY 7] …
             S: * OK [UIDNEXT 6] …
             S: * OK [HIGHESTMODSEQ 8] …
             S: * OK [MAILBOXID (F1)] …
             S: * VANISHED (EARLIER) 2
             S: * 3 FETCH (UID 4 FLAGS (\\Seen) MODSEQ (8))
             S: s OK [READ-WRITE] …
             C: t UID STORE 5 +FLAGS.SILENT (\\Deleted)
             S: * 4 FETCH (UID 5 MODSEQ (9))
             S: t OK …
             C: u UID EXPUNGE 5
             S: * VANISHED 5
             S: u OK [HIGHESTMODSEQ 10] …
             C: v UID FETCH 1:* (FLAGS) (CHANGEDSINCE 8 VANISHED)
             S: * VANISHED (EARLIER) 5
             S: v OK …
             C: w SELECT INBOX (QRESYNC (8 1))
             S: * OK [CLOSED] …",
        )
        .await;
    let lines = client.until("w OK").await;
    assert!(!lines.iter().any(|l| l.contains("VANISHED")), "another UIDVALIDITY: {lines:?}");
    system.fake.remove(1);
    client.play("C: n NOOP\nS: * VANISHED 1\nS: n OK …").await;
}

#[tokio::test]
async fn recent_is_for_the_first_session() {
    let system = System::start().await;
    system.fake.tells_recent.store(true, Ordering::Relaxed);
    system.fake.deliver(&mail("one", ""));
    let mut first = system.connect().await;
    first.play("C: l LOGIN bob secret\nS: l OK …").await;
    first.play("C: a STATUS INBOX (RECENT)\nS: * STATUS \"INBOX\" (RECENT 1)\nS: a OK …").await;
    first.send("b SELECT INBOX").await;
    assert!(first.until("b OK").await.contains(&"* 1 RECENT".to_owned()));
    first
        .play(
            "C: c FETCH 1 FLAGS
             S: * 1 FETCH (FLAGS (\\Recent))
             S: c OK …
             C: d SEARCH NEW
             S: * SEARCH 1
             S: d OK …",
        )
        .await;
    let mut second = system.connect().await;
    second.play("C: l LOGIN bob secret\nS: l OK …").await;
    second.send("b SELECT INBOX").await;
    assert!(second.until("b OK").await.contains(&"* 0 RECENT".to_owned()));
    second.play("C: c SEARCH OLD\nS: * SEARCH 1\nS: c OK …").await;
    system.fake.deliver(&mail("two", ""));
    first.play("C: n NOOP\nS: * 2 EXISTS\nS: * 2 RECENT\nS: n OK …").await;
    second.play("C: n NOOP\nS: * 2 EXISTS\nS: * 0 RECENT\nS: n OK …").await;
}

#[tokio::test]
async fn sort_thread_and_their_returns() {
    let system = System::start().await;
    system.fake.deliver(&mail("b", "Message-ID: <1@x>\r\nDate: 3 Jan 2020 00:00:00 +0000\r\n"));
    system.fake.deliver(&mail("a", "Date: 1 Jan 2020 00:00:00 +0000\r\n"));
    system.fake.deliver(&mail("Re: b", "References: <1@x>\r\nDate: 4 Jan 2020 00:00:00 +0000\r\n"));
    system
        .play(
            "C: a SORT (SUBJECT) UTF-8 ALL
             S: * SORT 2 1 3
             S: a OK …
             C: b UID SORT (REVERSE DATE) US-ASCII SUBJECT b
             S: * SORT 3 1
             S: b OK …
             C: c SORT RETURN (MIN MAX COUNT ALL) (DATE) UTF-8 ALL
             S: * ESEARCH (TAG \"c\") MIN 2 MAX 3 ALL 2,1,3 COUNT 3
             S: c OK …
             C: d THREAD REFERENCES UTF-8 ALL
             S: * THREAD (2)(1 3)
             S: d OK …
             C: e UID THREAD ORDEREDSUBJECT UTF-8 SUBJECT b
             S: * THREAD (1 3)
             S: e OK …
             C: f SORT (DATE) X-NOBODY ALL
             S: f NO [BADCHARSET …
             C: g UID SEARCH RETURN (PARTIAL -1:-2 COUNT) ALL
             S: * ESEARCH (TAG \"g\") UID PARTIAL (-1:-2 2:3) COUNT 3
             S: g OK …
             C: h UID FETCH 1:* (UID) (PARTIAL 1:2)
             S: * 1 FETCH (UID 1)
             S: * 2 FETCH (UID 2)
             S: h OK …
             C: i SORT RETURN (SAVE) (SUBJECT) UTF-8 SUBJECT b
             S: i OK …
             C: j UID SEARCH $ OLDER 60
             S: * SEARCH 1 3
             S: j OK …
             C: k SEARCH YOUNGER 60
             S: * SEARCH
             S: k OK …",
        )
        .await;
}

#[tokio::test]
async fn object_ids_save_dates_and_previews() {
    let system = System::start().await;
    system.fake.deliver(&mail("x", "Message-ID: <1@x>\r\n"));
    system
        .play(
            "C: a FETCH 1 (EMAILID THREADID SAVEDATE PREVIEW (LAZY))
             S: * 1 FETCH (EMAILID (M2a) THREADID (T3) SAVEDATE \"01-Jan-1970 00:00:01 +0000\" PREVIEW \"hello x\")
             S: a OK …
             C: b SEARCH EMAILID M2a THREADID T3 SAVEDON 1-Jan-1970
             S: * SEARCH 1
             S: b OK …
             C: c SEARCH EMAILID M2b
             S: * SEARCH
             S: c OK …
             C: d STATUS Sent (MAILBOXID APPENDLIMIT)
             S: * STATUS \"Sent\" (MAILBOXID (F2) APPENDLIMIT 134217728)
             S: d OK …
             C: e CREATE new
             S: e OK [MAILBOXID (F…)] …",
        )
        .await;
}

#[tokio::test]
async fn multiappend_and_replace() {
    let system = System::start().await;
    system.fake.deliver(&mail("old", ""));
    let mut client = system.selected().await;
    client.raw(b"a APPEND Sent (\\Seen) {5+}\r\nA: b\n \"01-Jan-1970 00:00:00 +0000\" {5}\r\n").await;
    client.play("S: + …").await;
    client.raw(b"C: d\n {6+}\r\nE: ff\n\r\n").await;
    client.play("S: a OK [APPENDUID 7 1:3] …").await;
    assert_eq!(system.fake.appended.load(Ordering::Relaxed), 1, "one call");
    // All or none: the second one is refused, and so is the first.
    client.raw(b"b APPEND Sent {5+}\r\nA: b\n {0+}\r\n\r\n").await;
    client.play("S: b NO …\nC: c STATUS Sent (MESSAGES)\nS: * STATUS \"Sent\" (MESSAGES 3)\nS: c OK …").await;
    client.raw(b"d REPLACE 1 INBOX {5+}\r\nN: w\n\r\n").await;
    client
        .play(
            "S: * OK [APPENDUID 7 2] …
             S: * 1 EXPUNGE
             S: * 1 EXISTS
             S: * 0 RECENT
             S: d OK …",
        )
        .await;
    client.raw(b"e UID REPLACE 1 INBOX {5+}\r\nN: w\n\r\n").await;
    client.play("S: e NO [NONEXISTENT] …").await;
    system.fake.quota.store(7, Ordering::Relaxed);
    client.raw(b"f APPEND INBOX {8+}\r\nA: bcde\n\r\n").await;
    client
        .play(
            "S: f NO [OVERQUOTA] …
             C: g GETQUOTAROOT INBOX
             S: * QUOTAROOT \"INBOX\" \"\"
             S: * QUOTA \"\" (STORAGE 1 0)
             S: g OK …
             C: h GETQUOTA other
             S: h NO [NONEXISTENT] …",
        )
        .await;
}

#[tokio::test]
async fn large_bodies_pass_in_pieces() {
    let system = System::start().await;
    let body = "0123456789abcdef\r\n".repeat(200_000);
    let message = format!("Subject: big\r\nX: y\r\n\r\n{body}");
    system.fake.deliver(message.as_bytes());
    let mut client = system.selected().await;
    let size = message.len();
    client.send("a FETCH 1 (BODY[] UID FLAGS)").await;
    assert_eq!(client.line().await, format!("* 1 FETCH (UID 1 BODY[] {{{size}}}"));
    assert!(client.exactly(size).await == message.as_bytes());
    assert_eq!(client.line().await, " FLAGS (\\Seen))");
    client.until("a OK").await;
    client.send("b FETCH 1 (BODY[TEXT]<1800000.20> BODY[HEADER.FIELDS (X)] BINARY.SIZE[1] BODY[9])").await;
    client
        .play(
            "S: * 1 FETCH (BODY[TEXT]<1800000> {20}
             S: 0123456789abcdef
             S: 01 BODY[HEADER.FIELDS (X)] {8}
             S: X: y
             S:
             S: …BINARY.SIZE[1] 3600000 BODY[9] NIL)
             S: b OK …
             C: c SEARCH BODY 9abcdef
             S: * SEARCH 1
             S: c OK …",
        )
        .await;
}

#[tokio::test]
async fn metadata() {
    let system = System::start().await;
    system
        .play(
            "C: a SETMETADATA INBOX (/private/comment \"mine\" /private/a/b {3+}
             C: xyz)
             S: a OK …
             C: b GETMETADATA INBOX (/private/Comment /private/none)
             S: * METADATA \"INBOX\" (/private/comment \"mine\" /private/none NIL)
             S: b OK …
             C: c GETMETADATA (DEPTH infinity MAXSIZE 3) INBOX /private
             S: c BAD …
             C: d GETMETADATA (DEPTH 1) INBOX /private/a
             S: * METADATA \"INBOX\" (/private/a/b \"xyz\" /private/a NIL)
             S: d OK …
             C: e GETMETADATA (MAXSIZE 3) INBOX /private/comment
             S: e OK [METADATA LONGENTRIES 4] …
             C: f SETMETADATA INBOX (/private/comment NIL)
             S: f OK …
             C: g GETMETADATA INBOX /private/comment
             S: * METADATA \"INBOX\" (/private/comment NIL)
             S: g OK …",
        )
        .await;
}

#[tokio::test]
async fn uids_only() {
    let system = System::start().await;
    for n in 1..=3 {
        system.fake.deliver(&mail(&n.to_string(), ""));
    }
    system.fake.remove(1);
    system
        .play(
            "C: a ENABLE UIDONLY
             S: * ENABLED UIDONLY
             S: a OK …
             C: b FETCH 1 FLAGS
             S: b BAD [UIDREQUIRED] …
             C: c UID SEARCH 1
             S: c BAD [UIDREQUIRED] …
             C: d UID FETCH 2 FLAGS
             S: * 2 UIDFETCH (FLAGS ())
             S: d OK …
             C: e UID MOVE 3 Trash
             S: * OK [COPYUID 7 3 1] …
             S: * VANISHED 3
             S: e OK …",
        )
        .await;
}

#[tokio::test]
async fn utf8_names_and_messages() {
    let system = System::start().await;
    let mut client = system.selected().await;
    client.raw(b"x APPEND INBOX UTF8 (~{5+}\r\nA: b\n)\r\n").await;
    client
        .play(
            "S: x NO …
             C: a ENABLE UTF8=ACCEPT
             S: * ENABLED UTF8=ACCEPT
             S: a OK …
             C: b CREATE \"Entwürfe\"
             S: b OK …
             C: c LIST \"\" E%
             S: * LIST (\\HasNoChildren) \"/\" \"Entwürfe\"
             S: c OK …
             C: d SEARCH CHARSET UTF-8 ALL
             S: d BAD …",
        )
        .await;
    client.raw("e APPEND \"Entwürfe\" UTF8 (~{6+}\r\nA: ä\n)\r\n".as_bytes()).await;
    client
        .play(
            "S: e OK [APPENDUID 7 1] …
             C: f UNAUTHENTICATE
             S: f OK …
             C: g SELECT INBOX
             S: g BAD …
             C: h LOGIN bob secret
             S: h OK …
             C: i LIST \"\" E%
             S: * LIST (\\HasNoChildren) \"/\" \"Entw&APw-rfe\"
             S: i OK …",
        )
        .await;
}

#[tokio::test]
async fn sessions_leave_at_shutdown_one_after_the_other() {
    let system = System::with(|c| c.drain_seconds = 1).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(system.selected().await);
    }
    let start = std::time::Instant::now();
    system.gateway.shutdown.cancel();
    let mut left = Vec::new();
    for mut client in clients {
        client.until("* BYE").await;
        left.push(start.elapsed());
    }
    let last = left.iter().max().copied().unwrap_or_default();
    assert!(last > Duration::from_millis(50) && last < Duration::from_secs(5), "{left:?}");
}

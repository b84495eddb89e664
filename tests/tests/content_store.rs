//! Large bodies in an object store: byte for byte what was sent, whatever dies or is away in between, and
//! nothing left behind.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use address::QueueId;
use proto::{
    mailboxes::{ContentRequest, ExpungeRequest, FetchRequest, SelectRequest, StoreRequest, UidRange},
    spool::{AcceptRequest, Envelope, Recipient, Target, target::To},
};
use tests::{
    client::python,
    dns::NameServer,
    eventually,
    s3::S3,
    site::{Options, Site, free_port_offset},
    sites::Sites,
    storage::Mda,
};
use tonic::Code;

const SOON: Duration = Duration::from_secs(60);

fn yaml(store: &serde_json::Value) -> String {
    format!("mda: {}\n", serde_json::json!({ "content_store": store }))
}

/// Messages that cannot be compressed; sends them as they are, and reads them whole and in parts.
const HELP: &str = r#"
import base64, os
poplib._MAXLINE = 1 << 20
def message(n, size):
    body = base64.encodebytes(os.urandom(size)).replace(b"\n", b"\r\n")
    return b"From: alice@%s\r\nSubject: %d\r\nDate: Sun, 1 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%d@x>\r\n\r\n" % (DOMAIN, n, n) + body
def submit(message, to, more=""):
    smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS, timeout=60)
    smtp.login("alice@" + DOMAIN.decode(), "secret")
    smtp.docmd("MAIL FROM:<alice@%s>%s" % (DOMAIN.decode(), more)); smtp.rcpt(to)
    smtp.docmd("DATA"); smtp.send(re.sub(rb"(?m)^\.", b"..", message) + b".\r\n")
    code, text = smtp.getreply(); smtp.close()
    return code, text
def login(user):
    imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login(user, "secret"); return imap
def inbox(user, count, box="INBOX"):
    imap = login(user)
    for _ in range(600):
        if imap.select(box)[0] == "OK" and int(imap.select(box)[1][0]) >= count: return imap
        time.sleep(0.1)
    raise SystemExit(f"{box} of {user} has {imap.select(box)}")
def whole(imap, n): return imap.fetch(str(n), "(BODY.PEEK[])")[1][0][1]
"#;

fn run(site: &Site, domain: &str, program: &str) -> String {
    python(site, &format!("DOMAIN = b{domain:?}\n{HELP}{program}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_site_gives_back_every_byte_and_then_forgets() {
    let s3 = S3::start().await;
    let mut options = Options::new("127.0.0.31", free_port_offset(&["127.0.0.31"]), "example.com");
    let mut store = s3.config("one");
    store["keep_seconds"] = 0.into();
    options.config = Some(yaml(&store));
    let site = Site::up(options);
    for name in ["alice", "bob"] {
        site.account(&format!("{name}@example.com"));
    }
    let program = r#"
messages = [message(1, 100), message(2, 30_000), message(3, 300_000), message(4, 3_900_000),
            b"From: alice@example.com\r\nSubject: dots\r\nDate: Sun, 1 Nov 2026 10:00:00 +0000\r\nMessage-ID: <5@x>\r\n\r\n.\r\n..\r\n\xff\r\n"]
for m in messages:
    code, text = submit(m, "bob@example.com"); assert code == 250, (code, text)
imap = inbox("bob@example.com", len(messages))
found = [whole(imap, n + 1) for n in range(len(messages))]
pop = poplib.POP3_SSL(HOST, PORT[995], context=TLS, timeout=60); pop.user("bob@example.com"); pop.pass_("secret")
for n, (sent, got) in enumerate(zip(messages, found), 1):
    assert got.endswith(sent), (n, sent[:100], got[:2000])
    assert b"\r\n".join(pop.retr(n)[1]) + b"\r\n" == got
    for start, count in [(0, 10), (len(got) // 2, 70_000), (len(got) - 20, 100), (len(got) + 5, 10)]:
        part = imap.fetch(str(n), f"(BODY.PEEK[]<{start}.{count}>)")[1][0][1]
        assert part == got[start:start + count], (n, start, count, part[:100])
    assert imap.fetch(str(n), "(BODY.PEEK[TEXT])")[1][0][1] == got.split(b"\r\n\r\n", 1)[1]
pop.quit()
# All at once, an APPEND, a copy, a search in bodies.
every = [d[1] for d in imap.fetch("1:*", "(BODY.PEEK[])")[1] if isinstance(d, tuple)]
assert every == found
appended = message(6, 200_000)
assert imap.append("INBOX", None, None, appended)[0] == "OK"
imap.select("INBOX"); assert whole(imap, 6) == appended
assert imap.copy("3,6", "Archive")[0] == "OK"
word = messages[2][-200:-180].replace(b"\r\n", b"")[:10].decode()
assert b"3" in imap.search(None, "BODY", '"%s"' % word)[1][0].split()
"#;
    run(&site, "example.com", program);
    // The mark, and a body for each of four; the small ones are in Postgres.
    let names = s3.names("one");
    assert_eq!((names.len(), names.last().map(String::as_str)), (5, Some("installation")), "{names:?}");

    // What a copy still refers to stays; the others go.
    let expunge = r#"
imap = inbox("bob@example.com", 6)
imap.store("1:*", "+FLAGS", "\\Deleted"); imap.expunge()
"#;
    run(&site, "example.com", expunge);
    eventually("objects of deleted messages go", SOON, || async { (s3.names("one").len() == 3).then_some(()) }).await;
    run(&site, "example.com", "imap = inbox('bob@example.com', 2, 'Archive'); assert len(whole(imap, 2)) > 200_000");
}

#[tokio::test(flavor = "multi_thread")]
async fn relayed_forwarded_filtered_and_returned_from_s3() {
    let s3 = S3::start().await;
    let sites = Sites::up(free_port_offset(&Sites::HOSTS), |mut options| {
        options.config = Some(yaml(&s3.config(&options.domains[0])));
        options
    })
    .await;
    sites.example.account("carol@example.com");
    let script = r#"require ["body", "fileinto", "copy", "reject"];
        if header "subject" "2" { reject "no, thanks"; stop; }
        redirect :copy "carol@example.com";
        if body :raw :contains "needle-at-the-end" { fileinto "Archive"; }"#;
    sites.example.admin(&["sieve", "put", "bob@example.com", "main", "--activate"], script);
    let send = r#"
sent = message(1, 400_000) + b"needle-at-the-end\r\n"
assert submit(sent, "bob@example.com")[0] == 250
open(FILE, "wb").write(sent)
returned = message(2, 300_000)
assert submit(returned, "bob@example.com", " RET=FULL")[0] == 250
dsn = email.message_from_bytes(whole(inbox("alice@sender.com", 1), 1))
assert "no, thanks" in dsn.as_string()
assert returned.split(b"\r\n\r\n", 1)[1].strip() in dsn.get_payload()[2].get_payload()[0].as_bytes().replace(b"\n", b"\r\n")
"#;
    let folder = tempfile::tempdir().unwrap();
    let file = format!("FILE = {:?}\n", folder.path().join("sent").display().to_string());
    run(&sites.sender, "sender.com", &format!("{file}{send}"));
    let read = r#"
sent = open(FILE, "rb").read()
assert whole(inbox("bob@example.com", 1, "Archive"), 1).endswith(sent)
assert whole(inbox("carol@example.com", 1), 1).endswith(sent)
"#;
    run(&sites.example, "example.com", &format!("{file}{read}"));
    for prefix in ["sender.com", "example.com"] {
        let names = s3.names(prefix);
        assert!(names.len() >= 3, "{prefix}: {names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_costs_a_451_and_no_message() {
    let s3 = S3::start().await;
    let mut options = Options::new("127.0.0.32", free_port_offset(&["127.0.0.32"]), "example.com");
    let mut store = s3.config("one");
    store["timeout_seconds"] = 5.into();
    options.config = Some(yaml(&store));
    let site = Site::up(options);
    for name in ["alice", "bob"] {
        site.account(&format!("{name}@example.com"));
    }
    let before = r#"
sent = message(1, 100_000)
assert submit(sent, "bob@example.com")[0] == 250
inbox("bob@example.com", 1)
"#;
    run(&site, "example.com", before);
    s3.signal("STOP");
    let away = r#"
code, text = submit(message(2, 100_000), "bob@example.com"); assert code == 451, (code, text)
code, text = submit(message(3, 100), "bob@example.com"); assert code == 250, (code, text)
imap = inbox("bob@example.com", 2)
assert b"Subject: 1" in imap.fetch("1", "(BODY.PEEK[HEADER])")[1][0][1]
kind, data = imap.fetch("1", "(BODY.PEEK[])"); assert kind == "NO" and b"UNAVAILABLE" in data[0], (kind, data)
assert whole(imap, 2)
kind, data = imap.append("INBOX", None, None, message(4, 100_000)); assert kind == "NO" and b"UNAVAILABLE" in data[0], (kind, data)
pop = poplib.POP3_SSL(HOST, PORT[995], context=TLS, timeout=60); pop.user("bob@example.com"); pop.pass_("secret")
try: pop.retr(1); raise SystemExit("a body from nowhere")
except poplib.error_proto as e: assert b"SYS/TEMP" in e.args[0], e
"#;
    run(&site, "example.com", away);
    s3.signal("CONT");
    let after = r#"
for _ in range(600):
    imap = inbox("bob@example.com", 2)
    if imap.fetch("1", "(BODY.PEEK[])")[0] == "OK": break
    time.sleep(0.2)
assert len(whole(imap, 1)) > 130_000
assert submit(message(5, 100_000), "bob@example.com")[0] == 250
inbox("bob@example.com", 3)
"#;
    run(&site, "example.com", after);
}

/// What was answered 250 is there, byte for byte, whoever was killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn kills_of_mda_lose_no_body() {
    let s3 = S3::start().await;
    let dns = NameServer::start(&["com."]).await;
    let mut options = Options::new("127.0.0.33", free_port_offset(&["127.0.0.33"]), "example.com")
        .more(&["--dns", &dns.address.to_string()]);
    options.config = Some(yaml(&s3.config("one")));
    let site = Site::up(options);
    for name in ["alice", "bob"] {
        site.account(&format!("{name}@example.com"));
    }
    let program = r#"
import hashlib, itertools, threading
numbers, lock, accepted, stop = itertools.count(), threading.Lock(), {}, time.time() + 300
def session(source):
    while len(accepted) < 60 and time.time() < stop:
        n = next(numbers); m = message(n, 40_000)
        try:
            smtp = smtplib.SMTP(HOST, PORT[25], timeout=30, source_address=(source, 0)); smtp.ehlo("load.com")
            smtp.docmd("MAIL FROM:<load@load.com>"); smtp.rcpt("bob@example.com")
            smtp.docmd("DATA"); smtp.send(m + b".\r\n"); code = smtp.getreply()[0]; smtp.close()
        except (OSError, smtplib.SMTPException): code = 0
        if code == 250:
            with lock: accepted[n] = m
        else: time.sleep(0.3)
threads = [threading.Thread(target=session, args=("127.0.0.%d" % (100 + n),)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
deadline = time.time() + 180
while True:
    try:
        imap = login("bob@example.com"); count = int(imap.select("INBOX")[1][0])
        got = [whole(imap, n + 1) for n in range(count)]
        found = [int(re.search(rb"^Subject: (\d+)", g, re.M).group(1)) for g in got]
        if set(accepted) <= set(found): break
    except (OSError, imaplib.IMAP4.error, AttributeError, TypeError) as e: found = [e]
    assert time.time() < deadline, f"never came: {sorted(set(accepted) - set(found))[:5]} of {len(accepted)}, {found[-3:]}"
    time.sleep(1)
assert len(found) == len(set(found)), "delivered twice"
for n, g in zip(found, got):
    if n in accepted: assert g.endswith(accepted[n]), n
print(len(accepted))
"#;
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| run(&site, "example.com", program));
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(1_500));
            site.signal("mda", "KILL");
        }
        assert!(traffic.join().unwrap().trim().parse::<u32>().unwrap() >= 60);
    });
}

// --- An mda on a folder: what is deleted, when, and what is never.

async fn on_folder(folder: &Path, change: impl FnOnce(&mut mda::Config)) -> Mda {
    let url = format!("file://{}", folder.display());
    let store = serde_json::json!({ "url": url, "sweep_seconds": 1, "keep_seconds": 2 });
    Mda::start_with(|config| {
        config.content_store = serde_json::from_value(store).unwrap();
        change(config);
    })
    .await
}

fn files(folder: &Path) -> Vec<String> {
    let folders = std::fs::read_dir(folder).unwrap().flatten().filter(|f| f.path().is_dir());
    let all = folders.flat_map(|f| std::fs::read_dir(f.path()).unwrap().flatten().map(|f| f.path()));
    let mut names: Vec<String> = all.map(|f: PathBuf| f.strip_prefix(folder).unwrap().display().to_string()).collect();
    names.sort();
    names
}

/// What does not shrink.
fn large() -> Vec<u8> {
    let mut state = 1u64;
    let noise = (0..60_000).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'A' + ((state >> 33) % 26) as u8
    });
    [b"Subject: large\r\n\r\n".to_vec(), noise.collect()].concat()
}

async fn accept(mda: &Mda, account: u64, content: Vec<u8>) -> Result<(), tonic::Status> {
    let recipient = Recipient {
        forward_path: "bob@example.com".into(),
        targets: vec![Target { to: Some(To::AccountId(account)) }],
        ..Default::default()
    };
    let queue_id = QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string();
    let envelope = Envelope { queue_id, recipients: vec![recipient], ..Default::default() };
    let request = AcceptRequest { envelope: Some(envelope), content: content.into() };
    mda.spool().accept(tokio_stream::iter([request])).await.map(drop)
}

async fn inbox(mda: &Mda, account_id: u64, count: usize) -> (u64, Vec<u32>) {
    eventually("the mailbox has them", SOON, || async {
        let request = SelectRequest { account_id, name: "INBOX".into(), ..Default::default() };
        let mut stream = mda.mailboxes().select(request).await.ok()?.into_inner();
        let first = stream.message().await.ok()??;
        (first.uids.len() == count).then(|| (first.state.unwrap().mailbox_id, first.uids))
    })
    .await
}

/// By both ways that mailboxes are read.
async fn read(mda: &Mda, account_id: u64, mailbox_id: u64, uid: u32) -> Vec<u8> {
    let end = 1 << 30;
    let request = ContentRequest { account_id, mailbox_id, uid, start: 0, end, ..Default::default() };
    let mut stream = mda.mailboxes().content(request).await.unwrap().into_inner();
    let mut streamed = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        streamed.extend_from_slice(&answer.chunk);
    }
    let request = FetchRequest {
        account_id,
        mailbox_id,
        uids: vec![UidRange { first: uid, last: uid }],
        header: true,
        body: true,
        ..Default::default()
    };
    let message = mda.mailboxes().fetch(request).await.unwrap().into_inner().message().await.unwrap().unwrap();
    let message = &message.messages[0];
    assert_eq!([&message.header[..], &message.body[..]].concat(), streamed);
    streamed
}

#[tokio::test]
async fn orphans_are_swept_and_what_a_row_names_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let mda = on_folder(folder.path(), |_| ()).await;
    let bob = mda.account("bob@example.com").await;
    accept(&mda, bob, large()).await.unwrap();
    let (mailbox, uids) = inbox(&mda, bob, 1).await;
    let live = files(folder.path());
    assert_eq!(live.len(), 1);

    // A day old, as if it had been there all along: still named, so it must live.
    let mut sql = mda.sql().await;
    let content = &live[0][live[0].len() - 32..];
    let at = |age: Duration| {
        let time = std::time::SystemTime::now() - age;
        let time = time.duration_since(std::time::UNIX_EPOCH).unwrap();
        let attempt = uuid::Builder::from_unix_timestamp_millis(time.as_millis() as u64, &[7; 10]).into_uuid();
        attempt.hyphenated().to_string()
    };
    let old = at(Duration::from_secs(30 * 3_600));
    let name = |attempt: &str, content: &str| format!("{}/{attempt}.{content}", &attempt[..6]);
    let aged = name(&old, content);
    let put = |name: &str| {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, b"x").unwrap();
    };
    put(&aged);
    std::fs::rename(folder.path().join(&live[0]), folder.path().join(&aged)).unwrap();
    sqlx::query("update contents set object = $1").bind(&aged).execute(&mut sql).await.unwrap();

    // An Accept that died a day ago, one that runs, and what is none of ours.
    let orphan = name(&at(Duration::from_secs(29 * 3_600)), &uuid::Uuid::now_v7().simple().to_string());
    let running = name(&at(Duration::from_secs(3_600)), &uuid::Uuid::now_v7().simple().to_string());
    let strange = format!("{}/what-is-this", &old[..6]);
    for name in [&orphan, &running, &strange] {
        put(name);
    }
    eventually("the orphan goes", SOON, || async { (!files(folder.path()).contains(&orphan)).then_some(()) }).await;
    let left = files(folder.path());
    for name in [&aged, &running, &strange] {
        assert!(left.contains(name), "{name} in {left:?}");
    }
    assert_eq!(read(&mda, bob, mailbox, uids[0]).await, large());

    // Nobody names an object any more that the sweep may have taken.
    let late =
        sqlx::query("insert into contents (id, size, header, body, structure, object) values ($1, 0, '', '', '', $2)")
            .bind(uuid::Uuid::now_v7())
            .bind(&orphan)
            .execute(&mut sql)
            .await;
    assert!(late.unwrap_err().to_string().contains("too long ago"));
    mda.stop().await;
}

#[tokio::test]
async fn an_object_outlives_its_message_for_a_while_and_a_restored_one_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let mda = on_folder(folder.path(), |_| ()).await;
    let bob = mda.account("bob@example.com").await;
    accept(&mda, bob, large()).await.unwrap();
    accept(&mda, bob, large()).await.unwrap();
    let (mailbox_id, uids) = inbox(&mda, bob, 2).await;
    assert_eq!(files(folder.path()).len(), 2);
    // As after a restore: it is to be deleted, and a row names it again.
    let mut sql = mda.sql().await;
    sqlx::query("insert into dead_objects (name, died_at) select object, '-infinity' from contents")
        .execute(&mut sql)
        .await
        .unwrap();
    eventually("it is struck from the list", SOON, || async {
        let mut sql = mda.sql().await;
        let dead: i64 = sqlx::query_scalar("select count(*) from dead_objects").fetch_one(&mut sql).await.ok()?;
        (dead == 0).then_some(())
    })
    .await;
    assert_eq!(files(folder.path()).len(), 2);

    let one = vec![UidRange { first: uids[0], last: uids[0] }];
    let store = StoreRequest {
        account_id: bob,
        mailbox_id,
        uids: one.clone(),
        mode: proto::mailboxes::store_request::Mode::Add as i32,
        flags: Some(proto::mailboxes::Flags { system: 8, ..Default::default() }),
        ..Default::default()
    };
    mda.mailboxes().store(store).await.unwrap();
    let expunge = ExpungeRequest { account_id: bob, mailbox_id, uids: one, ..Default::default() };
    mda.mailboxes().expunge(expunge).await.unwrap();
    inbox(&mda, bob, 1).await;
    eventually("its row goes", SOON, || async {
        let mut sql = mda.sql().await;
        let rows: i64 = sqlx::query_scalar("select count(*) from contents").fetch_one(&mut sql).await.ok()?;
        (rows == 1).then_some(())
    })
    .await;
    eventually("then its object", SOON, || async { (files(folder.path()).len() == 1).then_some(()) }).await;
    assert_eq!(read(&mda, bob, mailbox_id, uids[1]).await, large());
    mda.stop().await;
}

#[tokio::test]
async fn two_installations_do_not_share_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (on_folder(folder.path(), |_| ()).await, on_folder(folder.path(), |_| ()).await);
    let (bob, ann) = (first.account("bob@example.com").await, second.account("ann@example.com").await);
    let one = accept(&first, bob, large()).await;
    let two = accept(&second, ann, large()).await;
    let refused: Vec<Code> = [one, two].into_iter().filter_map(|r| r.err().map(|s| s.code())).collect();
    assert_eq!(refused, [Code::Unavailable], "whoever came second");
    accept(&second, ann, b"Subject: small\r\n\r\nx".to_vec()).await.unwrap();
    first.stop().await;
    second.stop().await;
}

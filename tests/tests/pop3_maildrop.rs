//! POP3's maildrop beside IMAP and delivery: lock, snapshot, all or none, and its cost.

#![allow(clippy::unwrap_used)]

use std::{path::Path, process::Command};

use proto::{
    admin::{
        Pop3, SetPop3Request,
        pop3::{Dele, Show},
    },
    mailboxes::{
        AppendRequest, AppendTarget, Flags, ListMaildropRequest, ListMaildropResponse, LockMaildropRequest,
        StatusRequest, StoreRequest, UidRange, UpdateMaildropRequest, store_request::Mode,
    },
};
use tests::{
    client::python,
    process::program,
    site::{Options, Site, free_port_offset},
    storage::Mda,
};

fn site(more: &[&str], config: Option<&str>) -> Site {
    let mut options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com").more(more);
    options.config = config.map(str::to_owned);
    let site = Site::up(options);
    site.account("bob@example.com");
    site
}

/// What every program below begins with.
const CLIENTS: &str = r#"
def imap_login():
    imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("bob@example.com", "secret")
    imap.select("INBOX"); return imap
def pop_login(wait=0):
    deadline = time.time() + wait
    while True:
        try:
            pop = poplib.POP3_SSL(HOST, PORT[995], context=TLS, timeout=30)
            pop.user("bob@example.com"); pop.pass_("secret"); return pop
        except (OSError, poplib.error_proto) as e:
            if time.time() > deadline: raise
            time.sleep(0.2)
def append(imap, subject, body=b"b\r\n"):
    kind, said = imap.append("INBOX", None, None, b"From: a@x\r\nSubject: " + subject + b"\r\n\r\n" + body)
    assert kind == "OK", said
def count(imap):
    imap.noop(); return int(imap.status("INBOX", "(MESSAGES)")[1][0].split()[-1].rstrip(b")"))
"#;

fn play(site: &Site, program: &str) -> String {
    python(site, &format!("{CLIENTS}{program}"))
}

/// SQL on the site's own Postgres.
fn sql(site: &Site, statement: &str) -> String {
    let socket = find(&site.data(), ".s.PGSQL.5432").expect("socket of Postgres");
    let mut psql = Command::new(program("psql", "postgresql-client-15"));
    psql.args(["-X", "-At", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postroad", "-d", "postroad", "-h"]).arg(socket);
    let output = psql.args(["-c", statement]).output().unwrap();
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The folder that has a file of this name.
fn find(folder: &Path, name: &str) -> Option<std::path::PathBuf> {
    if folder.join(name).symlink_metadata().is_ok() {
        return Some(folder.to_owned());
    }
    let folders = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path()).filter(|p| p.is_dir());
    folders.into_iter().find_map(|f| find(&f, name))
}

/// Fills INBOX up to so many messages, all with the content of its first.
fn fill(site: &Site, messages: usize) {
    sql(
        site,
        &format!(
            "with box as (select * from mailboxes where name = 'INBOX'),
                  first as (select m.* from messages m join box on m.account_id = box.account_id
                            and m.mailbox_id = box.id order by m.uid limit 1),
                  added as (
                      insert into messages (account_id, mailbox_id, uid, modseq, content_id, internal_date, size)
                      select f.account_id, f.mailbox_id, box.uid_next - 1 + n, box.highest_modseq + 1, f.content_id,
                             now(), f.size
                      from first f, box, generate_series(1, {messages} - box.messages) n returning size)
             update mailboxes set uid_next = uid_next + (select count(*) from added),
                    highest_modseq = highest_modseq + 1, messages = messages + (select count(*) from added),
                    unseen = unseen + (select count(*) from added), size = size + (select coalesce(sum(size), 0) from added)
             where name = 'INBOX'"
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pop3_and_two_imap_clients_on_two_gateways() {
    let site = site(&["--replicas", "pop3-gateway=2", "--replicas", "imap-gateway=2"], None);
    assert_eq!(site.pids("pop3-gateway").len(), 2);
    let program = r#"
phone, laptop = imap_login(), imap_login()
for n in range(5): append(phone, b"%d" % n)
pop = pop_login()
ids = pop.uidl()[1]
assert pop.stat()[0] == 5 and len(ids) == 5

# The lock holds on both gateways: the kernel spreads these connections over them.
refused = 0
for n in range(24):
    other = poplib.POP3_SSL(HOST, PORT[995], context=TLS); other.user("bob@example.com")
    try: other.pass_("secret"); sys.exit("two sessions have the maildrop")
    except poplib.error_proto as e: assert b"[IN-USE]" in e.args[0], e; refused += 1
    other.close()
assert refused == 24

# The snapshot stays while IMAP removes and delivery adds.
phone.store("1", "+FLAGS", r"(\Deleted)"); phone.expunge(); append(laptop, b"new")
assert pop.stat()[0] == 5 and pop.uidl()[1] == ids
try: pop.retr(1); sys.exit("it is gone")
except poplib.error_proto as e: assert e.args[0].startswith(b"-ERR"), e
assert b"Subject: 1" in pop.retr(2)[1]
pop.dele(2); pop.dele(1)
assert count(phone) == 5, "nothing is deleted before QUIT"
pop.quit()

# Everybody comes to the same: 2, 3, 4, new.
def subjects(imap):
    imap.noop()
    rows = imap.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
    return [r[1].split(b":")[1].strip() for r in rows if isinstance(r, tuple)]
for imap in (phone, laptop): assert subjects(imap) == [b"2", b"3", b"4", b"new"], subjects(imap)
pop = pop_login()
assert pop.stat()[0] == 4
assert [i.split()[1] for i in pop.uidl()[1]][:3] == [i.split()[1] for i in ids][2:], "ids are for ever"
pop.quit()

# Two clients that take turns, on whichever gateway, each deleting one.
left = 4
for n in range(4):
    pop = pop_login(5); assert pop.stat()[0] == left; pop.dele(1); pop.quit(); left -= 1
assert count(laptop) == 0 and count(phone) == 0
"#;
    play(&site, program);
    let served = |n: u32| {
        let log = std::fs::read_dir(site.data().join("log")).unwrap().flatten();
        let log = log.filter(|f| f.file_name().to_string_lossy().starts_with(&format!("pop3-gateway-{n}")));
        log.map(|f| std::fs::read_to_string(f.path()).unwrap().matches("session ended").count()).sum::<usize>()
    };
    assert!(served(1) > 0 && served(2) > 0, "both gateways had clients");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_between_dele_and_quit_deletes_nothing() {
    let site = site(&[], Some("pop3-gateway:\n  lock_seconds: 10\n"));
    play(&site, "imap = imap_login()\nfor n in range(10): append(imap, b'%d' % n)");
    for round in 0..2 {
        let mut client = Command::new("python3");
        let ready = site.data().join(format!("ready-{round}"));
        let script = format!(
            "import poplib, ssl, time\nTLS = ssl._create_unverified_context()\n\
             pop = poplib.POP3_SSL('127.0.0.1', {}, context=TLS); pop.user('bob@example.com'); pop.pass_('secret')\n\
             for n in range(1, 11): pop.dele(n)\nopen({:?}, 'w').close()\ntime.sleep(60)",
            site.port(995),
            ready.display().to_string()
        );
        let mut client = tests::process::Process::start(client.args(["-c", &script]));
        while !ready.exists() {
            assert!(client.is_running());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        site.signal("pop3-gateway", "KILL");
        // The lock dies with its holder: within its lease the maildrop is free again.
        play(&site, "start = time.time(); pop = pop_login(40); assert pop.stat()[0] == 10, pop.stat(); pop.quit()");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mda_killed_in_the_middle_of_quit_deletes_all_or_nothing() {
    let site = site(&[], Some("pop3-gateway:\n  lock_seconds: 10\n"));
    play(&site, "append(imap_login(), b'first')");
    let (mut all, mut none) = (0, 0);
    // From before its transaction to after its answer.
    for delay in [0.0, 0.01, 0.02, 0.04, 0.1, 60.0] {
        fill(&site, 3_000);
        let quit = format!(
            r#"
import os, signal, threading
pop = pop_login(40); assert pop.stat()[0] == 3000, pop.stat()
# Pipelined: what counts is QUIT.
pop.sock.sendall(b"".join(b"DELE %d\r\n" % n for n in range(2, 3001)))
for n in range(2, 3001): assert pop._getline()[0].startswith(b"+OK")
done = threading.Event()
def kill():
    done.wait({delay}); [os.kill(pid, signal.SIGKILL) for pid in {pids:?}]
killer = threading.Thread(target=kill); killer.start()
try: said = pop._shortcmd("QUIT")
except Exception as e: said = repr(e).encode()
done.set(); killer.join()
pop = pop_login(60); left = pop.stat()[0]; pop.quit()
assert left in (1, 3000), left
assert left == 1 or not said.startswith(b"+OK"), said
print(left, said.decode())
"#,
            pids = site.pids("mda")
        );
        let said = play(&site, &quit);
        eprintln!("killed after {delay} s: {}", said.trim());
        if said.starts_with("1 ") { all += 1 } else { none += 1 }
    }
    eprintln!("{all} times all were gone, {none} times none");
    assert!(all > 0 && none > 0, "both outcomes must have been tried: {all} and {none}");
    // What the counters say is what is there.
    let counted = sql(
        &site,
        "select b.messages = count(m.uid) and b.size = coalesce(sum(m.size), 0) from mailboxes b
         left join messages m on m.account_id = b.account_id and m.mailbox_id = b.id
         where b.name = 'INBOX' group by b.messages, b.size",
    );
    assert_eq!(counted, "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_messages_are_listed() {
    let site = site(&[], None);
    play(&site, "append(imap_login(), b'first')");
    fill(&site, 100_000);
    let timing = r#"
def timed(what, f):
    start = time.time(); answer = f(); print(f"{what} {time.time() - start:.2f} s", end="; "); return answer
pop = timed("login", pop_login)
assert timed("STAT", pop.stat)[0] == 100000
assert len(timed("UIDL", pop.uidl)[1]) == 100000
assert len(timed("LIST", pop.list)[1]) == 100000
pop.quit()
"#;
    eprintln!("100,000 messages, debug build: {}", play(&site, timing));
}

/// Highest resident size since the last reset, in MiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// From here on, [`peak`] counts anew (proc(5), clear_refs).
fn reset_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_cost_no_fifty_megabytes() {
    let site = site(&[], None);
    // Does not compress: otherwise there would be nothing to hold.
    let append = r#"
import os, binascii
half = os.urandom(25 << 20)
body = binascii.hexlify(half)
lines = b"".join(body[n:n + 76] + b"\r\n" for n in range(0, len(body), 76))
append(imap_login(), b"big", lines)
"#;
    play(&site, append);
    let retr = r#"
pop = pop_login(); size = pop.stat()[1]; assert size > 50 << 20
start = time.time()
got = sum(len(l) + 2 for l in pop.retr(1)[1]); assert got == size, (got, size)
print(f"{size / (1 << 20) / (time.time() - start):.0f} MiB/s"); pop.quit()
"#;
    // Each time a new gateway: what the allocator keeps differs, what is held does not.
    let (mut gateway, mut mda) = (u64::MAX, 0);
    for _ in 0..3 {
        site.signal("pop3-gateway", "KILL");
        // Once small, so that only the message itself counts.
        play(&site, "pop = pop_login(40); pop.top(1, 5); pop.quit()");
        let pids = [site.pids("pop3-gateway")[0], site.pids("mda")[0]];
        pids.iter().for_each(|pid| reset_peak(*pid));
        let before = pids.map(peak);
        let speed = play(&site, retr);
        let grown: Vec<u64> = pids.iter().zip(before).map(|(pid, before)| peak(*pid) - before).collect();
        eprintln!("RETR of 53 MB, debug build: {}; pop3-gateway and mda +{grown:?} MiB", speed.trim());
        (gateway, mda) = (gateway.min(grown[0]), mda.max(grown[1]));
    }
    assert!(gateway <= 10 && mda <= 25, "pop3-gateway and mda grew by {gateway} and {mda} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_chooses_what_dele_means_and_what_is_shown() {
    let site = site(&[], None);
    let said = site.admin(&["account", "pop3", "bob@example.com", "--dele", "trash", "--show", "unseen"], "");
    assert_eq!(said.trim(), "account bob@example.com: DELE means trash, POP3 shows unseen");
    let program = r#"
imap = imap_login()
for n in range(4): append(imap, b"%d" % n)
imap.noop(); imap.store("1", "+FLAGS", r"(\Seen)"); imap.store("2", "+FLAGS", r"(\Deleted)")
imap.delete("Trash")
pop = pop_login()
assert pop.stat()[0] == 2
assert b"Subject: 2" in pop.retr(1)[1]
pop.dele(1); pop.quit()
assert count(imap) == 3
imap.select("Trash")
assert b"Subject: 2" in imap.fetch("1", "(BODY.PEEK[HEADER])")[1][0][1]
"#;
    play(&site, program);
    site.admin(&["account", "pop3", "bob@example.com", "--show", "all"], "");
    play(
        &site,
        "pop = pop_login(); assert pop.stat()[0] == 3; pop.dele(1); pop.quit()\nimap = imap_login()\nassert count(imap) == 2\nimap.select('Trash'); assert imap.status('Trash', '(MESSAGES)')[1][0].endswith(b'2)')",
    );
    let wrong = site.try_cli("admin", &["account", "pop3", "bob@example.com", "--dele", "maybe"], "");
    assert!(!wrong.status.success());
}

async fn listed(mda: &Mda, account_id: u64) -> ListMaildropResponse {
    let mut answers = mda.mailboxes().list_maildrop(ListMaildropRequest { account_id }).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap();
    assert!(answers.message().await.unwrap().is_none());
    first
}

async fn append(mda: &Mda, account_id: u64, uidl: &str) -> Result<u32, tonic::Status> {
    let target = AppendTarget { account_id, mailbox: "INBOX".into(), uidl: uidl.into(), ..AppendTarget::default() };
    let request = AppendRequest { target: Some(target), content: b"A: b\r\n\r\nc\r\n".to_vec().into() };
    Ok(mda.mailboxes().append(tokio_stream::iter([request])).await?.into_inner().uid)
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_ids_come_along_from_another_server() {
    let mda = Mda::start().await;
    let account = mda.account("bob@example.com").await;
    assert!(listed(&mda, account).await.uids.is_empty());
    append(&mda, account, "").await.unwrap();
    let ours = listed(&mda, account).await;
    assert!(ours.uidls.is_empty());
    append(&mda, account, "000001a2.b3").await.unwrap();
    // A second one of the same id, and one that looks like ours, get ids of their own.
    append(&mda, account, "000001a2.b3").await.unwrap();
    append(&mda, account, &format!("{}.1", ours.uid_validity)).await.unwrap();
    assert_eq!(listed(&mda, account).await.uidls, ["", "000001a2.b3", "", ""]);
    for wrong in ["with space", "ü", &"x".repeat(71)] {
        assert_eq!(append(&mda, account, wrong).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    }
    mda.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_session_that_holds_the_maildrop_updates_it() {
    let mda = Mda::start().await;
    let account_id = mda.account("bob@example.com").await;
    let uid = append(&mda, account_id, "").await.unwrap();
    let mailbox_id = listed(&mda, account_id).await.mailbox_id;
    let mut mailboxes = mda.mailboxes();
    let lock = |token: &str, lease_ms| LockMaildropRequest { account_id, token: token.into(), lease_ms };
    let update = |token: &str| UpdateMaildropRequest {
        account_id,
        mailbox_id,
        token: token.into(),
        uids: vec![UidRange { first: uid, last: uid }],
    };
    mailboxes.lock_maildrop(lock("a", 1)).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let status = mailboxes.update_maildrop(update("a")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "its lease is over");
    mailboxes.lock_maildrop(lock("b", 60_000)).await.unwrap();
    assert_eq!(mailboxes.lock_maildrop(lock("a", 1)).await.unwrap_err().code(), tonic::Code::AlreadyExists);
    assert_eq!(mailboxes.update_maildrop(update("a")).await.unwrap_err().code(), tonic::Code::FailedPrecondition);
    assert_eq!(listed(&mda, account_id).await.uids, [uid]);

    // To Trash, with its flags, where IMAP finds it.
    let pop3 = Pop3 { dele: Dele::Trash.into(), show: Show::Undeleted.into() };
    let request = SetPop3Request { address: "bob@example.com".into(), pop3: Some(pop3) };
    let account = mda.admin().set_pop3(request).await.unwrap().into_inner();
    assert_eq!(account.pop3, Some(pop3));
    assert_eq!(mailboxes.update_maildrop(update("b")).await.unwrap().into_inner().removed, 1);
    // A second time there is nothing left to do.
    assert_eq!(mailboxes.update_maildrop(update("b")).await.unwrap().into_inner().removed, 0);
    let status = StatusRequest { account_id, names: vec!["INBOX".into(), "Trash".into()], ..Default::default() };
    let states = mailboxes.status(status).await.unwrap().into_inner().states;
    assert_eq!(states.iter().map(|s| s.state.unwrap().messages).collect::<Vec<_>>(), [0, 1]);

    // What is marked as deleted is not shown.
    let uid = append(&mda, account_id, "").await.unwrap();
    let store = StoreRequest {
        account_id,
        mailbox_id,
        uids: vec![UidRange { first: uid, last: uid }],
        mode: Mode::Add.into(),
        flags: Some(Flags { system: 8, keywords: Vec::new() }),
        ..StoreRequest::default()
    };
    mailboxes.store(store).await.unwrap();
    assert!(listed(&mda, account_id).await.uids.is_empty());
    mda.stop().await;
}

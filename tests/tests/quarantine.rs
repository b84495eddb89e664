//! Quarantine: what verdicts sent to Junk is listed and released, by those it belongs to; counters,
//! UIDs and the journey are right. And a tenant's limits, beside which its quarantine stands.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use address::QueueId;
use proto::{
    admin::{
        CreateAccountRequest, CreateDomainRequest, CreateTenantRequest, ListQuarantineRequest, QuarantinedMessage,
        ReleaseQuarantinedRequest, SetDmarcOverrideRequest, SetTenantLimitsRequest,
    },
    directory::ResolveRequest,
    journey::TraceRequest,
    mailboxes::{CopyRequest, FetchRequest, MailboxState, SelectRequest, StatusRequest, UidRange, WatchRequest},
    spool::{AcceptRequest, Envelope, Event, Recipient, Target, target::To},
};
use tests::{
    client::python,
    eventually,
    site::{Options, Site, free_port_offset},
    storage::Mda,
};
use tonic::Code;

const SOON: Duration = Duration::from_secs(20);
const MESSAGE: &str = "From: =?utf-8?q?J=C3=B6rg?= <boss@bank.example>\r\nMessage-ID: <1@else.org>\r\n\
                       Subject: Pay\r\n now\r\n\r\nbody\r\n";

async fn send(mda: &Mda, accounts: &[u64], junk: bool) -> String {
    let recipients = accounts.iter().map(|id| Recipient {
        forward_path: format!("account-{id}@example.com"),
        targets: vec![Target { to: Some(To::AccountId(*id)) }],
        ..Default::default()
    });
    let verdict =
        Event { name: "verdict".into(), service: "test".into(), text: "dmarc fail".into(), ..Default::default() };
    let envelope = Envelope {
        queue_id: QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string(),
        reverse_path: "a@else.org".into(),
        recipients: recipients.collect(),
        junk,
        events: vec![verdict],
        ..Default::default()
    };
    let id = envelope.queue_id.clone();
    let request = AcceptRequest { envelope: Some(envelope), content: MESSAGE.as_bytes().into() };
    mda.spool().accept(tokio_stream::iter([request])).await.unwrap();
    let box_name = if junk { "Junk" } else { "INBOX" };
    eventually("it is delivered", SOON, || async {
        let told = events(mda, &id).await;
        let delivered = told.iter().filter(|(name, text)| name == "delivered" && text.ends_with(box_name));
        (delivered.count() == accounts.len()).then_some(())
    })
    .await;
    id
}

async fn state(mda: &Mda, account_id: u64, name: &str) -> MailboxState {
    let request = StatusRequest { account_id, names: vec![name.into()], ..Default::default() };
    mda.mailboxes().status(request).await.unwrap().into_inner().states.remove(0).state.unwrap()
}

async fn uids(mda: &Mda, account_id: u64, name: &str) -> Vec<u32> {
    let request = SelectRequest { account_id, name: name.into(), ..Default::default() };
    let mut stream = mda.mailboxes().select(request).await.unwrap().into_inner();
    let mut uids = Vec::new();
    while let Some(part) = stream.message().await.unwrap() {
        uids.extend(part.uids);
    }
    uids
}

async fn events(mda: &Mda, queue_id: &str) -> Vec<(String, String)> {
    let request = TraceRequest { queue_id: queue_id.into(), follow: false };
    let mut stream = mda.journey().trace(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        all.extend(answer.events.into_iter().map(|e| (e.name, format!("{} {}", e.recipient, e.text))));
    }
    all
}

/// As somebody of a tenant asks, or the operator.
fn of<T>(tenant: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if !tenant.is_empty() {
        request.metadata_mut().insert("postroad-tenant", tenant.parse().unwrap());
    }
    request
}

async fn list(mda: &Mda, tenant: &str, request: ListQuarantineRequest) -> Vec<QuarantinedMessage> {
    mda.admin().list_quarantine(of(tenant, request)).await.unwrap().into_inner().messages
}

async fn release(mda: &Mda, tenant: &str, queue_id: &str, addresses: &[&str]) -> Result<Vec<String>, Code> {
    let addresses = addresses.iter().map(|a| (*a).to_owned()).collect();
    let request = ReleaseQuarantinedRequest { queue_id: queue_id.into(), addresses, by: "Eve\r\n".into() };
    mda.admin().release_quarantined(of(tenant, request)).await.map(|a| a.into_inner().addresses).map_err(|s| s.code())
}

#[tokio::test]
async fn a_message_is_released_into_the_inbox_and_the_books_are_right() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    let ann = mda.account("ann@example.com").await;
    send(&mda, &[bob], false).await;
    let id = send(&mda, &[bob, ann], true).await;
    let kept = send(&mda, &[bob], true).await;

    let all = list(&mda, "", ListQuarantineRequest::default()).await;
    let seen: Vec<_> = all.iter().map(|m| (m.queue_id.as_str(), m.address.as_str())).collect();
    let expected = [(&kept, "bob@example.com"), (&id, "ann@example.com"), (&id, "bob@example.com")];
    assert_eq!(seen, expected.map(|(id, to)| (id.as_str(), to)));
    let m = &all[0];
    assert_eq!((m.from.as_str(), m.subject.as_str()), ("J\u{f6}rg <boss@bank.example>", "Pay now"));
    assert_eq!((m.sender.as_str(), m.reason.as_str(), m.seen), ("a@else.org", "dmarc fail", false));
    assert_eq!(m.size as usize, MESSAGE.len());
    let of_ann = ListQuarantineRequest { address: "ANN@example.com".into(), ..Default::default() };
    assert_eq!(list(&mda, "", of_ann).await.len(), 1);
    let page = ListQuarantineRequest { limit: 1, ..Default::default() };
    let newest = list(&mda, "", page.clone()).await.remove(0);
    let older = ListQuarantineRequest { before_ms: newest.accepted_at_ms, domain: "example.com".into(), ..page };
    assert_eq!(list(&mda, "", older).await[0].queue_id, id);

    // Whoever watches the account is woken.
    let mut watch = mda.mailboxes().watch(WatchRequest { account_id: bob }).await.unwrap().into_inner();
    let before = state(&mda, bob, "INBOX").await;
    assert_eq!(release(&mda, "", &id, &["bob@example.com"]).await.unwrap(), ["bob@example.com"]);
    tokio::time::timeout(SOON, watch.message()).await.unwrap().unwrap();
    let (inbox, junk) = (state(&mda, bob, "INBOX").await, state(&mda, bob, "Junk").await);
    assert_eq!((inbox.messages, inbox.unseen, inbox.uid_next), (2, 2, before.uid_next + 1));
    assert!(inbox.highest_modseq > before.highest_modseq && inbox.uid_validity == before.uid_validity);
    assert_eq!((junk.messages, junk.unseen, junk.uid_next, junk.size as usize), (1, 1, 3, MESSAGE.len()));
    assert_eq!((uids(&mda, bob, "INBOX").await, uids(&mda, bob, "Junk").await), (vec![1, 2], vec![2]));
    let told: Vec<_> = events(&mda, &id).await.into_iter().filter(|(name, _)| name == "released").collect();
    assert_eq!(told, [("released".to_owned(), "bob@example.com from Junk into INBOX by Eve".to_owned())]);

    // Read there for the first time: the journey's last hop.
    let mailbox_id = inbox.mailbox_id;
    let request = FetchRequest {
        account_id: bob,
        mailbox_id,
        uids: vec![UidRange { first: 1, last: u32::MAX }],
        header: true,
        body: true,
        reader: "imap".into(),
        ..Default::default()
    };
    let mut stream = mda.mailboxes().fetch(request).await.unwrap().into_inner();
    while stream.message().await.unwrap().is_some() {}
    drop(stream);
    eventually("it is read", SOON, || async {
        events(&mda, &id).await.iter().any(|(name, text)| name == "fetched" && text.starts_with("bob@")).then_some(())
    })
    .await;

    // Once only; the other's is untouched, and what was never quarantined is none.
    assert_eq!(release(&mda, "", &id, &["bob@example.com"]).await, Err(Code::NotFound));
    assert_eq!(release(&mda, "", &id, &[]).await.unwrap(), ["ann@example.com"]);
    assert_eq!(list(&mda, "", ListQuarantineRequest::default()).await.len(), 1);
    assert_eq!(release(&mda, "", "nonsense", &[]).await, Err(Code::InvalidArgument));
}

#[tokio::test]
async fn many_who_release_at_once_move_it_once() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    let id = send(&mda, &[bob], true).await;
    let all = futures::future::join_all((0..8).map(|_| release(&mda, "", &id, &[]))).await;
    assert_eq!(all.iter().filter(|r| r.is_ok()).count(), 1, "{all:?}");
    assert_eq!((uids(&mda, bob, "INBOX").await.len(), uids(&mda, bob, "Junk").await.len()), (1, 0));
    assert_eq!(events(&mda, &id).await.iter().filter(|(name, _)| name == "released").count(), 1);
}

#[tokio::test]
async fn what_the_owner_put_into_junk_or_took_out_of_it_is_not_listed() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    let (harmless, bad) = (send(&mda, &[bob], false).await, send(&mda, &[bob], true).await);
    let swap = async |from: &str, to: &str| {
        let request = SelectRequest { account_id: bob, name: from.into(), ..Default::default() };
        let mut stream = mda.mailboxes().select(request).await.unwrap().into_inner();
        let mailbox_id = stream.message().await.unwrap().unwrap().state.unwrap().mailbox_id;
        let request = CopyRequest {
            account_id: bob,
            mailbox_id,
            uids: vec![UidRange { first: 1, last: 1 }],
            target: to.into(),
            r#move: true,
            ..Default::default()
        };
        mda.mailboxes().copy(request).await.unwrap();
    };
    swap("INBOX", "Junk").await;
    assert_eq!(list(&mda, "", ListQuarantineRequest::default()).await.len(), 1);
    swap("Junk", "Trash").await;
    assert_eq!(list(&mda, "", ListQuarantineRequest::default()).await, []);
    for id in [harmless, bad] {
        assert_eq!(release(&mda, "", &id, &[]).await, Err(Code::NotFound));
    }
}

async fn tenant(mda: &Mda, name: &str) -> u64 {
    mda.admin().create_tenant(CreateTenantRequest { name: name.into() }).await.unwrap();
    let domain = CreateDomainRequest { name: format!("{name}.com"), tenant: name.into() };
    mda.admin().create_domain(domain).await.unwrap();
    account(mda, &format!("eve@{name}.com")).await.unwrap()
}

async fn account(mda: &Mda, address: &str) -> Result<u64, tonic::Status> {
    let request = CreateAccountRequest { address: address.into(), password: "secret".into(), ..Default::default() };
    mda.admin().create_account(request).await.map(|a| a.into_inner().account_id)
}

#[tokio::test]
async fn a_tenant_sees_and_releases_its_own_only() {
    let mda = Mda::start().await;
    let (acme, zeta) = (tenant(&mda, "acme").await, tenant(&mda, "zeta").await);
    let id = send(&mda, &[acme, zeta], true).await;
    let seen = list(&mda, "acme", ListQuarantineRequest::default()).await;
    assert_eq!(seen.iter().map(|m| m.address.as_str()).collect::<Vec<_>>(), ["eve@acme.com"]);
    for request in [
        ListQuarantineRequest { domain: "zeta.com".into(), ..Default::default() },
        ListQuarantineRequest { address: "eve@zeta.com".into(), ..Default::default() },
    ] {
        let refused = mda.admin().list_quarantine(of("acme", request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
    }
    assert_eq!(release(&mda, "acme", &id, &["eve@zeta.com"]).await, Err(Code::NotFound));
    assert_eq!(release(&mda, "acme", &id, &[]).await.unwrap(), ["eve@acme.com"]);
    assert_eq!(uids(&mda, zeta, "Junk").await, [1]);
}

#[tokio::test]
async fn a_tenant_has_as_many_accounts_as_it_may() {
    let mda = Mda::start().await;
    tenant(&mda, "acme").await;
    let limit = |max_accounts: u64| SetTenantLimitsRequest {
        name: "acme".into(),
        max_accounts: Some(max_accounts),
        ..Default::default()
    };
    let now = mda.admin().set_tenant_limits(limit(3)).await.unwrap().into_inner();
    assert_eq!((now.max_accounts, now.accounts, now.daily_recipients), (3, 1, 0));
    // At once, too.
    let names: Vec<String> = (0..6).map(|n| format!("a{n}@acme.com")).collect();
    let made = futures::future::join_all(names.iter().map(|name| account(&mda, name))).await;
    let refused: Vec<_> = made.iter().filter_map(|m| m.as_ref().err()).collect();
    assert_eq!(refused.len(), 4, "{made:?}");
    assert!(refused.iter().all(|s| s.code() == Code::FailedPrecondition && s.message().contains("3 of 3 accounts")));
    let denied = mda.admin().set_tenant_limits(of("acme", limit(0))).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    mda.admin().set_tenant_limits(limit(0)).await.unwrap();
    account(&mda, "one-more@acme.com").await.unwrap();
    let nobody = SetTenantLimitsRequest { name: "nobody".into(), ..Default::default() };
    assert_eq!(mda.admin().set_tenant_limits(nobody).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_domain_may_think_otherwise_about_dmarc_than_its_tenant() {
    let mda = Mda::start().await;
    tenant(&mda, "acme").await;
    let quarantines = async || {
        let request = ResolveRequest { recipients: vec!["eve@acme.com".into()] };
        mda.directory().resolve(request).await.unwrap().into_inner().resolutions[0].dmarc_quarantine
    };
    let set = async |tenant: &str, domain: &str, quarantine: bool, inherit: bool| {
        let request = SetDmarcOverrideRequest { tenant: tenant.into(), domain: domain.into(), quarantine, inherit };
        mda.admin().set_dmarc_override(request).await.map(drop).map_err(|s| s.code())
    };
    assert!(!quarantines().await);
    set("", "acme.com", true, false).await.unwrap();
    assert!(quarantines().await);
    set("acme", "", true, false).await.unwrap();
    set("", "acme.com", false, false).await.unwrap();
    assert!(!quarantines().await);
    set("", "acme.com", false, true).await.unwrap();
    assert!(quarantines().await, "as its tenant has it");
    assert_eq!(set("", "nobody.com", true, false).await, Err(Code::NotFound));
    assert_eq!(set("acme", "acme.com", true, false).await, Err(Code::InvalidArgument));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_limits_what_its_accounts_send_by_the_command_line() {
    let site = Site::up(Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com"));
    for name in ["bob", "carol"] {
        site.account(&format!("{name}@example.com"));
    }
    let said = site.admin(&["tenant", "limit", "default", "--accounts", "2", "--daily-recipients", "3"], "");
    assert!(said.contains("2 accounts (of 2)"), "{said}");
    site.admin(&["account", "limit", "bob@example.com", "--daily-recipients", "5"], "");
    let taken = |user: &str| {
        let program = format!(
            r#"
smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS); smtp.login({user:?}, "secret"); smtp.mail({user:?})
for n in range(20):
    code, said = smtp.rcpt(f"r{{n}}@else.example")
    if code != 250: assert code == 450, said; print(n); break
"#
        );
        python(&site, &program).trim().parse::<u32>().unwrap()
    };
    assert_eq!((taken("bob@example.com"), taken("carol@example.com")), (5, 3), "its own goes before the tenant's");
    let more = site.try_cli("admin", &["account", "add", "dan@example.com", "--password-stdin"], "secret");
    let said = String::from_utf8_lossy(&more.stderr);
    assert!(!more.status.success() && said.contains("2 of 2 accounts"), "{said}");
    let said = site.admin(&["dmarc", "override-domain", "example.com", "quarantine"], "");
    assert_eq!(said.trim(), "domain example.com: mail that DMARC refuses goes to Junk");
    let said = site.admin(&["--json", "dmarc", "override-domain", "example.com", "inherit"], "");
    assert!(said.contains(r#""inherit":true"#), "{said}");
    // Nothing there is an empty list; what is not there is said.
    assert_eq!(site.cli("quarantine", &["list"], ""), "");
    assert_eq!(site.cli("quarantine", &["--json", "list", "--account", "bob@example.com"], "").trim(), "[]");
    let none = site.try_cli("quarantine", &["release", "01M83DE32BED7VG286RJN2MG8Q"], "");
    assert!(String::from_utf8_lossy(&none.stderr).contains("no such message is in quarantine"));
}

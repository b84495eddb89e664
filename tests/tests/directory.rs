//! Who is who: catch-all, groups, send-only accounts, app passwords, imported hashes, tenants.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proto::{
    admin::{
        ChangeGroupRequest, CreateAccountRequest, CreateAppPasswordRequest, CreateDomainRequest, CreateTenantRequest,
        DeleteAccountRequest, DeleteAppPasswordRequest, GetDomainRequest, ListAccountsRequest, ListAliasesRequest,
        ListAppPasswordsRequest, ListDomainsRequest, ListQueueRequest, ListTenantsRequest, SetAliasRequest,
        SetPasswordRequest, SetQuotaRequest, SetSendOnlyRequest,
    },
    directory::{
        AuthenticateRequest, MaySendAsRequest, ResolveRequest, authenticate_response::Step,
        directory_client::DirectoryClient, resolution::Kind, target::To,
    },
};
use tests::{
    eventually,
    ports::free_address,
    site::{Options, Site, free_port_offset},
    storage::{Mda, Redis},
};
use tonic::{Code, Request};

/// "secret", as Dovecot writes it.
const BCRYPT: &str = "{BLF-CRYPT}$2y$05$.6DlZNWP2Kqqrg93xnCKXe.4LFSU/08pRUQRkvVD8olRO3G8o5LzK";

async fn resolve(mda: &Mda, address: &str) -> (Kind, Vec<String>) {
    let request = ResolveRequest { recipients: vec![address.into()] };
    let resolution = mda.directory().resolve(request).await.unwrap().into_inner().resolutions.remove(0);
    let show = |t: &proto::directory::Target| match t.to.clone().unwrap() {
        To::AccountId(id) => id.to_string(),
        To::Remote(path) => path,
    };
    (resolution.kind(), resolution.targets.iter().map(show).collect())
}

async fn login_at(
    mut directory: DirectoryClient<runtime::grpc::Channel>,
    service: &str,
    name: &str,
    password: &str,
) -> bool {
    let request = AuthenticateRequest {
        mechanism: "PLAIN".into(),
        response: format!("\0{name}\0{password}").into_bytes().into(),
        has_response: true,
        service: service.into(),
        ..Default::default()
    };
    let mut answers = directory.authenticate(tokio_stream::iter([request])).await.unwrap().into_inner();
    matches!(answers.message().await.unwrap().unwrap().step, Some(Step::Success(_)))
}

async fn login(mda: &Mda, service: &str, name: &str, password: &str) -> bool {
    login_at(mda.directory(), service, name, password).await
}

#[tokio::test]
async fn catch_all_groups_and_targets_elsewhere() {
    let mda = Mda::start().await;
    let (ann, bob) = (mda.account("ann@example.com").await, mda.account("bob@example.com").await);
    let alias = |address: &str, targets: &[&str]| SetAliasRequest {
        address: address.into(),
        targets: targets.iter().map(|t| (*t).to_owned()).collect(),
    };
    mda.admin().set_alias(alias("@example.com", &["ann@example.com"])).await.unwrap();
    mda.admin().set_alias(alias("sales@example.com", &["bob@example.com", "crm@else.org"])).await.unwrap();
    assert_eq!(resolve(&mda, "Whoever+x@example.com").await, (Kind::Local, vec![ann.to_string()]));
    assert_eq!(resolve(&mda, "bob+lists@example.com").await, (Kind::Local, vec![bob.to_string()]));
    assert_eq!(resolve(&mda, "sales@example.com").await, (Kind::Local, vec![bob.to_string(), "crm@else.org".into()]));

    let group = |add: &[&str], remove: &[&str]| ChangeGroupRequest {
        address: "team@example.com".into(),
        add: add.iter().map(|t| (*t).to_owned()).collect(),
        remove: remove.iter().map(|t| (*t).to_owned()).collect(),
    };
    // Members come and go at the same time, and none is lost.
    mda.admin().change_group(group(&["bob@example.com"], &[])).await.unwrap();
    let joins = (0..20).map(|n| {
        let mut admin = mda.admin();
        let member = format!("m{n}@else.org");
        async move { admin.change_group(group(&[&member], &[])).await.map(drop) }
    });
    assert!(futures::future::join_all(joins).await.iter().all(Result::is_ok));
    let members = mda.admin().change_group(group(&["ann@example.com"], &["m3@else.org"])).await.unwrap().into_inner();
    assert!(members.group && members.targets.len() == 21, "{members:?}");
    assert_eq!(resolve(&mda, "team@example.com").await.1.len(), 21);
    for (account_id, address, allowed) in
        [(bob, "sales@example.com", true), (bob, "team@example.com", false), (ann, "x@example.com", false)]
    {
        let request = MaySendAsRequest { account_id, address: address.into() };
        assert_eq!(mda.directory().may_send_as(request).await.unwrap().into_inner().allowed, allowed, "{address}");
    }
    let account = ChangeGroupRequest { address: "bob@example.com".into(), ..Default::default() };
    let taken = mda.admin().change_group(account).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn send_only_accounts_submit_and_take_no_mail() {
    let mda = Mda::start().await;
    mda.account("robot@example.com").await;
    let request = SetSendOnlyRequest { address: "robot@example.com".into(), send_only: true };
    assert!(mda.admin().set_send_only(request).await.unwrap().into_inner().send_only);
    assert_eq!(resolve(&mda, "robot@example.com").await, (Kind::Disabled, vec![]));
    assert!(login(&mda, "smtp", "robot@example.com", "secret").await);
    assert!(!login(&mda, "imap", "robot@example.com", "secret").await);
    assert!(!login(&mda, "pop3", "robot@example.com", "secret").await);
}

#[tokio::test]
async fn app_passwords_are_for_one_protocol_and_end_at_once() {
    let mda = Mda::start().await;
    mda.account("bob@example.com").await;
    let create = |services: &[&str]| CreateAppPasswordRequest {
        address: "bob@example.com".into(),
        name: "phone".into(),
        services: services.iter().map(|s| (*s).to_owned()).collect(),
    };
    let made = mda.admin().create_app_password(create(&["imap"])).await.unwrap().into_inner();
    assert!(login(&mda, "imap", "bob@example.com", &made.password).await);
    assert!(login(&mda, "imap", "bob@example.com", &made.password.replace('-', "")).await);
    assert!(login(&mda, "imap", "bob@example.com", "secret").await, "the account's own goes on");
    assert!(!login(&mda, "smtp", "bob@example.com", &made.password).await);
    let list = ListAppPasswordsRequest { address: "bob@example.com".into() };
    let all = mda.admin().list_app_passwords(list).await.unwrap().into_inner().app_passwords;
    assert_eq!((all.len(), all[0].name.as_str(), all[0].used_at_ms > 0), (1, "phone", true));
    let id = made.app_password.unwrap().id;
    let delete = DeleteAppPasswordRequest { address: "bob@example.com".into(), id };
    mda.admin().delete_app_password(delete.clone()).await.unwrap();
    assert!(!login(&mda, "imap", "bob@example.com", &made.password).await);
    assert_eq!(mda.admin().delete_app_password(delete).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(mda.admin().create_app_password(create(&["ftp"])).await.unwrap_err().code(), Code::InvalidArgument);
    // It is stored as a digest.
    let mut sql = mda.sql().await;
    mda.admin().create_app_password(create(&[])).await.unwrap();
    let length: i32 = sqlx::query_scalar("select length(digest) from app_passwords").fetch_one(&mut sql).await.unwrap();
    assert_eq!(length, 32);
}

#[tokio::test]
async fn an_imported_hash_becomes_ours_at_the_first_login() {
    let mda = Mda::start().await;
    let name = "example.com".to_owned();
    mda.admin().create_domain(CreateDomainRequest { name, ..Default::default() }).await.unwrap();
    let account = |address: &str, hash: &str| CreateAccountRequest {
        address: address.into(),
        password_hash: hash.into(),
        ..Default::default()
    };
    mda.admin().create_account(account("bob@example.com", BCRYPT)).await.unwrap();
    let wrong = mda.admin().create_account(account("ann@example.com", "{PLAIN}secret")).await.unwrap_err();
    assert!(wrong.code() == Code::InvalidArgument && !wrong.message().contains("secret"), "{wrong}");
    assert!(!login(&mda, "imap", "bob@example.com", "Secret").await);
    let mut sql = mda.sql().await;
    let mut stored = async || {
        let row: (String, String) =
            sqlx::query_as("select password, scram from accounts").fetch_one(&mut sql).await.unwrap();
        row
    };
    assert_eq!(stored().await, (BCRYPT.into(), String::new()), "a wrong password changes nothing");
    assert!(login(&mda, "imap", "bob@example.com", "secret").await);
    let (hash, scram) = stored().await;
    assert!(hash.starts_with("$argon2id$") && scram.starts_with("SCRAM-SHA-256$"), "{hash} {scram}");
    assert!(login(&mda, "imap", "bob@example.com", "secret").await);
}

#[tokio::test]
async fn a_new_password_ends_the_old_one_on_all_pods() {
    let mda = Mda::start().await;
    mda.account("bob@example.com").await;
    // A second pod on the same database, with a cache of its own.
    let redis = Redis::start().await;
    let listen = free_address();
    let config = mda::Config {
        listen,
        database_url: mda.database_url.clone(),
        redis_url: Some(redis.url().try_into().unwrap()),
        ..mda::Config::default()
    };
    let service = runtime::Service::detached("mda");
    let running = tokio::spawn(mda::run(config, service.clone()));
    let channel = runtime::grpc::channel(&listen.into(), Duration::from_secs(10));
    let other = DirectoryClient::new(channel);
    eventually("the other pod answers", Duration::from_secs(30), || async {
        other.clone().resolve(ResolveRequest::default()).await.ok()
    })
    .await;
    for _ in 0..3 {
        assert!(login(&mda, "imap", "bob@example.com", "secret").await);
        assert!(login_at(other.clone(), "imap", "bob@example.com", "secret").await);
    }
    let request =
        SetPasswordRequest { address: "bob@example.com".into(), password: "new".into(), ..Default::default() };
    mda.admin().set_password(request).await.unwrap();
    for _ in 0..2 {
        assert!(!login_at(other.clone(), "imap", "bob@example.com", "secret").await);
        assert!(!login(&mda, "imap", "bob@example.com", "secret").await);
    }
    assert!(login_at(other.clone(), "imap", "bob@example.com", "new").await);
    service.shutdown.cancel();
    running.await.unwrap().unwrap();
}

fn as_tenant<T>(tenant: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("postroad-tenant", tenant.parse().unwrap());
    request
}

#[tokio::test]
async fn a_tenant_sees_and_changes_nothing_of_another() {
    let mda = Mda::start().await;
    for (tenant, domain) in [("one", "one.com"), ("two", "two.com")] {
        mda.admin().create_tenant(CreateTenantRequest { name: tenant.into() }).await.unwrap();
        let request = CreateDomainRequest { name: domain.into(), tenant: tenant.into() };
        assert_eq!(mda.admin().create_domain(request).await.unwrap().into_inner().tenant, tenant);
        mda.account(&format!("bob@{domain}")).await;
    }
    let mut admin = mda.admin();
    let names = admin.list_domains(as_tenant("one", ListDomainsRequest {})).await.unwrap().into_inner().names;
    assert_eq!(names, ["one.com"]);
    let all =
        admin.list_accounts(as_tenant("one", ListAccountsRequest::default())).await.unwrap().into_inner().accounts;
    assert_eq!(all.iter().map(|a| a.address.as_str()).collect::<Vec<_>>(), ["bob@one.com"]);
    let theirs = ListAccountsRequest { address: "bob@two.com".into(), ..Default::default() };
    assert!(admin.list_accounts(as_tenant("one", theirs)).await.unwrap().into_inner().accounts.is_empty());
    assert!(
        admin
            .list_aliases(as_tenant("one", ListAliasesRequest::default()))
            .await
            .unwrap()
            .into_inner()
            .aliases
            .is_empty()
    );

    let address = || "bob@two.com".to_owned();
    let refused = [
        admin.get_domain(as_tenant("one", GetDomainRequest { name: "two.com".into() })).await.map(drop),
        admin
            .set_quota(as_tenant("one", SetQuotaRequest { address: address(), quota_bytes: 1, quota_messages: 1 }))
            .await
            .map(drop),
        admin
            .set_password(as_tenant(
                "one",
                SetPasswordRequest { address: address(), password: "x".into(), ..Default::default() },
            ))
            .await
            .map(drop),
        admin.delete_account(as_tenant("one", DeleteAccountRequest { address: address() })).await.map(drop),
        admin
            .create_account(as_tenant(
                "one",
                CreateAccountRequest { address: "new@two.com".into(), password: "x".into(), ..Default::default() },
            ))
            .await
            .map(drop),
        admin
            .set_alias(as_tenant(
                "one",
                SetAliasRequest { address: "@two.com".into(), targets: vec!["bob@one.com".into()] },
            ))
            .await
            .map(drop),
        admin.list_app_passwords(as_tenant("one", ListAppPasswordsRequest { address: address() })).await.map(drop),
    ];
    for refusal in refused {
        assert_eq!(refusal.unwrap_err().code(), Code::NotFound);
    }
    let tenants = admin.list_tenants(as_tenant("one", ListTenantsRequest {})).await.unwrap_err();
    assert_eq!(tenants.code(), Code::PermissionDenied);
    assert!(
        admin.list_queue(as_tenant("one", ListQueueRequest::default())).await.unwrap().into_inner().entries.is_empty()
    );

    // An alias of one tenant gives nobody of another the right to send as it.
    let lent = SetAliasRequest { address: "info@two.com".into(), targets: vec!["bob@one.com".into()] };
    admin.set_alias(lent).await.unwrap();
    let request = MaySendAsRequest { account_id: all[0].account_id, address: "info@two.com".into() };
    assert!(!mda.directory().may_send_as(request).await.unwrap().into_inner().allowed);

    // The tables refuse what no code of ours asks for.
    let mut sql = mda.sql().await;
    for mixed in [
        "update accounts set tenant_id = (select id from tenants where name = 'two') where address = 'bob@one.com'",
        "update accounts set domain = 'two.com' where address = 'bob@one.com'",
        "update accounts set address = 'eve@two.com' where address = 'bob@one.com'",
        "update aliases set domain = 'one.com' where address = 'info@two.com'",
        "delete from tenants where name = 'one'",
    ] {
        sqlx::query(mixed).execute(&mut sql).await.expect_err(mixed);
    }
}

#[test]
fn the_command_line_has_all_of_it() {
    let host = "127.0.0.32";
    let site = Site::up(Options::new(host, free_port_offset(&[host]), "example.com"));
    let admin = |arguments: &[&str]| site.admin(arguments, "");
    admin(&["tenant", "add", "shop"]);
    admin(&["domain", "add", "shop.com", "--tenant", "shop"]);
    site.admin(&["account", "add", "bob@shop.com", "--password-hash-stdin"], &format!("{BCRYPT}\n"));
    admin(&["tenant", "quota", "shop", "--bytes", "1000000"]);
    admin(&["account", "quota", "bob@shop.com", "--bytes", "5000", "--messages", "7"]);
    let line = admin(&["--as-tenant", "shop", "account", "list"]);
    assert!(line.contains("bob@shop.com  0 bytes (of 5000)  0 of 7 messages"), "{line}");
    assert!(admin(&["--as-tenant", "default", "account", "list"]).is_empty());
    assert!(admin(&["group", "add", "team@shop.com", "bob@shop.com", "x@else.org"]).contains("(group)"));
    assert!(!admin(&["group", "drop", "team@shop.com", "x@else.org"]).contains("x@else.org"));
    admin(&["alias", "add", "@shop.com", "bob@shop.com"]);
    let password = admin(&["app-password", "add", "bob@shop.com", "phone", "--services", "imap,pop3"]);
    assert_eq!(password.trim().len(), 23, "{password}");
    let listed = admin(&["app-password", "list", "bob@shop.com"]);
    assert!(listed.contains("phone  imap,pop3  never used") && !listed.contains(password.trim()), "{listed}");
    admin(&["app-password", "remove", "bob@shop.com", listed.split(' ').next().unwrap()]);
    admin(&["account", "send-only", "bob@shop.com", "true"]);
    assert!(admin(&["account", "list", "shop.com"]).contains("send-only"));
    assert!(admin(&["tenant", "list"]).contains("shop  1 domains  1 accounts"));
    let to = site.data().join("export");
    admin(&["tenant", "export", "shop", to.to_str().unwrap()]);
    let directory = std::fs::read_to_string(to.join("directory.jsonl")).unwrap();
    for part in ["\"tenant\"", "\"domain\"", "\"dkim\"", "\"account\"", "\"alias\"", "$2y$05$"] {
        assert!(directory.contains(part), "{part} in {directory}");
    }
    assert!(to.join("mail/bob@shop.com/cur").is_dir());
    let refused = site.try_cli("admin", &["tenant", "remove", "shop"], "");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("still has 1 domains"));
}

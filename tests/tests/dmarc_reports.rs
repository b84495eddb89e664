//! DMARC's aggregate reports (RFC 9990) on their way: collected by one site, mailed to another,
//! read there; and reports of others in all their packings.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::Value;
use sqlx::Connection as _;
use tests::{
    client::python,
    eventually,
    site::{Site, free_port_offset},
    sites::Sites,
};

/// Bob's mail is what shows that mail works; reports go to accounts of their own.
const CONFIG: &str = "\
auth-checker: { dmarc_report_from: reports@example.com, dmarc_results_every: 1, dmarc_report_every: 1 }
mda: { report_accounts: [dmarc@sender.com] }
";

async fn sites() -> Sites {
    let sites = Sites::up(free_port_offset(&Sites::HOSTS), |mut options| {
        options.config = Some(CONFIG.into());
        options
    })
    .await;
    sites.sender.account("dmarc@sender.com");
    sites
}

/// From a host that sender.com does not know.
fn spoof(site: &Site, from: &str, count: usize) {
    let program = format!(
        r#"
smtp = smtplib.SMTP(HOST, PORT[25], source_address=("127.0.0.66", 0)); smtp.ehlo("stranger.com")
for _ in range({count}):
    smtp.mail({from:?}); smtp.rcpt("bob@example.com")
    print(smtp.data(b"From: {from}\r\nSubject: x\r\n\r\nx\r\n")[0])
"#
    );
    python(site, &program);
}

/// What was counted becomes yesterday's, as soon as it is in the database.
async fn let_the_day_end(site: &Site, messages: i64) {
    let sockets = site.data().join("postgres-socket");
    let url = format!("postgres://postroad@localhost/postroad?host={}", sockets.display());
    eventually("results are in the database", Duration::from_secs(60), || async {
        let mut sql = sqlx::PgConnection::connect(&url).await.unwrap();
        let counted: i64 = sqlx::query_scalar("select coalesce(sum(messages), 0)::bigint from dmarc_results")
            .fetch_one(&mut sql)
            .await
            .unwrap();
        (counted == messages).then_some(())
    })
    .await;
    let mut sql = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::query("update dmarc_results set day = day - 1").execute(&mut sql).await.unwrap();
}

fn reports(site: &Site, more: &[&str]) -> Vec<Value> {
    let json = site.admin(&[&["--json", "report", "list"], more].concat(), "");
    serde_json::from_str::<Value>(&json).unwrap().as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_days_verdicts_are_reported_and_read() {
    let sites = sites().await;
    sites.dns.add("_dmarc.sub.sender.com TXT v=DMARC1; p=quarantine; rua=mailto:dmarc@sender.com").await;
    // Somebody else's mailbox that never agreed, and one that did.
    sites.dns.add("_dmarc.victim.com TXT v=DMARC1; p=none; rua=mailto:bob@example.com").await;
    sites.dns.add("_dmarc.agreed.com TXT v=DMARC1; p=none; rua=mailto:dmarc@sender.com!10m,https://x.com/").await;
    sites.dns.add("agreed.com._report._dmarc.sender.com TXT v=DMARC1;").await;
    spoof(&sites.example, "ceo@sub.sender.com", 3);
    spoof(&sites.example, "x@victim.com", 1);
    spoof(&sites.example, "x@agreed.com", 2);
    // sender.com asks for no reports.
    spoof(&sites.example, "x@sender.com", 1);
    let_the_day_end(&sites.example, 6).await;

    let found = eventually("reports arrive and are read", Duration::from_secs(90), || async {
        let found = reports(&sites.sender, &[]);
        (found.len() == 2).then_some(found)
    })
    .await;
    let of = |domain: &str| found.iter().find(|r| r["domain"] == domain).unwrap();
    let report = of("sub.sender.com");
    assert_eq!((&report["kind"], &report["organisation"]), (&"dmarc".into(), &"mail.example.com".into()));
    assert_eq!((&report["good"], &report["bad"]), (&0.into(), &3.into()));
    assert_eq!(of("agreed.com")["bad"], 2);
    let shown = sites.sender.admin(&["report", "show", &report["id"].to_string()], "");
    assert!(shown.contains("3 from 127.0.0.66  sub.sender.com  dkim fail  spf fail  quarantine"), "{shown}");

    // The mail itself: signed, as receivers expect it.
    let program = r#"
import gzip
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("dmarc@sender.com", "secret"); imap.select("INBOX")
mails = [email.message_from_bytes(imap.fetch(n, "(BODY.PEEK[])")[1][0][1]) for n in imap.search(None, "ALL")[1][0].split()]
assert len(mails) == 2
mail, = [m for m in mails if "sub.sender.com" in m["Subject"]]
assert re.fullmatch(r"Report Domain: sub\.sender\.com Submitter: mail\.example\.com Report-ID: <\S+>", mail["Subject"]), mail["Subject"]
assert mail["From"] == "<reports@example.com>" and "dmarc=pass" in mail["Authentication-Results"], mail.as_string()
text, packed = mail.get_payload()
assert packed.get_content_type() == "application/gzip"
assert re.fullmatch(r"mail\.example\.com!sub\.sender\.com!\d+!\d+!\w+\.xml\.gz", packed.get_filename())
xml = gzip.decompress(packed.get_payload(decode=True)).decode()
for part in ("urn:ietf:params:xml:ns:dmarc-2.0", "<p>quarantine</p>", "<count>3</count>", "<disposition>quarantine</disposition>"):
    assert part in xml, xml
"#;
    python(&sites.sender, program);
    // It is sent once, whoever looks again.
    spoof(&sites.example, "ceo@sub.sender.com", 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(reports(&sites.sender, &[]).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_others_are_read_in_all_packings() {
    let sites = sites().await;
    let program = r#"
import base64, gzip, io, json, zipfile
def aggregate(n):
    return f"""<?xml version="1.0"?><feedback><report_metadata><org_name>org{n}.example</org_name><email>x@y</email>
<report_id>r{n}</report_id><date_range><begin>1700000000</begin><end>1700086399</end></date_range></report_metadata>
<policy_published><domain>sender.com</domain><p>reject</p></policy_published>
<record><row><source_ip>192.0.2.1</source_ip><count>{n}</count><policy_evaluated><disposition>none</disposition>
<dkim>pass</dkim><spf>fail</spf></policy_evaluated></row><identifiers><header_from>sender.com</header_from></identifiers>
<auth_results><spf><domain>a.com</domain><result>fail</result></spf></auth_results></record></feedback>""".encode()
def zipped(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z: z.writestr("r.xml", data)
    return out.getvalue()
tls = json.dumps({"organization-name": "Org", "report-id": "t1", "contact-info": "x",
    "date-range": {"start-datetime": "2026-01-01T00:00:00Z", "end-datetime": "2026-01-01T23:59:59Z"},
    "policies": [{"policy": {"policy-type": "sts", "policy-domain": "sender.com"},
                  "summary": {"total-successful-session-count": 40, "total-failure-session-count": 2},
                  "failure-details": [{"result-type": "certificate-expired", "failed-session-count": 2}]}]}).encode()
mails = [("application/gzip", gzip.compress(aggregate(1))), ("application/zip", zipped(aggregate(2))),
         ("text/xml", aggregate(3)), ("application/tlsrpt+gzip", gzip.compress(tls)),
         ("application/gzip", gzip.compress(b"<" * 200_000_000)), ("application/zip", zipped(aggregate(9))[:60]),
         ("application/gzip", gzip.compress(b"<!DOCTYPE a [<!ENTITY x 'y'>]><feedback>&x;</feedback>")),
         ("application/gzip", gzip.compress(aggregate(1)))]
smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS); smtp.login("alice@sender.com", "secret")
for kind, data in mails:
    body = base64.encodebytes(data).replace(b"\n", b"\r\n")
    smtp.sendmail("alice@sender.com", "dmarc@sender.com", b"From: alice@sender.com\r\nMIME-Version: 1.0\r\nContent-Type: " + kind.encode() +
        b"\r\nContent-Transfer-Encoding: base64\r\n\r\n" + body)
"#;
    python(&sites.sender, program);
    let found = eventually("they are read", Duration::from_secs(90), || async {
        let found = reports(&sites.sender, &[]);
        (found.len() >= 4).then_some(found)
    })
    .await;
    let good = |kind: &str| {
        let mut good: Vec<u64> =
            found.iter().filter(|r| r["kind"] == kind).map(|r| r["good"].as_u64().unwrap()).collect();
        good.sort_unstable();
        good
    };
    assert_eq!((good("dmarc"), good("tls")), (vec![1, 2, 3], vec![40]));
    let tls = reports(&sites.sender, &["--kind", "tls", "--domain", "sender.com"]);
    let shown = sites.sender.admin(&["report", "show", &tls[0]["id"].to_string()], "");
    assert!(shown.contains("certificate-expired") && tls[0]["bad"] == 2, "{shown}");
    // The bombs and fragments stand behind the others: they were passed by.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(reports(&sites.sender, &[]).len(), 4);
    let missing = sites.sender.try_cli("admin", &["report", "show", "999999"], "");
    assert!(!missing.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_takes_refused_mail_as_junk() {
    let sites = sites().await;
    let send = |expected: u16| {
        let program = format!(
            r#"
smtp = smtplib.SMTP(HOST, PORT[25], source_address=("127.0.0.66", 0)); smtp.ehlo("stranger.com")
smtp.mail("ceo@sender.com"); smtp.rcpt("bob@example.com")
code, text = smtp.data(b"From: ceo@sender.com\r\nSubject: x\r\n\r\nx\r\n"); assert code == {expected}, (code, text)
"#
        );
        python(&sites.example, &program);
    };
    send(550);
    sites.example.admin(&["dmarc", "override", "default", "quarantine"], "");
    // The door remembers a good answer for some seconds.
    tokio::time::sleep(Duration::from_secs(4)).await;
    send(250);
    let junk = r#"
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("bob@example.com", "secret")
for _ in range(1200):
    if int(imap.select("Junk")[1][0]): break
    time.sleep(0.1)
assert imap.select("Junk")[1][0] == b"1" and imap.select("INBOX")[1][0] == b"0"
"#;
    python(&sites.example, junk);
    let unknown = sites.example.try_cli("admin", &["dmarc", "override", "nobody", "quarantine"], "");
    assert!(!unknown.status.success());
}

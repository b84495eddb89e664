//! DMARC as a table (RFC 9989 §4.7, §4.10, §5.4): policy × alignment × SPF and DKIM × subdomain.
#![allow(clippy::unwrap_used, dead_code)]

mod support;

use auth_checker::Config;
use support::{action, checker_of, rsa, sign_as};

/// `pass D`: the identifier D was authenticated; `fail D`: D is claimed and does not hold up.
/// ghost.sender.com does not exist, all others do.
const TABLE: &str = "
record of sender.com             | From             | SPF                   | DKIM                  | result | action
---------------------------------+------------------+-----------------------+-----------------------+--------+-----------
p=none                           | sender.com       | pass sender.com       | none                  | pass   | accept
p=none                           | sender.com       | fail sender.com       | none                  | fail   | accept
p=none                           | sender.com       | none                  | pass sender.com       | pass   | accept
p=none                           | sender.com       | none                  | fail sender.com       | fail   | accept
p=none                           | sender.com       | pass other.com        | pass other.com        | fail   | accept
p=quarantine                     | sender.com       | pass sender.com       | none                  | pass   | accept
p=quarantine                     | sender.com       | fail sender.com       | none                  | fail   | quarantine
p=quarantine                     | sender.com       | pass other.com        | none                  | fail   | quarantine
p=quarantine                     | sender.com       | fail sender.com       | pass sender.com       | pass   | accept
p=quarantine                     | sender.com       | none                  | none                  | fail   | quarantine
p=reject                         | sender.com       | pass sender.com       | pass sender.com       | pass   | accept
p=reject                         | sender.com       | pass sender.com       | fail sender.com       | pass   | accept
p=reject                         | sender.com       | fail sender.com       | pass sender.com       | pass   | accept
p=reject                         | sender.com       | fail sender.com       | fail sender.com       | fail   | reject
p=reject                         | sender.com       | pass other.com        | pass other.com        | fail   | reject
p=reject                         | sender.com       | pass news.sender.com  | none                  | pass   | accept
p=reject                         | sender.com       | none                  | pass news.sender.com  | pass   | accept
p=reject                         | news.sender.com  | pass sender.com       | none                  | pass   | accept
p=reject                         | news.sender.com  | none                  | pass sender.com       | pass   | accept
p=reject                         | news.sender.com  | none                  | none                  | fail   | reject
p=reject                         | ghost.sender.com | none                  | none                  | fail   | reject
p=reject; aspf=s                 | sender.com       | pass sender.com       | none                  | pass   | accept
p=reject; aspf=s                 | sender.com       | pass news.sender.com  | none                  | fail   | reject
p=reject; aspf=s                 | sender.com       | none                  | pass news.sender.com  | pass   | accept
p=reject; aspf=s                 | news.sender.com  | pass sender.com       | none                  | fail   | reject
p=reject; adkim=s                | sender.com       | none                  | pass sender.com       | pass   | accept
p=reject; adkim=s                | sender.com       | none                  | pass news.sender.com  | fail   | reject
p=reject; adkim=s                | sender.com       | pass news.sender.com  | none                  | pass   | accept
p=reject; adkim=s                | news.sender.com  | none                  | pass sender.com       | fail   | reject
p=reject; adkim=s; aspf=s        | sender.com       | pass news.sender.com  | pass news.sender.com  | fail   | reject
p=reject; adkim=s; aspf=s        | news.sender.com  | pass news.sender.com  | none                  | pass   | accept
p=none; sp=reject                | sender.com       | none                  | none                  | fail   | accept
p=none; sp=reject                | news.sender.com  | none                  | none                  | fail   | reject
p=none; sp=reject                | news.sender.com  | pass news.sender.com  | none                  | pass   | accept
p=none; sp=reject                | ghost.sender.com | none                  | none                  | fail   | reject
p=reject; sp=quarantine          | sender.com       | none                  | none                  | fail   | reject
p=reject; sp=quarantine          | news.sender.com  | none                  | none                  | fail   | quarantine
p=reject; sp=none                | news.sender.com  | fail news.sender.com  | none                  | fail   | accept
p=none; np=reject                | sender.com       | none                  | none                  | fail   | accept
p=none; np=reject                | news.sender.com  | none                  | none                  | fail   | accept
p=none; np=reject                | ghost.sender.com | none                  | none                  | fail   | reject
p=reject; sp=none; np=quarantine | ghost.sender.com | none                  | none                  | fail   | quarantine
p=reject; sp=none; np=quarantine | ghost.sender.com | none                  | pass sender.com       | pass   | accept
p=reject; t=y                    | sender.com       | none                  | none                  | fail   | quarantine
p=quarantine; t=y                | sender.com       | none                  | none                  | fail   | accept
p=none; t=y                      | sender.com       | none                  | none                  | fail   | accept
p=reject; t=y                    | sender.com       | pass sender.com       | none                  | pass   | accept
p=reject; pct=0                  | sender.com       | none                  | none                  | fail   | reject
rua=mailto:r@sender.com          | sender.com       | none                  | none                  | fail   | accept
p=nonsense                       | sender.com       | none                  | none                  | none   | accept
-                                | sender.com       | none                  | none                  | none   | accept
-                                | news.sender.com  | pass other.com        | pass other.com        | none   | accept
";

struct Row<'a> {
    record: &'a str,
    from: &'a str,
    spf: &'a str,
    dkim: &'a str,
    result: &'a str,
    action: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let lines = TABLE.lines().filter(|l| l.contains('|')).skip(1);
    let rows = lines.map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [record, from, spf, dkim, result, action] = cells[..] else { panic!("{line}") };
        Row { record, from, spf, dkim, result, action }
    });
    rows.collect()
}

#[tokio::test]
async fn every_row_of_the_table() {
    let key = rsa("k");
    let rows = rows();
    assert!(rows.len() > 50);
    for record in rows.iter().map(|r| r.record).collect::<std::collections::BTreeSet<_>>() {
        let policy = format!("v=DMARC1; {record}");
        let mut zone = vec![("_dmarc.sender.com", policy.as_str())];
        if record == "-" {
            zone.clear();
        }
        let keys = ["sender.com", "news.sender.com", "other.com"].map(|d| (d, format!("k._domainkey.{d}")));
        for (domain, name) in &keys {
            zone.push((domain, "v=spf1 ip4:192.0.2.1 -all"));
            zone.push((name, &key.record));
        }
        let checker = checker_of(&zone, &[], Config { iprev: false, ..Config::default() }).await;
        for row in rows.iter().filter(|r| r.record == record) {
            let (peer, sender) = match row.spf.split_once(' ') {
                Some(("pass", domain)) => ("192.0.2.1", format!("x@{domain}")),
                Some((_, domain)) => ("203.0.113.9", format!("x@{domain}")),
                None => ("203.0.113.9", "x@nothing.com".to_owned()),
            };
            let plain = format!("From: x@{}\r\nSubject: x\r\n\r\nbody\r\n", row.from);
            let message = match row.dkim.split_once(' ') {
                Some(("pass", domain)) => sign_as(domain, &key, &plain),
                Some((_, domain)) => sign_as(domain, &key, &plain) + "more\r\n",
                None => plain,
            };
            let verdict = checker.verify(peer, "helo.other.com", &sender, &message).await;
            let done = action(&verdict).as_str_name().to_lowercase();
            assert_eq!(
                (verdict.dmarc.as_str(), done.as_str()),
                (row.result, row.action),
                "{record} | {} | {} | {}: {verdict:?}",
                row.from,
                row.spf,
                row.dkim
            );
        }
    }
}

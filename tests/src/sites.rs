//! Two sites that know each other by DNS: sender.com on 127.0.0.2, example.com on 127.0.0.3.

use crate::{
    dns::NameServer,
    site::{Options, Site},
};

pub struct Sites {
    pub dns: NameServer,
    /// sender.com, with the account alice@sender.com.
    pub sender: Site,
    /// example.com, with the account bob@example.com.
    pub example: Site,
}

impl Sites {
    pub const HOSTS: [&str; 2] = ["127.0.0.2", "127.0.0.3"];

    /// Every password is "secret". `change` adds to the options of both.
    pub async fn up(port_offset: u16, change: impl Fn(Options) -> Options) -> Self {
        let dns = NameServer::start(&["com."]).await;
        for (domain, host) in [("sender.com", "127.0.0.2"), ("example.com", "127.0.0.3")] {
            dns.add(&format!("{domain} MX 10 mail.{domain}")).await;
            dns.add(&format!("mail.{domain} A {host}")).await;
            dns.add(&format!("{domain} TXT v=spf1 ip4:{host} -all")).await;
            dns.add(&format!("_dmarc.{domain} TXT v=DMARC1; p=reject")).await;
        }
        let options = |host: &str, domain: &str| {
            let (server, port) = (dns.address.to_string(), (25 + port_offset).to_string());
            change(Options::new(host, port_offset, domain).more(&["--dns", &server, "--relay-port", &port]))
        };
        let sender = Site::up(options("127.0.0.2", "sender.com"));
        let example = Site::up(options("127.0.0.3", "example.com"));
        for (site, domain) in [(&sender, "sender.com"), (&example, "example.com")] {
            for record in dkim_records(site, domain) {
                dns.add(&record).await;
            }
        }
        sender.account("alice@sender.com");
        example.account("bob@example.com");
        Self { dns, sender, example }
    }
}

/// What `postroad admin domain dns` says is to be published for DKIM.
fn dkim_records(site: &Site, domain: &str) -> Vec<String> {
    let json = site.admin(&["--json", "domain", "dns", domain], "");
    let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
    let records = answer["records"].as_array().or_else(|| answer.as_array()).unwrap().clone();
    let text = |record: &serde_json::Value, key: &str| record[key].as_str().unwrap().to_owned();
    let dkim = records.iter().filter(|r| text(r, "name").contains("._domainkey."));
    let lines: Vec<String> = dkim.map(|r| format!("{} TXT {}", text(r, "name"), text(r, "value"))).collect();
    assert!(!lines.is_empty(), "no DKIM records in {json}");
    lines
}

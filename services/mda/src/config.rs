use std::{collections::BTreeSet, net::SocketAddr};

use serde::Deserialize;

/// Every key of the section `mda`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub runtime: runtime::Config,
    /// gRPC, for the other services and the command line.
    pub listen: SocketAddr,
    /// Bring the schema up to date and end: for a Job before an upgrade. Safe to run at any time,
    /// also several at once. Without it every process does so when it starts.
    pub migrate_only: bool,
    /// What this process does; each role scales alone.
    pub roles: BTreeSet<Role>,
    /// `postgres://user:password@host:port/database`, `?host=/path` for a socket, `?sslmode=…`.
    pub database_url: String,
    /// Connections of this process; all processes together stay below Postgres's `max_connections`.
    pub database_connections: u32,
    pub redis_url: Option<queue::Url>,
    /// Our name in DSNs (RFC 3464 §2.2.2).
    pub hostname: String,
    /// Bytes of one message; the services at the door refuse more before it comes here.
    pub max_message_size: usize,
    /// Entries that a delivery stream may hold; beyond it deliveries wait in Postgres, from where they
    /// are handed out in turns of their tenants. What one tenant can put in another's way is this much.
    pub stream_bound: usize,
    /// Seconds after which a delivery that nobody finished or claimed is handed out again.
    pub redispatch_seconds: u32,
    /// Days that the journey of a finished message is kept.
    pub journey_days: u32,
    /// What Sieve scripts may use.
    pub sieve: crate::rules::Config,
    /// `auth-checker`, which signs DSNs and the answers of vacations (RFC 6376); unset: they go out unsigned.
    pub auth_checker: Option<runtime::grpc::Peers>,
    /// Days for which it is remembered what was expunged. A mail program that was away for longer hears of every UID
    /// that is not there instead of those that went (RFC 7162 §3.2.5.2): more to read, and nothing wrong.
    pub expunged_days: u32,
    /// Bytes of what a process with the role mailboxes remembers of mailboxes and contents that were read; 0 is
    /// nothing. Whatever is remembered is checked with Postgres at each call.
    pub memory_bytes: u64,
    /// Days that SMTP dialogues are kept; not longer than the rest of the journey.
    pub journey_dialogue_days: u32,
    /// Tenants whose volumes are counted one by one; the others are counted together.
    pub tenants_counted: u16,
    /// Keys (AES-256-GCM) for private keys at rest: 32 octets in base64, several separated by commas;
    /// the first one encrypts, all decrypt. What the table has otherwise is encrypted anew at start.
    /// Empty: private keys are stored as they are.
    pub encryption_keys: crate::vault::Keys,
    /// Days after which forwards are signed with a new SRS key.
    pub srs_rotate_days: u16,
    /// Days for which answers to forwarded mail are taken.
    pub srs_max_days: u16,
    /// Accounts to which others send DMARC and TLS reports: their INBOX is read for them.
    pub report_accounts: Vec<String>,
    /// Days that these reports are kept.
    pub report_days: u32,
    /// Where the bodies of large messages are.
    pub content_store: crate::objects::Config,
    /// What failed logins lead to.
    pub login_backoff: crate::directory::throttle::Config,
    /// The issuer whose tokens OAUTHBEARER and XOAUTH2 take; without it they are not offered.
    pub oidc: Option<crate::directory::issuer::Config>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Accept, Claim, Content, Settle.
    Spool,
    /// Resolve, Authenticate, MaySendAs, DkimKeys.
    Directory,
    /// What IMAP and POP3 need.
    Mailboxes,
    /// Local delivery, the dispatcher, reclaiming.
    Delivery,
    Admin,
    Journey,
}

impl Default for Config {
    fn default() -> Self {
        use Role::{Admin, Delivery, Directory, Journey, Mailboxes, Spool};
        Self {
            runtime: runtime::Config::default(),
            listen: SocketAddr::from(([0, 0, 0, 0], 9400)),
            migrate_only: false,
            roles: BTreeSet::from([Spool, Directory, Mailboxes, Delivery, Admin, Journey]),
            database_url: "postgres://postroad@localhost/postroad".into(),
            database_connections: 16,
            redis_url: None,
            hostname: "localhost".into(),
            max_message_size: 128 << 20,
            stream_bound: 2_000,
            redispatch_seconds: 20,
            journey_days: 30,
            sieve: Default::default(),
            auth_checker: None,
            expunged_days: 90,
            memory_bytes: 128 << 20,
            journey_dialogue_days: 14,
            tenants_counted: 50,
            encryption_keys: Default::default(),
            srs_rotate_days: 30,
            srs_max_days: 21,
            report_accounts: Vec::new(),
            report_days: 400,
            content_store: Default::default(),
            login_backoff: Default::default(),
            oidc: None,
        }
    }
}

impl Config {
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

impl runtime::ServiceConfig for Config {
    fn runtime(&self) -> &runtime::Config {
        &self.runtime
    }

    fn validate(&self) -> Result<(), String> {
        if self.roles.is_empty() {
            return Err("configuration key \"roles\" = []: expected at least one of spool, directory, mailboxes, \
                        delivery, admin, journey"
                .into());
        }
        if self.database_connections < 4 {
            return Err(format!(
                "configuration key \"database_connections\" = {}: expected at least 4",
                self.database_connections
            ));
        }
        if self.redis_url.is_none() && !self.migrate_only {
            return Err("configuration key \"redis_url\" is missing: expected redis://host:port/".into());
        }
        if !(5..=3600).contains(&self.redispatch_seconds) {
            return Err(format!(
                "configuration key \"redispatch_seconds\" = {}: expected 5 to 3600",
                self.redispatch_seconds
            ));
        }
        if self.journey_days == 0 || self.journey_dialogue_days > self.journey_days {
            return Err(format!(
                "configuration keys \"journey_days\" = {}, \"journey_dialogue_days\" = {}: \
                 expected at least 1 day, and dialogues not longer than the rest",
                self.journey_days, self.journey_dialogue_days
            ));
        }
        if !(1..=3650).contains(&self.expunged_days) {
            return Err(format!("configuration key \"expunged_days\" = {}: expected 1 to 3650", self.expunged_days));
        }
        if self.memory_bytes > 64 << 30 {
            return Err(format!(
                "configuration key \"memory_bytes\" = {}: expected at most 64 GB (68719476736)",
                self.memory_bytes
            ));
        }
        if self.tenants_counted > 1000 {
            return Err(format!(
                "configuration key \"tenants_counted\" = {}: expected at most 1000, each is some time series",
                self.tenants_counted
            ));
        }
        if self.login_backoff.first_seconds == 0
            || self.login_backoff.longest_seconds < self.login_backoff.first_seconds
        {
            return Err(format!(
                "configuration keys \"login_backoff.first_seconds\" = {}, \"login_backoff.longest_seconds\" = {}: \
                 expected at least 1, and the longest not below the first",
                self.login_backoff.first_seconds, self.login_backoff.longest_seconds
            ));
        }
        self.content_store.validate()?;
        self.sieve.validate()?;
        for (key, value) in [("srs_rotate_days", self.srs_rotate_days), ("srs_max_days", self.srs_max_days)] {
            if !(1..=365).contains(&value) {
                return Err(format!("configuration key {key:?} = {value}: expected 1 to 365"));
            }
        }
        if let Some(wrong) = self.report_accounts.iter().find(|a| a.parse::<address::Address>().is_err()) {
            return Err(format!("configuration key \"report_accounts\" has {wrong:?}: expected addresses of accounts"));
        }
        if let Some(oidc) = &self.oidc {
            oidc.validate()?;
        }
        Ok(())
    }
}

//! One IMAP session: reads commands, executes them one after the other, answers.

use std::{io, net::IpAddr, sync::Arc};

use imap::{Command, CommandBody, Framed, Names, respond};
use listener::Connection;
use proto::mailboxes::mailboxes_client::MailboxesClient;
use runtime::grpc::Channel;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, info_span};

use crate::{
    Gateway,
    capability::{State, capabilities},
    failure::{Failure, Outcome},
    metrics::Counted,
    notify::Notified,
    selected::{Selected, only_gone},
    wire::Wire,
};

/// Failed logins, and commands in a row that are none, after which the client is turned away.
const MAX_FAILED_LOGINS: u32 = 5;
const MAX_BAD: u32 = 20;

pub(crate) struct Session {
    pub gateway: Arc<Gateway>,
    pub peer: IpAddr,
    pub wire: Wire,
    /// Over TLS.
    pub secure: bool,
    /// What SASL's -PLUS mechanisms bind to (RFC 9266).
    pub channel_binding: Option<[u8; 32]>,
    pub account: Option<u64>,
    pub selected: Option<Selected>,
    /// NOTIFY SET was given.
    pub notified: Option<Box<Notified>>,
    /// A CONDSTORE enabling command was given (RFC 7162 §3.1).
    pub condstore: bool,
    /// ENABLE IMAP4rev2 was given (RFC 9051 §6.3.1).
    pub rev2: bool,
    /// ENABLE QRESYNC (RFC 7162 §3.2.3), UTF8=ACCEPT (RFC 6855 §3), UIDONLY (RFC 9586 §3).
    pub qresync: bool,
    pub utf8: bool,
    pub uid_only: bool,
    pub failed_logins: u32,
    pub shutdown: CancellationToken,
    bad_commands: u32,
    counted: Option<Counted>,
    /// When this session says goodbye, once the service shuts down.
    pub leave_at: Option<tokio::time::Instant>,
}

/// RFC 9586 §3.3.
pub(crate) const UID_REQUIRED: &str = "[UIDREQUIRED] Messages are named by UID only.";

/// What comes after a command.
#[derive(PartialEq, Eq)]
pub(crate) enum Next {
    GoOn,
    Close,
}

/// From the greeting to the end.
pub(crate) async fn run(gateway: Arc<Gateway>, connection: Connection) {
    let Connection { stream, peer, tls, shutdown, .. } = connection;
    let mut session = Session {
        gateway,
        peer: peer.ip(),
        wire: Wire::new(stream),
        secure: tls.is_some(),
        channel_binding: tls.and_then(|info| info.channel_binding),
        account: None,
        selected: None,
        notified: None,
        condstore: false,
        rev2: false,
        qresync: false,
        utf8: false,
        uid_only: false,
        leave_at: None,
        failed_logins: 0,
        shutdown,
        bad_commands: 0,
        counted: None,
    };
    let (address, account) = match session.converse().await {
        Ok(()) => (session.peer, session.account),
        Err(e) => {
            tracing::debug!(client.address = %session.peer, error = %e, "connection lost");
            (session.peer, session.account)
        }
    };
    session.wire.close().await;
    if let Some(account) = account {
        info!(client.address = %address, account.id = account, "session ended");
    }
}

impl Session {
    async fn converse(&mut self) -> io::Result<()> {
        let greeting = format!("OK [CAPABILITY {}] {} ready.", self.capabilities(), self.gateway.config.hostname);
        respond::line(&mut self.wire.out, "*", greeting);
        loop {
            let next = match self.wire.framer.poll() {
                Framed::NeedMore => self.wait().await?,
                Framed::Continue => {
                    self.wire.out.extend_from_slice(b"+ Ready for the literal.\r\n");
                    Next::GoOn
                }
                Framed::Command(text) => self.command(&text).await?,
                Framed::Append { head, size, sync } => {
                    let tag = head.tag.clone();
                    let name = if head.replaces.is_some() { "REPLACE" } else { "APPEND" };
                    let span = info_span!("imap.command", imap.command = name, account.id = self.account);
                    let outcome = Box::pin(self.append(head, Some((size, sync)))).instrument(span).await;
                    self.complete(&tag, name, outcome)?;
                    Next::GoOn
                }
                // The rest of a message that was refused in its middle.
                Framed::Data(_) | Framed::AppendEnd(_) => Next::GoOn,
                // Of an APPEND that was refused: all of it is.
                Framed::AppendNext { .. } => {
                    if self.wire.framer.refuse() {
                        Next::GoOn
                    } else {
                        self.bye("[TOOBIG] Literal is too large.")
                    }
                }
                Framed::TooLarge { tag } => {
                    self.bad(tag.as_deref(), "[TOOBIG] Command is too large.");
                    Next::GoOn
                }
                Framed::Fatal => self.bye("[TOOBIG] Literal is too large."),
            };
            if next == Next::Close {
                return Ok(());
            }
            self.wire.flush_some().await?;
            if self.bad_commands >= MAX_BAD {
                self.bye("Too many bad commands.");
                return Ok(());
            }
            if self.failed_logins >= MAX_FAILED_LOGINS {
                self.bye("Too many failed logins.");
                return Ok(());
            }
        }
    }

    async fn command(&mut self, text: &[u8]) -> io::Result<Next> {
        let Command { tag, body } = match imap::parse(text, self.wire.framer.names()) {
            Ok(command) => command,
            Err(e) => {
                self.bad(e.tag.as_deref(), e.text);
                return Ok(Next::GoOn);
            }
        };
        let name = body.name();
        match body {
            CommandBody::Logout => {
                respond::line(&mut self.wire.out, "*", "BYE Logging out.");
                respond::line(&mut self.wire.out, &tag, "OK Logout completed.");
                self.gateway.metrics.command(name, "ok");
                return Ok(Next::Close);
            }
            CommandBody::Compress if self.account.is_some() && !self.wire.is_compressed() => {
                respond::line(&mut self.wire.out, &tag, "OK Compression begins.");
                self.wire.compress().await?;
                self.gateway.metrics.command(name, "ok");
                return Ok(Next::GoOn);
            }
            CommandBody::StartTls => {
                self.start_tls(&tag).await?;
                self.gateway.metrics.command(name, "ok");
                return Ok(Next::GoOn);
            }
            _ => {}
        }
        let span = info_span!("imap.command", imap.command = name, account.id = self.account);
        // In boxes, so that a session that waits, or is in IDLE, has no room for the largest command.
        let outcome = match body {
            CommandBody::Idle if self.account.is_some() => Box::pin(self.idle()).instrument(span).await,
            body => Box::pin(self.execute(&tag, body)).instrument(span).await,
        };
        self.complete(&tag, name, outcome)?;
        if self.selected.as_ref().is_some_and(Selected::is_coming) {
            self.wire.flush().await?;
            if let Err(status) = Box::pin(self.arrive()).await {
                tracing::warn!(rpc.code = ?status.code(), "a selected mailbox was not listed");
                return Ok(self.bye("[UNAVAILABLE] Temporary failure, try again later."));
            }
        }
        Ok(Next::GoOn)
    }

    /// Writes the tagged response.
    fn complete(&mut self, tag: &str, name: &'static str, outcome: Outcome) -> io::Result<()> {
        let metrics = &self.gateway.metrics;
        metrics.command(name, outcome.as_ref().map_or_else(Failure::outcome, |_| "ok"));
        match outcome {
            Ok(text) => respond::line(&mut self.wire.out, tag, text),
            Err(Failure::No { code, text }) => {
                respond::line(&mut self.wire.out, tag, format_args!("NO [{code}] {text}"))
            }
            Err(Failure::Bad(text)) => {
                self.bad(Some(tag), text);
                return Ok(());
            }
            Err(Failure::Gone(e)) => return Err(e),
        }
        self.bad_commands = 0;
        Ok(())
    }

    /// The command's state (RFC 9051 §3) is checked here, by what each arm asks for.
    async fn execute(&mut self, tag: &str, body: CommandBody) -> Outcome {
        match body {
            CommandBody::Capability => {
                let text = format!("CAPABILITY {}", self.capabilities());
                respond::line(&mut self.wire.out, "*", text);
                Ok("OK Capability completed.".into())
            }
            CommandBody::Id(_) => {
                self.wire.out.extend_from_slice(b"* ID (\"name\" \"Postroad\")\r\n");
                Ok("OK Id completed.".into())
            }
            CommandBody::Noop | CommandBody::Check => {
                only_gone(self.refresh(true).await)?;
                Ok("OK Completed.".into())
            }
            CommandBody::Login { .. } | CommandBody::Authenticate { .. } if self.account.is_some() => {
                Err(Failure::Bad("Already logged in."))
            }
            CommandBody::Login { user, password } => self.login(user, password).await,
            CommandBody::Authenticate { mechanism, initial } => self.authenticate(mechanism, initial).await,
            body => {
                let account = self.account.ok_or(Failure::Bad("Log in first."))?;
                self.execute_for(account, tag, body).await
            }
        }
    }

    async fn execute_for(&mut self, account: u64, tag: &str, body: CommandBody) -> Outcome {
        match body {
            CommandBody::Enable(names) => self.enable(&names),
            CommandBody::Namespace => {
                self.wire.out.extend_from_slice(b"* NAMESPACE ((\"\" \"/\")) ((\"Other Users/\" \"/\")) NIL\r\n");
                Ok("OK Namespace completed.".into())
            }
            CommandBody::Create { mailbox, special_use } => self.create(account, mailbox, special_use).await,
            CommandBody::Delete(mailbox) => self.delete(account, mailbox).await,
            CommandBody::Rename { from, to } => self.rename(account, from, to).await,
            CommandBody::Subscribe(mailbox) => self.subscribe(account, mailbox, true).await,
            CommandBody::Unsubscribe(mailbox) => self.subscribe(account, mailbox, false).await,
            CommandBody::List(command) => self.list(account, command).await,
            CommandBody::Lsub { reference, pattern } => self.lsub(account, &reference, &pattern).await,
            CommandBody::Status { mailbox, items } => self.status(account, mailbox, &items).await,
            CommandBody::Select { qresync: Some(_), .. } if !self.qresync => Err(Failure::Bad("ENABLE QRESYNC first.")),
            CommandBody::Select { mailbox, read_only, condstore, qresync } => {
                self.condstore |= condstore;
                self.select(account, mailbox, read_only, qresync).await
            }
            CommandBody::Append(head) => self.append(head, None).await,
            CommandBody::SetAcl { mailbox, identifier, mode, rights } => {
                self.set_acl(account, &mailbox, identifier, mode, rights).await
            }
            CommandBody::GetAcl(mailbox) => self.get_acl(account, mailbox).await,
            CommandBody::ListRights { mailbox, identifier } => self.list_rights(account, mailbox, identifier).await,
            CommandBody::MyRights(mailbox) => self.my_rights(account, mailbox).await,
            CommandBody::Notify(notify) => self.notify(account, notify).await,
            CommandBody::Compress => Err(Failure::no("COMPRESSIONACTIVE", "Compression is active already.")),
            CommandBody::Unauthenticate => self.unauthenticate(),
            CommandBody::GetQuota(root) => self.get_quota(account, &root).await,
            CommandBody::GetQuotaRoot(mailbox) => self.get_quota_root(account, mailbox).await,
            CommandBody::GetMetadata(request) => self.get_metadata(account, request).await,
            CommandBody::SetMetadata { mailbox, entries } => self.set_metadata(account, mailbox, entries).await,
            body => self.execute_selected(tag, body).await,
        }
    }

    async fn execute_selected(&mut self, tag: &str, body: CommandBody) -> Outcome {
        let Some(selected) = &self.selected else { return Err(Failure::Bad("Select a mailbox first.")) };
        let account = selected.owner;
        if self.uid_only && names_by_sequence(&body) {
            return Err(Failure::Bad(UID_REQUIRED));
        }
        let (outcome, may_expunge) = match body {
            CommandBody::Close => return self.close(account).await,
            CommandBody::Unselect => {
                self.selected = None;
                return Ok("OK Unselect completed.".into());
            }
            CommandBody::Expunge(set) => (self.expunge(account, set).await, true),
            CommandBody::Fetch { vanished: true, .. } if !self.qresync => {
                return Err(Failure::Bad("ENABLE QRESYNC first."));
            }
            CommandBody::Fetch { uid, set, items, changed_since, vanished, partial } => {
                let range = crate::fetch::Range { uid, set, changed_since, vanished, partial };
                (self.fetch(account, &range, &items).await, uid)
            }
            CommandBody::Store { uid, set, unchanged_since, mode, silent, flags } => {
                let change = crate::store::Change { unchanged_since, mode, silent, flags };
                (self.store(account, uid, &set, change).await, uid)
            }
            CommandBody::Copy { uid, set, mailbox, remove } => {
                (self.copy(account, uid, &set, mailbox, remove).await, uid || remove)
            }
            CommandBody::Search(command) => {
                let uid = command.uid;
                (self.search(account, tag, command).await, uid)
            }
            CommandBody::Sort { criteria, search } => {
                let uid = search.uid;
                (self.sort(account, tag, criteria, search).await, uid)
            }
            CommandBody::Thread { algorithm, search } => {
                let uid = search.uid;
                (self.thread(account, tag, algorithm, search).await, uid)
            }
            _ => return Err(Failure::Bad("Not now.")),
        };
        if outcome.is_ok() {
            self.refresh_when_stale(may_expunge).await?;
        }
        outcome
    }

    fn enable(&mut self, names: &[String]) -> Outcome {
        let mut enabled = String::from("ENABLED");
        for name in names {
            match name.as_str() {
                "CONDSTORE" => self.condstore = true,
                "IMAP4REV2" => {
                    self.rev2 = true;
                    self.wire.framer.set_names(Names::Utf8);
                }
                "UTF8=ACCEPT" => {
                    self.utf8 = true;
                    self.wire.framer.set_names(Names::Utf8);
                }
                "QRESYNC" => (self.qresync, self.condstore) = (true, true),
                "UIDONLY" => self.uid_only = true,
                _ => continue,
            }
            enabled.push(' ');
            enabled.push_str(if name == "IMAP4REV2" { "IMAP4rev2" } else { name });
        }
        respond::line(&mut self.wire.out, "*", enabled);
        Ok("OK Enable completed.".into())
    }

    /// As after the greeting, but for TLS and compression (RFC 8437 §3).
    fn unauthenticate(&mut self) -> Outcome {
        (self.account, self.counted, self.selected, self.notified) = (None, None, None, None);
        (self.condstore, self.qresync, self.rev2, self.utf8, self.uid_only) = (false, false, false, false, false);
        self.wire.framer.set_names(Names::Utf7);
        Ok("OK Unauthenticate completed.".into())
    }

    /// Whether the client reads and writes mailbox names in UTF-8.
    pub(crate) fn utf8_names(&self) -> bool {
        self.rev2 || self.utf8
    }

    /// Whether what vanishes is told by UID.
    pub(crate) fn by_uid(&self) -> bool {
        self.qresync || self.uid_only
    }

    pub(crate) fn logged_in(&mut self, account: u64) {
        info!(client.address = %self.peer, account.id = account, "logged in");
        self.account = Some(account);
        self.counted = Some(self.gateway.metrics.logged_in());
    }

    pub(crate) fn may_login(&self) -> bool {
        self.secure || self.gateway.config.allow_cleartext_login
    }

    pub(crate) fn capabilities(&self) -> String {
        let state = State {
            starttls: self.gateway.tls.is_some() && !self.secure,
            may_login: self.may_login(),
            logged_in: self.account.is_some(),
            bindable: self.channel_binding.is_some(),
            compressed: self.wire.is_compressed(),
        };
        capabilities(&self.gateway.config, state)
    }

    pub(crate) fn mailboxes(&self) -> MailboxesClient<Channel> {
        self.gateway.mailboxes.clone()
    }

    fn bad(&mut self, tag: Option<&str>, text: &str) {
        self.bad_commands += 1;
        respond::line(&mut self.wire.out, tag.unwrap_or("*"), format_args!("BAD {text}"));
    }

    pub(crate) fn bye(&mut self, text: &str) -> Next {
        respond::line(&mut self.wire.out, "*", format_args!("BYE {text}"));
        Next::Close
    }
}

/// Whether the command names messages by sequence number, which UIDONLY forbids (RFC 9586 §3.3).
/// What a search key names is looked at where it is resolved.
fn names_by_sequence(body: &CommandBody) -> bool {
    let is_numbers = |set: &imap::SequenceSet| !matches!(set, imap::SequenceSet::Saved);
    match body {
        CommandBody::Fetch { uid, set, .. }
        | CommandBody::Store { uid, set, .. }
        | CommandBody::Copy { uid, set, .. } => !uid && is_numbers(set),
        CommandBody::Search(search) | CommandBody::Sort { search, .. } | CommandBody::Thread { search, .. } => {
            !search.uid
        }
        _ => false,
    }
}

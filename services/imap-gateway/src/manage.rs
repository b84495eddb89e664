//! Executes the effects of one ManageSieve session (RFC 5804): who it is says `mda`'s Directory,
//! scripts are its Rules'.

use std::{io, net::IpAddr, sync::Arc};

use listener::{Connection, Stream};
use managesieve::{Answer, Command, Effect, Refusal, Session};
use proto::rules::{
    ActivateScriptRequest, CheckScriptRequest, DeleteScriptRequest, GetScriptRequest, ListScriptsRequest, Owner,
    PutScriptRequest, RenameScriptRequest, owner::By,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Status};
use tracing::{Instrument as _, info, info_span};

use crate::{
    Gateway,
    exchange::{Exchange, Step},
};

const READ: usize = 4096;
/// Slows down who tries passwords.
const FAILURE_DELAY: std::time::Duration = std::time::Duration::from_millis(500);

/// From the greeting to the end.
pub(crate) async fn run(gateway: Arc<Gateway>, connection: Connection) {
    let span = info_span!("managesieve.session");
    let mut manager = Manager {
        gateway,
        peer: connection.peer.ip(),
        channel_binding: connection.tls.as_ref().and_then(|tls| tls.channel_binding),
        exchange: None,
        account: None,
        out: Vec::new(),
    };
    async {
        match manager.converse(connection).await {
            Ok(()) => info!(account.id = manager.account, "session ended"),
            Err(e) => info!(account.id = manager.account, error = %e, "connection lost"),
        }
    }
    .instrument(span)
    .await;
}

struct Manager {
    gateway: Arc<Gateway>,
    peer: IpAddr,
    channel_binding: Option<[u8; 32]>,
    exchange: Option<Exchange>,
    account: Option<u64>,
    out: Vec<u8>,
}

impl Manager {
    fn rules(&self) -> managesieve::Config {
        let config = &self.gateway.config;
        managesieve::Config {
            hostname: config.hostname.clone(),
            extensions: sieve::capabilities(),
            starttls: self.gateway.tls.is_some(),
            plaintext_login: config.allow_cleartext_login,
            mechanisms: config.mechanisms.clone(),
            max_script: config.max_script_bytes,
            max_redirects: sieve::Limits::default().redirects,
        }
    }

    async fn converse(&mut self, connection: Connection) -> io::Result<()> {
        let Connection { mut stream, tls, shutdown, .. } = connection;
        let mut session = Session::new(self.rules(), tls.is_some(), self.channel_binding.is_some());
        let mut input = vec![0; READ];
        loop {
            while let Some(effect) = session.next_effect() {
                let answer = match effect {
                    Effect::Write(octets) => {
                        self.out.extend_from_slice(&octets);
                        continue;
                    }
                    Effect::StartTls => {
                        self.flush(&mut stream).await?;
                        let Some(tls) = &self.gateway.tls else { return Ok(()) };
                        let (encrypted, info) = stream.starttls(tls).await?;
                        stream = encrypted;
                        self.channel_binding = info.channel_binding;
                        session.tls_started(info.channel_binding.is_some());
                        continue;
                    }
                    Effect::CancelExchange => {
                        self.exchange = None;
                        continue;
                    }
                    Effect::Close => {
                        self.flush(&mut stream).await?;
                        let ending = tokio::time::timeout(std::time::Duration::from_secs(5), stream.shutdown());
                        // The client may be gone already, which is fine now.
                        let _ = ending.await;
                        return Ok(());
                    }
                    Effect::Authenticate { mechanism, initial } => self.authenticate(mechanism, initial).await,
                    Effect::Respond(response) => self.respond(response).await,
                    Effect::Scripts(command) => self.scripts(command).await,
                };
                session.answer(answer);
            }
            self.flush(&mut stream).await?;
            let config = &self.gateway.config;
            let patience = if session.is_authenticated() { config.idle_timeout() } else { config.login_timeout() };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => session.shut_down(),
                read = tokio::time::timeout(patience, stream.read(&mut input)) => match read {
                    Err(_) => session.time_out(),
                    Ok(read) => match read? {
                        0 => return Ok(()),
                        n => session.receive(input.get(..n).unwrap_or_default()),
                    },
                },
            }
        }
    }

    async fn flush(&mut self, stream: &mut Stream) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let written = async {
            stream.write_all(&self.out).await?;
            stream.flush().await
        };
        let slow = |_| io::Error::new(io::ErrorKind::TimedOut, "client does not read");
        tokio::time::timeout(self.gateway.config.login_timeout(), written).await.map_err(slow)??;
        self.out = Vec::new();
        Ok(())
    }

    async fn authenticate(&mut self, mechanism: String, initial: Option<Vec<u8>>) -> Answer {
        let (directory, timeout) = (self.gateway.directory.clone(), self.gateway.config.call_timeout());
        match Exchange::begin(directory, mechanism, initial, self.peer, self.channel_binding, timeout).await {
            Ok(exchange) => self.advance(exchange).await,
            Err(status) => self.login_failed(&status),
        }
    }

    async fn respond(&mut self, response: Vec<u8>) -> Answer {
        let Some(mut exchange) = self.exchange.take() else {
            return Answer::Refused(refusal(&Status::unavailable("")));
        };
        match exchange.respond(response).await {
            Ok(()) => self.advance(exchange).await,
            Err(status) => self.login_failed(&status),
        }
    }

    async fn advance(&mut self, mut exchange: Exchange) -> Answer {
        let gateway = self.gateway.clone();
        let turn = tokio::time::timeout(gateway.config.call_timeout(), gateway.logins.acquire()).await;
        let Ok(Ok(turn)) = turn else { return self.login_failed(&Status::unavailable("too many logins")) };
        let step = exchange.step().await;
        drop(turn);
        match step {
            Ok(Step::Challenge(challenge)) => {
                self.exchange = Some(exchange);
                Answer::Challenge(challenge)
            }
            Ok(Step::Success(account)) => {
                info!(account.id = account.account_id, "logged in");
                self.gateway.metrics.manage("AUTHENTICATE", "ok");
                self.account = Some(account.account_id);
                Answer::LoggedIn
            }
            Ok(Step::Failure) => {
                self.gateway.metrics.manage("AUTHENTICATE", "no");
                info!("login refused");
                tokio::time::sleep(FAILURE_DELAY).await;
                Answer::Refused(Refusal::credentials())
            }
            Err(status) => self.login_failed(&status),
        }
    }

    fn login_failed(&self, status: &Status) -> Answer {
        self.gateway.metrics.manage("AUTHENTICATE", "no");
        Answer::Refused(refusal(status))
    }

    async fn scripts(&mut self, command: Command) -> Answer {
        let name = command.name();
        let answer = self.execute(command).await.unwrap_or_else(|status| Answer::Refused(refusal(&status)));
        let outcome = if matches!(answer, Answer::Refused(_)) { "no" } else { "ok" };
        self.gateway.metrics.manage(name, outcome);
        answer
    }

    async fn execute(&self, command: Command) -> Result<Answer, Status> {
        let id = self.account.ok_or_else(|| Status::internal("nobody has logged in"))?;
        let owner = Some(Owner { by: Some(By::AccountId(id)) });
        let mut rules = self.gateway.rules.clone();
        match command {
            Command::HaveSpace { name, size } => {
                let request = PutScriptRequest { owner, name, only_ask: true, size, ..Default::default() };
                rules.put_script(request).await?;
            }
            Command::PutScript { name, script } => {
                let request = PutScriptRequest { owner, name, script: utf8(script)?, ..Default::default() };
                rules.put_script(request).await?;
            }
            Command::CheckScript(script) => {
                rules.check_script(CheckScriptRequest { script: utf8(script)? }).await?;
            }
            Command::ListScripts => {
                let listed = rules.list_scripts(ListScriptsRequest { owner }).await?.into_inner().scripts;
                return Ok(Answer::Listed(listed.into_iter().map(|s| (s.name, s.active)).collect()));
            }
            Command::SetActive(name) => {
                rules.activate_script(ActivateScriptRequest { owner, name }).await?;
            }
            Command::GetScript(name) => {
                let script = rules.get_script(GetScriptRequest { owner, name }).await?.into_inner().script;
                return Ok(Answer::Script(script.into_bytes()));
            }
            Command::DeleteScript(name) => {
                rules.delete_script(DeleteScriptRequest { owner, name }).await?;
            }
            Command::RenameScript { from, to } => {
                rules.rename_script(RenameScriptRequest { owner, name: from, new_name: to }).await?;
            }
            _ => return Err(Status::internal("not about scripts")),
        }
        Ok(Answer::Done)
    }
}

fn utf8(script: Vec<u8>) -> Result<String, Status> {
    String::from_utf8(script).map_err(|_| Status::invalid_argument("the script is not UTF-8"))
}

/// One table from gRPC status to response codes (RFC 5804 §1.3).
fn refusal(status: &Status) -> Refusal {
    match status.code() {
        Code::NotFound => Refusal::new("NONEXISTENT", status.message()),
        Code::AlreadyExists => Refusal::new("ALREADYEXISTS", status.message()),
        Code::FailedPrecondition => Refusal::new("ACTIVE", status.message()),
        Code::ResourceExhausted => Refusal::new("QUOTA", status.message()),
        Code::InvalidArgument => Refusal::new("", status.message()),
        _ => Refusal::new("TRYLATER", "The mail store is not available, try again later."),
    }
}

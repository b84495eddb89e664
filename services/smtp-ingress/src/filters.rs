//! Filters that speak the milter protocol: each hears of a message step by step, as it comes.
//!
//! What a filter adds stands above the message, what it quarantines goes to Junk. Its discard is a
//! refusal here: no message ends silently (Invariant 6).

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use milter::{Answer, Client, Field, MAX_BODY, Peer, Step};
use proto::spool::Event;
use serde_json::json;
use smtp::server::{MailFrom, RcptTo};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{
    config::{Milter, MilterAddress},
    content::Content,
    metrics::Metrics,
    refusal::Refusal,
};

/// What all filters of a message may add.
const MAX_FIELDS: usize = 100;
const MAX_FIELD_BYTES: usize = 64 * 1024;

trait Wire: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Wire for T {}

/// Who begins a message.
pub struct Opening<'a> {
    pub hostname: &'a str,
    pub peer: IpAddr,
    pub helo: &'a str,
    /// Version and cipher.
    pub tls: Option<(&'a str, &'a str)>,
    /// Who submits it.
    pub account: Option<&'a str>,
    pub queue_id: &'a str,
    pub mail: &'a MailFrom,
}

/// One message's conversations with those that still want to hear of it.
#[derive(Default)]
pub struct Filters(Vec<Conversation>);

/// What the filters want.
#[derive(Default)]
pub struct Wanted {
    /// Header fields to put above the message.
    pub fields: String,
    pub is_junk: bool,
    pub event: Option<Event>,
}

/// What becomes of the conversation.
enum Flow {
    GoOn,
    SkipBody,
    /// Accepted, whatever comes.
    Enough,
}

impl Filters {
    /// Tells who wants to send, up to MAIL.
    pub async fn begin(filters: &[Arc<Milter>], metrics: &Metrics, opening: &Opening<'_>) -> Result<Self, Refusal> {
        let mut begun = Self::default();
        for filter in filters.iter().filter(|f| f.submissions || opening.account.is_none()) {
            let outcome = match Conversation::open(filter.clone()).await {
                Ok(mut conversation) => conversation.begin(opening).await.map(|flow| (conversation, flow)),
                Err(error) => Err(error),
            };
            match outcome {
                Ok((conversation, Ok(Flow::GoOn | Flow::SkipBody))) => begun.0.push(conversation),
                Ok((_, Ok(Flow::Enough))) => {}
                Ok((_, Err(refusal))) => return Err(refusal),
                Err(error) => failed(filter, metrics, &error)?,
            }
        }
        Ok(begun)
    }

    /// A no concerns this recipient alone.
    pub async fn recipient(&mut self, metrics: &Metrics, path: &str, rcpt: &RcptTo) -> Result<(), Refusal> {
        let mut parameters = Vec::new();
        for (name, value) in [("NOTIFY", &rcpt.notify), ("ORCPT", &rcpt.orcpt)] {
            if !value.is_empty() {
                parameters.push(format!("{name}={value}"));
            }
        }
        let mut kept = Vec::new();
        let mut refused = None;
        for mut conversation in std::mem::take(&mut self.0) {
            // Who comes after a refusal hears of the recipient no more.
            if refused.is_some() {
                kept.push(conversation);
                continue;
            }
            match conversation.recipient(path, &parameters).await {
                Ok(Ok(Flow::GoOn | Flow::SkipBody)) => kept.push(conversation),
                Ok(Ok(Flow::Enough)) => {}
                Ok(Err(refusal)) => {
                    refused = Some(refusal);
                    kept.push(conversation);
                }
                Err(error) => refused = failed(&conversation.filter, metrics, &error).err(),
            }
        }
        self.0 = kept;
        refused.map_or(Ok(()), Err)
    }

    /// The message itself; ends the conversations.
    pub async fn message(&mut self, metrics: &Metrics, content: &Content, queue_id: &str) -> Result<Wanted, Refusal> {
        let mut wanted = Wanted::default();
        let mut notes = Vec::new();
        for mut conversation in std::mem::take(&mut self.0) {
            let address = conversation.filter.address.clone();
            match conversation.message(content, queue_id).await {
                Ok(Ok(changes)) => {
                    notes.push(json!({
                        "filter": address,
                        "added": changes.fields.iter().map(|f| &f.name).collect::<Vec<_>>(),
                        "quarantine": changes.quarantine,
                    }));
                    wanted.is_junk |= changes.quarantine.is_some();
                    for Field { name, value } in changes.fields {
                        wanted.fields.extend([name.as_str(), ": ", &value, "\r\n"]);
                    }
                }
                Ok(Err(refusal)) => return Err(refusal),
                Err(error) => failed(&conversation.filter, metrics, &error)?,
            }
        }
        wanted.event = (!notes.is_empty()).then(|| Event {
            name: "scanned".into(),
            service: "smtp-ingress".into(),
            text: format!("passed {} filter{}", notes.len(), if notes.len() == 1 { "" } else { "s" }),
            detail: json!({ "milters": notes }).to_string(),
            ..Event::default()
        });
        Ok(wanted)
    }
}

/// A filter that cannot be asked lets pass, or not, as it is configured.
fn failed(filter: &Milter, metrics: &Metrics, error: &anyhow::Error) -> Result<(), Refusal> {
    tracing::warn!(milter = filter.address, error = format!("{error:#}"), "filter did not answer");
    if !filter.fail_open {
        return Err(Refusal::scan_deferred());
    }
    metrics.unguarded("milter");
    Ok(())
}

struct Conversation {
    filter: Arc<Milter>,
    client: Client,
    wire: Box<dyn Wire>,
    input: BytesMut,
}

#[derive(Default)]
struct Changes {
    fields: Vec<Field>,
    quarantine: Option<String>,
}

type Said<T> = anyhow::Result<Result<T, Refusal>>;

/// Goes on, or hands the answer on to the caller.
macro_rules! go_on {
    ($flow:expr) => {
        match $flow {
            Ok(Flow::GoOn) => {}
            other => return Ok(other),
        }
    };
}

impl Conversation {
    async fn open(filter: Arc<Milter>) -> anyhow::Result<Self> {
        let address: MilterAddress = filter.address.parse().map_err(anyhow::Error::msg)?;
        let patience = Duration::from_secs(filter.timeout_seconds);
        let connect = async {
            Ok::<Box<dyn Wire>, std::io::Error>(match &address {
                MilterAddress::Inet(address) => {
                    let tcp = TcpStream::connect(address).await?;
                    // Each step waits for its answer.
                    tcp.set_nodelay(true)?;
                    Box::new(tcp)
                }
                MilterAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
            })
        };
        let wire = timeout(patience, connect).await.context("no connection in time")?.context("no connection")?;
        let mut conversation = Self { filter, client: Client::new(), wire, input: BytesMut::new() };
        let answer = conversation.ask(true).await?;
        anyhow::ensure!(answer == Answer::Continue, "negotiation ended with {answer:?}");
        Ok(conversation)
    }

    async fn begin(&mut self, opening: &Opening<'_>) -> Said<Flow> {
        let (name, address) = (format!("[{}]", opening.peer), opening.peer.to_string());
        let macros = [("j", opening.hostname), ("{client_addr}", &address), ("{client_name}", &name)];
        self.client.macros(Step::Connect, &macros);
        let due = self.client.connect(Peer { name: &name, address: opening.peer, port: 0 });
        go_on!(self.step(due).await?);
        let (version, cipher) = opening.tls.unwrap_or_default();
        self.client.macros(Step::Helo, &[("{tls_version}", version), ("{cipher}", cipher)]);
        let due = self.client.helo(opening.helo);
        go_on!(self.step(due).await?);
        let path = opening.mail.address.as_ref().map(ToString::to_string).unwrap_or_default();
        let account = opening.account.unwrap_or_default();
        let macros = [("i", opening.queue_id), ("{mail_addr}", &path), ("{auth_authen}", account)];
        self.client.macros(Step::Mail, &macros);
        let due = self.client.mail(&path, &parameters(opening.mail));
        self.step(due).await
    }

    async fn recipient(&mut self, path: &str, parameters: &[String]) -> Said<Flow> {
        self.client.macros(Step::Rcpt, &[("{rcpt_addr}", path)]);
        let due = self.client.rcpt(path, parameters);
        self.step(due).await
    }

    async fn message(&mut self, content: &Content, queue_id: &str) -> Said<Changes> {
        let mut changes = Changes::default();
        match self.content(content).await? {
            Ok(Flow::GoOn | Flow::SkipBody) => {}
            Ok(Flow::Enough) => return Ok(Ok(changes)),
            Err(refusal) => return Ok(Err(refusal)),
        }
        self.client.macros(Step::EndOfMessage, &[("i", queue_id)]);
        let mut due = self.client.end_of_message();
        let mut octets = 0;
        loop {
            match self.ask(due).await? {
                Answer::Add(field) => {
                    octets += field.name.len() + field.value.len();
                    changes.fields.push(field);
                    let is_too_much = octets > MAX_FIELD_BYTES || changes.fields.len() > MAX_FIELDS;
                    anyhow::ensure!(!is_too_much, milter::Broken::TooMuch);
                    due = true;
                }
                Answer::Quarantine(reason) => {
                    changes.quarantine = Some(reason);
                    due = true;
                }
                last => {
                    self.client.quit();
                    // It has said what it had to say.
                    let _ = self.ask(false).await;
                    return Ok(flow(last)?.map(|_| changes));
                }
            }
        }
    }

    async fn content(&mut self, content: &Content) -> Said<Flow> {
        let due = self.client.data();
        go_on!(self.step(due).await?);
        for field in message::fields(&content.header()).filter(|field| !field.name.is_empty()) {
            let due = self.client.header(field.name, field.value);
            go_on!(self.step(due).await?);
        }
        let due = self.client.end_of_headers();
        go_on!(self.step(due).await?);
        for piece in content.body() {
            go_on!(self.body(&piece).await?);
        }
        Ok(Ok(Flow::GoOn))
    }

    async fn body(&mut self, piece: &Bytes) -> Said<Flow> {
        for chunk in piece.chunks(MAX_BODY) {
            let due = self.client.body(chunk);
            go_on!(self.step(due).await?);
        }
        Ok(Ok(Flow::GoOn))
    }

    async fn step(&mut self, due: bool) -> Said<Flow> {
        flow(self.ask(due).await?)
    }

    /// Writes what is queued; the answer, when one is due.
    async fn ask(&mut self, due: bool) -> anyhow::Result<Answer> {
        let patience = Duration::from_secs(self.filter.timeout_seconds);
        let output = self.client.output();
        if !output.is_empty() {
            timeout(patience, self.wire.write_all(&output)).await.context("filter reads nothing")??;
        }
        if !due {
            return Ok(Answer::Continue);
        }
        loop {
            match self.client.answer(&mut self.input)? {
                Some(Answer::Progress) => {}
                Some(answer) => return Ok(answer),
                None => {
                    self.input.reserve(4_096);
                    let read =
                        timeout(patience, self.wire.read_buf(&mut self.input)).await.context("no answer in time")??;
                    anyhow::ensure!(read > 0, "connection closed");
                }
            }
        }
    }
}

fn flow(answer: Answer) -> Said<Flow> {
    Ok(match answer {
        Answer::Continue => Ok(Flow::GoOn),
        Answer::Skip => Ok(Flow::SkipBody),
        Answer::Accept => Ok(Flow::Enough),
        Answer::Reject | Answer::Discard => Err(Refusal::filtered()),
        Answer::TryLater => Err(Refusal::scan_deferred()),
        Answer::Reply(rejection) => Err(Refusal::filtered_with(rejection)),
        other => anyhow::bail!("{other:?} at the wrong time"),
    })
}

/// As the client wrote them, as far as they may concern a filter.
fn parameters(mail: &MailFrom) -> Vec<String> {
    let size = mail.size.map(|size| format!("SIZE={size}"));
    let body = if mail.binary { Some("BODY=BINARYMIME") } else { mail.eight_bit.then_some("BODY=8BITMIME") };
    let utf8 = mail.smtputf8.then_some("SMTPUTF8");
    size.into_iter().chain(body.map(str::to_owned)).chain(utf8.map(str::to_owned)).collect()
}

//! Where the URLs of CATENATE (RFC 4469) get their octets from.

use imap::{
    MessageUrl,
    section::{Content, Extract, Place},
};
use proto::mailboxes::{ContentResponse, FetchRequest, Message, UidRange};
use tonic::Streaming;

use crate::{
    failure::Failure,
    fetch::{STREAM_ABOVE, spans},
    selected::slow,
    session::Session,
};

/// What a URL names.
pub(crate) enum Source {
    Held(Vec<u8>),
    /// Of a large message: as it comes.
    Far {
        answers: Box<Streaming<ContentResponse>>,
        size: u64,
    },
}

impl Source {
    pub fn len(&self) -> u64 {
        match self {
            Self::Held(octets) => octets.len() as u64,
            Self::Far { size, .. } => *size,
        }
    }
}

impl Session {
    pub(crate) async fn source(&mut self, url: &str) -> Result<Source, Failure> {
        let bad = || Failure::bad_url(url);
        let account = self.account.ok_or(Failure::Bad("Log in first."))?;
        let wanted = MessageUrl::parse(url).ok_or_else(bad)?;
        let (account_id, mailbox_id) = match &wanted.mailbox {
            None => self.selected.as_ref().map(|s| (s.owner, s.mailbox_id)).ok_or_else(bad)?,
            Some(name) => {
                let place = self.place(account, name).await.map_err(|_| bad())?;
                let state = self.state_at(&place).await?.ok_or_else(bad)?;
                if wanted.uid_validity.is_some_and(|validity| validity != state.uid_validity) {
                    return Err(bad());
                }
                (place.owner, state.mailbox_id)
            }
        };
        let request = FetchRequest {
            account_id,
            mailbox_id,
            uids: vec![UidRange { first: wanted.uid, last: wanted.uid }],
            structure: true,
            header: true,
            body: true,
            body_limit: STREAM_ABOVE,
            ..FetchRequest::default()
        };
        let message = self.one(request).await?.ok_or_else(bad)?;
        let spans = message.structure.as_ref().map(spans).unwrap_or_default();
        if !message.body_omitted {
            let content = Content { header: &message.header, body: &message.body };
            return match wanted.section.extract(&spans, content) {
                Extract::Missing => Err(bad()),
                Extract::Pieces(first, second) => Ok(Source::Held([first, second].concat())),
                Extract::Made(made) => Ok(Source::Held(made)),
            };
        }
        match wanted.section.place(&spans, message.header.len() as u64, message.size.into()) {
            Place::Missing => Err(bad()),
            Place::Octets(start, end) => {
                let answers = self.open_content(account_id, mailbox_id, wanted.uid, start, end, "").await?;
                Ok(Source::Far { answers: Box::new(answers), size: end - start })
            }
            Place::Fields(start, end) => {
                let answers = self.open_content(account_id, mailbox_id, wanted.uid, start, end, "").await?;
                Ok(Source::Held(wanted.section.fields_of(&self.gathered(answers).await?)))
            }
        }
    }

    async fn one(&self, request: FetchRequest) -> Result<Option<Message>, Failure> {
        let timeout = self.gateway.config.call_timeout();
        let mut answers = self.mailboxes().fetch(self.asking(request)).await?.into_inner();
        while let Some(answer) = tokio::time::timeout(timeout, answers.message()).await.map_err(slow)?? {
            if let Some(message) = answer.messages.into_iter().next() {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }
}

//! QUOTA (RFC 9208) and METADATA (RFC 5464): what belongs to the account or a mailbox as a whole.

use imap::{MetadataRequest, respond};
use proto::mailboxes::{Annotation, GetMetadataRequest, QuotaRequest, SetMetadataRequest};
use tonic::Code;

use crate::{
    failure::{Failure, Outcome},
    session::Session,
};

/// STORAGE counts in units of 1024 octets (RFC 9208 §5.1).
const STORAGE_UNIT: u64 = 1024;

impl Session {
    /// There is one root, the account's own, with an empty name.
    pub(crate) async fn get_quota(&mut self, account_id: u64, root: &str) -> Outcome {
        if !root.is_empty() {
            return Err(Failure::no("NONEXISTENT", "No such quota root."));
        }
        self.write_quota(account_id).await?;
        Ok("OK Getquota completed.".into())
    }

    pub(crate) async fn get_quota_root(&mut self, account_id: u64, mailbox: String) -> Outcome {
        if self.place(account_id, &mailbox).await?.owner != account_id {
            return Err(Failure::no("NOPERM", "Quotas are their owner's matter."));
        }
        if self.state_of(account_id, mailbox.clone()).await?.is_none() {
            return Err(Failure::no("NONEXISTENT", "No such mailbox."));
        }
        let utf8 = self.utf8_names();
        let out = &mut self.wire.out;
        out.extend_from_slice(b"* QUOTAROOT ");
        respond::mailbox(out, &mailbox, utf8);
        out.extend_from_slice(b" \"\"\r\n");
        self.write_quota(account_id).await?;
        Ok("OK Getquotaroot completed.".into())
    }

    async fn write_quota(&mut self, account_id: u64) -> Result<(), Failure> {
        let quota = self.mailboxes().quota(self.asking(QuotaRequest { account_id })).await?.into_inner();
        let storage = (quota.limit_bytes > 0).then(|| {
            format!("STORAGE {} {}", quota.used_bytes.div_ceil(STORAGE_UNIT), quota.limit_bytes / STORAGE_UNIT)
        });
        let messages =
            (quota.limit_messages > 0).then(|| format!("MESSAGE {} {}", quota.used_messages, quota.limit_messages));
        let resources = [storage, messages].into_iter().flatten().collect::<Vec<_>>().join(" ");
        respond::line(&mut self.wire.out, "*", format_args!("QUOTA \"\" ({resources})"));
        Ok(())
    }

    pub(crate) async fn get_metadata(&mut self, account_id: u64, request: MetadataRequest) -> Outcome {
        let place = self.place(account_id, &request.mailbox).await?;
        let question = GetMetadataRequest { account_id: place.owner, mailbox: place.name };
        let mut entries = self.mailboxes().get_metadata(self.asking(question)).await?.into_inner().entries;
        if place.owner != account_id {
            // What is private is the owner's (RFC 5464 §2.1).
            entries.retain(|e| e.name.starts_with("/shared/"));
        }
        let is_asked = |name: &str| {
            request.entries.iter().any(|asked| match (name.strip_prefix(asked.as_str()), request.depth) {
                (Some(""), _) => true,
                (Some(below), None) => below.starts_with('/'),
                (Some(below), Some(depth)) => below.starts_with('/') && below.matches('/').count() <= depth as usize,
                (None, _) => false,
            })
        };
        let found: Vec<&Annotation> = entries.iter().filter(|e| is_asked(&e.name)).collect();
        let size = |e: &Annotation| e.value.as_ref().map_or(0, |v| v.len()) as u64;
        let fits = |e: &&&Annotation| request.max_size.is_none_or(|max| size(e) <= max);
        // Asked for by name and not there: NIL (RFC 5464 §4.2).
        let missing = request.entries.iter().filter(|asked| !entries.iter().any(|e| e.name == **asked));
        let told: Vec<(&str, Option<&[u8]>)> = found
            .iter()
            .filter(fits)
            .map(|e| (e.name.as_str(), e.value.as_deref()))
            .chain(missing.map(|name| (name.as_str(), None)))
            .collect();
        if !told.is_empty() {
            let utf8 = self.utf8_names();
            let out = &mut self.wire.out;
            out.extend_from_slice(b"* METADATA ");
            respond::mailbox(out, &request.mailbox, utf8);
            for (i, (name, value)) in told.into_iter().enumerate() {
                out.extend_from_slice(if i == 0 { b" (" } else { b" " });
                respond::astring(out, name.as_bytes());
                out.push(b' ');
                respond::binary_nstring(out, value);
            }
            out.extend_from_slice(b")\r\n");
        }
        let longest = found.iter().filter(|e| !fits(e)).map(|e| size(e)).max();
        Ok(match longest {
            Some(longest) => format!("OK [METADATA LONGENTRIES {longest}] Getmetadata completed."),
            None => "OK Getmetadata completed.".into(),
        })
    }

    pub(crate) async fn set_metadata(
        &mut self,
        account_id: u64,
        mailbox: String,
        entries: Vec<(String, Option<Vec<u8>>)>,
    ) -> Outcome {
        let annotation = |(name, value): (String, Option<Vec<u8>>)| Annotation { name, value: value.map(Into::into) };
        let place = self.place(account_id, &mailbox).await?;
        if place.owner != account_id && entries.iter().any(|(name, _)| !name.starts_with("/shared/")) {
            return Err(Failure::no("NOPERM", "What is private is the owner's."));
        }
        let request = SetMetadataRequest {
            account_id: place.owner,
            mailbox: place.name,
            entries: entries.into_iter().map(annotation).collect(),
        };
        match self.mailboxes().set_metadata(self.asking(request)).await {
            Ok(_) => Ok("OK Setmetadata completed.".into()),
            Err(status) if status.code() == Code::OutOfRange => {
                Err(Failure::no("METADATA MAXSIZE 65536", "Value is too large."))
            }
            Err(status) if status.code() == Code::FailedPrecondition => {
                Err(Failure::no("METADATA TOOMANY", "Too many annotations."))
            }
            Err(status) => Err(status.into()),
        }
    }
}

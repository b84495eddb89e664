//! IDLE (RFC 2177): tells changes as they come.

use std::{io, time::Duration};

use imap::respond;
use proto::mailboxes::{WatchRequest, WatchResponse};
use tonic::{Status, Streaming};

use crate::{
    failure::{Failure, Outcome},
    selected::only_gone,
    session::Session,
    waiting::leaving,
};

/// After a lost watch, and between two looks however many wakes there are.
pub(crate) const RETRY: Duration = Duration::from_secs(5);
pub(crate) const SETTLE: Duration = Duration::from_millis(50);

enum Event {
    Line,
    Woken,
    WatchLost,
    Tick,
    /// The text of BYE.
    Shutdown(&'static str),
}

impl Session {
    pub(crate) async fn idle(&mut self) -> Outcome {
        let _counted = self.gateway.metrics.idling();
        self.wire.out.extend_from_slice(b"+ idling\r\n");
        self.wire.flush().await?;
        let config = &self.gateway.config;
        let (poll, patience) = (config.poll_interval(), config.idle_timeout());
        let silent_until = tokio::time::Instant::now() + patience;
        let (shutdown, gateway) = (self.shutdown.clone(), self.gateway.clone());
        let Some(account) = self.selected.as_ref().map(|s| s.owner).or(self.account) else {
            return Err(Failure::Bad("Log in first."));
        };
        let mut watch = self.watch(account).await;
        // What came between the last command and the watch.
        self.tell().await?;
        let mut told = tokio::time::Instant::now();
        loop {
            match self.wire.framer.poll_line() {
                Ok(Some(line)) if line.eq_ignore_ascii_case(b"DONE") => return Ok("OK Idle completed.".into()),
                Ok(Some(_)) => return Err(Failure::Bad("DONE expected.")),
                Ok(None) => {}
                Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e).into()),
            }
            let pause = if watch.is_some() { poll } else { RETRY };
            self.wire.rest();
            let leaving = leaving(shutdown.clone(), &mut self.leave_at, gateway.clone());
            let event = tokio::select! {
                biased;
                () = leaving => Event::Shutdown("[UNAVAILABLE] Server is shutting down."),
                read = tokio::time::timeout_at(silent_until, self.wire.read()) => {
                    match read {
                        Ok(read) => read.map(|()| Event::Line)?,
                        Err(_) => Event::Shutdown("Autologout; idle for too long."),
                    }
                }
                woken = next(&mut watch) => if woken { Event::Woken } else { Event::WatchLost },
                () = tokio::time::sleep(pause) => Event::Tick,
            };
            match event {
                Event::Line => continue,
                Event::Shutdown(text) => {
                    respond::line(&mut self.wire.out, "*", format_args!("BYE {text}"));
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, text).into());
                }
                Event::WatchLost => watch = None,
                // The first wake is told at once; those of a burst are gathered.
                Event::Woken => tokio::time::sleep_until(told + SETTLE).await,
                Event::Tick if watch.is_none() => watch = self.watch(account).await,
                Event::Tick => {}
            }
            self.tell().await?;
            told = tokio::time::Instant::now();
        }
    }

    /// What happens to an account's mailboxes.
    pub(crate) async fn watch(&self, account_id: u64) -> Option<Streaming<WatchResponse>> {
        let channel = self.gateway.channel.clone();
        match crate::watching::watch(channel, self.asking(WatchRequest { account_id })).await {
            Ok(answers) => Some(answers),
            Err(status) => {
                tracing::debug!(rpc.code = ?status.code(), "no watch, polling");
                None
            }
        }
    }

    /// Changes, if mda has an answer; else there is a next time.
    async fn tell(&mut self) -> Result<(), Failure> {
        only_gone(self.refresh(true).await)?;
        if let (Some(account_id), true) = (self.account, self.notified.is_some()) {
            self.tell_notified(account_id).await?;
        }
        Ok(self.wire.flush().await?)
    }
}

/// `false` when the watch has ended. Never without a watch.
pub(crate) async fn next(watch: &mut Option<Streaming<WatchResponse>>) -> bool {
    match watch {
        Some(stream) => {
            let answer: Result<Option<WatchResponse>, Status> = stream.message().await;
            matches!(answer, Ok(Some(_)))
        }
        None => std::future::pending().await,
    }
}

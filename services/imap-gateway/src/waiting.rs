//! Between commands: until the client says more, there is something to tell, or it is time to go.

use std::{io, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    Gateway,
    failure::Failure,
    idle::{RETRY, SETTLE, next},
    session::{Next, Session},
};

/// A service that shuts down sends away one session in this time, on average.
const PER_GOODBYE: std::time::Duration = std::time::Duration::from_millis(5);

impl Session {
    /// Until the client says more, or there is something to tell that it asked for (NOTIFY).
    pub(crate) async fn wait(&mut self) -> io::Result<Next> {
        let config = &self.gateway.config;
        let patience = if self.account.is_some() { config.idle_timeout() } else { config.login_timeout() };
        let poll = config.poll_interval();
        let until = tokio::time::Instant::now() + patience;
        loop {
            self.tell_due().await?;
            self.wire.flush().await?;
            self.wire.rest();
            let leaving = leaving(self.shutdown.clone(), &mut self.leave_at, self.gateway.clone());
            let notified = &mut self.notified;
            let notified = async move {
                match notified {
                    None => std::future::pending().await,
                    Some(notified) => {
                        let pause = if notified.watch.is_some() { poll } else { RETRY };
                        if let Ok(false) = tokio::time::timeout(pause, next(&mut notified.watch)).await {
                            notified.watch = None;
                        }
                        notified.is_due = true;
                        // The first wake is told at once; those of a burst are gathered.
                        tokio::time::sleep_until(notified.told + SETTLE).await;
                    }
                }
            };
            tokio::select! {
                biased;
                () = leaving => return Ok(self.bye("[UNAVAILABLE] Server is shutting down.")),
                read = tokio::time::timeout_at(until, self.wire.read()) => return match read {
                    Ok(read) => read.map(|()| Next::GoOn),
                    // RFC 9051 §5.4.
                    Err(_) => Ok(self.bye("Autologout; idle for too long.")),
                },
                () = notified => {}
            }
        }
    }

    /// Not in the middle of a command, whose sequence numbers would mean something else then.
    async fn tell_due(&mut self) -> io::Result<()> {
        let Some(account) = self.account else { return Ok(()) };
        let is_due = self.notified.as_ref().is_some_and(|n| n.is_due);
        if !is_due || !self.wire.framer.is_between() {
            return Ok(());
        }
        if self.notified.as_ref().is_some_and(|n| n.watch.is_none()) {
            let watch = self.watch(account).await;
            if let Some(notified) = &mut self.notified {
                notified.watch = watch;
            }
        }
        match self.tell_notified(account).await {
            Err(Failure::Gone(e)) => Err(e),
            _ => Ok(()),
        }
    }
}

/// Ends when this session has to say goodbye: sessions leave one after the other, so that their
/// clients do not come back all at once. Few sessions need no time for that.
pub(crate) async fn leaving(
    shutdown: CancellationToken,
    leave_at: &mut Option<tokio::time::Instant>,
    gateway: Arc<Gateway>,
) {
    shutdown.cancelled().await;
    let at = leave_at.get_or_insert_with(|| {
        let spread = (PER_GOODBYE * gateway.metrics.active_sessions()).min(gateway.config.drain_spread());
        tokio::time::Instant::now() + spread.mul_f64(chance())
    });
    tokio::time::sleep_until(*at).await;
}

/// Between 0 and 1; every hasher has keys of its own.
fn chance() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let bits = std::hash::RandomState::new().build_hasher().finish() >> 32;
    bits as f64 / f64::from(u32::MAX)
}

//! Calls that reached nobody are made again, on another pod.
//!
//! A pod that just went is noticed by the call that meets it. As long as no byte of the request's
//! body was taken, no message of it was sent and nobody can have acted on it: every call, also one
//! that must not run twice, may be made again.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tonic::{Status, body::Body};
use tower::Service;

use super::{Answer, Call, Transport};

/// Pauses before another attempt: short, because a caller at the door waits.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(25), Duration::from_millis(100), Duration::from_millis(400)];

/// Makes the call; `deadline` bounds all attempts together.
pub(super) async fn call(mut inner: Transport, call: Call) -> Result<Answer, tonic::transport::Error> {
    let (head, body) = call.into_parts();
    let kept = Arc::new(Mutex::new(Some(body)));
    let mut pauses = PAUSES.iter();
    loop {
        std::future::poll_fn(|cx| inner.poll_ready(cx)).await?;
        let body = Body::new(Lent { kept: kept.clone(), taken: None });
        let failed = match inner.call(Call::from_parts(head.clone(), body)).await {
            Ok(answer) => return Ok(answer),
            Err(e) => e,
        };
        let untouched = kept.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        match pauses.next().filter(|_| untouched) {
            Some(pause) => tokio::time::sleep(*pause).await,
            None => return Err(failed),
        }
    }
}

/// A body that can be had again until somebody reads from it.
struct Lent {
    kept: Arc<Mutex<Option<Body>>>,
    taken: Option<Body>,
}

impl http_body::Body for Lent {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Status>>> {
        if self.taken.is_none() {
            let taken = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.taken = taken;
        }
        match self.taken.as_mut() {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.taken {
            Some(body) => body.is_end_stream(),
            None => self
                .kept
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
                .is_none_or(http_body::Body::is_end_stream),
        }
    }
}

//! Calls whose connection broke are made again, on another pod.
//!
//! A pod that just went is noticed by the call that meets it. As long as no byte of the request's
//! body was taken, no message of it was sent and nobody can have acted on it: every call, also one
//! that must not run twice, may be made again. A call that may run twice ([`proto::is_repeatable`])
//! is also made again after that, as long as its request is small enough to be kept.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use tonic::{Status, body::Body};

use super::{
    Answer, Call,
    pods::{CallError, Pods},
};

/// Pauses before another attempt: short, because a caller at the door waits.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(25), Duration::from_millis(100), Duration::from_millis(400)];
/// Octets of a request that are kept for another attempt.
const KEPT: usize = 64 * 1024;

/// Makes the call; `deadline` bounds all attempts together.
pub(super) async fn call(pods: &Pods, call: Call) -> Result<Answer, CallError> {
    let (head, body) = call.into_parts();
    let kept = Arc::new(Mutex::new(Kept {
        rest: body,
        repeatable: proto::is_repeatable(head.uri.path()),
        taken: 0,
        sent: Vec::new(),
        attempt: 0,
    }));
    let mut pauses = PAUSES.iter();
    loop {
        let attempt = lock(&kept).begin();
        let body = Body::new(Lent { kept: kept.clone(), attempt, place: 0 });
        let failed = match pods.call(Call::from_parts(head.clone(), body)).await {
            Ok(answer) => return Ok(answer),
            Err(e) => e,
        };
        match pauses.next().filter(|_| lock(&kept).is_whole()) {
            Some(pause) => tokio::time::sleep(*pause).await,
            None => return Err(failed),
        }
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request's body, and what of it was sent already.
struct Kept {
    rest: Body,
    repeatable: bool,
    /// Octets taken from `rest`.
    taken: usize,
    /// All of them, while the call may be repeated and they are few.
    sent: Vec<Bytes>,
    attempt: u32,
}

impl Kept {
    fn begin(&mut self) -> u32 {
        self.attempt += 1;
        self.attempt
    }

    /// Whether another attempt could send all of it.
    fn is_whole(&self) -> bool {
        self.taken == self.sent.iter().map(Bytes::len).sum::<usize>()
    }

    fn keep(&mut self, data: &Bytes) {
        self.taken += data.len();
        if self.repeatable && self.taken <= KEPT {
            self.sent.push(data.clone());
        } else {
            self.sent = Vec::new();
        }
    }
}

/// The body of one attempt.
struct Lent {
    kept: Arc<Mutex<Kept>>,
    attempt: u32,
    /// In `sent`.
    place: usize,
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let kept = self.kept.clone();
        let mut kept = lock(&kept);
        // A connection that broke may still hold the body of the attempt before.
        if kept.attempt != self.attempt {
            return Poll::Ready(Some(Err(Status::aborted("made again"))));
        }
        if let Some(data) = kept.sent.get(self.place).cloned() {
            self.place += 1;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let frame = ready!(http_body::Body::poll_frame(Pin::new(&mut kept.rest), cx));
        if let Some(Ok(data)) = frame.as_ref().map(|f| f.as_ref().map(Frame::data_ref))
            && let Some(data) = data
        {
            kept.keep(data);
            self.place = kept.sent.len();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let kept = lock(&self.kept);
        self.place >= kept.sent.len() && http_body::Body::is_end_stream(&kept.rest)
    }
}

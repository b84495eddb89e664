//! A journey as it happens: server-sent events (WHATWG HTML §9.2).

use std::{
    collections::HashSet,
    convert::Infallible,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::response::sse;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::messages::{Event, event, one, trace};
use crate::{
    App,
    problem::Problem,
    route::{Call, Events, Nothing},
    sites::Onward,
};

/// An event is told at the latest so long after it was committed, plus the way.
const EVERY: Duration = Duration::from_millis(400);
/// Slower when nothing has happened for a while.
const EVERY_LATER: Duration = Duration::from_secs(3);
const BUSY: Duration = Duration::from_secs(60);
/// The browser asks again by itself, and is told what it knows already.
const LONGEST: Duration = Duration::from_secs(1800);
const MAX_SITES: usize = 20;

pub async fn follow(call: Call, _: Nothing, _: Nothing) -> Result<Events<Event>, Problem> {
    let message = one(&call.app, call.caller()?, call.part("queue_id")).await?;
    let Ok(permit) = call.app.streams.clone().try_acquire_owned() else {
        return Err(Problem::unavailable("too many journeys are being followed"));
    };
    let (events, stream) = mpsc::channel(16);
    let app = call.app.clone();
    tokio::spawn(async move {
        app.metrics.streams.inc();
        tell(&app, &message.queue_id, &events).await;
        app.metrics.streams.dec();
        drop(permit);
    });
    let stream = ReceiverStream::new(stream).map(|event: Event| {
        let data = serde_json::to_string(&event).unwrap_or_default();
        Ok::<_, Infallible>(sse::Event::default().event("journey").data(data))
    });
    Ok(Events(stream.boxed(), PhantomData))
}

/// Until the reader is gone, we stop, or it has been long enough. A failure of `mda` is waited out.
async fn tell(app: &Arc<App>, queue_id: &str, to: &mpsc::Sender<Event>) {
    let (mut told, began, mut last) = (0, Instant::now(), Instant::now());
    let mut elsewhere: HashSet<Event> = HashSet::new();
    let mut onward: Vec<Onward> = Vec::new();
    while began.elapsed() < LONGEST {
        if let Ok(events) = trace(app, queue_id).await {
            for new in events.into_iter().skip(told) {
                told += 1;
                last = Instant::now();
                if let Some(site) = app.sites.onward(&new)
                    && onward.len() < MAX_SITES
                    && !onward.contains(&site)
                {
                    onward.push(site);
                }
                if to.send(event(app, new)).await.is_err() {
                    return;
                }
            }
        }
        for site in &onward {
            for event in app.sites.events(site).await {
                if elsewhere.insert(event.clone()) {
                    last = Instant::now();
                    if to.send(event).await.is_err() {
                        return;
                    }
                }
            }
        }
        let pause = if last.elapsed() < BUSY { EVERY } else { EVERY_LATER };
        tokio::select! {
            () = tokio::time::sleep(pause) => (),
            () = to.closed() => return,
            () = app.shutdown.cancelled() => return,
        }
    }
}

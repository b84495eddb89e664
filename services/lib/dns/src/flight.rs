//! One question at a time: who asks what is being asked already waits for the same answer. A
//! thousand messages of one sender that arrive together cost its name servers one query each.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use hickory_resolver::{
    TokioResolver,
    lookup::Lookup,
    net::NetError,
    proto::rr::{Name, RecordType},
};

type Question = (Name, RecordType);
type Flight = Shared<BoxFuture<'static, Result<Lookup, NetError>>>;

#[derive(Default)]
pub(crate) struct Flights {
    /// Under way; whoever leaves last takes the entry along.
    open: Mutex<HashMap<Question, Flight>>,
    joined: AtomicU64,
}

impl Flights {
    pub async fn ask(&self, resolver: &TokioResolver, name: Name, kind: RecordType) -> Result<Lookup, NetError> {
        let question = (name.to_lowercase(), kind);
        let flight = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            match open.get(&question) {
                Some(flight) => {
                    self.joined.fetch_add(1, Ordering::Relaxed);
                    flight.clone()
                }
                None => {
                    let resolver = resolver.clone();
                    let flight = async move { resolver.lookup(name, kind).await }.boxed().shared();
                    open.insert(question.clone(), flight.clone());
                    flight
                }
            }
        };
        let leaving = Leaving { flights: self, question, flight: flight.clone() };
        let answer = flight.await;
        drop(leaving);
        answer
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn joined(&self) -> u64 {
        self.joined.load(Ordering::Relaxed)
    }
}

/// Also when the call is given up: an entry that nobody waits for would stay for ever.
struct Leaving<'a> {
    flights: &'a Flights,
    question: Question,
    flight: Flight,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut open = self.flights.open.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours = open.get(&self.question).is_some_and(|flight| flight.ptr_eq(&self.flight));
        // Ours and the map's; a caller that waits holds two.
        let is_last = self.flight.strong_count().is_none_or(|n| n <= 3);
        if is_ours && (self.flight.peek().is_some() || is_last) {
            open.remove(&self.question);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, Resolver};

    #[tokio::test]
    async fn questions_under_way_are_joined_and_leave_nothing_behind() {
        // Takes questions and says nothing until it is asked to.
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let config = Config { server: silent.local_addr().ok(), timeout_ms: 300, attempts: 1, ..Config::default() };
        let resolver = Resolver::new(&config).expect("valid");
        let asked = (0..20).map(|n| {
            let resolver = resolver.clone();
            async move { resolver.txt(if n % 2 == 0 { "a.example" } else { "A.example." }).await.is_err() }
        });
        assert!(futures::future::join_all(asked).await.into_iter().all(|failed| failed));
        assert_eq!(resolver.joined(), 19);
        let given_up = tokio::time::timeout(std::time::Duration::from_millis(20), resolver.txt("b.example")).await;
        assert!(given_up.is_err());
        assert!(resolver.open_questions() == 0);
    }
}

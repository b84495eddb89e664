//! Batches that form by themselves: what arrives while a commit is in flight is the next batch.
//!
//! An idle system answers at once, a busy one pays one commit for many.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    time::Instant,
};
use tonic::Status;

/// Jobs that wait; more and the door hears that we are busy.
const QUEUE: usize = 1024;
/// One batch holds no more jobs and no more bytes (beyond its last job).
const MAX_JOBS: usize = 128;
const MAX_BYTES: usize = 16 << 20;
/// So much is worth a commit beside one in flight; less waits for its end, and joins what comes until
/// then: a commit costs more than what is in it.
const WORTH_JOBS: usize = 16;
const WORTH_BYTES: usize = 256 << 10;
/// So long a batch waits for as many jobs as the last one had: who handed those in has been answered, and
/// hands in the next. Whoever is alone waits once, right after a crowd.
const COMPANY: Duration = Duration::from_millis(3);

pub struct Job<T> {
    pub work: T,
    bytes: usize,
    done: oneshot::Sender<Result<(), Status>>,
}

impl<T> Job<T> {
    pub fn finish(self, outcome: Result<(), Status>) {
        // Whoever asked may have gone; the work is done all the same.
        let _ = self.done.send(outcome);
    }
}

/// The handing-in side.
pub struct Batcher<T>(mpsc::Sender<Job<T>>);

impl<T> Clone for Batcher<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + 'static> Batcher<T> {
    /// `workers` batches may be in flight at once: one waits for the disk, one is prepared.
    pub fn start<W, F>(workers: usize, work: W) -> Self
    where
        W: Fn(Vec<Job<T>>) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let waiting = Arc::new(Mutex::new(Waiting { jobs: receiver, last: 0 }));
        let in_flight = watch::Sender::new(0);
        for _ in 0..workers {
            let (waiting, work, in_flight) = (waiting.clone(), work.clone(), in_flight.clone());
            tokio::spawn(async move {
                loop {
                    let jobs = {
                        let mut waiting = waiting.lock().await;
                        let jobs = gather(&mut waiting, in_flight.subscribe()).await;
                        in_flight.send_modify(|n| *n += 1);
                        jobs
                    };
                    if jobs.is_empty() {
                        return;
                    }
                    work(jobs).await;
                    in_flight.send_modify(|n| *n -= 1);
                }
            });
        }
        Self(sender)
    }

    /// Ends when the work is committed, or with the reason why it is not.
    pub async fn run(&self, work: T, bytes: usize) -> Result<(), Status> {
        let (done, outcome) = oneshot::channel();
        let job = Job { work, bytes, done };
        self.0.try_send(job).map_err(|_| Status::resource_exhausted("too many messages at once"))?;
        outcome.await.map_err(|_| Status::unavailable("the writer ended"))?
    }
}

struct Waiting<T> {
    jobs: mpsc::Receiver<Job<T>>,
    /// How many the last batch had.
    last: usize,
}

/// Waits for one job and takes what else is there, or comes while another batch is in flight or company
/// is expected. Empty when nobody can hand in any more.
async fn gather<T>(waiting: &mut Waiting<T>, mut in_flight: watch::Receiver<usize>) -> Vec<Job<T>> {
    let (mut jobs, mut bytes) = (Vec::new(), 0);
    let Some(first) = waiting.jobs.recv().await else { return jobs };
    let patience = Instant::now() + COMPANY;
    let mut next = Some(first);
    loop {
        while let Some(job) = next.take() {
            bytes += job.bytes;
            jobs.push(job);
            next = if jobs.len() < MAX_JOBS && bytes < MAX_BYTES { waiting.jobs.try_recv().ok() } else { None };
        }
        let is_much = jobs.len() >= WORTH_JOBS || bytes >= WORTH_BYTES;
        let is_idle = *in_flight.borrow() == 0;
        let is_complete = jobs.len() >= waiting.last || Instant::now() >= patience;
        if is_much || is_idle && is_complete {
            waiting.last = jobs.len();
            return jobs;
        }
        tokio::select! {
            biased;
            // Nobody hands in any more, and what is in flight ends by itself.
            job = waiting.jobs.recv() => match job {
                None => return jobs,
                job => next = job,
            },
            _ = in_flight.wait_for(|n| *n == 0), if !is_idle => (),
            () = tokio::time::sleep_until(patience), if is_idle => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_arrives_during_a_commit_is_the_next_batch() {
        let sizes = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = sizes.clone();
        let batcher = Batcher::start(1, move |jobs: Vec<Job<u32>>| {
            seen.lock().expect("not poisoned").push(jobs.len());
            async move {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                jobs.into_iter().for_each(|j| j.finish(Ok(())));
            }
        });
        let all = (0..50).map(|i| {
            let batcher = batcher.clone();
            async move { batcher.run(i, 10).await }
        });
        let outcomes = futures::future::join_all(all).await;
        assert!(outcomes.iter().all(Result::is_ok));
        let sizes = sizes.lock().expect("not poisoned");
        assert_eq!(sizes.iter().sum::<usize>(), 50);
        assert!(sizes.len() < 10, "{sizes:?}");
    }

    #[tokio::test]
    async fn only_much_is_committed_beside_a_commit_in_flight() {
        let (begun, mut begins) = mpsc::unbounded_channel();
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let opened = gate.clone();
        let batcher = Batcher::start(2, move |jobs: Vec<Job<usize>>| {
            let (begun, gate) = (begun.clone(), gate.clone());
            async move {
                let _ = begun.send(jobs.len());
                gate.acquire().await.expect("open").forget();
                jobs.into_iter().for_each(|j| j.finish(Ok(())));
            }
        });
        let hand_in = |count: usize| {
            for i in 0..count {
                let batcher = batcher.clone();
                tokio::spawn(async move { batcher.run(i, 1).await });
            }
        };
        hand_in(1);
        assert_eq!(begins.recv().await, Some(1));
        hand_in(3);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert!(begins.try_recv().is_err(), "three wait");
        hand_in(WORTH_JOBS - 3);
        assert_eq!(begins.recv().await, Some(WORTH_JOBS), "with the rest they are worth it");
        hand_in(2);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert!(begins.try_recv().is_err(), "both are busy");
        opened.add_permits(2);
        assert_eq!(begins.recv().await, Some(2), "nothing is in flight any more");
    }

    #[tokio::test]
    async fn company_is_waited_for_where_there_was_some() {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let hand_in = || sender.try_send(Job { work: (), bytes: 1, done: oneshot::channel().0 }).expect("room");
        let idle = watch::Sender::new(0);
        let mut waiting = Waiting { jobs, last: 1 };
        hand_in();
        {
            let alone = std::pin::pin!(gather(&mut waiting, idle.subscribe()));
            assert!(futures::poll!(alone).is_ready(), "nobody else is expected");
        }
        waiting.last = 3;
        hand_in();
        {
            let mut expecting = std::pin::pin!(gather(&mut waiting, idle.subscribe()));
            assert!(futures::poll!(expecting.as_mut()).is_pending(), "two more are expected");
            hand_in();
            hand_in();
            assert_eq!(expecting.await.len(), 3);
        }
        hand_in();
        assert_eq!(gather(&mut waiting, idle.subscribe()).await.len(), 1, "nobody came");
        assert_eq!(waiting.last, 1, "and nobody is expected any more");
    }

    #[tokio::test]
    async fn more_than_the_queue_holds_is_refused() {
        let batcher = Batcher::start(1, |jobs: Vec<Job<u32>>| async move {
            std::future::pending::<()>().await;
            drop(jobs);
        });
        let waiting: Vec<_> = (0..2 * QUEUE as u32)
            .map(|i| {
                let batcher = batcher.clone();
                tokio::spawn(async move { batcher.run(i, 1).await })
            })
            .collect();
        // A refusal comes at once; everybody else waits for ever.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let mut refused = 0;
        for task in waiting.into_iter().filter(tokio::task::JoinHandle::is_finished) {
            let status = task.await.expect("no panic").expect_err("nothing is ever done");
            assert_eq!(status.code(), tonic::Code::ResourceExhausted);
            refused += 1;
        }
        assert!(refused >= QUEUE - MAX_JOBS, "{refused}");
    }
}

//! Batches that form by themselves: what arrives while a commit is in flight is the next batch.
//!
//! An idle system answers at once, a busy one pays one commit for many; there is no timer.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot, watch};
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
        let waiting = Arc::new(Mutex::new(receiver));
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

/// Waits for one job and takes what else is there, or comes while another batch is in flight.
/// Empty when nobody can hand in any more.
async fn gather<T>(waiting: &mut mpsc::Receiver<Job<T>>, mut in_flight: watch::Receiver<usize>) -> Vec<Job<T>> {
    let (mut jobs, mut bytes) = (Vec::new(), 0);
    let Some(first) = waiting.recv().await else { return jobs };
    let mut next = Some(first);
    loop {
        while let Some(job) = next.take() {
            bytes += job.bytes;
            jobs.push(job);
            next = if jobs.len() < MAX_JOBS && bytes < MAX_BYTES { waiting.try_recv().ok() } else { None };
        }
        if jobs.len() >= WORTH_JOBS || bytes >= WORTH_BYTES || *in_flight.borrow() == 0 {
            return jobs;
        }
        tokio::select! {
            // Nobody hands in any more, and the one in flight ends by itself.
            job = waiting.recv() => match job {
                None => return jobs,
                job => next = job,
            },
            _ = in_flight.wait_for(|n| *n == 0) => (),
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

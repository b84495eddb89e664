//! Outcomes of many attempts in one call: whatever ended while the last call was in flight is
//! the next one.

use proto::spool::{Outcome, SettleRequest, spool_client::SpoolClient};
use runtime::grpc::Channel;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// Outcomes in one call.
const BATCH: usize = 256;
const QUEUE: usize = 4_096;

struct Job {
    outcomes: Vec<Outcome>,
    done: oneshot::Sender<Result<usize, Status>>,
}

pub(crate) struct Settler(mpsc::Sender<Job>);

impl Settler {
    pub fn start(spool: &SpoolClient<Channel>) -> Self {
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        let spool = spool.clone();
        tokio::spawn(async move {
            loop {
                let jobs = gather(&mut receiver).await;
                if jobs.is_empty() {
                    return;
                }
                call(&spool, jobs).await;
            }
        });
        Self(sender)
    }

    /// How many of them counted.
    pub async fn settle(&self, outcomes: Vec<Outcome>) -> Result<usize, Status> {
        let (done, answer) = oneshot::channel();
        let gone = || Status::unavailable("the settler ended");
        self.0.send(Job { outcomes, done }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn gather(receiver: &mut mpsc::Receiver<Job>) -> Vec<Job> {
    let Some(first) = receiver.recv().await else { return Vec::new() };
    let mut count = first.outcomes.len();
    let mut jobs = vec![first];
    while count < BATCH {
        let Ok(job) = receiver.try_recv() else { break };
        count += job.outcomes.len();
        jobs.push(job);
    }
    jobs
}

async fn call(spool: &SpoolClient<Channel>, jobs: Vec<Job>) {
    let request = |outcomes| SettleRequest { outcomes };
    let all: Vec<Outcome> = jobs.iter().flat_map(|j| j.outcomes.iter().cloned()).collect();
    match spool.clone().settle(request(all)).await {
        Ok(answer) => {
            let settled: std::collections::HashSet<(String, u32)> =
                answer.into_inner().settled.into_iter().map(|id| (id.queue_id, id.number)).collect();
            for job in jobs {
                let ids = job.outcomes.iter().filter_map(|o| o.lease.as_ref()?.id.as_ref());
                let count = ids.filter(|id| settled.contains(&(id.queue_id.clone(), id.number))).count();
                let _ = job.done.send(Ok(count));
            }
        }
        // One that is refused takes no other with it.
        Err(status) if !runtime::grpc::is_transient(&status) && jobs.len() > 1 => {
            for job in jobs {
                let answer = spool.clone().settle(request(job.outcomes)).await;
                let _ = job.done.send(answer.map(|a| a.into_inner().settled.len()));
            }
        }
        Err(status) => {
            for job in jobs {
                let _ = job.done.send(Err(status.clone()));
            }
        }
    }
}

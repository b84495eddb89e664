//! All processes together: start-up that fails fast, and stopping in order.

use tokio::{
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    process::{Exit, Patience, Place, Program, keep_running},
    site::Site,
    user::Setpriv,
};

pub struct Supervisor<'a> {
    site: &'a Site,
    setpriv: Option<Setpriv>,
    groups: Vec<(Patience, CancellationToken, JoinSet<()>)>,
    hurry: CancellationToken,
    exits: (UnboundedSender<Exit>, UnboundedReceiver<Exit>),
}

impl<'a> Supervisor<'a> {
    pub fn new(site: &'a Site) -> Self {
        let group = |patience| (patience, CancellationToken::new(), JoinSet::new());
        Self {
            site,
            setpriv: Setpriv::find(),
            // In the order of stopping.
            groups: [Patience::Mail, Patience::Inside, Patience::Store].map(group).into(),
            hurry: CancellationToken::new(),
            exits: mpsc::unbounded_channel(),
        }
    }

    /// Starts a program and keeps it running.
    pub fn start(&mut self, program: Program, patience: Patience) {
        let place = Place {
            root: self.site.root().to_owned(),
            pid_file: self.site.pid_file(program.service, program.number),
            log_file: self.site.log_file(program.service, program.number),
            setpriv: self.setpriv.clone(),
        };
        let (hurry, exits) = (self.hurry.clone(), self.exits.0.clone());
        if let Some((_, stop, group)) = self.groups.iter_mut().find(|(p, ..)| *p == patience) {
            group.spawn(keep_running(program, patience, place, stop.clone(), hurry, exits));
        }
    }

    /// Waits for the future; fails when a process ends before, because then it cannot start.
    pub async fn unless_exit<T>(&mut self, future: impl Future<Output = T>) -> anyhow::Result<T> {
        tokio::select! {
            biased;
            exit = self.next_exit() => Err(exit.into()),
            outcome = future => Ok(outcome),
        }
    }

    pub async fn until_ready(&mut self, probe: impl Future<Output = ()>) -> anyhow::Result<()> {
        self.unless_exit(probe).await
    }

    pub async fn next_exit(&mut self) -> Exit {
        match self.exits.1.recv().await {
            Some(exit) => exit,
            // We hold a sender ourselves.
            None => std::future::pending().await,
        }
    }

    /// Stops group after group; `hurry` ends the waiting for sessions.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        let cut = self.hurry.clone();
        let all = async {
            for (_, stop, group) in &mut self.groups {
                stop.cancel();
                while group.join_next().await.is_some() {}
            }
        };
        tokio::pin!(all, hurry);
        tokio::select! {
            () = &mut all => return,
            () = &mut hurry => cut.cancel(),
        }
        all.await;
    }
}

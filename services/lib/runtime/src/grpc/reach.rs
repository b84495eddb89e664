//! Which of the pods that DNS names can be reached.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    time::Duration,
};

use futures::future::join_all;
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(1);

/// Remembers who was silent the last time: one lost packet takes no pod out.
#[derive(Default)]
pub(super) struct Reach {
    silent: HashSet<SocketAddr>,
}

impl Reach {
    /// Leaves out who refuses connections, or was silent twice. When nobody is left, all stay:
    /// then it is us who are cut off.
    pub(super) async fn filter(&mut self, named: HashMap<SocketAddr, String>) -> HashMap<SocketAddr, String> {
        if named.len() < 2 {
            self.silent.clear();
            return named;
        }
        let answers = join_all(named.keys().map(async |a| (*a, knock(*a).await))).await;
        let silent: HashSet<_> = answers.iter().filter(|(_, k)| *k == Knock::Silent).map(|(a, _)| *a).collect();
        let gone: HashSet<_> = answers
            .into_iter()
            .filter(|(a, k)| *k == Knock::Refused || (*k == Knock::Silent && self.silent.contains(a)))
            .map(|(a, _)| a)
            .collect();
        self.silent = silent;
        if gone.len() == named.len() {
            return named;
        }
        named.into_iter().filter(|(a, _)| !gone.contains(a)).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knock {
    Answered,
    Refused,
    Silent,
}

async fn knock(address: SocketAddr) -> Knock {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Knock::Answered,
        Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => Knock::Refused,
        Ok(Err(_)) | Err(_) => Knock::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_refuses_is_left_out_unless_all_do() {
        let open = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let (a, b) = (open.local_addr().expect("bound"), closed.local_addr().expect("bound"));
        drop(closed);
        let named = HashMap::from([(a, String::new()), (b, String::new())]);
        let mut reach = Reach::default();
        assert_eq!(reach.filter(named.clone()).await.into_keys().collect::<Vec<_>>(), [a]);
        drop(open);
        assert_eq!(reach.filter(named).await.len(), 2);
    }
}

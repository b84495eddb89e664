//! Where Redis is, and connections that come back by themselves: to one server, to a Redis Cluster,
//! or to whichever server Sentinels call the master.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo as _, Pipeline, RedisFuture, RedisResult,
    TlsMode, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};

const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(500);
/// After a failover a cluster's slots are asked for again so often, once each.
const CLUSTER_RETRIES: u32 = 3;

/// - `redis://[[user]:password@]host:port/`, `rediss://…` with TLS, `redis+unix:///path/to/socket`
/// - `redis+cluster://[[user]:password@]host:port,host:port/` (`rediss+cluster` with TLS): any of its nodes
/// - `redis+sentinel://[[user]:password@]host:port,host:port/master-name` (`rediss+sentinel`): the
///   Sentinels; user and password are those of the servers
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Url(Place);

#[derive(Debug, Clone)]
enum Place {
    One(Client),
    Cluster(Vec<ConnectionInfo>),
    Sentinel { sentinels: Vec<ConnectionInfo>, master: String, server: SentinelNodeConnectionInfo },
}

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(url: String) -> Result<Self, String> {
        let wrong = |e: redis::RedisError| format!("expected a Redis URL: {e}");
        let Some((scheme, rest)) = url.split_once("://") else { return Err("expected a Redis URL".into()) };
        let Some((kind, tls)) = (match scheme {
            "redis+cluster" => Some(("cluster", "redis")),
            "rediss+cluster" => Some(("cluster", "rediss")),
            "redis+sentinel" => Some(("sentinel", "redis")),
            "rediss+sentinel" => Some(("sentinel", "rediss")),
            _ => None,
        }) else {
            let info = url.as_str().into_connection_info().map_err(wrong)?.set_tcp_settings(tcp());
            return Client::open(info).map(|client| Self(Place::One(client))).map_err(wrong);
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = authority.rsplit_once('@').map_or(("", authority), |(c, h)| (c, h));
        let at = |host: &str, scheme: &str, credentials: &str| {
            let at = if credentials.is_empty() { "" } else { "@" };
            let info = format!("{scheme}://{credentials}{at}{host}/").into_connection_info().map_err(wrong)?;
            Ok::<_, String>(info.set_tcp_settings(tcp()))
        };
        if hosts.split(',').any(str::is_empty) {
            return Err(format!("expected {scheme}://host:port,host:port/"));
        }
        if kind == "cluster" {
            let nodes = hosts.split(',').map(|host| at(host, tls, credentials)).collect::<Result<_, _>>()?;
            return Ok(Self(Place::Cluster(nodes)));
        }
        let master = path.trim_end_matches('/').to_owned();
        if master.is_empty() {
            return Err(format!("expected {scheme}://host:port,host:port/MASTER-NAME"));
        }
        let sentinels = hosts.split(',').map(|host| at(host, "redis", "")).collect::<Result<_, _>>()?;
        let mut server = SentinelNodeConnectionInfo::default()
            .set_redis_connection_info(at("localhost", tls, credentials)?.redis_settings().clone())
            .set_tcp_settings(tcp());
        if tls == "rediss" {
            server = server.set_tls_mode(TlsMode::Secure);
        }
        Ok(Self(Place::Sentinel { sentinels, master, server }))
    }
}

impl Url {
    /// A server that tells of published messages: in a cluster every one does.
    pub(crate) async fn publisher(&self) -> RedisResult<Client> {
        match &self.0 {
            Place::One(client) => Ok(client.clone()),
            Place::Cluster(nodes) => {
                let mut last = Err(no_node());
                for node in nodes {
                    let client = Client::open(node.clone())?;
                    match tokio::time::timeout(CONNECT_PATIENCE, client.get_multiplexed_async_connection()).await {
                        Ok(Ok(_)) => return Ok(client),
                        Ok(Err(e)) => last = Err(e),
                        Err(_) => last = Err(no_node()),
                    }
                }
                last
            }
            Place::Sentinel { sentinels, master, server } => {
                let mut sentinel = sentinel(sentinels, master, server)?;
                within(CONNECT_PATIENCE, sentinel.async_get_client()).await
            }
        }
    }
}

/// A pipeline waits for no acknowledgement of the one before; a server whose machine is gone is noticed.
fn tcp() -> TcpSettings {
    let alive = TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5));
    TcpSettings::default().set_nodelay(true).set_keepalive(alive.with_retries(3))
}

async fn within<T>(patience: Duration, call: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    match tokio::time::timeout(patience, call).await {
        Ok(answer) => answer,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

fn no_node() -> redis::RedisError {
    std::io::Error::new(std::io::ErrorKind::NotConnected, "no node of the cluster answers").into()
}

fn sentinel(
    sentinels: &[ConnectionInfo],
    master: &str,
    server: &SentinelNodeConnectionInfo,
) -> RedisResult<SentinelClient> {
    SentinelClient::build(sentinels.to_vec(), master, Some(server.clone()), SentinelServerType::Master)
}

/// Shared by its clones.
#[derive(Clone)]
pub(crate) enum Connection {
    One(ConnectionManager),
    Many(Many),
}

/// Made when first used, and again after trouble.
#[derive(Clone)]
pub(crate) struct Many {
    place: Arc<Place>,
    patience: Duration,
    current: Arc<Mutex<Option<Current>>>,
    /// After trouble nobody tries before: callers must not wait one after the other.
    rests_until: Arc<Mutex<Option<Instant>>>,
}

#[derive(Clone)]
enum Current {
    Cluster(ClusterConnection),
    Master(MultiplexedConnection),
}

/// `patience` bounds the wait for one answer.
pub(crate) fn connection(url: &Url, patience: Duration) -> Connection {
    let Place::One(client) = &url.0 else {
        return Connection::Many(Many {
            place: Arc::new(url.0.clone()),
            patience,
            current: Arc::default(),
            rests_until: Arc::default(),
        });
    };
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_max_delay(Duration::from_millis(500))
        .set_connection_timeout(Some(CONNECT_PATIENCE))
        .set_response_timeout(Some(patience));
    match ConnectionManager::new_lazy_with_config(client.clone(), config) {
        Ok(connection) => Connection::One(connection),
        // Fails only for a configuration that subscribes without a receiver; ours does not.
        Err(e) => unreachable!("connection configuration: {e}"),
    }
}

impl Connection {
    /// Commands of one pipeline then have to be about one hash slot.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Many(many) if matches!(*many.place, Place::Cluster(_)))
    }
}

impl Many {
    async fn current(&self) -> RedisResult<Current> {
        let known = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(current) = known {
            return Ok(current);
        }
        let until = *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_some_and(|until| Instant::now() < until) {
            return Err(std::io::Error::new(std::io::ErrorKind::NotConnected, "was away a moment ago").into());
        }
        let made = within(CONNECT_PATIENCE, self.connect()).await;
        self.after(&made);
        let made = made?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(made.clone());
        Ok(made)
    }

    async fn connect(&self) -> RedisResult<Current> {
        match &*self.place {
            Place::Sentinel { sentinels, master, server } => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT_PATIENCE))
                    .set_response_timeout(Some(self.patience));
                let mut client = sentinel(sentinels, master, server)?;
                client.get_async_connection_with_config(&config).await.map(Current::Master)
            }
            Place::Cluster(nodes) => {
                let builder = ClusterClientBuilder::new(nodes.clone())
                    .connection_timeout(CONNECT_PATIENCE)
                    .response_timeout(self.patience)
                    .overall_response_timeout(Some(self.patience))
                    .tcp_settings(tcp())
                    .retries(CLUSTER_RETRIES);
                builder.build()?.get_async_connection().await.map(Current::Cluster)
            }
            Place::One(client) => client.get_multiplexed_async_connection().await.map(Current::Master),
        }
    }

    /// A server that is gone, or is no master any more, is not asked again. Whatever a server did not say
    /// itself is about the connection: one to a cluster may have lost all its nodes, and does not find them
    /// again by itself.
    fn after<T>(&self, answer: &RedisResult<T>) {
        const ELSEWHERE: [&str; 4] = ["READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN"];
        let is_trouble = |e: &redis::RedisError| e.code().is_none_or(|code| ELSEWHERE.contains(&code));
        if answer.as_ref().is_err_and(is_trouble) {
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
            *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + PAUSE);
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Many(many) => Box::pin(async move {
                let answer = match many.current().await? {
                    Current::Cluster(mut connection) => connection.req_packed_command(cmd).await,
                    Current::Master(mut connection) => connection.req_packed_command(cmd).await,
                };
                many.after(&answer);
                answer
            }),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Many(many) => Box::pin(async move {
                let answer = match many.current().await? {
                    Current::Cluster(mut connection) => connection.req_packed_commands(pipeline, offset, count).await,
                    Current::Master(mut connection) => connection.req_packed_commands(pipeline, offset, count).await,
                };
                many.after(&answer);
                answer
            }),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Many(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let read = |url: &str| Url::try_from(url.to_owned()).map(|url| url.0);
        assert!(matches!(read("redis://:pw@host:6379/"), Ok(Place::One(_))));
        assert!(matches!(read("redis+unix:///run/redis.sock"), Ok(Place::One(_))));
        let Ok(Place::Cluster(nodes)) = read("rediss+cluster://user:pw@a:1,b:2/") else { unreachable!("a cluster") };
        assert_eq!(nodes.iter().map(|n| n.addr().to_string()).collect::<Vec<_>>(), ["a:1", "b:2"]);
        assert_eq!(nodes[1].redis_settings().password(), Some("pw"));
        let Ok(Place::Sentinel { sentinels, master, .. }) = read("redis+sentinel://:pw@a:26379,b:26379/mymaster")
        else {
            unreachable!("sentinels")
        };
        assert_eq!((sentinels.len(), master.as_str()), (2, "mymaster"));
        assert_eq!(sentinels[0].redis_settings().password(), None);
        for wrong in [
            "",
            "http://a/",
            "redis+cluster://",
            "redis+cluster://a:1,,b:2/",
            "redis+sentinel://a:26379/",
            "redis+sentinel:///m",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

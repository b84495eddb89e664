//! The private Redis: a unix socket, an append-only file.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{process::Program, site::Site, user};

const SOCKET: &str = "redis.sock";

pub struct Redis {
    pub program: Program,
    pub socket: PathBuf,
}

/// Where its socket will be.
pub fn socket(site: &Site) -> anyhow::Result<PathBuf> {
    Ok(site.socket_directory("redis-socket", SOCKET, None)?.join(SOCKET))
}

pub fn prepare(site: &Site) -> anyhow::Result<Redis> {
    let path = find()?;
    let socket = socket(site)?;
    let data = site.path("redis");
    let option = |name: &str, value: &str| [format!("--{name}").into(), value.into()];
    let mut arguments = Vec::new();
    arguments.extend(option("port", "0"));
    arguments.extend(["--unixsocket".into(), socket.clone().into_os_string()]);
    arguments.extend(option("unixsocketperm", "700"));
    arguments.extend(["--dir".into(), data.into_os_string()]);
    arguments.extend(option("appendonly", "yes"));
    arguments.extend(option("appendfsync", "everysec"));
    // The append-only file is the whole state; no snapshots beside it.
    arguments.extend(option("save", ""));
    arguments.extend(option("daemonize", "no"));
    arguments.extend(option("maxmemory-policy", "noeviction"));
    let program = Program {
        service: "redis",
        number: 1,
        path,
        arguments,
        environment: Vec::new(),
        account: None,
        capability: None,
    };
    Ok(Redis { program, socket })
}

fn find() -> anyhow::Result<PathBuf> {
    user::find_in_path("redis-server").context("redis-server is not installed: install the package redis-server")
}

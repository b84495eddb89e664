//! A real S3 server: moto's, of the test's own, with one bucket.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{client::venv, eventually, ports::free_address, process::Process};

pub struct S3 {
    address: SocketAddr,
    interpreter: PathBuf,
    process: Process,
}

impl S3 {
    pub const BUCKET: &str = "mail";

    pub async fn start() -> Self {
        let interpreter = venv(&["moto[server]==5.2.5"]);
        let address = free_address();
        let process = Process::start(
            Command::new(&interpreter)
                .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        let s3 = Self { address, interpreter, process };
        eventually("S3 answers", Duration::from_secs(60), || async {
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
        s3.python(&format!("s3.create_bucket(Bucket={:?})", Self::BUCKET));
        s3
    }

    /// The section `content_store`, with a prefix of its own.
    pub fn config(&self, prefix: &str) -> serde_json::Value {
        serde_json::json!({
            "url": format!("s3://{}/{prefix}", Self::BUCKET),
            "endpoint": format!("http://{}", self.address),
            "access_key_id": "test-id",
            "secret_access_key": "test-key",
            "timeout_seconds": 20,
            "sweep_seconds": 1,
        })
    }

    /// Runs a program with boto3's client as `s3`; returns what it printed.
    pub fn python(&self, program: &str) -> String {
        let prelude = format!(
            "import boto3\n\
             s3 = boto3.client('s3', endpoint_url='http://{}', region_name='us-east-1',\n\
             \x20   aws_access_key_id='test-id', aws_secret_access_key='test-key')\n",
            self.address
        );
        let output = Command::new(&self.interpreter).args(["-c", &format!("{prelude}{program}")]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Names below a prefix, in their order.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let program = format!(
            "for page in s3.get_paginator('list_objects_v2').paginate(Bucket={:?}, Prefix='{prefix}/'):\n\
             \x20   for found in page.get('Contents', []): print(found['Key'])",
            Self::BUCKET
        );
        let cut = |line: &str| line[prefix.len() + 1..].to_owned();
        self.python(&program).lines().map(cut).collect()
    }

    /// `STOP` and it hangs, `CONT` and it goes on.
    pub fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }
}

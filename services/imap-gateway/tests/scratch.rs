mod support;
use std::{pin::Pin, sync::atomic::Ordering, task::{Context, Poll}, time::Duration};
use proto::mailboxes::{mailboxes_client::MailboxesClient, mailboxes_server::MailboxesServer, *};
use tonic::{Status, body::Body, codegen::http};

/// A request body whose every error is one to the handler.
struct Unbroken(Body);
impl tonic::codegen::Body for Unbroken {
    type Data = bytes::Bytes;
    type Error = Status;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<http_frame::Frame, Status>>> {
        Pin::new(&mut self.0).poll_frame(cx).map_err(|_| Status::aborted("stream broke off"))
    }
    fn is_end_stream(&self) -> bool { tonic::codegen::Body::is_end_stream(&self.0) }
}
mod http_frame { pub type Frame = http_body::Frame<bytes::Bytes>; }

#[derive(Clone)]
struct Whole<S>(S);
impl<S: tower::Service<http::Request<Body>>> tower::Service<http::Request<Body>> for Whole<S> {
    type Response = S::Response; type Error = S::Error; type Future = S::Future;
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> { self.0.poll_ready(cx) }
    fn call(&mut self, call: http::Request<Body>) -> S::Future { self.0.call(call.map(|b| Body::new(Unbroken(b)))) }
}

async fn run(fix: bool) -> usize {
    let fake = support::Fake::default();
    let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = l.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(l);
    let svc = MailboxesServer::new(fake.clone());
    if fix {
        tokio::spawn(tonic::transport::Server::builder().layer(tower::layer::layer_fn(Whole)).add_service(svc).serve_with_incoming(incoming));
    } else {
        tokio::spawn(tonic::transport::Server::builder().add_service(svc).serve_with_incoming(incoming));
    }
    let ch = tonic::transport::Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
    let mut c = MailboxesClient::new(ch);
    let first = AppendRequest { target: Some(AppendTarget { account_id: 1, mailbox: "INBOX".into(), ..Default::default() }), content: vec![b'x'; 1000].into() };
    let s = tokio_stream::StreamExt::chain(tokio_stream::iter([first]), tokio_stream::pending());
    let h = tokio::spawn(async move { c.append(s).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    h.abort();
    tokio::time::sleep(Duration::from_millis(300)).await;
    fake.appended.load(Ordering::Relaxed)
}
#[tokio::test]
async fn scratch() { assert_eq!((run(false).await, run(true).await), (1, 0)); }

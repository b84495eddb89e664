//! The call that tells of changes: open as long as a session waits, so it must hold little.

use proto::mailboxes::{WatchRequest, WatchResponse};
use runtime::grpc::Channel;
use tonic::{
    GrpcMethod, Request, Status, Streaming,
    client::Grpc,
    codec::{BufferSettings, Codec},
    codegen::http::uri::PathAndQuery,
};
use tonic_prost::ProstCodec;

/// An answer has no field: the 8 kB that other calls keep for theirs would be a quarter of what an
/// idle session costs.
const BUFFER: usize = 64;

/// As generated for Watch, with small buffers.
#[derive(Default)]
struct Small;

type Usual = ProstCodec<WatchRequest, WatchResponse>;

impl Codec for Small {
    type Encode = WatchRequest;
    type Decode = WatchResponse;
    type Encoder = <Usual as Codec>::Encoder;
    type Decoder = <Usual as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        Usual::raw_encoder(BufferSettings::new(BUFFER, BUFFER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        Usual::raw_decoder(BufferSettings::new(BUFFER, BUFFER))
    }
}

pub(crate) async fn watch(
    channel: Channel,
    mut request: Request<WatchRequest>,
) -> Result<Streaming<WatchResponse>, Status> {
    const PATH: &str = "/postroad.mailboxes.v1.Mailboxes/Watch";
    request.extensions_mut().insert(GrpcMethod::new("postroad.mailboxes.v1.Mailboxes", "Watch"));
    let mut calls = Grpc::new(channel);
    calls.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    Ok(calls.server_streaming(request, PathAndQuery::from_static(PATH), Small).await?.into_inner())
}

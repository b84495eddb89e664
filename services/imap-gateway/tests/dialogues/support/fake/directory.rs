use proto::directory::{self, authenticate_response::Step, directory_server::Directory};
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, Fake};

#[tonic::async_trait]
impl Directory for Fake {
    async fn resolve(
        &self,
        _: Request<directory::ResolveRequest>,
    ) -> Result<Response<directory::ResolveResponse>, Status> {
        Err(Status::unimplemented("SMTP"))
    }

    type AuthenticateStream = Answers<directory::AuthenticateResponse>;

    /// PLAIN, with or without initial response.
    async fn authenticate(
        &self,
        request: Request<Streaming<directory::AuthenticateRequest>>,
    ) -> Result<Response<Self::AuthenticateStream>, Status> {
        drop(self.boxes()?);
        let mut requests = request.into_inner();
        let (sender, receiver) = tokio::sync::mpsc::channel(2);
        tokio::spawn(async move {
            let answer = |step| Ok(directory::AuthenticateResponse { step: Some(step) });
            while let Ok(Some(request)) = requests.message().await {
                let step = if !request.has_response {
                    Step::Challenge(Default::default())
                } else if request.response.as_ref() == b"\0bob\0secret" {
                    Step::Success(directory::Account {
                        account_id: 1,
                        address: "bob@example.com".into(),
                        ..Default::default()
                    })
                } else {
                    Step::Failure("authentication failed".into())
                };
                if sender.send(answer(step)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn may_send_as(
        &self,
        _: Request<directory::MaySendAsRequest>,
    ) -> Result<Response<directory::MaySendAsResponse>, Status> {
        Err(Status::unimplemented("SMTP"))
    }

    async fn dkim_keys(
        &self,
        _: Request<directory::DkimKeysRequest>,
    ) -> Result<Response<directory::DkimKeysResponse>, Status> {
        Err(Status::unimplemented("auth-checker"))
    }
}

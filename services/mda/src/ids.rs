//! Identifiers as gRPC, Postgres and people see them.

use address::QueueId;
use tonic::Status;
use uuid::Uuid;

pub fn parse(queue_id: &str) -> Result<Uuid, Status> {
    let id: QueueId = queue_id.parse().map_err(|e| Status::invalid_argument(format!("queue id {queue_id:?}: {e}")))?;
    Ok(Uuid::from_bytes(id.to_bytes()))
}

pub fn show(queue_id: Uuid) -> String {
    QueueId::from_bytes(queue_id.into_bytes()).to_string()
}

/// Ids that Postgres made count from 1, so that nothing is lost.
pub fn unsigned(id: i64) -> u64 {
    u64::try_from(id).unwrap_or_default()
}

pub fn signed(id: u64) -> Result<i64, Status> {
    i64::try_from(id).map_err(|_| Status::invalid_argument("id is out of range"))
}

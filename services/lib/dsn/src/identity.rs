use crate::Action;

/// Whether the recipient's NOTIFY (RFC 3461 §4.1) lets a failure be reported. Empty means that
/// none was given, and then failures are.
pub fn wants_failure(notify: &str) -> bool {
    notify.trim().is_empty() || has(notify, "FAILURE")
}

/// Whether the sender is to be told that delivery takes long (RFC 3461 §4.1). Without NOTIFY that
/// is ours to decide, and senders want to know.
pub fn wants_delay(notify: &str) -> bool {
    notify.trim().is_empty() || has(notify, "DELAY")
}

/// Whether the sender asked to be told of success (RFC 3461 §4.1).
pub fn wants_success(notify: &str) -> bool {
    has(notify, "SUCCESS")
}

fn has(notify: &str, wanted: &str) -> bool {
    notify.split(',').any(|word| word.trim().eq_ignore_ascii_case(wanted))
}

/// The identity of the report of failure about recipients `numbers` of message `queue_id`.
///
/// The same failure gives the same report, so that a crash between accepting the report and
/// settling the failure cannot send two. The time in the first 48 bits stays the message's; the
/// rest is a hash, which need not withstand anybody, because nobody else chooses queue ids.
pub fn report_id(queue_id: &[u8; 16], numbers: &[u32]) -> [u8; 16] {
    identity("dsn", queue_id, numbers)
}

/// The same for any kind of report: one recipient may cause a delay report and a failure report.
pub fn report_id_of(action: Action, queue_id: &[u8; 16], numbers: &[u32]) -> [u8; 16] {
    match action {
        Action::Failed => report_id(queue_id, numbers),
        action => identity(action.as_str(), queue_id, numbers),
    }
}

fn identity(kind: &str, queue_id: &[u8; 16], numbers: &[u32]) -> [u8; 16] {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    // FNV-1a with 128 bits.
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    let tail = sorted.iter().flat_map(|number| number.to_be_bytes());
    for byte in kind.bytes().chain(*queue_id).chain(tail) {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    let mut id = hash.to_be_bytes();
    for (to, from) in id.iter_mut().zip(queue_id).take(6) {
        *to = *from;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_has_the_same_report() {
        let queue_id = [7; 16];
        let id = report_id(&queue_id, &[1, 2]);
        assert_eq!(id, report_id(&queue_id, &[2, 1, 2]));
        assert_eq!(id[..6], queue_id[..6]);
        let others = [report_id(&queue_id, &[1]), report_id(&queue_id, &[12]), report_id(&[8; 16], &[1, 2]), queue_id];
        assert!(others.iter().all(|other| *other != id));
        assert_eq!(report_id_of(Action::Failed, &queue_id, &[1, 2]), id);
        assert_ne!(report_id_of(Action::Delayed, &queue_id, &[1, 2]), id);
    }

    #[test]
    fn notify_decides() {
        for yes in ["", "FAILURE", "success,failure", "DELAY, FAILURE"] {
            assert!(wants_failure(yes), "{yes}");
        }
        for no in ["NEVER", "SUCCESS", "delay"] {
            assert!(!wants_failure(no), "{no}");
        }
        assert!(wants_delay("") && wants_delay("FAILURE, delay") && !wants_delay("FAILURE") && !wants_delay("NEVER"));
        assert!(wants_success("failure,success") && !wants_success("") && !wants_success("NEVER"));
    }
}

/// Whether the recipient's NOTIFY (RFC 3461 §4.1) lets a failure be reported. Empty means that
/// none was given, and then failures are.
pub fn wants_failure(notify: &str) -> bool {
    notify.trim().is_empty() || notify.split(',').any(|word| word.trim().eq_ignore_ascii_case("FAILURE"))
}

/// The identity of the report about recipients `numbers` of message `queue_id`.
///
/// The same failure gives the same report, so that a crash between accepting the report and
/// settling the failure cannot send two. The time in the first 48 bits stays the message's; the
/// rest is a hash, which need not withstand anybody, because nobody else chooses queue ids.
pub fn report_id(queue_id: &[u8; 16], numbers: &[u32]) -> [u8; 16] {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    // FNV-1a with 128 bits.
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    let tail = sorted.iter().flat_map(|number| number.to_be_bytes());
    for byte in b"dsn".iter().copied().chain(*queue_id).chain(tail) {
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
    }

    #[test]
    fn notify_decides() {
        for yes in ["", "FAILURE", "success,failure", "DELAY, FAILURE"] {
            assert!(wants_failure(yes), "{yes}");
        }
        for no in ["NEVER", "SUCCESS", "delay"] {
            assert!(!wants_failure(no), "{no}");
        }
    }
}

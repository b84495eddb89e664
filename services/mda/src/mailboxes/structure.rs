//! The parts of a stored [`Structure`] that a reader wants: the rest is passed over unread.

use bytes::{Buf as _, Bytes};
use prost::{
    DecodeError, Message as _,
    encoding::{DecodeContext, decode_key, skip_field},
};
use proto::mailboxes::Structure;

/// `fields` as in FetchRequest: bit n is field number n + 1; 0 is all of them.
pub fn pick(stored: &Bytes, fields: u32) -> Result<Structure, DecodeError> {
    if fields == 0 {
        return Structure::decode(stored.clone());
    }
    let mut picked = Structure::default();
    let mut rest = stored.clone();
    let context = DecodeContext::default();
    while rest.has_remaining() {
        let (tag, wire_type) = decode_key(&mut rest)?;
        let is_wanted = (1..=32).contains(&tag) && fields & (1 << (tag - 1)) != 0;
        if is_wanted {
            picked.merge_field(tag, wire_type, &mut rest, context.clone())?;
        } else {
            skip_field(wire_type, tag, &mut rest, context.clone())?;
        }
    }
    Ok(picked)
}

#[cfg(test)]
mod tests {
    use proto::mailboxes::Part;

    use super::*;

    #[test]
    fn only_what_is_wanted_is_read() {
        let whole = Structure {
            envelope: "e".into(),
            body: "b".into(),
            bodystructure: "bs".into(),
            parts: vec![Part { section: "1".into(), end: 7, ..Part::default() }],
            preview: Some("p".into()),
            thread_id: "t".into(),
        };
        let stored = Bytes::from(whole.encode_to_vec());
        assert_eq!(pick(&stored, 0).expect("whole"), whole);
        assert_eq!(pick(&stored, 1).expect("whole"), Structure { envelope: "e".into(), ..Structure::default() });
        let picked = pick(&stored, 8 | 16).expect("whole");
        assert_eq!((picked.parts, picked.preview, picked.body), (whole.parts, whole.preview, Bytes::new()));
        assert!(pick(&stored.slice(..stored.len() - 1), 1).is_err(), "damaged");
    }
}

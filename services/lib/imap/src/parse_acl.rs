//! Access control (RFC 4314 §3).

use crate::{
    command::{CommandBody, StoreMode},
    cursor::{Cursor, Result},
};

/// All that there are, in the order of RFC 4314 §2.1.
pub const RIGHTS: &str = "lrswipkxtea";
const MAX_IDENTIFIER: usize = 1000;

pub(crate) fn acl(c: &mut Cursor<'_>, name: &str) -> Result<CommandBody> {
    let mailbox = c.mailbox()?;
    match name {
        "GETACL" => return Ok(CommandBody::GetAcl(mailbox)),
        "MYRIGHTS" => return Ok(CommandBody::MyRights(mailbox)),
        _ => c.space()?,
    }
    let identifier = String::from_utf8(c.astring()?).map_err(|_| "identifier is not UTF-8")?;
    if identifier.is_empty() || identifier.len() > MAX_IDENTIFIER {
        return Err("identifier expected");
    }
    match name {
        "LISTRIGHTS" => return Ok(CommandBody::ListRights { mailbox, identifier }),
        "DELETEACL" => {
            return Ok(CommandBody::SetAcl { mailbox, identifier, mode: StoreMode::Replace, rights: String::new() });
        }
        _ => c.space()?,
    }
    let text = c.astring()?;
    let (mode, letters) = match text.as_slice() {
        [b'+', rest @ ..] => (StoreMode::Add, rest),
        [b'-', rest @ ..] => (StoreMode::Remove, rest),
        all => (StoreMode::Replace, all),
    };
    Ok(CommandBody::SetAcl { mailbox, identifier, mode, rights: rights(letters)? })
}

/// The rights of RFC 2086 stand for those that took their place (RFC 4314 §2.1.1).
fn rights(letters: &[u8]) -> Result<String> {
    let mut wanted = String::new();
    for letter in letters {
        match letter {
            b'c' => wanted.push('k'),
            b'd' => wanted.push_str("xte"),
            letter if RIGHTS.as_bytes().contains(letter) => wanted.push(char::from(*letter)),
            _ => return Err("unknown right"),
        }
    }
    Ok(RIGHTS.chars().filter(|right| wanted.contains(*right)).collect())
}

/// As clients read them: with `c` and `d` for those that know only RFC 2086.
pub fn shown_rights(rights: &str) -> String {
    let mut shown = rights.to_owned();
    if rights.contains('k') {
        shown.push('c');
    }
    if rights.contains(['x', 't', 'e']) {
        shown.push('d');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Names, parse};

    fn read(text: &str) -> std::result::Result<CommandBody, &'static str> {
        parse(format!("a {text}").as_bytes(), Names::Utf7).map(|c| c.body).map_err(|e| e.text)
    }

    #[test]
    fn commands() {
        let set = |mode, rights: &str| {
            Ok(CommandBody::SetAcl { mailbox: "INBOX".into(), identifier: "bob@x".into(), mode, rights: rights.into() })
        };
        assert_eq!(read("SETACL inbox bob@x lr"), set(StoreMode::Replace, "lr"));
        assert_eq!(read("SETACL inbox \"bob@x\" +cd"), set(StoreMode::Add, "kxte"));
        assert_eq!(read("SETACL inbox bob@x -a"), set(StoreMode::Remove, "a"));
        assert_eq!(read("DELETEACL inbox bob@x"), set(StoreMode::Replace, ""));
        assert_eq!(read("GETACL x"), Ok(CommandBody::GetAcl("x".into())));
        assert_eq!(read("MYRIGHTS x"), Ok(CommandBody::MyRights("x".into())));
        for wrong in
            ["SETACL x y L", "SETACL x y lz", "SETACL x y", "SETACL x \"\" l", "GETACL", "LISTRIGHTS x", "MYRIGHTS x y"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(shown_rights("lrkt"), "lrktcd");
    }
}

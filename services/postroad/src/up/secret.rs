//! The key that private keys in the database are encrypted with: made once, and kept beside the
//! data, because without it the data is not whole.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// 32 octets in base64.
pub fn ensure_key(file: &Path) -> anyhow::Result<String> {
    let named = || file.display().to_string();
    if !file.exists() {
        let mut key = [0u8; 32];
        fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut key)).context("/dev/urandom")?;
        let new = file.with_extension("new");
        let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        writeln!(out, "{}", STANDARD.encode(key))?;
        out.sync_all()?;
        // Whole or not at all.
        fs::rename(&new, file).with_context(named)?;
    }
    let text = fs::read_to_string(file).with_context(named)?.trim().to_owned();
    ensure!(STANDARD.decode(&text).is_ok_and(|key| key.len() == 32), "{}: expected 32 octets in base64", named());
    Ok(text)
}

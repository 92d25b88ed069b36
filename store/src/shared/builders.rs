//! `keys/builders.pem`: the public keys of the builders that push to a cache, one PEM block after the other.
//!
//! It saves administrators from copying files: a host takes a key from here once somebody has compared its id. It confers no trust
//! by itself, because anybody who can write to the cache can add to it. Builders only ever append. Two that append at the same
//! moment may overwrite each other, so each looks again; one that is lost is appended by its next push.

use std::sync::Arc;

use super::confirm::{LOOK_AGAIN, ROUNDS, jitter};
use super::{SharedCache, SharedCaches};
use crate::transport::{IfTaken, Name, Transport, TransportError};
use crate::{PublicKey, Result, Store};

/// Size limit of the file in bytes. A key has 113.
const MAX: u64 = 64 << 10;
const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// The builders' keys that a cache offers, each once. What is no key is left out.
///
/// # Errors
///
/// If the cache does not answer.
pub fn offered(transport: &dyn Transport) -> Result<Vec<PublicKey>, TransportError> {
    Ok(parse(&transport.get(&Name::Builders, MAX, &|_| ())?.unwrap_or_default()))
}

/// The text with a key appended; `None` if it has it, or cannot take more.
fn with(text: &[u8], key: &PublicKey) -> Option<Vec<u8>> {
    let mut keys = parse(text);
    if keys.iter().any(|there| there.id() == key.id()) {
        return None;
    }
    keys.push(key.clone());
    let text: String = keys.iter().map(PublicKey::to_pem).collect();
    (text.len() as u64 <= MAX).then(|| text.into_bytes())
}

fn parse(text: &[u8]) -> Vec<PublicKey> {
    let text = String::from_utf8_lossy(text);
    let mut keys: Vec<PublicKey> = Vec::new();
    for block in text.split_inclusive(END) {
        let begin = block.rfind(BEGIN).unwrap_or(0);
        let Ok(key) = PublicKey::from_pem(&format!("{}\n", &block[begin..])) else { continue };
        if keys.iter().all(|there| there.id() != key.id()) {
            keys.push(key);
        }
    }
    keys
}

impl SharedCaches {
    /// Adds a builder's key to those that a cache offers.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Shared`] if the cache fails.
    pub fn offer(&self, cache: &Arc<SharedCache>, key: &PublicKey) -> Result<()> {
        let failed = |trouble| cache.failed(trouble);
        for round in 1..=ROUNDS {
            let there =
                cache.call(|transport| transport.get(&Name::Builders, MAX, &|_| ())).map_err(failed)?;
            let Some(text) = with(&there.unwrap_or_default(), key) else { break };
            cache
                .call(|transport| transport.put(&Name::Builders, &text, IfTaken::Replace))
                .map_err(failed)?;
            std::thread::sleep(LOOK_AGAIN * round + jitter(Some(key), round));
        }
        Ok(())
    }
}

impl Store {
    /// Adds this host's key to those that the store offers where it is served as a cache.
    pub fn offer(&self, key: &PublicKey) -> Result<()> {
        let there = self.read_named(&Name::Builders)?.unwrap_or_default();
        match with(&there, key) {
            Some(text) => self.write_named(&Name::Builders, &text),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SigningKey;

    #[test]
    fn keys_are_appended_once_and_what_is_no_key_is_left_out() {
        let key = |seed| SigningKey::from_seed([seed; 32]).public().clone();
        let (one, two) = (key(1), key(2));
        let text = with(b"", &one).unwrap();
        assert!(with(&text, &one).is_none());
        let text = with(&[b"# a comment\n", &text[..], b"junk"].concat(), &two).unwrap();
        let ids: Vec<_> = parse(&text).iter().map(PublicKey::id).collect();
        assert_eq!(ids, [one.id(), two.id()]);
        assert!(parse(b"-----BEGIN PUBLIC KEY-----\nMA==\n-----END PUBLIC KEY-----\n\xff").is_empty());
        let many: Vec<u8> = (0..=255).flat_map(|seed| key(seed).to_pem().into_bytes()).collect();
        let full = [&many[..], &many, &many].concat();
        assert_eq!(parse(&full).len(), 256);
    }
}

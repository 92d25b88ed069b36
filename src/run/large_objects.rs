//! Keeps large objects in memory between look-up and installation.
//!
//! The look-up reads, verifies and checks every module; the installation writes the same bytes a moment later. Decompressing and
//! hashing 65 MB again takes longer than writing them, so large objects stay in memory until then, within a limit.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use kcache_store::Digest;

/// Size in bytes from which objects are kept; reading smaller ones again costs nothing noticeable.
const LARGE: usize = 1 << 20;

/// Limit in bytes on all of them: twice the size of NVIDIA's modules.
const MOST: usize = 128 << 20;

/// Verified bytes of objects, by digest.
#[derive(Default)]
pub struct LargeObjects(Mutex<BTreeMap<Digest, Vec<u8>>>);

impl LargeObjects {
    /// Keeps an object's verified bytes, if they are large and within the limit.
    pub fn keep(&self, digest: &Digest, bytes: Vec<u8>) {
        if bytes.len() < LARGE {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = kept.iter().filter(|(of, _)| *of != digest).map(|(_, bytes)| bytes.len()).sum::<usize>();
        if others + bytes.len() <= MOST {
            kept.insert(*digest, bytes);
        }
    }

    /// Takes an object's bytes out.
    pub fn take(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::from_bytes([n; 32])
    }

    #[test]
    fn large_objects_are_kept_until_taken() {
        let large = LargeObjects::default();
        large.keep(&digest(1), vec![1; LARGE]);
        large.keep(&digest(2), vec![2; LARGE - 1]);
        assert_eq!(large.take(&digest(1)), Some(vec![1; LARGE]));
        assert_eq!(large.take(&digest(1)), None);
        assert_eq!(large.take(&digest(2)), None);
    }

    #[test]
    fn kept_objects_are_limited() {
        let large = LargeObjects::default();
        for n in 0..5 {
            large.keep(&digest(n), vec![0; MOST / 4]);
            large.keep(&digest(n), vec![0; MOST / 4]); // the same object again uses no more memory
        }
        let kept = (0..5).filter(|n| large.take(&digest(*n)).is_some()).count();
        assert_eq!(kept, 4);
    }
}

//! The iteration order of depmod's hash tables.
//!
//! Modules that `modules.order` does not list, and all symbols, are written by depmod in the order of its hash tables:
//! by bucket, and within a bucket by name (kmod, `shared/hash.c`). So equal files need the same hash function: Paul
//! Hsieh's SuperFastHash, seeded with the length, with WebKit's final mixing. It reads two bytes at a time in native
//! byte order, so the order differs between machines.

/// Numbers of buckets in `depmod_init` (tools/depmod.c): `hash_new(512, ..)` for modules, `hash_new(2048, ..)` for
/// symbols.
pub(super) const MODULES: u32 = 512;
pub(super) const SYMBOLS: u32 = 2048;

/// The bucket of a name.
pub(super) fn bucket(name: &str, buckets: u32) -> u32 {
    hash(name.as_bytes()) & (buckets - 1)
}

fn hash(key: &[u8]) -> u32 {
    let pair = |at: usize| u32::from(u16::from_ne_bytes([key[at], key[at + 1]]));
    let mut hash = key.len() as u32;
    let rest = key.len() & !3;
    for at in (0..rest).step_by(4) {
        hash = hash.wrapping_add(pair(at));
        hash = (hash << 16) ^ (pair(at + 2) << 11) ^ hash;
        hash = hash.wrapping_add(hash >> 11);
    }
    match key.len() - rest {
        3 => {
            hash = hash.wrapping_add(pair(rest));
            hash ^= hash << 16;
            hash ^= u32::from(key[rest + 2]) << 18;
            hash = hash.wrapping_add(hash >> 11);
        }
        2 => {
            hash = hash.wrapping_add(pair(rest));
            hash ^= hash << 11;
            hash = hash.wrapping_add(hash >> 17);
        }
        1 => {
            hash = hash.wrapping_add(u32::from(key[rest]));
            hash ^= hash << 10;
            hash = hash.wrapping_add(hash >> 1);
        }
        _ => {}
    }
    hash ^= hash << 3;
    hash = hash.wrapping_add(hash >> 5);
    hash ^= hash << 4;
    hash = hash.wrapping_add(hash >> 17);
    hash ^= hash << 25;
    hash.wrapping_add(hash >> 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn names_have_the_buckets_of_kmod_30() {
        // The order of these names in a modules.dep without a modules.order.
        let mut names = ["a", "ab", "abc", "abcd", "v4l2loopback", "acpi_call", "xt_ACCOUNT"];
        names.sort_by_key(|name| (bucket(name, MODULES), *name));
        assert_eq!(names, ["abcd", "ab", "v4l2loopback", "a", "abc", "acpi_call", "xt_ACCOUNT"]);
    }
}

//! A content-addressed store: objects named by the digest of their bytes, entries named by the key of what was asked.
//!
//! ```text
//! DIR/                       0755
//!   CACHEDIR.TAG             backup tools leave the directory out (https://bford.info/cachedir/)
//!   format                   "1"
//!   entries/ab/<key>.json    signed envelope around a manifest; the truth
//!   objects/ab/<digest>.zst  zstd of the bytes that the digest names
//!   by-kernel/.../x.json     signed pointers to entries, for hosts that cannot compute a key
//!   signatures/<signer>/<digest>.p7s   detached signatures of objects, which the caller verifies
//!   index.sqlite             derived from the entries: finds them by label, remembers digests of trees
//!   lock/                    one empty file for each lock that is held
//!   tmp/                     0700; what is being written, and scratch directories
//! ```
//!
//! The crate does not read or judge anything of a kernel. It knows kernels and packages by name only: a pointer's path
//! contains a release, the digest of architecture and `uname -v`, and a package name; a detached signature is named by
//! the digest of a module. The caller decides what a key consists of, what outputs are for, and what labels mean. It
//! also passes in the wall clock: every `now` is in seconds since 1970. The monotonic clock is read for time limits,
//! waits and durations. The environment is not read, except that the HTTP client reads the proxy variables.
//!
//! Guarantees:
//! - Readers see a complete file or none, whatever crashes (`publish` is the only way to create a file under its
//!   name).
//! - Every byte is hashed again when it is read. A miss is `None` or `false`; corruption is an error with path,
//!   expected and found. To repair it, call [`Store::forget`] or [`Store::discard_object`], then build or fetch again.
//! - Any number of processes may use a store concurrently. Of two entries for one key, the first is kept.
//! - Data is deleted only on request ([`gc`]), and never while concurrent processes use it.
//! - On a read-only store everything that reads works; whatever only saves time is left out.
//! - The index can be deleted at any time.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::time::Duration;
//!
//! use kcache_store::{Entry, FORMAT, Inserted, Key, Manifest, Outcome, Output, Role, Store, Waiting};
//!
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path().join("store");
//! let waiting = Waiting { limit: Duration::from_secs(10), print: &|_| () };
//! let store = Store::open(&dir, &waiting)?;
//!
//! // Objects come first, then the entry that references them.
//! let module = store.put_object(&mut &b"the bytes of a module"[..])?;
//! let key = Key::from_bytes([7; 32]); // in kcache, the hash of all inputs of a build
//! let now = 1_700_000_000;
//! let output = Output {
//!     name: "zfs.ko".to_owned(),
//!     role: Role::Module,
//!     size: module.size,
//!     digest: module.digest,
//! };
//! let entry = Entry::new(Manifest {
//!     format: FORMAT,
//!     key,
//!     labels: BTreeMap::from([("package".to_owned(), "zfs".to_owned())]),
//!     fields: Vec::new(),
//!     outcome: Outcome::Built,
//!     outputs: vec![output],
//!     observed: Vec::new(),
//!     facts: Default::default(),
//!     builder: "build-host".to_owned(),
//!     created: now,
//! })?;
//! assert_eq!(store.insert(&entry, now)?, Inserted::New);
//!
//! // Later, or in another process.
//! let found = store.lookup(&key)?.expect("the entry was just inserted");
//! let Output { digest, size, .. } = &found.manifest().outputs[0];
//! assert_eq!(store.read_object(digest, *size)?.as_deref(), Some(&b"the bytes of a module"[..]));
//! assert_eq!(store.find(&[("package", "zfs")])?[0].key, key);
//! assert!(store.lookup(&Key::from_bytes([8; 32]))?.is_none(), "a miss");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bundle;
mod digest;
mod disk;
mod entry;
mod envelope;
mod error;
mod exposed;
pub mod gc;
mod index;
mod keys;
mod lease;
mod lock;
mod manifest;
mod notice;
mod object;
mod once_map;
mod pointer;
mod publish;
mod scratch;
mod shards;
mod shared;
mod site;
mod store;
pub mod transport;
pub mod tree;
mod trust;
pub mod verify;

pub use bundle::{Believed, Contents, Exported, Imported, export, import};
pub use digest::{Digest, Key, NotHex, SignerId};
pub use entry::Entry;
pub use envelope::{Envelope, Signature};
pub use error::{Error, Result};
pub use exposed::Exposed;
pub use index::Row;
pub use keys::{PublicKey, SigningKey};
pub use lock::{Lock, Waiting};
pub use manifest::{Field, Manifest, Observed, Outcome, Output, Role};
pub use notice::{Notice, Say, Severity};
pub use object::Stored;
pub use once_map::OnceMap;
pub use pointer::Pointer;
pub use scratch::Scratch;
pub use shared::{
    CacheState, Fetched, Published, Pushed, SharedCache, SharedCaches, SignEntry, offered, offered_site,
    point_here,
};
pub use site::{Site, SiteContent, SiteRule};
pub use store::{Inserted, Store, Usage};
pub use tree::{Fingerprint, TreeRoot, Walk, Written, file_digest, fingerprint, snapshot, tree_digest, walk};
pub use trust::{Distrust, Trust, TrustedKey};

/// Version of the store's layout and of its entries. Stored: readers refuse newer versions.
pub const FORMAT: u32 = 1;

//! Bundles: a set of entries in one file, for air-gapped hosts.
//!
//! A bundle is a plain tar. `tar tf` lists it, and unpacking it gives a store's tree, which can be served as a shared
//! cache:
//! ```text
//! format                                         "1"
//! entries/ab/<key>.json                          in order of key
//! objects/ab/<digest>.zst                        those of the first entry in order of digest, then those that only
//!                                                the second needs, ...
//! by-kernel/<release>/<kernel>/<package>.json    in order of path
//! site.json                                      if it is exported
//! ```
//! All entries come before the first object, because an import trusts some of them and not others, and needs to know
//! which objects the trusted ones need. Each object is contained once, however many entries reference it.
//!
//! Equal sets of entries give equal bytes, whichever store they come from: headers contain only a path and a size, and
//! objects are compressed again. So a bundle can be compared and signed as a file. It also makes reading strict: a
//! header must equal, byte for byte, the header that this module writes for its path and size. This refuses links,
//! devices, sparse files, extended headers, and everything else that programs interpret differently.
//!
//! A bundle is untrusted input. Entries and pointers are used only if trusted keys signed them, objects only if a
//! trusted entry gives their digest and size; nothing else is unpacked, and only trusted entries and one object are in
//! memory. An import that ends early leaves intact entries and objects, which nothing references yet; the next import
//! finds them and continues from there. Two concurrent imports do the same work twice.

mod export;
mod import;
mod members;

use std::io;

use crate::transport::Name;
use crate::{Digest, Key, Pointer};

pub use export::{Contents, Exported, export};
pub use import::{Believed, Imported, import};

/// Size in bytes of a tar block (POSIX.1 pax, "ustar Interchange Format"): a header is one, contents are padded with
/// zeros to a multiple.
const BLOCK: usize = 512;
/// Path of the first member, which contains the format's version.
const FORMAT_PATH: &str = "format";

/// Path of the last member, if there is a site file.
const SITE_PATH: &str = "site.json";

/// The members that a bundle may contain.
#[derive(Debug, Clone, PartialEq)]
enum Member {
    Format,
    Entry(Key),
    Object(Digest),
    Pointer(Name),
    Site,
}

impl Member {
    /// Parses a member's path; `None` for a path that no bundle contains.
    fn parse(path: &str) -> Option<Member> {
        match *path.split('/').collect::<Vec<_>>() {
            [FORMAT_PATH] => Some(Member::Format),
            ["entries", shard, file] if file.get(..2) == Some(shard) => {
                file.strip_suffix(".json")?.parse().ok().map(Member::Entry)
            }
            ["objects", shard, file] if file.get(..2) == Some(shard) => {
                file.strip_suffix(".zst")?.parse().ok().map(Member::Object)
            }
            ["by-kernel", release, kernel, file] => {
                let package = file.strip_suffix(".json")?;
                Pointer::name(release, kernel.parse().ok()?, package).ok().map(Member::Pointer)
            }
            [SITE_PATH] => Some(Member::Site),
            _ => None,
        }
    }

    /// Position of the member's kind in a bundle; sections are in ascending order.
    fn section(&self) -> u8 {
        match self {
            Member::Format => 0,
            Member::Entry(_) => 1,
            Member::Object(_) => 2,
            Member::Pointer(_) => 3,
            Member::Site => 4,
        }
    }
}

/// The header of a member: one block, or three if the path is too long for one (GNU's `L` extension).
fn head(path: &str, size: u64) -> io::Result<Vec<u8>> {
    let plain = |mut header: tar::Header| {
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header
    };
    // ustar's two fields hold the path of every package whose name has less than 96 characters. For longer ones, GNU's
    // extension is older than pax headers and read by as many programs.
    let mut header = plain(tar::Header::new_ustar());
    if header.set_path(path).is_err() {
        header = plain(tar::Header::new_gnu());
    }
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, path, io::empty())?;
    Ok(builder.get_ref().clone())
}

/// Number of zero bytes that pad contents of this size to a whole block.
fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

#[cfg(test)]
mod tests;

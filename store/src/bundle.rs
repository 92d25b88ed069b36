//! Bundles: a set of entries as one file, for hosts without a network.
//!
//! A plain tar, so that `tar tf` lists it, and what is unpacked from it is a store's tree, which can be served as a
//! shared cache:
//! ```text
//! format                                         "1"
//! entries/ab/<key>.json                          in order of key
//! objects/ab/<digest>.zst                        those of the first entry in order of digest, then those that the
//!                                                second needs besides, ...
//! by-kernel/<release>/<kernel>/<package>.json    in order of path
//! ```
//! All entries stand before the first object: whoever imports believes some of them and not others, and only then knows
//! which objects it needs. An object stands once, however many entries speak of it.
//!
//! The same set makes the same bytes, whichever store it comes from: headers hold a path and a size and nothing else,
//! and objects are compressed anew. So a bundle can be compared and signed as a file. It also makes reading strict: a
//! header that is not, byte for byte, the one that is written here for its path and size is refused, and with it every
//! link, device, sparse file and extended header, and all that different programs read differently.
//!
//! A bundle may come from anywhere. Entries and pointers count as far as trusted keys have signed them, objects as far as
//! a believed entry gives their digest and size; nothing else is unpacked, and nothing is held in memory but believed
//! entries and one object. An import that ends early, for whatever reason, leaves whole entries and objects that
//! nothing speaks of; the next one finds both and goes on from there. Two imports at once do the same work twice.

mod export;
mod import;
mod members;

use std::io;

use crate::transport::Name;
use crate::{Digest, Key, Pointer};

pub use export::{Exported, export};
pub use import::{Believed, Imported, import};

/// The unit of a tar: headers are one, contents are filled up with zeros to the next.
const BLOCK: usize = 512;
/// Where the file says which format it has.
const FORMAT_PATH: &str = "format";

/// What a bundle may hold.
#[derive(Debug, Clone, PartialEq)]
enum Member {
    Format,
    Entry(Key),
    Object(Digest),
    Pointer(Name),
}

impl Member {
    /// What lies at this path; none where nothing can.
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
            _ => None,
        }
    }

    /// The kinds follow one another in this order.
    fn section(&self) -> u8 {
        match self {
            Member::Format => 0,
            Member::Entry(_) => 1,
            Member::Object(_) => 2,
            Member::Pointer(_) => 3,
        }
    }
}

/// All that stands before the contents of a file: one block, or three where the path is too long for one.
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
    // ustar's two fields hold the path of every package whose name has less than 96 characters. GNU's extension for the
    // others is older than pax headers and read by as many programs.
    let mut header = plain(tar::Header::new_ustar());
    if header.set_path(path).is_err() {
        header = plain(tar::Header::new_gnu());
    }
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, path, io::empty())?;
    Ok(builder.get_ref().clone())
}

/// How many zeros fill contents of this size up.
fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

#[cfg(test)]
mod tests;

//! Reading the members of an untrusted bundle.
//!
//! The tar crate parses headers, but does not distinguish a complete tar from one that is truncated between two
//! members, and skips what is between them. So this module counts the blocks.

use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

use super::{BLOCK, Member, head, padding};
use crate::Error;
use crate::envelope::MAX_WORDS;
use crate::error::at;

/// Offset of the type flag in a header. A GNU long path is a member of its own, with type `L`.
const KIND: usize = 156;
const LONG_PATH: u8 = b'L';

/// Why reading ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The bundle is not byte for byte as [`super::export()`] writes it.
    Broken {
        /// What should have followed.
        expected: String,
        /// What followed.
        found: String,
    },
    /// An error other than the bundle's content.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

/// A member's header, parsed.
pub(super) struct Head {
    pub(super) path: String,
    pub(super) member: Member,
    pub(super) size: u64,
}

/// Reads the members of a bundle in order.
pub(super) struct Members<'a> {
    origin: &'a Path,
    from: BufReader<&'a mut dyn Read>,
    last: Option<(u8, String)>,
}

impl<'a> Members<'a> {
    pub(super) fn new(origin: &'a Path, from: &'a mut dyn Read) -> Members<'a> {
        Members { origin, from: BufReader::new(from), last: None }
    }

    /// The next header; `None` at the end. Its content must be read or skipped before the next call.
    pub(super) fn next(&mut self) -> Result<Option<Head>, Stop> {
        let mut bytes = self.blocks(1)?;
        if is_zero(&bytes) {
            self.check_end()?;
            return Ok(None);
        }
        if bytes[KIND] == LONG_PATH {
            bytes.extend(self.blocks(2)?);
        }
        let next = parse(&bytes)?;
        self.check_order(&next)?;
        Ok(Some(next))
    }

    /// Reads the content of a member, which may have at most `limit` bytes.
    pub(super) fn content(&mut self, of: &Head, limit: u64) -> Result<Vec<u8>, Stop> {
        if of.size > limit {
            return broken(format!("at most {limit} bytes of {}", of.path), of.size);
        }
        let mut bytes = Vec::new();
        let read = self.from.by_ref().take(of.size).read_to_end(&mut bytes);
        self.check_content(of, read.map(|n| n as u64))?;
        Ok(bytes)
    }

    /// Skips the content of a member.
    pub(super) fn skip(&mut self, of: &Head) -> Result<(), Stop> {
        let read = io::copy(&mut self.from.by_ref().take(of.size), &mut io::sink());
        self.check_content(of, read)
    }

    /// Checks the result of reading a content: its length, and its padding.
    fn check_content(&mut self, of: &Head, read: io::Result<u64>) -> Result<(), Stop> {
        let n = read.map_err(at("read", self.origin))?;
        if n < of.size {
            return broken(
                format!("{} bytes of {}", of.size, of.path),
                format!("the end of the file after {n}"),
            );
        }
        let mut rest = [0; BLOCK];
        let rest = &mut rest[..padding(of.size)];
        self.fill(rest)?;
        if is_zero(rest) { Ok(()) } else { broken(format!("zeros after {}", of.path), "other bytes") }
    }

    /// Checks everything after the first block of zeros.
    fn check_end(&mut self) -> Result<(), Stop> {
        if self.last.is_none() {
            return broken("a bundle", "an empty tar");
        }
        if !is_zero(&self.blocks(1)?) {
            return broken("two blocks of zeros", "one");
        }
        match io::copy(&mut self.from.by_ref().take(1), &mut io::sink()).map_err(at("read", self.origin))? {
            0 => Ok(()),
            _ => broken("the end of the file", "more bytes"),
        }
    }

    /// Checks that members are in the order in which `export` writes them, so none is repeated. The order of objects
    /// depends on the entries, so only the caller can check it.
    fn check_order(&mut self, next: &Head) -> Result<(), Stop> {
        let object = matches!(next.member, Member::Object(_));
        let place = (next.member.section(), if object { String::new() } else { next.path.clone() });
        let in_order = match &self.last {
            None => next.member == Member::Format,
            Some(last) => *last < place || object && *last == place,
        };
        if !in_order {
            return broken("the files of a bundle in their order, each once", &next.path);
        }
        self.last = Some(place);
        Ok(())
    }

    fn blocks(&mut self, n: usize) -> Result<Vec<u8>, Stop> {
        let mut bytes = vec![0; n * BLOCK];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Stop> {
        match self.from.read_exact(bytes) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                broken("another file or two blocks of zeros", "the end of the file")
            }
            read => Ok(read.map_err(at("read", self.origin))?),
        }
    }
}

/// Parses a header; an error unless it is the one that `export` writes for its path and size.
pub(super) fn parse(bytes: &[u8]) -> Result<Head, Stop> {
    let (long, header) = bytes.split_at(bytes.len() - BLOCK);
    let header = tar::Header::from_byte_slice(header);
    let path = match long.get(BLOCK..) {
        Some(path) => path.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
        None => header.path_bytes().into_owned(),
    };
    let shown = || String::from_utf8_lossy(&path).escape_debug().take(MAX_WORDS).collect::<String>();
    let Some((path, member)) = str::from_utf8(&path).ok().and_then(|path| Some((path, Member::parse(path)?)))
    else {
        return broken("a path of a store", format!("`{}`", shown()));
    };
    let as_written = header.entry_size().and_then(|size| Ok((size, head(path, size)?)));
    match as_written {
        Ok((size, written)) if written == bytes => Ok(Head { path: path.to_owned(), member, size }),
        _ => broken(format!("the header of a plain file at {path}"), "another one"),
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// An error that says what was expected and found.
pub(super) fn broken<T>(expected: impl ToString, found: impl ToString) -> Result<T, Stop> {
    Err(Stop::Broken { expected: expected.to_string(), found: found.to_string() })
}

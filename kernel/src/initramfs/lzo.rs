//! LZO1X, of which no well-kept decoder in safe Rust exists (the kernel's Documentation/staging/lzo.rst).
//!
//! A stream is a sequence of instructions, each of which copies bytes that were unpacked before, from some distance, and then
//! a few literal ones. `L` is the length, with more bytes if it is 0, `D` the distance, `S` the number of literals:
//!
//! ```text
//! 0000LLLL                    literals only: 3 + L, or 18 + what the next bytes say; if none came before
//! 0000DDSS H                  2 bytes, distance (H << 2) + D + 1; after 1 to 3 literals
//! 0000DDSS H                  3 bytes, distance (H << 2) + D + 2049; after 4 literals and more
//! 0001HLLL DDDDDDSS DDDDDDDD  2 + L bytes, or 9 + more; distance 16384 + (H << 14) + D; the end if that is 16384
//! 001LLLLL DDDDDDSS DDDDDDDD  2 + L bytes, or 33 + more; distance D + 1
//! 01LDDDSS H                  3 + L bytes, distance (H << 3) + D + 1
//! 1LLDDDSS H                  5 + L bytes, distance (H << 3) + D + 1
//! ```
//!
//! A first byte from 18 on is a number of literals plus 17.

use std::io;

use super::invalid;

/// Unpacks a block of exactly `size` bytes.
///
/// # Errors
///
/// `InvalidData` if it is corrupt.
pub(super) fn unpack(packed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let mut block = Block { packed, unpacked: Vec::with_capacity(size), size };
    block.unpack().filter(|()| block.unpacked.len() == size).ok_or_else(|| invalid("corrupt LZO"))?;
    Ok(block.unpacked)
}

struct Block<'a> {
    packed: &'a [u8],
    unpacked: Vec<u8>,
    size: usize,
}

impl Block<'_> {
    /// `None` if it is corrupt.
    fn unpack(&mut self) -> Option<()> {
        // How many literals came last; more than 3 count as 4.
        let mut literals = 0;
        if let Some(18..) = self.packed.first() {
            let first = self.byte()?;
            self.literals(first - 17)?;
            literals = (first - 17).min(4);
        }
        loop {
            let code = self.byte()?;
            let (length, distance, last) = match code {
                0..16 if literals == 0 => {
                    let length = 3 + self.length(code, 15)?;
                    self.literals(length)?;
                    literals = 4;
                    continue;
                }
                0..16 => {
                    let near = (self.byte()? << 2) + (code >> 2) + 1;
                    if literals < 4 { (2, near, code) } else { (3, near + 2048, code) }
                }
                16..32 => {
                    let length = 2 + self.length(code & 7, 7)?;
                    let low = self.pair()?;
                    let distance = 16384 + ((code & 8) << 11) + (low >> 2);
                    if distance == 16384 {
                        return self.packed.is_empty().then_some(());
                    }
                    (length, distance, low)
                }
                32..64 => {
                    let length = 2 + self.length(code & 31, 31)?;
                    let low = self.pair()?;
                    (length, (low >> 2) + 1, low)
                }
                _ => {
                    let length = if code < 128 { 3 + (code >> 5 & 1) } else { 5 + (code >> 5 & 3) };
                    (length, (self.byte()? << 3) + (code >> 2 & 7) + 1, code)
                }
            };
            self.repeat(length, distance)?;
            literals = last & 3;
            self.literals(literals)?;
        }
    }

    fn byte(&mut self) -> Option<usize> {
        let (first, rest) = self.packed.split_first()?;
        self.packed = rest;
        Some(usize::from(*first))
    }

    fn pair(&mut self) -> Option<usize> {
        Some(self.byte()? | self.byte()? << 8)
    }

    /// A length that is in the instruction, or if it is 0 in the bytes that follow: 255 for each zero, and the last one.
    fn length(&mut self, short: usize, more: usize) -> Option<usize> {
        let mut length = more;
        if short > 0 {
            return Some(short);
        }
        loop {
            match self.byte()? {
                0 => length += 255,
                last => return Some(length + last),
            }
        }
    }

    fn literals(&mut self, count: usize) -> Option<()> {
        let (literals, rest) = self.packed.split_at_checked(count)?;
        self.unpacked.extend_from_slice(literals);
        self.packed = rest;
        (self.unpacked.len() <= self.size).then_some(())
    }

    fn repeat(&mut self, length: usize, distance: usize) -> Option<()> {
        let start = self.unpacked.len().checked_sub(distance)?;
        if self.unpacked.len() + length > self.size {
            return None;
        }
        for at in start..start + length {
            self.unpacked.push(self.unpacked[at]);
        }
        Some(())
    }
}

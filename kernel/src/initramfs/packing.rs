//! The compressions of an initramfs, each decoded exactly up to its end: another archive may follow.
//!
//! | format | first bytes | source |
//! |---|---|---|
//! | gzip, xz, zstd, bzip2 | `1f 8b`, `fd 37 7a 58 5a`, `28 b5 2f fd`, `42 5a 68` | RFC 1952, xz's `file-format.txt`, RFC 8878, bzip2(1) |
//! | lzma | `5d 00 00` | xz's `lzma-file-format.txt` |
//! | LZ4, its legacy frames of 8 MiB | `02 21 4c 18` | `lz4_Frame_format.md`, "Legacy frame"; the kernel reads no other (lib/decompress_unlz4.c) |
//! | LZO, as lzop writes it | `89 4c 5a 4f` | the kernel's lib/decompress_unlzo.c |

use std::io::{self, BufRead, Read};

use liblzma::stream::Stream;

use super::{invalid, lzo};

/// Memory limit in bytes for decoders: enough for any preset of xz, and for `zstd --ultra`. Input must not decide how
/// much memory a decoder takes.
const XZ_MEMORY_MAX: u64 = 256 << 20;
const ZSTD_WINDOW_LOG_MAX: u32 = 28;
/// Bytes in an unpacked block of the legacy format of LZ4.
const LZ4_BLOCK: usize = 8 << 20;
/// Limit in bytes on an unpacked block of lzop (lib/decompress_unlzo.c, `LZO_BLOCK_SIZE`).
const LZO_BLOCK: usize = 256 << 10;
/// As many bytes as tell the compressions apart.
const MAGIC_MAX: usize = 6;
const LZ4_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const LZO_MAGIC: [u8; 9] = [0x89, b'L', b'Z', b'O', 0, b'\r', b'\n', 0x1a, b'\n'];

/// Compression of an archive, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gz,
    Xz,
    Lzma,
    Zst,
    Bz2,
    Lz4,
    Lzo,
}

impl Packing {
    pub(super) fn of(head: &[u8]) -> Option<Packing> {
        let magics: [(&[u8], Packing); 8] = [
            (b"07070", Packing::None),
            (b"\x1f\x8b", Packing::Gz),
            (b"\xfd7zXZ", Packing::Xz),
            (b"\x5d\0\0", Packing::Lzma),
            (b"\x28\xb5\x2f\xfd", Packing::Zst),
            (b"BZh", Packing::Bz2),
            (&LZ4_MAGIC, Packing::Lz4),
            (&LZO_MAGIC[..MAGIC_MAX], Packing::Lzo),
        ];
        magics.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, packing)| packing)
    }
}

/// A stream whose next bytes can be seen before they are read, wherever the buffer below ends.
pub(super) struct Ahead<R> {
    seen: Vec<u8>,
    stream: R,
}

impl<R: BufRead> Ahead<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { seen: Vec::new(), stream }
    }

    /// The compression of what comes next.
    pub(super) fn packing(&mut self) -> io::Result<Option<Packing>> {
        while self.seen.len() < MAGIC_MAX {
            let buffer = self.stream.fill_buf()?;
            let taken = buffer.len().min(MAGIC_MAX - self.seen.len());
            if taken == 0 {
                break;
            }
            self.seen.extend_from_slice(&buffer[..taken]);
            self.stream.consume(taken);
        }
        Ok(Packing::of(&self.seen))
    }
}

impl<R: BufRead> Read for Ahead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Ahead<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.seen.is_empty() { self.stream.fill_buf() } else { Ok(&self.seen) }
    }

    fn consume(&mut self, count: usize) {
        if self.seen.is_empty() { self.stream.consume(count) } else { drop(self.seen.drain(..count)) }
    }
}

/// What is unpacked of successive streams of one compression. Multi-threaded programs write several.
pub(super) struct Unpacked<R: BufRead> {
    packing: Packing,
    state: State<R>,
}

enum State<R: BufRead> {
    Within(Decoder<R>),
    After(Ahead<R>),
    Failed,
}

impl<R: BufRead> Unpacked<R> {
    pub(super) fn new(packing: Packing, stream: Ahead<R>) -> io::Result<Self> {
        Ok(Self { packing, state: State::Within(Decoder::new(packing, stream)?) })
    }

    /// What follows, once all has been read; `None` before.
    pub(super) fn rest(self) -> Option<Ahead<R>> {
        match self.state {
            State::After(stream) => Some(stream),
            _ => None,
        }
    }
}

impl<R: BufRead> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let State::Within(decoder) = &mut self.state else { return Ok(0) };
            let count = decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let State::Within(decoder) = std::mem::replace(&mut self.state, State::Failed) else {
                return Ok(0);
            };
            let mut stream = decoder.into_inner();
            self.state = match stream.packing()? == Some(self.packing) {
                true => State::Within(Decoder::new(self.packing, stream)?),
                false => State::After(stream),
            };
        }
    }
}

enum Decoder<R: BufRead> {
    Gz(flate2::bufread::GzDecoder<Ahead<R>>),
    Xz(liblzma::bufread::XzDecoder<Ahead<R>>),
    Zst(zstd::stream::read::Decoder<'static, Ahead<R>>),
    Bz2(bzip2::bufread::BzDecoder<Ahead<R>>),
    Blocks(Blocks<Ahead<R>>),
}

impl<R: BufRead> Decoder<R> {
    fn new(packing: Packing, mut stream: Ahead<R>) -> io::Result<Self> {
        Ok(match packing {
            Packing::None | Packing::Gz => Decoder::Gz(flate2::bufread::GzDecoder::new(stream)),
            Packing::Xz => {
                let decoder = Stream::new_stream_decoder(XZ_MEMORY_MAX, 0)?;
                Decoder::Xz(liblzma::bufread::XzDecoder::new_stream(stream, decoder))
            }
            Packing::Lzma => {
                let decoder = Stream::new_lzma_decoder(XZ_MEMORY_MAX)?;
                Decoder::Xz(liblzma::bufread::XzDecoder::new_stream(stream, decoder))
            }
            Packing::Zst => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(stream)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Decoder::Zst(decoder)
            }
            Packing::Bz2 => Decoder::Bz2(bzip2::bufread::BzDecoder::new(stream)),
            Packing::Lz4 => {
                stream.read_exact(&mut [0; LZ4_MAGIC.len()])?;
                Decoder::Blocks(Blocks::new(stream, Kind::Lz4))
            }
            Packing::Lzo => {
                let sums = lzop_header(&mut stream)?;
                Decoder::Blocks(Blocks::new(stream, Kind::Lzo(sums)))
            }
        })
    }

    fn into_inner(self) -> Ahead<R> {
        match self {
            Decoder::Gz(decoder) => decoder.into_inner(),
            Decoder::Xz(decoder) => decoder.into_inner(),
            Decoder::Zst(decoder) => decoder.finish(),
            Decoder::Bz2(decoder) => decoder.into_inner(),
            Decoder::Blocks(blocks) => blocks.stream,
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Gz(decoder) => decoder.read(buffer),
            Decoder::Xz(decoder) => decoder.read(buffer),
            Decoder::Zst(decoder) => decoder.read(buffer),
            Decoder::Bz2(decoder) => decoder.read(buffer),
            Decoder::Blocks(blocks) => blocks.read(buffer),
        }
    }
}

/// Formats of blocks, each with its size before it.
struct Blocks<R> {
    stream: R,
    kind: Kind,
    block: io::Cursor<Vec<u8>>,
    ended: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Lz4,
    Lzo(Checksums),
}

/// How many checksums of 4 bytes follow the sizes of a block of lzop.
#[derive(Clone, Copy)]
struct Checksums {
    unpacked: usize,
    packed: usize,
}

impl<R: BufRead> Blocks<R> {
    fn new(stream: R, kind: Kind) -> Self {
        Self { stream, kind, block: io::Cursor::default(), ended: false }
    }

    /// The next block, unpacked; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.kind {
            Kind::Lz4 => self.next_of_lz4(),
            Kind::Lzo(sums) => self.next_of_lzo(sums),
        }
    }

    /// `u32` packed size, little-endian; the block. The end is the stream's, padding, or the magic of another stream.
    fn next_of_lz4(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.stream.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let size = u32::from_le_bytes(array(&mut self.stream)?);
        if size == 0 || size == u32::from_le_bytes(LZ4_MAGIC) {
            // Streams that follow each other are one; an archive after padding is found by its own magic.
            return if size == 0 { Ok(None) } else { self.next_of_lz4() };
        }
        let packed = bounded(&mut self.stream, size, lz4_flex::block::get_maximum_output_size(LZ4_BLOCK))?;
        let mut block = vec![0; LZ4_BLOCK];
        let length =
            lz4_flex::block::decompress_into(&packed, &mut block).map_err(|_| invalid("corrupt LZ4"))?;
        block.truncate(length);
        Ok(Some(block))
    }

    /// `u32` unpacked size, 0 at the end; `u32` packed size, big-endian; checksums; the block, which is plain if it did not
    /// become smaller.
    fn next_of_lzo(&mut self, sums: Checksums) -> io::Result<Option<Vec<u8>>> {
        let unpacked = u32::from_be_bytes(array(&mut self.stream)?);
        if unpacked == 0 {
            return Ok(None);
        }
        if unpacked as usize > LZO_BLOCK {
            return Err(invalid("an LZO block that is too large"));
        }
        let size = u32::from_be_bytes(array(&mut self.stream)?);
        let of_packed = if size < unpacked { sums.packed } else { 0 };
        for _ in 0..sums.unpacked + of_packed {
            array::<4>(&mut self.stream)?;
        }
        let packed = bounded(&mut self.stream, size, unpacked as usize)?;
        if size == unpacked {
            return Ok(Some(packed));
        }
        Ok(Some(lzo::unpack(&packed, unpacked as usize)?))
    }
}

impl<R: BufRead> Read for Blocks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.block.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.ended {
                return Ok(count);
            }
            match self.next()? {
                Some(block) => self.block = io::Cursor::new(block),
                None => self.ended = true,
            }
        }
    }
}

/// Reads lzop's header (lib/decompress_unlzo.c, `parse_header`): after the magic `u16` version, library version and version
/// needed, then method and level of a byte each, `u32` flags, filter if there is one, mode and time, a name with its length,
/// and a checksum.
fn lzop_header(stream: &mut impl Read) -> io::Result<Checksums> {
    const WITH_LEVEL: u16 = 0x0940;
    const WITH_FILTER: u32 = 0x800;
    if array(stream)? != LZO_MAGIC {
        return Err(invalid("no header of lzop"));
    }
    let version = u16::from_be_bytes(array(stream)?);
    let _library: [u8; 2] = array(stream)?;
    if version >= WITH_LEVEL {
        let _needed: [u8; 2] = array(stream)?;
    }
    let _method: [u8; 1] = array(stream)?;
    if version >= WITH_LEVEL {
        let _level: [u8; 1] = array(stream)?;
    }
    let flags = u32::from_be_bytes(array(stream)?);
    if flags & WITH_FILTER != 0 {
        let _filter: [u8; 4] = array(stream)?;
    }
    let _mode_and_time: [u8; 8] = array(stream)?;
    if version >= WITH_LEVEL {
        let _time_high: [u8; 4] = array(stream)?;
    }
    let [length] = array(stream)?;
    bounded(stream, u32::from(length), usize::from(u8::MAX))?;
    let _checksum: [u8; 4] = array(stream)?;
    // Adler-32 and CRC-32 of the unpacked block: flags 0x001 and 0x100; of the packed one: 0x002 and 0x200.
    let set = |flag: u32| usize::from(flags & flag != 0);
    Ok(Checksums { unpacked: set(0x001) + set(0x100), packed: set(0x002) + set(0x200) })
}

fn array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn bounded(stream: &mut impl Read, size: u32, most: usize) -> io::Result<Vec<u8>> {
    if size as usize > most {
        return Err(invalid("a block that is too large"));
    }
    let mut bytes = vec![0; size as usize];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(bytes: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let mut stream = Ahead::new(bytes);
        let packing = stream.packing()?.ok_or_else(|| invalid("unknown"))?;
        let mut unpacked = Unpacked::new(packing, stream)?;
        let (mut all, mut rest) = (Vec::new(), Vec::new());
        unpacked.read_to_end(&mut all)?;
        unpacked.rest().ok_or_else(|| invalid("not at its end"))?.read_to_end(&mut rest)?;
        Ok((all, rest))
    }

    /// `lzop -9` of [`TEXT`].
    const LZOP: &str = "894c5a4f000d0a1a0a104020a00940030903000009000081a46b0def8e0000000001733e8e050000000060\
        00000034f05b24401261200502006263270800000f6465666768696a6b6c6d6e6f707172737475767778797a3031323334353637\
        38392b8c0011000000000000";
    const TEXT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabcabcabcabcdefghijklmnopqrstuvwxyz0123456789\
        abcdefghijklm";

    fn lzop() -> Vec<u8> {
        let digits: Vec<u8> = LZOP.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks_exact(2).map(byte).collect()
    }

    #[test]
    fn what_lzop_wrote_is_read() {
        assert_eq!(unpack(&lzop()).unwrap(), (TEXT.into(), Vec::new()));
        let twice = [lzop(), lzop(), b"rest".to_vec()].concat();
        assert_eq!(unpack(&twice).unwrap(), (TEXT.repeat(2).into(), b"rest".into()));
        let mut claims_more = lzop();
        let block = claims_more.len() - 4 - 0x34 - 12;
        assert_eq!(claims_more[block..block + 4], [0, 0, 0, 0x60]);
        claims_more[block + 3] = 0x61;
        assert_eq!(unpack(&claims_more).unwrap_err().to_string(), "corrupt LZO");
        claims_more[block] = 1;
        assert_eq!(unpack(&claims_more).unwrap_err().to_string(), "an LZO block that is too large");
    }

    #[test]
    fn blocks_of_lz4_that_lie_about_their_size_are_errors() {
        let stream = |size: u32| [&LZ4_MAGIC[..], &size.to_le_bytes(), b"x"].concat();
        assert_eq!(unpack(&stream(1 << 30)).unwrap_err().to_string(), "a block that is too large");
        assert!(unpack(&stream(4)).is_err());
        assert_eq!(unpack(&stream(0)).unwrap(), (Vec::new(), b"x".into()));
    }

    proptest::proptest! {
        #[test]
        fn every_changed_byte_gives_a_result(at in 0usize..120, to: u8) {
            let mut bytes = lzop();
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = unpack(&bytes);
        }

        #[test]
        fn any_block_of_lzo_gives_a_result(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = lzo::unpack(&bytes, 4096);
        }
    }
}

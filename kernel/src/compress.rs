//! Compressed modules, in the three formats that kernels and kmod read.
//!
//! A kernel that decompresses modules itself (`CONFIG_MODULE_DECOMPRESS`) has limited decoders: its xz supports only
//! CRC32 and a small dictionary, so it refuses files made with `xz`'s defaults (CRC64, 8 MiB). The parameters here are
//! those of the kernel's `modules_install` (`scripts/Makefile.modinst`).
//!
//! On one host, equal input gives equal output: there are no names, times or thread counts in it. Output may differ
//! between versions of the libraries, so digests are computed before compression.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// Dictionary size in bytes. `scripts/Makefile.modinst` passes `--check=crc32 --lzma2=dict=1MiB`; the kernel's decoder
/// allocates the dictionary.
const XZ_DICTIONARY: u32 = 1 << 20;
/// xz preset, liblzma's default.
const XZ_PRESET: u32 = 6;
/// zstd level. Level 19 saves 17 % for 30 times the time.
const ZSTD_LEVEL: i32 = 3;
/// Limit on zstd's window as a power of two: 128 MiB, as in `zstd -d`. Input must not decide how much memory a decoder
/// takes.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Memory limit in bytes of the xz decoder, enough for any preset (-9 needs 65 MiB).
const XZ_MEMORY_MAX: u64 = 128 << 20;

/// Compression of a module's file. Stored in `generation.json`: add, never rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// `.ko`
    #[default]
    None,
    /// `.ko.gz`
    Gz,
    /// `.ko.xz`
    Xz,
    /// `.ko.zst`
    Zst,
}

impl Compression {
    /// The suffix after `.ko`: empty, `.gz`, `.xz` or `.zst`.
    pub fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gz => ".gz",
            Self::Xz => ".xz",
            Self::Zst => ".zst",
        }
    }

    /// Splits a module's file name: `snd-pcm.ko.xz` is `("snd-pcm", Xz)`. `None` for other files.
    pub fn of_file_name(name: &str) -> Option<(&str, Self)> {
        [Self::None, Self::Gz, Self::Xz, Self::Zst].into_iter().find_map(|compression| {
            let stem = name.strip_suffix(compression.extension())?.strip_suffix(".ko")?;
            (!stem.is_empty()).then_some((stem, compression))
        })
    }

    /// Whether the kernel's own decoder can read a file, as far as its header tells: for xz only with CRC32 or without
    /// a check (`lib/xz/xz_dec_stream.c`; the check's id is the eighth byte, xz-file-format.txt section 2.1.1.2).
    pub fn is_for_kernels(self, bytes: &[u8]) -> bool {
        self != Self::Xz || bytes.get(7).is_none_or(|check| matches!(check, 0 | 1))
    }

    /// Compresses a module.
    pub fn compress(self, module: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(module.to_vec()),
            Self::Gz => gzip(module),
            Self::Xz => xz(module),
            Self::Zst => zstd::bulk::compress(module, ZSTD_LEVEL),
        }
    }

    /// Decompresses a module. More than `max` bytes are an error; they are never in memory.
    pub fn decompress(self, bytes: &[u8], max: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::None => read_at_most(bytes, max),
            Self::Gz => read_at_most(flate2::read::MultiGzDecoder::new(bytes), max),
            Self::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_MAX, 0)?;
                read_at_most(liblzma::read::XzDecoder::new_stream(bytes, stream), max)
            }
            Self::Zst => {
                let mut decoder = zstd::stream::read::Decoder::new(bytes)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                read_at_most(decoder, max)
            }
        }
    }
}

/// Like `gzip -n`: no name and no time in the header.
fn gzip(module: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::default());
    encoder.write_all(module)?;
    encoder.finish()
}

fn xz(module: &[u8]) -> io::Result<Vec<u8>> {
    use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
    let mut options = LzmaOptions::new_preset(XZ_PRESET)?;
    options.dict_size(XZ_DICTIONARY);
    let stream = Stream::new_stream_encoder(Filters::new().lzma2(&options), Check::Crc32)?;
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(module)?;
    encoder.finish()
}

fn read_at_most(reader: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("a module of more than {max} bytes"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Compression; 4] = [Compression::None, Compression::Gz, Compression::Xz, Compression::Zst];

    #[test]
    fn file_names_show_the_compression() {
        assert_eq!(Compression::of_file_name("snd-pcm.ko"), Some(("snd-pcm", Compression::None)));
        assert_eq!(Compression::of_file_name("a.ko.gz"), Some(("a", Compression::Gz)));
        assert_eq!(Compression::of_file_name("a.ko.xz"), Some(("a", Compression::Xz)));
        assert_eq!(Compression::of_file_name("a.ko.zst"), Some(("a", Compression::Zst)));
        for other in ["", ".ko", ".ko.xz", "a.ko.bz2", "a.o", "modules.dep"] {
            assert_eq!(Compression::of_file_name(other), None, "{other}");
        }
    }

    #[test]
    fn compression_is_reversible() {
        let module = b"\x7fELF and the rest of it ".repeat(9000);
        for compression in ALL {
            let packed = compression.compress(&module).unwrap();
            assert_eq!(compression.compress(&module).unwrap(), packed, "{compression:?} is deterministic");
            assert_eq!(
                compression.decompress(&packed, module.len() as u64).unwrap(),
                module,
                "{compression:?}"
            );
        }
    }

    #[test]
    fn a_decompression_bomb_is_refused_at_the_limit() {
        let zeros = vec![0; 1 << 20];
        for compression in ALL {
            let packed = compression.compress(&zeros).unwrap();
            let error = compression.decompress(&packed, (1 << 20) - 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{compression:?}");
        }
    }

    #[test]
    fn xz_uses_what_the_kernels_decoder_supports() {
        let packed = Compression::Xz.compress(b"module").unwrap();
        // .xz file format 1.2.1: the stream flags follow the six magic bytes; check id 1 is CRC32.
        assert_eq!(packed[..8], *b"\xfd7zXZ\0\0\x01");
        // The block header's filter: LZMA2 (0x21), one byte of properties, 16 = 2^20 bytes of dictionary.
        assert_eq!(packed[14..17], [0x21, 1, 16]);
    }

    #[test]
    fn gzip_contains_neither_name_nor_time() {
        let packed = Compression::Gz.compress(b"module").unwrap();
        assert_eq!(packed[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn corrupt_files_give_an_error_or_bytes(at in 0usize..400, flip in 1u8.., cut in 0usize..400) {
            let module: Vec<u8> = (0..2000u32).flat_map(|i| (i * i).to_le_bytes()).collect();
            for compression in ALL {
                let mut packed = compression.compress(&module).unwrap();
                let at = at % packed.len();
                packed[at] ^= flip;
                let _ = compression.decompress(&packed, 1 << 20);
                packed[at] ^= flip;
                let _ = compression.decompress(&packed[..cut % packed.len()], 1 << 20);
            }
        }
    }
}

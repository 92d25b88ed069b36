//! Bootable images of kernels: where packages install them, and the version text that they contain.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::bounded_read;
use crate::rootfs::Root;

/// Path of a kernel's bootable image, if installed.
pub fn image(root: &Root, release: &str) -> Option<PathBuf> {
    images(release).iter().find_map(|path| root.find(path))
}

/// Paths at which packages install a kernel's image.
pub fn images(release: &str) -> [String; 2] {
    [format!("/boot/vmlinuz-{release}"), format!("/lib/modules/{release}/vmlinuz")]
}

/// The build of an image, as `uname -v` prints it.
pub(super) fn image_version(root: &Root, release: &str) -> Option<String> {
    let text =
        images(release).iter().filter_map(|path| root.find(path)).find_map(|path| image_text(&path))?;
    text.find('#').map(|start| text[start..].to_owned())
}

/// The release in a bootable image.
pub fn image_release(path: &Path) -> Option<String> {
    release_of_image(bounded_read::open(path).ok()?)
}

/// The release in a bootable image that is a part of another file.
pub fn release_of_image(image: impl Read) -> Option<String> {
    text_of(image)?.split_ascii_whitespace().next().map(str::to_owned)
}

fn image_text(path: &Path) -> Option<String> {
    text_of(bounded_read::open(path).ok()?)
}

fn text_of(image: impl Read) -> Option<String> {
    let mut head = Vec::new();
    // The setup code and the text are in the first 64 KiB, because the offset has 16 bits.
    image.take(0x1_0400).read_to_end(&mut head).ok()?;
    bz_image_text(&head)
}

/// The version text in the header of an x86 kernel image (Documentation/arch/x86/boot.rst: `kernel_version`, a 16-bit
/// offset at 0x20e, counted from 0x200). It is `RELEASE (BUILDER) #1 SMP ...`; `uname -v` begins at the `#`.
fn bz_image_text(head: &[u8]) -> Option<String> {
    if head.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = u16::from_le_bytes(head.get(0x20e..0x210)?.try_into().ok()?);
    let text = head.get(0x200 + usize::from(offset)..)?;
    let text = std::str::from_utf8(text.split(|&b| b == 0).next()?).ok()?;
    Some(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_x86_image_contains_its_version() {
        let mut image = vec![0u8; 0x600];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
        image[0x500..0x51c].copy_from_slice(b"6.1.0 (me@host) #1 SMP (day)");
        assert_eq!(bz_image_text(&image).as_deref(), Some("6.1.0 (me@host) #1 SMP (day)"));
        assert_eq!(bz_image_text(&image[..0x204]), None);
    }
}

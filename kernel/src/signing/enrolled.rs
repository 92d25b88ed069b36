//! Certificates that this machine's firmware and shim pass to the kernel: `db` and the machine owner's keys (MOK).
//!
//! ```text
//! /sys/firmware/efi/efivars/db-<GUID>             4 bytes of attributes, then lists
//! /sys/firmware/efi/efivars/MokListRT[N]-<GUID>   the same, created by shim at boot; in parts if it is long
//! ```
//! A list is an `EFI_SIGNATURE_LIST` (UEFI specification, section 32.4.1): the type and size of its entries, and the
//! entries, of which only certificates are used. Only the running machine's firmware is read: that of an image or a
//! chroot is not known.

use fs_err as fs;

use super::Certificate;
use crate::bounded_read;
use crate::rootfs::Root;

const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// `EFI_IMAGE_SECURITY_DATABASE_GUID` and shim's `SHIM_LOCK_GUID`.
const DB: &str = "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f";
const MOK: (&str, &str) = ("MokListRT", "-605dab50-e046-4300-abb6-3dd810dd8b23");
/// `EFI_CERT_X509_GUID`, a5c059a1-94e4-4aa7-87b5-ab155c2bf072, in its encoding in memory.
const X509: [u8; 16] =
    [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
/// Size in bytes of the attributes before a variable's value in efivarfs.
const ATTRIBUTES: usize = 4;
/// Size in bytes of a list's type and its three sizes.
const LIST_HEADER: usize = 28;
/// Size in bytes of an entry's owner GUID.
const OWNER: usize = 16;

/// The certificates enrolled on a machine.
#[derive(Debug, Clone, Default)]
pub struct Enrolled {
    certificates: Vec<Certificate>,
}

impl Enrolled {
    /// Makes it from certificates.
    pub fn of(certificates: Vec<Certificate>) -> Enrolled {
        Enrolled { certificates }
    }

    /// The certificates that can be parsed.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Whether a certificate is enrolled.
    pub fn has(&self, certificate: &Certificate) -> bool {
        self.certificates.contains(certificate)
    }
}

/// The certificates enrolled on this machine; `None` if not known: without UEFI, without shim, or for another system.
pub fn enrolled(root: &Root) -> Option<Enrolled> {
    if !root.is_host() {
        return None;
    }
    let names: Vec<String> = fs::read_dir(VARIABLES)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name == DB || is_mok(name))
        .collect();
    // Shim creates the list of machine owner's keys at each boot; without it, nothing is known about them.
    names.iter().find(|name| is_mok(name))?;
    let mut found = Vec::new();
    for name in names {
        let value =
            bounded_read::bytes(root.outside(VARIABLES).join(name), bounded_read::MOST_CONFIG).ok()?;
        let lists = value.get(ATTRIBUTES..).unwrap_or_default();
        found.extend(parse_list(lists).iter().filter_map(|der| Certificate::of_der(der).ok()));
    }
    Some(Enrolled::of(found))
}

fn is_mok(name: &str) -> bool {
    let number = name.strip_prefix(MOK.0).and_then(|rest| rest.strip_suffix(MOK.1));
    number.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// The certificates, in DER, of consecutive signature lists. Parsing ends at the first inconsistency.
pub fn parse_list(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((list, rest)) = split_list(bytes) {
        found.extend(list);
        bytes = rest;
    }
    found
}

/// The certificates of the first list, and the remaining bytes.
fn split_list(bytes: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    let number = |at: usize| {
        let four = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(four)).ok()
    };
    let (kind, size, header, entry) = (bytes.get(..16)?, number(16)?, number(20)?, number(24)?);
    let entries = bytes.get(LIST_HEADER.checked_add(header)?..size)?;
    let rest = bytes.get(size..)?;
    if kind != X509 || entries.is_empty() {
        return Some((Vec::new(), rest));
    }
    if entry <= OWNER || entries.len() % entry != 0 {
        return None;
    }
    Some((entries.chunks_exact(entry).map(|entry| &entry[OWNER..]).collect(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(kind: [u8; 16], header: &[u8], entries: &[&[u8]]) -> Vec<u8> {
        let entry = OWNER + entries.first().map_or(0, |entry| entry.len());
        let size = LIST_HEADER + header.len() + entries.len() * entry;
        let numbers = [size, header.len(), entry].map(|number| (number as u32).to_le_bytes()).concat();
        let mut bytes = [&kind[..], &numbers, header].concat();
        for data in entries {
            bytes.extend([7; OWNER]);
            bytes.extend(*data);
        }
        bytes
    }

    #[test]
    fn certificates_are_found_among_hashes_and_in_several_lists() {
        let hashes = list([9; 16], b"", &[&[1; 32], &[2; 32]]);
        let bytes = [
            hashes.clone(),
            list(X509, b"", &[b"one"]),
            list(X509, b"head", &[b"two", b"six"]),
            hashes,
            list(X509, b"", &[]),
            list(X509, b"", &[b"three"]),
        ];
        assert_eq!(parse_list(&bytes.concat()), [&b"one"[..], b"two", b"six", b"three"]);
    }

    #[test]
    fn an_inconsistent_list_ends_parsing() {
        let good = list(X509, b"", &[b"one"]);
        let with = |at: usize, number: u32| {
            let mut bad = list(X509, b"", &[b"two"]);
            bad[at..at + 4].copy_from_slice(&number.to_le_bytes());
            [good.clone(), bad, good.clone()].concat()
        };
        for (at, number) in
            [(16, 0), (16, 27), (16, u32::MAX), (20, 100), (20, u32::MAX), (24, 0), (24, 16), (24, 18)]
        {
            assert_eq!(parse_list(&with(at, number)), [b"one"], "{number} at {at}");
        }
        for cut in 1..good.len() {
            assert_eq!(parse_list(&[&good[..], &good[..cut]].concat()), [b"one"], "cut at {cut}");
        }
    }

    #[test]
    fn variables_are_known_by_their_names() {
        let guid = MOK.1;
        assert!(is_mok(&format!("MokListRT{guid}")) && is_mok(&format!("MokListRT12{guid}")));
        assert!(!is_mok(&format!("MokListXRT{guid}")) && !is_mok("MokListRT-other"));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_result(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), is_x509: bool) {
            if is_x509 && bytes.len() >= 24 {
                bytes[..16].copy_from_slice(&X509);
                bytes[17..20].fill(0);
                bytes[21..24].fill(0);
            }
            parse_list(&bytes);
        }
    }
}

//! PEM: blocks in a text file, with any text between them (RFC 7468).

use der::pem;
use zeroize::Zeroizing;

/// A block: its label, and the DER in it.
pub(super) struct Block {
    pub(super) label: String,
    pub(super) der: Zeroizing<Vec<u8>>,
}

/// All blocks of a file; `None` if it is not PEM. An error says which block is invalid.
pub(super) fn blocks(bytes: &[u8]) -> Option<Result<Vec<Block>, String>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let starts: Vec<usize> = text.match_indices("-----BEGIN ").map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let blocks = starts.iter().zip(ends).map(|(start, end)| block(&text[*start..end]));
    (!starts.is_empty()).then(|| blocks.collect())
}

/// Parses the block at the beginning of a text.
fn block(text: &str) -> Result<Block, String> {
    let label = text["-----BEGIN ".len()..].split("-----").next().unwrap_or_default().to_owned();
    let end = format!("-----END {label}-----");
    let whole = text.find(&end).map(|at| &text[..at + end.len()]);
    let whole = whole.ok_or_else(|| format!("the block `{}` has no end", label.escape_debug()))?;
    // OpenSSL's own encryption, older than PKCS#8, has headers inside the block.
    if whole.contains("Proc-Type:") {
        return Err(format!(
            "the block `{label}` uses an old encryption; convert it to PKCS#8 with `openssl pkcs8 -topk8`"
        ));
    }
    let (_, der) = pem::decode_vec(whole.as_bytes()).map_err(|e| format!("the block `{label}`: {e}"))?;
    Ok(Block { label, der: Zeroizing::new(der) })
}

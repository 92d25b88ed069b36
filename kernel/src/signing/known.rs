//! Signers that a kernel trusts, as far as that is known from outside.
//!
//! The certificates built into a kernel cannot be read before it runs, and that of its in-tree modules seldom
//! afterwards. Known are the one with which this host signs, and those that firmware and shim have enrolled. The
//! kernel may trust other signers, so foreign modules of unknown signers are not reported. The signer of kcache's own
//! modules must be known.

use super::{Certificate, Enrolled, message_of};
use crate::enforcement::Enforcement;
use crate::ko::{Defect, split_signature};

/// Certificates for verifying signatures.
#[derive(Debug, Clone, Default)]
pub struct KnownKeys {
    /// Those configured on this host.
    pub configured: Vec<Certificate>,
    /// Those enrolled on this machine; `None` if not known.
    pub enrolled: Option<Enrolled>,
    /// Whether some of the configured ones could not be read.
    pub incomplete: bool,
}

/// The state of a module's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signed {
    /// The module is unsigned.
    Not,
    /// The signature cannot be parsed; the reason.
    Unreadable(String),
    /// The signer's certificate is not known; the signer as named in the signature.
    Unknown(String),
    /// It names the certificate with this subject, but does not verify with it.
    Wrong(String),
    /// It is valid.
    By {
        /// The certificate's subject.
        subject: String,
        /// Whether the certificate is enrolled; `None` if not known.
        enrolled: Option<bool>,
    },
}

impl KnownKeys {
    /// Determines the state of a module's signature.
    pub fn signer_of(&self, module: &[u8]) -> Signed {
        let message = match message_of(module) {
            None => return Signed::Not,
            Some(Err(error)) => return Signed::Unreadable(error.to_string()),
            Some(Ok(message)) => message,
        };
        let (body, _) = split_signature(module);
        let named: Vec<&Certificate> = self.all().filter(|known| message.names(known)).collect();
        let Some(first) = named.first() else { return Signed::Unknown(message.sid.to_string()) };
        match named.iter().find(|known| message.verifies(body, known)) {
            Some(signer) => Signed::By {
                subject: signer.subject(),
                enrolled: self.enrolled.as_ref().map(|enrolled| enrolled.has(signer)),
            },
            None => Signed::Wrong(first.subject()),
        }
    }

    /// The defect of a module because of its signature, if any. `own` says that it is kcache's.
    pub fn object(&self, signed: &Signed, enforcement: Option<&Enforcement>, own: bool) -> Option<Defect> {
        match (signed, enforcement) {
            (Signed::Not, Some(why)) => Some(Defect::Unsigned { why: why.to_string() }),
            (Signed::Unreadable(why), enforced) if own || enforced.is_some() => {
                Some(Defect::BadSignature { why: why.clone() })
            }
            (Signed::Wrong(subject), enforced) if own || enforced.is_some() => Some(Defect::BadSignature {
                why: format!("does not verify with the certificate of {subject}"),
            }),
            (Signed::Unknown(signer), Some(_)) if own && !self.incomplete => {
                Some(Defect::UnknownSigner { signer: signer.clone() })
            }
            (Signed::By { subject, enrolled: Some(false) }, Some(Enforcement::SecureBoot)) if own => {
                Some(Defect::NotEnrolled { signer: subject.clone() })
            }
            _ => None,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Certificate> {
        let enrolled = self.enrolled.iter().flat_map(|enrolled| enrolled.certificates());
        self.configured.iter().chain(enrolled)
    }
}

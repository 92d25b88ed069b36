//! Whose signatures a kernel will take, as far as that can be told from outside.
//!
//! The certificates that are built into a kernel cannot be read before it runs, and those of its own modules' key seldom
//! after. Known are the one that this host signs with, and what firmware and shim have enrolled. A signer who is not among
//! them may still be one whom the kernel trusts: of other people's modules nothing is said then. Of kcache's own modules
//! more is expected: who signed them is to be known.

use super::{Certificate, Enrolled, message_of};
use crate::enforcement::Enforcement;
use crate::ko::{Defect, split_signature};

/// Certificates that signatures are checked with.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Those that are configured on this host.
    pub configured: Vec<Certificate>,
    /// What this machine has enrolled; `None` where that cannot be told.
    pub enrolled: Option<Enrolled>,
    /// Not all that is configured could be read.
    pub incomplete: bool,
}

/// What a module's signature says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signed {
    /// There is none.
    Not,
    /// It cannot be read.
    Unreadable(String),
    /// By somebody whose certificate is not known.
    Unknown(String),
    /// It names this certificate's subject, and does not verify with it.
    Wrong(String),
    /// It verifies.
    By {
        /// The certificate's subject.
        subject: String,
        /// Whether the certificate is enrolled; `None` where that cannot be told.
        enrolled: Option<bool>,
    },
}

impl Known {
    /// Who signed a module.
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

    /// Why a kernel would not take a module for its signature, or somebody should look. `own`: it is kcache's.
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

//! Private keys in hardware: PKCS#11, given by a `pkcs11:` URI (RFC 7512).
//!
//! ```text
//! pkcs11:token=fleet;object=modules;id=%01?module-path=/usr/lib/softhsm/libsofthsm2.so
//! ```
//! The part before the `?` selects token and key, with as many attributes as make them unique; the part after it names
//! the token's library, by default `p11-kit`'s. The PIN comes from `pin-source`, a file, or from the configured
//! secret; `pin-value` is refused, because configurations are readable.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error::Pkcs11 as Refused;
use cryptoki::error::RvError;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::{Error, Hash, Secret};

/// `p11-kit`'s library, which includes all PKCS#11 modules configured on a system.
const ANY_MODULE: &str = "p11-kit-proxy.so";

/// A key in a token, with the session in which it was found.
pub(super) struct Token {
    /// A session performs one operation at a time.
    session: Mutex<Session>,
    key: ObjectHandle,
    is_rsa: bool,
}

impl Token {
    /// Finds the one key that a URI describes, and logs in.
    pub(super) fn open(uri: &str, pin: Option<&Secret>) -> Result<Token, Error> {
        let uri = Uri::parse(uri)?;
        let context = Pkcs11::new(&uri.module).map_err(wrong(&format!("cannot load {}", uri.module)))?;
        let threads = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match context.initialize(threads) {
            // Another key of this process uses the same library.
            Ok(()) | Err(Refused(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(e) => return Err(wrong("cannot initialize the library")(e)),
        }
        let slot = uri.slot(&context)?;
        let session = context.open_ro_session(slot).map_err(wrong("cannot open a session"))?;
        let pin = uri.pin.as_ref().or(pin).map(Secret::read).transpose()?;
        login(&session, pin)?;
        let key = uri.key(&session)?;
        let kind = session
            .get_attributes(key, &[AttributeType::KeyType])
            .map_err(wrong("cannot read the type of the key"))?;
        Ok(Token {
            is_rsa: kind.contains(&Attribute::KeyType(KeyType::RSA)),
            session: Mutex::new(session),
            key,
        })
    }

    /// Signs these bytes. They are hashed here, because a token's own hashing is slow, and not all tokens support it.
    pub(super) fn sign(&self, hash: Hash, body: &[u8]) -> Result<Vec<u8>, Error> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = wrong("signing failed");
        if self.is_rsa {
            return session.sign(&Mechanism::RsaPkcs, self.key, &hash.digest_info(body)?).map_err(failed);
        }
        let raw = session.sign(&Mechanism::Ecdsa, self.key, &hash.digest(body)).map_err(failed)?;
        let der = match raw.len() {
            64 => p256::ecdsa::Signature::from_slice(&raw).map(|s| s.to_der().as_bytes().to_owned()),
            _ => p384::ecdsa::Signature::from_slice(&raw).map(|s| s.to_der().as_bytes().to_owned()),
        };
        der.map_err(|_| bad("not an RSA key, or ECDSA key on P-256 or P-384"))
    }
}

fn login(session: &Session, pin: Option<Zeroizing<String>>) -> Result<(), Error> {
    let Some(pin) = pin else { return Ok(()) };
    session.login(UserType::User, Some(&AuthPin::from(pin.as_str()))).map_err(wrong("wrong PIN"))
}

/// A parsed URI.
#[derive(Debug, PartialEq, Eq, Default)]
struct Uri {
    token: Option<String>,
    serial: Option<String>,
    manufacturer: Option<String>,
    model: Option<String>,
    object: Option<String>,
    id: Option<Vec<u8>>,
    module: String,
    pin: Option<Secret>,
}

impl Uri {
    fn parse(uri: &str) -> Result<Uri, Error> {
        let rest = uri.strip_prefix("pkcs11:").ok_or_else(|| bad("the URI must begin with pkcs11:"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut found = Uri { module: ANY_MODULE.to_owned(), ..Uri::default() };
        for (name, value) in attributes(path, ';')? {
            let text = || String::from_utf8(value.clone()).map_err(|_| bad(&format!("{name} is not UTF-8")));
            match name {
                "token" => found.token = Some(text()?),
                "serial" => found.serial = Some(text()?),
                "manufacturer" => found.manufacturer = Some(text()?),
                "model" => found.model = Some(text()?),
                "object" => found.object = Some(text()?),
                "id" => found.id = Some(value),
                "type" if value == b"private" => {}
                other => return Err(bad(&format!("unknown attribute {other} in the URI"))),
            }
        }
        for (name, value) in attributes(query, '&')? {
            let text = String::from_utf8(value).map_err(|_| bad(&format!("{name} is not UTF-8")))?;
            match name {
                "module-path" => found.module = text,
                "pin-source" => {
                    let path = text.strip_prefix("file:").unwrap_or(&text).trim_start_matches("//");
                    found.pin = Some(Secret::File(PathBuf::from(path)));
                }
                "pin-value" => {
                    return Err(bad("the URI must not contain a PIN; use pin-source or passphrase-file"));
                }
                _ => return Err(bad("unknown attribute after the ? of the URI")),
            }
        }
        Ok(found)
    }

    /// The only token that matches.
    fn slot(&self, context: &Pkcs11) -> Result<Slot, Error> {
        let slots = context.get_slots_with_initialized_token().map_err(wrong("cannot list slots"))?;
        let fits = |slot: &Slot| context.get_token_info(*slot).is_ok_and(|info| self.is_of(&info));
        match slots.into_iter().filter(fits).collect::<Vec<_>>()[..] {
            [slot] => Ok(slot),
            [] => Err(bad("token not found")),
            _ => Err(bad("several tokens match")),
        }
    }

    fn is_of(&self, info: &TokenInfo) -> bool {
        let agrees = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found.trim_end_matches([' ', '\0']))
        };
        agrees(&self.token, info.label())
            && agrees(&self.serial, info.serial_number())
            && agrees(&self.manufacturer, info.manufacturer_id())
            && agrees(&self.model, info.model())
    }

    /// The only private key that matches.
    fn key(&self, session: &Session) -> Result<ObjectHandle, Error> {
        let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY)];
        template.extend(self.object.iter().map(|label| Attribute::Label(label.clone().into_bytes())));
        template.extend(self.id.iter().map(|id| Attribute::Id(id.clone())));
        match session.find_objects(&template).map_err(wrong("cannot list keys"))?[..] {
            [key] => Ok(key),
            [] => Err(bad("no matching private key, or a PIN is needed")),
            _ => Err(bad("several private keys match")),
        }
    }
}

/// The attributes of one part of a URI, percent-decoded.
fn attributes(text: &str, separator: char) -> Result<Vec<(&str, Vec<u8>)>, Error> {
    // Messages do not quote the text, which may be part of a PIN.
    let split = |part| {
        let (name, value) =
            str::split_once(part, '=').ok_or_else(|| bad("an attribute in the URI has no value"))?;
        Ok((name, decoded(value).ok_or_else(|| bad("an attribute in the URI has an invalid % sequence"))?))
    };
    text.split(separator).filter(|part| !part.is_empty()).map(split).collect()
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, more) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = more;
    }
    Some(bytes)
}

fn bad(reason: &str) -> Error {
    Error::Token { reason: reason.to_owned() }
}

fn wrong(what: &str) -> impl Fn(cryptoki::error::Error) -> Error {
    let what = what.to_owned();
    move |e| bad(&format!("{what}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_token_key_and_library() {
        let uri = Uri::parse(
            "pkcs11:token=my%20token;object=modules;id=%01%ab;type=private?module-path=/usr/lib/x.so&pin-source=file:/etc/pin",
        )
        .unwrap();
        assert_eq!(uri.token.as_deref(), Some("my token"));
        assert_eq!((uri.object.as_deref(), uri.id.as_deref()), (Some("modules"), Some(&[1, 0xab][..])));
        assert_eq!((uri.module.as_str(), uri.pin), ("/usr/lib/x.so", Some(Secret::File("/etc/pin".into()))));
        assert_eq!(Uri::parse("pkcs11:").unwrap().module, ANY_MODULE);
    }

    #[test]
    fn invalid_uris_are_refused() {
        let check = |uri: &str, expect: &str| {
            let told = Uri::parse(uri).unwrap_err().to_string();
            assert!(told.contains(expect), "{told}");
        };
        check("pkcs11:token=a?pin-value=1234", "pin-source");
        check("pkcs11:colour=red", "unknown attribute colour");
        check("pkcs11:token", "has no value");
        check("pkcs11:token=%4", "invalid % sequence");
        check("pkcs11:token=a?module-path=/a&12&34=5", "has no value");
        check("pkcs11:token=%ff", "token is not UTF-8");
        check("pkcs11:type=public", "unknown attribute type");
        check("/etc/key.pem", "pkcs11:");
    }
}

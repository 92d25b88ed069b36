//! Why there is no build for a host that cannot make one: so that a program can tell what to wait for from what a person must mend.

use kcache_kernel::kernels;
use kcache_store::CacheState;

use crate::run::request::Request;
use crate::run::select;
use crate::run::session::Session;

/// Why shared caches gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// They answered, and have no build for exactly this kernel.
    NotBuiltYet,
    /// One has something, signed by keys that this host does not trust.
    Untrusted,
    /// No key is trusted, so they were not asked.
    NoTrustedKey,
    /// At least one could not be asked, and the others have nothing.
    CacheUnreachable,
    /// They were not asked, because it is unknown which build of the kernel is installed.
    NotAsked,
    /// None is configured, or none is to be used.
    NoCache,
    /// No package of this name is known, and one of a similar name is.
    Unknown,
}

impl Reason {
    /// Its name in JSON: never change it.
    pub fn word(self) -> &'static str {
        match self {
            Reason::NotBuiltYet => "not-built-yet",
            Reason::Untrusted => "untrusted",
            Reason::NoTrustedKey => "no-trusted-key",
            Reason::CacheUnreachable => "cache-unreachable",
            Reason::NotAsked => "not-asked",
            Reason::NoCache => "no-cache",
            Reason::Unknown => "unknown-package",
        }
    }

    /// Whether the same request may succeed later without anybody changing this host.
    pub fn may_pass(self) -> bool {
        matches!(self, Reason::NotBuiltYet | Reason::CacheUnreachable)
    }
}

/// What is missing for a build.
#[derive(Clone, Debug)]
pub struct Lack {
    /// Why caches gave nothing.
    pub reason: Reason,
    /// Whether the package's source is on this machine, so that headers would do.
    pub has_source: bool,
    /// What is missing, in words.
    pub error: String,
    /// What to do.
    pub hint: String,
}

/// What is missing for a request that no cache could answer. `asked` is whether it is known what to ask for, and `distrusted`
/// whether a cache has something that this host does not trust.
pub(super) fn of(session: &Session, request: &Request, asked: bool, distrusted: bool) -> Lack {
    let (context, release) = (session.context, &request.kernel.release);
    let has_source = request.package.has_source();
    let offline = context.elsewhere.offline;
    let states = context.caches().states();
    let unreachable = states.iter().find_map(|(url, state)| match state {
        CacheState::Unreachable(why) => Some(format!("{url} {why}")),
        CacheState::NotAsked | CacheState::Answered => None,
    });
    let nearest = nearest(session, request).filter(|_| !has_source);
    let reason = if context.caches().is_empty() {
        Reason::NoCache
    } else if context.caches().trust().keys().next().is_none() {
        Reason::NoTrustedKey
    } else if !asked {
        Reason::NotAsked
    } else if distrusted {
        Reason::Untrusted
    } else if unreachable.is_some() {
        Reason::CacheUnreachable
    } else if nearest.is_some() {
        Reason::Unknown
    } else {
        Reason::NotBuiltYet
    };
    let caches = match (reason, unreachable) {
        (Reason::NoCache, _) if offline => "shared caches are not used (--offline)".to_owned(),
        (Reason::NoCache, _) => "no shared cache is configured".to_owned(),
        (Reason::NoTrustedKey, _) => "shared caches are not used, because no key is trusted".to_owned(),
        (Reason::NotAsked, _) => {
            "caches were not asked: no image tells which build of the kernel this is".to_owned()
        }
        (Reason::Untrusted, _) => {
            "what a cache has is signed by keys that this host does not trust".to_owned()
        }
        (Reason::CacheUnreachable, Some(why)) => format!("shared cache {why}"),
        _ => "no cache has a build for exactly this kernel yet".to_owned(),
    };
    let lacks = match has_source {
        true => request.kernel.why_no_headers(),
        false => "no source installed".to_owned(),
    };
    let hint = match (nearest, reason) {
        (Some(nearest), Reason::Unknown) => format!("did you mean '{nearest}'?"),
        _ if has_source => kernels::headers_hint(&context.root, release),
        (_, Reason::NoCache) if offline => "run it again without --offline".to_owned(),
        (_, Reason::NoCache) => "run `kcache use URL --key ID` to use one, see docs/fleet.md".to_owned(),
        (_, Reason::NoTrustedKey | Reason::Untrusted) => {
            "run `kcache keys trust FILE` with a builder's public key".to_owned()
        }
        (_, Reason::NotAsked) => format!("install the kernel's image (Debian: linux-image-{release})"),
        (_, Reason::CacheUnreachable) => {
            format!("run `kcache install -k {release}` again when it can be reached")
        }
        _ => format!("run `kcache install -k {release}` again once a builder has built it"),
    };
    Lack { reason, has_source, error: format!("{lacks}, and {caches}"), hint }
}

/// The known package whose name is the most similar.
fn nearest(session: &Session, request: &Request) -> Option<String> {
    let wanted = &session.context.elsewhere.wanted;
    let name = &request.package.name;
    if wanted.contains(name) {
        return None;
    }
    let names = request.all.iter().map(|package| &package.name).chain(wanted).filter(|other| *other != name);
    select::nearest(name, names.map(String::as_str))
}

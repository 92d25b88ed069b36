//! Protection against server-side request forgery: which addresses redirects, logins and upload locations may have.
//!
//! A malicious public cache could otherwise make kcache send requests that only this machine can: to services on its
//! loopback interface, to a cloud instance's metadata at `169.254.169.254`, or to an administration page in its own
//! network. So each address has a reach, and no server may lead to a nearer one than its own:
//!
//! | reach | addresses | servers that may lead there |
//! |---|---|---|
//! | loopback | `127.0.0.0/8`, `::1`, `0.0.0.0/8`, `::` | loopback |
//! | link | `169.254.0.0/16`, `fe80::/10`, and two other addresses of clouds' instance metadata | link |
//! | private | RFC 1918, RFC 6598, RFC 4193, multicast, reserved | loopback, link, private |
//! | public | the rest | all |
//!
//! A server's reach is the nearest of its name's addresses at the first request; addresses that the name has later are
//! checked against it, so DNS rebinding leads nowhere. Names are checked after resolution, when they are connected to.
//! A proxy resolves names itself: then only literal addresses are checked here.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// How far away an address is reachable from, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Loopback,
    Link,
    Private,
    Public,
}

impl Reach {
    fn of(address: IpAddr) -> Reach {
        match address {
            IpAddr::V4(v4) => Reach::of_v4(v4),
            IpAddr::V6(v6) => match embedded(v6) {
                Some(v4) => Reach::of_v4(v4),
                None => Reach::of_v6(v6),
            },
        }
    }

    fn of_v4(v4: Ipv4Addr) -> Reach {
        match v4.octets() {
            [127 | 0, ..] => Reach::Loopback,
            // Alibaba Cloud's metadata address, in the range of RFC 6598.
            [169, 254, ..] | [100, 100, 100, 200] => Reach::Link,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] | [198, 18..=19, ..] => {
                Reach::Private
            }
            [192, 0, 0, _] | [224..=255, ..] => Reach::Private,
            _ => Reach::Public,
        }
    }

    fn of_v6(v6: Ipv6Addr) -> Reach {
        // Amazon's metadata address, in the range of RFC 4193.
        const EC2: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
        match v6.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Reach::Loopback,
            [0xfe80..=0xfebf, ..] => Reach::Link,
            _ if v6 == EC2 => Reach::Link,
            [0xfc00..=0xfdff | 0xfec0..=0xffff, ..] => Reach::Private,
            _ => Reach::Public,
        }
    }

    /// Whether a server of this reach may lead to an address of the other.
    fn leads_to(self, other: Reach) -> bool {
        match other {
            Reach::Public => true,
            Reach::Private => self <= Reach::Private,
            near => self == near,
        }
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, translated (RFC 6052) or tunnelled (RFC 3056).
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let from = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(from(high, low)),
        [0x2002, high, low, ..] => Some(from(high, low)),
        _ => None,
    }
}

/// The addresses that may be contacted for one location.
#[derive(Clone, Debug)]
pub(super) struct Reachable(Arc<Known>);

#[derive(Debug)]
struct Known {
    /// The server's host name; `None` if the URL has an address, or there are many servers.
    server: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The server's reach, once it is known.
    reach: Option<Reach>,
    /// Names that the server led to. Other names, such as a proxy's, are not restricted.
    led_to: BTreeSet<String>,
}

impl Reachable {
    /// Starts with the server's URL. For an untrusted location, this machine and its link are excluded.
    pub(super) fn from(server: Option<&Url>, stranger: bool) -> Reachable {
        let reach = match server.and_then(Url::host) {
            _ if stranger => Some(Reach::Private),
            Some(Host::Ipv4(v4)) => Some(Reach::of(v4.into())),
            Some(Host::Ipv6(v6)) => Some(Reach::of(v6.into())),
            Some(Host::Domain(_)) | None => None,
        };
        let server = server.and_then(Url::domain).map(str::to_owned);
        let state = Mutex::new(State { reach, led_to: BTreeSet::new() });
        Reachable(Arc::new(Known { server, state }))
    }

    /// Whether a request may be sent to this URL, as far as the URL tells. Names are remembered, and checked when they
    /// are resolved.
    pub(super) fn allows(&self, url: &Url) -> bool {
        let mut state = self.state();
        let from = state.reach.unwrap_or(Reach::Public);
        match url.host() {
            Some(Host::Ipv4(v4)) => from.leads_to(Reach::of(v4.into())),
            Some(Host::Ipv6(v6)) => from.leads_to(Reach::of(v6.into())),
            Some(Host::Domain(name)) => {
                if self.0.server.as_deref() != Some(name) {
                    state.led_to.insert(name.to_owned());
                }
                true
            }
            None => true,
        }
    }

    /// Those of a name's addresses that may be contacted.
    fn of_name(&self, name: &str, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut state = self.state();
        let is_server = self.0.server.as_deref() == Some(name);
        if is_server && state.reach.is_none() {
            state.reach = addresses.iter().map(|address| Reach::of(address.ip())).min();
        }
        if !is_server && !state.led_to.contains(name) {
            return addresses;
        }
        let from = state.reach.unwrap_or(Reach::Public);
        addresses.into_iter().filter(|address| from.leads_to(Reach::of(address.ip()))).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolve for Reachable {
    fn resolve(&self, name: Name) -> Resolving {
        let reachable = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let look_up =
                move || (host.as_str(), 0).to_socket_addrs().map(|found| (host.clone(), found.collect()));
            let (host, found) = tokio::task::spawn_blocking(look_up).await??;
            let allowed = reachable.of_name(&host, found);
            match allowed.is_empty() {
                true => Err(format!("{host} has no allowed address").into()),
                false => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reachable(server: &str, stranger: bool) -> Reachable {
        Reachable::from(Some(&Url::parse(server).unwrap()), stranger)
    }

    #[test]
    fn no_server_leads_to_a_nearer_address() {
        let check = |server: &str, to: &str, expect: bool| {
            let url = Url::parse(&format!("http://{to}/")).unwrap();
            assert_eq!(reachable(server, false).allows(&url), expect, "{server} {to}");
        };
        let near = [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "169.254.169.254",
            "[fe80::1]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:7f00:1::]",
            "[fd00:ec2::254]",
            "100.100.100.200",
            "10.0.0.1",
            "172.31.0.1",
            "192.168.1.1",
            "[fd00::1]",
            "100.64.0.1",
            "2130706433",
            "0x7f.1",
        ];
        for to in near {
            check("https://203.0.113.1/", to, false);
            check("https://cache.example/", to, false);
        }
        for server in ["http://127.0.0.1/", "http://10.0.0.1/", "http://203.0.113.1/"] {
            check(server, "198.51.100.1", true);
            check(server, "[2001:db8::1]", true);
        }
        check("http://10.0.0.1/", "192.168.1.1", true);
        check("http://127.0.0.1/", "192.168.1.1", true);
        check("http://127.0.0.1:1/", "127.0.0.1:2", true);
        for to in ["127.0.0.1", "169.254.169.254"] {
            check("http://10.0.0.1/", to, false);
        }
        check("http://127.0.0.1/", "169.254.169.254", false);
        let own = Url::parse("http://127.0.0.1/").unwrap();
        assert!(!reachable("http://127.0.0.1/", true).allows(&own), "a stranger's is on no machine of ours");
    }

    #[test]
    fn names_are_checked_when_they_are_resolved() {
        let at = |ip: &str| vec![SocketAddr::new(ip.parse().unwrap(), 0)];
        let of = |reachable: &Reachable, name: &str, ip: &str| reachable.of_name(name, at(ip)).len();
        let public = reachable("https://cache.example/", false);
        assert_eq!(of(&public, "proxy.internal", "10.0.0.1"), 1, "nothing of the server's");
        assert_eq!(of(&public, "cache.example", "203.0.113.1"), 1);
        assert_eq!(of(&public, "cache.example", "127.0.0.1"), 0, "the name was bound to another address");
        assert!(public.allows(&Url::parse("https://metadata.internal/").unwrap()));
        assert_eq!(of(&public, "metadata.internal", "169.254.169.254"), 0);
        assert_eq!(of(&public, "metadata.internal", "198.51.100.1"), 1);
        let private = reachable("https://cache.corp/", false);
        assert_eq!(of(&private, "cache.corp", "10.0.0.1"), 1);
        assert!(private.allows(&Url::parse("https://s3.corp/").unwrap()));
        assert_eq!(of(&private, "s3.corp", "10.0.0.2"), 1);
        assert_eq!(of(&private, "s3.corp", "127.0.0.1"), 0);
        let stranger = reachable("https://cache.corp/", true);
        assert_eq!(of(&stranger, "cache.corp", "10.0.0.1"), 1);
        for near in ["127.0.0.1", "::1", "169.254.169.254"] {
            assert_eq!(of(&stranger, "cache.corp", near), 0, "{near} is this machine's");
        }
    }
}

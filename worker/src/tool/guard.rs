//! Where calls may go: public addresses over TLS, and what the operator allows beside them.
//!
//! A tool's address comes from a user, who must not reach the inside of the deployment with it. What is checked is what is
//! connected to: the check stands in the resolver, so that a name cannot point elsewhere between the check and the call; an
//! address written as a number never comes to a resolver and is checked by itself. Redirects are not followed.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// What may be reached.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    allowed: Arc<Vec<Network>>,
}

/// Addresses with a common beginning: `10.0.0.0/8`, `fd00::/8`, `127.0.0.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no network; write it like 10.0.0.0/8");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| wrong()))?;
        if bits > most {
            return Err(wrong());
        }
        Ok(Self { address, bits })
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let (own, other, width) = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (
                u128::from(u32::from(own)),
                u128::from(u32::from(other)),
                32_u8,
            ),
            (IpAddr::V6(own), IpAddr::V6(other)) => (u128::from(own), u128::from(other), 128),
            _ => return false,
        };
        let rest = u32::from(width - self.bits);
        own.checked_shr(rest).unwrap_or(0) == other.checked_shr(rest).unwrap_or(0)
    }
}

impl Egress {
    /// Public addresses, and these.
    pub fn allowing(networks: Vec<Network>) -> Self {
        Self {
            allowed: Arc::new(networks),
        }
    }

    /// Whether an address may be connected to.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = unwrapped(address);
        self.is_allowed(address) || is_public(address)
    }

    fn is_allowed(&self, address: IpAddr) -> bool {
        self.allowed
            .iter()
            .any(|network| network.contains(unwrapped(address)))
    }

    /// Checks what can be seen of a URL before its name is resolved; the error is a sentence for its owner.
    pub fn check(&self, url: &Url) -> Result<(), String> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the address carries a user name or password".to_owned());
        }
        let host = url.host_str().ok_or("the address names no host")?;
        // The parser has written every form of a number (`127.1`, `0x7f.1`) out by now.
        let literal = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .ok();
        if literal.is_some_and(|address| !self.allows(address)) {
            return Err("the address is not a public one".to_owned());
        }
        match url.scheme() {
            "https" => Ok(()),
            // Without TLS only to what the operator named by its number.
            "http" if literal.is_some_and(|address| self.is_allowed(address)) => Ok(()),
            _ => Err("the address must begin with https://".to_owned()),
        }
    }
}

impl Resolve for Egress {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0))
                .await?
                .filter(|address| egress.allows(address.ip()))
                .collect();
            if found.is_empty() {
                return Err("the name has no public address".into());
            }
            let found: Addrs = Box::new(found.into_iter());
            Ok(found)
        })
    }
}

/// An IPv4 address that hides in an IPv6 one: mapped, 6to4, NAT64.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let parts = v6.segments();
    let inside =
        |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match v6.to_ipv4_mapped() {
        Some(v4) => IpAddr::V4(v4),
        None if parts[0] == 0x2002 => inside(parts[1], parts[2]),
        None if parts[..2] == [0x64, 0xff9b] => inside(parts[6], parts[7]),
        None => address,
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

/// The IANA registry of special-purpose addresses, without those that are reachable from everywhere.
fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    !(v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation()
        || v4.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a, b, c) == (192, 0, 0)
        || (a == 198 && (b == 18 || b == 19)))
}

/// Global unicast only (`2000::/3`), less what is set aside in it: Teredo and other protocol assignments, documentation.
fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [a, b, ..] = v6.segments();
    (a & 0xe000) == 0x2000
        && !(a == 0x2001 && b < 0x200)
        && !(a == 0x2001 && b == 0xdb8)
        && a != 0x3fff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(egress: &Egress, url: &str) -> bool {
        Url::parse(url).is_ok_and(|url| egress.check(&url).is_ok())
    }

    #[test]
    fn only_public_addresses_are_reached() {
        let closed = Egress::default();
        for url in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://10.1.2.3/",
            "https://172.16.0.1/",
            "https://192.168.0.1/",
            "https://169.254.169.254/latest/meta-data",
            "https://100.64.0.1/",
            "https://192.0.0.8/",
            "https://198.18.0.1/",
            "https://0.0.0.0/",
            "https://255.255.255.255/",
            "https://224.0.0.1/",
            "https://[::1]/",
            "https://[::]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[fe80::1]/",
            "https://[fd00::1]/",
            "https://[2002:7f00:1::]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2001::1]/",
            "https://[2001:db8::1]/",
            "http://example.com/",
            "http://93.184.216.34/",
            "ftp://example.com/",
            "https://user:secret@example.com/",
        ] {
            assert!(!check(&closed, url), "{url}");
        }
        for url in [
            "https://example.com/hook",
            "https://93.184.216.34/",
            "https://[2606:2800:220:1:248:1893:25c8:1946]/",
        ] {
            assert!(check(&closed, url), "{url}");
        }
    }

    #[test]
    fn the_operator_opens_what_he_names() {
        let network = |text: &str| text.parse::<Network>();
        let open = Egress::allowing(
            ["10.0.0.0/8", "127.0.0.1", "fd00::/8"]
                .into_iter()
                .filter_map(|text| network(text).ok())
                .collect(),
        );
        for url in [
            "http://127.0.0.1:8000/add",
            "http://10.2.3.4/",
            "https://[fd00::1]/",
        ] {
            assert!(check(&open, url), "{url}");
        }
        for url in [
            "http://127.0.0.2/",
            "https://11.0.0.1:5/x",
            "http://11.0.0.1/",
        ] {
            assert_eq!(check(&open, url), url.starts_with("https://11"), "{url}");
        }
        for text in ["10.0.0.0/33", "x", "10.0.0.0/", "::/129", ""] {
            assert!(network(text).is_err(), "{text}");
        }
        assert!(network("0.0.0.0/0").is_ok_and(|all| all.contains([8, 8, 8, 8].into())));
    }

    #[tokio::test]
    async fn a_name_that_points_inside_is_not_resolved() {
        let Ok(name) = "localhost".parse::<Name>() else {
            return;
        };
        assert!(Egress::default().resolve(name).await.is_err());
    }
}

//! The address under which limits are counted: the peer's, or the client's as reported by trusted proxies.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network in CIDR notation, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u32,
}

impl Network {
    /// Whether the network contains the address; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => same_start(first.to_bits(), address.to_bits(), 32 - self.bits),
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let shift = 128 - self.bits;
                shift == 128 || first.to_bits() >> shift == address.to_bits() >> shift
            }
            _ => false,
        }
    }
}

fn same_start(one: u32, other: u32, shift: u32) -> bool {
    shift == 32 || one >> shift == other >> shift
}

/// The length of an address.
fn bits_of(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == bits_of(self.first) { self.first.fmt(f) } else { write!(f, "{}/{}", self.first, self.bits) }
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Network, ()> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let first: IpAddr = address.parse().map_err(drop)?;
        let most = bits_of(first);
        let bits = bits.map_or(Ok(most), str::parse).ok().filter(|bits| *bits <= most).ok_or(())?;
        // Addresses are compared in IPv4 if they are IPv4-mapped, so a network must be written in IPv4 too.
        if first.to_canonical() == first { Ok(Network { first, bits }) } else { Err(()) }
    }
}

/// The header in which each proxy appends the address it received the request from.
pub const FORWARDED_FOR: &str = "x-forwarded-for";

/// Whose `X-Forwarded-For` is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustedProxies {
    /// Not configured: peers on loopback and private networks are trusted, but only for limits.
    Unset,
    /// Proxies in these networks.
    Networks(Vec<Network>),
    /// This many proxies in front of the server, whatever their addresses.
    Hops(usize),
}

impl FromStr for TrustedProxies {
    type Err = ();

    /// Parses a number of hops, or a comma-separated list of networks.
    fn from_str(text: &str) -> Result<TrustedProxies, ()> {
        if let Ok(hops) = text.trim().parse() {
            return (0..=16).contains(&hops).then_some(TrustedProxies::Hops(hops)).ok_or(());
        }
        let networks: Result<Vec<Network>, ()> = text.split(',').map(|part| part.trim().parse()).collect();
        Ok(TrustedProxies::Networks(networks?))
    }
}

impl TrustedProxies {
    /// Whether this peer's `X-Forwarded-For` is trusted.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        match self {
            TrustedProxies::Unset => is_private(peer),
            TrustedProxies::Networks(networks) => networks.iter().any(|network| network.contains(peer)),
            TrustedProxies::Hops(hops) => *hops > 0,
        }
    }

    /// The setting that would also trust this peer.
    pub fn with(&self, peer: IpAddr) -> String {
        let known = if let TrustedProxies::Networks(networks) = self { networks.as_slice() } else { &[] };
        let all: Vec<String> = known.iter().map(Network::to_string).chain([peer.to_string()]).collect();
        format!("TRUSTED_PROXIES={}", all.join(","))
    }

    /// Whether the settings name this peer as a proxy. Such a proxy is trusted for more than limits.
    pub fn names(&self, peer: IpAddr) -> bool {
        *self != TrustedProxies::Unset && self.trusts(peer)
    }

    /// The client's address: the peer's own, or the nearest one in `X-Forwarded-For` that is not a trusted proxy's.
    /// `forwarded` is the value of that header, several lines joined with commas. Each proxy appends the address it
    /// received the request from, so a client can forge only the beginning of the list.
    pub fn client(&self, peer: IpAddr, forwarded: &str) -> IpAddr {
        if !self.trusts(peer) {
            return peer.to_canonical();
        }
        let mut found = peer;
        let hops = if let TrustedProxies::Hops(hops) = self { *hops } else { usize::MAX };
        for entry in forwarded.rsplit(',').take(hops) {
            let Some(address) = forwarded_address(entry) else { break };
            found = address;
            if !self.trusts(found) {
                break;
            }
        }
        found.to_canonical()
    }
}

/// One entry of `X-Forwarded-For`: an address, which some proxies write with a port.
fn forwarded_address(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let socket = || entry.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    entry.parse().ok().or_else(socket).or_else(bracketed)
}

/// Whether the address cannot be one on the public internet: loopback, private, link-local, or carrier-shared (RFC
/// 6598).
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let shared = v4.to_bits() & 0xFFC0_0000 == Ipv4Addr::new(100, 64, 0, 0).to_bits();
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || shared
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// The address under which limits are counted: an IPv4 address as it is, and the first 64 bits of an IPv6 address,
/// which belong to one customer.
pub fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

/// The network of a public IPv6 address under which limits are counted too: its first 48 bits, the largest that providers
/// give to one customer (RFC 6177).
pub fn network_of(address: IpAddr) -> Option<IpAddr> {
    match address.to_canonical() {
        _ if is_private(address) => None,
        IpAddr::V6(v6) => Some(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80))),
        IpAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn networks_contain_what_they_start_with() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.0/24", "::ffff:192.0.2.1", "::192.0.2.1"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
        ] {
            let network: Network = network.parse().expect("a network");
            assert!(network.contains(ip(inside)) && !network.contains(ip(outside)), "{network:?}");
        }
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "host"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_client_is_the_nearest_that_is_no_trusted_proxy() {
        let unset = TrustedProxies::Unset;
        let list: TrustedProxies = "10.0.0.0/8, 192.0.2.1".parse().expect("networks");
        let two: TrustedProxies = "2".parse().expect("hops");
        for (trusted, peer, forwarded, client) in [
            (&unset, "127.0.0.1", "203.0.113.9", "203.0.113.9"),
            (&unset, "::ffff:10.1.2.3", "203.0.113.9", "203.0.113.9"),
            (&unset, "127.0.0.1", "", "127.0.0.1"),
            (&unset, "198.51.100.1", "203.0.113.9", "198.51.100.1"),
            (&unset, "127.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.5", "203.0.113.9"),
            (&list, "10.0.0.1", "1.1.1.1, 203.0.113.9, 192.0.2.1", "203.0.113.9"),
            (&list, "10.0.0.1", "10.7.7.7, 10.0.0.2", "10.7.7.7"),
            (&list, "127.0.0.1", "203.0.113.9", "127.0.0.1"),
            (&list, "10.0.0.1", "203.0.113.9:5678", "203.0.113.9"),
            (&list, "10.0.0.1", "[2001:db8::1]:443", "2001:db8::1"),
            (&list, "10.0.0.1", "203.0.113.9, unknown", "10.0.0.1"),
            (&two, "198.51.100.1", "1.1.1.1, 203.0.113.9, 198.51.100.2", "203.0.113.9"),
            (&two, "198.51.100.1", "203.0.113.9", "203.0.113.9"),
            (&two, "198.51.100.1", "", "198.51.100.1"),
        ] {
            assert_eq!(trusted.client(ip(peer), forwarded), ip(client), "{trusted:?} {peer} {forwarded}");
        }
        assert!(list.names(ip("10.0.0.1")) && !unset.names(ip("127.0.0.1")) && !list.names(ip("127.0.0.1")));
        for wrong in ["", "17", "all", "10.0.0.0/8,", "-1"] {
            assert!(wrong.parse::<TrustedProxies>().is_err(), "{wrong:?}");
        }
        assert!(!"0".parse::<TrustedProxies>().expect("nobody").trusts(ip("127.0.0.1")));
    }

    #[test]
    fn an_ipv6_customer_is_one() {
        assert_eq!(counted_as(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1:2::"));
        assert_eq!(counted_as(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_eq!(network_of(ip("2001:db8:1:2:3:4:5:6")), Some(ip("2001:db8:1::")));
        assert_eq!((network_of(ip("::ffff:192.0.2.1")), network_of(ip("fd00::1"))), (None, None));
        assert!(is_private(ip("100.64.0.1")) && !is_private(ip("100.128.0.1")) && !is_private(ip("2001:db8::1")));
        assert!(is_private(ip("::1")) && is_private(ip("fd00::1")) && is_private(ip("::ffff:127.0.0.32")));
    }
}

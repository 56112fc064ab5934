//! Parser of the few fields of a certificate that libpq uses and the TLS library does not provide.
//! Reads DER as far as necessary; makes no decision about trust.

use std::net::IpAddr;

/// Hash function of a certificate for `tls-server-end-point` channel binding (RFC 5929).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignatureHash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// Fields of a certificate.
#[derive(Debug)]
pub(super) struct Certificate<'a> {
    /// Hash function for channel binding; `None` where RFC 5929 defines none, as for Ed25519.
    pub signature_hash: Option<SignatureHash>,
    /// SubjectPublicKeyInfo with its header.
    pub public_key: &'a [u8],
    /// First common name of the subject.
    pub common_name: Option<&'a str>,
    /// Whether subjectAltName has a DNS name.
    pub dns_names: bool,
    /// Whether subjectAltName has an address.
    pub addresses: bool,
}

const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;

/// DER element.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// The content with its header.
    whole: &'a [u8],
}

/// Iterator over DER elements, up to the first that is cut or has no definite length.
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = match first {
            0..=0x7f => usize::from(first),
            0x81..=0x83 => {
                let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
                rest = after;
                digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit))
            }
            _ => return None,
        };
        let (content, after) = rest.split_at_checked(length)?;
        let (whole, _) = self.0.split_at_checked(self.0.len() - after.len())?;
        self.0 = after;
        Some(Element { tag, content, whole })
    }
}

impl<'a> Certificate<'a> {
    /// Parses a DER certificate (RFC 5280, section 4.1); `None` for anything else.
    pub(super) fn parse(der: &'a [u8]) -> Option<Certificate<'a>> {
        let outer = Elements(der).next().filter(|e| e.tag == SEQUENCE)?;
        let mut outer = Elements(outer.content);
        let tbs = outer.next().filter(|e| e.tag == SEQUENCE)?;
        let algorithm = outer.next().filter(|e| e.tag == SEQUENCE)?;
        // version [0] (absent in version 1), serial, algorithm, issuer, validity, subject, key, …
        let mut fields = Elements(tbs.content).skip_while(|e| e.tag == 0xa0);
        let subject = fields.by_ref().nth(4).filter(|e| e.tag == SEQUENCE)?;
        let public_key = fields.next().filter(|e| e.tag == SEQUENCE)?.whole;
        let extensions = fields.find(|e| e.tag == 0xa3);
        let names = extensions.and_then(|e| alternative_names(e.content));
        let lists = |tag| names.is_some_and(|names| Elements(names).any(|name| name.tag == tag));
        Some(Certificate {
            signature_hash: signature_hash(algorithm.content),
            public_key,
            common_name: common_name(subject.content),
            dns_names: lists(0x82),
            addresses: lists(0x87),
        })
    }

    /// Whether the common name matches this host. As in libpq, the common name counts only in a
    /// certificate without alternative names of the host's kind
    /// (`pq_verify_peer_name_matches_certificate` in fe-secure-common.c).
    pub(super) fn common_name_matches(&self, host: &str) -> bool {
        let Some(name) = self.common_name else {
            return false;
        };
        let is_address = host.parse::<IpAddr>().is_ok();
        let has_alternative = if is_address { self.addresses } else { self.dns_names };
        if has_alternative {
            return false;
        }
        if name.eq_ignore_ascii_case(host) {
            return true;
        }
        // `*.example.org` matches one label, and never an address.
        match (name.strip_prefix('*'), host.find('.')) {
            (Some(domain), Some(dot)) if !is_address && dot > 0 && domain.starts_with('.') => {
                domain.len() > 2 && host[dot..].eq_ignore_ascii_case(domain)
            }
            _ => false,
        }
    }
}

/// Content of subjectAltName (2.5.29.17).
fn alternative_names(extensions: &[u8]) -> Option<&[u8]> {
    let list = Elements(extensions).next()?;
    let extension = Elements(list.content)
        .find(|e| Elements(e.content).next().is_some_and(|id| id.content == [0x55, 0x1d, 0x11]))?;
    let value = Elements(extension.content).find(|e| e.tag == OCTETS)?;
    Some(Elements(value.content).next()?.content)
}

/// First commonName (2.5.4.3) of a name, which is a sequence of sets of pairs.
fn common_name(name: &[u8]) -> Option<&str> {
    Elements(name).flat_map(|set| Elements(set.content)).find_map(|pair| {
        let mut pair = Elements(pair.content);
        let id = pair.next().filter(|e| e.tag == OID)?;
        let value = pair.next()?;
        // A zero byte ends the name for some readers, and not for others.
        (id.content == [0x55, 0x04, 0x03] && !value.content.contains(&0))
            .then(|| std::str::from_utf8(value.content).ok())
            .flatten()
    })
}

fn signature_hash(algorithm: &[u8]) -> Option<SignatureHash> {
    const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    let mut parts = Elements(algorithm);
    let id = parts.next().filter(|e| e.tag == OID)?.content;
    if let Some(id) = id.strip_prefix(PKCS1) {
        return match id {
            [4 | 5] => Some(SignatureHash::Sha256), // MD5 and SHA-1 are replaced by SHA-256
            [10] => pss_hash(parts.next()?.content),
            [11] => Some(SignatureHash::Sha256),
            [12] => Some(SignatureHash::Sha384),
            [13] => Some(SignatureHash::Sha512),
            [14] => Some(SignatureHash::Sha224),
            _ => None,
        };
    }
    match id.strip_prefix(ECDSA)? {
        [1] | [3, 2] => Some(SignatureHash::Sha256),
        [3, 1] => Some(SignatureHash::Sha224),
        [3, 3] => Some(SignatureHash::Sha384),
        [3, 4] => Some(SignatureHash::Sha512),
        _ => None,
    }
}

/// Hash function of RSASSA-PSS, its parameter [0]. The default is SHA-1, which RFC 5929 replaces by
/// SHA-256.
fn pss_hash(parameters: &[u8]) -> Option<SignatureHash> {
    const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    let Some(hash) = Elements(parameters).find(|e| e.tag == 0xa0) else {
        return Some(SignatureHash::Sha256);
    };
    let algorithm = Elements(hash.content).next()?;
    match Elements(algorithm.content).next()?.content.strip_prefix(SHA2)? {
        [1] => Some(SignatureHash::Sha256),
        [2] => Some(SignatureHash::Sha384),
        [3] => Some(SignatureHash::Sha512),
        [4] => Some(SignatureHash::Sha224),
        _ => None,
    }
}

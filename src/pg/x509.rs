//! The few fields of a certificate that libpq looks at and the TLS library does not hand out. Reads
//! DER as far as it must; decides nothing about trust.

use std::net::IpAddr;

/// The hash of a certificate that `tls-server-end-point` channel binding uses (RFC 5929).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

#[derive(Debug)]
pub(super) struct Certificate<'a> {
    /// `None` where RFC 5929 defines none, as for Ed25519.
    pub signature_hash: Option<Hash>,
    /// SubjectPublicKeyInfo, whole.
    pub public_key: &'a [u8],
    /// The first common name of the subject.
    pub common_name: Option<&'a str>,
    /// Whether subjectAltName lists a DNS name, and whether an address.
    pub dns_names: bool,
    pub addresses: bool,
}

const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;

/// One element: its tag, its content, and the whole of it with its header.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

/// A run of DER elements; ends at the first one that is cut or has no definite length.
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
    /// Reads a DER certificate (RFC 5280, section 4.1); `None` when it is not one.
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
        let names = extensions.and_then(|e| alternative_names(e.content)).unwrap_or_default();
        let lists = |tag| Elements(names).any(|name| name.tag == tag);
        Some(Certificate {
            signature_hash: signature_hash(algorithm.content),
            public_key,
            common_name: common_name(subject.content),
            dns_names: lists(0x82),
            addresses: lists(0x87),
        })
    }

    /// Whether the common name stands for this host, where libpq asks it: only in a certificate that
    /// lists no alternative name of the host's sort (fe-secure-common.c).
    pub(super) fn common_name_matches(&self, host: &str) -> bool {
        let Some(name) = self.common_name else {
            return false;
        };
        let address = host.parse::<IpAddr>().is_ok();
        if if address { self.addresses } else { self.dns_names } {
            return false;
        }
        if name.eq_ignore_ascii_case(host) {
            return true;
        }
        // `*.example.org` stands for one label, and never for an address.
        match (name.strip_prefix('*'), host.find('.')) {
            (Some(domain), Some(dot)) if !address && dot > 0 && domain.starts_with('.') => {
                domain.len() > 2 && host[dot..].eq_ignore_ascii_case(domain)
            }
            _ => false,
        }
    }
}

/// The content of subjectAltName (2.5.29.17).
fn alternative_names(extensions: &[u8]) -> Option<&[u8]> {
    let list = Elements(extensions).next()?;
    let extension = Elements(list.content)
        .find(|e| Elements(e.content).next().is_some_and(|id| id.content == [0x55, 0x1d, 0x11]))?;
    let value = Elements(extension.content).find(|e| e.tag == OCTETS)?;
    Some(Elements(value.content).next()?.content)
}

/// The first commonName (2.5.4.3) of a name: a sequence of sets of pairs.
fn common_name(name: &[u8]) -> Option<&str> {
    Elements(name).flat_map(|set| Elements(set.content)).find_map(|pair| {
        let mut pair = Elements(pair.content);
        let id = pair.next().filter(|e| e.tag == OID)?;
        let value = pair.next()?;
        // A NUL inside would end the name early for some readers, and not for others.
        (id.content == [0x55, 0x04, 0x03] && !value.content.contains(&0))
            .then(|| std::str::from_utf8(value.content).ok())
            .flatten()
    })
}

fn signature_hash(algorithm: &[u8]) -> Option<Hash> {
    const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    let mut parts = Elements(algorithm);
    let id = parts.next().filter(|e| e.tag == OID)?.content;
    if let Some(id) = id.strip_prefix(PKCS1) {
        return match id {
            [4 | 5] => Some(Hash::Sha256), // MD5 and SHA-1 are replaced by SHA-256
            [10] => pss_hash(parts.next()?.content),
            [11] => Some(Hash::Sha256),
            [12] => Some(Hash::Sha384),
            [13] => Some(Hash::Sha512),
            [14] => Some(Hash::Sha224),
            _ => None,
        };
    }
    match id.strip_prefix(ECDSA)? {
        [1] | [3, 2] => Some(Hash::Sha256),
        [3, 1] => Some(Hash::Sha224),
        [3, 3] => Some(Hash::Sha384),
        [3, 4] => Some(Hash::Sha512),
        _ => None,
    }
}

/// RSASSA-PSS carries its hash as parameter [0]; SHA-1 when it is left out.
fn pss_hash(parameters: &[u8]) -> Option<Hash> {
    const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    let Some(hash) = Elements(parameters).find(|e| e.tag == 0xa0) else {
        return Some(Hash::Sha256);
    };
    let algorithm = Elements(hash.content).next()?;
    match Elements(algorithm.content).next()?.content.strip_prefix(SHA2)? {
        [1] => Some(Hash::Sha256),
        [2] => Some(Hash::Sha384),
        [3] => Some(Hash::Sha512),
        [4] => Some(Hash::Sha224),
        _ => None,
    }
}

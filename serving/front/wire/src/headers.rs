//! What a call says in its headers.

use std::time::Duration;

use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::Engine;
use http::HeaderMap;

/// Names of metadata and their values, in the order in which they came.
pub type Metadata = Vec<(String, Vec<u8>)>;

// Senders may pad or not.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// How a message is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

/// The encoding that the headers name; None for one that is not taken.
pub fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    match headers.get("grpc-encoding").map(|value| value.as_bytes()) {
        None | Some(b"identity") => Some(Encoding::Identity),
        Some(b"gzip") => Some(Encoding::Gzip),
        Some(b"deflate") => Some(Encoding::Deflate),
        Some(_) => None,
    }
}

/// Is it a gRPC call, by its content type?
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get("content-type").map_or(&b""[..], |value| value.as_bytes());
    match kind.strip_prefix(b"application/grpc") {
        Some(rest) => rest.is_empty() || rest[0] == b'+' || rest[0] == b';',
        None => false,
    }
}

/// How long the caller waits: one to eight digits and a unit; None where it doesn't say, or is no timeout.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// What the caller added of its own: no header that gRPC itself uses, and bytes where a name ends in "-bin".
pub fn metadata(headers: &HeaderMap) -> Metadata {
    let own = headers.iter().filter(|(name, _)| !reserved(name.as_str()));
    own.map(|(name, value)| (name.as_str().to_owned(), plain(name.as_str(), value.as_bytes()))).collect()
}

/// Bytes of all headers, as RFC 9113 counts them.
pub fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

fn reserved(name: &str) -> bool {
    name == "te"
        || name == "content-type"
        || (name.starts_with("grpc-") && name != "grpc-trace-bin" && name != "grpc-previous-rpc-attempts")
}

fn plain(name: &str, value: &[u8]) -> Vec<u8> {
    if name.ends_with("-bin") {
        if let Ok(decoded) = LENIENT.decode(value) {
            return decoded;
        }
    }
    value.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn timeouts_have_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("9n", Some(Duration::from_nanos(9))),
            ("", None),
            ("S", None),
            ("123456789S", None),
            ("-1S", None),
            ("1s", None),
            ("1", None),
        ] {
            assert_eq!(timeout(&headers(&[("grpc-timeout", text)])), expected, "{text}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn a_call_is_known_by_its_content_type() {
        for (text, expected) in [("application/grpc", true), ("application/grpc+proto", true), ("application/grpc;x", true)] {
            assert_eq!(is_grpc(&headers(&[("content-type", text)])), expected);
        }
        assert!(!is_grpc(&headers(&[("content-type", "application/grpc-web")])) && !is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn own_metadata_is_told_apart_and_bytes_are_bytes() {
        let given = headers(&[("te", "trailers"), ("grpc-timeout", "1S"), ("traceparent", "00-1"), ("x-bin", "/wA"), ("y-bin", "/wA=")]);
        let own = metadata(&given);
        assert_eq!(own, [("traceparent".into(), b"00-1".to_vec()), ("x-bin".into(), vec![255, 0]), ("y-bin".into(), vec![255, 0])]);
    }

    #[test]
    fn encodings_are_three() {
        assert_eq!(encoding(&HeaderMap::new()), Some(Encoding::Identity));
        assert_eq!(encoding(&headers(&[("grpc-encoding", "gzip")])), Some(Encoding::Gzip));
        assert_eq!(encoding(&headers(&[("grpc-encoding", "br")])), None);
    }

    proptest! {
        #[test]
        fn no_header_breaks_the_readers(name in "[a-z][a-z-]{0,15}(-bin)?|grpc-timeout|grpc-encoding|content-type", value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut given = HeaderMap::new();
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(&value)) {
                given.insert(name, value);
            }
            let _ = (timeout(&given), encoding(&given), is_grpc(&given), metadata(&given), size(&given));
        }
    }
}

//! How a call ends: a status, and the trailers that say it.

use base64::engine::general_purpose::STANDARD_NO_PAD;
use base64::Engine;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The codes that the front end itself gives (https://grpc.github.io/grpc/core/md_doc_statuscodes.html).
pub const OK: u32 = 0;
pub const INVALID_ARGUMENT: u32 = 3;
pub const DEADLINE_EXCEEDED: u32 = 4;
pub const RESOURCE_EXHAUSTED: u32 = 8;
pub const UNIMPLEMENTED: u32 = 12;
pub const INTERNAL: u32 = 13;
pub const UNAVAILABLE: u32 = 14;

/// A status with its message, and trailers beside it; names that end in "-bin" have bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u32,
    pub message: String,
    pub trailers: Vec<(String, Vec<u8>)>,
}

impl Status {
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Status { code, message: message.into(), trailers: Vec::new() }
    }

    /// Adds the status to headers or trailers. What is no header is left out: it is the status that must arrive.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert("grpc-status", HeaderValue::from(self.code));
        if !self.message.is_empty() {
            if let Ok(value) = HeaderValue::from_str(&percent_encoded(&self.message)) {
                headers.insert("grpc-message", value);
            }
        }
        for (name, value) in &self.trailers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), trailer_value(name, value)) {
                headers.append(name, value);
            }
        }
    }
}

fn trailer_value(name: &str, value: &[u8]) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    if name.ends_with("-bin") {
        HeaderValue::from_str(&STANDARD_NO_PAD.encode(value))
    } else {
        HeaderValue::from_bytes(value)
    }
}

/// The message of a status as a header takes it: printable ASCII but for "%", the rest as %XX.
pub fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..0x7f).contains(&byte) && byte != b'%' {
            encoded.push(byte as char);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn percent_decoded(text: &str) -> Vec<u8> {
        let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::new(), 0);
        while at < bytes.len() {
            if bytes[at] == b'%' {
                decoded.push(u8::from_str_radix(&text[at + 1..at + 3], 16).unwrap());
                at += 3;
            } else {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
        decoded
    }

    proptest! {
        #[test]
        fn any_message_comes_back_from_its_header(text in "\\PC*|.*") {
            let encoded = percent_encoded(&text);
            prop_assert!(encoded.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            prop_assert_eq!(percent_decoded(&encoded), text.into_bytes());
        }

        #[test]
        fn any_status_can_be_written(code in 0u32..17, message in ".*", name in "[a-z-]{0,12}", value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut headers = HeaderMap::new();
            Status { code, message, trailers: vec![(name, value)] }.write_to(&mut headers);
            prop_assert_eq!(headers["grpc-status"].to_str().unwrap(), code.to_string());
        }
    }

    #[test]
    fn bytes_travel_in_base_64() {
        let mut headers = HeaderMap::new();
        Status { code: 3, message: String::new(), trailers: vec![("grpc-status-details-bin".into(), vec![0xff, 0])] }
            .write_to(&mut headers);
        assert_eq!(headers["grpc-status-details-bin"], "/wA");
        assert!(!headers.contains_key("grpc-message"));
    }
}

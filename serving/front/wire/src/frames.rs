//! Messages within the data of a stream: a byte that says whether it is compressed, four of its length, and the message.

use std::io::Read;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::read::{GzDecoder, ZlibDecoder};

use crate::headers::Encoding;
use crate::status::{Status, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED};

const PREFIX: usize = 5;

/// The bytes of a message with its prefix, uncompressed.
pub fn framed(message: &[u8]) -> Bytes {
    let mut data = BytesMut::with_capacity(PREFIX + message.len());
    data.put_u8(0);
    data.put_u32(message.len() as u32);
    data.put_slice(message);
    data.freeze()
}

/// Takes the data of a stream as it comes, and gives the messages in it. Holds no more than one message beyond what was pushed last.
pub struct Messages {
    waiting: BytesMut,
    encoding: Encoding,
    most: usize,
}

impl Messages {
    /// `most`: bytes of a message, packed and unpacked.
    pub fn new(encoding: Encoding, most: usize) -> Self {
        Messages { waiting: BytesMut::new(), encoding, most }
    }

    /// Adds the next data of the stream.
    pub fn push(&mut self, data: Bytes) {
        if self.waiting.is_empty() {
            // Of the usual call, whose message came in one piece, nothing is copied.
            self.waiting = data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        } else {
            self.waiting.extend_from_slice(&data);
        }
    }

    /// The next whole message; None where more data must come first.
    pub fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.waiting.len() < PREFIX {
            return Ok(None);
        }
        let (flag, length) = (self.waiting[0], (&self.waiting[1..PREFIX]).get_u32() as usize);
        if flag > 1 {
            return Err(Status::new(INVALID_ARGUMENT, format!("message: its flag is {flag}; send 0, or 1 where it is compressed")));
        }
        if length > self.most {
            return Err(too_large(length, self.most));
        }
        if self.waiting.len() < PREFIX + length {
            return Ok(None);
        }
        self.waiting.advance(PREFIX);
        let message = self.waiting.split_to(length).freeze();
        if flag == 0 {
            return Ok(Some(message));
        }
        unpacked(&message, self.encoding, self.most).map(Some)
    }

    /// Bytes that wait for the rest of their message.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Is nothing left but whole messages that were given?
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn unpacked(message: &[u8], encoding: Encoding, most: usize) -> Result<Bytes, Status> {
    match encoding {
        Encoding::Gzip => read_at_most(GzDecoder::new(message), most),
        Encoding::Deflate => read_at_most(ZlibDecoder::new(message), most),
        Encoding::Identity => Err(Status::new(UNIMPLEMENTED, "message: is compressed without grpc-encoding; name gzip or deflate")),
    }
}

fn read_at_most(reader: impl Read, most: usize) -> Result<Bytes, Status> {
    let mut message = Vec::new();
    // One byte more than is allowed tells that there is more; nothing beyond it is ever unpacked.
    match reader.take(most as u64 + 1).read_to_end(&mut message) {
        Ok(length) if length > most => Err(too_large(length, most)),
        Ok(_) => Ok(message.into()),
        Err(_) => Err(Status::new(INVALID_ARGUMENT, "message: can't be unpacked; send what grpc-encoding says")),
    }
}

fn too_large(length: usize, most: usize) -> Status {
    Status::new(RESOURCE_EXHAUSTED, format!("message: has at least {length} bytes; send at most {most} (max_message_bytes)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use flate2::Compression;
    use proptest::prelude::*;
    use std::io::Write;

    fn compressed(message: &[u8], encoding: Encoding) -> Bytes {
        let packed = match encoding {
            Encoding::Gzip => {
                let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
                writer.write_all(message).unwrap();
                writer.finish().unwrap()
            }
            _ => {
                let mut writer = ZlibEncoder::new(Vec::new(), Compression::fast());
                writer.write_all(message).unwrap();
                writer.finish().unwrap()
            }
        };
        let mut data = BytesMut::from(&framed(&packed)[..]);
        data[0] = 1;
        data.freeze()
    }

    fn drained(messages: &mut Messages) -> Result<Vec<Bytes>, Status> {
        let mut found = Vec::new();
        while let Some(message) = messages.next()? {
            found.push(message);
        }
        Ok(found)
    }

    proptest! {
        #[test]
        fn messages_come_back_however_the_stream_is_cut(sent in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6), cuts in proptest::collection::vec(1usize..200, 0..20)) {
            let mut stream: Bytes = sent.iter().flat_map(|message| framed(message)).collect();
            let (mut messages, mut found) = (Messages::new(Encoding::Identity, 300), Vec::new());
            for cut in cuts {
                messages.push(stream.split_to(cut.min(stream.len())));
                found.extend(drained(&mut messages).unwrap());
            }
            messages.push(stream);
            found.extend(drained(&mut messages).unwrap());
            prop_assert!(messages.is_empty());
            prop_assert_eq!(found, sent);
        }

        #[test]
        fn noise_gives_messages_or_a_status_and_never_more_than_allowed(noise in proptest::collection::vec(any::<u8>(), 0..400), flag in 0u8..3) {
            for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Deflate] {
                let mut messages = Messages::new(encoding, 64);
                messages.push(Bytes::from(noise.clone()));
                messages.push(Bytes::from(vec![flag, 0, 0, 0, 9]));
                messages.push(Bytes::from(noise.clone()));
                while let Ok(Some(message)) = messages.next() {
                    prop_assert!(message.len() <= 64);
                }
            }
        }

        #[test]
        fn compressed_messages_are_unpacked(message in proptest::collection::vec(any::<u8>(), 0..2000)) {
            for encoding in [Encoding::Gzip, Encoding::Deflate] {
                let mut messages = Messages::new(encoding, 4000);
                messages.push(compressed(&message, encoding));
                prop_assert_eq!(messages.next().unwrap().unwrap(), message.clone());
            }
        }
    }

    #[test]
    fn what_unpacks_beyond_the_limit_is_refused() {
        let mut messages = Messages::new(Encoding::Gzip, 1 << 16);
        messages.push(compressed(&vec![0; 4 << 20], Encoding::Gzip));
        assert_eq!(messages.next().unwrap_err().code, RESOURCE_EXHAUSTED);
    }

    #[test]
    fn a_message_that_says_it_is_too_long_is_refused_before_it_comes() {
        let mut messages = Messages::new(Encoding::Identity, 100);
        messages.push(Bytes::from_static(&[0, 0, 0, 0, 101]));
        assert_eq!(messages.next().unwrap_err().code, RESOURCE_EXHAUSTED);
    }
}

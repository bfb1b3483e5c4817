//! From plain requests to rows of words, and from what was decided to records and answers: the bytes of serving/decide.py and record.py.

use blake2b_simd::Params;

use crate::plain::{Listed, Request, Task};

/// Words of an id.
pub type Id = [u8; 16];

const MAGIC: &[u8] = b"SLR1";
const DENOMINATOR: f64 = (1u64 << 31) as f64;

/// What is hashed before and behind a text: the request id in the ids of decisions of one arm and snapshot, the unit in the keys of sticky
/// draws; see bandits/keys.py.
pub struct Around {
    pub before: Vec<u8>,
    pub behind: Vec<u8>,
}

impl Around {
    pub fn id(&self, text: &[u8]) -> Id {
        let mut state = Params::new().hash_length(16).to_state();
        state.update(&self.before).update(&(text.len() as u32).to_le_bytes()).update(text).update(&self.behind);
        let mut id = Id::default();
        id.copy_from_slice(state.finalize().as_bytes());
        id
    }
}

/// What is remembered of the body of a request with an id of its own; see serving/engine.py.
pub fn body_hash(body: &[u8]) -> Id {
    let mut hash = Id::default();
    hash.copy_from_slice(Params::new().hash_length(16).hash(body).as_bytes());
    hash
}

/// Adds a request's row: context, features, padding, words of its candidates (scores and actions), slate size, key of the draw.
pub fn add_row(rows: &mut Vec<u8>, task: &Task, request: &Request, data: &[u8], features: &[u8], words: &[u8], key: &[u8]) {
    rows.extend_from_slice(&data[request.context.clone()]);
    rows.extend_from_slice(features);
    rows.resize(rows.len() + task.feature_bytes * (request.listed.width - request.listed.count), 0);
    rows.extend_from_slice(words);
    rows.extend_from_slice(&(request.slate_size as u32).to_le_bytes());
    rows.extend_from_slice(key);
}

/// One slot as it was drawn.
#[derive(Clone, Copy)]
pub struct Slot {
    pub candidate: usize,
    pub numerator: u32,
    pub score: f64,
}

impl Slot {
    fn propensity(&self) -> f64 {
        f64::from(self.numerator) / DENOMINATOR
    }

    /// Numerator (always five bytes), propensity and score; see serving/wire.py.
    fn write_numbers(&self, out: &mut Vec<u8>) {
        let n = self.numerator;
        out.push(0x10);
        out.extend([n, n >> 7, n >> 14, n >> 21].map(|part| (part & 127 | 128) as u8));
        out.push((n >> 28) as u8);
        out.push(0x19);
        out.extend_from_slice(&self.propensity().to_le_bytes());
        out.push(0x21);
        out.extend_from_slice(&self.score.to_le_bytes());
    }
}

/// A request of which everything is known but the time of its append.
pub struct Decision<'a> {
    pub id: &'a Id,
    pub unit: &'a [u8],
    pub request_id: &'a [u8],
    pub context: &'a [u8],
    pub listed: &'a Listed,
    pub features: &'a [u8],
    pub slots: &'a [Slot],
}

impl Decision<'_> {
    /// The Decision without its time, behind what decisions of its policy share.
    pub fn body(&self, shared: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.context.len() + self.features.len() + self.listed.encoded.len() + shared.len() + 256);
        out.extend_from_slice(b"\x0a\x10");
        out.extend_from_slice(self.id);
        out.extend_from_slice(shared);
        field(&mut out, 0x22, self.unit);
        field(&mut out, 0x2a, self.request_id);
        field(&mut out, 0x42, self.context);
        self.write_candidates(&mut out);
        for slot in self.slots {
            out.extend_from_slice(&self.listed.logged_heads[slot.candidate]);
            slot.write_numbers(&mut out);
        }
        out
    }

    fn write_candidates(&self, out: &mut Vec<u8>) {
        let mut begun = Vec::with_capacity(8);
        if !self.features.is_empty() {
            begun.push(0x22);
            write_varint(&mut begun, self.features.len() as u64);
        }
        out.push(0x4a);
        write_varint(out, (self.listed.encoded.len() + begun.len() + self.features.len()) as u64);
        out.extend_from_slice(&self.listed.encoded);
        out.extend_from_slice(&begun);
        out.extend_from_slice(self.features);
    }

    /// The SelectResponse.
    pub fn response(&self, shared: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(shared.len() + 64 * self.slots.len() + 128);
        out.extend_from_slice(b"\x0a\x10");
        out.extend_from_slice(self.id);
        for slot in self.slots {
            out.extend_from_slice(&self.listed.answered_heads[slot.candidate]);
            slot.write_numbers(&mut out);
        }
        out.push(0x19);
        let joint: f64 = self.slots.iter().fold(1.0, |joint, slot| joint * slot.propensity());
        out.extend_from_slice(&joint.to_le_bytes());
        out.extend_from_slice(shared);
        field(&mut out, 0x5a, self.request_id);
        out
    }
}

/// The frames of the Events of Decisions that are appended at this time; see protos/framing.py and serving/decision_log.py.
pub fn log_frames<'a>(bodies: impl Iterator<Item = &'a Vec<u8>>, now_us: u64) -> Vec<u8> {
    let mut time = Vec::with_capacity(10);
    write_varint(&mut time, now_us);
    let mut out = Vec::new();
    for body in bodies {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; 8]);
        out.push(0x0a);
        write_varint(&mut out, (body.len() + 1 + time.len()) as u64);
        out.extend_from_slice(body);
        for tag in [0x38, 0x78] {
            out.push(tag);
            out.extend_from_slice(&time);
        }
        let length = ((out.len() - start - 12) as u32).to_le_bytes();
        let mut check = crc32fast::Hasher::new();
        check.update(&length);
        check.update(&out[start + 12..]);
        out[start + 4..start + 8].copy_from_slice(&length);
        out[start + 8..start + 12].copy_from_slice(&check.finalize().to_le_bytes());
    }
    out
}

/// The SelectBatchResponse of these SelectResponses.
pub fn batch_response<'a>(responses: impl Iterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let (mut out, mut begun) = (Vec::new(), Vec::with_capacity(8));
    for response in responses {
        begun.clear();
        begun.push(0x0a);
        write_varint(&mut begun, response.len() as u64);
        out.push(0x0a);
        write_varint(&mut out, (begun.len() + response.len()) as u64);
        out.extend_from_slice(&begun);
        out.extend_from_slice(response);
    }
    out
}

fn field(out: &mut Vec<u8>, tag: u8, data: &[u8]) {
    out.push(tag);
    write_varint(out, data.len() as u64);
    out.extend_from_slice(data);
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 127 {
        out.push((value & 127 | 128) as u8);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_below_2_to_64_are_written_in_groups_of_seven() {
        for (value, expected) in [(0, vec![0]), (127, vec![127]), (128, vec![128, 1]), (300, vec![0xac, 2])] {
            let mut out = Vec::new();
            write_varint(&mut out, value);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn the_results_of_a_batch_lie_in_each_other() {
        assert_eq!(batch_response([b"ab".to_vec(), Vec::new()].iter()), b"\x0a\x04\x0a\x02ab\x0a\x02\x0a\x00");
    }

    #[test]
    fn a_frame_has_magic_length_and_checksum() {
        let data = log_frames([b"body".to_vec()].iter(), 5);
        assert_eq!(&data[..8], b"SLR1\x0a\0\0\0");
        assert_eq!(&data[12..], b"\x0a\x06body\x38\x05\x78\x05");
    }
}

//! Plain requests, read from their bytes: the same requests that serving/plain.py takes.
//!
//! Whatever is not plain is None here, and is read by Python. Nothing is taken that Python would read otherwise or refuse.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

const TENANT: u8 = 0x0a;
const UNIT: u8 = 0x1a;
const REQUEST_ID: u8 = 0x22;
const CANDIDATES: u8 = 0x32;
const SLATE_SIZE: u8 = 0x40;
const ACTION: u8 = 0x0a;
const PACKED_FEATURES: u8 = 0x22;
/// A request in a SelectBatchRequest.
const REQUEST: u8 = 0x0a;
/// Candidate lists that are kept, and the longest that is.
const KEPT_LISTS: usize = 1024;
const KEPT_LENGTH: usize = 128;

/// Candidates as Python has worked them out once.
#[derive(Debug, PartialEq, Eq)]
pub struct Listed {
    /// The field `actions` of a CandidateSet.
    pub encoded: Vec<u8>,
    pub count: usize,
    /// Candidates of the compiled shape.
    pub width: usize,
    /// How the slot of each candidate begins, in a Decision and in a SelectResponse.
    pub logged_heads: Vec<Vec<u8>>,
    pub answered_heads: Vec<Vec<u8>>,
}

/// A task as its requests are read: what they must say, and what they leave out.
pub struct Task {
    /// How its requests begin.
    pub heads: Vec<Vec<u8>>,
    pub before_context: Vec<u8>,
    pub context_bytes: usize,
    pub behind_context: Vec<u8>,
    /// Bytes of the features of one candidate, and those of one that names none.
    pub feature_bytes: usize,
    pub default_features: Vec<u8>,
    /// The task's own catalogue with its features.
    pub own: Option<(Arc<Listed>, Vec<u8>)>,
    pub default_size: usize,
    pub max_slots: usize,
    pub max_candidates: usize,
    lists: HashMap<Vec<u8>, Option<Arc<Listed>>>,
}

/// Where the features of a request's candidates are.
#[derive(Debug, PartialEq, Eq)]
pub enum Features {
    Given(Range<usize>),
    Default,
    Own,
}

/// A plain request, as places in its bytes.
#[derive(Debug)]
pub struct Request {
    pub unit: Range<usize>,
    /// The id that its caller gave it.
    pub own_id: Option<Range<usize>>,
    pub context: Range<usize>,
    pub listed: Arc<Listed>,
    pub features: Features,
    pub slate_size: usize,
}

impl Task {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        heads: Vec<Vec<u8>>,
        before_context: Vec<u8>,
        context_bytes: usize,
        behind_context: Vec<u8>,
        default_features: Vec<u8>,
        own: Option<(Arc<Listed>, Vec<u8>)>,
        default_size: usize,
        max_slots: usize,
        max_candidates: usize,
    ) -> Self {
        let feature_bytes = default_features.len();
        let lists = HashMap::new();
        Task {
            heads,
            before_context,
            context_bytes,
            behind_context,
            feature_bytes,
            default_features,
            own,
            default_size,
            max_slots,
            max_candidates,
            lists,
        }
    }

    /// The request whose unit begins at `at`; None if it is not plain. `look_up` works out candidates that were not seen before.
    pub fn read(&mut self, data: &[u8], at: usize, look_up: &mut dyn FnMut(&[u8]) -> Option<Listed>) -> Option<Request> {
        if self.context_bytes == 0 || *data.get(at)? != UNIT {
            return None;
        }
        let unit = text(data, at)?;
        let own_id = if *data.get(unit.end)? == REQUEST_ID { Some(text(data, unit.end)?) } else { None };
        let mut at = own_id.as_ref().map_or(unit.end, |place| place.end);
        at = behind(data, at, &self.before_context)?;
        let context = at..at.checked_add(self.context_bytes)?;
        at = behind(data, context.end, &self.behind_context)?;
        let (listed, features) = if data.get(at) == Some(&CANDIDATES) {
            let (length, start) = varint(data, at + 1)?;
            at = start.checked_add(length)?;
            self.candidates(data, start..at, look_up)?
        } else {
            (self.own.as_ref()?.0.clone(), Features::Own)
        };
        let mut slate_size = self.default_size;
        if data.get(at) == Some(&SLATE_SIZE) {
            slate_size = *data.get(at + 1)? as usize;
            at += 2;
        }
        let plain = at == data.len() && (1..128).contains(&slate_size) && slate_size <= self.max_slots;
        let fits = slate_size <= listed.count && listed.count <= self.max_candidates;
        (plain && fits).then_some(Request { unit, own_id, context, listed, features, slate_size })
    }

    /// The features of a request's candidates.
    pub fn features<'a>(&'a self, request: &Request, data: &'a [u8]) -> std::borrow::Cow<'a, [u8]> {
        match &request.features {
            Features::Given(place) => data[place.clone()].into(),
            Features::Own => self.own.as_ref().map_or(&[][..], |own| &own.1).into(),
            Features::Default => self.default_features.repeat(request.listed.count).into(),
        }
    }

    fn candidates(
        &mut self,
        data: &[u8],
        place: Range<usize>,
        look_up: &mut dyn FnMut(&[u8]) -> Option<Listed>,
    ) -> Option<(Arc<Listed>, Features)> {
        let set = data.get(place.clone())?;
        let (mut stop, mut count) = (0, 0);
        while set.get(stop) == Some(&ACTION) {
            stop = text_place(set, stop)?.end;
            count += 1;
        }
        if count == 0 || count > KEPT_LENGTH {
            return None;
        }
        let listed = self.listed(&set[..stop], look_up)?;
        if stop == set.len() {
            return Some((listed, Features::Default));
        }
        let expected = self.feature_bytes * listed.count;
        if expected == 0 || set[stop] != PACKED_FEATURES {
            return None;
        }
        let (length, start) = varint(set, stop + 1)?;
        let whole = length == expected && start + length == set.len();
        whole.then(|| (listed, Features::Given(place.start + start..place.end)))
    }

    fn listed(&mut self, encoded: &[u8], look_up: &mut dyn FnMut(&[u8]) -> Option<Listed>) -> Option<Arc<Listed>> {
        if let Some(found) = self.lists.get(encoded) {
            return found.clone();
        }
        if self.lists.len() >= KEPT_LISTS {
            self.lists.clear();
        }
        let found = look_up(encoded).map(Arc::new);
        self.lists.insert(encoded.to_vec(), found.clone());
        found
    }
}

/// Where the name of a request's task ends: the bytes before it tell the task.
pub fn head_end(data: &[u8]) -> Option<usize> {
    let at = if data.first() == Some(&TENANT) { text_place(data, 0)?.end } else { 0 };
    Some(text_place(data, at)?.end)
}

/// Where the requests of a serialised SelectBatchRequest lie; None where there is anything else in it.
pub fn spans(data: &[u8]) -> Option<Vec<Range<usize>>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < data.len() {
        if data[at] != REQUEST {
            return None;
        }
        let (length, start) = varint(data, at + 1)?;
        at = start + length;
        found.push(start..at);
    }
    (at == data.len()).then_some(found)
}

fn behind(data: &[u8], at: usize, expected: &[u8]) -> Option<usize> {
    data.get(at..)?.starts_with(expected).then_some(at + expected.len())
}

/// The text of the field at `at`: one to 127 bytes of UTF-8 without NUL.
fn text(data: &[u8], at: usize) -> Option<Range<usize>> {
    let place = text_place(data, at)?;
    let found = &data[place.clone()];
    (!found.is_empty() && !found.contains(&0) && std::str::from_utf8(found).is_ok()).then_some(place)
}

/// The place of a text of less than 128 bytes.
fn text_place(data: &[u8], at: usize) -> Option<Range<usize>> {
    let size = *data.get(at + 1)? as usize;
    (size < 128 && at + 2 + size <= data.len()).then_some(at + 2..at + 2 + size)
}

/// A number below 2^28 in as few bytes as it takes, and the place behind it.
fn varint(data: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut value = 0;
    for place in 0..4 {
        let group = *data.get(at + place)? as usize;
        value |= (group & 127) << (7 * place);
        if group < 128 {
            return (group != 0 || place == 0).then_some((value, at + place + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shop() -> Task {
        Task::new(vec![b"\x12\x04shop".to_vec()], b"\x2a\x0c\x12\x08".to_vec(), 8, b"\x1a\x00".to_vec(), vec![0; 4], None, 1, 2, 8)
    }

    fn listed(encoded: &[u8]) -> Option<Listed> {
        let count = encoded.iter().filter(|byte| **byte == 1).count();
        Some(Listed { encoded: encoded.to_vec(), count, width: 8, logged_heads: Vec::new(), answered_heads: Vec::new() })
    }

    const SOUND: &[u8] = b"\x12\x04shop\x1a\x01u\x2a\x0c\x12\x0812345678\x1a\x00\x32\x10\x0a\x01a\x0a\x01b\x22\x08abcdefgh\x40\x02";

    #[test]
    fn a_plain_request_is_read() {
        let at = head_end(SOUND).unwrap();
        assert_eq!(&SOUND[..at], b"\x12\x04shop");
        let request = shop().read(SOUND, at, &mut listed).unwrap();
        assert_eq!((&SOUND[request.unit], &SOUND[request.context]), (&b"u"[..], &b"12345678"[..]));
        let Features::Given(place) = request.features else { panic!() };
        assert_eq!((&SOUND[place], request.slate_size, request.listed.count), (&b"abcdefgh"[..], 2, 2));
    }

    #[test]
    fn what_is_cut_anywhere_is_not_plain() {
        // Without the slate size, or with the features left out, it is plain again.
        let plain: Vec<usize> = (0..SOUND.len()).filter(|end| read(&SOUND[..*end])).collect();
        assert_eq!(plain, [SOUND.len() - 2]);
    }

    #[test]
    fn a_request_may_have_an_id_of_its_own() {
        let named = [&SOUND[..9], b"\x22\x03r-1", &SOUND[9..]].concat();
        let request = shop().read(&named, head_end(&named).unwrap(), &mut listed).unwrap();
        assert_eq!(&named[request.own_id.unwrap()], b"r-1");
        for bad in [&b"\x22\x00"[..], b"\x22\x01\x00", b"\x22\x01\xff"] {
            assert!(!read(&[&SOUND[..9], bad, &SOUND[9..]].concat()), "{bad:?}");
        }
    }

    #[test]
    fn a_batch_is_told_apart_or_not_at_all() {
        assert_eq!(spans(b"\x0a\x02ab\x0a\x00\x0a\x01c").unwrap(), [2..4, 6..6, 8..9]);
        for bad in [&b"\x0a\x03ab"[..], b"\x0a", b"\x12\x00", b"\x0a\x80\x00"] {
            assert_eq!(spans(bad), None, "{bad:?}");
        }
    }

    fn read(data: &[u8]) -> bool {
        head_end(data).is_some_and(|at| shop().read(data, at, &mut listed).is_some())
    }

    proptest! {
        #[test]
        fn noise_never_breaks_the_reader(place in 0usize..SOUND.len(), noise in proptest::collection::vec(any::<u8>(), 0..6), rest in 0usize..SOUND.len()) {
            let data = [&SOUND[..place], &noise, &SOUND[rest..]].concat();
            let _ = read(&data);
        }

        #[test]
        fn a_byte_of_the_frame_that_differs_is_not_taken_for_another(place in 0usize..SOUND.len(), byte in any::<u8>()) {
            let mut data = SOUND.to_vec();
            data[place] = byte;
            let mut task = shop();
            if let Some(request) = head_end(&data).and_then(|at| task.read(&data, at, &mut listed)) {
                prop_assert!(request.context.len() == 8 && request.slate_size <= request.listed.count);
            }
        }
    }
}

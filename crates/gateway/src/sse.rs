//! Server-sent events on their way through. Whole events are passed on as they came; what is not
//! whole yet is kept back, so that an answer that breaks off can be said to be broken without half
//! an event before it. Left out is what the clients of OpenAI's API stumble over: `id` and `retry`
//! lines, and events without data.

use bytes::{Bytes, BytesMut};

/// An event that is longer is passed on in pieces.
const EVENT_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Events {
    tail: BytesMut,
    is_done: bool,
    /// In the middle of one that is too long to keep back.
    is_long: bool,
}

/// What the lines of an event have been so far.
#[derive(Default)]
struct Lines {
    has_data: bool,
    has_comment: bool,
    is_done: bool,
    /// Parts without the lines that are left out.
    kept: Vec<(usize, usize)>,
    is_whole: bool,
}

impl Events {
    /// The whole events among what came before and `chunk`.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        let buffer = if self.tail.is_empty() {
            chunk
        } else {
            self.tail.extend_from_slice(&chunk);
            self.tail.split().freeze()
        };
        let mut passed = Passed::default();
        let mut from = 0;
        while let Some((lines, end)) = self.event(&buffer, from) {
            if self.is_long {
                passed.keep(from, end);
            } else if lines.has_data || lines.has_comment {
                match lines.is_whole {
                    true => passed.keep(from, end),
                    false => lines.kept.iter().for_each(|(from, to)| passed.keep(*from, *to)),
                }
            }
            self.is_done |= lines.is_done;
            self.is_long = false;
            from = end;
        }
        if buffer.len() - from > EVENT_BYTES_MAX || self.is_long {
            self.is_long = true;
            passed.keep(from, buffer.len());
            from = buffer.len();
        }
        self.tail.extend_from_slice(&buffer[from..]);
        passed.of(&buffer)
    }

    /// Whether the last event of a chat or a completion has come.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether what was passed on ends with a whole event.
    pub fn is_between_events(&self) -> bool {
        !self.is_long
    }

    /// The event that begins there, with its end; `None` while it is not whole.
    fn event(&self, buffer: &[u8], from: usize) -> Option<(Lines, usize)> {
        let mut lines = Lines { is_whole: true, ..Lines::default() };
        let mut start = from;
        loop {
            let (end, next) = line(buffer, start)?;
            let text = &buffer[start..end];
            let is_end = text.is_empty();
            if !is_end && is_left_out(text) && !self.is_long {
                lines.is_whole = false;
            } else {
                lines.kept.push((start, next));
            }
            lines.has_comment |= text.first() == Some(&b':');
            lines.has_data |= field(text) == b"data";
            lines.is_done |= matches!(text, b"data: [DONE]" | b"data:[DONE]");
            start = next;
            if is_end {
                return Some((lines, next));
            }
        }
    }
}

/// The end of the line that begins there, and the begin of the next. A carriage return at the very
/// end may be half of a line's end.
fn line(buffer: &[u8], from: usize) -> Option<(usize, usize)> {
    let length = buffer[from..].iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
    let end = from + length;
    match (buffer[end], buffer.get(end + 1)) {
        (b'\r', None) => None,
        (b'\r', Some(b'\n')) => Some((end, end + 2)),
        _ => Some((end, end + 1)),
    }
}

fn field(line: &[u8]) -> &[u8] {
    line.split(|byte| *byte == b':').next().unwrap_or_default()
}

fn is_left_out(line: &[u8]) -> bool {
    matches!(field(line), b"id" | b"retry")
}

/// Ranges of a buffer, joined where they meet.
#[derive(Default)]
struct Passed(Vec<(usize, usize)>);

impl Passed {
    fn keep(&mut self, from: usize, to: usize) {
        match self.0.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ if from < to => self.0.push((from, to)),
            _ => {}
        }
    }

    /// Without a copy where it is one range.
    fn of(self, buffer: &Bytes) -> Bytes {
        match self.0.as_slice() {
            [] => Bytes::new(),
            [(from, to)] => buffer.slice(*from..*to),
            ranges => {
                let mut joined = BytesMut::with_capacity(buffer.len());
                ranges.iter().for_each(|(from, to)| joined.extend_from_slice(&buffer[*from..*to]));
                joined.freeze()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Passed on whole, byte by byte, and in pieces of every length.
    fn check(given: &[u8], expected: &[u8]) -> Events {
        let mut last = Events::default();
        for size in (1..=given.len().max(1)).rev() {
            let mut events = Events::default();
            let mut passed = Vec::new();
            for chunk in given.chunks(size) {
                passed.extend_from_slice(&events.push(Bytes::copy_from_slice(chunk)));
            }
            let shown = String::from_utf8_lossy(&passed).into_owned();
            assert_eq!(passed, expected, "in pieces of {size}: {shown:?}");
            last = events;
        }
        last
    }

    #[test]
    fn whole_events_are_passed_on_as_they_came() {
        let chat = b"data: {\"a\":1}\n\ndata: {\"b\":2}\r\n\r\n: ping\n\nevent: x\ndata: y\r\r";
        let events = check(chat, &chat[..chat.len() - b"event: x\ndata: y\r\r".len()]);
        assert!(!events.is_done(), "the last return may be half of a line's end");
        let done = check(b"data: 1\n\ndata: [DONE]\n\n", b"data: 1\n\ndata: [DONE]\n\n");
        assert!(done.is_done());
        assert!(check(b"data:[DONE]\r\n\r\n", b"data:[DONE]\r\n\r\n").is_done());
        assert!(!check(b"data: [DONE] not yet\n\n", b"data: [DONE] not yet\n\n").is_done());
    }

    #[test]
    fn what_is_not_whole_is_kept_back() {
        let events = check(b"data: 1\n\ndata: {\"half", b"data: 1\n\n");
        assert!(events.is_between_events());
        check(b"data: 1\n", b"");
        check(b"", b"");
    }

    #[test]
    fn what_clients_stumble_over_is_left_out() {
        check(b"retry: 10\n\ndata: 1\n\n", b"data: 1\n\n");
        check(b"id: 7\ndata: 1\nretry: 3\n\n", b"data: 1\n\n");
        check(b"event: only\n\n\n\ndata: 1\n\n", b"data: 1\n\n");
        check(b"id: 7\n: ping\n\n", b": ping\n\n");
        check(b"identity: 7\ndata: 1\n\n", b"identity: 7\ndata: 1\n\n");
    }

    #[test]
    fn an_event_that_is_too_long_is_passed_on_in_pieces() {
        let mut events = Events::default();
        let long = vec![b'x'; EVENT_BYTES_MAX];
        assert_eq!(events.push(Bytes::from_static(b"data: ")).len(), 0);
        let passed = events.push(Bytes::from(long.clone()));
        assert_eq!(passed.len(), long.len() + 6);
        assert!(!events.is_between_events());
        assert_eq!(events.push(Bytes::from_static(b"yy")), Bytes::from_static(b"yy"));
        let rest = Bytes::from_static(b"z\n\ndata: 1\n\n");
        assert_eq!(events.push(rest.clone()), rest);
        assert!(events.is_between_events());
    }

    #[test]
    fn events_that_need_no_change_are_not_copied() {
        let chunk = Bytes::from_static(b"data: 1\n\ndata: 2\n\n");
        let passed = Events::default().push(chunk.clone());
        assert_eq!(passed.as_ptr(), chunk.as_ptr());
    }

    /// What a stream may consist of, and what it should not.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let known = prop::sample::select(vec![
            &b"data: {\"a\": 1}"[..],
            b"data:",
            b"data: [DONE]",
            b"data:[DONE]",
            b"data",
            b"id: 7",
            b"id",
            b"retry: 10",
            b"retry",
            b"event: x",
            b": ping",
            b":",
            b" id: 7",
            b"identity: 7",
            b"\xef\xbb\xbf",
        ]);
        let ends =
            prop::sample::select(vec![&b"\n"[..], b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n"]);
        prop_oneof![
            4 => known.prop_map(<[u8]>::to_vec),
            6 => ends.prop_map(<[u8]>::to_vec),
            1 => prop::collection::vec(any::<u8>(), 0..6),
        ]
    }

    /// The lines of a stream with their ends, as its rules have them; what has none comes last.
    fn lines(stream: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let (mut lines, mut text) = (Vec::new(), Vec::new());
        let mut bytes = stream.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            let end = match byte {
                b'\n' => b"\n".to_vec(),
                b'\r' if bytes.next_if_eq(&b'\n').is_some() => b"\r\n".to_vec(),
                // Half of an end, as far as anybody knows.
                b'\r' if bytes.peek().is_none() => Vec::new(),
                b'\r' => b"\r".to_vec(),
                _ => {
                    text.push(byte);
                    continue;
                }
            };
            lines.push((std::mem::take(&mut text), end));
        }
        lines.push((text, Vec::new()));
        lines
    }

    /// What is to be passed on of a stream.
    fn expected(stream: &[u8]) -> Vec<u8> {
        let (mut passed, mut event, mut says) = (Vec::new(), Vec::new(), false);
        for (text, end) in lines(stream) {
            if end.is_empty() {
                break;
            }
            let name = text.split(|byte| *byte == b':').next().unwrap();
            says |= name == b"data" || text.starts_with(b":");
            if name != b"id" && name != b"retry" {
                event.extend_from_slice(&text);
                event.extend_from_slice(&end);
            }
            if text.is_empty() {
                let whole = std::mem::take(&mut event);
                passed.extend(if std::mem::take(&mut says) { whole } else { Vec::new() });
            }
        }
        passed
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// Whatever a worker says, and wherever the network cuts it.
        #[test]
        fn any_stream_is_passed_on_by_the_rules_however_it_is_cut(
            pieces in prop::collection::vec(piece(), 0..40),
            cuts in prop::collection::vec(1..20_usize, 1..60),
        ) {
            let stream = pieces.concat();
            let mut events = Events::default();
            let mut passed = Vec::new();
            let (mut rest, mut cuts) = (stream.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                passed.extend_from_slice(&events.push(Bytes::copy_from_slice(chunk)));
                rest = after;
            }
            let expected = expected(&stream);
            prop_assert_eq!(&passed, &expected, "{:?}", String::from_utf8_lossy(&stream));
            let done = [&b"data: [DONE]"[..], b"data:[DONE]"];
            let says_done = lines(&expected).iter().any(|(text, _)| done.contains(&text.as_slice()));
            prop_assert_eq!(events.is_done(), says_done);
        }
    }
}

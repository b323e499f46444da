//! Server-sent events, as far as meshd uses them: `id`, `data` and comments.

use std::io::{self, BufRead, Read as _};

/// Longest line that is read: an event holds one record, whose payload is bounded far below this.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Reads the data of events off a stream, one by one. What is unfinished when the stream ends is dropped, as the
/// format demands.
#[derive(Debug)]
pub(crate) struct EventReader<R> {
    stream: R,
    last_id: Option<String>,
}

impl<R: BufRead> EventReader<R> {
    /// Starts at the beginning of a stream.
    pub(crate) fn new(stream: R) -> Self {
        Self {
            stream,
            last_id: None,
        }
    }

    /// What to resume after. It moves with events, and without them when meshd says that nothing of ours was in between.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The next line without its end; `None` at the end of the stream.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        (&mut self.stream)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        if line.pop_if(|last| *last == b'\n').is_none() {
            return if line.len() as u64 == LINE_BYTES_MAX {
                Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "an event is longer than 4 MiB",
                ))
            } else {
                Ok(None)
            };
        }
        line.pop_if(|last| *last == b'\r');
        String::from_utf8(line)
            .map(Some)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "an event is not UTF-8"))
    }

    fn event(&mut self) -> io::Result<Option<String>> {
        let mut id = None;
        let mut data: Option<String> = None;
        while let Some(line) = self.line()? {
            if line.is_empty() {
                self.last_id = id.take().or(self.last_id.take());
                match data.take() {
                    Some(data) => return Ok(Some(data)),
                    None => continue,
                }
            }
            // A line without a colon is a field without a value; a line that begins with one is a comment.
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => id = Some(value.to_owned()),
                "data" => match &mut data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => data = Some(value.to_owned()),
                },
                _ => {}
            }
        }
        Ok(None)
    }
}

impl<R: BufRead> Iterator for EventReader<R> {
    type Item = io::Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.event().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stream: &str, expected: &[&str], last_id: Option<&str>) {
        let mut reader = EventReader::new(stream.as_bytes());
        let events: Vec<String> = reader.by_ref().map(Result::unwrap).collect();
        assert_eq!(events, expected);
        assert_eq!(reader.last_id(), last_id);
    }

    #[test]
    fn events_are_read_with_their_ids() {
        check(
            "id: 7\ndata: {\"a\":1}\n\ndata:two\n\n",
            &["{\"a\":1}", "two"],
            Some("7"),
        );
    }

    #[test]
    fn comments_other_fields_and_line_ends_do_not_matter() {
        check(
            ": ping\r\n\r\nretry: 1\r\nid: 1\r\ndata: a\r\ndata: b\r\n\r\n",
            &["a\nb"],
            Some("1"),
        );
    }

    #[test]
    fn an_unfinished_event_is_dropped_with_its_id() {
        check(
            "id: 1\ndata: whole\n\nid: 2\ndata: half\n",
            &["whole"],
            Some("1"),
        );
        check("data: whole\n\ndata: ha", &["whole"], None);
    }

    #[test]
    fn a_ping_moves_the_place_to_resume_from() {
        check("id: 1\ndata: x\n\n: ping\nid: 5\n\n", &["x"], Some("5"));
    }

    #[test]
    fn an_endless_line_is_an_error() {
        let endless = io::BufReader::new(io::repeat(b'x'));
        let error = EventReader::new(endless).next().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
